"""The needle tests, one small module each: what is shown and what is asked.

Where pictures stand is in `longva_eval.needle.grid`, who answers in `longva_eval.needle.asking`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from longva_eval.errors import SettingsError
from longva_eval.needle.grid import Placing
from longva_eval.needle.items import Item, ItemSettings
from longva_eval.needle.kinds import (
    aggregate,
    chain,
    clip,
    count,
    distractor,
    keys,
    latent,
    order,
    values,
)

__all__ = ["DRAWN_TESTS", "TEST_NAMES", "DrawnTest", "drawn_items"]


@dataclass(frozen=True, kw_only=True)
class DrawnTest:
    """A test whose pictures are drawn."""

    asks: str
    """In a line."""
    make: Callable[[int, ItemSettings], Item]
    place: Placing = "evenly"
    least_needle_only: float = 0.0
    """An item whose score on its pictures alone is below that is left out."""
    has_twin: bool = True
    """Whether captions say what the pictures show."""


DRAWN_TESTS: Final = {
    "distractor": DrawnTest(
        asks="the colour of the object that is marked, among others of its kind",
        make=distractor.make,
        place="among distractors",
    ),
    "keys": DrawnTest(asks="the colour of one of n objects", make=keys.make),
    "values": DrawnTest(asks="all colours of one object", make=values.make),
    "order": DrawnTest(asks="which of n objects came first", make=order.make),
    "count": DrawnTest(asks="how many frames show an object, 0 included", make=count.make),
    "chain": DrawnTest(asks="the colour of the object that another names", make=chain.make),
    "aggregate": DrawnTest(asks="the colour that an object has most often", make=aggregate.make),
    "latent": DrawnTest(
        asks="the colour of an object that is described and not named",
        make=latent.make,
        least_needle_only=0.9,
    ),
    "clip": DrawnTest(
        asks="the direction of a motion over a few frames",
        make=clip.make,
        place="together",
        has_twin=False,
    ),
}
"""All tests but `single`, whose needles come from a folder."""

TEST_NAMES: Final = ("single", *DRAWN_TESTS)


def drawn_items(test: str, settings: ItemSettings) -> list[Item]:
    """The items of a test.

    Raises:
        SettingsError: If there is no such test.
    """
    if test not in DRAWN_TESTS:
        raise SettingsError(f"--test {test!r} is unknown; use {', '.join(TEST_NAMES)}.")
    return [DRAWN_TESTS[test].make(number, settings) for number in range(settings.items)]
