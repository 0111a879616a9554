"""Rows of a local copy of a data set, written where `datasets` looks when it is offline.

Without a network `datasets.load_dataset("owner/Name", "config")` reads only its own cache,
`$HF_HOME/datasets/owner___name/<config>/<version>/<hash>/{dataset_info.json, name-split.arrow}`:
neither the hub's snapshots nor a folder of parquet files will do. The configuration's folder must
be called as `dataset_info.json` calls it. Of several hashes the youngest is read; ours is always
called `longva_eval`, so that the same configuration is never there twice from us, and two
configurations of one data set, asked for without a name, are an error of `datasets` and not a
choice by date.

`datasets` is imported where it is used: it takes a second. No torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from longva_eval.errors import DataError

__all__ = [
    "ROW_SUFFIXES",
    "CachedSplit",
    "RowFile",
    "find_cached_splits",
    "open_row_file",
    "read_cached_rows",
    "write_split",
]

ROW_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
CACHE_HASH = "longva_eval"
"""Stands where `datasets` has a commit or a fingerprint."""
_VERSION = "0.0.0"
_RECORD = "longva_eval.json"
_BATCH_ROWS = 256


@dataclass(frozen=True)
class RowFile:
    """A file of rows."""

    path: Path
    label: str
    """How messages call it: its path below the folder that was given."""
    columns: tuple[str, ...]
    num_rows: int
    table: pa.Table | None = None
    """Its rows; None for parquet, which is read when needed."""

    def read(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The rows, with these columns only; those it lacks are left out."""
        names = [name for name in columns if name in self.columns]
        table = pq.read_table(self.path, columns=names) if self.table is None else self.table
        rows: list[dict[str, Any]] = table.select(names).to_pylist()
        return rows or [{} for _ in range(self.num_rows)]

    def schema(self) -> pa.Schema:
        return pq.read_schema(self.path) if self.table is None else self.table.schema

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows in pieces, as a table each."""
        if self.table is None:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                    yield pa.Table.from_batches([batch])
        else:
            table = self.table if columns is None else self.table.select(list(columns))
            for batch in table.to_batches(_BATCH_ROWS):
                yield pa.Table.from_batches([batch])

    def digest(self) -> str:
        """SHA-256 of the file."""
        digest = hashlib.sha256()
        with self.path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True)
class CachedSplit:
    """A split in the cache of `datasets`."""

    files: tuple[Path, ...]
    config: str
    split: str
    num_rows: int
    """As `dataset_info.json` says."""


def open_row_file(path: Path, label: str) -> RowFile:
    """Look at a file of rows: parquet, a JSON list (or an object that holds one), JSON lines, CSV.

    Raises:
        DataError: If it cannot be read as what its name says.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                names = tuple(file.schema_arrow.names)
                return RowFile(path, label, names, file.metadata.num_rows)
        if suffix in (".csv", ".tsv"):
            table = _read_csv(path, "\t" if suffix == ".tsv" else ",")
        else:
            table = _to_table(_read_json(path, lines=suffix == ".jsonl"), label)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{label} cannot be read as {suffix[1:]}: {error}") from error
    return RowFile(path, label, tuple(table.column_names), table.num_rows, table)


def write_split(
    hf_home: Path,
    *,
    dataset: str,
    config: str | None,
    split: str,
    files: Sequence[RowFile],
    image_columns: Sequence[str] = (),
    source: Mapping[str, Any],
) -> Path:
    """Lay rows out as a split in the cache of `datasets`, beside the splits that are there.

    Args:
        hf_home: The folder HF_HOME will name.
        dataset: Its id on the hub, `owner/Name`.
        config: Its configuration; None for `default`.
        split: The split.
        files: The rows, in order.
        image_columns: Columns that hold pictures, as `{bytes, path}` or as encoded bytes.
        source: Where they come from; kept beside them, and what decides whether the split is
            written again.

    Returns:
        The folder that `datasets` will read.
    """
    from filelock import FileLock

    lock = hf_home / "longva_eval" / "prepare.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        return _write_split(hf_home, dataset, config, split, files, image_columns, source)


def _write_split(
    hf_home: Path,
    dataset: str,
    config: str | None,
    split: str,
    files: Sequence[RowFile],
    image_columns: Sequence[str],
    source: Mapping[str, Any],
) -> Path:
    folder = _dataset_folder(hf_home, dataset) / (config or "default") / _VERSION / CACHE_HASH
    record = _read_record(folder)
    if record.get(split) == source and _is_whole(folder, split):
        return folder
    temporary = hf_home / "longva_eval" / "unfinished" / uuid.uuid4().hex
    temporary.mkdir(parents=True)
    try:
        _write(temporary, folder, dataset, config, split, files, image_columns)
        (temporary / _RECORD).write_text(
            json.dumps({**record, split: source}, indent=1), encoding="utf-8"
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            old = temporary.with_name(f"{temporary.name}.old")
            folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
        os.utime(folder)  # the youngest is the one that is read
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # another one may be at work there
            temporary.parent.rmdir()
    return folder


def find_cached_splits(
    hf_home: Path, *, dataset: str, config: str | None, split: str
) -> list[CachedSplit]:
    """Copies of a split in the cache, from us or from a download, the one that is read first."""
    folders = [
        info.parent
        for info in _dataset_folder(hf_home, dataset).glob(f"{config or '*'}/*/*/dataset_info.json")
    ]
    folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    found = []
    for folder in folders:
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        entry = (info.get("splits") or {}).get(split)
        if entry is not None and info.get("config_name") == folder.parts[-3]:
            files = tuple(sorted(folder.glob(f"*-{split}*.arrow")))
            files = tuple(f for f in files if re.search(rf"-{split}(-\d+-of-\d+)?\.arrow$", f.name))
            found.append(CachedSplit(files, folder.parts[-3], split, int(entry["num_examples"])))
    return found


def read_cached_rows(cached: CachedSplit, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a split in the cache, with these columns; those that are not there are left out."""
    rows: list[dict[str, Any]] = []
    for path in cached.files:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            names = [name for name in columns if name in reader.schema.names]
            for batch in reader:
                rows += batch.select(names).to_pylist()
    return rows


def _dataset_folder(hf_home: Path, dataset: str) -> Path:
    from datasets.naming import camelcase_to_snakecase

    *namespace, name = dataset.split("/")
    return hf_home / "datasets" / "___".join([*namespace, camelcase_to_snakecase(name)])


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record


def _is_whole(folder: Path, split: str) -> bool:
    return (folder / "dataset_info.json").is_file() and any(folder.glob(f"*-{split}.arrow"))


def _write(
    temporary: Path,
    current: Path,
    dataset: str,
    config: str | None,
    split: str,
    files: Sequence[RowFile],
    image_columns: Sequence[str],
) -> None:
    from datasets import DatasetInfo, Features, Image, Version
    from datasets.naming import camelcase_to_snakecase, filename_prefix_for_split
    from datasets.splits import SplitDict, SplitInfo
    from datasets.table import table_cast

    name = dataset.split("/")[-1]
    features = Features.from_arrow_schema(_common_schema(files))
    for column in image_columns:
        features[column] = Image()
    path = temporary / f"{filename_prefix_for_split(name, split)}.arrow"
    num_rows = 0
    with pa.OSFile(str(path), "wb") as sink:
        schema = features.arrow_schema
        with pa.ipc.new_stream(sink, schema) as writer:
            for file in files:
                for table in file.batches():
                    for column in image_columns:
                        table = _as_pictures(table, column, file.label)
                    piece = table_cast(table.select(schema.names), schema)
                    writer.write_table(piece)
                    num_rows += piece.num_rows
    splits = SplitDict(dataset_name=camelcase_to_snakecase(name))
    if (current / "dataset_info.json").is_file():
        previous = DatasetInfo.from_directory(str(current))
        for other, info in (previous.splits or {}).items():
            arrow = current / f"{filename_prefix_for_split(name, other)}.arrow"
            if other != split and arrow.is_file() and previous.features == features:
                os.link(arrow, temporary / arrow.name)
                splits[other] = info
    splits[split] = SplitInfo(
        name=split,
        num_bytes=path.stat().st_size,
        num_examples=num_rows,
        dataset_name=camelcase_to_snakecase(name),
    )
    DatasetInfo(
        features=features,
        builder_name="parquet",
        dataset_name=camelcase_to_snakecase(name),
        config_name=config or "default",
        version=Version(_VERSION),
        splits=splits,
        dataset_size=sum(int(info.num_bytes) for info in splits.values()),
    ).write_to_directory(str(temporary))


def _common_schema(files: Sequence[RowFile]) -> pa.Schema:
    """The files' schema: of the first, with the types that hold every file's values."""
    schemas = [file.schema() for file in files]
    try:
        schema = pa.unify_schemas(
            [s.remove_metadata() for s in schemas], promote_options="permissive"
        )
    except pa.ArrowException as error:
        names = ", ".join(file.label for file in files)
        raise DataError(f"The files {names} have columns of different kinds: {error}") from error
    missing = {
        file.label: sorted(set(schema.names) - set(file.columns))
        for file in files
        if set(schema.names) != set(file.columns)
    }
    if missing:
        listed = "; ".join(f"{label} lacks {', '.join(names)}" for label, names in missing.items())
        raise DataError(f"The files of one split must have the same columns: {listed}.")
    metadata = schemas[0].metadata
    # `datasets` keeps its own types (pictures, class names) there; only if no type was widened.
    return schema.with_metadata(metadata) if schemas[0].equals(schema) else schema


def _as_pictures(table: pa.Table, column: str, label: str) -> pa.Table:
    """Pictures as `datasets` stores them: {bytes, path}."""
    kind = table.schema.field(column).type
    if pa.types.is_struct(kind):
        return table
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        cells = [{"bytes": b, "path": None} for b in table[column].to_pylist()]
        struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        position = table.schema.get_field_index(column)
        return table.set_column(position, column, pa.array(cells, struct))
    raise DataError(f"{label}: the column {column!r} should hold pictures and holds {kind}.")


def _read_json(path: Path, *, lines: bool) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    rows: Any
    if lines:
        rows = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
    else:
        rows = json.loads(text)
        if isinstance(rows, dict):  # {"version": ..., "data": [...]}
            lists = [value for value in rows.values() if _is_rows(value)]
            if len(lists) != 1:
                raise ValueError("it is neither a list of rows nor an object with one such list")
            rows = lists[0]
    if not _is_rows(rows):
        raise ValueError("it holds no list of rows (objects)")
    return list(rows)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _to_table(rows: Sequence[Mapping[str, Any]], label: str) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    arrays = []
    for name in names:
        try:
            arrays.append(pa.array([row.get(name) for row in rows]))
        except (pa.ArrowException, OverflowError) as error:
            kinds = sorted({type(row.get(name)).__name__ for row in rows})
            raise DataError(
                f"{label}: the column {name!r} holds values of different kinds "
                f"({', '.join(kinds)}): {error}"
            ) from error
    return pa.table(arrays, names=names)


def _read_csv(path: Path, delimiter: str) -> pa.Table:
    """CSV with every cell kept: a column becomes numbers only if none of its cells changes."""
    from pyarrow import csv

    with path.open("rb") as stream:
        header = stream.readline().decode("utf-8-sig").rstrip("\r\n")
    import csv as plain_csv

    names = next(plain_csv.reader([header], delimiter=delimiter))
    table = csv.read_csv(
        path,
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        read_options=csv.ReadOptions(column_names=names, skip_rows=1),
        convert_options=csv.ConvertOptions(
            column_types={name: pa.string() for name in names}, strings_can_be_null=False
        ),
    )
    arrays = []
    for name in table.column_names:
        cells = table[name].to_pylist()
        if cells and all(re.fullmatch(r"-?(0|[1-9]\d{0,17})", cell) for cell in cells):
            arrays.append(pa.array([int(cell) for cell in cells]))
        elif cells and all(re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", cell) for cell in cells):
            arrays.append(pa.array([float(cell) for cell in cells]))
        else:
            arrays.append(pa.array(cells, pa.string()))
    return pa.table(arrays, names=table.column_names)
