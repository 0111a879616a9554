"""What a needle grid says beside its mean.

Intervals, how far it reaches, and what the questions are worth where the needle is never seen.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from longva_eval.needle.controls import CONTROLS
from longva_eval.needle.results import NeedleAnswer
from longva_eval.stats import EffectiveFrames, effective_frames, estimate_mean

__all__ = ["original", "summarize_grid", "summary_text", "unanswerable"]


def summarize_grid(answers: Sequence[NeedleAnswer]) -> dict[str, Any]:
    """What `summary.json` holds.

    Args:
        answers: All of a run, of controls and rotated items too.

    Returns:
        `columns`: for each length, items found, asked, the interval of the share (clustered by
        item), and the guess floor (None where answers are no closed set); `effective_frames`: the
        longest length up to which the lower bound stays above 85 % of the score on the needle alone
        (None without controls); `controls` (None without); `circular` (None where no item has
        rotated options); `without_known`: columns and effective frames once more without the items
        that are answered without being seen (None if there are none).
    """
    plain = [answer for answer in answers if not answer.rotation]
    controls = _controls([answer for answer in plain if answer.control])
    known = _known([answer for answer in plain if answer.control])
    unknown = [answer for answer in plain if answer.needle not in known]
    return {
        **_reach(plain),
        "controls": None
        if controls is None
        else controls | {"known_without_seeing": [*known.values()]},
        "circular": _circular([answer for answer in answers if not answer.control]),
        "without_known": _reach(unknown) if known and unknown else None,
    }


def unanswerable(answers: Sequence[NeedleAnswer], *, least: float) -> dict[int, float]:
    """Items (`original`) whose score on their pictures alone, over rotations, is below `least`."""
    alone: dict[int, list[bool]] = {}
    for answer in answers:
        if answer.control == "needle only":
            alone.setdefault(original(answer), []).append(answer.correct)
    return {number: _mean(right) for number, right in alone.items() if _mean(right) < least}


def original(answer: NeedleAnswer) -> int:
    """The item whose options were rotated, or the item itself: rotations follow it in the list."""
    return answer.needle - answer.rotation


def _reach(answers: Sequence[NeedleAnswer]) -> dict[str, Any]:
    columns: dict[int, list[NeedleAnswer]] = {}
    for answer in answers:
        if answer.control is None:
            columns.setdefault(answer.num_frames, []).append(answer)
    scores = {n: [(a.needle, float(a.correct)) for a in column] for n, column in columns.items()}
    alone = [answer.correct for answer in answers if answer.control == "needle only"]
    # Where the pictures alone are not enough, no length can be said to lose anything.
    floor = _floor(answers) or 0.0
    can_tell = bool(alone and scores) and _mean(alone) > floor
    reach = effective_frames(scores, needle_only=_mean(alone)) if can_tell else None
    return {
        "columns": {
            str(count): {
                "found": int(sum(score for _, score in pairs)),
                "asked": len(pairs),
                "interval": _interval(pairs),
                "floor": _floor(columns[count]),
            }
            for count, pairs in scores.items()
        },
        "effective_frames": None if reach is None else asdict(reach),
    }


def _interval(pairs: Sequence[tuple[int, float]]) -> list[float]:
    """By needle: one needle at six depths is not six draws."""
    found = estimate_mean([score for _, score in pairs], [needle for needle, _ in pairs])
    return [found.interval.low, found.interval.high]


def _floor(answers: Sequence[NeedleAnswer]) -> float | None:
    floors = [answer.floor for answer in answers if answer.floor is not None]
    return sum(floors) / len(floors) if len(floors) == len(answers) else None


def _controls(results: Sequence[NeedleAnswer]) -> dict[str, Any] | None:
    """Shares of right answers under each control."""
    if not results:
        return None
    by_frames: dict[int, list[bool]] = {}
    for result in results:
        if result.control == "no needle":
            by_frames.setdefault(result.num_frames, []).append(result.correct)
    return {
        **{
            control.replace(" ", "_"): _mean(r.correct for r in results if r.control == control)
            for control in CONTROLS
        },
        "no_needle_by_frames": {str(count): _mean(right) for count, right in by_frames.items()},
    }


def _known(results: Sequence[NeedleAnswer]) -> dict[int, str]:
    """Items that are known without being seen, with their names.

    Those are answered blind, or in at least half of the clean haystacks. Where answers are a closed
    set a guess is right once in a while, so both are required.
    """
    known = {}
    for number in sorted({result.needle for result in results}):
        mine = [result for result in results if result.needle == number]
        blind = any(result.correct for result in mine if result.control == "blind")
        often = _mean(result.correct for result in mine if result.control == "no needle") >= 0.5
        if (blind and often) if mine[0].floor else (blind or often):
            known[number] = mine[0].needle_name
    return known


def _circular(cells: Sequence[NeedleAnswer]) -> dict[str, Any] | None:
    """Lettered items: the share found as they are, and with every rotation of their options."""
    lettered = {original(cell) for cell in cells if cell.rotation}
    groups: dict[Hashable, list[bool]] = {}
    plain = []
    for cell in cells:
        if original(cell) in lettered:
            # Not by index alone: two depths of a short video can share one.
            place = cell.num_frames, cell.insert_indices, cell.depth, original(cell)
            groups.setdefault(place, []).append(cell.correct)
            if not cell.rotation:
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


def summary_text(summary: Mapping[str, Any]) -> str:
    """The conclusions of `summary.json` in a few lines."""
    lines = []
    reach, controls, circular = (
        summary[name] for name in ("effective_frames", "controls", "circular")
    )
    if reach is not None:
        found = EffectiveFrames(**reach)
        lines.append(
            f"Effective frames: {found} (lower bound above {100 * found.threshold:.0f} % over "
            f"{found.num_needles} needles)"
        )
    if controls is not None:
        lines.append(
            f"Needle only {100 * controls['needle_only']:.1f} %, no needle "
            f"{100 * controls['no_needle']:.1f} %, blind {100 * controls['blind']:.1f} %"
        )
        if controls["known_without_seeing"]:
            names = ", ".join(controls["known_without_seeing"])
            lines.append(f"Answered without being seen, so they prove nothing: {names}")
        others = summary.get("without_known")
        if others is not None:
            shares = (
                f"{int(frames):,} frames {100 * column['found'] / column['asked']:.1f} %"
                for frames, column in others["columns"].items()
            )
            lines.append(f"Without them: {', '.join(shares)}")
    floors = {column.get("floor") for column in summary["columns"].values()} - {None}
    if floors:
        lines.append(f"Guessing: {100 * max(floors):.1f} %")
    if summary.get("left_out"):
        names = ", ".join(summary["left_out"])
        lines.append(f"Left out, not answered on their pictures alone: {names}")
    refused = summary.get("refused_cells") or []
    if refused:
        lines.append(f"{len(refused)} places cannot hold the test, as {refused[0]}")
    if circular is not None:
        lines.append(
            f"{circular['num_needles']} lettered needles: {100 * circular['as_they_are']:.1f} %; "
            f"right for every rotation of their options {100 * circular['all_rotations']:.1f} %"
        )
    return "\n".join(lines)
