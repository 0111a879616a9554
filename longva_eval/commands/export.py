"""`longva-eval export`: a run as a log of another viewer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from longva_eval.reports.inspect_log import write_inspect_logs

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Write logs of inspect_ai, one a task."""
    parser = argparse.ArgumentParser(
        prog="longva-eval export",
        description="A run as logs that inspect_ai's own viewer opens (inspect view --log-dir "
        "OUT): samples, scores and the frames the model saw.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="as for longva-eval report")
    parser.add_argument("--to", choices=("inspect",), required=True, help="the form of the logs")
    parser.add_argument("--out", type=Path, default=Path("logs"), help="folder (logs)")
    parser.add_argument(
        "--media",
        action="append",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="where videos and pictures lie that are not in the run's own folder",
    )
    parser.add_argument("--no-film", action="store_true", help="leave the frames out")
    options = parser.parse_args(arguments)
    files, note = write_inspect_logs(
        options.run,
        options.out,
        media=options.media,
        film_megabytes=0.0 if options.no_film else 200.0,
    )
    print("\n".join([*(f"Wrote {file}" for file in files), note]))
    return 0
