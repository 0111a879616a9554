"""Answers as models give them, drawn from a seed, to hold two scorers against each other.

Half sensible, half not: letters bare, in brackets and in sentences, the board's prefixes whole and
glued, texts of options, silence, numbers of every form. The verdicts that official scripts gave on
these answers are kept in `tests/data/official_verdicts`; `tests/reports/test_official.py` compares.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence

SEED = 20240623
COUNT = 5000

_WORDS = (
    "a", "A", "man", "Man", "the", "The", "because", "As", "shown", "Based", "on", "video", "can",
    "not", "Cannot", "be", "determined", "Both", "and", "are", "wrong", "so", "is", "it", "Dogs",
    "cat", "red", "Blue", "three", "I", "think", "correct", "answer", "option", "Bus", "East",
    "E", "F", "final", "result", "thus", "could", "be", "=", "\n", "!!!!", ":", "1,234", "3.14",
    "2e5", ".5", "-7", "12", "100.004",
)  # fmt: skip
_FRAMES = (
    "{L}", "{L}.", "({L})", "{L})", " {L} ", "{l}", "{l}.", "({l})", "{L}. {T}", "({L}) {T}",
    "{L}) {T}", "**{L}**", "**{L}.** {T}", "The best answer is: {L}", "The best answer is {L}.",
    "The correct answer is {L}", "The answer is {L}", "The answer is ({L}).", "The answer: {L}",
    "The best option is {L}", "The correct option is {L}.", "Best answer: {L}", "Best option: {L}",
    "Best answer:Best option: {L}", "The best option isThe correct option is {L}", "Answer: {L}",
    "Option: {L}", "The correct answer would be {L}", "The correct option {L}", "{T}", "{T}.",
    "{l}) {T}", "Option {L}", "As shown, option {L}", "Based on the video, the answer is {L}",
    "Both {K} and {M} are wrong, so {L}", "{L} or {K}", "{K}, {L}", "({K}) ({L})", "{K} {L} {M}",
    "Cannot determine", "cannot determine", "", "   ", "!!!!", "<failed>", "\n{L}\n", "{L}\n{T}",
    "I think that it is {T}, so {L}", "I would say {T} is what is shown here", "{W}", "{W} {L}",
    "{W} ({L}) {W}", "{W} {T} {W}", "{L}{K}", "'{L}'", '"{L}"', ".{L}.", "{L}:", "{L}!?",
    "Best Option: ({L})", "Best Option: ({L}) {T}", "{L}) {K})", ")", "(", "{T} ({L})",
    "the answer is {N}", "{N}", "= {N}", "so {N} thus {M}", "x = {N}\ny is {N}", "{N} {U}",
    "it could be {N} or {N}", "final answer {T}", "The result is {N}.", "{W}\n{W} is {N}",
)  # fmt: skip
_OPTIONS = (
    "Apples", "a dog", "Candles.", "The man", "Yes", "No", "None of the above", "3", "75.5",
    "1,200", "B cells", "both", "red", "dark red", "an A-frame", "12 kg", "", "x", "Berlin",
)  # fmt: skip
_NUMBERS = ("3", "3.0", "3.14159", "-7", "1,200", "1200", "2e5", "2E-3", ".5", "0.5", "1,234,567",
            "12,34", "100.004", "75.5%", "$5", "24/7", "1_000", "inf", "nan", "7.")  # fmt: skip
_UNITS = ("kg", "V", "watts", "%", "m/s", "dollars")


def choice_answers(count: int = COUNT, *, seed: int = SEED, letters: str = "ABCDE") -> list[str]:
    """What models say when asked for a letter."""
    draw = random.Random(seed)
    return [_answer(draw, letters) for _ in range(count)]


def choice_questions(
    count: int = COUNT, *, seed: int = SEED + 1
) -> list[tuple[str, dict[str, str]]]:
    """Answers, each with the options (two to six) it was asked about."""
    draw = random.Random(seed)
    questions = []
    for _ in range(count):
        letters = "ABCDEF"[: draw.randint(2, 6)]
        options = {letter: draw.choice(_OPTIONS) for letter in letters}
        questions.append((_answer(draw, letters, list(options.values())), options))
    return questions


def open_questions(count: int = COUNT, *, seed: int = SEED + 2) -> list[tuple[str, list[str]]]:
    """Answers to open questions, each with what is right."""
    draw = random.Random(seed)
    questions = []
    for _ in range(count):
        pool = (*_NUMBERS, *_OPTIONS[:15], *_OPTIONS[17:])
        right = [draw.choice(pool) for _ in range(draw.choice((1, 1, 1, 2, 3)))]
        answer = _answer(draw, "ABCD", [*right, draw.choice(_OPTIONS)])
        if draw.random() < 0.3:
            answer = answer.replace(draw.choice(_NUMBERS), right[0])
        questions.append((answer, right))
    return questions


def digest(things: Sequence[object]) -> str:
    """Tells whether the answers are those that verdicts were made on."""
    return hashlib.sha256(json.dumps(things).encode()).hexdigest()


def _answer(draw: random.Random, letters: str, options: Sequence[str] = _OPTIONS) -> str:
    text = draw.choice(_FRAMES)
    letter = draw.choice(letters)
    parts = {
        "{L}": lambda: letter,
        "{l}": lambda: letter.lower(),
        "{K}": lambda: draw.choice(letters),
        "{M}": lambda: draw.choice(letters),
        "{T}": lambda: draw.choice(options),
        "{N}": lambda: draw.choice(_NUMBERS),
        "{U}": lambda: draw.choice(_UNITS),
        "{W}": lambda: " ".join(draw.choice(_WORDS) for _ in range(draw.randint(1, 14))),
    }
    for mark, make in parts.items():
        while mark in text:
            text = text.replace(mark, make(), 1)
    return text
