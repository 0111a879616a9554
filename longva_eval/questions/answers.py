r"""Reading a multiple-choice answer: a letter, or no answer. Never a guess.

The rules, in the order in which they are applied:

1. Reasoning between known marks is taken off, also if its end is missing; so are control tokens,
   Markdown, LaTeX and invisible characters. `<answer>`, `\boxed` and `{"answer": ...}` become the
   words "answer:" (tables `_REASONING`, `_MARKS`).
2. An option's own text becomes one sign before anything in it is understood: `B. Not shown` denies
   nothing, `Vitamin C` names no letter. A letter beside another option's text contradicts itself.
3. What is only a letter, or only an option's text (as it is written, if options differ in no more
   than that), is the answer.
4. Lines `A. ...`, `B. ...`, `C. ...` list the options; their letters say nothing.
5. The *last explicit conclusion* is the answer: a letter or text behind a known cue ("the answer
   is", in any language of `_CUES`) or behind words that conclude, correct or choose ("so", "wait",
   "I think it is"), in front of everything else, or on a line of its own (`_CONCLUSIONS`).
6. Without one, what is said in passing ("option B", "(B)", "B is right"), if all of it is the same
   option (`_PASSING`).

What is denied, rejected, asked, said under a condition, or an ordinary word (`A man walks in`) is
no conclusion (`_counts`); one that names a second option jointly (`A or B`) is none (`_JOINT`).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["read_choice"]

_TO_SIGN: Final = 0xE000 - ord("A")  # an option's sign is its letter, moved to a private range
_S = "\ue000-\ue01a"
_SEVERAL: Final = "["  # behind Z: options were named, but not exactly one
_NEARBY: Final = 300  # characters around a letter that are looked at to understand it

_THOUGHT = r"(?:\w+:)?(?:think|thinking|thoughts?|reason|reasoning|reflection|analysis|scratchpad)"
_REASONING: Final = (
    (rf"<{_THOUGHT}>", rf"</{_THOUGHT}>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"\u25c1think\u25b7", r"\u25c1/think\u25b7"),
    (r"<\|(?:begin_of_thought|START_THINKING)\|>", r"<\|(?:end_of_thought|END_THINKING)\|>"),
    (r"<unused94>", r"<unused95>"),
    (r"<\|channel\|>\s*(?!final)\w+", r"<\|channel\|>\s*final[^<]*<\|message\|>"),
    (r"\Aanalysis(?=[A-Z])", r"assistantfinal(?=\S)"),
)
_TURN_ENDS: Final = (
    r"<\|(?:im_end|endoftext|end_of_text|eot_id|end|return|end\u2581of\u2581sentence)\|>|</s>|"
    r"<eos>|<end_of_turn>|\n\s*(?:human|user)\s*:"
)
_QUESTION: Final = r"\n\s*(?:question|q)\s*\d*\s*:"
_TAG = r"(?:answer|ans|final[_ ]?answer|final|conclusion|choice)"
_MARKED_END: Final = rf"(?is)<{_TAG}>(?:(?!<{_TAG}>).)*</{_TAG}>\s*\Z"
_MARKS: Final = (
    (rf"(?i)(?:<{_TAG}>|\[ANSWER\]|<\|begin_of_box\|>|\\?boxed\s?\{{)\s*", "\nanswer: "),
    (rf"(?i)\s*</{_TAG}>|\[/ANSWER\]|<\|end_of_box\|>", "\n"),
    (r"<\|(?:im_start|start_header_id|start)\|>\s*\w*|<start_of_turn>\s*\w*", " "),
    (r"<\|[^<>|\s]{1,40}\|>|</?(?:s|bos|eos|pad|unk|response|solution|output)>|\[/?INST\]", " "),
    (r"(?is)<([bius])>(.*?)</\1>", r"\2"),
    (r"(?i)</?(?:em|strong|span|div|p|br|h\d|code|center|mark|li|ul|ol|font)\b[^<>]*>", " "),
    (r"~~[^~\n]*~~|<del>[^<]*</del>", " "),  # struck out
    (r"[\u274c\u2717\u2718\u2716]", " wrong "),
    (r"(?m)^(\W*)[\u2705\u2713\u2714]", r"\1"),
    (
        r"\A([^\u2705\u2713\u2714]*)[\u2705\u2713\u2714]([^\u2705\u2713\u2714]*)\Z",
        r"\1: correct \2",
    ),
    (r"\\n(?![a-z])", "\n"),  # a line break that was written out
    (r"\\(?:text|textbf|textrm|mathrm|mathbf|bf|rm)\s*\{([^{}]*)\}", r"\1"),
    (r"\*\*\s*\(?([A-Z])\)?\s*[.:]?\s*\*\*|<([A-Za-z])>", r"(\1\2)"),  # as brackets
    (r"```\w*|[`*\"\u201c\u201d$]|(?<!\w)(?:_+|['\u2018\u2019])|(?:_+|['\u2018\u2019])(?!\w)", ""),
    (r"\\[()\[\],;! ]|_", " "),
    (r"[\[{]", "("),
    (r"[\]}]", ")"),
    (r"[^\S\n]+", " "),
    # A model that is stuck says the same for ever, and patterns would look at it in every way.
    (r"([\W_])\1{3,}", r"\1\1\1"),
)
_PUNCTUATION = str.maketrans("\u3002\u3001「」『』【】《》", '.,""""[]()')
_EDGES = " \t\n.,:;!?()'#=~-\u2013\u2014\u2022\\"

# What the patterns are made of. `_T` is a sign, or a letter that stands alone; a small one is
# marked (`b.`, `(b)`) or ends the line.
_W = r"A-Za-z0-9\u00c0-\u024f"
_ANY_T = (
    rf"[\s('\\]{{0,6}}(?P<t>[{_S}]|(?<![{_W}]['\u2019])(?<![{_W}])[A-Za-z]"
    rf"(?![{_W}+#]|['\u2019.\-&][A-Za-z0-9]))"
)
_T = rf"{_ANY_T}(?-i:(?<=[A-Z{_S}])|(?=\s?[.:)]|\s*(?m:$)))"
_START = r"(?m:^)[\s(#'>\u2192\u2022-]*(?:(?:the\s+)?(?:option|choice|letter)\s+)?"
_END = (
    rf"(?=[^\w\n:{_S}]*(?:[.,;!?)\n]|\Z)|"
    r"\s+(?:because|since|as|over|rather than|instead of|(?:and )?not)\b)"
)
_NOUN = (
    r"\b(?:answer|option|choice|response|solution|selection|prediction|statement|ans|guess|pick)"
    r"\b\.?"
)
_FREE = rf"(?:(?!(?<![A-Za-z])(?-i:[A-Z])(?![A-Za-z]))[^.!?;\n{_S}]){{0,60}}?"  # names no option
_VERB = (
    r"(?:[:=]>?|-?>|\u2192|\s-\s|['\u2019]s\b|"
    r"\b(?:is|are|was|be|must|should|could|may|might|lies|in)\b)"
)
_FILLER = (
    rf"(?:\s|{_VERB}|{_NOUN}|\b(?:would|will|has|to|that|it|clearly|probably|likely|most|"
    r"definitely|certainly|therefore|thus|indeed|simply|just|actually|instead|still|surely|match|"
    r"obviously|the|letter|final|correct|best|right|closest|either|both|between)\b)"
)
_CUES = (
    r"答案|答(?=\s*:)|选项|選項|选择|選擇|(?<!没)选|正解|答え|回答|選択肢|정답|답|respuesta|opción|r[eé]ponse|"
    r"antwort|risposta|resposta|alternativa|antwoord|svar(?:et)?|odpowied[zź]|odpov[eě][dď]|ответ|"
    r"відповідь|απάντηση|الإجابة|جواب|پاسخ|תשובה|उत्तर|উত্তর|ค\u0e4d\u0e32ตอบ|đáp án|jawaban|cevap|"
    r"vastaus|válasz|răspuns|sagot"
)
_TURNS = (
    r"(?:\b(?:so|thus|hence|therefore|finally|wait|actually|no(?=[,.;:!])|hmm+|sorry|oops|rather|"
    r"correction|corrected|instead|second thoughts?|on reflection|make (?:that|it)|definitely|"
    r"probably|clearly|okay|ok|sure|certainly|of course|yes(?=[,.:;!])|elimination|must be|guess|"
    r"looks like|points to|that leaves(?: us| me)?(?: with| only)?|(?:its|thats)(?= )|"
    r"(?:based on|according to|given) [^.,;\n]{1,60}(?=,)|(?<!all )(?<!nothing )(?<!anything )but|"
    r"(?:it|that|this|which)(?:['\u2019]s| is| must be| should be| would be| has to be)|"
    r"i(?: think| believe| guess| meant?|['\u2019]d say| would say)|chooses?|chose|pick|"
    r"select(?:ed)?|(?:go|going) with|guess is|settle on|opt for|vote for)\b|"
    r"更正|不对|所以|因此|综上|最终|应该?[是为])"
)
_IS_RIGHT = (
    rf"(?:^|[.,;:!?\n(]|\b(?:so|thus|hence|therefore|that|think|believe|and|but|then|option|choice|"
    rf"answer|letter|only)\b){_T}\)?\s+(?:is|looks|would be|must be|"
    r"(?:seems|appears)(?: to be)?)\s+(?:\w+\s+)?"
)
_RIGHT = (
    r"(?:correct|right|best|better|true|accurate|likely|appropriate|suitable|plausible|consistent)"
)
_CONCLUSIONS: Final = (
    rf"(?:{_NOUN}(?P<gap>{_FREE}){_VERB}|\b(?:final|my)\s+(?:best\s+)?{_NOUN}|"
    rf"{_START}(?:final|letter):|\bcorrect letter\b){_FILLER}{{0,14}}{_ANY_T}",
    rf"(?:{_CUES}){_FREE}{_T}",
    rf"{_T}\)?\s*(?:[是がは는은이가]\s*(?:正确|正確|正解|答え|答案|정답)|\s+it is{_END})",
    rf"(?:^|[.,;:\n]|\b(?:only|so|that)\b){_T}\)?\s+(?:fits|matches|holds)\b",
    rf"{_TURNS}(?:[,.:;!()]|{_FILLER}|{_TURNS}){{0,14}}{_T}{_END}",
    rf"{_IS_RIGHT}the\s+(?:\w+\s+)?(?:{_RIGHT}\s+)?(?:{_NOUN}|one\b)",
    rf"\A{_START}{_T}(?:\)?\s?[):]|[.,;](?![A-Za-z0-9])|\s*\n|\s+[-\u2013\u2014=]\s|"
    r"\s+(?:because|since)\b)",
    rf"{_START}{_T}(?=[^\w\n{_S}]*(?m:$))",
)
_PASSING: Final = (
    rf"\b(?:option|choice|answer|letter)\s+{_T}",
    rf"(?<!\w)\({_T}\)",
    rf"{_IS_RIGHT}(?:\w+\s+){{0,2}}{_RIGHT}\b",
    rf"{_T}\)?\s?[:-]\s*(?:yes|true|{_RIGHT})\b",
    rf"{_START}{_T}\)?[.):]\s[^\n]*\Z",  # begins the last line
)
_NEGATION: Final = (
    r"\b(?:not|never|neither|nor|cannot|\w+n['\u2019]t|hardly|rather than|instead of|except|"
    r"exclud\w*|eliminat(?!ion)\w*|rule[ds]? out|wrong|incorrect|unlikely|nicht|kein|pas|no es|"
    r"n[aã]o|не|нет|nie|inte|ikke)\b|不|没|非|排除|错误|ليس|नहीं|không|bukan"
)
_REJECTED: Final = (
    r"[\s):\-\u2013\u2014]*(?:(?:is|are|was|seems|looks|can|could|must|should|would)\s+)?"
    r"(?:be\s+)?(?:(?:clearly|definitely|also|probably|simply|just)\s+)*(?:(?:no|not|wrong|"
    r"incorrect|false|impossible|unlikely|ruled out|eliminated|excluded|cannot|can't|isn't|doesn't|"
    r"does not|do not|if (?!i\b|we\b)\w+|değil)\b|错|不|では[なあ]|じゃな|[가이] 아[니닙]|नहीं)"
)
_ANY_LETTER: Final = rf"(?<![{_W}'])(?:[B-HJ-Z{_S}]|A(?!\s[a-z]))(?![{_W}+#'])"
_JOINT: Final = (
    r"[\s),'(.]*(?:(?:(?<=\)\()|(?<=\) \()|,(?!\s*answer)|:(?=\s*\S\s*\Z)|[&/;+]|"
    r"\b(?:and|or|as well as|along with|together with|plus|oder|und|ou|"
    r"et|y|o|или|и|hoặc|và|atau|dan|veya|lub|أو)\b|"
    r"和|或者|或|与|以及|及|と|か|または|또는|와|과)[\s()',\u2192]*(?:\b(?:or|and|also|maybe|possibly|"
    rf"perhaps|option|choice|answer|both)\b:?[\s(]*)*)+{_T}(?!\)?\s*:|\s+(?:is|was|are|does|has|"
    r"cannot|can't|being)\b)"
)
_ARTICLE: Final = (  # A or I in front of a word that does not stand behind a letter
    r"[ \t]+(?!(?:because|since|as|due|for|is|was|and|or|but|not|which|where|based|given|from|with|"
    r"if|in|on|at|to|by|has|while|so|then|than|option|according|although|though|que|porque|seems|"
    rf"looks|appears|would|must|could|should|can)\b)[A-Za-z{_S}]"
)
_CONDITION: Final = (
    r"\bif\b(?!.*\b(?:so|thus|hence|therefore)\b|\s+(?:i|we|one)\s+(?:have|had|has|must|need)\b)"
)


def read_choice(text: str, options: Sequence[str] | Mapping[str, str]) -> str | None:
    """The option that an answer chooses.

    Args:
        text: What the model said.
        options: The options' texts in order, with or without their letters (`A. red` or `red`), or
            a mapping from capital letter to text.

    Returns:
        The option's letter (`A`, `B`, ... for a sequence); None if the text chooses none, or
        several. Of several options with the same text, that text names the first.

    Raises:
        ValueError: If there are no options, more than there are letters, or a key that is none.
    """
    letters = options if isinstance(options, Mapping) else string.ascii_uppercase[: len(options)]
    if not 1 <= len(options) == len(letters) or not set(letters) <= set(string.ascii_uppercase):
        raise ValueError(f"A choice has 1 to 26 options, named by capital letters: {options!r}.")
    given = options.values() if isinstance(options, Mapping) else options
    said = text.strip()
    own = {letter: option.strip() for letter, option in zip(letters, given, strict=True)}
    if said in own.values() and said.upper() not in own:
        return next(letter for letter in own if own[letter] == said)
    written = {letter: _option(option, letter) for letter, option in own.items()}
    texts = {letter: option.casefold() for letter, option in written.items()}
    found = None
    for part in re.split(_QUESTION, _answer_part(text), flags=re.I):
        said = _masked(_plain(part), texts, written)
        found = _read(said, texts)
        # Behind a question comes the next one, unless nothing was chosen or denied before it.
        if found is not None or re.search(_ANY_LETTER, said) or re.search(_NEGATION, said, re.I):
            break
    if found is not None and found not in texts:
        # Where options are themselves letters, one that names none may be the text of one.
        found = next((letter for letter in texts if texts[letter] == found.casefold()), None)
    return found


def _answer_part(text: str) -> str:
    """What is said after the reasoning, if that ends, and before the next turn."""
    text = _normal(text)
    for opening, closing in _REASONING:
        text = re.split(closing, text, flags=re.I)[-1]
        before, *unfinished = re.split(opening, text, flags=re.I)
        # An answer that ends what is said is one, even if nobody closed the reasoning before it.
        text = before + "".join(re.findall(_MARKED_END, "".join(unfinished)))
    turns = re.split(_TURN_ENDS, text, flags=re.I)
    return next((turn for turn in turns if turn.strip()), "")


def _normal(text: str) -> str:
    text = unicodedata.normalize("NFKC", text.translate(_PUNCTUATION)).translate(_PUNCTUATION)
    return "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Co"))


def _plain(text: str) -> str:
    for mark, plain in _MARKS:
        text = re.sub(mark, plain, text)
    return "".join(" " if _is_picture(c) else c for c in text).strip()


def _is_picture(character: str) -> bool:
    return character == "\ufe0f" or (
        character >= "\u2300" and unicodedata.category(character) == "So"
    )


def _option(text: str, letter: str) -> str:
    text = re.sub(rf"^\(?{letter}\s*[.):]\s*(?=\S)", "", _plain(_normal(text)))
    return re.sub(r"\s+", " ", text).strip(_EDGES.replace("-", ""))


def _masked(said: str, texts: Mapping[str, str], written: Mapping[str, str]) -> str:
    """What is said, with one sign for an option's text and the label at it.

    Small and capital letters are the same, unless options differ in nothing else (`Aa`, `AA`).
    """
    letters = {text: letter for letter, text in reversed(list(texts.items()))}
    exactly = {text: letter for letter, text in reversed(list(written.items()))}
    # A single letter stays one: where options are letters, it names the option.
    words = [text for text in letters if text and not (len(text) == 1 and text.isalpha())]
    if not words:
        return said
    for letter, text in written.items():
        if text and not text[0].isalpha():  # `H2`, where option H is 2
            glued = rf"(?<![A-Za-z0-9]){letter}(?={re.escape(text)}(?![A-Za-z0-9]|[.,]\d))"
            said = re.sub(glued, f"{letter}. ", said)
    longest_first = sorted(map(re.escape, words), key=len, reverse=True)
    any_text = "|".join(longest_first).replace(r"\ ", r"\s+")

    def sign(match: re.Match[str]) -> str:
        found = re.sub(r"\s+", " ", match[0])
        letter = exactly.get(found) or letters.get(found.casefold())
        return chr(ord(letter) + _TO_SIGN) if letter else match[0]

    def joined(match: re.Match[str]) -> str:
        label, text = (match[1] or match[4]).upper(), texts[_letter(match[2] or match[3])]
        return chr(ord(label if texts.get(label) == text else _SEVERAL) + _TO_SIGN)

    bounds = rf"(?<![A-Za-z0-9-])(?<!\d[.,])(?:{any_text})(?![A-Za-z0-9]|[.,]\d)"
    return re.sub(
        rf"(?<![A-Za-z0-9'])([A-Z](?=[,=])|[A-Za-z](?=\)?\s?[.):(]|\)?\s[-\u2013\u2014]))"
        rf"[\s.):,=(\u2013\u2014-]+([{_S}])|([{_S}])\s?\(([A-Z])(?=\))",
        joined, re.sub(bounds, sign, said, flags=re.I),
    )  # fmt: skip


def _without_lists(said: str) -> str:
    """Without the labels of lines that list options: in order, from A or line upon line."""
    runs: list[list[re.Match[str]]] = []
    for item in re.finditer(
        rf"(?m)^[\s(#\u2022-]*(?:(?:[Oo]ption|[Cc]hoice)\s+)?\(?(?P<t>[{_S}]|"
        rf"[A-Z](?=\)?(?:\s?[.):]|\s[-\u2013\u2014]\s|[^\w\n{_S}]*$)))(?P<more>[^\n]*)", said
    ):  # fmt: skip
        if re.search(rf"(?:{_NOUN}|{_CUES})\W*\Z", said[: item.start("t")], re.I):
            continue  # a heading "Answer" is above it
        last = runs[-1][-1] if runs else item
        alike = bool(last["more"].strip(_EDGES)) == bool(item["more"].strip(_EDGES))
        if alike and _letter(last["t"]) < _letter(item["t"]):
            runs[-1].append(item)
        else:
            runs.append([item])
    for first, *others in runs:
        if others and (
            _letter(first["t"]) == "A" or not said[first.end() : others[0].start()].strip()
        ):
            items = (first, *others)
            verdict = rf"\)?\s?[.:-]\s*(?:yes|true|{_RIGHT})\s*(?:[.,;!]|\Z)"
            right = [item for item in items if re.match(verdict, item["more"], re.I)]
            for item in items:
                if right == [item]:
                    continue  # `B: correct.` among others that are not, which say nothing more
                end = item.end("t" if len(right) != 1 else 0)
                length = end - item.start("t")
                said = f"{said[: item.start('t')]}{' ' * length}{said[end:]}"
    return said


def _read(said: str, texts: Mapping[str, str]) -> str | None:
    """A letter, `_SEVERAL`, or None for nothing that looks like a choice."""
    alone = re.fullmatch(
        rf"[^\w{_S}]*(?:q?\d+\s?[.:)]\s)?(?:(?:the )?(?:option|choice|letter|answer) )?\(?"
        rf"([{_S}]|[A-Za-z])(?![+#])[^\w{_S}]*", said, re.I
    )  # fmt: skip
    if alone is not None:
        return _letter(alone[1])
    said = _without_lists(said)
    found = {match.start("t"): match for match in _matches(_CONCLUSIONS, said, texts)}
    if not found:
        passing = _matches(_PASSING, said, texts)
        names = {_named(match, texts) for match in passing} & {*texts, _SEVERAL}
        ends = any(re.match(_END, said[match.end() :]) for match in passing)
        return names.pop() if len(names) == 1 and ends else None
    last, *earlier = (found[place] for place in sorted(found, reverse=True))
    name, rest = _named(last, texts), said[last.end("t") :]
    if earlier and _named(earlier[0], texts) != name:
        between = said[earlier[0].end("t") : last.end("t")]
        if re.fullmatch(rf"[\s()]*{_T}", between, re.I) or re.fullmatch(_JOINT, between, re.I):
            return _SEVERAL
    is_taken_back = re.search(
        r"\b(?:wait|no|actually|hmm+|sorry|oops)\b[,.:;!\s-]+[^.\n]{0,30}\b(?:not|wrong|incorrect)\b"
        rf"|(?<!\w){re.escape(name)}\b{_REJECTED}", rest, re.I
    )  # fmt: skip
    return None if is_taken_back else name


def _matches(patterns: Sequence[str], said: str, texts: Mapping[str, str]) -> list[re.Match[str]]:
    found = (match for p in patterns for match in re.finditer(p, said, re.I))
    return [match for match in found if _counts(match, texts)]


def _letter(target: str) -> str:
    return chr(ord(target) - _TO_SIGN) if target >= "\ue000" else target.upper()


def _named(match: re.Match[str], texts: Mapping[str, str]) -> str:
    """The letter, or `_SEVERAL` if another one is given with it."""
    name = _letter(match["t"])
    also = re.match(_JOINT, match.string[match.end("t") :][:_NEARBY], re.I)
    if also is None or _letter(also["t"]) == name or also["t"].casefold() == texts.get(name):
        return name  # an option may itself be a letter: `A. (D)` where option A says D
    return _SEVERAL


def _counts(match: re.Match[str], texts: Mapping[str, str]) -> bool:
    """Whether the letter is meant, and neither denied, rejected, asked nor under a condition."""
    said, target = match.string, match["t"]
    before = said[max(0, match.start("t") - _NEARBY) : match.start("t")]
    after = said[match.end("t") :][:_NEARBY]
    sentence = re.split(r"[!?\n]|\.\s", before.rstrip("( '\n"))[-1]
    clause = re.split(r"[.,;:!?\n]|\bbut\b|\bso\b", sentence)[-1]
    is_called = target != "a" and re.search(r"(?i)\b(?:option|choice|letter)\s+\(?$", before)
    if target in "aAI" and not is_called and re.match(_ARTICLE, after):
        return False
    if target == "a" and not after and len(said.split()) > 6:
        return False  # cut off behind the article
    if target == "I" and after.startswith(",") and "gap" not in match.re.groupindex:
        return False
    if re.match(_REJECTED, after, re.I):
        cut = re.split(r"[.\n]", after.lstrip(_EDGES))[0].strip(_EDGES).casefold()
        if len(cut) < 2 or not texts.get(_letter(target), "").startswith(cut):
            return False  # what follows is not the option's own text, cut short
    if re.search(_NEGATION, clause, re.I) or re.search(_CONDITION, sentence, re.I):
        return False
    end = re.search(r"[?!\n]|\.(?=\s|$)|[\u5417\u55ce]", after)
    return end is None or end[0] not in "?\u5417\u55ce"
