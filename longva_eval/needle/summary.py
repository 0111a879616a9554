"""What a needle grid says beside its mean.

Intervals, how far it reaches, and what the questions are worth where the needle is never seen.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from longva_eval.needle.controls import CONTROLS
from longva_eval.needle.media import Needle
from longva_eval.needle.results import NeedleAnswer
from longva_eval.stats import effective_frames, wilson_interval

__all__ = ["summarize_grid"]


def summarize_grid(answers: Sequence[NeedleAnswer], needles: Sequence[Needle]) -> dict[str, Any]:
    """What `summary.json` holds.

    Args:
        answers: All of a run, of controls and rotated needles too.
        needles: Those that were asked, in the numbering of the answers.

    Returns:
        `columns`: for each length, needles found, asked, and the Wilson interval of the share;
        `effective_frames`: the longest length up to which the lower bound stays above 85 % of the
        score on the needle alone (None without controls); `controls` (None without); `circular`
        (None where no needle has rotated options).
    """
    plain = [answer for answer in answers if not answer.rotation]
    columns = _columns(answer for answer in plain if answer.control is None)
    controls = _controls([answer for answer in plain if answer.control])
    reach = None
    if controls is not None:
        found = effective_frames(columns, needle_only=controls["needle_only"])
        reach = {
            "frames": found.frames,
            "is_at_least": found.is_at_least,
            "threshold": found.threshold,
        }
    return {
        "columns": {
            str(count): {
                "found": right,
                "asked": asked,
                "interval": list(wilson_interval(right, asked)),
            }
            for count, (right, asked) in columns.items()
        },
        "effective_frames": reach,
        "controls": controls,
        "circular": _circular([answer for answer in answers if not answer.control], needles),
    }


def _columns(cells: Iterable[NeedleAnswer]) -> dict[int, tuple[int, int]]:
    columns: dict[int, tuple[int, int]] = {}
    for cell in cells:
        right, asked = columns.get(cell.num_frames, (0, 0))
        columns[cell.num_frames] = right + cell.correct, asked + 1
    return columns


def _controls(results: Sequence[NeedleAnswer]) -> dict[str, Any] | None:
    """Shares of right answers, and which needles are known without being seen.

    Those are answered blind, or in at least half of the clean haystacks.
    """
    if not results:
        return None
    shares = {
        control.replace(" ", "_"): _mean(r.correct for r in results if r.control == control)
        for control in CONTROLS
    }
    by_frames: dict[int, list[bool]] = {}
    known = []
    for number in sorted({result.needle for result in results}):
        mine = [result for result in results if result.needle == number]
        clean = [result for result in mine if result.control == "no needle"]
        for result in clean:
            by_frames.setdefault(result.num_frames, []).append(result.correct)
        blind = any(result.correct for result in mine if result.control == "blind")
        if blind or _mean(result.correct for result in clean) >= 0.5:
            known.append(mine[0].needle_name)
    return {
        **shares,
        "no_needle_by_frames": {str(count): _mean(right) for count, right in by_frames.items()},
        "known_without_seeing": known,
    }


def _circular(cells: Sequence[NeedleAnswer], needles: Sequence[Needle]) -> dict[str, Any] | None:
    """Lettered needles: the share found as they are, and with every rotation of their options."""
    groups: dict[Hashable, list[bool]] = {}
    original = -1
    family = []
    for number, needle in enumerate(needles):
        original = original if needle.rotation else number
        family.append(original)
    lettered = {family[number] for number, needle in enumerate(needles) if needle.rotation}
    plain = []
    for cell in cells:
        if family[cell.needle] in lettered:
            place = cell.num_frames, cell.insert_index, cell.depth, family[cell.needle]
            groups.setdefault(place, []).append(cell.correct)
            if cell.needle in lettered:
                plain.append(cell.correct)
    if not groups:
        return None
    return {
        "num_needles": len(lettered),
        "as_they_are": _mean(plain),
        "all_rotations": _mean(all(right) for right in groups.values()),
    }


def _mean(values: Iterable[bool]) -> float:
    held = list(values)
    return sum(held) / len(held)
