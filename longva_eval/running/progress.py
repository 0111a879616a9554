"""Progress bars that suit a terminal as well as a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

__all__ = ["progress_bar"]

_LOG_SECONDS = 15.0


def progress_bar(total: int, what: str, *, unit: str, disable: bool = False) -> Any:
    """A tqdm bar for what takes longer than a second; in a file, a line every 15 seconds."""
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        disable=disable,
        mininterval=0.1 if sys.stderr.isatty() else _LOG_SECONDS,
        dynamic_ncols=True,
        delay=1.0,
    )
