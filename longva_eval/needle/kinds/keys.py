"""Keys: n different objects, each in a colour of its own, and a question about one of them."""

from __future__ import annotations

from longva_eval.needle.items import Drawing, Item, ItemSettings
from longva_eval.needle.scenes import COLORS, LOCATORS

__all__ = ["make"]


def make(number: int, settings: ItemSettings) -> Item:
    """Which of them is asked for, and its colour, are balanced."""
    draw = Drawing("keys", number, settings)
    color = draw.balanced(tuple(COLORS), "color")
    place = draw.balanced(range(settings.n), "place")
    others = [other for other in COLORS if other != color]
    shapes = draw.rng.sample(LOCATORS, settings.n)
    colors = draw.rng.sample(others, settings.n - 1)
    colors.insert(place, color)
    return draw.item(
        f"Find the frame with the {shapes[place]}. What color is it?",
        answer=color,
        others=others,
        likely=[shown for shown in colors if shown != color],
        needles=[draw.show(shape, each) for shape, each in zip(shapes, colors, strict=True)],
    )
