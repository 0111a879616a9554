"""What ships with the package, so that everything can be tried without a network.

The one place that says which model and which media are embedded.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CHECKPOINTS", "DEMO_PANELS", "HAYSTACK", "NEEDLES", "embedded_checkpoint"]

_DATA = Path(__file__).parent / "data"

CHECKPOINTS = {"longva-tiny": _DATA / "longva-tiny"}
"""Name, as in `pretrained=longva-tiny`, and folder of each embedded checkpoint."""

DEMO_PANELS: tuple[tuple[str, float | None], ...] = (("longva-tiny", None),)
"""What `longva-eval demo` draws: checkpoint, and RoPE base (None: its own)."""

HAYSTACK = _DATA / "haystack.mp4"
"""A video for V-NIAH."""

NEEDLES = _DATA / "needles"
"""Pictures and questions for V-NIAH: `dataset.json` and its files."""


def embedded_checkpoint(name: str | Path) -> Path | None:
    """The folder of an embedded checkpoint, or None if there is none of this name."""
    return CHECKPOINTS.get(str(name))
