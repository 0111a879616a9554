"""`longva-eval tasks-path`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from longva_eval.embedded import tasks_folder

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Print the folder of our lmms-eval tasks."""
    parser = argparse.ArgumentParser(
        prog="longva-eval tasks-path",
        description="Print the folder with our lmms-eval task files. `lmms-eval --model ...` finds "
        "them by itself; other commands need: --include_path $(longva-eval tasks-path)",
    )
    parser.parse_args(arguments)
    print(tasks_folder())
    return 0
