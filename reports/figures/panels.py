"""What figures show, whoever draws them: matplotlib for papers, a template for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["CurveLine", "CurvePanel", "GridCell", "GridPanel"]


@dataclass(frozen=True, kw_only=True)
class CurveLine:
    """One line: scores from 0 to 1 at numbers of frames."""

    label: str
    """In the legend; `short`, `medium`, `long` and `overall` have colours of their own."""
    frames: Sequence[int]
    means: Sequence[float]
    intervals: Sequence[tuple[float, float]] = ()
    """A band around the line; none for published numbers, which have no samples."""
    plateau: int | None = None
    """Number of frames from which on it rises no more: its point is ringed."""
    is_published: bool = False
    """Drawn thin, with open markers, in the colour of the line of the same label."""


@dataclass(frozen=True, kw_only=True)
class CurvePanel:
    """Lines on one pair of axes."""

    title: str
    lines: Sequence[CurveLine]
    chance: float | None = None
    """Score of guessing."""
    floors: Mapping[str, float] = field(default_factory=dict)
    """Scores without a number of frames, by name, as of the question without its video."""


@dataclass(frozen=True, kw_only=True)
class GridCell:
    """A share from 0 to 1 at a place of a grid, with its interval if it has one."""

    share: float
    interval: tuple[float, float] | None = None
    title: str = ""
    """What a screen says of it, in words."""


@dataclass(frozen=True, kw_only=True)
class GridPanel:
    """Shares by row and column, as needles by depth and length."""

    title: str
    rows: Sequence[str]
    """From the top."""
    columns: Sequence[str]
    cells: Mapping[tuple[str, str], GridCell]
    """By row and column; what is missing was not asked."""
    row_title: str
    column_title: str
    row_apart: str = ""
    """A last row that stands apart from the others, as the haystack without a needle."""
    note: str = ""
    """Small print below the title."""
