"""Values: one object n times in different colours, and a question about all of them.

The answer is a set, so it is always asked for by letter. Two of its colours can each be swapped for
one of another object that was shown; the options are the four sets that this makes, so that no
option is told by the others.
"""

from __future__ import annotations

from longva_eval.errors import SettingsError
from longva_eval.needle.items import Drawing, Item, ItemSettings
from longva_eval.needle.scenes import COLORS, LOCATORS

__all__ = ["make"]


def make(number: int, settings: ItemSettings) -> Item:
    """Letters are balanced.

    Raises:
        SettingsError: If the object has so many colours that another has not two of its own.
    """
    if settings.n > len(COLORS) - 2:
        raise SettingsError(f"n={settings.n} must be at most {len(COLORS) - 2} for values.")
    draw = Drawing("values", number, settings)
    shape, decoy = draw.rng.sample(LOCATORS, 2)
    colors = draw.shuffled(tuple(COLORS))
    right, (one, two) = colors[: settings.n], colors[settings.n : settings.n + 2]
    first, second, *rest = right
    return draw.item(
        f"In which colors is the {shape} shown?",
        answer=", ".join(sorted(right)),
        others=[
            ", ".join(sorted([*pair, *rest])) for pair in ((one, second), (first, two), (one, two))
        ],
        needles=[draw.show(shape, color) for color in right],
        distractors=[draw.show(decoy, color) for color in (one, two)],
        pattern=draw.mixed(settings.n, 2),
        letters=True,
    )
