"""The needle heatmap: depth against length, one panel a model, all on one scale.

Rows in, figure out. Depth 0 is at the top, as in the paper's figure 4. The colours differ in
lightness as well as hue, and cells carry their number where there is room, so the figure reads in
grey and without red-green vision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "HeatmapPanel",
    "accuracy_table",
    "draw_heatmaps",
    "mean_accuracy",
    "save_heatmaps",
]

COLOURS = LinearSegmentedColormap.from_list(
    "needle", ["#8c1d40", "#d9544f", "#f2b46d", "#cfe3a1", "#7cc4a5", "#2f8f83"]
)
_INK = "#22252a"
_MUTED = "#5c636b"
_MOST_LABELLED_COLUMNS = 12
_GAP = 0.25
"""Between the grid and the row without a needle, in rows."""


@dataclass(frozen=True, kw_only=True)
class HeatmapPanel:
    """One model's grid."""

    title: str
    rows: Sequence[Mapping[str, float]]
    """`Num. Frame`, `Frame Depth` (percent) and `Score` (0 to 1), as in `all_accuracies.json`; or
    `Insert Index` (frames) in place of the depth, for a lattice."""
    no_needle: Mapping[int, float] = field(default_factory=dict)
    """Score of the same questions on a clean haystack, by number of frames: a row of its own."""
    note: str = ""
    """Small print below the title: needles, haystack, dtype."""


def mean_accuracy(rows: Sequence[Mapping[str, float]]) -> float:
    """Mean of all cells, the number that the original calls average accuracy."""
    return math.fsum(row["Score"] for row in rows) / len(rows)


def draw_heatmaps(panels: Sequence[HeatmapPanel]) -> Figure:
    """Draw the panels side by side, two in a row, with one colour scale.

    Raises:
        ValueError: If there is no panel.
    """
    if not panels:
        raise ValueError("A heatmap needs at least one panel.")
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(7.2 * columns + 0.8, 4.3 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False)
    places = list(grid.flat)
    for panel, axes in zip(panels, places, strict=False):
        _draw_panel(axes, panel)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    scale = ScalarMappable(Normalize(0, 1), COLOURS)
    bar = figure.colorbar(scale, ax=places[: len(panels)], fraction=0.03, pad=0.015)
    bar.set_label("Needles found", color=_INK, fontsize=10)
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0 %", "25 %", "50 %", "75 %", "100 %"])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9, labelcolor=_MUTED)
    return figure


def save_heatmaps(panels: Sequence[HeatmapPanel], *paths: Path) -> None:
    """Draw the panels and write them; the format is that of each file's suffix (png, svg, pdf)."""
    figure = draw_heatmaps(panels)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A fixed salt and no date: the same numbers give the same bytes.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)


def accuracy_table(rows: Sequence[Mapping[str, float]]) -> str:
    """The grid as text: a line a depth, a column a length, means at the edges."""
    values, frames, depths = _grid(rows)
    lattice = _is_lattice(rows)
    header = [
        "needle at \\ frames" if lattice else "depth \\ frames",
        *(f"{int(count):,}" for count in frames),
        "mean",
    ]
    lines = [header]
    for depth, line in zip(depths, values, strict=True):
        lines.append(
            [
                f"{depth:,.0f}" if lattice else f"{depth:g} %",
                *map(_percent, line),
                _percent(float(np.nanmean(line))),
            ]
        )
    means = [_percent(float(value)) for value in np.nanmean(values, axis=0)]
    lines.append(["mean", *means, _percent(mean_accuracy(rows))])
    widths = [max(len(line[place]) for line in lines) for place in range(len(header))]
    text = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
    rule = "-" * len(text[0])
    return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])


def _is_lattice(rows: Sequence[Mapping[str, float]]) -> bool:
    return "Insert Index" in rows[0]


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f}"


def _grid(
    rows: Sequence[Mapping[str, float]],
) -> tuple[npt.NDArray[np.float64], list[float], list[float]]:
    """(depths, frames) scores, NaN where there is none; cells of one place are averaged."""
    frames = sorted({row["Num. Frame"] for row in rows})
    place_key = "Insert Index" if _is_lattice(rows) else "Frame Depth"
    depths = sorted({row[place_key] for row in rows})
    sums = np.zeros((len(depths), len(frames)))
    counts = np.zeros_like(sums)
    for row in rows:
        place = depths.index(row[place_key]), frames.index(row["Num. Frame"])
        sums[place] += row["Score"]
        counts[place] += 1
    with np.errstate(invalid="ignore"):
        return sums / np.where(counts == 0, np.nan, counts), frames, depths


def _draw_panel(axes: Axes, panel: HeatmapPanel) -> None:
    values, frames, depths = _grid(panel.rows)
    axes.pcolormesh(
        np.arange(len(frames) + 1),
        np.arange(len(depths) + 1),
        np.ma.masked_invalid(values),
        cmap=COLOURS,
        vmin=0,
        vmax=1,
        edgecolors="white",
        linewidth=1.5,
    )
    labels = [f"{depth:g}" for depth in depths]
    places = list(np.arange(len(depths)) + 0.5)
    if panel.no_needle:
        clean = np.array([[panel.no_needle.get(int(count), math.nan) for count in frames]])
        top = len(depths) + _GAP
        axes.pcolormesh(
            np.arange(len(frames) + 1),
            [top, top + 1],
            np.ma.masked_invalid(clean),
            cmap=COLOURS,
            vmin=0,
            vmax=1,
            edgecolors="white",
            linewidth=1.5,
        )
        axes.axhspan(len(depths), top, color="white")
        labels.append("no needle")
        places.append(top + 0.5)
        values = np.vstack([values, clean])
    axes.invert_yaxis()
    axes.set_facecolor("#eceef0")  # a place that was not asked
    axes.set_xticks(np.arange(len(frames)) + 0.5, [_frames_label(count) for count in frames])
    axes.set_yticks(places, labels)
    axes.set_xlabel("Frames in the video", color=_INK, fontsize=10)
    where = "Needle before frame" if _is_lattice(panel.rows) else "Needle depth (%)"
    axes.set_ylabel(where, color=_INK, fontsize=10)
    axes.tick_params(length=0, labelsize=9, labelcolor=_MUTED)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(frames) <= _MOST_LABELLED_COLUMNS:
        for (line, column), value in np.ndenumerate(values):
            if not math.isnan(value):
                light = 0.3 < value < 0.95
                axes.text(
                    column + 0.5,
                    places[line],
                    f"{100 * value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color=_INK if light else "white",
                )
    axes.set_title(
        f"{panel.title}   mean {100 * mean_accuracy(panel.rows):.1f} %",
        loc="left",
        fontsize=12,
        fontweight="bold",
        color=_INK,
        pad=22 if panel.note else 10,
    )
    if panel.note:
        axes.text(
            0, 1.02, panel.note, transform=axes.transAxes, fontsize=9, color=_MUTED, va="bottom"
        )


def _frames_label(count: float) -> str:
    return f"{count / 1000:.1f}K" if count >= 1000 else f"{count:g}"
