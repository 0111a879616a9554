"""Frame sweeps: every question at every number of frames, counted honestly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import OPEN, Golden
from hypothesis import given
from hypothesis import strategies as st
from longva_eval.reports.curve import draw_curve, save_curve, sweep_table

from longva_eval.errors import MediaError
from longva_eval.frame_sweep import (
    SweepAnswer,
    multiple_choice_prompt,
    run_frame_sweep,
    sweep_rows,
)
from longva_eval.stats import clustered_standard_error, wilson_interval

QUESTION = {
    "video_id": "001",
    "videoID": "landscape_320x180",
    "duration": "short",
    "question_id": "001-1",
    "question": "What colour is the disc?",
    "options": ["A. Red", "B. Blue", "C. Green", "D. White"],
    "answer": "B",
}


def answer(
    outcome: Any, *, video: str = "001", duration: str = "short", frames: int = 4
) -> SweepAnswer:
    return SweepAnswer(
        question_id=f"{video}-1",
        video_id=video,
        duration=duration,
        num_frames_asked=frames,
        num_frames_seen=frames,
        text="",
        choice=None,
        answer="A",
        outcome=outcome,
    )


def test_the_prompt_is_video_mmes() -> None:
    assert multiple_choice_prompt(QUESTION) == (
        "Select the best answer to the following multiple-choice question based on the video. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "What colour is the disc?\nA. Red\nB. Blue\nC. Green\nD. White\nThe best answer is:"
    )


def test_every_question_is_asked_at_every_number_of_frames(open_golden: Golden) -> None:
    rows = [
        QUESTION,
        QUESTION | {"question_id": "002-1", "video_id": "002", "videoID": "portrait_180x320"},
    ]
    session = open_golden.session_for({})
    before = session.frames
    answers = run_frame_sweep(session, rows, OPEN / "inputs", (2, 3), max_new_tokens=3)
    assert session.frames is before
    assert [(a.num_frames_asked, a.num_frames_seen, a.question_id) for a in answers] == [
        (2, 2, "001-1"), (2, 2, "002-1"), (3, 3, "001-1"), (3, 3, "002-1"),
    ]  # fmt: skip
    assert all(a.outcome in ("right", "wrong", "no answer") for a in answers)


def test_a_missing_video_is_named(open_golden: Golden, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"landscape_320x180\.mp4"):
        run_frame_sweep(open_golden.session_for({}), [QUESTION], tmp_path, (2,))


def test_what_cannot_be_read_counts_as_not_right_and_is_counted() -> None:
    outcomes = ["right", "wrong", "no answer", "failed"]
    rows = sweep_rows([answer(outcome, video=str(n)) for n, outcome in enumerate(outcomes)])
    assert rows[0] == {
        "duration": "short",
        "num_frames": 4,
        "num_questions": 4,
        "num_right": 1,
        "num_no_answer": 1,
        "num_failed": 1,
        "accuracy": 0.25,
        "standard_error": pytest.approx(math.sqrt(0.75**2 + 3 * 0.25**2) / 4),
    }
    assert rows[1] == rows[0] | {"duration": "overall"}


def test_questions_on_one_video_are_one_cluster() -> None:
    apart = sweep_rows([answer("right", video="1"), answer("wrong", video="2")])[0]
    together = sweep_rows([answer("right", video="1"), answer("wrong", video="1")])[0]
    assert apart["standard_error"] == pytest.approx(0.5 / math.sqrt(2))
    assert together["standard_error"] == 0


@given(scores=st.lists(st.booleans(), min_size=1, max_size=50))
def test_without_clusters_it_is_the_usual_standard_error(scores: list[bool]) -> None:
    numbers = [float(score) for score in scores]
    expected = np.std(numbers) / math.sqrt(len(numbers))
    assert clustered_standard_error(numbers, range(len(numbers))) == pytest.approx(expected)


def test_a_repeated_question_adds_no_certainty() -> None:
    once = clustered_standard_error([1.0, 0.0, 1.0], ["a", "b", "c"])
    thrice = clustered_standard_error([1.0, 0.0, 1.0] * 3, ["a", "b", "c"] * 3)
    assert thrice == pytest.approx(once)


@pytest.mark.parametrize(("scores", "clusters"), [([], []), ([1.0], ["a", "b"])])
def test_nothing_has_no_standard_error(scores: list[float], clusters: list[str]) -> None:
    with pytest.raises(ValueError, match="scores and"):
        clustered_standard_error(scores, clusters)


def test_wilson_is_wide_for_few_answers() -> None:
    low, high = wilson_interval(5, 5)
    assert (round(low, 2), round(high, 2)) == (0.57, 1.0)
    low, high = wilson_interval(0, 5)
    assert (round(low, 2), round(high, 2)) == (0.0, 0.43)


def test_the_table_says_what_could_not_be_read() -> None:
    answers = [
        answer("right", frames=4),
        answer("no answer", frames=8),
        answer("right", duration="long", video="2", frames=4),
        answer("right", duration="long", video="2", frames=8),
    ]
    lines = sweep_table(sweep_rows(answers)).splitlines()
    assert [line.split() for line in lines[2:5]] == [
        ["short", "1", "100.0", "±0.0", "0.0", "±0.0"],
        ["long", "1", "100.0", "±0.0", "100.0", "±0.0"],
        ["overall", "2", "100.0", "±0.0", "50.0", "±35.4"],
    ]
    assert lines[5] == "unreadable answers: 1, failed videos: 0 (both count as not right)"


def test_the_curve_has_a_line_for_each_length(tmp_path: Path) -> None:
    rows = sweep_rows(
        [answer("right", frames=n, duration=d, video=d) for n in (4, 8) for d in ("short", "long")]
    )
    figure = draw_curve(rows, title="model", chance=0.25)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["short", "long", "overall"]
    assert figure.axes[0].get_xlabel() == "Frames shown to the model"
    save_curve(rows, tmp_path / "curve.png", title="model", chance=0.25)
    assert (tmp_path / "curve.png").stat().st_size > 10_000
