"""Count: 0 to k frames show an object, each number equally often, beside as many of another."""

from __future__ import annotations

from collections.abc import Sequence

from longva_eval.needle.items import Drawing, Item, ItemSettings

__all__ = ["make"]


def make(number: int, settings: ItemSettings, own: Sequence[Item] = ()) -> Item:
    """Pictures of objects are `most` in all, so that their number does not tell."""
    draw = Drawing("count", number, settings, own)
    count = draw.balanced(range(settings.most + 1), "count")
    shape, decoy = draw.rng.sample(draw.objects, 2)
    return draw.item(
        f"How many frames show the {shape}?",
        answer=str(count),
        others=[str(other) for other in range(settings.most + 1) if other != count],
        needles=[draw.show(shape) for _ in range(count)],
        distractors=[draw.show(decoy) for _ in range(settings.most - count)],
        pattern=draw.mixed(count, settings.most - count),
    )
