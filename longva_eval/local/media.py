"""The media of a local copy: found by the names that rows give, put into place, and looked into.

On disk first, then in archives. A file of the same name in another folder is taken only if the name
can mean no other file. Videos are probed, pictures opened, subtitles read: what cannot be read is
as good as missing, and its reason is kept. No torch.
"""

from __future__ import annotations

import concurrent.futures
import filecmp
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from longva_eval.errors import DataError, EvaluationError
from longva_eval.local.layouts import MediaKind, MediaLayout, checked_name
from longva_eval.local.sources import Found, SourceFiles

__all__ = ["Media", "find_media", "look_into"]


@dataclass
class Media:
    """The files of one kind that the rows name, and what became of each name."""

    layout: MediaLayout
    rows_of: dict[str, list[int]] = field(default_factory=dict)
    """Name -> numbers of the rows that give it."""
    found: dict[str, Found] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Name -> why; a subset of `found`."""

    @property
    def num_named(self) -> int:
        """Different files that the rows name."""
        return len(self.rows_of)

    @property
    def num_found(self) -> int:
        """Of these, found and readable."""
        return len(self.found) - len(self.unreadable)

    @property
    def missing(self) -> list[str]:
        return [name for name in self.rows_of if name not in self.found]

    @property
    def is_whole(self) -> bool:
        return not self.unreadable and not (self.layout.required and self.missing)

    def lacking_rows(self) -> set[int]:
        """Numbers of the rows that cannot be asked for want of these files."""
        if not self.layout.required:
            return set()
        return {n for name in (*self.missing, *self.unreadable) for n in self.rows_of[name]}

    def targets(self, hf_home: Path) -> dict[str, Path]:
        """Where each readable file goes, by name."""
        base = hf_home / self.layout.folder
        targets = {}
        for name, found in self.found.items():
            if name not in self.unreadable:
                suffix = found.location.name.removeprefix(PurePosixPath(name).name)
                targets[name] = base / (name + suffix)
                parent = targets[name].parent
                if not parent.resolve().is_relative_to(base.resolve()):
                    raise DataError(f"{parent} is a link that leads out of {base}; remove it.")
        return targets


def find_media(
    layout: MediaLayout,
    rows: Sequence[Mapping[str, Any]],
    places: Sequence[str],
    files: SourceFiles,
    problems: dict[str, list[str]],
) -> Media:
    """Find, by name, the files that the rows name; on disk first, then in archives.

    Args:
        layout: What is looked for.
        rows: That name it.
        places: How a message calls each row.
        files: Where it is looked for.
        problems: Gets what is wrong, by kind.
    """
    media = Media(layout)
    for number, row in enumerate(rows):
        name = layout.file_name(row)
        wrong = checked_name(name) if name else None
        if wrong:
            problems.setdefault("Names of media that are not safe", []).append(
                f"{places[number]}: {name!r} {wrong}"
            )
        elif name:
            media.rows_of.setdefault(name, []).append(number)
        elif layout.required:
            problems.setdefault(f"Rows that name no {layout.kind}", []).append(places[number])
    # A file in another folder will do only if its name cannot mean another one.
    base_names = Counter(PurePosixPath(name).name for name in media.rows_of)
    for in_archives in (False, True):
        if in_archives and media.missing:
            files.open_archives()
        for name in media.missing:
            any_folder = base_names[PurePosixPath(name).name] == 1
            candidates = files.find(layout.spellings(name), any_folder=any_folder)
            if not candidates:
                continue
            media.found[name] = first = candidates[0]
            if not all(_is_same(first, other) for other in candidates[1:]):
                problems.setdefault(
                    "Media that are there several times with different content", []
                ).append(f"{name}: {', '.join(str(c) for c in candidates[:5])}")
    return media


def _is_same(one: Found, other: Found) -> bool:
    on_disk = one.member is None and other.member is None
    return on_disk and filecmp.cmp(one.path, other.path, shallow=False)


def look_into(media: Media, hf_home: Path, placed: set[Path], *, whole: bool) -> None:
    """Note the files that cannot be read, and take those that were put into place away again.

    Args:
        media: What was found.
        hf_home: Where it was put.
        placed: Files that were put there just now.
        whole: Read them; else only empty files are noted.
    """
    targets = media.targets(hf_home)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        looked = pool.map(lambda path: _problem(media.layout.kind, path, whole), targets.values())
        bar = tqdm(looked, f"{media.layout.kind}s", len(targets), leave=False, disable=None)
        for (name, target), problem in zip(targets.items(), bar, strict=True):
            if problem is not None:
                media.unreadable[name] = problem.replace(str(target), str(media.found[name]))
                if target in placed:
                    target.unlink()


def _problem(kind: MediaKind, path: Path, whole: bool) -> str | None:
    from longva_eval.media.images import open_image
    from longva_eval.media.probe import probe_video
    from longva_eval.media.subtitles import read_subtitles

    if path.stat().st_size == 0:
        return f"{path} is empty (0 bytes)"
    try:
        if not whole:
            return None
        if kind == "video":
            probe_video(path)
        elif kind == "picture":
            open_image(path)
        elif path.suffix.lower() == ".json":
            json.loads(path.read_text(encoding="utf-8-sig"))
        else:
            read_subtitles(path)
    except EvaluationError as error:
        return str(error)
    except (OSError, ValueError, RecursionError) as error:
        return f"{path} cannot be read: {error}"
    return None
