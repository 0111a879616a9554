"""Distractor: the same object again and again, and a question about the one that is marked.

The needle carries a number; the others, in other colours, do not. They stand at multiples of a
stated period, so they are the same for all places of a needle; a cell that has none on *both* sides
of the needle is refused (V-NIAH-D counts such cells).
"""

from __future__ import annotations

from longva_eval.needle.items import Drawing, Item, ItemSettings
from longva_eval.needle.scenes import COLORS, LOCATORS

__all__ = ["make"]

_NUM_DISTRACTORS = 4
"""Different ones; they are shown in turn."""


def make(number: int, settings: ItemSettings) -> Item:
    """Its colour is balanced, and no distractor has it."""
    draw = Drawing("distractor", number, settings)
    color = draw.balanced(tuple(COLORS), "color")
    shape, *other_shapes = draw.rng.sample(LOCATORS, 1 + _NUM_DISTRACTORS)
    others = draw.shuffled([other for other in COLORS if other != color])
    if settings.likeness == "object":
        other_shapes = [shape] * _NUM_DISTRACTORS
    return draw.item(
        f"Find the frame with the {shape} that has a number in a corner. What color is it?",
        answer=color,
        others=others,
        likely=others[:_NUM_DISTRACTORS],
        needles=[draw.show(shape, color, draw.rng.choice("0123456789"))],
        distractors=[
            draw.show(other, each) for other, each in zip(other_shapes, others, strict=False)
        ],
        pattern="DDNDD",
    )
