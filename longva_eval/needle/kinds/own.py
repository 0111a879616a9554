"""Tests made of pictures of one's own, which a folder's `dataset.json` describes.

`keys` hides each picture among others and asks its own question; `distractor` among others of the
same object; `order` and `count` ask about objects. The other tests need pictures that are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from longva_eval.errors import SettingsError
from longva_eval.needle.items import Drawing, Item, ItemSettings
from longva_eval.needle.kinds import count, order

__all__ = ["OWN_TESTS", "own_items"]


def _keys(settings: ItemSettings, own: Sequence[Item]) -> list[Item]:
    """An item for each picture; where it stands among the n is balanced."""
    items = []
    for number, asked in enumerate(own[: settings.items]):
        draw = Drawing("keys", number, settings)
        shown = draw.rng.sample([other for other in own if other is not asked], settings.n - 1)
        shown.insert(draw.balanced(range(settings.n), "place"), asked)
        items.append(replace(asked, test="keys", needles=tuple(each.needles[0] for each in shown)))
    return items


def _distractor(settings: ItemSettings, own: Sequence[Item]) -> list[Item]:
    """An item for each picture of an object that has several."""
    items = []
    for asked in own:
        mine = asked.needles[0]
        others = [each.needles[0] for each in own if each.needles[0].object == mine.object]
        others = [other for other in others if other is not mine]
        if others:
            half = "D" * len(others)
            items.append(
                replace(asked, test="distractor", distractors=(*others,),
                        pattern=half[1:] + "N" + half[:1])
            )  # fmt: skip
    return items[: settings.items]


def _of_objects(
    make: Callable[[int, ItemSettings, Sequence[Item]], Item],
) -> Callable[[ItemSettings, Sequence[Item]], list[Item]]:
    return lambda settings, own: [make(number, settings, own) for number in range(settings.items)]


OWN_TESTS: Final = {
    "keys": _keys,
    "distractor": _distractor,
    "order": _of_objects(order.make),
    "count": _of_objects(count.make),
}


def own_items(test: str, settings: ItemSettings, own: Sequence[Item]) -> list[Item]:
    """The items of a test, of pictures from a folder.

    Args:
        test: Of `OWN_TESTS`.
        settings: What they depend on; `answer` of keys and distractor is the pictures' own.
        own: From `load_needles`.

    Raises:
        SettingsError: If there are too few pictures or objects, or one does not say what it shows.
    """
    nameless = [item.name for item in own if not item.needles[0].object]
    if test != "keys" and nameless:
        raise SettingsError(
            f'--test {test} asks about objects: give {nameless[0]} an "object" in dataset.json, '
            f'as {{"object": "red car"}} ({len(nameless)} of {len(own)} pictures have none).'
        )
    objects = {item.needles[0].object for item in own}
    there, needed, what = (
        (len(own), settings.n, "pictures") if test == "keys"
        else (len(objects), settings.n if test == "order" else 2, "objects")
    )  # fmt: skip
    if test != "distractor" and there < needed:
        raise SettingsError(f"--test {test} needs {needed} {what}; --needles has {there}.")
    items = OWN_TESTS[test](settings, own)
    if not items:
        raise SettingsError(
            "--test distractor needs several pictures of one object; --needles has one of each."
        )
    return items
