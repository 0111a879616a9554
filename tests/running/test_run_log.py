"""Failures are counted against a bound, and answers that repeat themselves are noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longva_eval.engine.generation import is_degenerate
from longva_eval.errors import EvaluationError, MediaError, SettingsError
from longva_eval.running.ranks import Ranks
from longva_eval.running.run_log import FailurePolicy, RunLog


@pytest.mark.parametrize(
    ("max_failed", "documents", "limit"),
    [(0.05, 900, 45), (0.05, 3, 1), (0.0, 900, 0), (0, 900, 0), (3, 2, 3), (1, 50, 1),
     (1.0, 50, 50), (40.0, 900, 40)],
)  # fmt: skip
def test_a_bound_is_a_count_or_a_share(max_failed: float, documents: int, limit: int) -> None:
    assert FailurePolicy("skip", max_failed).limit(documents) == limit


@pytest.mark.parametrize("max_failed", [-1, float("nan"), 1.5, "many", True])
def test_a_bound_that_makes_no_sense_is_refused(max_failed: float) -> None:
    with pytest.raises(SettingsError, match="max_failed="):
        FailurePolicy("skip", max_failed)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(SettingsError, match="on_error='ignore' is unknown; use stop or skip"):
        FailurePolicy("ignore")


def test_by_default_the_first_failure_ends_the_run() -> None:
    log = RunLog(FailurePolicy())
    log.begin_call(10)
    with pytest.raises(MediaError, match=r"film.mp4 is broken"):
        log.count_failure("t", 0, MediaError("film.mp4 is broken"), Ranks())


def test_too_many_failures_are_listed() -> None:
    log = RunLog(FailurePolicy("skip", 2))
    log.begin_call(10)
    ranks = Ranks()
    for number in (0, 1, 1, 1):  # a document fails once, however many requests it has
        log.count_failure("t", number, MediaError(f"film{number}.mp4"), ranks)
    with pytest.raises(EvaluationError) as caught:
        log.count_failure("t", 2, MediaError("film2.mp4"), ranks)
    text = str(caught.value)
    assert "3 of 10 documents failed, max_failed=2 allows 2" in text
    assert all(f"film{number}.mp4" in text for number in range(3))


def test_every_document_is_counted_once_per_outcome() -> None:
    log = RunLog(FailurePolicy("skip"))
    for number in range(4):
        log.describe("t", number, {"num_tokens_cut": number // 3})
    log.answered("t", 0, text="A", num_tokens=2, finish="stop")
    log.answered("t", 1, text=" ", num_tokens=1, finish="stop")
    log.failed("t", 2, "MediaError: film.mp4")
    log.answered("t", 2, text="A")  # another request of a document that failed
    log.answered("t", 3, text="!!!!", degenerate=True, finish="length")
    assert log.counts() == {
        "t": {"answered": 3, "failed": 1, "degenerate": 1, "empty": 1, "shortened": 1}
    }
    assert log.entries["t"]["2"]["reason"] == "MediaError: film.mp4"


@pytest.mark.parametrize(
    ("token_ids", "finish", "degenerate"),
    [
        ([0] * 16, "length", True),  # !!!!!!!!!!!!!!!!
        ([0] * 8, "length", True),
        ([0] * 7, "length", False),
        ([5, 0, 0, 0, 0, 0, 0, 0, 0, 9], "end_token", False),  # 100000000
        ([*range(20, 30), *([7, 8, 9] * 4)], "length", True),  # a phrase, four times
        ([*range(20, 30), *([7, 8, 9] * 3)], "length", False),
        ([*range(20, 120), *([7] * 8)], "length", False),  # a small part of a long answer
        ([*([7, 8] * 16), 2], "end_token", True),  # 32 tokens of it, however it ended
        (list(range(50)), "length", False),
        ([], "length", False),
        ([3], "end_token", False),
    ],
)
def test_an_answer_that_repeats_itself_is_noticed(
    token_ids: list[int], finish: str, degenerate: bool
) -> None:
    assert is_degenerate(token_ids, finish) is degenerate  # type: ignore[arg-type]


@given(
    start=st.lists(st.integers(0, 9), max_size=8),
    loop=st.lists(st.integers(10, 99), min_size=1, max_size=8),
    times=st.integers(8, 20),
)
def test_any_loop_is_noticed(start: list[int], loop: list[int], times: int) -> None:
    assert is_degenerate([*start, *(loop * times)], "length")


@given(token_ids=st.lists(st.integers(0, 10**6), unique=True, max_size=200))
def test_what_never_repeats_is_fine(token_ids: list[int]) -> None:
    assert not is_degenerate(token_ids, "length")
