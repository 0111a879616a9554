"""Latent: the question has no word in common with the needle, only a property of it.

The idea is NoLiMa's (arXiv:2502.05167), the table is our own. Whether a model knows a property is
no matter of length, so an item stays only if its needle-only score is at least 0.9; the others are
named in `summary.json`.
"""

from __future__ import annotations

from typing import Final

from longva_eval.needle.items import Drawing, Item, ItemSettings
from longva_eval.needle.scenes import COLORS

__all__ = ["PROPERTIES", "make"]

PROPERTIES: Final = {
    "boat": "sails across a lake",
    "bolt": "comes before thunder",
    "butterfly": "flies from flower to flower",
    "car": "has an engine and four wheels",
    "comb": "tidies hair",
    "crown": "a king wears on his head",
    "cup": "coffee is drunk from",
    "fish": "swims and has scales",
    "fork": "a meal is eaten with",
    "glasses": "helps people with weak eyes to read",
    "hammer": "drives nails into wood",
    "heart": "stands for love",
    "hourglass": "measures time with sand",
    "house": "a family lives in",
    "key": "opens a lock",
    "ladder": "a roofer climbs and carries to the next job",
    "moon": "shines at night",
    "tree": "grows leaves and has roots",
    "umbrella": "keeps its owner dry in the rain",
}
"""Locators by what they are or do."""


def make(number: int, settings: ItemSettings) -> Item:
    """Object and colour are balanced."""
    draw = Drawing("latent", number, settings)
    shape = draw.balanced(tuple(PROPERTIES), "shape")
    color = draw.balanced(tuple(COLORS), "color")
    return draw.item(
        f"One frame shows something that {PROPERTIES[shape]}. What color is it?",
        answer=color,
        others=[other for other in COLORS if other != color],
        needles=[draw.show(shape, color)],
    )
