"""Videos of known events, and what a long answer says of them. No torch, no judge."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from math import comb
from pathlib import Path
from typing import Final

from longva_eval.files import write_atomically
from longva_eval.needle.scenes import COLORS, LOCATORS, random_scene, render_scene
from longva_eval.tasks.mini.mini_benchmark import encode_video

__all__ = ["Event", "Told", "draw_video", "plan_events", "read_told"]

Event = tuple[str, str]
"""Colour and object."""
EVENT_FRAMES: Final = 6
FRAME_RATE: Final = 2
_SIDE: Final = 224
_COLOUR: Final = "|".join(COLORS)
_OBJECT: Final = "|".join(LOCATORS)
_PAIR: Final = re.compile(
    # A red, rather large star; or: the star is red, a star in red, a star (red).
    rf"\b(?P<c1>{_COLOUR})\b(?:[\s,-]+(?!(?:{_COLOUR}|{_OBJECT}|and|then)\b)\w+){{0,2}}[\s,-]+"
    rf"(?P<o1>{_OBJECT})s?\b"
    rf"|\b(?P<o2>{_OBJECT})s?\b(?:\s*\(|(?:\s+(?:that|which|is|was|are|in|of|color(?:ed)?"
    rf"|colour(?:ed)?|the|a|all)){{1,4}}\s+)(?P<c2>{_COLOUR})\b(?!\s+(?:{_OBJECT})s?\b)",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_GRAM: Final = 4


def plan_events(number: int, count: int) -> list[Event]:
    """The events of a video, all different, no object twice in a row.

    Args:
        number: Of the video; the same gives the same.
        count: How many.
    """
    rng = random.Random(f"long-answers-{number}-{count}")
    while True:
        pairs = rng.sample([(color, shape) for color in COLORS for shape in LOCATORS], count)
        if all(one[1] != two[1] for one, two in pairwise(pairs)):
            return pairs


def draw_video(path: Path, events: Sequence[Event]) -> None:
    """Write a video of three seconds an event, at two frames a second, unless it is there."""
    if path.exists():
        return
    rng = random.Random(path.stem)
    frames = []
    for color, shape in events:
        scene = random_scene(rng, shape=shape, color=color)
        for step in range(EVENT_FRAMES):
            texture = replace(scene.texture, phase=scene.texture.phase + 0.03 * step)
            frames.append(render_scene(replace(scene, texture=texture), side=_SIDE))
    with write_atomically(path) as temporary:
        encode_video(temporary, frames, frame_rate=FRAME_RATE)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What an answer says, beside what was shown and asked."""

    recall: float
    """Share of the events that are named, with their colour."""
    precision: float
    """Share of the events named that were shown; 0 if none is named."""
    order: float
    """Share of all pairs of events that are both named, first mentions in the order in which they
    were shown."""
    words: int
    length: float
    """LongWriter's S_l (arXiv:2408.07055, section 3.1), from 0 to 1: 1 for the length asked, 0
    for four times as much or a third of it."""
    repetition: float
    """Share of sequences of four words that were said before."""

    @property
    def f1(self) -> float:
        """Harmonic mean of recall and precision."""
        both = self.recall + self.precision
        return 2 * self.recall * self.precision / both if both else 0.0


def read_told(text: str, events: Sequence[Event], words_asked: int) -> Told:
    """Measure an answer.

    Args:
        text: The answer.
        events: What was shown, two or more, in order, all different.
        words_asked: Length that was asked for.
    """
    named: dict[Event, None] = {}
    for found in _PAIR.finditer(text.lower()):
        named.setdefault((found["c1"] or found["c2"], found["o1"] or found["o2"]))
    right = [event for event in named if event in events]
    at = [list(events).index(event) for event in right]
    ordered = sum(one < two for one, two in combinations(at, 2))
    words = [word.lower() for word in _WORD.findall(text)]
    grams = list(zip(*(words[first:] for first in range(_GRAM)), strict=False))
    return Told(
        recall=len(right) / len(events),
        precision=len(right) / len(named) if named else 0.0,
        order=ordered / comb(len(events), 2),
        words=len(words),
        length=_length_score(len(words), words_asked),
        repetition=1 - len(set(grams)) / len(grams) if grams else 0.0,
    )


def _length_score(written: int, asked: int) -> float:
    if written > asked:
        return max(0.0, 1 - (written / asked - 1) / 3)
    return max(0.0, 1 - (asked / written - 1) / 2) if written else 0.0
