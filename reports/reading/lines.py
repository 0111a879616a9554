"""Files of JSON, of which what is damaged must not cost the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from longva_eval.errors import MediaError

__all__ = ["Lines", "read_lines", "read_text"]


class Lines(NamedTuple):
    """What was read of a file with a JSON value a line."""

    values: list[Any]
    damaged: list[tuple[int, Exception]]
    """Number, from 1, and what is wrong."""
    last: int
    """Number of the last line that is not empty."""


def read_text(path: Path) -> str:
    """The text of a file, with signs in place of damaged bytes; MediaError if there is none."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error}") from error


def read_lines(path: Path, read: Callable[[Any], Any]) -> Lines:
    """What `read` makes of each line's value; where it raises, the line is damaged."""
    found = Lines([], [], 0)
    last = 0
    # Not splitlines(), which also ends lines at U+2028 and others that JSON leaves as they are.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            last = number
            try:
                found.values.append(read(json.loads(line)))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                found.damaged.append((number, error))
    return found._replace(last=last)
