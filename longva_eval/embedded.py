"""What ships with the package, so that everything can be tried without a network.

The one place that says which model and which media are embedded.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CHECKPOINTS", "HAYSTACK", "NEEDLES", "embedded_checkpoint"]

_DATA = Path(__file__).parent / "data"

CHECKPOINTS = {"longva-tiny": _DATA / "longva-tiny"}
"""Name, as in `pretrained=longva-tiny`, and folder of each embedded checkpoint."""

HAYSTACK = _DATA / "haystack.mp4"
"""A video for V-NIAH."""

NEEDLES = _DATA / "needles"
"""Pictures and questions for V-NIAH: `dataset.json` and its files."""


def embedded_checkpoint(name: str | Path) -> Path | None:
    """The folder of an embedded checkpoint, or None if there is none of this name."""
    return CHECKPOINTS.get(str(name))
