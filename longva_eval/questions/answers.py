r"""Reading a multiple-choice answer: a letter, or no answer. Never a guess.

Models answer `B`, `(b)`, `**B**`, `B. red`, `{"answer": "B"}`, `\boxed{B}`, `Best answer: C`,
`The answer is B because A is wrong`, `答案是B`, or the option's text alone. What is not clearly one
option is no answer, which is counted as wrong and shown as such.

What counts, in this order:

1. only what is said after the thinking, before the next question;
2. what is marked as the answer: `<answer>`, `\boxed`, a JSON field;
3. a letter alone, or the text of one option alone;
4. a statement (`the answer is C`) and a letter that leads (`C. Nothing`); if they contradict each
   other, only a concluding statement (`so the answer is ...`) counts;
5. a verdict in passing (`I think it is C`, `(B) is correct`), if there is only one.

A letter that is an ordinary word is not an answer: `A man walks in` is not A, `vitamin C` is not C.
Letters that are negated (`not A`), joined (`A or B`) or contradict the text beside them (`B. red`
where red is A) are none either. Where options are themselves letters, a letter is an option's name.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence

__all__ = ["read_choice"]

_SEVERAL = "?"
"""Stands for: letters were given, but not exactly one option."""

_NEARBY = 300
"""Characters around a letter that are looked at to understand it."""

_WRAPPING = " \t\r\n*_`\"'\u201c\u201d\u2018\u2019()[]{}<>.,:;!?$\\#=~-\u2013\u2014"
_PUNCTUATION = str.maketrans(
    "\u3002\uff0c\u3001\uff1b\uff1a\uff01\uff1f「」『』【】《》\u3000", '.,,;:!?""""[]<> '
)
_THINKING = r"think|thinking|thought|thoughts|reasoning|reason|analysis|scratchpad"
_NEXT_QUESTION = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|end)\|>|</s>|\n\s*(?:question|q|human|user)\s*\d*\s*:",
    re.IGNORECASE,
)
_FIELDS = (
    r"final[_ ]?answer|correct[_ ]?answer|best[_ ]?answer|answer|correct[_ ]?option|option|"
    r"correct[_ ]?choice|choice|selected[_ ]?option|selection|prediction|letter"
)
_JSON_FIELD = re.compile(
    rf"[\"'](?:{_FIELDS})[\"']\s*:\s*(?:\[\s*)?(\"[^\"]*\"|'[^']*'|[A-Za-z])\s*[,}}\]]",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"\b(?:so|thus|hence|therefore|wait|actually|finally|final|correction|sorry|in\s+conclusion|"
    r"conclusion|consequently|overall|in\s+summary|but)\b|所以|因此|综上|最终|故",
    re.IGNORECASE,
)
_OPENING = r"[\s(\[{*_\"'`$\\<]{0,8}(?:(?:boxed|text|textbf|mathrm|mathbf)\{[\s(\[{*_]{0,4}){0,2}"
_END = r"(?![A-Za-z0-9+#]|['\u2019.\-&]\w)"
_LETTER = rf"(?<![A-Za-z]['\u2019])(?P<letter>[A-Za-z]){_END}"
_NOUN = r"answer|option|choice|response|solution|selection"
_FILLER = (
    rf"(?:\s|[:=*_]|\s-|\b(?:is|are|was|be|would|should|must|could|may|might|will|to|that|clearly|"
    rf"probably|likely|most|definitely|certainly|therefore|thus|indeed|simply|just|still|surely|"
    rf"obviously|the|letter|final|correct|best|right|{_NOUN}|"
    r"(?:to|for)\s+(?:the|this|your)\s+(?:\w+\s+)?(?:question|problem))\b)"
)
_STATEMENT = re.compile(
    rf"(?:\b(?:{_NOUN}|ans)\b\.?(?P<says>{_FILLER}{{0,12}})"
    r"|(?:正确)?(?:答案|选项)(?:应该|应)?[是为选:\s]*|(?<!不)(?<!没)选(?:择)?\s*:?"
    r"|(?:答えは|正解は|答え:|正解:)|(?:정답은|정답:|정답|답은|답:)"
    r"|\brespuesta\s+(?:correcta\s+)?(?:es|:)|\br[eé]ponse\s+(?:correcte\s+)?(?:est|:)"
    r"|\bantwort\s+(?:ist|lautet|:)|\b\u043e\u0442\u0432\u0435\u0442\s*[:\-]?)"
    rf"{_OPENING}{_LETTER}",
    re.IGNORECASE,
)
_SAYS_TEXT = re.compile(
    rf"\b(?:{_NOUN})\b\s*(?:is|would\s+be|must\s+be|should\s+be|:)\s*(?P<text>[^\n]+)",
    re.IGNORECASE,
)
_IS_SURE = (
    r"definitely|probably|clearly|likely|most\s+likely|surely|perhaps|maybe|certainly|obviously|so|"
    r"thus|hence|therefore|okay|ok|sure|finally|actually"
)
_VERDICT = re.compile(
    r"\b(?:it\s+is|it's|it\u2019s|it\s+must\s+be|it\s+should\s+be|it\s+would\s+be|that\s+is|"
    r"must\s+be|i\s+think|i\s+believe|i\s+guess|i(?:'d|\u2019d|\s+would)\s+(?:say|guess)|"
    r"(?:choose|chose|pick|picked|select|selected|selecting|go\s+with|going\s+with|guess\s+is|"
    r"settle\s+on|opt\s+for|vote\s+for))"
    r"(?:\s+(?:that|it's|it|is|the|option|choice|answer|letter|probably|definitely|most|likely))"
    r"{0,6}"
    rf"\s*:?\s*{_OPENING}{_LETTER}"
    rf"|^\W{{0,8}}(?:(?:{_IS_SURE})\W{{1,4}}){{1,4}}{_OPENING}"
    rf"{_LETTER.replace('<letter>', '<sure>')}\W{{0,8}}$"
    r"|(?:^|[.,;:!?\n]|\b(?:so|thus|hence|therefore|that|think|believe|and|but)\b)\W{0,4}"
    r"(?:the\s+)?(?:option\s+|choice\s+|answer\s+|letter\s+)?"
    rf"{_OPENING}{_LETTER.replace('<letter>', '<subject>')}[\s)\]*_\"'`]*\s+"
    r"(?:is|seems|looks|would\s+be|must\s+be|appears\s+to\s+be)\s+"
    r"(?:clearly\s+|definitely\s+|probably\s+|likely\s+|most\s+)*(?:the\s+)?"
    r"(?:most\s+)?(?:correct|right|best|true|accurate|likely|answer|appropriate|suitable)\b"
    rf"|\({_LETTER.replace('<letter>', '<round>')}\)"
    rf"|\*\*\(?{_LETTER.replace('<letter>', '<bold>')}[).:]?(?=\*\*|[\s.:)])",
    re.IGNORECASE,
)
_LEADING = re.compile(
    r"^[\s*_`\"'\[{(<#]*(?:(?:the\s+)?(?:option|choice|letter)\s+)?[*_`\"'\[{(]*"
    r"(?P<letter>[A-Za-z])"
    r"(?P<close>[)\]}*_`\"']*(?:[):\]]|[.,;](?![A-Za-z0-9])|\s*\n|\s+[-\u2013\u2014=]\s|\s*$))",
    re.IGNORECASE,
)
_BECAUSE = r"(?:because|since|as|due|for|is|and|or|but|not|which|where|based|given|from|with|if)\b"
_NEGATION = re.compile(
    r"\b(?:not|never|neither|nor|cannot|can't|isn't|wasn't|don't|doesn't|didn't|won't|aren't|"
    r"hardly|rather\s+than|instead\s+of|except|excluding|exclude|eliminate|wrong|incorrect|"
    r"unlikely|n[o']t|no)\b|不|没|非|排除|错误",
    re.IGNORECASE,
)
_IS_REJECTED = re.compile(
    r"^[\s)\]*_\"'`.]*(?:is|are|was|seems|looks|can|could|must|should|would)?\s*(?:be\s+)?"
    r"(?:clearly\s+|definitely\s+|also\s+|probably\s+)*"
    r"(?:(?:not|wrong|incorrect|false|impossible|unlikely|ruled\s+out|eliminated|excluded|"
    r"cannot|can't|isn't|doesn't|does\s+not|do\s+not)\b|错误|不)",
    re.IGNORECASE,
)


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
    plain = [_plain(option, letter) for letter, option in zip(letters, options, strict=True)]
    found = _read(_what_counts(_normal(text)), letters, plain)
    return found if found in letters else None


def _read(
    said: str, letters: Sequence[str], options: Sequence[str], *, depth: int = 0
) -> str | None:
    """A letter, `_SEVERAL`, or None for nothing that looks like a choice."""
    bare = said.strip(_WRAPPING)
    if len(bare) == 1 and bare.isascii() and bare.isalpha():
        return bare.upper()
    marked = _marked(said) if depth < 3 else None
    if marked is not None:
        readings = {_read(part, letters, options, depth=depth + 1) for part in marked}
        return readings.pop() if len(readings) == 1 else _SEVERAL
    alone = _by_text(said, letters, options)
    if alone is not None:
        return alone
    stated, is_concluded = _stated(said, letters, options)
    leading = _leading(said, letters, options)
    if stated is not None and leading not in (None, stated):
        return stated if is_concluded else _SEVERAL
    if stated is not None or leading is not None:
        return stated or leading
    first_line = said.strip().split("\n", 1)[0]
    return _by_text(first_line, letters, options) or _verdict(said, options)


def _normal(text: str) -> str:
    """Full-width letters and punctuation as ASCII has them; endless repeats shortened."""
    text = unicodedata.normalize("NFKC", text.translate(_PUNCTUATION)).translate(_PUNCTUATION)
    text = re.sub(r"[^\S\n]+", " ", text)
    # A model that is stuck says the same for ever, and patterns would look at it in every way.
    return re.sub(r"([\W_])\1{3,}", r"\1\1\1", text)


def _what_counts(said: str) -> str:
    """What is said after the thinking; nothing if the thinking has no end."""
    closings = list(re.finditer(rf"</\s*(?:{_THINKING})\s*>", said, re.IGNORECASE))
    if closings:
        said = said[closings[-1].end() :]
    opening = re.search(rf"<\s*(?:{_THINKING})\s*>", said, re.IGNORECASE)
    if opening is not None:
        said = said[: opening.start()]
    following = _NEXT_QUESTION.search(said)
    if following is not None and said[: following.start()].strip():
        said = said[: following.start()]
    return said


def _marked(said: str) -> list[str] | None:
    """What stands where an answer is marked as one; None if nothing is."""
    _, tag, inside = re.sub(r"(?i)<(/?)answer>", r"<\1answer>", said).rpartition("<answer>")
    if tag:
        return [inside.partition("</answer>")[0]]
    boxed = re.findall(
        r"boxed\s?\{([^{}]{0,300}(?:\{[^{}]{0,300}\}[^{}]{0,300})?)\}", said, re.IGNORECASE
    )
    if boxed:
        return [re.sub(r"\\?(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", b) for b in boxed]
    inside = re.sub(r"^\s*```\w*\s*|\s*```\s*$", "", said).strip()
    if inside[:1] in ("{", "["):
        fields = _json_answers(inside)
        if fields is not None:
            return fields
    fields = [match[1].strip("\"'") for match in _JSON_FIELD.finditer(said)]
    return fields or None


def _json_answers(text: str) -> list[str] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list):
        return [part for part in value if isinstance(part, str)] or None
    if not isinstance(value, dict):
        return None
    found: list[str] = []
    for name, part in value.items():
        if re.fullmatch(_FIELDS, name.strip(), re.IGNORECASE):
            parts = part if isinstance(part, list) else [part]
            found += [str(one) for one in parts if isinstance(one, (str, int, float))]
    return found or None


def _by_text(said: str, letters: Sequence[str], options: Sequence[str]) -> str | None:
    """The one option whose text this is."""
    spoken = {_plain(said, "")} - {""}
    found = [letter for letter, option in zip(letters, options, strict=True) if option in spoken]
    return found[0] if len(found) == 1 else None


def _stated(said: str, letters: Sequence[str], options: Sequence[str]) -> tuple[str | None, bool]:
    """The letter that is said to be the answer, and whether that concludes what was said."""
    found: list[tuple[int, str, bool]] = []
    mentioned = set(re.findall(rf"\b(?i:{_NOUN})\s+\(?([A-Z])(?![A-Za-z0-9])", said))
    for match in _STATEMENT.finditer(said):
        start, end = match.start("letter"), match.end("letter")
        letter = match["letter"]
        sentence = re.split(r"[.!?\n]", _before(said, match.start()))[-1]
        says = match["says"] if match["says"] is not None else "is"
        is_mention = not says.strip(" *_") and match[0][0].isascii()
        if is_mention and (len(mentioned) > 1 or letter == "a"):
            continue  # "option A first, then option B"; "the option a person would take"
        rest = _after(said, end)
        if _is_negated(_before(said, start)) or re.search(r"\bif\b", sentence, re.IGNORECASE):
            continue
        if _IS_REJECTED.match(rest) or _is_word(letter, rest, options, said):
            continue
        concludes = bool(_CONCLUDES.search(sentence + match[0]))
        found.append((start, _joined(letter, rest), concludes))
    for match in _SAYS_TEXT.finditer(said):
        letter_of_text = None
        for part in (match["text"], re.split(r"[.;!]", match["text"], maxsplit=1)[0]):
            letter_of_text = letter_of_text or _by_text(part, letters, options)
        if letter_of_text is None or _is_negated(_before(said, match.start("text"))):
            continue
        found = [item for item in found if not match.start() <= item[0] < match.end()]
        found.append((match.start("text"), letter_of_text, False))
    if not found:
        return None, False
    found.sort()
    last = found[-1][1]
    agree = len({letter for _, letter, _ in found}) == 1
    is_concluded = found[-1][2]
    return (last if agree or is_concluded else _SEVERAL), is_concluded


def _leading(said: str, letters: Sequence[str], options: Sequence[str]) -> str | None:
    """`B.`, `(b)`, `**B**: red`, `B` on a line of its own, at the start."""
    several = re.match(r"\W*([A-Z])\W*(?:,|and|or|&|/)\W*([A-Z])\b(?!['\u2019]|\s+[a-z])", said)
    if several and {several[1], several[2]} <= set(letters) and several[1] != several[2]:
        return _SEVERAL
    because = re.match(r"\W*([A-Z])\s+(?:because|since)\b", said)
    if because is not None:
        return because[1]
    match = _LEADING.match(said)
    if match is None:
        glued = re.match(r"\W*([A-Z])\.(.+)$", said.strip())  # "B.A blue boat"
        own = glued is not None and _by_text(glued[2], letters, options) == glued[1]
        return glued[1] if glued is not None and own else None
    letter, close = match["letter"], match["close"]
    rest = said[match.end() :]
    is_bracketed = ")" in close or "]" in close
    if letter.islower() and not is_bracketed and not re.match(r"[*_`]*[.:]", close):
        return None
    if letter == "I" and "," in close:
        return None
    if _IS_REJECTED.match(rest):
        return None
    letter = letter.upper()
    others = re.findall(r"\n[\s*_\-(]*([A-Z])(?:[.):]\s|\s*(?=\n|$))", said)
    others += re.findall(r"(?:,|\band|\bor|&)\s+\(?([A-Z])[.):](?!\w)", rest)
    if any(other != letter and other in letters for other in others):
        return _SEVERAL
    line = rest.strip().split("\n", 1)[0].strip(_WRAPPING)
    if len(line) == 1 and line.isascii() and line.isalpha() and line.upper() != letter:
        return _SEVERAL
    beside = _by_text(line, letters, options)
    if letter in letters and options[letters.index(letter)] == _plain(line, ""):
        beside = letter
    return letter if beside in (None, letter) else _SEVERAL


def _verdict(said: str, options: Sequence[str]) -> str | None:
    """The one letter that is chosen in passing, as in `I think it is C`."""
    found = set()
    for match in _VERDICT.finditer(said):
        name = match.lastgroup or "letter"
        letter, start, end = match[name], match.start(name), match.end(name)
        is_bracketed = said[start - 1 : start] in ("(", "[")
        if letter.islower() and name in ("letter", "subject", "bold") and not is_bracketed:
            continue
        rest = _after(said, end)
        if _is_negated(_before(said, start)) or _IS_REJECTED.match(rest):
            continue
        if name in ("letter", "bold") and _is_word(letter, rest, options, said):
            continue
        found.add(_joined(letter, rest))
    if len(found) > 1:
        return _SEVERAL
    return found.pop() if found else None


def _joined(letter: str, rest: str) -> str:
    """The letter, or `_SEVERAL` if another one is given with it."""
    also = re.match(
        r"[\s,*)\]]*(?:and|or|&|,|/|和|或|与)[\s*(\[]*(?:option\s+|or\s+|and\s+)?[(*]*([A-Z])"
        r"(?![A-Za-z0-9'\u2019])(?!\s+(?:is|was|are|does|has|cannot|can't)\b)",
        rest,
    )
    return _SEVERAL if also is not None and also[1] != letter.upper() else letter.upper()


def _is_word(letter: str, rest: str, options: Sequence[str], said: str) -> bool:
    """Whether the letter is the article, the pronoun, or part of a name that an option has."""
    following = re.match(r"[ \t]+([A-Za-z]\w*)", rest)
    if letter == "a" and not rest:
        # "The answer is a", cut off behind the article; "Answer: a" is short enough to be meant.
        return len(said.split()) > 6
    if following is None:
        return False
    if letter in "aAI" and not re.match(_BECAUSE, following[1]):
        return True
    phrase = f"{letter} {following[1]}".casefold()
    return any(re.search(rf"(?<!\w){re.escape(phrase)}\b", option) for option in options)


def _before(said: str, place: int) -> str:
    return said[max(0, place - _NEARBY) : place]


def _after(said: str, place: int) -> str:
    return said[place : place + _NEARBY]


def _is_negated(before: str) -> bool:
    """Whether the clause that leads to a letter denies it."""
    clause = re.split(r"[.,;:!?\n]|\bbut\b|\bso\b", before.rstrip(" (*\"'`[:"))[-1]
    return bool(_NEGATION.search(clause))


def _plain(text: str, letter: str) -> str:
    """A text without its option letter, case and closing punctuation."""
    text = _normal(text)
    if letter:
        text = re.sub(rf"^\s*\(?{letter}\s*[.):]\s*", "", text)
    return re.sub(r"\s+", " ", text).strip(_WRAPPING).casefold()
