"""`longva-eval view`: a folder of runs in the browser."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from longva_eval.reports.page.view import FolderView, serve

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Show a folder of runs until it is stopped."""
    parser = argparse.ArgumentParser(
        prog="longva-eval view",
        description="The page of all runs below a folder, up to date while they answer. It is "
        "served to this machine only, and asks no other.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="an --output_path, or above it")
    parser.add_argument("--port", type=int, default=0, help="(a free one)")
    parser.add_argument(
        "--media",
        action="append",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="where videos and pictures lie that are not in DIR; may be given several times",
    )
    options = parser.parse_args(arguments)
    with serve(FolderView(options.folder, options.media), options.port) as server:
        print(f"http://127.0.0.1:{server.server_port}/   (Ctrl-C ends it)", flush=True)
        server.serve_forever()
    return 0
