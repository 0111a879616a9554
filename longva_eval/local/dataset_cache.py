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
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from longva_eval.errors import DataError
from longva_eval.local.layouts import Layout
from longva_eval.local.rows import RowFile

__all__ = ["CachedSplit", "find_cached_splits", "split_to_lay_out"]

_HASH = "longva_eval"
"""Stands where `datasets` has a commit or a fingerprint."""
_VERSION = "0.0.0"
_RECORD = "longva_eval.json"


@dataclass(frozen=True)
class CachedSplit:
    """A split as `datasets` keeps it."""

    files: tuple[Path, ...]
    num_rows: int
    """As `dataset_info.json` says."""

    def rows(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The rows, with these columns; those that are not there are left out."""
        rows: list[dict[str, Any]] = []
        for path in self.files:
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
                names = [name for name in columns if name in reader.schema.names]
                for batch in reader:
                    rows += batch.select(names).to_pylist()
        return rows

    def cells(self, column: str) -> Iterator[Any]:
        """A column, cell by cell; pictures as `{bytes, path}`."""
        for path in self.files:
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
                for batch in reader:
                    yield from batch.column(column).to_pylist()

    def dataset(self) -> Any:
        """The rows as lmms-eval gives them to a task, a `datasets.Dataset`."""
        from datasets import Dataset, concatenate_datasets

        return concatenate_datasets([Dataset.from_file(str(path)) for path in self.files])


@contextmanager
def split_to_lay_out(
    hf_home: Path, layout: Layout, files: Sequence[RowFile]
) -> Iterator[CachedSplit]:
    """Rows as a split, to be looked at; put into the cache of `datasets` unless that raises.

    The other splits of the same configuration stay. A split that is there from the same files is
    not written again.
    """
    from filelock import FileLock

    folder = _dataset_folder(hf_home, layout.dataset) / (layout.config or "default")
    folder = folder / _VERSION / _HASH
    wanted = {"sha256": [file.digest() for file in files], "images": list(layout.images)}
    ours = hf_home / "longva_eval"
    ours.mkdir(parents=True, exist_ok=True)
    with FileLock(ours / "prepare.lock"):
        record = _read_record(folder)
        there = _arrow_file(folder, layout)
        if record.get(layout.split) == wanted and there.is_file():
            yield CachedSplit((there,), sum(file.num_rows for file in files))
            return
        unfinished = ours / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
        unfinished.mkdir()
        try:
            yield _write(unfinished, folder, layout, files)
            (unfinished / _RECORD).write_text(
                json.dumps({**record, layout.split: wanted}, indent=1), encoding="utf-8"
            )
            folder.parent.mkdir(parents=True, exist_ok=True)
            if folder.exists():
                shutil.rmtree(folder)
            unfinished.rename(folder)
            os.utime(folder)  # the youngest is the one that is read
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def find_cached_splits(hf_home: Path, layout: Layout) -> list[CachedSplit]:
    """Copies of a split in the cache, from us or from a download, the one that is read first."""
    infos = _dataset_folder(hf_home, layout.dataset).glob(
        f"{layout.config or '*'}/*/*/dataset_info.json"
    )
    found = []
    for folder in sorted((p.parent for p in infos), key=lambda f: -f.stat().st_mtime_ns):
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        entry = (info.get("splits") or {}).get(layout.split)
        if entry is not None and info.get("config_name") == folder.parts[-3]:
            name = re.compile(rf".*-{layout.split}(-\d+-of-\d+)?\.arrow")
            files = tuple(sorted(f for f in folder.glob("*.arrow") if name.fullmatch(f.name)))
            found.append(CachedSplit(files, int(entry["num_examples"])))
    return found


def _dataset_folder(hf_home: Path, dataset: str) -> Path:
    from datasets.naming import camelcase_to_snakecase

    *namespace, name = dataset.split("/")
    return hf_home / "datasets" / "___".join([*namespace, camelcase_to_snakecase(name)])


def _arrow_file(folder: Path, layout: Layout, split: str = "") -> Path:
    from datasets.naming import filename_prefix_for_split

    name = layout.dataset.split("/")[-1]
    return folder / f"{filename_prefix_for_split(name, split or layout.split)}.arrow"


def _read_record(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        record: dict[str, Any] = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return record
    return {}


def _write(new: Path, current: Path, layout: Layout, files: Sequence[RowFile]) -> CachedSplit:
    """Write a split, and link the others of its configuration beside it."""
    from datasets import DatasetInfo, Features, Image, Version
    from datasets.naming import camelcase_to_snakecase
    from datasets.splits import SplitDict, SplitInfo
    from datasets.table import table_cast

    features = Features.from_arrow_schema(_common_schema(files))
    for column in layout.images:
        features[column] = Image()
    schema = features.arrow_schema
    path = _arrow_file(new, layout)
    num_rows = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for file in files:
            for batch in file.batches():
                table = _with_pictures(pa.Table.from_batches([batch]), layout.images, file.label)
                writer.write_table(table_cast(table.select(schema.names), schema))
                num_rows += table.num_rows
    name = camelcase_to_snakecase(layout.dataset.split("/")[-1])
    splits = SplitDict(dataset_name=name)
    previous: Mapping[str, SplitInfo] = {}
    if (current / "dataset_info.json").is_file():
        info = DatasetInfo.from_directory(str(current))
        previous = info.splits or {} if info.features == features else {}
    for other, split_info in previous.items():
        arrow = _arrow_file(current, layout, other)
        if other != layout.split and arrow.is_file():
            os.link(arrow, new / arrow.name)
            splits[other] = split_info
    splits[layout.split] = SplitInfo(
        name=layout.split,
        num_bytes=path.stat().st_size,
        num_examples=num_rows,
        dataset_name=name,
    )
    DatasetInfo(
        features=features,
        builder_name="parquet",
        dataset_name=name,
        config_name=layout.config or "default",
        version=Version(_VERSION),
        splits=splits,
        dataset_size=sum(int(split.num_bytes) for split in splits.values()),
    ).write_to_directory(str(new))
    return CachedSplit((path,), num_rows)


def _common_schema(files: Sequence[RowFile]) -> pa.Schema:
    """The files' schema, with the types that hold every file's values."""
    names = ", ".join(file.label for file in files)
    columns = {tuple(sorted(file.columns)) for file in files}
    if len(columns) > 1:
        raise DataError(f"The files {names} must have the same columns.")
    schemas = [file.schema for file in files]
    try:
        schema = pa.unify_schemas(
            [s.remove_metadata() for s in schemas], promote_options="permissive"
        )
    except pa.ArrowException as error:
        raise DataError(f"The files {names} have columns of different kinds: {error}") from error
    # `datasets` keeps its own types (pictures, class names) there; only if no type was widened.
    return schema.with_metadata(schemas[0].metadata) if schemas[0].equals(schema) else schema


def _with_pictures(table: pa.Table, columns: Sequence[str], label: str) -> pa.Table:
    """Pictures as `datasets` stores them: {bytes, path}."""
    for column in columns:
        kind = table.schema.field(column).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            cells = [{"bytes": cell, "path": None} for cell in table[column].to_pylist()]
            struct = pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
            table = table.set_column(table.schema.get_field_index(column), column, struct)
        elif not pa.types.is_struct(kind) and not pa.types.is_null(kind):
            raise DataError(
                f"{label}: the column {column!r} should hold pictures and holds {kind}."
            )
    return table
