"""`longva-eval power`: how many questions show a difference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longva_eval.cli import main
from longva_eval.reports.reading.runs import read_run
from longva_eval.stats import compare_pairs, stated_design

RUNS = Path(__file__).parents[1] / "data" / "runs"
EIGHT, MORE = (str(RUNS / name) for name in ("mini_8", "mini_32"))
STATED = ("--score", "60", "--icc", "0.3", "--disagree", "20")


def test_power_from_stated_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", *STATED, "--difference", "2,5", "--videos", "300"]) == 0
    printed = capsys.readouterr().out
    design = stated_design(score=0.6, disagreement=0.2, icc=0.3, sizes=[3])
    videos = design.videos_needed(0.05)
    assert design.power(0.05, videos) >= 0.8 > design.power(0.05, videos - 1)
    assert f"{videos:,}" in printed
    assert f"{3 * videos:,}" in printed
    assert f"300 videos show {100 * design.smallest_detectable(300):.1f} points" in printed


def test_power_of_two_pilots_is_that_of_their_comparison(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["power", MORE, EIGHT, "--difference", "10", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    first, second = (next(iter(read_run(path).tasks.values())).samples for path in (MORE, EIGHT))
    found = compare_pairs(
        [sample.score for sample in first],
        [sample.score for sample in second],
        [sample.cluster for sample in first],
    )
    smallest = row["smallest_points_at_videos"]
    assert smallest == pytest.approx(100 * found.smallest_detectable, abs=0.01)
    assert (row["videos"], row["questions_needed"]) == (18, 3 * row["videos_needed"])
    assert row["power_at_videos_percent"] < 80 < row["videos_needed"]


def test_power_of_one_pilot_needs_the_disagreement(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", EIGHT, "--disagree", "15", "--difference", "5"]) == 0
    assert "15 % disagreement (stated" in capsys.readouterr().out
    assert main(["power", EIGHT]) == 1
    assert "With one pilot, --disagree is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--score", "60"), "Without a pilot, --icc, --disagree are needed"),
        ((*STATED, "--difference", "50"), "not within 0 and 40: more cannot be gained"),
        ((*STATED, "--videos", "1"), "one video says nothing"),
        ((EIGHT, "--disagree", "10", "--icc", "0.2"), "--icc: the pilot says that"),
        ((EIGHT, EIGHT), "differ by the same on every video"),
    ],
)
def test_power_refuses_what_it_cannot_plan(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["power", *arguments]) == 1
    assert message in capsys.readouterr().err
