"""The rows of a local copy: which files hold them, and what they hold.

Files are known by their columns; among those that fit, by the folder of the configuration and the
name of the split. Nothing is chosen between files that fit equally well. No torch.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from longva_eval.errors import DataError
from longva_eval.local.layouts import Layout
from longva_eval.local.sources import SourceFiles

__all__ = ["RowFile", "choose_row_files", "open_row_file"]

_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
"""The best first."""
_LARGEST_TEXT_BYTES = 1 << 30
_SPLIT_WORD = re.compile(r"(?<![a-z])(test|validation|val|dev|train|lite)(?![a-z])")
_SAME_SPLIT = {"val": "validation", "dev": "validation"}
_SHARD = re.compile(r"-\d{5}-of-(\d{5})(?=\.\w+$)")
_BATCH_ROWS = 256
_NUM_SHOWN = 20


@dataclass(frozen=True)
class RowFile:
    """A file of rows."""

    path: Path
    label: str
    """How messages call it: its path below the folder that was given."""
    schema: pa.Schema
    num_rows: int
    table: pa.Table | None = None
    """Its rows; None for parquet, which is read when needed."""

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in pieces."""
        if self.table is not None:
            yield from self.table.to_batches(_BATCH_ROWS)
        else:
            with pq.ParquetFile(self.path) as file:
                yield from file.iter_batches(_BATCH_ROWS)

    def digest(self) -> str:
        """SHA-256 of the file."""
        digest = hashlib.sha256()
        with self.path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


def choose_row_files(layout: Layout, files: SourceFiles, named: Sequence[Path]) -> list[RowFile]:
    """The files that hold the rows of a split, in order.

    Those that were named; else those whose columns fit, then those of the configuration's folder
    and of the split's name. What is then still several must be the shards of one table.

    Raises:
        DataError: If there are none, or several that could be meant.
    """
    if named:
        chosen = [open_row_file(path.expanduser().absolute(), str(path)) for path in named]
        for file in chosen:
            if lacking := set(layout.needed_columns) - set(file.columns):
                raise DataError(
                    f"{file.label} lacks {', '.join(sorted(lacking))}; it has "
                    f"{', '.join(file.columns)}."
                )
        return chosen
    fitting = _fitting_files(layout, files)
    if not _is_named_by_layout(layout, fitting[0]):
        fitting = _of_the_split(layout, fitting)
    tables = Counter(_SHARD.sub(r"-*-of-\1", file.label) for file in fitting)
    if len(tables) > 1 and not _is_named_by_layout(layout, fitting[0]):
        if len({file.digest() for file in fitting}) > 1:
            names = "\n".join(f"  {f.label} ({f.num_rows:,} rows)" for f in fitting[:_NUM_SHOWN])
            raise DataError(
                f"Several files could hold the {layout.split} rows of {layout.dataset}:\n{names}\n"
                "Name the right ones with --rows FILE."
            )
        return fitting[:1]
    for name, count in tables.items():
        whole = re.search(r"-\*-of-(\d{5})", name)
        if whole is not None and count != int(whole[1]):
            raise DataError(
                f"Of {int(whole[1])} files of rows, {int(whole[1]) - count} are missing; there "
                f"are only {', '.join(file.label for file in fitting[:_NUM_SHOWN])}."
            )
    return fitting


def _fitting_files(layout: Layout, files: SourceFiles) -> list[RowFile]:
    """Files with all columns, of the best format; those that the layout names, if there are any."""
    needed = set(layout.needed_columns)
    opened, unreadable = [], []
    for item in sorted(
        (item for group in files.by_name.values() for item in group),
        key=lambda item: item.location.as_posix(),
    ):
        suffix = item.location.suffix.lower()
        if suffix not in _SUFFIXES or (suffix != ".parquet" and item.size > _LARGEST_TEXT_BYTES):
            continue
        try:
            opened.append(open_row_file(item.path, item.location.as_posix()))
        except DataError as error:  # a subtitle, a licence: most JSON files hold no rows
            unreadable.append(str(error))
    opened = [file for file in opened if _is_named_by_layout(layout, file)] or opened
    for suffix in _SUFFIXES:
        fitting = [f for f in opened if f.path.suffix.lower() == suffix and needed <= {*f.columns}]
        if fitting:  # a folder may hold several data sets, each in one of its name
            names = {layout.dataset.split("/")[-1]}
            names.add("datasets--" + layout.dataset.replace("/", "--"))  # the hub's cache
            own = [f for f in fitting if names & {*PurePosixPath(f.label).parts[:-1]}]
            return own or fitting
    where = f"No file of rows for {layout.dataset} ({layout.split}) lies below {files.root}"
    looked = f"looked into {len(opened) + len(unreadable)} parquet, json, jsonl and csv files"
    if unreadable:
        looked += "; could not read " + "; ".join(unreadable[:3])
    nearest = max(opened, key=lambda file: len(needed & {*file.columns}), default=None)
    if nearest is None or not needed & {*nearest.columns}:
        raise DataError(f"{where} ({looked}). Get it from {layout.source}")
    lacking = sorted(needed - {*nearest.columns})
    raise DataError(
        f"{where} ({looked}). Nearest is {nearest.label}, which lacks the "
        f"column{'s' if len(lacking) > 1 else ''} {', '.join(lacking)} and has "
        f"{', '.join(nearest.columns)}."
    )


def _is_named_by_layout(layout: Layout, file: RowFile) -> bool:
    """By its last folders: those above them may be called like another data set."""
    return any(PurePosixPath(file.label).match(pattern) for pattern in layout.rows)


def _of_the_split(layout: Layout, fitting: list[RowFile]) -> list[RowFile]:
    """Of files with the right columns, those of this configuration and split."""
    if layout.config:
        of_config = [f for f in fitting if layout.config in PurePosixPath(f.label).parts[:-1]]
        fitting = of_config or fitting
    splits = {
        file.label: {
            _SAME_SPLIT.get(word, word) for word in _SPLIT_WORD.findall(file.label.lower())
        }
        for file in fitting
    }
    of_split = [file for file in fitting if layout.split in splits[file.label]]
    of_split = of_split or [file for file in fitting if not splits[file.label]]
    if not of_split:
        raise DataError(
            f"Files of rows for {layout.dataset} were found, but none of its split "
            f"{layout.split}; name them with --rows."
        )
    return of_split


def open_row_file(path: Path, label: str) -> RowFile:
    """Look at a file of rows: parquet, a JSON list (or an object that holds one), JSON lines, CSV.

    Raises:
        DataError: If it cannot be read as what its name says.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                _refuse_names(file.schema_arrow.names)
                return RowFile(path, label, file.schema_arrow, file.metadata.num_rows)
        if suffix in (".csv", ".tsv"):
            rows = _read_csv(path, "\t" if suffix == ".tsv" else ",")
        else:
            rows = _read_json(path, lines=suffix == ".jsonl")
        names = dict.fromkeys(name for row in rows for name in row)
        _refuse_names(names)
        table = pa.table({name: _column(name, rows) for name in names})
    except (OSError, ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{label} cannot be read as {suffix[1:]}: {error}") from error
    return RowFile(path, label, table.schema, table.num_rows, table)


def _refuse_names(names: Iterable[str]) -> None:
    if wrong := [name for name in names if "\0" in name]:  # pyarrow does not find it again
        raise ValueError(f"the name of the column {wrong[0]!r} holds a zero byte")


def _column(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Array:
    cells = [row.get(name) for row in rows]
    try:
        return pa.array(cells)
    except (pa.ArrowException, OverflowError) as error:
        kinds = ", ".join(sorted({type(cell).__name__ for cell in cells}))
        raise ValueError(
            f"the column {name!r} holds values of different kinds ({kinds}): {error}"
        ) from error


def _read_json(path: Path, *, lines: bool) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if lines:
        rows = []
        for number, line in enumerate(text.split("\n"), 1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    else:
        rows = json.loads(text)
    if isinstance(rows, dict):  # {"version": ..., "data": [...]}
        lists = [value for value in rows.values() if _is_rows(value)]
        rows = lists[0] if len(lists) == 1 else None
    if not _is_rows(rows):
        raise ValueError("it holds no list of rows (objects), nor an object with one such list")
    return list(rows)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _read_csv(path: Path, delimiter: str) -> list[dict[str, Any]]:
    """CSV with every cell kept: a column becomes numbers only if none of its cells changes."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows: list[dict[str, Any]] = list(csv.DictReader(stream, delimiter=delimiter, strict=True))
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has more or fewer cells than the header")
    for name in rows[0] if rows else ():
        for pattern, kind in (r"-?(0|[1-9]\d{0,17})", int), (r"-?(0|[1-9]\d*)(\.\d+)?", float):
            if all(re.fullmatch(pattern, row[name]) for row in rows):
                for row in rows:
                    row[name] = kind(row[name])
                break
    return rows
