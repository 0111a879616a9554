"""Where the parts of a curve stand, for the template that draws it (`charts.html`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from longva_eval.reports.figures.panels import CurveLine, CurvePanel

__all__ = ["draw_chart"]

LEFT, TOP, WIDTH, HEIGHT = 68, 12, 520, 250
_MARKS: Final = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0Z",  # circle
    "M-4-4h8v8h-8Z",  # square
    "M0-5.5L5 4H-5Z",  # triangle
    "M0-6L6 0L0 6L-6 0Z",  # diamond
)
_STYLES: Final = ("short", "medium", "long", "overall")
_SMALLEST_GAP: Final = 30
"""Between the labels of an axis."""


def draw_chart(panel: CurvePanel) -> dict[str, Any]:
    """Where the lines of a panel, which has at least one, stand; over frames on a logarithmic axis.

    Of each line there is the path, the band, and the place of each mark with what it says.
    """
    counts = sorted({count for line in panel.lines for count in line.frames})
    low, high = math.log2(counts[0]), math.log2(counts[-1])

    def x(count: float) -> float:
        return round(LEFT + 12 + (WIDTH - 24) * (math.log2(count) - low) / (high - low or 1), 1)

    def y(share: float) -> float:
        return round(TOP + HEIGHT * (1 - share), 1)

    ticks: list[tuple[float, int]] = []
    for count in counts:
        if not ticks or x(count) - ticks[-1][0] >= _SMALLEST_GAP:
            ticks.append((x(count), count))
    lines, at, row = [], LEFT, 0
    labels = list(dict.fromkeys(line.label for line in panel.lines))
    for line in panel.lines:
        name = f"{line.label}, published" if line.is_published else line.label
        room = 44 + 10 * len(name)  # letters are larger on a phone
        if at + room > LEFT + WIDTH and at > LEFT:
            at, row = LEFT, row + 1
        place = labels.index(line.label)
        lines.append(
            {
                "label": name,
                "style": line.label if line.label in _STYLES else f"run-{place % 8}",
                "mark": _MARKS[place % len(_MARKS)],
                "path": _path([(x(n), y(s)) for n, s in zip(line.frames, line.means, strict=True)]),
                "band": _band(line, x, y),
                "points": tuple(
                    (x(line.frames[n]), y(line.means[n]), f"{name}, {_words(line, n)}")
                    for n in range(len(line.frames))
                ),
                "is_published": line.is_published,
                "legend_x": at,
                "legend_y": TOP + HEIGHT + 66 + 22 * row,
            }
        )
        at += room
    return {
        "width": LEFT + WIDTH + 14,
        "height": TOP + HEIGHT + 76 + 22 * row,
        "rows": tuple((y(percent / 100), percent) for percent in (0, 25, 50, 75, 100)),
        "ticks": tuple(ticks),
        "chance_y": None if panel.chance is None else y(panel.chance),
        "floors": tuple(
            (name, y(floor), 478 - 110 * place)
            for place, (name, floor) in enumerate(sorted(panel.floors.items(), key=lambda f: f[1]))
        ),
        "lines": tuple(lines),
    }


def _path(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _band(line: CurveLine, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    ends = list(zip(line.frames, line.intervals, strict=False))
    upper = [(x(count), y(high)) for count, (_, high) in ends]
    lower = [(x(count), y(low)) for count, (low, _) in reversed(ends)]
    return _path(upper + lower)


def _words(line: CurveLine, place: int) -> str:
    text = f"{line.frames[place]:,} frames: {100 * line.means[place]:.1f} %"
    if line.intervals:
        low, high = line.intervals[place]
        text += f" ({100 * low:.1f} to {100 * high:.1f})"
    return text
