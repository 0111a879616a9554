"""What a needle test hides, and what it asks about it. No torch.

An *item* is one question with the pictures that answer it. V-NIAH's has one picture; other tests
have several, and *distractors* beside them. Drawn items come from a seed: item number n is the same
whatever the number of items, and right answers, letters and places are balanced over the numbers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, Literal, TypeVar, get_args

import numpy as np
from PIL import Image

from longva_eval.errors import SettingsError
from longva_eval.media.files import image_digest
from longva_eval.needle.scenes import (
    LOCATORS,
    Scene,
    caption_sentence,
    caption_words,
    random_scene,
    render_scene,
)

__all__ = [
    "LETTERS_SUFFIX",
    "OPTION",
    "TESTS_OF",
    "WORDS_SUFFIX",
    "AnswerForm",
    "Drawing",
    "Item",
    "ItemSettings",
    "Shown",
    "any_of",
    "balanced",
]

AnswerForm = Literal["words", "letters"]
"""A word or number, as V-NIAH's needles; or the letter of an option."""
WORDS_SUFFIX: Final = "Answer the question using a single word or phrase."
LETTERS_SUFFIX: Final = "Answer with the option's letter from the given choices directly."
MOST_OPTIONS: Final = 4
OPTION: Final = re.compile(r"^([A-Z])\. (.*)$", re.MULTILINE)
"""A line of a question with options."""

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture that stands among the frames: a file's, or one that is drawn when looked at."""

    picture: Image.Image | None = None
    """RGB; None for a drawn one."""
    scene: Scene | None = None
    side: int = 96
    """Of a drawn picture, in pixels."""
    told: str = ""
    """Its caption, if a file has one."""
    object: str = ""
    """What a file shows, in a word or two, if it says so."""

    @cached_property
    def image(self) -> Image.Image:
        """RGB."""
        if self.picture is not None:
            return self.picture
        assert self.scene is not None, "a picture or a scene"
        return Image.fromarray(np.asarray(render_scene(self.scene, side=self.side)))

    def caption(self, *, as_sentence: bool = False) -> str:
        """What it shows, in words (`star red 7 .`) or as a sentence; empty if nobody knows."""
        if self.scene is None:
            return self.told
        return caption_sentence(self.scene) if as_sentence else " ".join(caption_words(self.scene))


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question, and the pictures that answer it."""

    test: str = "single"
    name: str
    """File name, place in a dataset, or number of a drawn item: what scores are clustered by."""
    needles: tuple[Shown, ...]
    """In the order in which they are shown."""
    distractors: tuple[Shown, ...] = ()
    """Pictures that resemble needles and do not answer."""
    pattern: str = ""
    """The order of needles (N) and distractors (D); only needles if empty."""
    question: str
    """Follows the frames directly; begins with a newline, as the published ones."""
    answer: str
    choices: tuple[str, ...] = ()
    """All answers that are asked for, if they are a closed set: letters, colours, numbers."""
    rotation: int = 0
    """By how many places its options are rotated (`controls.circular_items`)."""

    @property
    def floor(self) -> float | None:
        """The share of right answers of one who guesses among the choices."""
        return 1 / len(self.choices) if self.choices else None

    @property
    def order(self) -> str:
        """`pattern`, spelled out."""
        return self.pattern or "N" * len(self.needles)

    def describe(self) -> dict[str, Any]:
        """For the record: what it asks and hashes of what it shows."""
        digests = [image_digest(shown.image) for shown in self.needles]
        described: dict[str, Any] = {"name": self.name}
        if self.test == "single":
            described["image_sha256"] = digests[0]
        else:
            described |= {"test": self.test, "needles_sha256": digests, "pattern": self.order}
            described["distractors_sha256"] = [image_digest(d.image) for d in self.distractors]
        described |= {"question": self.question, "answer": self.answer}
        return described | ({"rotation": self.rotation} if self.rotation else {})


@dataclass(frozen=True, kw_only=True)
class ItemSettings:
    """What drawn items depend on."""

    items: int = 24
    """How many: with fewer than about 22 no length can be claimed."""
    seed: int = 0
    answer: AnswerForm = "words"
    side: int = 96
    """Of a picture, in pixels."""
    n: int = 3
    """Needles of keys, values, order and aggregate; coloured objects of chain."""
    most: int = 3
    """Most objects of count."""
    hops: int = 1
    """Pictures of chain that name another object."""
    period: int = 8
    """Haystack frames from distractor to distractor, of distractor."""
    likeness: Literal["object", "other"] = "object"
    """Whether distractors of distractor show the needle's object or others."""
    motion_frames: int = 4
    """Frames of clip."""

    def __post_init__(self) -> None:
        limits = {
            "items": (1, 100_000), "side": (32, 1024), "n": (2, 7), "most": (1, 9), "hops": (1, 4),
            "period": (1, 100_000), "motion_frames": (2, 64),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(f"{name}={value} must be at least {low} and at most {high}.")
        for name, known in (("answer", get_args(AnswerForm)), ("likeness", ("object", "other"))):
            if getattr(self, name) not in known:
                raise SettingsError(f"{name}={getattr(self, name)!r} must be {' or '.join(known)}.")

    def describe(self) -> dict[str, Any]:
        return asdict(self)


TESTS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "n": ("keys", "values", "order", "aggregate", "chain"),
    "most": ("count",),
    "hops": ("chain",),
    "period": ("distractor",),
    "likeness": ("distractor",),
    "motion_frames": ("clip",),
}
"""The settings that not all drawn tests depend on, and those that do."""


def balanced(values: Sequence[Value], number: int, *, key: str) -> Value:
    """The value of item `number`: each value once in every len(values) items, in random order."""
    block = random.Random(f"{key}-{number // len(values)}").sample(list(values), len(values))
    return block[number % len(values)]


class Drawing:
    """Draws item `number` of a test, or takes its pictures from `own` ones."""

    def __init__(
        self, test: str, number: int, settings: ItemSettings, own: Sequence[Item] = ()
    ) -> None:
        self.test, self.number, self.settings = test, number, settings
        self._own: dict[str, list[Shown]] = {}
        for item in own:
            self._own.setdefault(item.needles[0].object, []).append(item.needles[0])
        self.objects = tuple(self._own) or LOCATORS
        self._key = f"{test}-{settings.seed}"
        self.rng = random.Random(f"{self._key}-{number}")

    def balanced(self, values: Sequence[Value], what: str) -> Value:
        """A value that comes equally often over the items."""
        return balanced(values, self.number, key=f"{self._key}-{what}")

    def show(self, shape: str, color: str | None = None, digit: str | None = None) -> Shown:
        """An object; its colour is random if not given."""
        if self._own:
            return self.rng.choice(self._own[shape])
        return self.scene(random_scene(self.rng, shape=shape, color=color, digit=digit))

    def scene(self, scene: Scene) -> Shown:
        return Shown(scene=scene, side=self.settings.side)

    def shuffled(self, values: Sequence[Value]) -> list[Value]:
        return self.rng.sample(list(values), len(values))

    def mixed(self, num_needles: int, num_distractors: int) -> str:
        """A random order of needles and distractors."""
        return "".join(self.shuffled("N" * num_needles + "D" * num_distractors))

    def item(
        self,
        question: str,
        *,
        answer: str,
        others: Sequence[str],
        likely: Sequence[str] = (),
        needles: Sequence[Shown],
        distractors: Sequence[Shown] = (),
        pattern: str = "",
        letters: bool = False,
    ) -> Item:
        """The item.

        Args:
            question: Without what is said about the form of the answer.
            answer: In words.
            others: All other answers that may be given.
            likely: Those of them that come first as wrong options: what was shown.
            needles: Pictures that answer, as shown.
            distractors: Others.
            pattern: Their order.
            letters: Whether a letter is asked for whatever the settings say.
        """
        text = f"\n{question}"
        choices: tuple[str, ...] = tuple(sorted({answer, *others}))
        if letters or self.settings.answer == "letters":
            wrong = [*likely, *(other for other in self.shuffled(others) if other not in likely)]
            options = self.shuffled(wrong[: MOST_OPTIONS - 1])
            place = self.balanced(range(len(options) + 1), f"letter of {len(options) + 1}")
            options.insert(place, answer)
            choices = tuple("ABCD"[: len(options)])
            answer = choices[place]
            lines = (f"\n{a}. {b}" for a, b in zip(choices, options, strict=True))
            text += "".join(lines) + f"\n{LETTERS_SUFFIX}"
        else:
            text += f"\n{WORDS_SUFFIX}"
        return Item(
            test=self.test,
            name=f"{self.test}-{self.number}",
            needles=tuple(needles),
            distractors=tuple(distractors),
            pattern=pattern,
            question=text,
            answer=answer,
            choices=choices,
        )


def any_of(words: Sequence[str]) -> str:
    """`the star, the key or the cup`."""
    named = [f"the {word}" for word in words]
    return " or ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]
