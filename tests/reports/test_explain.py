"""Why two runs differ: planted causes are found in the planted sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from host_runs import videomme_line, write_host_run

from longva_eval.cli import main
from longva_eval.questions.outcomes import FAILED, choice_record
from longva_eval.reports.explain import Explanation, explain, same_tasks
from longva_eval.reports.reading.runs import read_run

RUNS = Path(__file__).parents[1] / "data" / "runs"
EIGHT, MORE, SKIP = (str(RUNS / name) for name in ("mini_8", "mini_32", "mini_skip"))
OPTIONS = ["A. one", "B. two", "C. three", "D. four"]

RIGHT = [number for number in range(300) if number % 5]
"""Questions that ours answers rightly, of 300 on 100 videos; the causes take some of these."""
MISSING, FAILING, GLUED, LOST = RIGHT[:10], RIGHT[10:22], RIGHT[22:52], RIGHT[52:58]
WON = [number for number in range(300) if not number % 5][:6]


def answers(number: int) -> tuple[str, str]:
    """The right letter, and what ours says."""
    right = "ACD"[number % 3]
    if number in GLUED:
        return right, f"Best option: {right} since the video, at its end, shows Bob with it."
    return right, right if number % 5 else "B"


def ours(folder: Path) -> Path:
    lines: list[dict[str, Any]] = []
    for number in range(300):
        right, said = answers(number)
        line = videomme_line(number, right, right)
        old = line.pop("videomme_perception_score")
        line["longva_videomme_score"] = choice_record(
            said, options=OPTIONS, answer=right, question_id=old["question_id"],
            cluster=old["videoID"],
        )  # fmt: skip
        lines.append(line | {"filtered_resps": said})
    recipe = {"dtype": "bfloat16", "frames": {"max_frames": 128}, "model": "longva"}
    return write_host_run(
        folder,
        {"longva_videomme": lines},
        results={"longva_videomme": {"longva_videomme_score,none": 0.8}},
        change=lambda data: data.update(longva_eval=recipe),
    )


def of_host(folder: Path) -> Path:
    """The same answers, but for the planted causes, read by the host's rule, with other prompts."""
    lines = []
    for number in range(300):
        right, said = answers(number)
        if number in MISSING:
            continue
        said = FAILED if number in FAILING else "B" if number in LOST else said
        said = right if number in WON else said
        read = "B" if number in GLUED else "" if number in FAILING else said
        line = videomme_line(number, read, right)
        lines.append(line | {"filtered_resps": said, "input": f"Watch.\n{line['input']}"})
    return write_host_run(
        folder, {"videomme": lines}, results={"videomme": {"videomme_perception_score,none": 64}}
    )


@pytest.fixture
def found(tmp_path: Path) -> Explanation:
    first, second = read_run(ours(tmp_path / "a")), read_run(of_host(tmp_path / "b"))
    (pair,) = same_tasks(first, second)
    explanation = explain(first, second, *pair)
    assert isinstance(explanation, Explanation)
    return explanation


@pytest.mark.slow
def test_planted_causes_are_found_in_their_sizes(found: Explanation) -> None:
    causes = {cause.name: cause for cause in found.causes}
    assert found.score_percent[0] == pytest.approx(80)
    assert sum(cause.points for cause in found.causes) == pytest.approx(
        found.score_percent[0] - found.score_percent[1]
    )
    assert causes["questions"].points == pytest.approx(80 - 100 * 230 / 290)
    assert causes["failures"].points == pytest.approx(100 * 12 / 290)
    assert causes["reading"].points == pytest.approx(100 * 30 / 290)
    assert causes["no answer"].points == 0
    numbers = {name: cause.num_questions for name, cause in causes.items()}
    assert numbers == {
        "questions": 10, "failures": 12, "reading": 30, "no answer": 0, "answers": 12
    }  # fmt: skip
    rest = causes["answers"]
    assert rest.points == pytest.approx(0)
    assert rest.is_noise
    assert rest.interval is not None
    assert rest.interval.low < 0 < rest.interval.high


@pytest.mark.slow
def test_the_whole_gap_has_an_interval_too(found: Explanation) -> None:
    first, *others = found.causes
    whole = 100 * found.common.difference
    assert whole == pytest.approx(sum(cause.points for cause in others))
    assert first.points + whole == pytest.approx(found.score_percent[0] - found.score_percent[1])
    assert found.common.p_value < 0.001


@pytest.mark.slow
def test_what_differs_is_counted(found: Explanation) -> None:
    assert found.differing == {
        "prompt": 290, "frames": None, "answer": 24, "reading of the same answer": 30
    }  # fmt: skip
    rows = {row.name: (row.first, row.second) for row in found.recipe}
    assert rows["task"] == ("longva_videomme", "videomme")
    assert rows["dtype"] == ("bfloat16", "")
    assert "checkpoint" not in rows


def test_silence_is_a_cause_of_its_own(tmp_path: Path) -> None:
    def run(name: str, silent: int) -> Path:
        lines = [
            videomme_line(number, "" if number < silent else "A", "A")
            | {"filtered_resps": "..." if number < silent else "A"}
            for number in range(60)
        ]
        return write_host_run(
            tmp_path / name,
            {"videomme": lines},
            results={"videomme": {"videomme_perception_score,none": 50}},
        )

    first, second = read_run(run("a", 0)), read_run(run("b", 15))
    (pair,) = same_tasks(first, second)
    explanation = explain(first, second, *pair)
    assert isinstance(explanation, Explanation)
    points = {cause.name: cause.points for cause in explanation.causes}
    assert points == pytest.approx(
        {"questions": 0, "failures": 0, "reading": 0, "no answer": 25, "answers": 0}
    )


def test_two_frame_counts_of_the_mini_suite(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", MORE, EIGHT]) == 0
    printed = capsys.readouterr().out
    assert "frames seen: 32 | 8" in printed
    assert "frames: 54" in printed
    assert main(["explain", MORE, EIGHT, "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert sum(cause["points"] for cause in row["causes"]) == pytest.approx(row["gap_points"])
    assert row["differing"]["prompt"] == 0


def test_a_run_is_indistinguishable_from_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", EIGHT, EIGHT]) == 0
    printed = capsys.readouterr().out
    assert "indistinguishable" in printed
    assert "no stated setting differs" in printed


@pytest.mark.slow
def test_a_run_beside_published_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(ours(tmp_path / "a"))
    assert main(["explain", run, "--published", "Video-MME", "--models", "LongVA"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert lines[1][:5] == ["this", "run", "128", "w/o", "80.0"]
    # LongVA Table 4: 128 frames, without subtitles.
    assert any(
        line[:7] == ["LongVA", "128", "w/o", "61.1", "50.4", "46.2", "52.6"] for line in lines
    )
    assert any("dtype bfloat16" in " ".join(line) for line in lines)
    assert main(["explain", run, "--published", "Video-MME", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["score_percent"] == pytest.approx(80)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((EIGHT,), "two RUNs, or one RUN and --published"),
        ((EIGHT, str(RUNS / "host")), "no task in common"),
        ((EIGHT, "--published", "LVBench"), "none is LVBench"),
    ],
)
def test_explain_says_what_it_cannot_hold_together(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_run_beside_what_makers_stated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", EIGHT, "--like", "qwen3-vl", "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["differs"] == [["frames fps", "2.0", ""], ["frames max_frames", "2048", "8"]]
    assert found["settings"][0] == {
        "setting": "frames", "stated": "2 a second, at most 2,048",
        "run": "frames rule np.linspace(0, total - 1, 8, dtype=int); frames seen 8",
    }  # fmt: skip
    assert "QwenLM/Qwen3-VL/issues/1540" in found["source"]
    assert main(["explain", EIGHT, "--like", "longva-paper"]) == 0
    shown = capsys.readouterr().out
    assert "  Differs in video_decode_backend: auto, not decord.\n" in shown
    assert main(["explain", EIGHT, "--like", "longva"]) == 1
    assert "Did you mean 'longva-paper'?" in capsys.readouterr().err
