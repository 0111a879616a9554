"""Needle results on disk: reading the rows of a grid from every form they come in. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from longva_eval.errors import MediaError

__all__ = ["mean_by_place", "read_accuracies"]

_KEYS = ("Num. Frame", "Frame Depth", "Score")
_SAMPLE_METRIC = "vniah_accuracy"


def mean_by_place(cells: Iterable[tuple[int, float, bool]]) -> list[dict[str, float]]:
    """The rows of `all_accuracies.json`: the share of needles found at each place.

    Args:
        cells: Number of frames, depth (0 to 1) and whether the needle was found, one per needle.

    Returns:
        `Num. Frame`, `Frame Depth` (percent, to a tenth) and `Score`, in the order first seen.
        The original rounds depths to tens, which gives two depths one name when they are 25 %
        apart (docs/differences.md).
    """
    found: dict[tuple[int, float], list[bool]] = {}
    for num_frames, depth, correct in cells:
        found.setdefault((num_frames, round(depth * 100, 1)), []).append(correct)
    return [
        {"Num. Frame": num_frames, "Frame Depth": depth, "Score": sum(correct) / len(correct)}
        for (num_frames, depth), correct in found.items()
    ]


def read_accuracies(path: str | Path) -> list[dict[str, float]]:
    """Rows of a needle grid from a file.

    Args:
        path: `all_accuracies.json` (ours or the original's); `cells.jsonl`; or the samples file
            that lmms-eval wrote for a vniah task.

    Raises:
        MediaError: If the file is missing or holds anything else.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MediaError(f"{path} does not exist.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{path} cannot be read: {error}") from error
    if path.suffix == ".jsonl":
        return mean_by_place(_cells(text, path))
    rows = _parse(text, str(path))
    if not isinstance(rows, list) or not rows:
        raise MediaError(f"{path} must be a list of rows with {', '.join(_KEYS)}.")
    if isinstance(rows[0], dict) and "Insert Index" in rows[0] and _KEYS[1] not in rows[0]:
        raise MediaError(
            f"{path} has the accuracies of a lattice by absolute position, not by depth. Those by "
            f"depth are in {path.with_name('all_accuracies.json')}; a heatmap by position is the "
            "heatmap.png that longva-eval niah drew beside it."
        )
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not all(_is_number(row.get(key)) for key in _KEYS):
            raise MediaError(f"{path}: row {number} must have numbers as {', '.join(_KEYS)}.")
        if not 0 <= row["Score"] <= 1:
            raise MediaError(f"{path}: row {number} has Score={row['Score']}, not within 0 and 1.")
    return [{key: float(row[key]) for key in _KEYS} for row in rows]


def _cells(text: str, path: Path) -> list[tuple[int, float, bool]]:
    cells = []
    # Not splitlines(), which also ends lines at U+2028 and others that JSON leaves as they are.
    lines = text.removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, start=1):
        place = f"{path}, line {number}"
        row = _parse(line, place)
        if isinstance(row, Mapping) and isinstance(row.get(_SAMPLE_METRIC), Mapping):
            row = row[_SAMPLE_METRIC]
        if not isinstance(row, Mapping):
            raise MediaError(f"{place}: not a needle cell.")
        correct = row.get("correct", row.get("score"))
        if not (_is_number(row.get("num_frames")) and _is_number(row.get("depth"))) or not (
            isinstance(correct, bool) or correct in (0, 1)
        ):
            raise MediaError(f"{place}: not a needle cell with num_frames, depth and correct.")
        cells.append((int(row["num_frames"]), float(row["depth"]), bool(correct)))
    if not cells:
        raise MediaError(f"{path} is empty.")
    return cells


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits, too
        raise MediaError(f"{place} is not valid JSON: {error}") from error


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond floats
        return False
