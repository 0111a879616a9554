"""Mistakes are told before torch is imported, with the nearest name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from longva_eval.commands.mistakes import check_arguments
from longva_eval.errors import EvaluationError
from longva_eval.host import names

OURS = ["--model", "longva", "--tasks", "longva_mini_small"]


@pytest.mark.parametrize(
    ("command", "arguments", "told"),
    [
        ("run", ["--model", "lonva"], r"There is no model 'lonva'\. Did you mean 'longva'"),
        ("run", ["--model", "longva", "--tasks", "vniah_smal"], "Did you mean 'vniah_small'"),
        ("run", ["--tasks", "longva_mini,videome"], "task 'videome'. Did you mean 'videomme'"),
        ("run", [*OURS, "--model_args", "pretrained=longva-tny"], "Did you mean 'longva-tiny'"),
        ("run", [*OURS, "--config", "no_such.yaml"], "--config no_such.yaml does not exist"),
        ("run", [*OURS, "--output_path", "/dev/null/out"], "--output_path folder /dev/null/out"),
        ("sweep", ["--tasks", "longva_mni"], "Did you mean 'longva_mini'"),
        ("sweep", ["--pretrained", "./not/here"], "pretrained=./not/here: there is no such folder"),
        ("niah", ["--haystack", "no.mp4"], "--haystack no.mp4 does not exist"),
        ("niah", ["--needles", "no/such/needles"], "--needles no/such/needles does not exist"),
        ("niah", ["--out", "/dev/null/out"], "--out folder /dev/null/out cannot be written"),
        ("demo", ["--out", "/dev/null/out"], "--out folder /dev/null/out cannot be written"),
    ],
)
def test_a_mistake_is_told_in_one_line(command: str, arguments: list[str], told: str) -> None:
    with pytest.raises(EvaluationError, match=told) as error:
        check_arguments(command, arguments)
    assert "\n" not in str(error.value)


def test_a_file_that_is_misspelt_is_told_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(EvaluationError, match=r"Did you mean 'holiday\.mp4'"):
        check_arguments("niah", ["--haystack", str(tmp_path / "holyday.mp4")])


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("run", ["--tasks", "list_groups"]),
        ("run", ["--tasks", "vniah*", "--model", "qwen2_5_vl"]),
        ("run", [*OURS, "--model_args", "pretrained=lmms-lab/LongVA-7B"]),
        ("run", ["--model", "--help"]),
        ("niah", ["--needles", "lmms-lab/v_niah_needles", "--pretrained", "longva-tiny"]),
        ("compare", ["no_such_run"]),
    ],
)
def test_what_can_be_right_is_left_alone(command: str, arguments: list[str]) -> None:
    check_arguments(command, arguments)


def test_tasks_of_an_include_path_are_known(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("task: my_own_quiz\ntag:\n  - mine\n")
    given = ["--tasks", "my_own_quiz,mine", "--include_path", str(tmp_path)]
    check_arguments("run", given)


def test_a_group_comes_down_to_its_tasks() -> None:
    assert {"longva_videomme", "longva_mlvu_dev"} <= set(names.task_leaves("longva_paper"))
    assert "longva_ai2d" in names.task_leaves("longva_images")  # which longva_paper lists
    assert names.task_leaves("longva_mini") == ["longva_mini"]


@pytest.mark.process
def test_no_mistake_waits_for_torch() -> None:
    """All of them in one process, which has not imported torch at the end."""
    code = (
        "import sys; from longva_eval.cli import main\n"
        "status = [main(line.split()) for line in sys.argv[1:]]\n"
        "print(status, 'torch' in sys.modules)"
    )
    lines = [
        "rnu", "run --model lonva", "run --model longva --tasks vniah_smal",
        "niah --pretrained longva-tiny --frames 8 --out /dev/null/out", "demo --out /dev/null/out",
        "sweep --pretrained longva-tny --tasks longva_mini --frames 8 --out x",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *lines], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[2, 1, 1, 1, 1, 1] False"
    assert "there is no command 'rnu'. Did you mean 'run'?" in done.stderr


def test_a_package_that_stops_lmms_eval_is_told_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the metadata of filelock 4.3.1, which an empty environment got in November 2026."""
    information = tmp_path / "filelock-4.3.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: filelock\nVersion: 4.3.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EvaluationError, match=r"filelock 4\.3\.1 is installed.*_api.*pip install"):
        check_arguments("run", OURS)
