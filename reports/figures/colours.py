"""The colours of figures on paper, on screens and on the page. No matplotlib.

One map for all grids: viridis (matplotlib, S. van der Walt and N. Smith), whose lightness rises
evenly, so that it reads in grey and with any colour blindness. Lines differ in marker and dashes as
well as in colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["BLACK", "COLOURS", "INK", "MUTED", "WHITE", "colour_of", "ink_on"]

COLOURS: Final = (
    "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70",
    "#7ad151", "#bddf26", "#fde725",
)  # fmt: skip
"""From nothing right to everything, in tenths; between them mixed evenly."""
BLACK: Final = "#000000"
WHITE: Final = "#ffffff"
INK: Final = "#22252a"
MUTED: Final = "#5c636b"


def colour_of(share: float) -> str:
    """The colour of a share from 0 to 1, as #rrggbb; outside of that the nearest end's."""
    place = min(max(share, 0.0), 1.0) * (len(COLOURS) - 1)
    left = min(int(place), len(COLOURS) - 2)
    ends = zip(_channels(COLOURS[left]), _channels(COLOURS[left + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - left)):02x}" for a, b in ends)


def ink_on(share: float) -> str:
    """Black or white: what stands out more upon a share's colour (contrast at least 4.5)."""
    light = _luminance(_channels(colour_of(share)))
    return BLACK if (light + 0.05) ** 2 >= 0.05 * 1.05 else WHITE


def _channels(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def _luminance(channels: Sequence[int]) -> float:
    """Relative luminance (WCAG 2.2) of sRGB."""
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in channels)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
