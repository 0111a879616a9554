"""What longva-tiny-2 learns from: micro tasks, then chat about notes.

A note is a frame in four words: `star red 7 .`, or `star none key .` for a dark star that names a
key. Micro tasks are notes and queries of two to four words, without chat, and begin at two items;
documents are notes and the questions that the needle tests ask (`longva_eval.needle.kinds`). Both
carry *readings*: places where the last layer but one must already say the word in between (the
object that was named, the option's word).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from longva_eval.needle.scenes import DISTRACTORS, LOCATORS
from training.textdata import LETTER_SUFFIX, VIDEO_MME_PREFIX, WORD_SUFFIX, Document
from training.vocabulary import (
    CHATML_END,
    CHATML_START,
    COLOR_WORDS,
    LETTERS,
    NUMBER_WORDS,
    encode,
    token_id,
)

__all__ = ["MICRO_TASKS", "SKILLS", "Lesson", "Scene", "document", "draw_scene", "micro_lesson"]

SKILLS: Final = ("word", "letter", "chain", "order", "count")
MICRO_TASKS: Final = (
    "pointer", "chain", "option", "option number", "hop", "hop number", "count", "order"
)  # fmt: skip

_LOCATORS: Final = [token_id(word) for word in LOCATORS]
_OTHERS: Final = [token_id(word) for word in (*DISTRACTORS, "nothing")]
_COLORS: Final = [token_id(word) for word in COLOR_WORDS]
_NUMBERS: Final = [token_id(word) for word in NUMBER_WORDS]
_LETTERS: Final = [token_id(word) for word in LETTERS]
_NONE, _STOP, _LINE, _NOTHING = (token_id(word) for word in ("none", ".", "\n", "nothing"))
_KIND: Final = {"color": token_id("color"), "number": token_id("number")}
_NAMES, _FIRST, _HOW = (token_id(word, 2) for word in ("names", "first", "How"))
_MANY, _COLON = token_id("many"), token_id(":")
_SYSTEM: Final = encode(CHATML_START)
_END: Final = encode(CHATML_END)
_NEXT: Final = encode("<|im_end|>\n<|im_start|>user\n")
_HINT: Final = "A dark object names the small white one in its corner. "

Note = list[int]
"""Four token ids."""


class Lesson(NamedTuple):
    """A sequence, and what the last layer but one shall say in it."""

    document: Document
    readings: list[tuple[int, int]]
    """Position and token id."""
    skills: list[str]
    """Of each learned position; `end` for the token that closes an answer."""


class _Question(NamedTuple):
    skill: str
    prompt: list[int]
    answer: int
    readings: Sequence[tuple[int, int]] = ()
    """Place in the prompt, and token id."""


class Scene(NamedTuple):
    """Frames as notes, and questions about them."""

    notes: list[Note]
    questions: list[_Question]


@cache
def _encoded(text: str) -> tuple[int, ...]:
    return tuple(encode(text, 2))


def _filled(text: str, *nouns: int) -> list[int]:
    """Token ids of a text, with nouns in place of each `star`."""
    left = iter(nouns)
    star = token_id("star")
    return [next(left) if token == star else token for token in _encoded(text)]


# Micro tasks --------------------------------------------------------------------------------------


def micro_lesson(rng: random.Random, task: str, size: int) -> Lesson:
    """A task of `MICRO_TASKS` on `size` items.

    `pointer`: `star none key .`, and `star names` is `key`; `chain`: also `key red 7 .`, and `star
    names color` is `red`; `option`: `A . red`, and `red` is `A`; `hop`: `star red 7 .` and options,
    `star color` is `A`; with ` number`: the same with numbers; `count`:
    `How many star`; `order`: `first star key :`.
    """
    name = task
    ids: list[int] = list(_SYSTEM) if rng.random() < 0.5 else []
    positions: list[int] = []
    readings: list[tuple[int, int]] = []

    def ask(prompt: Sequence[int], answer: int, read: Sequence[tuple[int, int]] = ()) -> None:
        readings.extend((len(ids) + place, token) for place, token in read)
        ids.extend(prompt)
        positions.append(len(ids) - 1)
        ids.append(answer)

    def show(notes: list[Note]) -> None:
        rng.shuffle(notes)
        ids.extend(token for note in notes for token in note)

    if task in ("pointer", "chain"):
        nouns = rng.sample(_LOCATORS[:10] if size < 3 else _LOCATORS, 2 * size)
        named = [[noun, rng.choice(_COLORS), rng.choice(_NUMBERS), _STOP] for noun in nouns[size:]]
        pointers = [[noun, _NONE, note[0], _STOP] for noun, note in zip(nouns, named, strict=False)]
        show(pointers + (named if task == "chain" else []))
        for place in rng.sample(range(size), min(size, 3)):
            note = named[place]
            if task == "pointer":
                ask([nouns[place], _NAMES], note[0])
            else:
                kind = rng.choice(("color", "number"))
                ask([nouns[place], _NAMES, _KIND[kind]], note[1 + (kind == "number")],
                    [(2, note[0])])  # fmt: skip
    elif task.split()[0] in ("option", "hop"):
        task, _, of_number = task.partition(" ")
        kind = "number" if of_number else "color"
        pool = _COLORS if kind == "color" else _NUMBERS
        options = rng.sample(pool, min(size, 4))
        # Letters in order would teach "A or not A".
        letters = sorted(rng.sample(_LETTERS, len(options)))
        block = [t for a, b in zip(letters, options, strict=True) for t in (_LINE, a, _STOP, b)]
        if task == "option":
            ids += [*block, _LINE]
            for value in rng.sample(options, max(1, len(options) - 2)):
                ask([value], letters[options.index(value)])
        else:
            notes = []
            for noun in rng.sample(_LOCATORS, size):
                note = [noun, rng.choice(_COLORS), rng.choice(_NUMBERS), _STOP]
                note[1 + (kind == "number")] = rng.choice(options)
                notes.append(note)
            asked = rng.sample(notes, min(size, 3))
            show(notes)
            ids += [*block, _LINE]
            for note in asked:
                value = note[1 + (kind == "number")]
                ask([note[0], _KIND[kind]], letters[options.index(value)], [(1, value)])
    elif task == "count":
        wanted = {n: rng.randrange(min(size, 4)) for n in rng.sample(_LOCATORS, max(2, size // 2))}
        show([_note(rng, noun) for noun, count in wanted.items() for _ in range(count)])
        for noun in rng.sample(list(wanted), min(3, len(wanted))):
            ask([_HOW, _MANY, noun], _NUMBERS[wanted[noun]])
    else:
        nouns = rng.sample(_LOCATORS, size)
        ids += [token for noun in nouns for token in _note(rng, noun)]
        for _ in range(2):
            one, two = sorted(rng.sample(range(size), 2))
            ask([_FIRST, *rng.sample([nouns[one], nouns[two]], 2), _COLON], nouns[one])
    return Lesson(Document(ids, positions), readings, [name] * len(positions))


def _note(rng: random.Random, noun: int, *, plain: float = 0.0) -> Note:
    note = [noun, rng.choice(_COLORS), rng.choice([*_NUMBERS, _NONE]), _STOP]
    return _plain(rng, note, plain)


def _plain(rng: random.Random, note: Note, share: float) -> Note:
    """The note, in that share of cases without a number."""
    return [*note[:2], _NONE, _STOP] if share and rng.random() < share else note


# Documents ----------------------------------------------------------------------------------------


def draw_scene(
    rng: random.Random,
    *,
    num_frames: int,
    skills: Sequence[str],
    num_facts: int,
    num_options: int = 4,
    decoys: float = 0.0,
    plain: float = 0.0,
) -> Scene:
    """Frames with what the skills need at random places, and a question for each skill.

    Args:
        rng: Source of randomness.
        num_frames: Frames; more, if what must be shown needs more.
        skills: What is asked, of `SKILLS`.
        num_facts: Objects that are shown once; more, if the skills need more.
        num_options: Of a letter question; fewer than four have letters that are drawn.
        decoys: Share of chain questions beside which, as in the test, up to two more objects name
            other ones.
        plain: Share of objects that, as those of the tests, have no number.
    """
    asked_once = sum(skill in ("word", "letter") for skill in skills)
    num_facts = max(num_facts, asked_once, "chain" in skills, 2 * ("order" in skills))
    nouns = iter(rng.sample(_LOCATORS, num_facts + (3 if decoys else 2) * len(skills)))
    facts = [_plain(rng, [next(nouns), rng.choice(_COLORS), rng.choice(_NUMBERS), _STOP], plain)
             for _ in range(num_facts)]  # fmt: skip
    shown = list(facts)
    pointers, counts = [], []
    for skill in skills:
        if skill == "chain":
            named = rng.choice(facts)
            pointers.append([next(nouns), _NONE, named[0], _STOP])
            shown.append(pointers[-1])
            if decoys and rng.random() < decoys:
                others = [fact[0] for fact in facts if fact is not named][:2]
                shown += [[next(nouns), _NONE, other, _STOP] for other in others]
        elif skill == "count":
            counts.append((next(nouns), rng.randrange(4)))
            shown += [_note(rng, counts[-1][0], plain=plain) for _ in range(counts[-1][1])]
            if rng.random() < 0.5:  # as in the test, another object fills up to three
                other = next(nouns)
                shown += [_note(rng, other, plain=plain) for _ in range(3 - counts[-1][1])]
    rng.shuffle(shown)
    notes = _haystack(rng, num_frames - len(shown))
    for place, note in zip(
        sorted((rng.randint(0, len(notes)) for _ in shown), reverse=True), shown, strict=True
    ):
        notes.insert(place, note)
    where = {note[0]: place for place, note in reversed(list(enumerate(notes)))}
    by_noun = {fact[0]: fact for fact in facts}
    questions: list[_Question] = []
    # No object is asked for twice in one way: its first answer could be copied.
    left = iter(rng.sample(facts, len(facts)))
    for skill in sorted(skills, key=lambda skill: (skill == "letter", rng.random())):
        if skill == "count":
            noun, count = counts.pop()
            prompt = _filled("\nHow many frames show the star?", noun)
            questions.append(_Question(skill, _ended(rng, prompt), _NUMBERS[count]))
        elif skill == "chain":
            pointer = pointers.pop()
            questions.append(_chain(rng, pointer[0], by_noun[pointer[2]]))
        elif skill == "order":
            some = rng.sample(facts, rng.randint(2, min(3, len(facts))))
            first = min(some, key=lambda fact: where[fact[0]])[0]
            listed = "\nWhich comes first, " + (
                "the star or the star?" if len(some) == 2 else "the star, the star or the star?"
            )
            prompt = _filled(listed, *(fact[0] for fact in some))
            questions.append(_Question(skill, _ended(rng, prompt), first))
        else:
            fact = next(left)
            questions.append(
                _letter(rng, fact, num_options) if skill == "letter" else _word(rng, fact)
            )
    return Scene(notes, questions)


def _haystack(rng: random.Random, count: int) -> list[Note]:
    notes: list[Note] = []
    while len(notes) < count:
        noun = rng.choice(_OTHERS)
        color = _NONE if noun == _NOTHING else rng.choice(_COLORS)
        number = rng.choice(_NUMBERS) if rng.random() < 0.4 else _NONE
        for _ in range(1 if rng.random() < 0.5 else rng.randint(2, 16)):
            notes.append([noun, color, number, _STOP])
    return notes[: max(count, 0)]


def _ended(rng: random.Random, prompt: list[int]) -> list[int]:
    suffix = _encoded(f"\n{WORD_SUFFIX}") if rng.random() < 0.5 else ()
    return [*prompt, *suffix, *_END]


def _kind(rng: random.Random, fact: Note) -> str:
    return rng.choice(("color", "number")) if fact[2] != _NONE else "color"


def _word(rng: random.Random, fact: Note) -> _Question:
    kind = _kind(rng, fact)
    asked = "What color is it?" if kind == "color" else "What number is in it?"
    prompt = _filled(f"\nFind the frame with the star. {asked}", fact[0])
    return _Question("word", _ended(rng, prompt), fact[1 + (kind == "number")])


def _letter(rng: random.Random, fact: Note, num_options: int) -> _Question:
    kind = _kind(rng, fact)
    right, pool = (fact[1], _COLORS) if kind == "color" else (fact[2], _NUMBERS)
    options = rng.sample([value for value in pool if value != right], num_options - 1)
    place = rng.randrange(num_options)
    options.insert(place, right)
    letters = sorted(rng.sample(_LETTERS, num_options))
    asked = "What color is the star?" if kind == "color" else "What number is shown with the star?"
    if rng.random() < 0.5:
        what = "What color is it?" if kind == "color" else "What number is in it?"
        asked = f"Find the frame with the star. {what}"
    as_benchmark = rng.random() < 0.5
    prompt = _filled("\n" + (VIDEO_MME_PREFIX if as_benchmark else "") + asked, fact[0])
    for letter, option in zip(letters, options, strict=True):
        prompt += [_LINE, letter, _STOP, option]
    end = "The best answer is:" if as_benchmark else LETTER_SUFFIX
    prompt += [*_encoded("\n" + end), *_END]
    return _Question("letter", prompt, letters[place], [(len(prompt) - 1, right)])


def _chain(rng: random.Random, noun: int, fact: Note) -> _Question:
    kind = "color" if rng.random() < 0.7 or fact[2] == _NONE else "number"
    hint = _HINT if rng.random() < 0.6 else ""
    asked = "What color is" if kind == "color" else "What number is shown with"
    dark = "dark " if hint or rng.random() < 0.5 else ""
    text = f"\n{hint}Find the frame with the {dark}star. {asked} the object that it names?"
    prompt = _ended(rng, _filled(text, noun))
    return _Question("chain", prompt, fact[1 + (kind == "number")], [(len(prompt) - 1, fact[0])])


def document(scene: Scene) -> Lesson:
    """A chat: the frames, then the questions, each answered with one word that is then closed."""
    ids = [*_SYSTEM, *(token for note in scene.notes for token in note)]
    positions: list[int] = []
    readings: list[tuple[int, int]] = []
    skills: list[str] = []
    for question in scene.questions:
        readings += [(len(ids) + place, token) for place, token in question.readings]
        ids += question.prompt
        positions.append(len(ids) - 1)
        ids.append(question.answer)
        positions.append(len(ids) - 1)
        ids += _NEXT
        skills += [question.skill, "end"]
    return Lesson(Document(ids, positions), readings, skills)
