"""Grids of shares in colour: needles by depth and length, scores by RoPE setting and frames.

Rows in, figure out. Depth 0 is at the top, as in the paper's figure 4. Cells carry their number
where it can be read at the figure's width.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from longva_eval.reports.figures.colours import COLOURS, INK, MUTED, ink_on
from longva_eval.reports.figures.panels import GridCell, GridPanel
from longva_eval.reports.figures.paper import (
    FIGURE_WIDTHS,
    FigureWidth,
    paper_style,
    save_figure,
    start_figure,
)
from longva_eval.text import columns

__all__ = [
    "COLOUR_MAP",
    "accuracy_table",
    "draw_grids",
    "draw_heatmaps",
    "mean_accuracy",
    "needle_grid",
    "needle_panel",
    "save_heatmaps",
]

COLOUR_MAP: Final = LinearSegmentedColormap.from_list("shares", COLOURS, N=1001)
_GAP: Final = 0.25
"""Above a row that stands apart, in rows."""
_SMALLEST_POINTS: Final = 4.5
_LARGEST_POINTS: Final = 8.0


def needle_panel(
    rows: Sequence[Mapping[str, float]], summary: Mapping[str, Any], *, title: str, note: str = ""
) -> GridPanel:
    """A run of `longva-eval niah` with its controls.

    Args:
        rows: As in `all_accuracies.json`.
        summary: As in `summary.json`.
        title: Of the panel.
        note: Below the title; the controls are added.
    """
    controls = summary["controls"]
    clean = {}
    if controls is not None:
        clean = {int(n): score for n, score in controls["no_needle_by_frames"].items()}
        note = f"{note}; needle alone {100 * controls['needle_only']:.0f} %, blind " + (
            f"{100 * controls['blind']:.0f} %"
        )
    return needle_grid(rows, title=title, note=note.removeprefix("; "), no_needle=clean)


def needle_grid(
    rows: Sequence[Mapping[str, float]],
    *,
    title: str,
    note: str = "",
    no_needle: Mapping[int, float] | None = None,
) -> GridPanel:
    """One model's needle grid.

    Args:
        rows: `Num. Frame`, `Frame Depth` (percent) and `Score` (0 to 1), as in
            `all_accuracies.json`; or `Insert Index` (frames) in place of the depth, for a lattice.
        title: Of the panel.
        note: Small print below the title: needles, haystack, dtype.
        no_needle: Score of the same questions on a clean haystack, by number of frames: a row of
            its own.
    """
    values, frames, depths = _grid(rows)
    columns, lines = [f"{count:g}" for count in frames], [f"{depth:g}" for depth in depths]
    cells = {
        (lines[line], columns[column]): GridCell(share=float(value))
        for (line, column), value in np.ndenumerate(values)
        if not math.isnan(value)
    }
    apart = "no needle" if no_needle else ""
    for count, share in (no_needle or {}).items():
        if f"{count:g}" in columns:
            cells[apart, f"{count:g}"] = GridCell(share=share)
    return GridPanel(
        title=title,
        rows=[*lines, apart] if apart else lines,
        columns=columns,
        cells=cells,
        row_title="Needle before frame" if _is_lattice(rows) else "Needle depth (%)",
        column_title="Frames in the video",
        row_apart=apart,
        note=f"mean {100 * mean_accuracy(rows):.1f} %" + (note and f"; {note}"),
    )


def mean_accuracy(rows: Sequence[Mapping[str, float]]) -> float:
    """Mean of all cells, the number that the original calls average accuracy."""
    return math.fsum(row["Score"] for row in rows) / len(rows)


def draw_heatmaps(panels: Sequence[GridPanel], *, width: FigureWidth = "page") -> Figure:
    """Draw needle grids on one colour scale.

    Raises:
        ValueError: If there is no panel.
    """
    return draw_grids(panels, label="Needles found (%)", low=0, high=100, width=width)


def save_heatmaps(panels: Sequence[GridPanel], *paths: Path, width: FigureWidth = "page") -> None:
    """Draw the panels and write them; the format is that of each file's suffix (png, svg, pdf)."""
    save_figure(draw_heatmaps(panels, width=width), *paths)


def draw_grids(
    panels: Sequence[GridPanel],
    *,
    label: str,
    low: int | None = None,
    high: int | None = None,
    title: str = "",
    note: str = "",
    width: FigureWidth = "page",
) -> Figure:
    """Draw the panels on one colour scale: side by side on a page, below each other in a column.

    Args:
        panels: At least one, with at least one cell each.
        label: Of the colour scale.
        low: Its lower end, in percent; the next ten below all scores if left out.
        high: Its upper end.
        title: Above the figure.
        note: Below it, in small print.
        width: Of the figure.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not panels or not all(panel.cells for panel in panels):
        raise ValueError("A heatmap needs at least one panel with one cell.")
    shares = [100 * cell.share for panel in panels for cell in panel.cells.values()]
    low = 10 * math.floor(min(shares) / 10) if low is None else low
    high = max(low + 10, min(100, 10 * math.ceil(max(shares) / 10))) if high is None else high
    columns = 1 if width == "column" else min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    tallest = max(len(panel.rows) for panel in panels)
    row = 0.24 if any(cell.interval for panel in panels for cell in panel.cells.values()) else 0.19
    # Letters of small print are about 0.05 inches wide.
    letters = round(FIGURE_WIDTHS[width] * 0.8 / columns / 0.05)
    notes = [textwrap.wrap(panel.note, letters) for panel in panels]
    with paper_style():
        height = lines * (row * tallest + 0.75 + 0.1 * max(map(len, notes))) + 0.2
        figure, _ = start_figure(width, height, title=title, note=note)
        places = list(figure.subplots(lines, columns, squeeze=False).flat)
        scale = Normalize(low, high)
        most = max(len(panel.columns) for panel in panels)
        cell_points = 72 * figure.get_figwidth() * 0.8 / columns / most
        for panel, note_lines, axes in zip(panels, notes, places, strict=False):
            _draw_panel(axes, panel, note_lines, scale, cell_points)
        for axes in places[len(panels) :]:
            axes.set_visible(False)
        bar = figure.colorbar(
            ScalarMappable(scale, COLOUR_MAP),
            ax=places[: len(panels)],
            fraction=0.03,
            pad=0.015,
            aspect=12 * lines,
        )
        bar.set_label(label, color=INK)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelcolor=MUTED)
    return figure


def _draw_panel(
    axes: Axes, panel: GridPanel, note: Sequence[str], scale: Normalize, cell_points: float
) -> None:
    """One grid. `cell_points`: about how wide a cell is."""
    tops = [row + (_GAP if name == panel.row_apart else 0) for row, name in enumerate(panel.rows)]
    # Three digits are about twice as wide as their size; an interval has five.
    size = min(_LARGEST_POINTS, cell_points / 2.3)
    small = min(6.0, cell_points / 3.2)
    for (row, column), cell in panel.cells.items():
        x, y = panel.columns.index(column), tops[panel.rows.index(row)]
        place = float(scale(100 * cell.share))
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=COLOUR_MAP(place), edgecolor="white"))
        if size < _SMALLEST_POINTS:
            continue
        has_interval = cell.interval is not None and small >= _SMALLEST_POINTS
        digits = 1 if has_interval and cell_points > 22 else 0
        axes.text(
            x + 0.5, y + (0.36 if has_interval else 0.5), f"{100 * cell.share:.{digits}f}",
            ha="center", va="center_baseline", fontsize=size, color=ink_on(place),
        )  # fmt: skip
        if has_interval and cell.interval is not None:
            low, high = (f"{100 * end:.0f}" for end in cell.interval)
            axes.text(
                x + 0.5, y + 0.76, f"{low}\N{EN DASH}{high}", ha="center", va="center_baseline",
                fontsize=small, color=ink_on(place),
            )  # fmt: skip
    axes.set_xlim(0, len(panel.columns))
    axes.set_ylim(tops[-1] + 1, 0)
    axes.set_facecolor("white" if panel.row_apart else "#eceef0")  # a place that was not asked
    upright = cell_points < 18 and max(map(len, panel.columns)) > 3
    axes.set_xticks(
        np.arange(len(panel.columns)) + 0.5, panel.columns, rotation=90 if upright else 0
    )
    axes.set_yticks([top + 0.5 for top in tops], panel.rows)
    axes.set_xlabel(panel.column_title, color=INK)
    axes.set_ylabel(panel.row_title, color=INK)
    axes.tick_params(length=0, labelcolor=MUTED)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(panel.title, loc="left", fontweight="bold", color=INK,
                   pad=5 + (2 + 8 * len(note) if note else 0))  # fmt: skip
    if note:
        axes.annotate(
            "\n".join(note),
            (0, 1),
            xytext=(0, 4),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=6.5,
            color=MUTED,
        ).set_in_layout(False)  # or a long line makes the cells narrow


# Needle grids -------------------------------------------------------------------------------------


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
    text = columns(lines, numbers=True)
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
