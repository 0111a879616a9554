"""What a needle test must be compared with: the same questions where the needle cannot be found.

* `no needle`: the question about a clean haystack, at every length. What is right here is a guess.
* `blind`: the question without any frame.
* `needle only`: the question about the needle alone, one frame. What is wrong here is no matter of
  length, so a grid is judged against this score.

They share the grid's prefixes: all lengths of a clean haystack are one growing video, whose ends
the grid's last depth needs as well. Source of the idea: NoLiMa (arXiv:2502.05167), VNBench's
circular options (arXiv:2406.09367); docs/niah.md says how they are read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, get_args

from longva_eval.errors import SettingsError
from longva_eval.needle.items import OPTION, Item
from longva_eval.needle.results import Control

__all__ = ["CONTROLS", "circular_items"]

CONTROLS: Final[tuple[Control, ...]] = get_args(Control)


def circular_items(items: Sequence[Item]) -> list[Item]:
    """Every item, and each lettered one again for every rotation of its options.

    A model that prefers a letter is right for one rotation and wrong for the others; an item with
    options counts as found only if all are right.

    Returns:
        The items in order; a rotated one follows the one it was made from, with the same pictures,
        `rotation` set, and the letter where the true option now stands as its answer.

    Raises:
        SettingsError: If an item's answer is a letter that none of its options has.
    """
    made = []
    for item in items:
        made.append(item)
        options = OPTION.findall(item.question)
        letters = [letter for letter, _ in options]
        if len(options) < 2 or not re.fullmatch("[A-Z]", item.answer.strip()):
            continue
        if letters != [chr(ord("A") + place) for place in range(len(options))] or (
            item.answer.strip() not in letters
        ):
            raise SettingsError(
                f"Needle {item.name} has options {', '.join(letters)} and the answer "
                f"{item.answer!r}; circular options need A, B, ... and one of them as answer."
            )
        texts = [text for _, text in options]
        for rotation in range(1, len(texts)):
            question = _with_options(item.question, texts[-rotation:] + texts[:-rotation])
            place = (letters.index(item.answer.strip()) + rotation) % len(letters)
            made.append(replace(item, question=question, answer=letters[place], rotation=rotation))
    return made


def _with_options(question: str, texts: Sequence[str]) -> str:
    """The question with other texts behind its letters."""
    left = iter(texts)
    return OPTION.sub(lambda match: f"{match[1]}. {next(left)}", question)
