"""Values: one object n times in different colours, and a question about all of them.

The answer is a set, so it is always asked for by letter: each wrong option has one colour of
another object that was shown, or of none, in place of a right one.
"""

from __future__ import annotations

from longva_eval.needle.items import Drawing, Item, ItemSettings
from longva_eval.needle.scenes import COLORS, LOCATORS

__all__ = ["make"]


def make(number: int, settings: ItemSettings) -> Item:
    """Letters are balanced."""
    draw = Drawing("values", number, settings)
    shape, decoy = draw.rng.sample(LOCATORS, 2)
    colors = draw.shuffled(tuple(COLORS))
    right, wrong = colors[: settings.n], colors[settings.n :]

    def listed(some: list[str]) -> str:
        return ", ".join(sorted(some))

    options: list[str] = []
    for turn in range(3 * len(right)):
        swapped = list(right)
        swapped[turn % len(right)] = wrong[turn % len(wrong)]
        if listed(swapped) not in options:
            options.append(listed(swapped))
    return draw.item(
        f"In which colors is the {shape} shown?",
        answer=listed(right),
        others=options[:3],
        needles=[draw.show(shape, color) for color in right],
        distractors=[draw.show(decoy, wrong[0])],
        pattern=draw.mixed(settings.n, 1),
        letters=True,
    )
