"""All tasks at once: what their YAML, README, layout and the page of benchmarks say agrees."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from longva_eval.embedded import tasks_folder
from longva_eval.local.layouts import read_layouts

TASKS = tasks_folder()
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
YAMLS = sorted(TASKS.glob("*/*.yaml"))
# The needle grid's records have no videos that questions share; its needles are few and fixed.
NEEDLES = "vniah"


class _Function(str):
    """What stands behind `!function`."""


class _Loader(yaml.CSafeLoader):
    """YAML as lmms-eval reads it, without loading the functions."""


_Loader.add_constructor("!function", lambda loader, node: _Function(node.value))


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    include = found.pop("include", None)
    return (read(path.parent / include) if include else {}) | found


@cache
def utils(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"catalogue_{folder.name}", folder / "utils.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name_of(path: Path) -> str:
    found = read(path)
    return str(found["task"] if "group" not in found else found["group"])


def functions(value: Any) -> list[str]:
    if isinstance(value, _Function):
        return [str(value)]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [name for each in inner for name in functions(each)]


def single_tasks() -> list[Path]:
    return [path for path in YAMLS if "group" not in read(path)]


def page_rows() -> dict[str, str]:
    """The first row of the page's tables for each id that begins one."""
    found: dict[str, str] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cell = line.split("|")[1] if line.startswith("|") else ""
        for name in re.findall(r"`(\w+)`", cell):
            found.setdefault(name, line)
    return found


def test_the_names_of_files_and_ids_agree() -> None:
    assert len(YAMLS) > 50
    assert [name_of(path) for path in YAMLS] == [path.stem for path in YAMLS]


def test_every_task_and_group_has_a_row_on_the_page_of_benchmarks() -> None:
    rows = page_rows()
    missing = [path.stem for path in YAMLS if path.stem not in rows]
    assert not missing
    unknown = [name for name in rows if name.startswith(("longva_", "vniah"))]
    assert set(unknown) <= {path.stem for path in YAMLS}


@pytest.mark.slow
def test_every_row_of_the_page_has_its_columns_and_single_tasks_their_time() -> None:
    rows = page_rows()
    seconds = re.compile(r"\d+\.\d(, \d+\.\d)*")  # one for each task of the row
    untimed = set()
    for path in single_tasks():
        cells = [cell.strip() for cell in rows[path.stem].strip("|").split("|")]
        assert all(cells), rows[path.stem]
        if not seconds.fullmatch(cells[-1]):
            untimed.add(path.stem)
            continue
        assert cells[0].count("`") == 2 * len(cells[-1].split(", ")), rows[path.stem]
    needles = {path.stem for path in single_tasks() if path.parent.name == NEEDLES}
    assert untimed == needles - {"vniah_small", "vniah_generate_frames", "vniah_generate_clip"}


def test_every_folder_has_a_readme_that_names_its_tasks() -> None:
    for path in YAMLS:
        text = (path.parent / "README.md").read_text(encoding="utf-8")
        # `longva_x`, or one of several: `longva_videomme_short`, `_medium`.
        ends = [path.stem, *(path.stem[m.start() :] for m in re.finditer("_", path.stem))]
        assert any(f"`{end}`" in text for end in ends), path


@pytest.mark.parametrize("folder", sorted({path.parent for path in single_tasks()}), ids=str)
def test_every_readme_states_paper_data_and_revision(folder: Path) -> None:
    text = " ".join((folder / "README.md").read_text(encoding="utf-8").split())
    if folder.name == "mini":
        assert "drawn from a seed" in text
        return
    assert re.search(r"arXiv[: ]\d{4}\.\d{5}", text)
    assert re.search(r"\*\*Data[.*]|^Data:|Data: \[", text)
    pinned = {
        layout.revision
        for layout in read_layouts().values()
        if layout.revision and set(layout.tasks) & {path.stem for path in folder.glob("*.yaml")}
    }
    assert all(revision[:7] in text for revision in pinned)
    not_pinned = r"[Nn]o (revision|commit) (is )?pinned|none is pinned"
    assert pinned or re.search(not_pinned, text)


@pytest.mark.slow
def test_no_revision_is_anything_but_a_whole_commit() -> None:
    for layout in read_layouts().values():
        assert layout.revision is None or re.fullmatch(r"[0-9a-f]{40}", layout.revision)
    for path in single_tasks():
        revision = (read(path).get("dataset_kwargs") or {}).get("revision")
        assert revision is None or re.fullmatch(r"[0-9a-f]{40}", revision), path


def test_every_task_has_a_version_and_its_reports_their_keys() -> None:
    for path in YAMLS:
        settings = read(path)
        assert isinstance(settings["metadata"], dict), path
        assert float(settings["metadata"]["version"]) >= 1.0, path
        if "group" in settings:
            assert set(settings["task"]) <= {other.stem for other in YAMLS}, path
        elif path.parent.name != NEEDLES:
            assert settings["cluster_key"] == "cluster", path
            assert settings["score_key"] == "score", path


@pytest.mark.slow
def test_long_answers_say_where_they_end() -> None:
    """By default lmms-eval ends an answer at its first blank line."""
    for path in single_tasks():
        settings = read(path).get("generation_kwargs") or {}
        assert settings.get("max_new_tokens", 0) <= 64 or "until" in settings, path


def test_every_function_that_a_task_names_is_there() -> None:
    for path in YAMLS:
        for name in functions(read(path)):
            # As lmms-eval looks it up: in the folder's utils.py, else as a module.
            module, function = name.rsplit(".", 1)
            found = utils(path.parent) if module == "utils" else importlib.import_module(module)
            assert callable(getattr(found, function, None)), f"{path}: {name}"


@pytest.mark.slow
def test_the_data_of_a_task_is_that_of_its_layout() -> None:
    settings = {path.stem: read(path) for path in single_tasks()}
    layouts = read_layouts().values()
    for layout in layouts:
        ours = [task for task in layout.tasks if task.startswith("longva_")]
        assert ours, layout.name
        # The only configuration of a data set need not be named.
        configs = {other.config for other in layouts if other.dataset == layout.dataset}
        names = {layout.config} | ({None} if len(configs) == 1 else set())
        for task in ours:
            assert settings[task]["dataset_path"] == layout.dataset, task
            assert settings[task].get("dataset_name") in names, task
            assert settings[task]["test_split"] == layout.split, task


@pytest.mark.process
def test_ids_are_ours_alone_and_layouts_name_tasks_that_exist() -> None:
    """Where both have an id, lmms-eval's wins, silently."""
    from lmms_eval.models import get_model_manifest
    from lmms_eval.tasks import TaskManager

    get_model_manifest("longva")  # loads the plugins
    index = TaskManager().task_index
    for path in YAMLS:
        assert Path(index[path.stem]["yaml_path"]).parent == path.parent
    named = {task for layout in read_layouts().values() for task in layout.tasks}
    assert not named - set(index)


_BENCHMARKS = {
    "longva_videomme": "Video-MME",
    "longva_ai2d": "AI2D",
    "longva_chartqa": "ChartQA",
    "longva_docvqa": "DocVQA",
    "longva_infovqa": "InfoVQA",
    "longva_realworldqa": "RealWorldQA",
    "longva_mmmu": "MMMU",
    "longva_nextqa": "NExT-QA",
    "longva_activitynetqa": "ActivityNet-QA",
    "longva_videochatgpt": "VideoChatGPT",
    "longva_video_dd": "VideoDetailedDescription",
    "longva_longvideobench": "LongVideoBench",
    "longva_mlvu": "MLVU",
    "longva_lvbench": "LVBench",
    "longva_vdc": "VDC",
}
"""As scores.csv calls them."""


def test_published_numbers_of_the_page_are_those_of_the_published_tables() -> None:
    """Every decimal number in a column `LongVA-7B` is one that a source has for LongVA there."""
    models = ("LongVA", "LongVA (AnyRes)", "LongVA (UniRes)")
    with (ROOT / "longva_eval/data/published/scores.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] in models]
    num_seen = 0
    column: int | None = None
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line[:1] == "|" else []
        if not cells:
            column = None
        elif "LongVA-7B" in cells:
            column = cells.index("LongVA-7B")
        elif column is not None and (numbers := re.findall(r"\b\d+\.\d+\b", cells[column])):
            (benchmark,) = {
                name for task, name in _BENCHMARKS.items() if cells[0].startswith(f"`{task}")
            }
            printed = {float(row["value"]) for row in rows if row["benchmark"] == benchmark}
            assert {float(number) for number in numbers} <= printed, line
            num_seen += len(numbers)
    assert num_seen > 30
