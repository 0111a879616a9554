"""`longva-eval report`: runs become one page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from longva_eval.files import check_output
from longva_eval.reports.page.page import write_page

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Write one self-contained page about runs."""
    parser = argparse.ArgumentParser(
        prog="longva-eval report",
        description="One HTML file about one or several runs: scores with intervals, curves, "
        "needle heatmaps, and every question with the frames the model saw. It needs no network "
        "and no server; send it around.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a results file of lmms-eval, a folder with one (--output_path), or the folder of "
        "longva-eval niah or of a study (longva-eval sweep); the first is what the others are "
        "compared with",
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="(report.html)")
    parser.add_argument("--title", default="", help="of the page; made from the runs if left out")
    parser.add_argument(
        "--media",
        action="append",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="where videos and pictures lie that are not in the runs' own folders: no other file "
        "is put into the page; may be given several times",
    )
    parser.add_argument("--no-film", action="store_true", help="leave the film strips out")
    parser.add_argument(
        "--film-mb",
        type=float,
        default=26.0,
        metavar="MB",
        help="most that all film strips may add to the page (26)",
    )
    options = parser.parse_args(arguments)
    check_output(options.out)
    lines = write_page(
        options.runs,
        options.out,
        title=options.title,
        media=options.media,
        film_megabytes=0.0 if options.no_film else options.film_mb,
    )
    print("\n".join(lines))
    return 0
