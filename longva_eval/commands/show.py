"""`longva-eval show`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence

from longva_eval.reports.reading.runs import read_run
from longva_eval.reports.tables.overview import show_failed, show_question, show_run

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Show a run in the terminal."""
    parser = argparse.ArgumentParser(
        prog="longva-eval show",
        description="A run of lmms-eval, of any of its models: what was run, scores with "
        "intervals, outcomes, and what to know before using the numbers.",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a results file, a samples file, or a folder (--output_path of lmms-eval)",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--failed", action="store_true", help="list every question that failed or was not answered"
    )
    choice.add_argument("--question", metavar="ID", help="show one question and its answer")
    options = parser.parse_args(arguments)
    run = read_run(options.run)
    width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
    if options.question is not None:
        text = show_question(run, options.question, width=width)
    elif options.failed:
        text = show_failed(run, width=width)
    else:
        text = show_run(run, width=width)
    print(text, end="")
    return 0
