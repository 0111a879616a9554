"""Clip: an object moves over a few frames that stand together, and the direction is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from longva_eval.needle.items import Drawing, Item, ItemSettings
from longva_eval.needle.scenes import LOCATORS, random_scene

__all__ = ["make"]

_STEPS: Final = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_REACH: Final = 0.28
"""How far from the middle it starts and ends, as a fraction of the side."""


def make(number: int, settings: ItemSettings) -> Item:
    """One picture tells nothing: every place on the way is passed in two directions."""
    draw = Drawing("clip", number, settings)
    direction = draw.balanced(tuple(_STEPS), "direction")
    right, down = _STEPS[direction]
    shape = draw.rng.choice(LOCATORS)
    scene = replace(random_scene(draw.rng, shape=shape), size=0.36)
    frames = []
    for number_shown in range(settings.motion_frames):
        way = _REACH * (2 * number_shown / (settings.motion_frames - 1) - 1)
        frames.append(draw.scene(replace(scene, center=(0.5 + way * right, 0.5 + way * down))))
    return draw.item(
        f"In which direction does the {shape} move, left, right, up or down?",
        answer=direction,
        others=[other for other in _STEPS if other != direction],
        needles=frames,
    )
