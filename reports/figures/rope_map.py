"""RoPE settings against number of frames: a cell for a point, a panel for a subset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from longva_eval.reports.figures.curve import INK, MUTED
from longva_eval.reports.figures.heatmap import COLOURS

__all__ = ["MapCell", "MapPanel", "draw_rope_maps"]

_MOST_LABELLED_COLUMNS = 10


@dataclass(frozen=True, kw_only=True)
class MapCell:
    """A score from 0 to 1 with its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class MapPanel:
    """The grid of one subset."""

    title: str
    cells: Mapping[tuple[str, int], MapCell]
    """By RoPE setting and number of frames."""


def draw_rope_maps(
    panels: Sequence[MapPanel], *, ropes: Sequence[str], title: str, note: str = ""
) -> Figure:
    """Draw the panels, two in a row, on one colour scale that reaches over all their scores.

    Args:
        panels: At least one.
        ropes: RoPE settings, from the top.
        title: Above the figure.
        note: Below it, in small print.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not panels or not all(panel.cells for panel in panels):
        raise ValueError("A heatmap needs at least one cell.")
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    counts = sorted({frames for panel in panels for _, frames in panel.cells})
    width = max(3.4, 0.78 * len(counts) + 1.3)
    figure = Figure(
        figsize=(columns * width + 1.1, rows * (0.62 * len(ropes) + 1.0) + 0.9),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    means = [100 * cell.mean for panel in panels for cell in panel.cells.values()]
    low = 10 * math.floor(min(means) / 10)
    high = max(low + 10, min(100, 10 * math.ceil(max(means) / 10)))
    scale = Normalize(low, high)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, axes in zip(panels, places, strict=False):
        _draw_panel(axes, panel, ropes, counts, scale)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    bar = figure.colorbar(
        ScalarMappable(scale, COLOURS), ax=places[: len(panels)], fraction=0.03, pad=0.015
    )
    bar.set_label("Accuracy (%)", color=INK, fontsize=10)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9, labelcolor=MUTED)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8.5, color=MUTED)
    return figure


def _draw_panel(
    axes: Axes, panel: MapPanel, ropes: Sequence[str], counts: Sequence[int], scale: Normalize
) -> None:
    values = np.full((len(ropes), len(counts)), math.nan)
    for (rope, frames), cell in panel.cells.items():
        values[ropes.index(rope), counts.index(frames)] = 100 * cell.mean
    axes.pcolormesh(
        np.arange(len(counts) + 1), np.arange(len(ropes) + 1), np.ma.masked_invalid(values),
        cmap=COLOURS, norm=scale, edgecolors="white", linewidth=1.5,
    )  # fmt: skip
    axes.invert_yaxis()
    axes.set_facecolor("#eceef0")  # a point that is missing
    axes.set_xticks(np.arange(len(counts)) + 0.5, [f"{count:,}" for count in counts])
    axes.set_yticks(np.arange(len(ropes)) + 0.5, ropes)
    axes.set_xlabel("Frames shown to the model", color=INK, fontsize=10)
    axes.tick_params(length=0, labelsize=9, labelcolor=MUTED)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(counts) <= _MOST_LABELLED_COLUMNS:
        for (rope, frames), cell in panel.cells.items():
            place = scale(100 * cell.mean)
            ink = INK if 0.3 < place < 0.95 else "white"
            x, y = counts.index(frames) + 0.5, ropes.index(rope) + 0.5
            axes.text(x, y - 0.1, f"{100 * cell.mean:.1f}", ha="center", va="center",
                      fontsize=9, color=ink)  # fmt: skip
            axes.text(x, y + 0.24, f"{100 * cell.low:.0f}-{100 * cell.high:.0f}", ha="center",
                      va="center", fontsize=6.8, color=ink)  # fmt: skip
    axes.set_title(panel.title, loc="left", fontsize=10.5, color=INK)
