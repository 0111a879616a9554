"""Local copies of benchmarks: checked, and laid out as lmms-eval looks for them offline.

What a copy consists of stands in each task folder's `layout.json` (`longva_eval.local.layouts`).
`prepare` finds it in somebody's folder, says everything that is wrong with it at once, and lays it
out so that the host's tasks and ours run from it without a network: rows in the cache of
`datasets`, media as links where the host looks, and a note of it all in
`$HF_HOME/longva_eval/prepared`. `data_status` tells what is there, whoever put it there.

No torch, and `datasets` only inside functions.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from longva_eval.errors import DataError
from longva_eval.local.dataset_cache import find_cached_splits, read_cached_rows, write_split
from longva_eval.local.files import (
    Found,
    SourceFiles,
    hub_revision,
    place_files,
    spellings,
    write_atomically,
)
from longva_eval.local.layouts import Layout, MediaLayout, find_layouts, read_layouts
from longva_eval.local.media import Media, MediaCount, find_media, look_into_unpacked
from longva_eval.local.rows import (
    Problems,
    Progress,
    check_pictures,
    check_rows,
    choose_row_files,
    listed,
    read_rows,
)

__all__ = [
    "DataStatus",
    "Layout",
    "MediaCount",
    "MediaLayout",
    "PrepareReport",
    "data_status",
    "find_layouts",
    "hf_home_folder",
    "prepare",
    "read_layouts",
    "read_prepared",
]


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What was found and laid out."""

    layout: Layout
    hf_home: Path
    source: Path
    num_rows: int
    row_files: tuple[str, ...]
    num_rows_with_media: int
    """Rows that have all the media they need."""
    media: tuple[MediaCount, ...]
    placed: Mapping[str, int]
    """Files already there, linked, copied and extracted."""
    revision: str | None
    """Commit the copy was downloaded from, where that can be told."""
    warnings: tuple[str, ...]
    manifest: Path
    """What a later look, and a submission, checks against."""
    missing_file: Path | None
    """Everything that is missing, by name; None if nothing is."""

    @property
    def is_whole(self) -> bool:
        """Whether all rows and all required media are there."""
        return self.missing_file is None

    @property
    def needs_skipping(self) -> bool:
        """Whether a run needs `on_error=skip`."""
        return self.num_rows_with_media < self.num_rows


@dataclass(frozen=True, kw_only=True)
class DataStatus:
    """What of a data set lies in HF_HOME, whoever put it there."""

    layout: Layout
    state: Literal["found", "partly", "missing"]
    num_rows: int
    media: tuple[MediaCount, ...]
    problem: str = ""
    """Why it is not `found`, in a sentence."""


def hf_home_folder() -> Path:
    """The folder HF_HOME names, or its default."""
    return Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()


def read_prepared(name: str, hf_home: Path) -> dict[str, Any] | None:
    """What `prepare` wrote down about a data set, or None."""
    path = _manifest_path(hf_home, name)
    if not path.is_file():
        return None
    prepared: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return prepared


def prepare(
    name: str,
    source: Path,
    hf_home: Path,
    *,
    allow_missing: bool = False,
    copy: bool = False,
    check_media: bool = True,
    row_files: Sequence[Path] = (),
    follow_links: bool = False,
    layouts: Mapping[str, Layout] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> PrepareReport:
    """Check a local copy of a data set and lay it out for runs without a network.

    May be repeated: what is in place already stays, what was added is added.

    Args:
        name: Of a layout.
        source: The folder with the copy; files are found anywhere below it, by name.
        hf_home: The folder that HF_HOME will name.
        allow_missing: Lay out a copy that lacks rows or media all the same.
        copy: Copy media instead of linking them.
        check_media: Look into every file: the packets of videos, all of a picture or subtitle.
        row_files: The files of rows, if what is below `source` leaves it open.
        follow_links: Follow symbolic links out of `source`.
        layouts: Where to look `name` up; all of ours by default.
        progress: Told what is done, how far it is and of how much.

    Returns:
        What was found and done.

    Raises:
        DataError: If rows or media are not as the layout says; all that is wrong at once.
    """
    known = read_layouts() if layouts is None else layouts
    if name not in known:
        raise DataError(
            f"There is no layout of local data called {name!r}; there are: "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    layout = known[name]
    source, hf_home = source.expanduser().absolute(), hf_home.expanduser().absolute()
    progress("looking through files", 0, 0)
    files = SourceFiles(source, follow_links=follow_links)
    problems = Problems()
    chosen = choose_row_files(layout, files, row_files, hf_home)
    rows, places = read_rows(layout, chosen, problems)
    if rows:
        check_rows(layout, rows, places, problems)
        check_pictures(layout, chosen, problems, progress)
    if layout.num_rows is not None and len(rows) > layout.num_rows:
        problems.add(
            "Rows that are too many",
            f"{len(rows):,} rows in {', '.join(f.label for f in chosen)}; "
            f"{layout.dataset} ({layout.split}) has {layout.num_rows:,}. If it holds several "
            "splits, name the files of this one with --rows.",
        )
    media = [
        find_media(part, rows, places, files, problems, check_media, progress)
        for part in layout.media
    ]
    warnings = list(files.warnings)
    if problems:
        raise DataError(
            f"{name}: this copy of {layout.dataset} is not as it should be, and nothing was laid "
            f"out.\n{problems.render()}"
        )
    _check_whole(layout, media, len(rows), files, hf_home, allow_missing)
    revision = hub_revision(source)
    if revision and layout.revision and revision != layout.revision:
        warnings.append(
            f"This copy is revision {revision[:12]} of {layout.dataset}; published numbers and our "
            f"checks are for {layout.revision[:12]}."
        )
    digests = {file.label: file.digest() for file in chosen}
    write_split(
        hf_home,
        dataset=layout.dataset,
        config=layout.config,
        split=layout.split,
        files=chosen,
        image_columns=layout.images,
        source={"sha256": list(digests.values()), "images": list(layout.images)},
    )
    for folder in {part.layout.folder for part in media}:
        # The host downloads if its folder is not there.
        (hf_home / folder).mkdir(parents=True, exist_ok=True)
    previous = (read_prepared(name, hf_home) or {}).get("files", {})
    wanted = {target: found for part in media for target, found in part.targets(hf_home).items()}
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress("putting media into place", done, len(wanted))

    placed = place_files(
        wanted,
        files,
        copy=copy,
        replace=lambda target: target.relative_to(hf_home).as_posix() in previous,
        progress=tell,
    )
    if check_media:
        for part in media:
            look_into_unpacked(part, hf_home, progress)
    missing_file = _check_whole(layout, media, len(rows), files, hf_home, allow_missing)
    lacking = {n for part in media for n in part.lacking_rows()}
    report = PrepareReport(
        layout=layout,
        hf_home=hf_home,
        source=source,
        num_rows=len(rows),
        row_files=tuple(digests),
        num_rows_with_media=len(rows) - len(lacking),
        media=tuple(part.count() for part in media),
        placed=placed,
        revision=revision,
        warnings=tuple(warnings),
        manifest=_manifest_path(hf_home, name),
        missing_file=missing_file,
    )
    wanted = {target: found for part in media for target, found in part.targets(hf_home).items()}
    _write_manifest(report, digests, wanted, rows)
    return report


def data_status(layout: Layout, hf_home: Path) -> DataStatus:
    """What of a data set lies in HF_HOME: rows from the cache of `datasets`, media by name."""
    cached = find_cached_splits(
        hf_home, dataset=layout.dataset, config=layout.config, split=layout.split
    )
    if not cached:
        return DataStatus(
            layout=layout,
            state="missing",
            num_rows=0,
            media=(),
            problem=f"no {layout.split} rows of {layout.dataset} in {hf_home / 'datasets'}",
        )
    columns = [column for media in layout.media for column in media.columns]
    try:
        rows = read_cached_rows(cached[0], columns) if columns else []
    except (OSError, ValueError) as error:
        return DataStatus(
            layout=layout, state="missing", num_rows=0, media=(), problem=f"unreadable: {error}"
        )
    counts = []
    for media in layout.media:
        names = dict.fromkeys(filter(None, (media.file_name(row) for row in rows)))
        folder = hf_home / media.folder
        missing = tuple(
            name
            for name in names
            if not any((folder / s).is_file() for s in spellings(name, media.suffixes))
        )
        counts.append(
            MediaCount(
                kind=media.kind,
                folder=media.folder,
                required=media.required,
                num_named=len(names),
                num_found=len(names) - len(missing),
                missing=missing,
            )
        )
    reasons = [
        f"{count.num_found:,} of {count.num_named:,} {count.kind} files"
        for count in counts
        if not count.is_whole
    ]
    num_rows = cached[0].num_rows
    if layout.num_rows is not None and num_rows != layout.num_rows:
        reasons.insert(0, f"{num_rows:,} of {layout.num_rows:,} rows")
    return DataStatus(
        layout=layout,
        state="partly" if reasons else "found",
        num_rows=num_rows,
        media=tuple(counts),
        problem=", ".join(reasons),
    )


def _manifest_path(hf_home: Path, name: str) -> Path:
    return hf_home / "longva_eval" / "prepared" / f"{name}.json"


def _check_whole(
    layout: Layout,
    media: Sequence[Media],
    num_rows: int,
    files: SourceFiles,
    hf_home: Path,
    allow_missing: bool,
) -> Path | None:
    """Write the list of what is missing, if anything is.

    Raises:
        DataError: If something is and that is not allowed.
    """
    path = _manifest_path(hf_home, layout.name).with_suffix(".missing.txt")
    lines = _missing_lines(layout, media, num_rows)
    if not lines:
        path.unlink(missing_ok=True)
        return None
    with write_atomically(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if not allow_missing:
        raise DataError(_refusal(layout, media, num_rows, files, path))
    return path


def _missing_lines(layout: Layout, media: Sequence[Media], num_rows: int) -> list[str]:
    """A line for everything a whole copy would have besides."""
    lines = []
    if layout.num_rows is not None and num_rows < layout.num_rows:
        lines.append(f"rows: {layout.num_rows - num_rows} of {layout.num_rows}")
    for part in media:
        kind = part.layout.kind
        if part.layout.required:
            lines += [f"{kind}: {name}" for name in part.missing]
        lines += [f"{kind}: {name} (unreadable: {why})" for name, why in part.unreadable.items()]
    return lines


def _refusal(
    layout: Layout,
    media: Sequence[Media],
    num_rows: int,
    files: SourceFiles,
    missing_file: Path,
) -> str:
    parts = [f"{layout.name}: parts of {layout.dataset} are missing below {files.root}."]
    if layout.num_rows is not None and num_rows < layout.num_rows:
        parts.append(f"Rows: {num_rows:,} of {layout.num_rows:,}.")
    for part in media:
        kind = part.layout.kind
        if part.layout.required and part.missing:
            lines = [_with_hint(name, part.layout, files) for name in part.missing]
            of = f"{len(part.missing):,} of {len(part.by_name):,}"
            parts.append(listed(f"Missing {kind} files, {of}", lines))
        if part.unreadable:
            parts.append(listed(f"Unreadable {kind} files", list(part.unreadable.values())))
    parts.append(
        f"All of them: {missing_file}\nGet them from {layout.source}, or lay out what is there "
        "with --allow-missing; runs then need on_error=skip where media are missing, and the "
        "count stands in every result."
    )
    return "\n".join(parts)


def _with_hint(name: str, media: MediaLayout, files: SourceFiles) -> str:
    """A missing file, with what was seen of it."""
    for spelled in spellings(name, media.suffixes):
        base = PurePosixPath(spelled).name
        if base in files.unfinished:
            return f"{name} (its download is unfinished: {files.unfinished[base]})"
        if base in files.outside:
            return f"{name} ({files.outside[base]} is a link out of the folder; --follow-links)"
    if media.suffixes:
        return f"{name} ({', '.join(media.suffixes)})"
    return name


def _write_manifest(
    report: PrepareReport,
    digests: Mapping[str, str],
    wanted: Mapping[Path, Found],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    layout = report.layout
    sizes = {
        path.relative_to(report.hf_home).as_posix(): found.size
        for path, found in sorted(wanted.items())
    }
    ids = ["|".join(str(row[name]) for name in layout.unique) for row in rows]
    manifest = {
        "name": layout.name,
        "dataset": layout.dataset,
        "config": layout.config,
        "split": layout.split,
        "revision": report.revision,
        "source": str(report.source),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "num_rows": report.num_rows,
        "num_rows_of_whole": layout.num_rows,
        "num_rows_with_media": report.num_rows_with_media,
        "row_files": dict(digests),
        "ids_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest()
        if layout.unique
        else None,
        "media": [
            {
                "kind": count.kind,
                "folder": count.folder,
                "required": count.required,
                "num_named": count.num_named,
                "num_found": count.num_found,
                "missing": list(count.missing),
                "unreadable": dict(count.unreadable),
            }
            for count in report.media
        ],
        "names_and_sizes_sha256": hashlib.sha256(json.dumps(sizes).encode()).hexdigest(),
        "is_whole": report.is_whole,
        "files": sizes,
    }
    with write_atomically(report.manifest) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
