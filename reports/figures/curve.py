"""Accuracy against number of frames: lines with 95 % bands, in one panel or several.

Colours and markers are those of the other figures; lines differ in marker as well as in colour, so
that the figure reads in grey and without red-green vision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from longva_eval.reports.figures.colours import INK, MUTED
from longva_eval.reports.figures.panels import CurveLine, CurvePanel
from longva_eval.reports.figures.paper import FigureWidth, paper_style, save_figure, start_figure

__all__ = ["CurveLine", "CurvePanel", "draw_curves", "save_figure"]

_GRID: Final = "#e3e6e9"
_DURATIONS: Final = {
    "short": ("#2a788e", "o", "-"),
    "medium": ("#b07418", "s", "-"),
    "long": ("#8c1d40", "^", "-"),
    "overall": ("#22252a", "D", "--"),
}
_OTHERS: Final = (
    ("#2a788e", "o", "-"), ("#b07418", "s", "-"), ("#8c1d40", "^", "-"), ("#3f6fb0", "v", "-"),
    ("#7a5aa6", "P", "-"), ("#5c636b", "D", "-"), ("#b5651d", "X", "-"), ("#1d6b8c", "<", "-"),
)  # fmt: skip
_MOST_TICKS: Final = 11
_LONGEST_BESIDE: Final = 24
"""Letters of a label in a legend that stands beside its panel."""
_PUBLISHED: Final[dict[str, Any]] = {
    "linestyle": (0, (1, 1.6)), "linewidth": 1, "markerfacecolor": "white",
}  # fmt: skip


def draw_curves(
    panels: Sequence[CurvePanel],
    *,
    title: str,
    note: str = "",
    legend_title: str = "",
    below: str = "Frames shown to the model",
    width: FigureWidth = "page",
) -> Figure:
    """Draw the panels, two in a row on a page, on equal axes, with one legend.

    Args:
        panels: At least one, with at least one line each.
        title: Above the figure.
        note: Below it, in small print.
        legend_title: What the lines differ in.
        below: What the horizontal axis counts, instead of frames.
        width: Of the figure.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not panels or not all(panel.lines for panel in panels):
        raise ValueError("A curve needs at least one line.")
    columns = 1 if width == "column" else min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    styles = {label: _DURATIONS[label] for label in labels if label in _DURATIONS}
    if len(styles) < len(labels):
        styles = {label: _OTHERS[n % len(_OTHERS)] for n, label in enumerate(labels)}
    ticks = sorted({frames for panel in panels for line in panel.lines for frames in line.frames})
    short = max(map(len, labels)) <= _LONGEST_BESIDE
    beside = len(panels) == 1 and width == "page" and short
    named = labels == [panel.title for panel in panels]  # a line each, of its panel's name
    handles = [] if named else _legend_handles(panels, styles)
    most = (2 if width == "column" else 4) if short else (1 if width == "column" else 2)
    columns_of_legend = min(max(1, len(handles)), most)
    lines_of_legend = math.ceil(len(handles) / columns_of_legend) + bool(legend_title)
    with paper_style():
        figure, bottom = start_figure(
            width,
            3.0 if beside else 2.1 * rows,
            title=title,
            note=note,
            below_inches=0 if beside else 0.16 * lines_of_legend + 0.05,
        )
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        places = list(grid.flat)
        for number, (panel, axes) in enumerate(zip(panels, places, strict=False)):
            _draw_panel(axes, panel, styles, ticks)
            axes.set_ylim(*_limits(panels))
            if len(panels) > 1:
                axes.set_title(panel.title, loc="left", color=INK)
            if number % columns == 0:
                axes.set_ylabel("Accuracy (%)", color=INK)
            if number + columns >= len(panels):
                axes.set_xlabel(below, color=INK)
                axes.tick_params(labelbottom=True)
        for axes in places[len(panels) :]:
            axes.set_visible(False)
        place: dict[str, Any] = {"loc": "outside right upper"}
        if not beside:
            place = {"loc": "lower left", "bbox_to_anchor": (0.02, bottom)}
            place |= {"ncols": columns_of_legend, "borderaxespad": 0}
        if handles:
            figure.legend(handles=handles, frameon=False, title=legend_title or None,
                          alignment="left", **place)  # fmt: skip
    return figure


def _draw_panel(
    axes: Axes,
    panel: CurvePanel,
    styles: dict[str, tuple[str, str, str]],
    ticks: Sequence[int],
) -> None:
    floors = dict(panel.floors) | ({} if panel.chance is None else {"guessing": panel.chance})
    for place, (name, floor) in enumerate(sorted(floors.items(), key=lambda each: each[1])):
        dashes = ":" if name == "guessing" else "-."
        axes.axhline(100 * floor, color=MUTED, linewidth=1, linestyle=dashes, zorder=1)
        gaps = [
            min((abs(line.means[end] - floor - 0.04) for line in panel.lines), default=0.0)
            for end in (0, -1)
        ]
        left = gaps[0] > gaps[1]  # at the end where no line runs through the name
        axes.annotate(
            name, (0.2 * place if left else 1 - 0.2 * place, 100 * floor),
            xycoords=("axes fraction", "data"), xytext=(2 if left else -2, 3),
            textcoords="offset points", ha="left" if left else "right", fontsize=6.5, color=MUTED,
        )  # fmt: skip
    for line in panel.lines:
        colour, marker, dashes = styles[line.label]
        means = [100 * mean for mean in line.means]
        if line.is_published:
            look: dict[str, Any] = {"color": colour, "marker": marker, "clip_on": False}
            axes.plot(line.frames, means, zorder=2, **(look | _PUBLISHED))
            continue
        axes.plot(
            line.frames, means, color=colour, marker=marker, linestyle=dashes, zorder=4,
            clip_on=False,
        )  # fmt: skip
        if line.intervals:
            axes.fill_between(
                line.frames,
                [100 * low for low, _ in line.intervals],
                [100 * high for _, high in line.intervals],
                color=colour, alpha=0.13, linewidth=0, zorder=1,
            )  # fmt: skip
        if line.plateau is not None and line.plateau in line.frames:
            place = list(line.frames).index(line.plateau)
            axes.plot(
                [line.plateau], [means[place]], marker="o", markersize=9, linestyle="none",
                markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1, zorder=5,
                clip_on=False,
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    shown = _apart(ticks)
    axes.set_xticks(shown, [f"{count:,}" for count in shown])
    axes.minorticks_off()
    if len(ticks) == 1:
        axes.set_xlim(ticks[0] / 2, ticks[0] * 2)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=MUTED)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#b9bec4")


def _apart(ticks: Sequence[int]) -> list[int]:
    """Those of the ticks whose labels do not touch, on a logarithmic axis."""
    room = math.log2(max(ticks) / min(ticks)) / _MOST_TICKS
    shown: list[int] = []
    for tick in sorted(ticks):
        if not shown or math.log2(tick / shown[-1]) >= room:
            shown.append(tick)
    return shown


def _limits(panels: Sequence[CurvePanel]) -> tuple[float, float]:
    """From 0 to 100; closer where all scores lie in a part of that."""
    values = [100 * panel.chance for panel in panels if panel.chance is not None]
    values += [100 * floor for panel in panels for floor in panel.floors.values()]
    for panel in panels:
        for line in panel.lines:
            values += [100 * mean for mean in line.means]
            values += [100 * end for interval in line.intervals for end in interval]
    low = max(0.0, 10 * math.floor((min(values) - 2) / 10))
    high = min(102.0, 10 * math.ceil((max(values) + 1) / 10))
    if high - low > 70:
        return (0.0, 102.0) if high > 90 else (0.0, high)
    return low, high


def _legend_handles(
    panels: Sequence[CurvePanel], styles: dict[str, tuple[str, str, str]]
) -> list[Line2D]:
    lines = [line for panel in panels for line in panel.lines]
    own = {line.label for line in lines if not line.is_published}
    handles = []
    for label, (colour, marker, dashes) in styles.items():
        if label in own:
            look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": dashes}
        else:
            look = {"color": colour, "marker": marker} | _PUBLISHED
        handles.append(Line2D([], [], label=label, **look))
    if any(line.is_published and line.label in own for line in lines):
        handles.append(Line2D([], [], color=MUTED, marker="o", label="published", **_PUBLISHED))
    if any(line.plateau is not None for line in lines):
        handles.append(
            Line2D([], [], marker="o", markersize=8, linestyle="none", markerfacecolor="none",
                   markeredgecolor=MUTED, markeredgewidth=1, label="stops rising")
        )  # fmt: skip
    return handles
