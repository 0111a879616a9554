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
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from loguru import logger
from tqdm import tqdm

from longva_eval.errors import DataError, MediaError, SettingsError
from longva_eval.files import write_atomically
from longva_eval.host.names import read_task_file
from longva_eval.local.dataset_cache import CachedSplit, find_cached_splits, split_to_lay_out
from longva_eval.local.layouts import Layout, find_layouts, read_layouts
from longva_eval.local.media import Media, find_media, look_into
from longva_eval.local.rows import RowFile, choose_row_files
from longva_eval.local.sources import Found, SourceFiles, hub_revision, place_files

__all__ = [
    "DataStatus",
    "Layout",
    "PrepareReport",
    "data_status",
    "find_layouts",
    "look_at_rows",
    "prepare",
    "read_layouts",
    "read_prepared",
    "told_unaskable",
]

_NUM_SHOWN = 20


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
    media: tuple[Media, ...]
    placed: Mapping[str, int]
    """Files already there, linked, copied and extracted."""
    revision: str | None
    """Commit the copy was downloaded from, where that can be told."""
    warnings: tuple[str, ...]
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
    num_rows: int = 0
    media: tuple[Media, ...] = ()
    problem: str = ""
    """Why it is not `found`, in a sentence."""
    unaskable: tuple[str, ...] = ()
    """Questions that cannot be asked, each with its reason; where rows were looked at."""


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
    files = SourceFiles(source, follow_links=follow_links)
    chosen = choose_row_files(layout, files, row_files)
    with split_to_lay_out(hf_home, layout, chosen) as split:
        rows, places = _rows_and_places(layout, split, chosen)
        problems, unaskable = _problems_of_rows(layout, split, chosen, places, look=check_media)
        media = [find_media(part, rows, places, files, problems) for part in layout.media]
        if problems:
            listed = "\n".join(_listed(kind, lines) for kind, lines in problems.items())
            raise DataError(
                f"{name}: this copy of {layout.dataset} is not as it should be, and nothing was "
                f"laid out.\n{listed}"
            )
        _check_whole(layout, media, len(rows), files, hf_home, allow_missing)
        placed = _place(media, files, hf_home, read_prepared(name, hf_home) or {}, copy=copy)
        new = {path for how in ("linked", "copied", "extracted") for path in placed[how]}
        for part in media:
            look_into(part, hf_home, new, whole=check_media)
        missing_file = _check_whole(layout, media, len(rows), files, hf_home, allow_missing)
    warnings, revision = list(files.warnings), hub_revision(source)
    if revision and layout.revision and revision != layout.revision:
        warnings.append(
            f"This copy is revision {revision[:12]} of {layout.dataset}; published numbers and our "
            f"checks are for {layout.revision[:12]}."
        )
    if unaskable:
        warnings.append(told_unaskable(unaskable))
    report = PrepareReport(
        layout=layout,
        hf_home=hf_home,
        source=source,
        num_rows=len(rows),
        row_files=tuple(file.label for file in chosen),
        num_rows_with_media=len(rows) - len({n for part in media for n in part.lacking_rows()}),
        media=tuple(media),
        placed={how: len(targets) for how, targets in placed.items()},
        revision=revision,
        warnings=tuple(warnings),
        missing_file=missing_file,
    )
    _write_manifest(report, chosen, rows)
    return report


def data_status(layout: Layout, hf_home: Path, *, ask: bool = False) -> DataStatus:
    """What of a data set lies in HF_HOME: rows from the cache of `datasets`, media by name.

    Args:
        layout: The data set.
        hf_home: Where it is looked for.
        ask: Let our task look at every row too.
    """
    cached = find_cached_splits(hf_home, layout)
    if not cached:
        problem = f"no {layout.split} rows of {layout.dataset} in {hf_home / 'datasets'}"
        return DataStatus(layout=layout, state="missing", problem=problem)
    columns = [column for media in layout.media for column in media.columns]
    try:
        rows = cached[0].rows(columns) if columns else []
    except (OSError, ValueError) as error:
        return DataStatus(layout=layout, state="missing", problem=f"unreadable: {error}")
    media = [Media(part) for part in layout.media]
    for part in media:
        folder = hf_home / part.layout.folder
        for number, row in enumerate(rows):
            if name := part.layout.file_name(row):
                part.rows_of.setdefault(name, []).append(number)
        for name in part.rows_of:
            paths = [folder / spelled for spelled in part.layout.spellings(name)]
            for path in filter(Path.is_file, paths):
                part.found[name] = Found(path=path, location=PurePosixPath(path.name), size=0)
    reasons = [
        f"{part.num_found:,} of {part.num_named:,} {part.layout.kind} files"
        for part in media
        if not part.is_whole
    ]
    num_rows = cached[0].num_rows
    if layout.num_rows is not None and num_rows != layout.num_rows:
        reasons.insert(0, f"{num_rows:,} of {layout.num_rows:,} rows")
    problem, unaskable = look_at_rows(layout, cached[0]) if ask else ("", ())
    reasons += [problem] if problem else []
    return DataStatus(
        layout=layout,
        state="partly" if reasons else "found",
        num_rows=num_rows,
        media=tuple(media),
        problem=", ".join(reasons),
        unaskable=unaskable,
    )


def told_unaskable(names: Sequence[str]) -> str:
    """A sentence on questions that cannot be asked, for a person."""
    more = f" and {len(names) - _NUM_SHOWN:,} more" if len(names) > _NUM_SHOWN else ""
    questions = f"{len(names):,} question{'s' if len(names) > 1 else ''}"
    return f"{questions} cannot be asked, and will fail: {', '.join(names[:_NUM_SHOWN])}{more}."


def look_at_rows(layout: Layout, split: CachedSplit) -> tuple[str, tuple[str, ...]]:
    """Let our task's `process_docs` look at every row, pictures too.

    Returns:
        Why the task does not take these rows, in its words, or ""; and the questions that cannot
        be asked, each with its reason.
    """
    for file in sorted(layout.file.parent.glob("*.yaml")):
        config = _task_config(file)
        if config["task"] == layout.tasks[0] and "process_docs" in config:
            module_name, _, function = config["process_docs"].rpartition(".")
            path = file.parent / f"{module_name}.py"
            spec = importlib.util.spec_from_file_location(f"_{file.parent.name}", path)
            assert spec is not None
            assert spec.loader is not None  # the file's name ends in .py
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            vars(module)["require_judge"] = lambda _task: None  # no run, no network
            logger.disable("longva_eval.questions")  # what it would say is returned
            try:
                found = getattr(module, function)(split.dataset())
            except DataError as error:
                return str(error), ()
            except SettingsError:  # what a score needs besides
                return "", ()
            finally:
                logger.enable("longva_eval.questions")
            if "unaskable" not in found.column_names:
                return "", ()
            told = zip(found["question_id"], found["unaskable"], strict=True)
            return "", tuple(f"{name} ({reason})" for name, reason in told if reason)
    return "", ()


def _task_config(file: Path) -> dict[str, Any]:
    config = read_task_file(file)
    included = config.get("include")
    return {**(_task_config(file.parent / included) if included else {}), **config}


def _rows_and_places(
    layout: Layout, split: CachedSplit, files: Sequence[RowFile]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows with the columns that name things, and how a message calls each."""
    columns = [*layout.unique, *(column for part in layout.media for column in part.columns)]
    rows = split.rows(columns) if columns else [{}] * split.num_rows
    numbers = [f"{f.label} row {n}" for f in files for n in range(1, f.num_rows + 1)]
    places = []
    for number, row in zip(numbers, rows, strict=True):
        key = ", ".join(f"{name} {row[name]!r}" for name in layout.unique)
        places.append(f"{number} ({key})" if key else number)
    return rows, places


def _problems_of_rows(
    layout: Layout,
    split: CachedSplit,
    files: Sequence[RowFile],
    places: Sequence[str],
    *,
    look: bool,
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """What is wrong with the rows, by kind; and the questions that cannot be asked."""
    from longva_eval.questions.pictures import open_picture

    labels = ", ".join(file.label for file in files)
    problems: dict[str, list[str]] = {}
    if not split.num_rows:
        return {"Rows that are missing": ["there is not a single row"]}, ()
    if layout.num_rows is not None and split.num_rows > layout.num_rows:
        problems["Rows that are too many"] = [
            f"{split.num_rows:,} rows in {labels}; {layout.dataset} ({layout.split}) has "
            f"{layout.num_rows:,}. If it holds several splits, name the files of this one with "
            "--rows."
        ]
    problem, unaskable = look_at_rows(layout, split)
    if problem:
        for path in split.files:
            problem = problem.replace(str(path), labels)
        problems["Rows that cannot be asked"] = [problem]
    for column in layout.images if look else ():
        cells = tqdm(split.cells(column), column, len(places), leave=False, disable=None)
        for place, cell in zip(places, cells, strict=True):
            try:
                if cell is not None:
                    open_picture(cell, where=f"{place}, {column}")
            except MediaError as error:
                problems.setdefault("Pictures that cannot be read", []).append(str(error))
    return problems, unaskable


def _place(
    media: Sequence[Media],
    files: SourceFiles,
    hf_home: Path,
    previous: Mapping[str, Any],
    *,
    copy: bool,
) -> dict[str, list[Path]]:
    wanted: dict[Path, Found] = {}
    for part in media:
        # The host downloads if its folder is not there.
        (hf_home / part.layout.folder).mkdir(parents=True, exist_ok=True)
        wanted |= {path: part.found[name] for name, path in part.targets(hf_home).items()}
    ours = previous.get("files", {})
    with tqdm(desc="media", total=len(wanted), leave=False, disable=None) as bar:
        return place_files(
            wanted,
            files,
            copy=copy,
            replace=lambda target: target.relative_to(hf_home).as_posix() in ours,
            progress=bar.update,
        )


def _manifest_path(hf_home: Path, name: str) -> Path:
    return hf_home / "longva_eval" / "prepared" / f"{name}.json"


def _listed(title: str, lines: Sequence[str]) -> str:
    """A title with its first lines, and how many more there are."""
    shown = [title + ":", *(f"  {line}" for line in lines[:_NUM_SHOWN])]
    shown += [f"  ... and {len(lines) - _NUM_SHOWN:,} more"] if len(lines) > _NUM_SHOWN else []
    return "\n".join(shown)


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
    lines, parts = [], []
    if layout.num_rows is not None and num_rows < layout.num_rows:
        lines.append(f"rows: {layout.num_rows - num_rows} of {layout.num_rows}")
        parts.append(f"Rows: {num_rows:,} of {layout.num_rows:,}.")
    for part in media:
        kind = part.layout.kind
        if part.layout.required and part.missing:
            lines += [f"{kind}: {name}" for name in part.missing]
            hints = [name + _hint(part, name, files) for name in part.missing]
            of = f"{len(part.missing):,} of {part.num_named:,}"
            parts.append(_listed(f"Missing {kind} files, {of}", hints))
        if part.unreadable:
            lines += [f"{kind}: {name} (unreadable: {w})" for name, w in part.unreadable.items()]
            parts.append(_listed(f"Unreadable {kind} files", list(part.unreadable.values())))
    if not lines:
        path.unlink(missing_ok=True)
        return None
    with write_atomically(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if not allow_missing:
        listed = "\n".join(parts)
        raise DataError(
            f"{layout.name}: parts of {layout.dataset} are missing below {files.root}.\n{listed}\n"
            f"All of them: {path}\nGet them from {layout.source}, or lay out what is there with "
            "--allow-missing; runs then need on_error=skip where media are missing, and the count "
            "stands in every result."
        )
    return path


def _hint(media: Media, name: str, files: SourceFiles) -> str:
    """What was seen of a missing file, or how it may be called."""
    names = media.layout.spellings(name)
    seen = [
        files.unusable[base] for n in names if (base := PurePosixPath(n).name) in files.unusable
    ]
    hint = seen[0] if seen else ", ".join(media.layout.suffixes)
    return f" ({hint})" if hint else ""


def _write_manifest(
    report: PrepareReport, files: Sequence[RowFile], rows: Sequence[Mapping[str, Any]]
) -> None:
    layout = report.layout
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
        "row_files": {file.label: file.digest() for file in files},
        "ids": ["|".join(str(row[name]) for name in layout.unique) for row in rows],
        "is_whole": report.is_whole,
        "files": {
            path.relative_to(report.hf_home).as_posix(): part.found[name].size
            for part in report.media
            for name, path in part.targets(report.hf_home).items()
        },
    }
    with write_atomically(_manifest_path(report.hf_home, layout.name)) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
