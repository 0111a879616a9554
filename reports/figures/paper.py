"""Figures at the widths papers have, with text that stays text.

A figure is drawn at its true width, with type of 6.5 to 9 points: put into a paper unscaled, it has
the size of a caption. PDF and SVG keep their letters; the same numbers give the same bytes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from longva_eval.errors import ResourceError
from longva_eval.reports.figures.colours import INK, MUTED

__all__ = ["FIGURE_WIDTHS", "FigureWidth", "paper_style", "save_figure", "start_figure"]

FigureWidth = Literal["column", "page"]
FIGURE_WIDTHS: Final[Mapping[str, float]] = {"column": 3.3, "page": 6.9}
"""In inches: a column, and the text width, of two-column conference papers."""
_STYLE: Final[dict[str, Any]] = {
    "font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "legend.fontsize": 7, "legend.title_fontsize": 7,
    "axes.linewidth": 0.6, "lines.linewidth": 1.3, "lines.markersize": 4, "patch.linewidth": 0.8,
}  # fmt: skip
_FILES: Final[dict[str, Any]] = {
    "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "longva-eval",
}  # fmt: skip


def paper_style() -> AbstractContextManager[None]:
    """Our sizes of type and lines, for what is drawn inside."""
    style: AbstractContextManager[None] = matplotlib.rc_context(_STYLE)
    return style


def start_figure(
    width: FigureWidth, height_inches: float, *, title: str, note: str, below_inches: float = 0
) -> tuple[Figure, float]:
    """An empty figure, as wide as its place in a paper; within `paper_style`.

    Args:
        width: `column` or `page`.
        height_inches: Without title and note, for which it grows.
        title: Above everything.
        note: Below everything, in small print; long lines are broken.
        below_inches: What is left free between axes and note.

    Returns:
        The figure, and where the free space begins, as a fraction of its height.
    """
    inches = FIGURE_WIDTHS[width]
    lines = [line for text in note.split("\n") for line in textwrap.wrap(text, round(inches * 20))]
    top, bottom = 0.25 * bool(title), 0.12 * len(lines) + 0.05 * bool(lines)
    height = height_inches + top + bottom + below_inches
    figure = Figure(figsize=(inches, height))
    FigureCanvasAgg(figure)
    region = (0, (bottom + below_inches) / height, 1, height_inches / height)
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, rect=region)
    figure.text(0.005, 1 - 0.05 / height, title, va="top", fontsize=9, fontweight="bold", color=INK)
    figure.text(0.005, 0.04 / height, "\n".join(lines), fontsize=6.5, color=MUTED)
    return figure, bottom / height


def save_figure(figure: Figure, *paths: Path) -> None:
    """Write a figure; the format is that of each file's suffix (png, svg, pdf).

    Raises:
        ResourceError: If a file cannot be written.
    """
    for path in paths:
        # No date: the same numbers give the same bytes.
        dated = {".svg": "Date", ".pdf": "CreationDate"}.get(path.suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with matplotlib.rc_context(_FILES):
                figure.savefig(path, dpi=220, metadata={dated: None} if dated else None)
        except OSError as error:
            raise ResourceError(f"{path} cannot be written: {error}") from error
