"""Accuracy against number of frames, a line a duration, with 95 % bands. Rows in, figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["draw_curve", "save_curve", "sweep_table"]

_STYLES = {
    "short": ("#2f8f83", "o", "-"),
    "medium": ("#c98a2b", "s", "-"),
    "long": ("#8c1d40", "^", "-"),
    "overall": ("#5c636b", "D", "--"),
}
_ORDER = list(_STYLES)
_INK, _MUTED = "#22252a", "#5c636b"
_Z95 = 1.959964


def draw_curve(rows: Sequence[Mapping[str, Any]], *, title: str, chance: float) -> Figure:
    """Draw a frame sweep.

    Args:
        rows: `duration`, `num_frames`, `accuracy` and `standard_error` (clustered by video).
        title: Above the figure.
        chance: Accuracy of guessing, drawn as a line.
    """
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    counts = sorted({row["num_frames"] for row in rows})
    axes.axhline(100 * chance, color=_MUTED, linewidth=1, linestyle=":")
    axes.annotate("guessing", (counts[0], 100 * chance), xytext=(0, 4), fontsize=8,
                  textcoords="offset points", color=_MUTED)  # fmt: skip
    for duration in _ORDER:
        line = sorted(
            (row for row in rows if row["duration"] == duration), key=lambda row: row["num_frames"]
        )
        if not line:
            continue
        colour, marker, dashes = _STYLES[duration]
        frames = [row["num_frames"] for row in line]
        mean = [100 * row["accuracy"] for row in line]
        half = [100 * _Z95 * row["standard_error"] for row in line]
        low = [max(0.0, value - width) for value, width in zip(mean, half, strict=True)]
        high = [min(100.0, value + width) for value, width in zip(mean, half, strict=True)]
        axes.plot(frames, mean, color=colour, marker=marker, linestyle=dashes, label=duration)
        axes.fill_between(frames, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{count:g}" for count in counts])
    axes.minorticks_off()
    axes.set_ylim(0, 102)
    axes.set_xlabel("Frames shown to the model", color=_INK)
    axes.set_ylabel("Accuracy (%), 95 % bands by video", color=_INK)
    axes.grid(axis="y", color="#e3e6e9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=_MUTED)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK)
    axes.legend(frameon=False, loc="lower right", title="video length", title_fontsize=9)
    return figure


def save_curve(rows: Sequence[Mapping[str, Any]], *paths: Path, title: str, chance: float) -> None:
    """Draw a frame sweep and write it; the format is that of each file's suffix."""
    figure = draw_curve(rows, title=title, chance=chance)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)


def sweep_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The sweep as text: a line a duration, accuracy and standard error a number of frames."""
    counts = sorted({row["num_frames"] for row in rows})
    cells = {(row["duration"], row["num_frames"]): row for row in rows}
    lines = [["length", "questions", *(f"{count:g} frames" for count in counts)]]
    for duration in _ORDER:
        found = [cells.get((duration, count)) for count in counts]
        shown = [row for row in found if row is not None]
        if not shown:
            continue
        questions = f"{shown[0]['num_questions']}"
        lines.append([duration, questions, *(_cell(row) for row in found)])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    text = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    unread = sum(row["num_no_answer"] for row in rows if row["duration"] == "overall")
    failed = sum(row["num_failed"] for row in rows if row["duration"] == "overall")
    notes = [f"unreadable answers: {unread}, failed videos: {failed} (both count as not right)"]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:], *notes])


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{100 * row['accuracy']:.1f} ±{100 * row['standard_error']:.1f}"
