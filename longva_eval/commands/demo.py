"""`longva-eval demo`: the suite's main job on what ships with it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from longva_eval import embedded
from longva_eval.cli import load
from longva_eval.commands.niah import draw, run_and_write
from longva_eval.needle import NeedleGrid
from longva_eval.needle_media import load_needles, open_haystack
from longva_eval.session import open_session

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Run V-NIAH offline: embedded model, video and needles."""
    parser = argparse.ArgumentParser(
        prog="longva-eval demo",
        description="V-NIAH on the embedded model, video and needles; no network, no GPU.",
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder (out/demo)")
    options = parser.parse_args(arguments)
    name = next(iter(embedded.CHECKPOINTS))
    needles = load_needles(embedded.NEEDLES)[:6]
    haystack = open_haystack([embedded.HAYSTACK])
    grid = NeedleGrid(frame_counts=(4, 8, 16, 24), depths=(0.0, 0.25, 0.5, 0.75, 1.0))
    print(
        f"V-NIAH: {len(needles)} pictures hidden in {embedded.HAYSTACK.name} "
        f"({len(haystack.frames):,} frames at one a second), asked of {name}."
    )
    session = open_session(name, dtype="float32", device="cpu", pool_stride=2)
    run = run_and_write(session, haystack, needles, grid, options.out)
    draw(run, title=name, note=f"{len(needles)} needles a cell")
    print()
    print(load("longva_eval.reports.heatmap:accuracy_table")(run.rows))
    print(f"\nLook at {options.out / 'heatmap.png'}")
    return 0
