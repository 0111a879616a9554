"""How the boards read answers: their own rules, quirks and all, beside ours.

Each function here gives what an official script gives for the same text, so that a submission can
show the board's number beside ours and say where the two part. None of it is used for our own
scores (`longva_eval.questions.answers`). Where an official script draws an option at random, the
function gives None. Compared with the scripts on thousands of answers in
`tests/reports/test_official.py`.

Sources, with the commits they were compared at:

    Video-MME        thanku-all/parse_answer:eval_your_results.py @ afd52cf, which the board names
    MMMU             MMMU-Benchmark/MMMU:mmmu/utils/eval_utils.py @ bb0b95a
    MLVU             JUNJIE99/MLVU:evaluation_test/test_bench.py and
                     evaluation/multiple_choice_evaluation/choice_bench.py @ fd060c1
    LongVideoBench   the rule of the paper's author in lmms-eval 0.7.3,
                     tasks/longvideobench/utils.py; the board's own code is not public
    LVBench          THUDM/LVBench:lvbench/utils/answer_util.py @ f998d95

No torch, no lmms-eval.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

__all__ = [
    "VIDEOMME_DOMAINS",
    "VIDEOMME_DURATIONS",
    "VIDEOMME_SUB_CATEGORIES",
    "VIDEOMME_TASK_TYPES",
    "Tally",
    "longvideobench_letter",
    "lvbench_letter",
    "mlvu_dev_is_right",
    "mlvu_option",
    "mmmu_letter",
    "mmmu_open_is_right",
    "videomme_letter",
    "videomme_tally",
]

VIDEOMME_DURATIONS: Final = ("short", "medium", "long")
VIDEOMME_DOMAINS: Final = (
    "Knowledge", "Film & Television", "Sports Competition", "Artistic Performance", "Life Record",
    "Multilingual",
)  # fmt: skip
VIDEOMME_SUB_CATEGORIES: Final = (
    "Humanity & History", "Literature & Art", "Biology & Medicine", "Finance & Commerce",
    "Astronomy", "Geography", "Law", "Life Tip", "Technology", "Animation", "Movie & TV Show",
    "Documentary", "News Report", "Esports", "Basketball", "Football", "Athletics", "Other Sports",
    "Stage Play", "Magic Show", "Variety Show", "Acrobatics", "Handicraft", "Food", "Fashion",
    "Daily Life", "Travel", "Pet & Animal", "Exercise", "Multilingual",
)  # fmt: skip
VIDEOMME_TASK_TYPES: Final = (
    "Temporal Perception", "Spatial Perception", "Attribute Perception", "Action Recognition",
    "Object Recognition", "OCR Problems", "Counting Problem", "Temporal Reasoning",
    "Spatial Reasoning", "Action Reasoning", "Object Reasoning", "Information Synopsis",
)  # fmt: skip

# Two pairs lack a comma in the official list and are one prefix each, which no answer begins with.
_VIDEOMME_PREFIXES: Final = (
    "The best answer is", "The correct answer is", "The answer is", "The answer",
    "The best option isThe correct option is", "Best answer:Best option:", "Answer:", "Option:",
    "The correct answer", "The correct option",
)  # fmt: skip
_LONGVIDEOBENCH_PREFIXES: Final = (
    "The best answer is", "The correct answer is", "The answer is", "The answer",
    "The best option is", "The correct option is", "Best answer:", "Best option:",
)  # fmt: skip


class Tally(NamedTuple):
    """Right answers, and answers that count."""

    num_right: int
    num_counted: int

    @property
    def percent(self) -> float:
        """The official score: of nothing it is 0."""
        return 100 * self.num_right / self.num_counted if self.num_counted else 0.0


def videomme_letter(response: str, letters: str = "ABCD") -> str | None:
    """The letter Video-MME's script reads: the first capital A to D that is left anywhere.

    `Based on the video, the answer is C` is B; `Cannot determine` is C; `c.` is no answer.
    """
    return _first_capital(response, _VIDEOMME_PREFIXES, f"[{letters}]")


def videomme_tally(questions: Iterable[tuple[str, str]]) -> Tally:
    """Video-MME's count: what has no letter leaves the denominator.

    Args:
        questions: Response and right letter of each.
    """
    num_right = num_counted = 0
    for response, answer in questions:
        letter = videomme_letter(response)
        num_counted += letter is not None
        num_right += letter == answer
    return Tally(num_right, num_counted)


def longvideobench_letter(response: str) -> str | None:
    """The letter LongVideoBench's rule reads: the first capital A to E anywhere; else at random.

    It may be a letter that the question has no option for, and is then wrong.
    """
    return _first_capital(response, _LONGVIDEOBENCH_PREFIXES, "[ABCDE]")


def lvbench_letter(response: str) -> str:
    """The one character LVBench's script keeps; empty for an empty answer.

    Of what stands before the first `)` the part behind the first `(`, and of that the first
    character: `The answer is C` is T.
    """
    text = response.strip().split(")")[0].strip()
    if "(" in text:
        text = text.split("(")[1].strip()
    return text.split(" ")[0][:1]


def mlvu_option(response: str) -> str:
    """What MLVU's script for the test set hands in: the answer up to its first `)`.

    The prompt ends with `Best Option: (`, so `B) A dog` is B; `(B) A dog` is `(B`, and wrong.
    """
    return response.strip().partition(")")[0].strip()


def mlvu_dev_is_right(response: str, answer: str) -> bool:
    """MLVU's check on the dev set: the one character before the first `)`, else all of the text."""
    before, bracket, _ = response.partition(")")
    return (before[-1:] if bracket else response) == answer


def mmmu_letter(response: str, options: Mapping[str, str]) -> str | None:
    """The letter MMMU's script reads of a multiple-choice answer; None where it draws one.

    The last `(B)`; else the last B with a space on either side; else, of more than five words, the
    option whose text comes last.

    Args:
        response: What the model said.
        options: Letter -> text, in order.
    """
    text = response
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for form in ("({})", " {} "):
        places = {letter: text.rfind(form.format(letter)) for letter in options}
        found = _last(places)
        if found is not None:
            return found
    if len(text.split()) > 5:
        said = text.lower()
        return _last({letter: said.rfind(each.lower()) for letter, each in options.items()})
    return None


def mmmu_open_is_right(response: str, answers: Sequence[str]) -> bool:
    """Whether MMMU's script takes an open answer for right.

    What follows `is`, `so`, `=` and the like, and every number in it, is compared: numbers rounded
    to two places, texts as a part of what was said.
    """
    right = [form for answer in answers for form in _normalized(answer)]
    for said in _open_candidates(response):
        for form in _normalized(said):
            if isinstance(form, float):
                if form in right:
                    return True
            elif any(isinstance(each, str) and each in form for each in right):
                return True
    return False


def _first_capital(response: str, prefixes: Sequence[str], letters: str) -> str | None:
    text = response.strip()
    for prefix in prefixes:
        text = text.replace(prefix, "")
    found = re.search(letters, text)
    return found[0] if found else None


def _last(places: Mapping[str, int]) -> str | None:
    """The letter that comes last, of several at one place the first; None if none is there."""
    there = {letter: place for letter, place in places.items() if place >= 0}
    return max(there, key=lambda letter: there[letter]) if there else None


_TRIVIAL: Final = {":", ",", ".", "!", "?", ";", "'"}
_BEFORE_ANSWERS: Final = (
    "could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ",
)  # fmt: skip
_NUMBERS: Final = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,234,567
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.5e3
    # Neither in front of an exponent nor of a comma or digit: a part of the two above.
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def _open_candidates(response: str) -> list[str]:
    """What is taken for the answer: the shortest tail of each line, and the numbers in them."""
    text = response.strip().strip(".").lower()
    # The script splits at sentences too, before a capital, of which none is left in lower case.
    lines = text.split("\n")
    tails = []
    for number, line in enumerate(lines, 1):
        shortest = ""
        for before in (*_BEFORE_ANSWERS, *(("=",) if number == len(lines) else ())):
            if before in line:
                tail = line.split(before)[-1].strip()
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in _TRIVIAL:
            tails.append(shortest)
    tails = tails or [text]
    return [*tails, *(found for tail in tails for form in _NUMBERS for found in form.findall(tail))]


def _normalized(text: str) -> list[str | float]:
    """A number to two places, else lower case; a single letter with a space on one side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]
