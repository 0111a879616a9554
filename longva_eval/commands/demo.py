"""`longva-eval demo`: the suite's main jobs on what ships with it, offline, in minutes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longva_eval import embedded
from longva_eval.cli import load
from longva_eval.commands.niah import NiahRun, control_text, heatmap_panel, run_and_write
from longva_eval.frame_sweep import run_frame_sweep, sweep_rows
from longva_eval.journal import Journal, journal_settings
from longva_eval.mini_benchmark import generate_mini_benchmark
from longva_eval.needle import NeedleGrid
from longva_eval.needle_media import load_needles, open_haystack
from longva_eval.progress import progress_bar
from longva_eval.rope import RopeSettings
from longva_eval.session import Session, open_session

__all__ = ["main"]

_GRID = NeedleGrid(frame_counts=(16, 64, 128, 256, 512), depths=(0.0, 0.25, 0.5, 0.75, 1.0))
_SWEEP_FRAMES = (4, 8, 16, 32, 64, 128)

_NEEDLES_INTRODUCTION = """\
1. V-NIAH: {needles} pictures, one at a time, hidden in a video of up to {frames} frames, and a
   question about each. longva-tiny was trained from scratch the way LongVA was: its context was
   extended on text alone, then it was shown single pictures. longva-tiny-short saw no long text.
"""
_SWEEP_INTRODUCTION = """\
2. A frame sweep: multiple-choice questions on short, medium and long videos, at several numbers of
   frames. What is asked happens in a few frames of a video, which a sparse sample can miss.
"""
_WHAT_IT_SHOWS = """
What they show: a model whose context was extended on text alone finds a picture in videos far
longer than any image it was aligned on, where its short-context twin loses it; without training, a
larger RoPE base brings part of it back, and a far larger one damages what worked before. On long
videos accuracy grows with the number of frames, because a sparse sample misses what is asked; on
short videos a few frames are enough."""


def main(arguments: Sequence[str]) -> int:
    """Run V-NIAH on the embedded models and the frame sweep on the mini benchmark."""
    parser = argparse.ArgumentParser(
        prog="longva-eval demo",
        description="V-NIAH on the embedded models, and a frame sweep on the mini benchmark; no "
        "network, no GPU.",
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder (out/demo)")
    parser.add_argument(
        "--quick", action="store_true", help="fewer lengths, needles and videos, to see it run"
    )
    options = parser.parse_args(arguments)
    out: Path = options.out
    needles = load_needles(embedded.NEEDLES)
    haystack = open_haystack([embedded.HAYSTACK])
    grid = _GRID
    if options.quick:
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
        run = run_and_write(session, haystack, needles, grid, folder)
        session.change_rope(RopeSettings())
        print(load("longva_eval.reports.heatmap:accuracy_table")(run.rows))
        print(control_text(run.summary), end="\n\n")
        panels.append((title, run))
    _draw(panels, out / "heatmaps.png", len(needles))

    print(_SWEEP_INTRODUCTION)
    rows = generate_mini_benchmark(out / "mini_benchmark")
    if options.quick:
        rows = [row for row in rows if str(row["video_id"]).endswith(("1", "2"))]
    sweep = _sweep(sessions[next(iter(sessions))], rows, out)
    print(load("longva_eval.reports.curve:sweep_table")(sweep))
    print(f"\nLook at {out / 'heatmaps.png'} and {out / 'frame_sweep.png'}.\n{_WHAT_IT_SHOWS}")
    return 0


def _open(name: str) -> Session:
    session = open_session(name, dtype="float32", device="cpu", decode_process=False)
    session.encoder.keep_all = True  # two or more panels ask for the same frames
    return session


def _draw(panels: Sequence[tuple[str, NiahRun]], path: Path, num_needles: int) -> None:
    drawn = [
        heatmap_panel(run, title=title, note=f"{num_needles} needles a cell")
        for title, run in panels
    ]
    load("longva_eval.reports.heatmap:save_heatmaps")(drawn, path, path.with_suffix(".svg"))


def _sweep(session: Session, rows: Sequence[dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    session.encoder.keep_all = False
    journal = Journal(out / "journal", journal_settings(session.describe()))
    total = len(rows) * len(_SWEEP_FRAMES)
    with journal, progress_bar(total, "Frame sweep", unit="question") as bar:
        answers = run_frame_sweep(
            session,
            rows,
            out / "mini_benchmark",
            _SWEEP_FRAMES,
            journal=journal,
            on_answer=lambda: bar.update(1),
        )
    sweep = sweep_rows(answers)
    text = "".join(json.dumps(vars(answer), ensure_ascii=False) + "\n" for answer in answers)
    (out / "frame_sweep_samples.jsonl").write_text(text, encoding="utf-8")
    (out / "frame_sweep.json").write_text(json.dumps(sweep, indent=2) + "\n", encoding="utf-8")
    journal.finish(remove=True)
    paths = [out / "frame_sweep.png", out / "frame_sweep.svg"]
    load("longva_eval.reports.curve:save_curve")(
        sweep, *paths, title=f"{session.checkpoint.source} on the mini benchmark", chance=0.25
    )
    return sweep
