"""WUPS: how near an open answer comes to the true one in WordNet. For NExT-QA's open questions.

Words are tokenized, tagged and lemmatized, stop words left out, and each word of one answer takes
its most similar word of the other (Wu-Palmer). lmms-eval computes the same with `pywsd`, which it
does not install, and with NLTK data under names that NLTK no longer reads. Here NLTK alone is
used, on WordNet 3.0; `missing_parts` says before a run what has to be fetched.
"""

from __future__ import annotations

import csv
import functools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

from longva_eval.errors import DataError
from longva_eval.questions.host_tasks import host_tasks_folder

__all__ = ["answer_words", "missing_parts", "wups", "wups_of_words"]

_PARTS = {
    "wordnet": "corpora/wordnet",
    "punkt_tab": "tokenizers/punkt_tab/english/",
    "averaged_perceptron_tagger_eng": "taggers/averaged_perceptron_tagger_eng/",
}
_LOCK = threading.Lock()
_WORDNET_TAGS = {"NN": "n", "JJ": "a", "VB": "v", "RB": "r"}


def missing_parts() -> list[str]:
    """What is missing for WUPS, each with the command that mends it; empty if nothing is."""
    try:
        import nltk  # type: ignore[import-untyped]  # no types are published with it
    except ImportError:
        return ["WUPS needs nltk: pip install nltk"]
    missing = []
    for name, path in _PARTS.items():
        for candidate in (path, f"{path.rstrip('/')}.zip"):
            try:
                nltk.data.find(candidate)
                break
            except LookupError:
                continue
        else:
            missing.append(name)
    if not missing:
        return []
    return [
        f"WUPS needs NLTK's data {', '.join(missing)}: python -m nltk.downloader "
        f"{' '.join(missing)} (without a network: copy them from a machine that has them, and set "
        "NLTK_DATA to that folder)"
    ]


def answer_words(text: str) -> list[str]:
    """Lemmas of a text in order, without stop words.

    Raises:
        DataError: If NLTK's data are missing.
    """
    with _LOCK:  # NLTK's readers load on first use, which is not safe in threads
        tools = _tools()
        tagged = tools.tag(tools.tokenize(text))
        return [
            lemma
            for word, tag in tagged
            if (lemma := tools.lemma(word.lower(), _WORDNET_TAGS.get(tag[:2], "")))
            not in _stopwords()
        ]


def wups(words: Sequence[str], reference: Sequence[str]) -> float:
    """WUPS at threshold 0 of two answers' words; see `wups_of_words`.

    Raises:
        DataError: If NLTK's data are missing.
    """
    # Tokenized again, as the published scorer does with the words joined by blanks.
    with _LOCK:
        tools = _tools()
        said, true = tools.tokenize(" ".join(words)), tools.tokenize(" ".join(reference))
        return wups_of_words(said, true, tools.similarity)


def wups_of_words(
    words: Sequence[str],
    reference: Sequence[str],
    similarity: Callable[[str, str], float],
) -> float:
    """The lower of the products of best similarities, from either answer's side.

    Args:
        words: Of the answer.
        reference: Of the true answer.
        similarity: Of two different words, 0 to 1.

    Returns:
        0 to 1. A word that is like no other is left out of the product; if all are, 0.

    Source: NExT-QA, arXiv:2105.08276, section 4; Malinowski and Fritz, arXiv:1410.0210.
    """

    def one_way(ours: Sequence[str], theirs: Sequence[str]) -> float:
        best = [
            max((1.0 if word == other else similarity(word, other) for other in theirs), default=0)
            for word in ours
        ]
        found = [value for value in best if value > 0]
        return math.prod(found) if found else 0.0

    return min(one_way(words, reference), one_way(reference, words))


class _Tools:
    """NLTK's tokenizer, tagger, lemmatizer and WordNet, loaded once."""

    def __init__(self) -> None:
        problems = missing_parts()
        if problems:
            raise DataError(problems[0] + ".")
        import nltk
        from nltk.corpus import wordnet  # type: ignore[import-untyped]  # as above
        from nltk.stem import (  # type: ignore[import-untyped]  # as above
            PorterStemmer,
            WordNetLemmatizer,
        )

        self.tokenize: Callable[[str], list[str]] = nltk.word_tokenize
        self.tag: Callable[[list[str]], list[tuple[str, str]]] = nltk.pos_tag
        self._wordnet: Any = wordnet
        self._lemmatizer: Any = WordNetLemmatizer()
        self._stemmer: Any = PorterStemmer()

    def lemma(self, word: str, part: str) -> str:
        """The word's lemma if WordNet has it, else its stem if WordNet has that, else the word."""
        if not part:  # a preposition, say: the tag of the word by itself decides
            part = _WORDNET_TAGS.get(self.tag([word])[0][1][:2], "n")
        lemma = str(self._lemmatizer.lemmatize(word, pos=part))
        if self._wordnet.synsets(lemma):
            return lemma
        stem = str(self._stemmer.stem(word))
        return stem if self._wordnet.synsets(stem) else word

    def similarity(self, word: str, other: str) -> float:
        """Wu-Palmer similarity of the words' first senses; 0 without one."""
        first, second = self._wordnet.synsets(word), self._wordnet.synsets(other)
        if not first or not second:
            return 0.0
        return float(first[0].wup_similarity(second[0]) or 0.0)


@functools.lru_cache(maxsize=1)
def _tools() -> _Tools:
    return _Tools()


@functools.lru_cache(maxsize=1)
def _stopwords() -> frozenset[str]:
    """The published list, from lmms-eval's NExT-QA folder."""
    path = host_tasks_folder() / "nextqa" / "stopwords.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return frozenset(row[0] for row in list(csv.reader(file))[1:] if row)
    except OSError as error:
        raise DataError(f"The stop words of WUPS cannot be read: {error}.") from error
