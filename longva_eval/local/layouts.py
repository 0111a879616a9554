"""What a local copy of a benchmark consists of: `tasks/*/layout.json`, read and checked.

`layout.json` maps a name (for `longva-eval prepare NAME`) to

    tasks       ids of the tasks, ours and the host's, that read this data
    dataset     id on the hub; config: its configuration or null; split; revision: commit or null
    num_rows    rows that a whole copy has, or null
    columns     columns that must be there
    unique      column, or list of columns, whose values must differ from row to row, or null
    options     column with the list of options (or list of columns, one an option), or null
    answer      column that must not be empty, or null (optional key)
    answer_form "text" (default), "letter" within the options, or "index" of an option, from 0
    rows        glob patterns of the files of rows, if their columns do not tell them (optional)
    images      columns that hold pictures, of which every row has the first (optional)
    media       files that the rows name, each with
                  kind      "video", "subtitle" or "picture"
                  name      format string over the row's columns: "{videoID}", "{folder}/{video}"
                  suffixes  that the host looks for, in its order; [] if the name has its own
                  folder    where they go, below HF_HOME
                  required  false for what not every row has, such as subtitles
    source      where to get it; license: under which terms
    note        a sentence for people (optional)

No torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longva_eval.errors import DataError
from longva_eval.local.files import checked_name

__all__ = ["Layout", "MediaKind", "MediaLayout", "find_layouts", "read_layouts"]

MediaKind = Literal["video", "subtitle", "picture"]
_FIELD = re.compile(r"\{(\w+)\}")
_TYPES = {
    "tasks": "texts", "dataset": "text", "config": "text or null", "split": "text",
    "revision": "text or null", "num_rows": "number or null", "columns": "texts",
    "unique": "text, texts or null", "options": "text, texts or null", "media": "objects",
    "source": "text", "license": "text", "answer": "text or null", "answer_form": "text",
    "rows": "texts", "images": "texts", "note": "text",
}  # fmt: skip
_MEDIA_TYPES = {
    "kind": "text", "name": "text", "suffixes": "texts", "folder": "text", "required": "truth",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MediaLayout:
    """Files of one kind that the rows of a data set name."""

    kind: MediaKind
    name: str
    suffixes: tuple[str, ...]
    folder: str
    required: bool = True

    @property
    def columns(self) -> list[str]:
        """The columns the name is made of."""
        return _FIELD.findall(self.name)

    def file_name(self, row: Mapping[str, Any]) -> str:
        """The name a row gives, empty if one of its columns is."""
        cells = {column: str(row.get(column) or "").strip() for column in self.columns}
        return _FIELD.sub(lambda m: cells[m[1]], self.name) if all(cells.values()) else ""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a copy of a data set consists of; the fields are those of `layout.json`, see above."""

    name: str
    tasks: tuple[str, ...]
    dataset: str
    config: str | None
    split: str
    revision: str | None
    num_rows: int | None
    columns: tuple[str, ...]
    unique: tuple[str, ...]
    options: tuple[str, ...]
    options_in_one_column: bool
    answer: str | None
    answer_form: Literal["text", "letter", "index"]
    rows: tuple[str, ...]
    images: tuple[str, ...]
    media: tuple[MediaLayout, ...]
    source: str
    license: str
    note: str

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Every column that something here refers to."""
        names = [*self.columns, *self.unique, *self.options, *self.images]
        names += [self.answer] if self.answer else []
        names += [column for media in self.media for column in media.columns]
        return tuple(dict.fromkeys(names))


def read_layouts(folder: Path | None = None) -> dict[str, Layout]:
    """All layouts, by name.

    Args:
        folder: A folder of task folders; ours by default.

    Raises:
        DataError: If a `layout.json` is not as described at the top, or a name is taken twice.
    """
    if folder is None:
        from longva_eval.embedded import tasks_folder

        folder = tasks_folder()
    layouts: dict[str, Layout] = {}
    for path in sorted(folder.glob("*/layout.json")):
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(entries, dict):
            raise DataError(f"{path} is no object with a layout for each name.")
        for name, entry in entries.items():
            if name in layouts:
                raise DataError(f"{path}: another layout is called {name!r} already.")
            layouts[name] = _parse_layout(name, entry, path)
    return layouts


def find_layouts(name: str, layouts: Mapping[str, Layout] | None = None) -> list[Layout]:
    """The layout of a name, or all that a task of that id reads.

    Raises:
        DataError: If there is none; the message lists what there is.
    """
    known = read_layouts() if layouts is None else layouts
    if name in known:
        return [known[name]]
    found = [layout for layout in known.values() if name in layout.tasks]
    if not found:
        raise DataError(
            f"There is no layout of local data called {name!r}, nor one for a task of that id. "
            f"There are: {', '.join(sorted(known)) or 'none'}."
        )
    return found


def _parse_layout(name: str, entry: Any, path: Path) -> Layout:
    where = f"{path}: {name!r}"
    required = {"tasks", "dataset", "config", "split", "revision", "num_rows", "columns"}
    required |= {"unique", "options", "media", "source", "license"}
    optional = {"answer", "answer_form", "rows", "images", "note"}
    _check_keys(entry, required, optional, where)
    _check_types(entry, _TYPES, where)
    for part in (name, entry["split"], entry["config"]):
        if part is not None and (checked_name(part) is not None or "/" in part or part == "."):
            raise DataError(f"{where}: {part!r} cannot be the name of a file.")
    if checked_name(entry["dataset"]) is not None:
        raise DataError(f"{where}: {entry['dataset']!r} is no id of the hub.")
    media = []
    for number, item in enumerate(entry["media"]):
        place = f"{where}, media {number}"
        _check_keys(item, {"kind", "name", "suffixes", "folder"}, {"required"}, place)
        _check_types(item, _MEDIA_TYPES, place)
        if item["kind"] not in ("video", "subtitle", "picture"):
            raise DataError(f"{where}: {item['kind']!r} is none of video, subtitle, picture.")
        if checked_name(item["folder"]) is not None:
            raise DataError(f"{where}: the folder {item['folder']!r} is not below HF_HOME.")
        media.append(MediaLayout(**{**item, "suffixes": tuple(item["suffixes"])}))
    if entry.get("answer_form", "text") not in ("text", "letter", "index"):
        raise DataError(f"{where}: answer_form is one of text, letter, index.")
    return Layout(
        name=name,
        tasks=tuple(entry["tasks"]),
        dataset=entry["dataset"],
        config=entry["config"],
        split=entry["split"],
        revision=entry["revision"],
        num_rows=entry["num_rows"],
        columns=tuple(entry["columns"]),
        unique=_names(entry["unique"]),
        options=_names(entry["options"]),
        options_in_one_column=isinstance(entry["options"], str),
        answer=entry.get("answer"),
        answer_form=entry.get("answer_form", "text"),
        rows=tuple(entry.get("rows", ())),
        images=tuple(entry.get("images", ())),
        media=tuple(media),
        source=entry["source"],
        license=entry["license"],
        note=entry.get("note", ""),
    )


def _check_keys(entry: Any, required: set[str], optional: set[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise DataError(f"{where} is not an object.")
    missing, unknown = required - set(entry), set(entry) - required - optional
    if missing or unknown:
        parts = [f"lacks {', '.join(sorted(missing))}"] if missing else []
        parts += [f"has the unknown {', '.join(sorted(unknown))}"] if unknown else []
        raise DataError(f"{where} {' and '.join(parts)}.")


def _check_types(entry: Mapping[str, Any], types: Mapping[str, str], where: str) -> None:
    for name, wanted in types.items():
        if name in entry and not any(
            _is(entry[name], kind) for kind in re.split(", | or ", wanted)
        ):
            raise DataError(f"{where}: {name} is {entry[name]!r:.60} instead of {wanted}.")


def _is(value: Any, kind: str) -> bool:
    if kind in ("texts", "objects"):
        inner: type = str if kind == "texts" else dict
        return isinstance(value, list) and all(isinstance(part, inner) for part in value)
    if kind == "number":
        return isinstance(value, int) and not isinstance(value, bool)
    kinds: dict[str, type] = {"text": str, "null": type(None), "truth": bool}
    return isinstance(value, kinds[kind])


def _names(value: Any) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)
