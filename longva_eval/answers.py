"""Reading a multiple-choice answer: a letter, or no answer. Never a guess.

Models answer `B`, `(b)`, `**B**`, `B. red`, `Best answer: C`, `The answer is B because A is wrong`,
or the option's text alone. What is not clearly one option is no answer, which is counted as wrong
and shown as such. A letter that is an ordinary word is not an answer: `A man walks in` is not A.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["read_choice"]

_LEAD = r"(?i:answer|option|choice|response|solution)"
_SAYS = re.compile(
    rf"\b{_LEAD}s?\b\s*(?:is|are|would\s+be|should\s+be|must\s+be|:|=|-)*\s*"
    rf"(?:clearly|probably|most\s+likely|definitely|therefore|{_LEAD}|letter|:|\s)*"
    r"[\s(\[*\"'`_$\\{]*(?:text\{|boxed\{)?([A-Za-z])(?![A-Za-z0-9'\u2019])"
)
_NEGATED = re.compile(
    r"\b(?:not|isn't|isn\u2019t|never|neither|nor)\W+(?:\w+\W+){0,2}$", re.IGNORECASE
)
_WRAPPING = " \t\r\n*_`\"'\u201c\u201d\u2018\u2019()[]{}<>.,:;!$\\"


def read_choice(text: str, options: Sequence[str]) -> str | None:
    """The option that an answer chooses.

    Args:
        text: What the model said.
        options: The options' texts in order, with or without their letters (`A. red` or `red`).

    Returns:
        `A`, `B`, ..., one of the options' letters; None if the text chooses none, or several.

    Raises:
        ValueError: If there are no options, or more than there are letters.
    """
    if not 1 <= len(options) <= 26:
        raise ValueError(f"A choice has 1 to 26 options, not {len(options)}.")
    letters = [chr(ord("A") + number) for number in range(len(options))]
    said = text.strip()
    bare = said.strip(_WRAPPING)
    if len(bare) == 1 and bare.isalpha():
        return _known(bare.upper(), letters)
    for reading in (_leading_letter, _stated_letter):
        found = reading(said, letters)
        if found is not None:
            return found if found in letters else None
    by_text = [
        letter
        for letter, option in zip(letters, options, strict=True)
        if _plain(option, letter) == _plain(said, letter)
    ]
    if len(by_text) == 1:
        return by_text[0]
    return _only_letter(said, letters)


def _known(letter: str, letters: Sequence[str]) -> str | None:
    return letter if letter in letters else None


def _leading_letter(said: str, letters: Sequence[str]) -> str | None:
    """`B.`, `B)`, `(b)`, `**B**: red`, `B` on a line of its own; `?` stands for several letters."""
    several = re.match(r"\W*([A-Z])\W*(?:,|and|or|&|/)\W*([A-Z])\b(?!')", said)
    if several and {several[1], several[2]} <= set(letters) and several[1] != several[2]:
        return "?"
    match = re.match(r"[\s*_`\"'\[{]*\(?([A-Z])\)?[*_`\"'\]}]*(?:[.):,]|\s*\n|\s+-\s)(?!\w)", said)
    if match is None:
        match = re.match(r"[\s*_`\"']*\(?([A-Za-z])\)", said)
    return match[1].upper() if match else None


def _stated_letter(said: str, letters: Sequence[str]) -> str | None:
    """The last letter that is said to be the answer, as in `so the answer is C`."""
    found: list[str] = []
    for match in _SAYS.finditer(said):
        letter = match[1]
        rest = said[match.end() :]
        # "The answer is a red car": an article, not the first option.
        is_word = letter in "aI" or (letter == "A" and re.match(r"\s+[a-z]", rest))
        if is_word and not re.match(r"\s+(?:because|since|as|for|is|and|\()", rest):
            continue
        if not _NEGATED.search(said[: match.start(1)].rstrip("(*\"'` ") + " "):
            also = re.match(r"[\s,*)\]]*(?:and|or|&|,|/)[\s*(\[]*([A-Z])(?![A-Za-z0-9'])", rest)
            several = also is not None and also[1] in letters and also[1] != letter.upper()
            found.append("?" if several else letter.upper())
    if found and found[-1] == "?":
        return "?"
    return found[-1] if found and found[-1] in letters else None


def _only_letter(said: str, letters: Sequence[str]) -> str | None:
    """The one capital that stands alone, if there is no other; an article or pronoun is none."""
    found = set()
    for match in re.finditer(r"(?<![A-Za-z0-9'\u2019])([A-Z])(?![A-Za-z0-9'\u2019])", said):
        is_word = match[1] in "AI" and re.match(r"\s+[A-Za-z]", said[match.end() :])
        is_negated = _NEGATED.search(said[: match.start()])
        if match[1] in letters and not is_word and not is_negated:
            found.add(match[1])
    return found.pop() if len(found) == 1 else None


def _plain(text: str, letter: str) -> str:
    """A text without its option letter, case and closing punctuation."""
    text = re.sub(rf"^\s*\(?{letter}[.):]\s*", "", text)
    return re.sub(r"\s+", " ", text).strip(_WRAPPING).casefold()
