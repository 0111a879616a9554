"""Aggregate: n frames show one object, and the colour that it has most often is asked for.

Another object is shown once more than that, always in one wrong colour: whoever counts colours
without looking at the object is wrong.
"""

from __future__ import annotations

from longva_eval.needle.items import Drawing, Item, ItemSettings
from longva_eval.needle.scenes import COLORS, LOCATORS

__all__ = ["make"]


def make(number: int, settings: ItemSettings) -> Item:
    """More than half of the needles have the right colour, the others one each; n is at least 3."""
    draw = Drawing("aggregate", number, settings)
    n = max(settings.n, 3)
    color = draw.balanced(tuple(COLORS), "color")
    others = draw.shuffled([other for other in COLORS if other != color])
    most = n // 2 + 1
    shape, decoy = draw.rng.sample(LOCATORS, 2)
    shown = draw.shuffled([color] * most + others[1 : 1 + n - most])
    return draw.item(
        f"Which color does the {shape} have most often?",
        answer=color,
        others=others,
        likely=[others[0], *dict.fromkeys(each for each in shown if each != color)],
        needles=[draw.show(shape, each) for each in shown],
        distractors=[draw.show(decoy, others[0]) for _ in range(most + 1)],
        pattern=draw.mixed(n, most + 1),
    )
