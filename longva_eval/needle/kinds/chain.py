"""Chain: a picture names the object to look for next; the colour of the last one is asked for.

A picture that names shows a dark object and, in a corner, a small white one. All stand in random
order, among other coloured objects and dark ones that name them.
"""

from __future__ import annotations

from longva_eval.needle.items import Drawing, Item, ItemSettings
from longva_eval.needle.scenes import COLORS, LOCATORS, pointer_scene

__all__ = ["make"]


def make(number: int, settings: ItemSettings) -> Item:
    """The colour asked for is balanced."""
    draw = Drawing("chain", number, settings)
    color = draw.balanced(tuple(COLORS), "color")
    *chain, last = draw.rng.sample(LOCATORS, settings.hops + 1)
    named = [*chain[1:], last]
    pointers = [
        draw.scene(pointer_scene(draw.rng, shape=shape, names=names))
        for shape, names in zip(chain, named, strict=True)
    ]
    rest = [s for s in LOCATORS if s not in (*chain, last)]
    objects = draw.rng.sample(rest, 2 * (settings.n - 1))
    others = draw.shuffled([other for other in COLORS if other != color])
    what = (
        "the object that it names"
        if settings.hops == 1
        else (f"the object at the end, after {settings.hops} names")
    )
    decoys = [
        picture
        for shape, names, its in zip(objects[::2], objects[1::2], others, strict=False)
        for picture in (
            draw.scene(pointer_scene(draw.rng, shape=shape, names=names)),
            draw.show(names, its),
        )
    ]
    return draw.item(
        f"A dark object names the small white one in its corner. Find the frame with the dark "
        f"{chain[0]}. What color is {what}?",
        answer=color,
        others=others,
        likely=others[: settings.n - 1],
        needles=draw.shuffled([*pointers, draw.show(last, color)]),
        distractors=draw.shuffled(decoys),
        pattern=draw.mixed(settings.hops + 1, len(decoys)),
    )
