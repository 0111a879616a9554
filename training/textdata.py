"""Text for the language model: key-value pairs, then documents with questions.

A document is a list of lines about nouns. A *needle* noun occurs with one colour and one number;
the other nouns come back with changing values, as a haystack's silhouettes do. Questions follow
and only their answers are learned, so a sequence carries many answers.

Half of the documents are *notes*, lines of four words (`star red 7 .`): the words an aligned
picture's four visual tokens stand for. The rest is short prose with filler sentences.
"""

import random
from collections.abc import Sequence
from typing import Final, NamedTuple

from training.vocabulary import (
    CHATML_END,
    CHATML_START,
    COLOR_WORDS,
    FILLERS,
    LETTERS,
    NOUNS,
    NUMBER_WORDS,
    encode,
    token_id,
)

__all__ = [
    "LETTER_SUFFIX",
    "VIDEO_MME_PREFIX",
    "Document",
    "Fact",
    "Question",
    "make_document",
    "make_pairs",
    "needle_prompt",
    "question_prompt",
]

VIDEO_MME_PREFIX: Final = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option.\n"
)
LETTER_SUFFIX: Final = "Answer with the option's letter from the given choices directly."
WORD_SUFFIX: Final = "Answer the question using a single word or phrase."

_SYSTEM = encode(CHATML_START)
_TURN_END = encode(CHATML_END)
_NEXT_TURN = encode("<|im_end|>\n<|im_start|>user\n")
_IM_END = token_id("<|im_end|>")
_NOUN_IDS = [token_id(word) for word in NOUNS]
_COLOR_IDS = [token_id(word) for word in COLOR_WORDS]
_NUMBER_IDS = [token_id(word) for word in NUMBER_WORDS]
_LETTER_IDS = [token_id(word) for word in LETTERS]
_FILLER_IDS = [token_id(word) for word in FILLERS]
_GAP_IDS = [token_id(word) for word in (":", "?", ".", "is", "the", "color", "number", "it")]
_NONE, _STOP, _COLON = token_id("none"), token_id("."), token_id(":")
_THE, _A, _IS, _NUMBER, _IN = (token_id(w) for w in ("the", "a", "is", "number", "in"))

_UNIT_WORDS = ("frame", "frame", "line", "part", "picture")
_COLOR_QUESTIONS = ("What color is the {noun}?", "Which color has the {noun}?")
_NUMBER_QUESTIONS = ("What number is shown with the {noun}?", "Which number has the {noun}?")


class Fact(NamedTuple):
    """What a document says about a needle noun."""

    noun: int
    """Token id."""
    color: int
    """Token id."""
    number: int
    """Token id; that of "none" where the picture shows no number."""

    def random_kind(self, rng: random.Random) -> str:
        """What can be asked: "color", or also "number" where there is one."""
        return "color" if self.number == _NONE else rng.choice(("color", "number"))


class Question(NamedTuple):
    """A prompt and the one token that answers it."""

    prompt: list[int]
    """Token ids."""
    answer: int
    """Token id."""


class Document(NamedTuple):
    """A training sequence."""

    ids: list[int]
    """Token ids."""
    positions: list[int]
    """Positions whose next token is learned."""

    def targets(self) -> list[int]:
        """The learned tokens, one per position."""
        return [self.ids[position + 1] for position in self.positions]


def make_pairs(
    rng: random.Random,
    *,
    num_pairs: int,
    repeats: int,
    max_gap: int,
    num_nouns: int | None = None,
) -> Document:
    """Keys and values in turn, each pair again and again; every repeated value is learned.

    Args:
        rng: Source of randomness.
        num_pairs: How many different keys.
        repeats: How often each pair is repeated on average.
        max_gap: Most words between a key and its value in a last round of queries, which asks
            the model to carry the key to a later position; 0 leaves that round out.
        num_nouns: How many of the nouns are keys; all by default.
    """
    keys = rng.sample(_NOUN_IDS[:num_nouns], num_pairs)
    pool = _COLOR_IDS + _NUMBER_IDS
    pairs = [(key, rng.choice(pool)) for key in keys]
    ids = [token for pair in pairs for token in pair]
    positions: list[int] = []
    # Drawn with replacement: in rounds, the last value of a round could be told without its key.
    for key, value in rng.choices(pairs, k=repeats * num_pairs):
        positions.append(len(ids))
        ids += [key, value]
    if max_gap:
        for key, value in rng.choices(pairs, k=2 * num_pairs):
            ids += [key, *rng.choices(_GAP_IDS, k=rng.randint(1, max_gap))]
            positions.append(len(ids) - 1)
            ids.append(value)
    return Document(ids, positions)


def _prose_line(rng: random.Random, noun: int, color: int, number: int) -> list[int]:
    form = rng.randrange(5)
    if form == 0:
        return [_THE, noun, _IS, color, _NUMBER, number, _STOP]
    if form == 1:
        return [_A, color, noun, number, _STOP]
    if form == 2:
        return [noun, color, number, _STOP]
    if form == 3:
        return [_NUMBER, number, _IN, _A, color, noun, _STOP]
    return [_THE, color, noun, _COLON, number, _STOP]


def _filler_line(rng: random.Random) -> list[int]:
    return [*rng.choices(_FILLER_IDS, k=rng.randint(4, 9)), _STOP]


def _lines(
    rng: random.Random, facts: Sequence[Fact], *, budget: int, notes: bool
) -> list[list[int]]:
    """Lines of at most `budget` tokens: every fact somewhere, distractors in runs around it."""
    taken = {fact.noun for fact in facts}
    others = [noun for noun in rng.sample(_NOUN_IDS, 24) if noun not in taken]
    others = others[: rng.randint(3, 10)]
    runs: list[list[list[int]]] = []
    used = 0
    for fact in facts:
        copies = 1 if rng.random() < 0.7 else rng.randint(2, 4)
        if notes:
            run = [[fact.noun, fact.color, fact.number, _STOP]] * copies
        else:
            run = [_prose_line(rng, *fact)]
        runs.append(run)
        used += sum(map(len, run))
    while used < budget:
        if not notes and rng.random() < 0.35:
            run = [_filler_line(rng)]
        elif notes:
            # A scene: the same line again and again, now and then with another number.
            noun = rng.choice(others)
            color = _NONE if rng.random() < 0.1 else rng.choice(_COLOR_IDS)
            number = rng.choice(_NUMBER_IDS) if rng.random() < 0.4 else _NONE
            run = []
            for _ in range(1 if rng.random() < 0.5 else rng.randint(2, 16)):
                run.append([noun, color, number, _STOP])
                if number != _NONE and rng.random() < 0.1:
                    number = rng.choice(_NUMBER_IDS)
        else:
            values = rng.choice(_COLOR_IDS), rng.choice(_NUMBER_IDS)
            run = [_prose_line(rng, rng.choice(others), *values)]
        runs.append(run)
        used += sum(map(len, run))
    # The runs of the facts are put at random places, most of them inside another run.
    fact_runs, other_runs = runs[: len(facts)], runs[len(facts) :]
    lines = [line for run in other_runs for line in run]
    excess = used - budget
    while lines and excess > 0:
        excess -= len(lines.pop())
    places = sorted((rng.randint(0, len(lines)) for _ in fact_runs), reverse=True)
    rng.shuffle(fact_runs)
    for place, run in zip(places, fact_runs, strict=True):
        lines[place:place] = run
    return lines


def needle_prompt(noun: str, *, kind: str) -> str:
    """The needle question, as in the needles' `dataset.json`: it begins with a newline.

    Args:
        noun: What to look for.
        kind: "color" or "number".
    """
    asked = "What color is it?" if kind == "color" else "What number is in it?"
    return f"\nFind the frame with the {noun}. {asked}\n{WORD_SUFFIX}"


def question_prompt(noun: str, *, kind: str) -> str:
    """The question of the mini benchmark about one silhouette.

    Args:
        noun: What to look for.
        kind: "color" or "number".
    """
    return (_COLOR_QUESTIONS if kind == "color" else _NUMBER_QUESTIONS)[0].format(noun=noun)


_TEXT_CACHE: dict[tuple[str, ...], tuple[list[int], int]] = {}


def _encode_with_noun(*parts: str) -> tuple[list[int], int]:
    """Token ids of a text and the place of its noun, which is written as `star`."""
    if parts not in _TEXT_CACHE:
        ids = encode("".join(parts))
        _TEXT_CACHE[parts] = (ids, ids.index(token_id("star")))
    return _TEXT_CACHE[parts]


def _with_noun(noun: int, *parts: str) -> list[int]:
    ids, place = _encode_with_noun(*parts)
    return [*ids[:place], noun, *ids[place + 1 :]]


def _open_question(rng: random.Random, fact: Fact, *, chat: bool) -> Question:
    kind = fact.random_kind(rng)
    answer = fact.color if kind == "color" else fact.number
    if chat:
        asked = "What color is it?" if kind == "color" else "What number is in it?"
        if rng.random() < 0.7:
            body = f"\nFind the {rng.choice(_UNIT_WORDS)} with the star. {asked}"
        else:
            body = "\n" + question_prompt("star", kind=kind)
        # Half of the turns carry the instruction of the original's needle questions.
        suffix = f"\n{WORD_SUFFIX}" if rng.random() < 0.6 else ""
        return Question(_with_noun(fact.noun, body, suffix) + _TURN_END, answer)
    if rng.random() < 0.5:
        asked = "What color is it?" if kind == "color" else "What number is in it?"
        text = f"Find the {rng.choice(_UNIT_WORDS)} with the star. {asked}"
    else:
        forms = _COLOR_QUESTIONS if kind == "color" else _NUMBER_QUESTIONS
        text = rng.choice(forms).format(noun="star")
    return Question(_with_noun(fact.noun, text), answer)


def _choice_question(rng: random.Random, fact: Fact, *, chat: bool) -> Question:
    """A multiple-choice question, answered with the right option's word.

    The letter would be one look-up more, from the word to the option that says it. It was tried
    with a fourth layer and not learned within the time a seed may take.
    """
    kind = fact.random_kind(rng)
    right, pool = (fact.color, _COLOR_IDS) if kind == "color" else (fact.number, _NUMBER_IDS)
    options = rng.sample([value for value in pool if value != right], len(_LETTER_IDS) - 1)
    options.insert(rng.randrange(len(_LETTER_IDS)), right)
    newline = token_id("\n")
    option_ids: list[int] = []
    for letter, option in zip(_LETTER_IDS, options, strict=True):
        option_ids += [newline, letter, _STOP, option]
    question = question_prompt("star", kind=kind)
    if not chat:
        prompt = _with_noun(fact.noun, question) + option_ids
        return Question(prompt + encode("\nThe best answer is:"), right)
    if rng.random() < 0.65:
        prompt = _with_noun(fact.noun, "\n", VIDEO_MME_PREFIX, question) + option_ids
        prompt += encode("\nThe best answer is:")
    else:
        prompt = _with_noun(fact.noun, "\n", question) + option_ids
        prompt += encode("\n" + LETTER_SUFFIX)
    return Question(prompt + _TURN_END, right)


def make_questions(
    rng: random.Random, facts: Sequence[Fact], *, chat: bool, choice_share: float
) -> list[Question]:
    """One question about each fact.

    Args:
        rng: Source of randomness.
        facts: What is asked about.
        chat: Whether the prompts are chat turns.
        choice_share: How many of the questions are multiple-choice.
    """
    return [
        (_choice_question if rng.random() < choice_share else _open_question)(rng, fact, chat=chat)
        for fact in facts
    ]


def random_facts(rng: random.Random, count: int, *, nouns: Sequence[int] = ()) -> list[Fact]:
    """Facts about different nouns.

    Args:
        rng: Source of randomness.
        count: How many.
        nouns: Token ids to choose from; all nouns by default.
    """
    return [
        Fact(noun, rng.choice(_COLOR_IDS), rng.choice(_NUMBER_IDS))
        for noun in rng.sample(list(nouns) or _NOUN_IDS, count)
    ]


def append_questions(ids: list[int], questions: Sequence[Question], *, chat: bool) -> Document:
    """A document's lines followed by its questions and their answers.

    Args:
        ids: Everything before the first question.
        questions: What is asked.
        chat: Whether each answer is closed, which is learned as well.
    """
    ids = list(ids)
    positions: list[int] = []
    for question in questions:
        ids += question.prompt
        positions.append(len(ids) - 1)
        ids.append(question.answer)
        if chat:
            positions.append(len(ids) - 1)
            ids += _NEXT_TURN
    return Document(ids, positions)


def make_document(
    rng: random.Random,
    *,
    length: int,
    num_questions: int,
    num_needles: int,
    chat: bool,
    choice_share: float = 0.0,
    notes_share: float = 0.5,
) -> Document:
    """A document of at most `length` tokens with questions at its end.

    Args:
        rng: Source of randomness.
        length: Longest sequence, in tokens.
        num_questions: How many needles are asked for, at most; fewer if they do not fit.
        num_needles: How many nouns occur once.
        chat: Whether it is a conversation in ChatML.
        choice_share: How many of the questions are multiple-choice.
        notes_share: How many documents are notes, lines of four words.
    """
    facts = random_facts(rng, num_needles)
    questions = make_questions(rng, facts[:num_questions], chat=chat, choice_share=choice_share)
    start = _SYSTEM if chat else []
    room = length - len(start) - 7 * num_needles
    while len(questions) > 1 and sum(len(q.prompt) + 6 for q in questions) > room:
        questions.pop()
    budget = length - len(start) - sum(len(q.prompt) + 6 for q in questions)
    notes = rng.random() < notes_share
    lines = _lines(rng, facts, budget=max(budget - 4, 7 * num_needles), notes=notes)
    while len(lines) > num_needles and sum(map(len, lines)) > budget:
        lines.pop(rng.randrange(len(lines)))
    # Popping may have removed a fact; only what is still there is asked.
    ids = [*start, *(token for line in lines for token in line)]
    present = set(ids)
    kept = [
        question for question, fact in zip(questions, facts, strict=False) if fact.noun in present
    ]
    document = append_questions(ids, kept, chat=chat)
    if len(document.ids) > length:
        positions = [p for p in document.positions if p + 1 < length]
        document = Document(document.ids[:length], positions)
    return document
