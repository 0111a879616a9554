"""The accounting of benchmarks/soak.py finds what it is there to find."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from soak import accounting

ASKED = ["1", "2", "3"]
FAULTS = {"3": "NaN logits"}


def sample(name: str, outcome: str, text: str = "A", reason: str | None = None) -> dict[str, Any]:
    return {
        "small_accuracy": {"question_id": name, "outcome": outcome},
        "filtered_resps": text,
        "longva_eval": {"reason": reason},
    }


WHOLE = [
    sample("1", "right"),
    sample("2", "no answer", "?"),
    sample("3", "failed", "<failed>", "NumericalError: the logits are NaN"),
]


def test_a_run_that_went_well_has_no_problems() -> None:
    assert accounting(ASKED, FAULTS, WHOLE, WHOLE) == []


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        (WHOLE[1:], "question 1 is lost"),
        ([*WHOLE, WHOLE[0]], "question 1 is there 2 times"),
        ([*WHOLE, sample("4", "right")], "question 4 was never asked"),
        ([sample("1", "right", "B"), *WHOLE[1:]], "question 1 has another answer"),
        ([sample("1", "failed", reason="lost"), *WHOLE[1:]], "question 1 failed without a fault"),
        ([*WHOLE[:2], sample("3", "wrong")], "question 3 was answered, in spite of: NaN logits"),
        (
            [*WHOLE[:2], sample("3", "failed", "<failed>", "the video is empty")],
            r"question 3 \(NaN logits\) failed for another reason: the video is empty",
        ),
        ([sample("1", "not asked"), *WHOLE[1:]], "question 1 has the outcome 'not asked'"),
    ],
)
def test_everything_that_can_go_wrong_is_a_problem(
    samples: list[dict[str, Any]], problem: str
) -> None:
    with pytest.raises(AssertionError, match=problem):
        assert accounting(ASKED, FAULTS, samples, WHOLE) == []
