"""Order: n objects, and the question which came first (in words) or in which order (by letter).

Letters, and in words the place at which the right object is named, are balanced: the five answers
of a public test of order are A, A, A, B and D.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from longva_eval.needle.items import Drawing, Item, ItemSettings, any_of

__all__ = ["make"]


def make(number: int, settings: ItemSettings, own: Sequence[Item] = ()) -> Item:
    """Letters, or the place where the right object is named, are balanced."""
    draw = Drawing("order", number, settings, own)
    shapes = draw.rng.sample(draw.objects, settings.n)
    needles = [draw.show(shape) for shape in shapes]
    if settings.answer == "letters":
        others = [", ".join(some) for some in permutations(shapes)][1:]
        listed = any_of(sorted(shapes)).replace(" or ", " and ")
        question = f"In which order are {listed} shown?"
        return draw.item(question, answer=", ".join(shapes), others=others, needles=needles)
    first, *others = shapes
    named = draw.shuffled(others)
    named.insert(draw.balanced(range(settings.n), "named"), first)
    question = f"Which comes first, {any_of(named)}?"
    return draw.item(question, answer=first, others=others, needles=needles)
