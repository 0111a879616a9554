"""`longva-eval demo`: the suite's main jobs on what ships with it, offline, in minutes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longva_eval import embedded
from longva_eval.commands import compare, explain, report
from longva_eval.commands.sweep import run_study
from longva_eval.errors import EvaluationError, SettingsError
from longva_eval.model.rope import RopeSettings
from longva_eval.needle.grid import NeedleGrid
from longva_eval.needle.items import ItemSettings
from longva_eval.needle.summary import summary_text
from longva_eval.reports.figures.heatmap import accuracy_table, needle_panel, save_heatmaps
from longva_eval.reports.figures.needle_tests import save_tests
from longva_eval.studies.definition import Study

if TYPE_CHECKING:  # they import torch, which only comes once the arguments are read
    from longva_eval.engine.session import Session
    from longva_eval.needle.media import Haystack
    from longva_eval.needle.run import NiahRun

__all__ = ["main"]

_GRID = NeedleGrid(frame_counts=(16, 64, 128, 256, 512), depths=(0.0, 0.25, 0.5, 0.75, 1.0))
_SWEEP = Study(
    pretrained="longva-tiny",
    tasks=("longva_mini",),
    frames=(4, 8, 16, 32, 64, 128),
    control=("none", "blind"),
    model_args={"device": "cpu", "dtype": "float32"},
)
_COMPARED = (32, 64, 128)
"""Numbers of frames whose runs are compared; the second is the baseline."""

_NEEDLES_INTRODUCTION = """\
1. V-NIAH: {needles} pictures, one at a time, hidden in a video of up to {frames} frames, and a
   question about each. longva-tiny was trained from scratch the way LongVA was: its context was
   extended on text alone, then it was shown single pictures. longva-tiny-short saw no long text.
"""
_TESTS_INTRODUCTION = """\
   Harder needle tests (docs/needle_tests.md), drawn from a seed: the colour of one of three
   objects; which of two came first; how often one is shown; the colour of the object that a dark
   one names. longva-tiny-2 learned these from text and single pictures; the others have no words
   for the last three.
"""
_SWEEP_INTRODUCTION = """\
2. A sweep: {questions} multiple-choice questions on short, medium and long videos, asked by
   lmms-eval at several numbers of frames. What is asked happens in a few frames of a video, which a
   sparse sample can miss. And without any video, as a floor (docs/controls.md).
"""
_COMPARE_INTRODUCTION = """
3. A comparison: do more frames help, or is that chance? The same questions on the same videos, so
   the differences are taken question by question.
"""
_EXPLAIN_INTRODUCTION = """\
   Where the difference comes from, between the most frames and the baseline (docs/explain.md).
"""
_PAGE_INTRODUCTION = """
4. One page about all of it, with the frames that the model saw.
"""
_WHAT_IT_SHOWS = """
What they show: a model whose context was extended on text alone finds a picture in videos far
longer than any image it was aligned on, where its short-context twin loses it; without training, a
larger RoPE base brings part of it back, and a far larger one damages what worked before. On long
videos accuracy grows with the number of frames, because a sparse sample misses what is asked; on
short videos a few frames are enough."""


def main(arguments: Sequence[str]) -> int:
    """V-NIAH on the embedded models, a sweep on the mini suite, a comparison, and the page."""
    parser = argparse.ArgumentParser(
        prog="longva-eval demo",
        description="V-NIAH on the embedded models, a sweep over frames on the mini suite, a "
        "comparison, and a page about all of it; no network, no GPU.",
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder (out/demo)")
    parser.add_argument(
        "--quick", action="store_true", help="fewer lengths, needles and videos, to see it run"
    )
    options = parser.parse_args(arguments)
    out: Path = options.out
    quick: bool = options.quick
    parts: dict[str, Callable[[], int]] = {
        "V-NIAH": lambda: _find_needles(out, quick=quick),
        "the sweep": lambda: _sweep(out, quick=quick),
        "the comparison": lambda: _compare(out, quick=quick),
        "the page": lambda: _make_page(out),
    }
    for name, part in parts.items():
        try:
            status = part()
            why = f"it ended with status {status}; its messages stand above."
        except BrokenPipeError:
            raise  # the reader of our output has seen enough
        except (EvaluationError, OSError) as error:
            status, why = 1, str(error)
        if status:
            print(f"longva-eval demo stopped at {name}: {why}", file=sys.stderr)
            return 1
    figure = next((out / "sweep").glob("frames_*.png"), out / "sweep")
    print(
        f"{_WHAT_IT_SHOWS}\n\nFigures\n  {out / 'heatmaps.png'}\n  {out / 'tests.png'}\n  {figure}"
        f"\nEverything, on a page to open in a browser:\n{out / 'report.html'}"
    )
    return 0


def _find_needles(out: Path, *, quick: bool) -> int:
    """V-NIAH on the embedded models, with heatmaps, and harder tests."""
    from longva_eval.needle.media import load_needles, open_haystack
    from longva_eval.needle.run import run_and_write

    needles = load_needles(embedded.NEEDLES)
    haystack = open_haystack([embedded.HAYSTACK])
    grid = _GRID
    if quick:
        needles, grid = needles[:4], NeedleGrid(frame_counts=(16, 64), depths=(0.0, 0.5, 1.0))
    print(_NEEDLES_INTRODUCTION.format(needles=len(needles), frames=max(grid.frame_counts)))
    sessions = {name: _open(name) for name in embedded.CHECKPOINTS}
    panels = []
    for name, theta in embedded.DEMO_PANELS:
        session = sessions[name]
        session.change_rope(RopeSettings(theta=theta))
        title = name + ("" if theta is None else f", theta {theta:,.0f}")
        print(title)
        folder = out / "vniah" / title.replace(", theta ", "-theta-").replace(",", "")
        run: NiahRun = _run_anew(run_and_write, session, haystack, needles, grid, folder)
        if run.was_there:
            print(f"{folder} is complete already: nothing is computed.")
        session.change_rope(RopeSettings())
        print(accuracy_table(run.rows))
        print(summary_text(run.summary), end="\n\n")
        panels.append((title, run))
    drawn = [
        needle_panel(run.rows, run.summary, title=title, note=f"{len(needles)} needles a cell")
        for title, run in panels
    ]
    save_heatmaps(drawn, out / "heatmaps.png", out / "heatmaps.svg")
    _run_tests(sessions, haystack, out, quick=quick)
    return 0


def _run_tests(
    sessions: Mapping[str, Session], haystack: Haystack, out: Path, *, quick: bool
) -> None:
    """Harder needle tests on the embedded models, and a figure of them."""
    from longva_eval.needle.run import run_and_write
    from longva_eval.needle.tests import make_tests

    print(_TESTS_INTRODUCTION)
    folders: dict[str, list[Path]] = {}
    for name, tests in embedded.DEMO_TESTS.items():
        for each in tests:
            (test,) = make_tests(
                [each],
                frame_counts=(16, 64) if quick else (16, 64, 256),
                depths=(0.5,),
                settings=ItemSettings(items=4 if quick else 24, n=2 if each == "order" else 3),
            )
            folder = out / "tests" / name / each
            asked = (sessions[name], haystack, test.items, test.grid, folder)
            run: NiahRun = _run_anew(run_and_write, *asked, max_new_tokens=0)
            shares = (f"{row['Score']:4.0%} at {row['Num. Frame']:.0f} frames" for row in run.rows)
            print(f"   {name:<18}{each:<6}{', '.join(shares)}")
            folders.setdefault(name, []).append(folder)
    save_tests(folders, out / "tests.png", out / "tests.svg")


def _open(name: str) -> Session:
    from longva_eval.engine.opening import open_session

    session = open_session(name, dtype="float32", device="cpu", decode_process=False)
    session.encoder.keep_all = True  # two or more panels ask for the same frames
    return session


def _sweep(out: Path, *, quick: bool) -> int:
    print(_SWEEP_INTRODUCTION.format(questions=18 if quick else 180))
    # The mini suite is drawn below HF_HOME; without one the demo keeps to its own folder.
    os.environ.setdefault("HF_HOME", str((out / "hf").absolute()))
    status: int = _run_anew(run_study, _study(quick=quick), out / "sweep")
    return status


def _run_anew(run: Callable[..., Any], *asked: Any, **how: Any) -> Any:
    """Start over where what is there is of another version of this package, or of --quick."""
    try:
        return run(*asked, **how)
    except SettingsError:
        return run(*asked, **how, fresh=True)


def _study(*, quick: bool) -> Study:
    return replace(_SWEEP, tasks=("longva_mini_small",), frames=(4, 8, 16)) if quick else _SWEEP


def _compare(out: Path, *, quick: bool) -> int:
    """What points of the sweep say about each other, and why."""
    print(_COMPARE_INTRODUCTION)
    few, base, many = (
        str(out / "sweep" / "points" / f"frames-{frames}")
        for frames in (_study(quick=True).frames if quick else _COMPARED)
    )
    status = compare.main([few, base, many, "--baseline", base])
    if status:
        return status
    print(_EXPLAIN_INTRODUCTION)
    return explain.main([many, base])


def _make_page(out: Path) -> int:
    """One page about all of it."""
    print(_PAGE_INTRODUCTION)
    where = ["--out", str(out / "report.html"), "--media", os.environ["HF_HOME"]]
    runs = [str(out / folder) for folder in ("sweep", "vniah", "tests/longva-tiny-2")]
    return report.main([*runs, "--title", "longva-eval demo", *where])
