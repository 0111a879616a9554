"""Benchmarks and needles through lmms-eval, and `longva-eval niah`, on a model of every family."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from tiny_families import KINDS, make_family

from longva_eval.cli import main
from longva_eval.commands.sweep import run_study
from longva_eval.embedded import NEEDLES
from longva_eval.needle.kinds import DRAWN_TESTS
from longva_eval.reports.reading.runs import read_runs
from longva_eval.studies.definition import Study

pytestmark = [
    pytest.mark.process,
    # lmms-eval leaves the file of its results open.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TASKS = ("longva_mini_small", "vniah_order_generate", "vniah_small")
ALL_TESTS = (
    "vniah_order",
    *(f"vniah_{test}_generate" for test in DRAWN_TESTS if test != "order"),
)
"""Asked of two families, which take frames one by one and in pairs."""


@pytest.fixture(scope="module")
def hf_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint of a family, made once."""
    folder = tmp_path_factory.mktemp("families")
    return functools.cache(lambda name: make_family(folder / name, name))


@pytest.mark.parametrize("name", KINDS)
def test_tasks_run_through_lmms_eval(
    hf_home: Path,
    family: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("HF_HOME", str(hf_home))
    # An answer behind a thought has no likelihood to compare by.
    tasks = TASKS[:2] if "thinking" in name else TASKS
    tasks += ALL_TESTS if name in ("internvl", "qwen2_5_vl") else ()
    study = Study(
        model="longva_hf",
        pretrained=str(family(name)),
        tasks=tasks,
        frames=(6,),
        limit=3,
        model_args={"device": "cpu", "dtype": "float32"}
        | ({"thinking": "on", "max_thinking_tokens": "8"} if "thinking" in name else {}),
    )
    assert run_study(study, tmp_path / "out") == 0
    (run,) = read_runs(tmp_path / "out" / "points")
    assert run.model == "longva_hf"
    for task in tasks:
        samples = run.tasks[task].samples
        assert len(samples) == 3
        for sample in samples:
            assert sample.outcome != "failed"
    for task in [each for each in tasks if each in ALL_TESTS[1:]]:
        file = next((tmp_path / "out").rglob(f"*_samples_{task}.jsonl"))
        for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            record = line["vniah_accuracy"]
            places = [*record["insert_indices"], *record["distractor_indices"]]
            assert places
            assert line["longva_eval"]["frames_asked"] == record["num_frames"] + len(places)
    if "vniah_order" in tasks:  # a picture fills a pair where frames are seen in pairs
        line = next((tmp_path / "out").rglob("*_samples_vniah_order.jsonl")).read_text()
        record = json.loads(line.splitlines()[0])["vniah_accuracy"]
        size = 1 if name == "internvl" else 2
        gaps = [after - before for before, after in pairwise([0, *record["insert_indices"]])]
        shown = accumulate(-(-gap // size) * size for gap in gaps)
        assert record["times"] == [second + size * n for n, second in enumerate(shown)]
    if "thinking" in name:  # it is kept, apart from the answer
        text = next((tmp_path / "out").rglob("*_samples_longva_mini_small.jsonl")).read_text()
        assert all(json.loads(line)["longva_eval"]["thought"] for line in text.splitlines())
    recipe = json.loads(next((tmp_path / "out").rglob("*_results.json")).read_text())["longva_eval"]
    assert recipe["engine"]["tokens_computed"] < recipe["engine"]["tokens_asked"]


@pytest.fixture(scope="module")
def needles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the embedded needles."""
    folder = tmp_path_factory.mktemp("needles")
    entries = json.loads((NEEDLES / "dataset.json").read_text(encoding="utf-8"))[:1]
    (folder / "dataset.json").write_text(json.dumps(entries), encoding="utf-8")
    for entry in entries:
        shutil.copy(NEEDLES / entry["path"], folder)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_needles_are_asked_by_the_command(
    needles: Path,
    family: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    given = ["niah", "--pretrained", str(family(name)), "--out", str(tmp_path / "out")]
    given += ["--needles", str(needles), "--frames", "4,6", "--depths", "0,1"]
    given += ["--device", "cpu", "--dtype", "float32"]
    if "thinking" in name:
        assert main(given) == 1
        assert "opens every answer with a thought" in capsys.readouterr().err
        return
    assert main(given) == 0
    cells = [
        json.loads(line) for line in (tmp_path / "out" / "cells.jsonl").read_text().splitlines()
    ]
    assert {(cell["num_frames"], cell["depth"]) for cell in cells} == {
        (4, 0.0), (4, 1.0), (6, 0.0), (6, 1.0),
    }  # fmt: skip
    assert all(cell["logprob"] < 0 for cell in cells)
