"""Controls of the needle test: what is asked, what is shared, and what is concluded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longva_eval import embedded
from longva_eval.engine.opening import open_session
from longva_eval.engine.session import Session
from longva_eval.errors import SettingsError
from longva_eval.needle.asking import run_grid
from longva_eval.needle.controls import circular_items
from longva_eval.needle.grid import NeedleGrid
from longva_eval.needle.items import Item, Shown
from longva_eval.needle.media import load_needles, open_haystack
from longva_eval.needle.results import NeedleAnswer
from longva_eval.needle.run import run_and_write
from longva_eval.needle.summary import summarize_grid, summary_text
from longva_eval.reports.figures.heatmap import needle_panel

QUESTION = "\nWhere is the bear?\nA. Rome\nB. Oslo\nC. Cairo\nAnswer with the letter."
GRID = NeedleGrid(frame_counts=(4, 8), depths=(0.0, 1.0))


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session("longva-tiny", dtype="float32", device="cpu", decode_process=False)


def lettered(answer: str = "C", question: str = QUESTION) -> Item:
    image = Image.fromarray(np.full((64, 64, 3), 90, np.uint8))
    shown = Shown(picture=image)
    return Item(name="bear.png", needles=(shown,), question=question, answer=answer)


def controls_of(answers: list[NeedleAnswer]) -> list[NeedleAnswer]:
    return [answer for answer in answers if answer.control]


def test_each_rotation_moves_the_true_option_to_another_letter() -> None:
    made = circular_items([lettered(), load_needles(embedded.NEEDLES)[0]])
    assert [needle.rotation for needle in made] == [0, 1, 2, 0]
    for needle in made[:3]:
        (line,) = [x for x in needle.question.splitlines() if x.startswith(f"{needle.answer}. ")]
        assert line == f"{needle.answer}. Cairo"
        assert needle.question.startswith("\nWhere is the bear?\nA. ")
        assert needle.question.endswith("\nAnswer with the letter.")
    assert sorted(needle.answer for needle in made[:3]) == ["A", "B", "C"]


@pytest.mark.parametrize(
    "needle", [lettered("D"), lettered(question=QUESTION.replace("B. Oslo", "E. Oslo"))]
)
def test_options_that_do_not_fit_the_answer_are_refused(needle: Item) -> None:
    with pytest.raises(SettingsError, match=r"bear\.png has options"):
        circular_items([needle])


@pytest.mark.slow
def test_controls_equal_the_same_questions_asked_alone(session: Session) -> None:
    needles = load_needles(embedded.NEEDLES)[:2]
    haystack = open_haystack([embedded.HAYSTACK])
    run = run_grid(session, haystack, needles, GRID, max_new_tokens=2, controls=True)
    assert len(run) - len(controls_of(run)) == 2 * 2 * 2
    assert [(c.control, c.num_frames, c.needle) for c in controls_of(run)] == [
        (control, count, needle)
        for needle in (0, 1)
        for control, count in (("blind", 0), ("needle only", 1), ("no needle", 4), ("no needle", 8))
    ]
    alone = run_grid(session, haystack, needles[1:], NeedleGrid(frame_counts=(8,), depths=(1.0,)),
                     max_new_tokens=2, controls=True)  # fmt: skip
    for control in controls_of(alone):
        twin = next(c for c in controls_of(run) if (c.control, c.num_frames, c.needle) == (
            control.control, control.num_frames, 1))  # fmt: skip
        assert twin.logprob == pytest.approx(control.logprob, abs=1e-4)
        assert twin.generated == control.generated


@pytest.mark.slow
def test_controls_cost_little_beside_the_grid() -> None:
    session = open_session("longva-tiny", dtype="float32", device="cpu", decode_process=False)
    needles = load_needles(embedded.NEEDLES)[:4]
    haystack = open_haystack([embedded.HAYSTACK])
    grid = NeedleGrid(frame_counts=(64, 96, 128), depths=(0.0, 0.5, 1.0))
    computed = []
    for controls in (False, True):
        before = session.engine.counts.tokens_computed
        run_grid(session, haystack, needles, grid, max_new_tokens=0, controls=controls)
        computed.append(session.engine.counts.tokens_computed - before)
    assert computed[1] < 1.2 * computed[0]


@pytest.mark.slow
def test_a_needle_known_without_being_seen_is_named(session: Session) -> None:
    needles = load_needles(embedded.NEEDLES)[:1]
    run = run_grid(session, open_haystack([embedded.HAYSTACK]), needles, GRID, controls=True)
    blind = next(control for control in controls_of(run) if control.control == "blind")
    assert blind.generated
    told = replace(needles[0], answer=blind.generated.split()[0])
    run = run_grid(session, open_haystack([embedded.HAYSTACK]), [told], GRID, controls=True)
    controls = summarize_grid(run)["controls"]
    assert controls["blind"] == 1.0
    assert controls["known_without_seeing"] == [told.name]
    assert summarize_grid(run)["circular"] is None


@pytest.mark.slow
def test_results_hold_controls_rotations_and_what_follows(session: Session, tmp_path: Path) -> None:
    needles = [*load_needles(embedded.NEEDLES)[:2], lettered()]
    run = run_and_write(session, open_haystack([embedded.HAYSTACK]), needles, GRID, tmp_path,
                        max_new_tokens=2, circular=True)  # fmt: skip
    lines = {
        name: [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("cells.jsonl", "controls.jsonl", "circular.jsonl")
    }
    assert len(lines["cells.jsonl"]) == 2 * 2 * 3
    assert len(lines["circular.jsonl"]) == 2 * 2 * 5
    assert len(lines["controls.jsonl"]) == 5 * 4
    assert {line["needle"] for line in lines["cells.jsonl"]} == {0, 1, 2}
    rotated = [line for line in lines["circular.jsonl"] if line["needle_name"] == "bear.png"]
    assert {line["rotation"] for line in rotated} == {0, 1, 2}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == run.summary
    assert summary["circular"]["num_needles"] == 1
    assert summary["circular"]["all_rotations"] <= summary["circular"]["as_they_are"]
    assert summary["columns"]["8"]["asked"] == 6
    cells = needle_panel(run.rows, run.summary, title="t").cells
    assert {column for row, column in cells if row == "no needle"} == {"4", "8"}
    assert "Needle only" in summary_text(summary)
    assert "rotation of their options" in summary_text(summary)


@pytest.mark.slow
def test_without_controls_nothing_is_claimed_from_them(session: Session, tmp_path: Path) -> None:
    needles = load_needles(embedded.NEEDLES)[:1]
    run = run_and_write(session, open_haystack([embedded.HAYSTACK]), needles, GRID, tmp_path,
                        max_new_tokens=0, controls=False)  # fmt: skip
    assert run.summary["controls"] is run.summary["effective_frames"] is None
    assert not (tmp_path / "controls.jsonl").exists()
    assert summary_text(run.summary) == "Guessing: 10.0 %"  # of one that asks for a digit
