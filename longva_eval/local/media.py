"""The media of a local copy: found by the names that rows give, and looked into.

On disk first, then in archives. A file of the same name in another folder is taken only if the name
can mean no other file. Videos are probed, pictures opened, subtitles read: what cannot be read is
as good as missing, and its reason is kept.

No torch.
"""

from __future__ import annotations

import concurrent.futures
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from longva_eval.errors import DataError, MediaError
from longva_eval.local.files import (
    ARCHIVE_ERRORS,
    Found,
    SourceFiles,
    checked_name,
    open_found,
)
from longva_eval.local.layouts import MediaKind, MediaLayout
from longva_eval.local.rows import Problems, Progress, unreadable_picture

__all__ = ["Media", "MediaCount", "find_media", "look_into_unpacked"]

_MAX_SUBTITLE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class MediaCount:
    """How many of the files of one kind are there."""

    kind: MediaKind
    folder: str
    required: bool
    num_named: int
    """Different files that the rows name."""
    num_found: int
    """Of these, found and readable."""
    missing: tuple[str, ...]
    """Names of those that were not found."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """Names of those that are there but cannot be read, with the reason."""

    @property
    def is_whole(self) -> bool:
        return not self.unreadable and not (self.required and self.missing)


@dataclass
class Media:
    """The files of one kind that the rows name, and what became of each name."""

    layout: MediaLayout
    by_name: dict[str, list[int]] = field(default_factory=dict)
    """Name -> numbers of the rows that give it."""
    found: dict[str, Found] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Name -> why; a subset of `found`."""

    @property
    def missing(self) -> list[str]:
        return [name for name in self.by_name if name not in self.found]

    def lacking_rows(self) -> set[int]:
        """Numbers of the rows that cannot be asked for want of these files."""
        if not self.layout.required:
            return set()
        return {n for name in (*self.missing, *self.unreadable) for n in self.by_name[name]}

    def targets(self, hf_home: Path) -> dict[Path, Found]:
        """Where each readable file goes."""
        base = hf_home / self.layout.folder
        targets = {}
        for name, found in self.found.items():
            if name in self.unreadable:
                continue
            suffix = found.location.name.removeprefix(PurePosixPath(name).name)
            target = base / (name + suffix)
            if not target.parent.resolve().is_relative_to(base.resolve()):
                raise DataError(f"{target.parent} is a link that leads out of {base}; remove it.")
            targets[target] = found
        return targets

    def count(self) -> MediaCount:
        return MediaCount(
            kind=self.layout.kind,
            folder=self.layout.folder,
            required=self.layout.required,
            num_named=len(self.by_name),
            num_found=len(self.found) - len(self.unreadable),
            missing=tuple(self.missing),
            unreadable=tuple(self.unreadable.items()),
        )


def find_media(
    layout: MediaLayout,
    rows: Sequence[Mapping[str, Any]],
    places: Sequence[str],
    files: SourceFiles,
    problems: Problems,
    check_media: bool,
    progress: Progress,
) -> Media:
    """Find, by name, the files that the rows name; on disk first, then in archives."""
    media = Media(layout)
    for number, row in enumerate(rows):
        name = layout.file_name(row)
        wrong = checked_name(name) if name else None
        if wrong:
            problems.add("Names of media that are not safe", f"{places[number]}: {name!r} {wrong}")
        elif name:
            media.by_name.setdefault(name, []).append(number)
        elif layout.required:
            problems.add(f"Rows that name no {layout.kind}", places[number])
    # A file in another folder will do only if its name cannot mean another one.
    base_names = Counter(PurePosixPath(name).name for name in media.by_name)
    for in_archives in (False, True):
        if in_archives:
            if not media.missing:
                break
            files.open_archives()
        for name in media.missing:
            any_folder = base_names[PurePosixPath(name).name] == 1
            candidates = files.find(name, layout.suffixes, any_folder=any_folder)
            if not candidates:
                continue
            chosen = _same_file(candidates)
            if chosen is None:
                listed = ", ".join(str(c) for c in candidates[:5])
                problems.add(
                    "Media that are there several times with different content",
                    f"{name}: {listed}",
                )
            media.found[name] = chosen or candidates[0]
    _look_into(media, files, check_media, progress)
    return media


def _same_file(candidates: Sequence[Found]) -> Found | None:
    """The file that all candidates are, or None if they differ."""
    if not candidates:
        return None
    first = candidates[0]
    if len(candidates) == 1:
        return first
    if len({c.size for c in candidates}) > 1 or any(c.member is not None for c in candidates):
        return None
    from longva_eval.media.probe import file_digest

    digests = {file_digest(c.path.resolve(), c.size) for c in candidates}
    return first if len(digests) == 1 else None


def _look_into(
    media: Media,
    files: SourceFiles,
    check_media: bool,
    progress: Progress,
) -> None:
    """Note the files that cannot be read."""
    for name, item in media.found.items():
        if item.size == 0:
            media.unreadable[name] = f"{item} is empty (0 bytes)"
    if not check_media:
        return
    kind = media.layout.kind
    # Members of archives are looked at where that is cheap; videos once they are unpacked.
    todo = {
        name: item
        for name, item in media.found.items()
        if name not in media.unreadable
        and (item.member is None or (kind != "video" and _is_zip(item.path)))
    }
    with concurrent.futures.ThreadPoolExecutor() as pool:
        results = pool.map(lambda item: _media_problem(kind, item, files), todo.values())
        for done, (name, problem) in enumerate(zip(todo, results, strict=True), 1):
            progress(f"looking into {kind} files", done, len(todo))
            if problem is not None:
                media.unreadable[name] = problem


def look_into_unpacked(media: Media, hf_home: Path, progress: Progress) -> None:
    """Look at videos that came out of archives; those that cannot be read are removed again."""
    if media.layout.kind != "video":
        return
    from longva_eval.media.probe import probe_video

    names = {item: name for name, item in media.found.items() if item.member is not None}
    targets = {t: item for t, item in media.targets(hf_home).items() if item in names}
    for done, (target, item) in enumerate(targets.items(), 1):
        progress("looking into video files", done, len(targets))
        try:
            probe_video(target)
        except MediaError as error:
            media.unreadable[names[item]] = str(error).replace(str(target), str(item))
            target.unlink()


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def _media_problem(kind: MediaKind, item: Found, files: SourceFiles) -> str | None:
    if kind == "video":
        from longva_eval.media.probe import probe_video

        try:
            probe_video(item.path)
        except MediaError as error:
            return str(error)
        return None
    if kind == "subtitle" and item.size > _MAX_SUBTITLE_BYTES:
        return f"{item} has {item.size:,} bytes, which no subtitles have"
    try:
        with open_found(item, files) as stream:
            if kind == "picture":
                problem = unreadable_picture(stream)
                return f"{item}: {problem}" if problem else None
            data = stream.read()
    except ARCHIVE_ERRORS as error:
        return f"{item} cannot be read: {error}"
    try:
        text = data.decode("utf-8-sig")
        if item.location.suffix.lower() == ".json":
            json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"{item} cannot be read as a subtitle file: {error}"
    if item.location.suffix.lower() == ".srt" and "-->" not in text:
        return f"{item} holds no subtitles (no line with -->)"
    return None
