"""Where the pictures of a needle test stand: lengths, depths, spreads or stated places. No torch.

The haystack is the first N frames of one or several videos at one frame a second, and pictures are
inserted into it. V-NIAH's needle stands before frame `int(depth * N)`, so that the model sees N + 1
frames (LongVA, arXiv:2406.16852 section 4; repository commit f4c8781, `vision_niah/`).

Tests with several pictures have a *spread*, the part of the haystack over which they are
distributed evenly, and a depth, where in the haystack that part lies: 0 is as early as it can be, 1
as late. No picture is the first or the last of the video, which are easy places. What cannot hold
its test (distractors on both sides, pictures with frames between them) is refused, with the reason.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeVar

from longva_eval.errors import SettingsError
from longva_eval.needle.items import Item, ItemSettings
from longva_eval.needle.results import Control

__all__ = [
    "Cell",
    "LatticeGrid",
    "Layout",
    "NeedleGrid",
    "Places",
    "Placing",
    "TestGrid",
    "arrange",
    "controls_of",
    "insert_index",
    "seconds_shown",
]

Frame = TypeVar("Frame")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One question: which item, and which frames are shown."""

    item: int
    num_frames: int
    """Haystack length, in frames, inserted pictures not counted."""
    depth: float | None = None
    """0.0 at the start, 1.0 at the end; None in a control."""
    spread: float | None = None
    """Part of the haystack over which the pictures are distributed; None for one picture."""
    insert_indices: tuple[int, ...] = ()
    """For each needle, the haystack frame that it stands before."""
    distractor_indices: tuple[int, ...] = ()
    """As `insert_indices`."""
    control: Control | None = None

    def __post_init__(self) -> None:
        for name in ("insert_indices", "distractor_indices"):
            indices = getattr(self, name)
            if list(indices) != sorted(indices) or not all(
                0 <= index <= self.num_frames for index in indices
            ):
                raise SettingsError(
                    f"{name}={list(indices)} must ascend and lie between 0 and "
                    f"num_frames={self.num_frames}."
                )


class Places(NamedTuple):
    """Where the pictures of an item stand."""

    insert_indices: tuple[int, ...]
    distractor_indices: tuple[int, ...] = ()


Placing = Literal["evenly", "together", "among distractors"]
"""How the pictures of an item stand: at equal distances over the spread; one after the other; or
one needle, with distractors before every n-th haystack frame."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The cells of a grid, one at least, and those that could not be made."""

    cells: list[Cell]
    refused: list[str] = field(default_factory=list)
    """Which place, and why."""

    def __post_init__(self) -> None:
        if not self.cells:
            raise SettingsError(
                "No cell of this grid can hold the test:\n  " + "\n  ".join(self.refused[:8])
            )

    def in_whole_units(self, size: int) -> Layout:
        """For a model that encodes `size` frames together: a picture fills a unit, before another.

        The first unit stays before what stood behind the first frame. Refused are haystacks that
        are not made of whole units, and pictures that meet in one.

        Raises:
            SettingsError: If no cell is left.
        """
        made, refused = [], dict.fromkeys(self.refused)

        def whole(places: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(max(place // size * size, min(place, 1) * size) for place in places)

        for cell in self.cells:
            moved = replace(
                cell,
                insert_indices=whole(cell.insert_indices),
                distractor_indices=whole(cell.distractor_indices),
            )
            asked, got = ((*c.insert_indices, *c.distractor_indices) for c in (cell, moved))
            if cell.num_frames % size == 0 and len(set(got)) == len(set(asked)):
                made.append(moved)
                continue
            why = (
                f"{cell.num_frames} frames with pictures before {asked}: this model sees {size} "
                f"frames at once; lengths must be multiples of {size}, pictures {size} frames apart"
            )
            refused[why] = None
        return Layout(cells=made, refused=list(refused))


def insert_index(num_frames: int, depth: float) -> int:
    """The haystack frame that V-NIAH's needle stands before; truncated, as in the original."""
    return int(depth * num_frames)


def _evenly(item: Item, num_frames: int, depth: float, spread: float) -> Places:
    count = len(item.order)
    room = num_frames - 2  # the first and the last frame stay the haystack's
    width = round(spread * room) if count > 1 else 0
    if room < 0 or width < count - 1:
        raise SettingsError(
            f"spread {spread:g} has no room for {count} pictures with a frame between them"
        )
    start = 1 + round(depth * (room - width))
    places = [start + round(number * width / max(count - 1, 1)) for number in range(count)]
    return _split(item, places)


def _together(item: Item, num_frames: int, depth: float) -> Places:
    if num_frames < 2:
        raise SettingsError("a clip needs a frame before it and one after it")
    return _split(item, [1 + round(depth * (num_frames - 2))] * len(item.order))


def _among_distractors(num_frames: int, depth: float, period: int) -> Places:
    place = 1 + round(depth * (num_frames - 2))
    distractors = tuple(range(period, num_frames, period))
    for side, has_one in (
        ("before", any(index <= place for index in distractors)),
        ("after", any(index > place for index in distractors)),
    ):
        if not has_one:
            raise SettingsError(f"there is no distractor {side} the needle (period {period})")
    return Places((place,), distractors)


def _split(item: Item, places: Sequence[int]) -> Places:
    pairs = list(zip(item.order, places, strict=True))
    return Places(
        tuple(place for kind, place in pairs if kind == "N"),
        tuple(place for kind, place in pairs if kind == "D"),
    )


class _OneNeedle(abc.ABC):
    """A grid of one needle."""

    @abc.abstractmethod
    def places(self) -> list[tuple[int, float, int]]:
        """Number of frames, depth and index; lengths first, in the original's order."""

    def lay_out(self, items: Sequence[Item]) -> Layout:
        """All items at all places."""
        return Layout(
            cells=[
                Cell(item=number, num_frames=count, depth=depth, insert_indices=(index,))
                for count, depth, index in self.places()
                for number in range(len(items))
            ]
        )


@dataclass(frozen=True, kw_only=True)
class NeedleGrid(_OneNeedle):
    """Haystack lengths and depths of one needle, as in the paper."""

    frame_counts: tuple[int, ...]
    depths: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_frame_counts(self.frame_counts)
        _check_fractions("depths", self.depths)

    def places(self) -> list[tuple[int, float, int]]:
        return [(n, d, insert_index(n, d)) for n in self.frame_counts for d in self.depths]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "depths",
            "frames": list(self.frame_counts),
            "depths": list(self.depths),
            "insert_rule": "int(depth * num_frames); num_frames + 1 frames in all",
        }


@dataclass(frozen=True, kw_only=True)
class LatticeGrid(_OneNeedle):
    """One needle at absolute positions: every multiple of a step, in every length beyond it.

    The paper's depths put the needle of each length somewhere else, so that lengths share only what
    comes before. Here all lengths share their needles, and one growing video per needle and
    position serves them all: at a step of 200 up to 3,000 frames a cell costs a seventh
    (docs/performance.md). It also separates where a needle stands from how much follows it.
    """

    frame_counts: tuple[int, ...]
    step: int
    """Insertion indices are 0, step, 2 * step, ... up to the length."""

    def __post_init__(self) -> None:
        _check_frame_counts(self.frame_counts)
        if self.step < 1:
            raise SettingsError(f"lattice={self.step} must be at least 1 frame.")

    def places(self) -> list[tuple[int, float, int]]:
        return [(n, i / n, i) for n in self.frame_counts for i in range(0, n + 1, self.step)]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "lattice",
            "frames": list(self.frame_counts),
            "step": self.step,
            "insert_rule": "multiples of step; num_frames + 1 frames in all",
        }


@dataclass(frozen=True, kw_only=True)
class TestGrid:
    """Lengths, depths and spreads of a drawn test; or lengths and stated places."""

    __test__ = False  # not a test of pytest's

    frame_counts: tuple[int, ...]
    depths: tuple[float, ...] = (0.0, 0.5, 1.0)
    spreads: tuple[float, ...] = (0.5,)
    at: tuple[int, ...] = ()
    """Insertion indices of all pictures, the same in every length beyond: instead of depths and
    spreads. Lengths of an item are then prefixes of each other. Depth is the first place's, whether
    a needle or a distractor stands there, which may be the answer."""
    place: Placing = "evenly"
    settings: ItemSettings

    def __post_init__(self) -> None:
        _check_frame_counts(self.frame_counts)
        _check_fractions("depths", self.depths)
        _check_fractions("spread", self.spreads)
        if list(self.at) != sorted(set(self.at)) or (self.at and self.at[0] < 1):
            raise SettingsError(f"at={list(self.at)} must ascend, from 1 or more.")

    def lay_out(self, items: Sequence[Item]) -> Layout:
        """All items at all places that can hold them; places that coincide are one."""
        cells: dict[tuple[Any, ...], Cell] = {}
        refused: dict[str, None] = {}
        depths, spreads = ((0.0,), (0.0,)) if self.at else (self.depths, self.spreads)
        for count, depth, spread in itertools.product(self.frame_counts, depths, spreads):
            for number, item in enumerate(items):
                where = f"{count} frames" if self.at else f"{count} frames, depth {depth:g}"
                try:
                    places = self._places(item, count, depth, spread)
                except SettingsError as error:
                    refused[f"{where}: {error}"] = None
                    continue
                several = len(item.order) > 1 and not self.at
                cell = Cell(
                    item=number,
                    num_frames=count,
                    depth=self.at[0] / count if self.at else depth,
                    spread=spread if several else None,
                    **places._asdict(),
                )
                cells.setdefault((number, count, *places), cell)
        return Layout(cells=list(cells.values()), refused=list(refused))

    def _places(self, item: Item, count: int, depth: float, spread: float) -> Places:
        if not self.at:
            if self.place == "evenly":
                return _evenly(item, count, depth, spread)
            if self.place == "together":
                return _together(item, count, depth)
            return _among_distractors(count, depth, self.settings.period)
        if len(self.at) != len(item.order):
            raise SettingsError(
                f"at={list(self.at)} states {len(self.at)} places for {len(item.order)} pictures"
            )
        if self.at[-1] >= count:
            raise SettingsError(f"no frame follows the picture before frame {self.at[-1]}")
        return _split(item, self.at)

    def describe(self) -> dict[str, Any]:
        where = (
            {"at": list(self.at)}
            if self.at
            else {"depths": list(self.depths), "spreads": list(self.spreads)}
        )
        return {
            "kind": "places",
            "frames": list(self.frame_counts),
            **where,
            "insert_rule": self.place,
            **self.settings.describe(),
        }


def controls_of(asked: Sequence[Cell], num_items: int) -> list[Cell]:
    """The same questions blind, on their pictures alone, and on clean haystacks as long."""
    cells = []
    frame_counts = dict.fromkeys(cell.num_frames for cell in asked)
    for item in range(num_items):
        cells.append(Cell(item=item, num_frames=0, control="blind"))
        cells.append(Cell(item=item, num_frames=1, control="needle only"))
        cells += [Cell(item=item, num_frames=n, control="no needle") for n in frame_counts]
    return cells


def arrange(
    cell: Cell,
    item: Item,
    haystack: Sequence[Frame],
    needles: Sequence[Frame],
    distractors: Sequence[Frame],
) -> list[Frame]:
    """The frames of a cell, in order.

    Args:
        cell: Where.
        item: What; only its order is used.
        haystack: At least as many frames as the cell has.
        needles: A frame for each needle.
        distractors: A frame for each distractor; shown in turn if there are more places.
    """
    if cell.control == "blind":
        return []
    if cell.control == "needle only":
        left, right = iter(needles), iter(distractors)
        return [next(left) if kind == "N" else next(right) for kind in item.order]
    frames: list[Frame] = []
    at = 0
    for index, is_needle, number in _inserted(cell):
        frames += haystack[at:index]
        at = index
        frames.append(needles[number] if is_needle else distractors[number % len(distractors)])
    return [*frames, *haystack[at : cell.num_frames]]


def seconds_shown(cell: Cell, *, frames_per_unit: int = 1) -> tuple[float, ...]:
    """When each needle is shown in the video of a cell, at one frame a second.

    Args:
        cell: Which.
        frames_per_unit: How many frames are encoded together. A picture fills such a unit, and the
            last frames before a picture are repeated to fill theirs.
    """
    shown: dict[int, float] = {}
    units = before = 0
    for index, is_needle, number in _inserted(cell):
        units += -(-(index - before) // frames_per_unit)
        before = index
        if is_needle:
            shown[number] = float(units * frames_per_unit)
        units += 1
    return tuple(shown[number] for number in sorted(shown))


def _inserted(cell: Cell) -> list[tuple[int, bool, int]]:
    """Index, whether it is a needle, and its number, as shown; at one index distractors first."""
    needles = [(index, True, number) for number, index in enumerate(cell.insert_indices)]
    others = [(index, False, number) for number, index in enumerate(cell.distractor_indices)]
    return sorted([*others, *needles])


def _check_frame_counts(frame_counts: Sequence[int]) -> None:
    if not frame_counts:
        raise SettingsError("A needle grid needs at least one frame count.")
    if min(frame_counts) < 1:
        raise SettingsError(f"frames={min(frame_counts)} must be at least 1.")


def _check_fractions(name: str, values: Sequence[float]) -> None:
    if not values:
        raise SettingsError(f"A needle grid needs at least one {name.removesuffix('s')}.")
    if not all(0 <= value <= 1 for value in values):
        raise SettingsError(f"{name}={list(values)} must lie between 0 and 1.")
