"""Where the needles of V-NIAH stand: lengths, and depths or fixed positions. No torch.

The haystack is the first N frames of one or several videos at one frame a second. A needle picture
is inserted before frame `int(depth * N)`, so that the model sees N + 1 frames.

Source: LongVA, arXiv:2406.16852 section 4; repository commit f4c8781, `vision_niah/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from longva_eval.errors import SettingsError

__all__ = ["LatticeGrid", "NeedleCell", "NeedleGrid", "insert_index"]


@dataclass(frozen=True, kw_only=True)
class NeedleCell:
    """A place in a grid."""

    num_frames: int
    """Haystack length, in frames, the needle not counted."""
    depth: float
    """Needle position: 0.0 before the first frame, 1.0 after the last."""
    insert_index: int
    """The haystack frame that the needle stands before."""


@dataclass(frozen=True, kw_only=True)
class NeedleGrid:
    """Haystack lengths and needle depths, as in the paper."""

    frame_counts: tuple[int, ...]
    depths: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_frame_counts(self.frame_counts)
        if not self.depths:
            raise SettingsError("A needle grid needs at least one depth.")
        if not all(0 <= depth <= 1 for depth in self.depths):
            raise SettingsError(f"depths={list(self.depths)} must lie between 0 and 1.")

    def cells(self) -> list[NeedleCell]:
        """All places, lengths first, in the original's order."""
        return [
            NeedleCell(num_frames=count, depth=depth, insert_index=insert_index(count, depth))
            for count in self.frame_counts
            for depth in self.depths
        ]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "depths",
            "frames": list(self.frame_counts),
            "depths": list(self.depths),
            "insert_rule": "int(depth * num_frames); num_frames + 1 frames in all",
        }


@dataclass(frozen=True, kw_only=True)
class LatticeGrid:
    """Needles at absolute positions: every multiple of a step, in every length beyond it.

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

    def cells(self) -> list[NeedleCell]:
        """All places, lengths first."""
        return [
            NeedleCell(num_frames=count, depth=index / count, insert_index=index)
            for count in self.frame_counts
            for index in range(0, count + 1, self.step)
        ]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "lattice",
            "frames": list(self.frame_counts),
            "step": self.step,
            "insert_rule": "multiples of step; num_frames + 1 frames in all",
        }


def _check_frame_counts(frame_counts: Sequence[int]) -> None:
    if not frame_counts:
        raise SettingsError("A needle grid needs at least one frame count.")
    if min(frame_counts) < 1:
        raise SettingsError(f"frames={min(frame_counts)} must be at least 1.")


def insert_index(num_frames: int, depth: float) -> int:
    """The haystack frame that the needle stands before; truncated, as in the original."""
    return int(depth * num_frames)
