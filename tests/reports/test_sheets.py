"""VLMEvalKit's sheets: read, scored by their own rule, and held against runs of lmms-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from host_runs import videomme_line, write_host_run

from longva_eval.cli import main
from longva_eval.errors import MediaError
from longva_eval.reports.explain import explain
from longva_eval.reports.reading.runs import read_run

WORDS = ("one", "two", "three", "four")


def rows(number: int = 2700, **last: Any) -> list[dict[str, Any]]:
    """Video-MME's columns as VLMEvalKit writes them; every tenth answer is no letter."""
    made = [
        {
            "index": n,
            "video": f"video-{n // 3:03}",
            "video_path": f"./video/video-{n // 3:03}.mp4",
            "duration": ("short", "medium", "long")[n // 900],
            "domain": "Knowledge",
            "candidates": str([f"{letter}. {w}." for letter, w in zip("ABCD", WORDS, strict=True)]),
            "sub_category": "Geography",
            "task_type": "Counting",
            "subtitle_path": "./subtitle/x.srt",
            "question": f"What happens in {n}?",
            "answer": "ABCD"[n % 4],
            "prediction": "none of these" if n % 10 == 9 else f"({'ABCD'[n % 4]}) since",
        }
        for n in range(number)
    ]
    made[-1] |= last
    return made


def write(path: Path, data: list[dict[str, Any]]) -> str:
    frame = pd.DataFrame(data)
    if path.suffix == ".xlsx":
        frame.to_excel(path, index=False)
    elif path.suffix == ".tsv":
        frame.to_csv(path, sep="\t", index=False, quoting=1)
    else:
        path.write_text(json.dumps(data, indent=4), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("suffix", ["xlsx", "tsv", "json"])
def test_the_three_formats_say_the_same(tmp_path: Path, suffix: str) -> None:
    failed = "Failed to obtain answer via API."
    name = f"Qwen2.5-VL-7B_Video-MME_64frame.{suffix}"
    run = read_run(write(tmp_path / name, rows(90, prediction=failed)))
    assert (run.name, run.model) == ("Qwen2.5-VL-7B", "VLMEvalKit")
    task = run.tasks["vlmevalkit_videomme"]
    assert len(task.samples) == 90
    assert sum(sample.score for sample in task.samples) == 81
    assert task.samples[4].question_id == "002-2"
    assert task.samples[4].cluster == "video-001"
    assert task.samples[4].options == ("A. one.", "B. two.", "C. three.", "D. four.")
    assert task.samples[-1].outcome == "failed"
    assert task.samples[-1].reason == failed


def test_a_score_column_wins_over_our_reading_of_its_rule(tmp_path: Path) -> None:
    data = [row | {"score": -1 if row["index"] == 0 else 1} for row in rows(30)]
    run = read_run(write(tmp_path / "m_Video-MME_score.xlsx", data))
    assert sum(sample.score for sample in run.tasks["vlmevalkit_videomme"].samples) == 29


@pytest.mark.slow
def test_a_sheet_is_explained_beside_a_run_and_rescored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every tenth answer is silent there and right here, 30 others wrong here: +10 - 1.1 points."""
    sheet = write(tmp_path / "m_Video-MME.tsv", rows())
    lines = [
        videomme_line(n, "ABCD"[(n + (n % 90 == 1)) % 4], "ABCD"[n % 4])
        | {"filtered_resps": "ABCD"[(n + (n % 90 == 1)) % 4]}
        for n in range(2700)
    ]
    other = write_host_run(
        tmp_path / "host", {"videomme": lines}, results={"videomme": {"acc,none": 98.9}}
    )
    one, two = read_run(other), read_run(sheet)
    found = explain(one, two, one.tasks["videomme"], two.tasks["vlmevalkit_videomme"])
    assert not isinstance(found, str)
    points = {cause.name: round(cause.points, 2) for cause in found.causes}
    assert points == {
        "questions": 0,
        "failures": 0,
        "reading": 0,
        "no answer": 10,
        "answers": -1.11,
    }
    assert main(["rescore", sheet, "--rule", "ours,official", "--format", "json"]) == 0
    ours, official = json.loads(capsys.readouterr().out)
    assert (ours["right"], ours["unread"]) == (2430, 270)
    assert official["own_denominator_percent"] == 100


def test_longvideobench_and_mlvu_say_the_right_answer_in_their_own_way(tmp_path: Path) -> None:
    base = {"index": 0, "video": "v", "question": "What?", "candidates": "['red', 'blue', 'green']"}
    lvb = base | {"id": "v_0", "correct_choice": 1, "duration_group": 60, "prediction": "B"}
    task = read_run(write(tmp_path / "m_LongVideoBench_8frame.xlsx", [lvb])).tasks
    assert task["vlmevalkit_longvideobench_val"].samples[0].score == 1
    assert task["vlmevalkit_longvideobench_val"].samples[0].question_id == "v_0"
    mlvu = base | {"task_type": "count", "answer": "green", "prediction": "(C) green"}
    task = read_run(write(tmp_path / "m_MLVU_MCQ_1fps.xlsx", [mlvu])).tasks
    assert task["vlmevalkit_mlvu_dev"].samples[0].answer == "C"
    assert task["vlmevalkit_mlvu_dev"].samples[0].score == 1
    opened = {"index": 1, "question": "?", "answer": "7", "prediction": "7", "A": "", "B": ""}
    closed = {"index": 2, "question": "?", "answer": "A", "prediction": "A", "A": "x", "B": "y"}
    run = read_run(write(tmp_path / "m_MMMU_DEV_VAL.tsv", [opened, closed]))
    assert len(run.tasks["vlmevalkit_mmmu_val"].samples) == 1
    assert "1 open question left out" in " ".join(problem.text for problem in run.problems)


def test_what_is_no_sheet_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError, match="row 1: the answer 'E' is none of 4 options"):
        read_run(write(tmp_path / "m_Video-MME.tsv", rows(1, answer="E")))
    with pytest.raises(MediaError, match="no column prediction"):
        read_run(write(tmp_path / "n_Video-MME.tsv", [{"index": 0, "question": "?"}]))
    with pytest.raises(MediaError, match="nor named as VLMEvalKit names its sheets"):
        read_run(write(tmp_path / "answers.tsv", rows(1)))
    path = tmp_path / "o_Video-MME.xlsx"
    path.write_bytes(b"PK no zip")
    with pytest.raises(MediaError, match="cannot be read"):
        read_run(path)

    def without(*_: object, **__: object) -> None:
        raise ImportError("Missing optional dependency 'openpyxl'.")

    monkeypatch.setattr(pd, "read_excel", without)
    with pytest.raises(MediaError, match="pip install openpyxl"):
        read_run(path)
