"""The figures of the page, as SVG that takes its colours from the page's style.

Numbers in, markup out. Fixed colours are only those of grids; everything else is a class,
so that light and dark are the style sheet's matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from longva_eval.reports.figures.colours import BLACK, colour_of, ink_on
from longva_eval.reports.page.markup import Markup, joined, tag

__all__ = [
    "CurvePoint",
    "HeatCell",
    "curve",
    "difference_bar",
    "heatmap",
    "interval_bar",
    "outcome_bar",
]

_MARKS: Final = ("circle", "square", "triangle", "diamond")


# Bars in tables -----------------------------------------------------------------------------------


def interval_bar(
    value: float, low: float | None, high: float | None, *, run: int, chance: float | None = None
) -> Markup:
    """A share as a bar with its interval; as wide as its place. All from 0 to 1."""
    parts = [tag("rect", class_="track", x=0, y=0, width=100, height=14)]
    parts.append(
        tag("rect", class_=f"run-{run % 8} fill", x=0, y=0, width=round(100 * value, 2), height=14)
    )
    if chance is not None:
        x = round(100 * chance, 2)
        parts.append(tag("line", class_="chance", x1=x, x2=x, y1=0, y2=14))
    if low is not None and high is not None:
        left, right = round(100 * low, 2), round(100 * high, 2)
        for kind in ("halo", "whisker"):
            parts.append(tag("line", class_=kind, x1=left, x2=right, y1=7, y2=7))
            parts.append(tag("line", class_=kind, x1=left, x2=left, y1=3, y2=11))
            parts.append(tag("line", class_=kind, x1=right, x2=right, y1=3, y2=11))
    return _stretched(*parts)


def difference_bar(
    value: float, low: float | None, high: float | None, *, reach: float, run: int
) -> Markup:
    """A difference around 0 with its interval; `reach` is the end of the axis."""

    def x(number: float) -> float:
        return round(50 + 50 * max(-1.0, min(1.0, number / reach)), 2)

    parts = [
        tag("line", class_="ground", x1=0, x2=100, y1=7, y2=7),
        tag("line", class_="zero", x1=50, x2=50, y1=0, y2=14),
    ]
    if low is not None and high is not None:
        parts.append(tag("line", class_=f"run-{run % 8} span", x1=x(low), x2=x(high), y1=7, y2=7))
    parts.append(tag("line", class_="whisker point", x1=x(value), x2=x(value), y1=2, y2=12))
    return _stretched(*parts)


def outcome_bar(counts: Mapping[str, int]) -> Markup:
    """How many questions had which outcome."""
    total = sum(counts.values())
    parts, left = [], 0.0
    for outcome, count in counts.items():
        if count:
            width = 100 * count / total
            parts.append(
                tag(
                    "rect", tag("title", f"{outcome}: {count:,}"), x=round(left, 2), y=0,
                    width=round(width, 2), height=14, class_=f"outcome {outcome.replace(' ', '-')}",
                )
            )  # fmt: skip
            left += width
    return _stretched(*parts)


def _stretched(*parts: Markup) -> Markup:
    return tag(
        "svg", *parts, class_="bar", viewBox="0 0 100 14", preserveAspectRatio="none",
        aria_hidden="true", focusable="false",
    )  # fmt: skip


# Curves -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """A score at a number of frames, in percent."""

    frames: float
    value: float
    low: float
    high: float


_LEFT, _TOP, _WIDTH, _HEIGHT = 58, 14, 520, 250


def curve(
    lines: Mapping[str, Sequence[CurvePoint]],
    *,
    label: str,
    chance: float | None = None,
    classes: Mapping[str, str] | None = None,
) -> Markup:
    """Accuracy against number of frames (on a logarithmic axis), a line for each name.

    Args:
        lines: The points of each line, by name.
        label: What the figure shows, for those who do not see it.
        chance: Score of guessing, in percent.
        classes: The style of each name; its place in `lines` if left out.
    """
    ticks = sorted({point.frames for points in lines.values() for point in points})
    low, high = math.log2(ticks[0]), math.log2(ticks[-1])
    span = high - low or 1.0

    def x(frames: float) -> float:
        return round(_LEFT + 12 + (_WIDTH - 24) * (math.log2(frames) - low) / span, 1)

    def y(percent: float) -> float:
        return round(_TOP + _HEIGHT * (1 - percent / 100), 1)

    parts: list[Markup] = []
    for percent in (0, 25, 50, 75, 100):
        parts.append(
            tag(
                "line", class_="gridline", x1=_LEFT, x2=_LEFT + _WIDTH, y1=y(percent), y2=y(percent)
            )
        )
        parts.append(
            tag("text", f"{percent} %", class_="tick", x=_LEFT - 8, y=y(percent) + 4,
                text_anchor="end")
        )  # fmt: skip
    last = -math.inf
    for frames in ticks:
        if x(frames) - last < 26:  # labels of close ticks would touch
            continue
        last = x(frames)
        parts.append(
            tag("text", f"{frames:g}", class_="tick", x=x(frames), y=_TOP + _HEIGHT + 20,
                text_anchor="middle")
        )  # fmt: skip
    parts.append(
        tag("text", "Frames shown to the model", class_="axis", x=_LEFT + _WIDTH / 2,
            y=_TOP + _HEIGHT + 42, text_anchor="middle")
    )  # fmt: skip
    if chance is not None:
        parts.append(
            tag("line", class_="chance", x1=_LEFT, x2=_LEFT + _WIDTH, y1=y(chance), y2=y(chance))
        )
        parts.append(
            tag(
                "text",
                "guessing",
                class_="tick",
                x=_LEFT + _WIDTH,
                y=y(chance) + 15,
                text_anchor="end",
            )
        )
    for place, (name, points) in enumerate(lines.items()):
        style = (classes or {}).get(name, f"run-{place % 8}")
        upper = [f"{x(p.frames)},{y(p.high)}" for p in points]
        lower = [f"{x(p.frames)},{y(p.low)}" for p in reversed(points)]
        parts.append(tag("polygon", class_=f"band {style}", points=" ".join([*upper, *lower])))
        path = " ".join(f"{x(p.frames)},{y(p.value)}" for p in points)
        parts.append(tag("polyline", class_=f"line {style}", points=path))
        for p in points:
            title = tag(
                "title",
                f"{name}, {p.frames:g} frames: {p.value:.1f} % ({p.low:.1f} to {p.high:.1f})",
            )
            parts.append(_mark(_MARKS[place % 4], x(p.frames), y(p.value), style, title))
    legend, at = [], _LEFT
    for place, name in enumerate(lines):
        style = (classes or {}).get(name, f"run-{place % 8}")
        baseline = _TOP + _HEIGHT + 70
        legend.append(_mark(_MARKS[place % 4], at + 6, baseline - 4, style))
        legend.append(tag("text", name, class_="legend", x=at + 17, y=baseline))
        at += 44 + 8 * len(name)
    width = max(_LEFT + _WIDTH + 14, at)
    return tag(
        "svg", *parts, *legend, class_="curve", role="img", aria_label=label,
        viewBox=f"0 0 {width} {_TOP + _HEIGHT + 82}",
    )  # fmt: skip


def _mark(kind: str, x: float, y: float, style: str, title: Markup | None = None) -> Markup:
    children = (title,) if title else ()
    style = f"mark {style}"
    if kind == "circle":
        return tag("circle", *children, class_=style, cx=x, cy=y, r=4.5)
    if kind == "square":
        return tag("rect", *children, class_=style, x=x - 4, y=y - 4, width=8, height=8)
    shapes = {
        "triangle": ((0, -5.5), (5, 4), (-5, 4)),
        "diamond": ((0, -6), (6, 0), (0, 6), (-6, 0)),
    }
    points = " ".join(f"{x + dx:g},{y + dy:g}" for dx, dy in shapes[kind])
    return tag("polygon", *children, class_=style, points=points)


# The needle grid ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class HeatCell:
    """A place of the grid."""

    column: str
    row: str
    share: float
    title: str
    """What a hover says."""


def heatmap(
    cells: Sequence[HeatCell],
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    clean: Mapping[str, HeatCell],
    label: str,
    column_title: str,
    row_title: str,
) -> Markup:
    """Rows from the top, columns from the left; the clean haystack is a row of its own below.

    Cells carry `data-cell`, their number in `cells` (clean ones follow), for the page's script.
    """
    wide = max(34, min(96, 560 // len(columns)))
    longest = max([len(row) for row in rows] + [9 if clean else 0])
    high, left, top = 36, 36 + round(7.4 * longest), 8
    places = {(cell.column, cell.row): cell for cell in cells}
    number = {id(cell): place for place, cell in enumerate([*cells, *clean.values()])}
    parts: list[Markup] = []

    def draw(cell: HeatCell | None, column: int, y: float) -> None:
        x = left + column * wide
        if cell is None:
            parts.append(
                tag("rect", class_="empty", x=x, y=y, width=wide - 2, height=high - 2, rx=2)
            )
            return
        parts.append(
            tag(
                "g",
                tag("title", cell.title),
                tag("rect", x=x, y=y, width=wide - 2, height=high - 2, rx=2,
                    fill=colour_of(cell.share)),
                tag("text", f"{100 * cell.share:.0f}", x=x + wide / 2 - 1, y=y + high / 2 + 3,
                    text_anchor="middle", class_="dark" if ink_on(cell.share) == BLACK else "light",
                    aria_hidden="true"),
                class_="cell", role="img", aria_label=cell.title, data_cell=number[id(cell)],
                data_x=column, data_y=round(y),
            )
        )  # fmt: skip

    for line, row in enumerate(rows):
        y = top + line * high
        parts.append(
            tag("text", row, class_="tick", x=left - 8, y=y + high / 2 + 3, text_anchor="end")
        )
        for column, name in enumerate(columns):
            draw(places.get((name, row)), column, y)
    bottom = top + len(rows) * high
    if clean:
        bottom += 8
        parts.append(
            tag("text", "no needle", class_="tick", x=left - 8, y=bottom + high / 2 + 3,
                text_anchor="end")
        )  # fmt: skip
        for column, name in enumerate(columns):
            draw(clean.get(name), column, bottom)
        bottom += high
    for column, name in enumerate(columns):
        parts.append(
            tag("text", name, class_="tick", x=left + column * wide + wide / 2 - 1, y=bottom + 16,
                text_anchor="middle")
        )  # fmt: skip
    width = left + len(columns) * wide
    parts.append(
        tag("text", column_title, class_="axis", x=left + len(columns) * wide / 2, y=bottom + 38,
            text_anchor="middle")
    )  # fmt: skip
    middle = top + len(rows) * high / 2
    parts.append(
        tag("text", row_title, class_="axis", x=14, y=middle, text_anchor="middle",
            transform=f"rotate(-90 14 {middle:g})")
    )  # fmt: skip
    return tag(
        "svg", joined(*parts), class_="heatmap", role="group", aria_label=label,
        viewBox=f"0 0 {max(width, 300)} {bottom + 48:g}", width=max(width, 300),
    )  # fmt: skip
