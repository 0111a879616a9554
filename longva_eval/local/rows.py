"""The rows of a local copy: which files hold them, and what is wrong with them.

Files are known by their columns; among those that fit, by the folder of the configuration and the
name of the split. Nothing is chosen between files that fit equally well. Every problem names file
and row, and all are said together.

No torch.
"""

from __future__ import annotations

import concurrent.futures
import fnmatch
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from longva_eval.errors import DataError
from longva_eval.local.dataset_cache import ROW_SUFFIXES, RowFile, open_row_file
from longva_eval.local.files import Found, SourceFiles, place_files
from longva_eval.local.layouts import Layout
from longva_eval.media.whole_pictures import whole_pictures_only

__all__ = [
    "Problems",
    "Progress",
    "check_pictures",
    "check_rows",
    "choose_row_files",
    "listed",
    "read_rows",
    "unreadable_picture",
]

Progress = Callable[[str, int, int], None]
"""Told what is done, how far it is and of how much."""

_NUM_SHOWN = 20
_MAX_JSON_BYTES = 1 << 30
_SPLIT_WORDS = {
    "test": ("test",),
    "validation": ("validation", "val", "dev"),
    "train": ("train",),
    "lite": ("lite",),
}


@dataclass
class Problems:
    """Everything that is wrong, by kind; each kind shows its first lines and a count."""

    kinds: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, line: str) -> None:
        self.kinds.setdefault(kind, []).append(line)

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def render(self) -> str:
        return "\n".join(listed(kind, lines) for kind, lines in self.kinds.items())


def listed(title: str, lines: Sequence[str]) -> str:
    """A title with its first lines, and how many more there are."""
    shown = "\n".join(f"  {line}" for line in lines[:_NUM_SHOWN])
    more = f"\n  ... and {len(lines) - _NUM_SHOWN:,} more" if len(lines) > _NUM_SHOWN else ""
    return f"{title}:\n{shown}{more}"


def choose_row_files(
    layout: Layout, files: SourceFiles, named: Sequence[Path], hf_home: Path
) -> list[RowFile]:
    """The files that hold the rows of this split.

    Those that were named; else those whose columns fit, then those of the configuration's folder
    and of the split's name. What is then still several must be the shards of one file.
    """
    if named:
        return [open_row_file(path.expanduser().absolute(), str(path)) for path in named]
    found = [f for f in files.files() if f.location.suffix.lower() in ROW_SUFFIXES]
    if layout.rows:
        found = [f for f in found if any(_matches(f.location, p) for p in layout.rows)] or found
    fitting, nearest, unreadable = _fitting(layout, found, files, hf_home)
    if not fitting:
        files.open_archives()
        packed = [f for f in files.files() if f.member is not None]
        packed = [f for f in packed if f.location.suffix.lower() in ROW_SUFFIXES]
        fitting, nearest_packed, _ = _fitting(layout, packed, files, hf_home)
        nearest = nearest or nearest_packed
    if not fitting:
        where = f"No file of rows for {layout.dataset} ({layout.split}) lies below {files.root}"
        looked = f"looked into {len(found)} parquet, json, jsonl and csv files"
        if unreadable:
            looked += "; could not read " + "; ".join(unreadable[:3])
        if nearest is not None:
            lacking = sorted(set(layout.needed_columns) - set(nearest.columns))
            raise DataError(
                f"{where} ({looked}). Nearest is {nearest.label}, which lacks the "
                f"column{'s' if len(lacking) > 1 else ''} {', '.join(lacking)} "
                f"and has {', '.join(nearest.columns)}."
            )
        raise DataError(f"{where} ({looked}). Get it from {layout.source}")
    if layout.rows and any(
        _matches(PurePosixPath(f.label), p) for f in fitting for p in layout.rows
    ):
        _check_shards(fitting)
        return sorted(fitting, key=lambda f: f.label)
    return _one_set(layout, fitting)


def _fitting(
    layout: Layout, found: Iterable[Found], files: SourceFiles, hf_home: Path
) -> tuple[list[RowFile], RowFile | None, list[str]]:
    """Files that fit, of the best format; the one that comes nearest; why others are unreadable."""
    needed = set(layout.needed_columns)
    nearest: RowFile | None = None
    by_suffix: dict[str, list[RowFile]] = {}
    unreadable = []
    for item in sorted(found, key=lambda f: f.location.as_posix()):
        suffix = item.location.suffix.lower()
        if suffix != ".parquet" and item.size > _MAX_JSON_BYTES:
            continue
        try:
            file = open_row_file(_on_disk(item, files, hf_home), item.location.as_posix())
        except DataError as error:
            unreadable.append(str(error))  # a subtitle, a licence: most JSON files hold no rows
            continue
        if needed <= set(file.columns):
            by_suffix.setdefault(suffix, []).append(file)
        elif nearest is None or len(needed & set(file.columns)) > len(
            needed & set(nearest.columns)
        ):
            nearest = file
    best = next((by_suffix[s] for s in ROW_SUFFIXES if s in by_suffix), [])
    if nearest is not None and not needed & set(nearest.columns):
        nearest = None
    return best, nearest, unreadable


def _on_disk(item: Found, files: SourceFiles, hf_home: Path) -> Path:
    """The file itself; a member of an archive is unpacked to a folder of ours."""
    if item.member is None:
        return item.path
    key = hashlib.sha256(str(item).encode()).hexdigest()[:16]
    target = hf_home / "longva_eval" / "rows" / key / item.location.name
    place_files({target: item}, files, replace=lambda _: True)
    return target


def _one_set(layout: Layout, fitting: list[RowFile]) -> list[RowFile]:
    """Of files with the right columns, those of this configuration and split."""
    if layout.config:
        of_config = [f for f in fitting if layout.config in PurePosixPath(f.label).parts[:-1]]
        fitting = of_config or fitting
    words = _SPLIT_WORDS.get(layout.split, (layout.split,))
    named = [f for f in fitting if any(_has_word(f, word) for word in words)]
    others = [w for split, ws in _SPLIT_WORDS.items() if split != layout.split for w in ws]
    fitting = named or [f for f in fitting if not any(_has_word(f, word) for word in others)]
    if not fitting:
        raise DataError(
            f"Files of rows for {layout.dataset} were found, but none of its split "
            f"{layout.split}; name them with --rows."
        )
    shards = _check_shards(fitting)
    if len(shards) > 1:
        digests = {tuple(file.digest() for file in files) for files in shards.values()}
        if len(digests) > 1:
            names = "\n".join(f"  {f.label} ({f.num_rows:,} rows)" for f in fitting[:_NUM_SHOWN])
            raise DataError(
                f"Several files could hold the {layout.split} rows of {layout.dataset}:\n{names}\n"
                "Name the right ones with --rows FILE."
            )
    return next(iter(shards.values()))


def _check_shards(files: Sequence[RowFile]) -> dict[str, list[RowFile]]:
    """Files by the whole that they are `-00001-of-00005` of, in order.

    Raises:
        DataError: If one is missing.
    """
    shards: dict[str, dict[int, RowFile]] = {}
    counts: dict[str, int] = {}
    for file in files:
        path = PurePosixPath(file.label)
        found = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})", path.stem)
        whole = f"{path.with_name(found[1])}-?-of-{found[3]}" if found else file.label
        counts[whole] = int(found[3]) if found else 1
        shards.setdefault(whole, {})[int(found[2]) if found else 0] = file
    for whole, parts in shards.items():
        absent = [number for number in range(counts[whole]) if number not in parts]
        if absent:
            names = ", ".join(whole.replace("?", f"{n:05d}") for n in absent[:_NUM_SHOWN])
            raise DataError(
                f"Of {counts[whole]} files of rows, {len(absent)} are missing: {names}."
            )
    return {whole: [parts[n] for n in sorted(parts)] for whole, parts in shards.items()}


def _has_word(file: RowFile, word: str) -> bool:
    return re.search(rf"(?<![a-z]){word}(?![a-z])", file.label.lower()) is not None


def _matches(location: PurePosixPath, pattern: str) -> bool:
    text = location.as_posix()
    return fnmatch.fnmatch(text, pattern) or fnmatch.fnmatch(text, f"*/{pattern}")


def read_rows(
    layout: Layout, chosen: Sequence[RowFile], problems: Problems
) -> tuple[list[dict[str, Any]], list[str]]:
    """All rows without their pictures, and how a message calls each."""
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    columns = [name for name in layout.needed_columns if name not in layout.images]
    for file in chosen:
        lacking = sorted(set(layout.needed_columns) - set(file.columns))
        if lacking:
            problems.add(
                "Columns that are missing",
                f"{file.label} lacks {', '.join(lacking)}; it has {', '.join(file.columns)}",
            )
            continue
        for number, row in enumerate(file.read(columns), 1):
            rows.append(row)
            key = ", ".join(f"{name} {row[name]!r}" for name in layout.unique)
            places.append(f"{file.label} row {number}" + (f" ({key})" if key else ""))
    if not rows and not problems:
        problems.add("Rows that are missing", "there is not a single row")
    return rows, places


def check_rows(
    layout: Layout, rows: Sequence[Mapping[str, Any]], places: Sequence[str], problems: Problems
) -> None:
    """Note ids that are empty or there twice, rows without options, answers that are no option."""
    seen: dict[tuple[str, ...], str] = {}
    for row, place in zip(rows, places, strict=True):
        if layout.unique:
            key = tuple(str(row[name]) for name in layout.unique)
            if not all(cell.strip() and cell != "None" for cell in key):
                problems.add("Rows without an id", place)
            elif key in seen:
                problems.add("Ids that are there twice", f"{place}, as in {seen[key]}")
            seen.setdefault(key, place)
        options = _options(layout, row)
        if layout.options and (options is None or len(options) < 2):
            problems.add("Rows without options", f"{place}: {[row[n] for n in layout.options]!r}")
        elif options is not None and not all(str(o).strip() for o in options):
            problems.add("Rows with an empty option", f"{place}: {options!r}")
        if layout.answer is not None:
            _check_answer(layout, row[layout.answer], options, place, problems)


def _options(layout: Layout, row: Mapping[str, Any]) -> list[Any] | None:
    if not layout.options:
        return None
    if layout.options_in_one_column:
        value = row[layout.options[0]]
        return list(value) if isinstance(value, (list, tuple)) else None
    cells = [row[name] for name in layout.options]
    return [cell for cell in cells if cell is not None and str(cell).strip() not in ("", "N/A")]


def _check_answer(
    layout: Layout, answer: Any, options: Sequence[Any] | None, place: str, problems: Problems
) -> None:
    if answer is None or (isinstance(answer, str) and not answer.strip()) or answer == []:
        problems.add("Rows without an answer", place)
        return
    count = len(options) if options else 26
    if layout.answer_form == "letter":
        letter = str(answer).strip()
        wrong = len(letter) != 1 or not 0 <= ord(letter) - ord("A") < count
    elif layout.answer_form == "index":
        text = str(answer).strip()
        wrong = not re.fullmatch(r"\d+", text) or int(text) >= count
    else:
        wrong = False
    if wrong:
        problems.add(
            "Answers that are none of the options", f"{place}: {answer!r} of {count} options"
        )


def check_pictures(
    layout: Layout,
    chosen: Sequence[RowFile],
    problems: Problems,
    progress: Progress,
) -> None:
    """Open every picture that lies in a column."""
    for column in layout.images:
        done = 0
        for file in chosen:
            number = 0
            for table in file.batches([column]):
                cells = table[column].to_pylist()
                with concurrent.futures.ThreadPoolExecutor() as pool:
                    for cell, wrong in zip(cells, pool.map(_picture_problem, cells), strict=True):
                        number += 1
                        if cell is None and column == layout.images[0]:
                            wrong = "there is none"
                        if wrong:
                            problems.add(
                                "Pictures that cannot be read",
                                f"{file.label} row {number}, {column}: {wrong}",
                            )
                done += len(cells)
                progress("opening pictures", done, sum(f.num_rows for f in chosen))


def _picture_problem(cell: Any) -> str | None:
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if cell is None:
        return None  # not every row has a second picture: MMMU's image_2 to image_7
    if not isinstance(data, bytes):
        return "there is no picture data, only a path" if cell else "it is empty"
    return unreadable_picture(io.BytesIO(data))


def unreadable_picture(stream: Any) -> str | None:
    """Why a picture cannot be decoded, or None."""
    from PIL import Image

    try:
        with whole_pictures_only(), Image.open(stream) as picture:
            picture.load()
    except Exception as error:  # what Pillow raises depends on the format
        return f"it is not a whole picture: {error}"
    return None
