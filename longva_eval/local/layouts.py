"""What a local copy of a benchmark consists of: `tasks/*/layout.json`, read and checked.

`layout.json` maps a name (for `longva-eval prepare NAME`) to the fields of `Layout`. No torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from longva_eval.errors import DataError, nearest
from longva_eval.host.names import task_leaves

__all__ = [
    "Layout",
    "MediaKind",
    "MediaLayout",
    "checked_name",
    "fetch_hint",
    "find_layouts",
    "read_layouts",
]

MediaKind = Literal["video", "subtitle", "picture"]
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class MediaLayout:
    """Files of one kind that the rows of a data set name."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    kind: MediaKind
    name: str
    """Format string over the row's columns: `{videoID}`, `{folder}/{video}`."""
    suffixes: tuple[str, ...]
    """That the host looks for, in its order; none if the name has its own."""
    folder: str
    """Where they go, below HF_HOME."""
    required: bool = True
    """False for what not every row has, such as subtitles."""

    def __post_init__(self) -> None:
        if checked_name(self.folder) is not None:
            raise ValueError(f"the folder {self.folder!r} is not below HF_HOME")

    @property
    def columns(self) -> list[str]:
        """The columns the name is made of."""
        return _FIELD.findall(self.name)

    def file_name(self, row: Mapping[str, Any]) -> str:
        """The name a row gives, empty if one of its columns is."""
        cells = {column: str(row.get(column) or "").strip() for column in self.columns}
        return _FIELD.sub(lambda m: cells[m[1]], self.name) if all(cells.values()) else ""

    def spellings(self, name: str) -> list[str]:
        """The file names a row's name can stand for, best first."""
        if not self.suffixes or name.lower().endswith(tuple(s.lower() for s in self.suffixes)):
            return [name]
        return [name + suffix for suffix in self.suffixes]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a copy of a data set consists of."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    """Key of the entry."""
    file: Path
    """The `layout.json` it stands in; the tasks' YAML files lie beside it."""
    tasks: tuple[str, ...]
    """Ids of the tasks, ours and the host's, that read this data."""
    dataset: str
    """Id on the hub."""
    config: str | None
    """Its configuration."""
    split: str
    revision: str | None
    """Commit that published numbers and our checks are for."""
    num_rows: int | None
    """Rows that a whole copy has."""
    columns: tuple[str, ...]
    """That must be there."""
    unique: tuple[str, ...]
    """Columns that together are a question's id."""
    rows: tuple[str, ...] = ()
    """Glob patterns of the files of rows, where their columns do not tell them."""
    images: tuple[str, ...] = ()
    """Columns that hold pictures."""
    media: tuple[MediaLayout, ...]
    source: str
    """Where to get it."""
    license: str
    note: str = ""

    def __post_init__(self) -> None:
        for part in (self.name, self.split, self.config):
            if part is not None and (checked_name(part) is not None or "/" in part or part == "."):
                raise ValueError(f"{part!r} cannot be the name of a file")
        if checked_name(self.dataset) is not None:
            raise ValueError(f"{self.dataset!r} is no id of the hub")

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Every column that something here refers to."""
        media = [column for part in self.media for column in part.columns]
        return tuple(dict.fromkeys([*self.columns, *self.unique, *self.images, *media]))


def read_layouts(folder: Path | None = None) -> dict[str, Layout]:
    """All layouts, by name.

    Args:
        folder: A folder of task folders; ours by default.

    Raises:
        DataError: If a `layout.json` does not hold what `Layout` has, or a name is taken twice.
    """
    if folder is None:
        from longva_eval.embedded import tasks_folder

        folder = tasks_folder()
    layouts: dict[str, Layout] = {}
    adapter = TypeAdapter(Layout)
    for path in sorted(folder.glob("*/layout.json")):
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
            raise DataError(f"{path} is no object with a layout for each name.")
        for name, entry in entries.items():
            if name in layouts:
                raise DataError(f"{path}: another layout is called {name!r} already.")
            try:
                layouts[name] = adapter.validate_python({**entry, "name": name, "file": path})
            except ValidationError as error:
                problems = [
                    ".".join(str(part) for part in problem["loc"]) + f": {problem['msg']}"
                    for problem in error.errors()
                ]
                raise DataError(f"{path}: {name!r}: {'; '.join(problems)}.") from error
    return layouts


def find_layouts(name: str, layouts: Mapping[str, Layout] | None = None) -> list[Layout]:
    """The layout of a name, or all that a task or group of that id reads.

    Raises:
        DataError: If there is none; the message lists what there is.
    """
    known = read_layouts() if layouts is None else layouts
    if name in known:
        return [known[name]]
    members = set(task_leaves(name))
    found = [layout for layout in known.values() if members & set(layout.tasks)]
    if not found:
        raise DataError(
            f"There is no layout of local data called {name!r}, nor one for a task of that id."
            f"{nearest(name, known)} There are: {', '.join(sorted(known)) or 'none'}."
        )
    return found


def checked_name(name: str) -> str | None:
    """What is wrong with a name that a row gives to a file, or None.

    It becomes a path below a folder of ours and must not lead out of it.
    """
    if not name.strip():
        return "is empty"
    if "\0" in name or "\\" in name:
        return "holds a backslash or a zero byte"
    if name.startswith(("/", "~")) or re.match(r"^[A-Za-z]:", name):
        return "is an absolute path"
    if ".." in PurePosixPath(name).parts:
        return "leads out of its folder (..)"
    return None


def fetch_hint(tasks: Sequence[str]) -> str:
    """How the data of these tasks comes to where there is no network."""
    names = [name for name, layout in read_layouts().items() if set(tasks) & set(layout.tasks)]
    commands = "; ".join(f"longva-eval prepare {name} --from DIR" for name in names or ["NAME"])
    return (
        f"If a task's data is not here: {commands}. "
        f"What else is missing: longva-eval doctor --tasks {','.join(tasks)}"
    )
