"""`longva-eval heatmap`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from longva_eval.errors import MediaError, SettingsError
from longva_eval.files import check_output
from longva_eval.needle.results import read_accuracies
from longva_eval.reports.figures.heatmap import mean_accuracy, needle_grid, save_heatmaps

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Draw one or several needle grids in one figure with one scale."""
    parser = argparse.ArgumentParser(
        prog="longva-eval heatmap",
        description="Draw V-NIAH results in one figure with one scale, and print their averages.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="folder of longva-eval niah, all_accuracies.json (ours or the original's), "
        "cells.jsonl, or the samples file of an lmms-eval run of a vniah task",
    )
    parser.add_argument("--title", action="append", help="title of each panel, in order")
    parser.add_argument(
        "--out", type=Path, default=Path("heatmap.png"), help="png, svg or pdf (heatmap.png)"
    )
    parser.add_argument(
        "--width",
        choices=("column", "page"),
        default="page",
        help="true width in a two-column paper: 3.3 or 6.9 inches (page)",
    )
    options = parser.parse_args(arguments)
    files = [_file_of(path) for path in options.files]
    titles = options.title or [_title_of(path) for path in files]
    if len(titles) != len(files):
        raise SettingsError(f"{len(titles)} --title were given for {len(files)} files.")
    if options.out.suffix not in (".png", ".svg", ".pdf"):
        raise SettingsError(f"--out {options.out} must end in .png, .svg or .pdf.")
    check_output(options.out)
    panels = []
    for path, title in zip(files, titles, strict=True):
        rows = read_accuracies(path)
        panels.append(needle_grid(rows, title=title))
        print(f"{mean_accuracy(rows):.4f}  {title}  ({path})")
    save_heatmaps(panels, options.out, width=options.width)
    print(f"Wrote {options.out}")
    return 0


def _file_of(path: Path) -> Path:
    """The accuracies of a folder that `longva-eval niah` wrote; other paths as they are."""
    if not path.is_dir():
        return path
    if (path / "all_accuracies.json").is_file():
        return path / "all_accuracies.json"
    below = sorted(str(file.parent) for file in path.glob("*/all_accuracies.json"))
    hint = f" Below it there are, one panel each: {' '.join(below)}" if below else ""
    raise MediaError(
        f"{path} is no folder of a finished longva-eval niah: it has no all_accuracies.json.{hint}"
    )


def _title_of(path: Path) -> str:
    """Name of the folder a result lies in, with its parent's where that is only a setting."""
    folder = path.resolve().parent
    found = re.fullmatch(r"rope_theta_([\d.e+]+)", folder.name)
    if found:
        theta = f"{float(found[1]):g}".replace("e+0", "e")
        return f"{folder.parent.name}, theta {theta}"
    return folder.name
