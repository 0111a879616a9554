"""How other harnesses read a multiple-choice answer, quirks and all; not for our scores.

Our own words, compared with the harnesses' functions on 10,000 generated answers each
(`tests/reports/test_rules.py`):

    lmms-eval 0.7.3   tasks/_task_utils/mcq_extract.py (Video-MME, MLVU, LVBench);
                      tasks/_task_utils/mmmu_mcq_utils.py, tasks/nextqa/utils.py (MMMU, NExT-QA)
    VLMEvalKit        vlmeval/dataset/utils/{videomme,longvideobench,mlvu}.py and
                      vlmeval/utils/matching_util.py, with `exact_matching` in place of a judge:
                      @ c44bc601 (2026-05-15) and @ a67ace50 (2026-06-17, #1552)

VLMEvalKit's #1560 (2026-06-17) mended the list of prefixes in `utils/multiple_choice.py`; the
copies that Video-MME and LongVideoBench use still lacked the commas on 2026-08-18.

No torch, no lmms-eval.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["host_letter", "host_mmmu_letter", "vlmevalkit_infer", "vlmevalkit_mlvu_letter"]

_BEFORE_ANSWERS: Final = (
    "the answer is", "answer is", "the correct answer is", "correct answer is",
    "the best answer is", "best answer is", "the correct option is", "correct option is",
    "the best option is", "best option is", "the choice is", "choice is",
    "the correct choice is", "correct choice is", "i choose", "i select", "i pick",
    "my answer is", "my choice is", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选",
    "答えは",
)  # fmt: skip
_AROUND: Final = (("(", ")", 6), ("", ".", 5), ("", ":", 4), ("", ")", 3), ("", " ", 2))
"""What stands before and behind a letter, and how much that counts."""
_REFUSALS: Final = (
    "Sorry, I can't help with images of people yet.", "I can't process this file.",
    "I'm sorry, but without the image provided", "Cannot determine the answer",
)  # fmt: skip


def host_letter(text: str) -> str | None:
    """The letter, A to D, that lmms-eval's shared rule reads; None if the text holds none of them.

    The surest form wins: at the start, at the end, behind a phrase such as "the answer is" (the
    *last-placed first capital* behind any of them, also within a word), `(A)`, `A.`, `A:`, `A)`,
    `A `; of equal ones the last, of letters at one place the first. Else the last capital anywhere.
    """
    if not text.strip():
        return None
    inner = text.strip()
    for mark in ",.!?;:'\"":
        inner = inner.strip(mark)
    said = f" {inner} "
    alone, lower = said.strip(), said.lower()
    behind = [found + len(p) for p in _BEFORE_ANSWERS if (found := lower.find(p)) >= 0]
    best: tuple[int, int] | None = None
    letter = None
    for rank, each, place in _places(said, alone, behind):
        if best is None or (rank, place) > best:
            best, letter = (rank, place), each
    return letter


def _places(said: str, alone: str, behind: list[int]) -> list[tuple[int, str, int]]:
    found = []
    letters = "ABCD"
    for before, after, rank in _AROUND:
        found += [
            (rank, each, place)
            for each in letters
            if (place := said.rfind(before + each + after)) >= 0
        ]
    for start in behind:
        found += [(7, each, place) for each in letters if (place := said.find(each, start)) >= 0]
    for each in letters:
        if alone.startswith(each) and not alone[1:2].isalpha():
            found.append((10, each, 0))
    for each in letters:
        if alone.endswith(each) and not alone[-2:-1].isalpha():
            found.append((9, each, len(said) - 1))
    if not found:
        found = [(0, each, place) for each in letters if (place := said.rfind(each)) >= 0]
    return found


def host_mmmu_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter that lmms-eval reads in MMMU and NExT-QA; None where it draws one.

    The last `(B)`. Else, of the letters that stand before a space (also as the end of a word), the
    one that stands alone last. Else `B.`. Else, of more than five words, the option named last.
    """
    for mark in ",.!?;:'":
        text = text.strip(mark)
    said = f" {text} "
    lower = said.lower()
    forms = [("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")]
    for there, where in forms:
        named = [letter for letter in options if there.format(letter) in said]
        if named:
            return max(named, key=lambda letter: said.rfind(where.format(letter)))
    if len(said.split()) <= 5:
        return None
    named = [letter for letter, option in options.items() if option.lower() in lower]
    return max(named, key=lambda n: lower.rfind(options[n].lower())) if named else None


def vlmevalkit_infer(text: str, options: Mapping[str, str], *, verbose: bool) -> str | None:
    """The option that VLMEvalKit's exact matching infers; None where it gives up.

    A letter that is the only one among the words, and one of the last five; else, from 2026-06-17
    on (`verbose`), A to D behind the first "answer is", of either case; else the only option whose
    text is in an answer of at most twice the length of all options.
    """
    if "Failed to obtain answer via API" not in text:
        if any(refusal in text for refusal in _REFUSALS):
            return None
        words = re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()
        named = [letter for letter in options if letter in words]
        if len(named) == 1 and words.index(named[0]) > len(words) - 5:
            return named[0]
        if not named and "Z" in words:
            return None
        said = re.search(r"(?i)answer\s+is\s+\**([ABCD])", text) if verbose else None
        if said and said[1].upper() in options:
            return said[1].upper()
    lower = text.lower()
    if len(lower) > 2 * sum(map(len, options.values())):
        return None
    named = [letter for letter, option in options.items() if option.lower() in lower]
    return named[0] if len(named) == 1 else None


def vlmevalkit_mlvu_letter(
    text: str, options: Mapping[str, str], answer: str, *, verbose: bool
) -> str | None:
    """The letter VLMEvalKit reads in MLVU: the right one if either of two readings gives it.

    The character before the first `)`, or all of the text; else what exact matching infers.
    """
    first = text.find(")")
    said = text[first - 1 : first] if first >= 0 else text
    if said == answer:
        return answer
    return vlmevalkit_infer(text, options, verbose=verbose)
