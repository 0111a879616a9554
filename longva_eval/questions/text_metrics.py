"""Scores of short free answers: ANLS and relaxed accuracy. No torch.

Both give the number of lmms-eval's functions of the same purpose, to the last bit: the tests
compare them on generated answers. They are written anew so that a report can score a file without
importing lmms-eval.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["anls", "levenshtein_distance", "relaxed_match"]


def anls(answer: str, references: Sequence[str]) -> float:
    """Average normalized Levenshtein similarity of one question.

    Args:
        answer: What the model said. Case and the amount of white space do not count.
        references: The accepted answers, at least one.

    Returns:
        1 minus the smallest distance to a reference, divided by the length of the longer text; 0
        below one half.

    Raises:
        ValueError: If there are no references.

    Source: "Scene Text Visual Question Answering", arXiv:1905.13648, section 5; DocVQA,
    arXiv:2007.00398. As in the board's scorer the length is that of the texts as they came, before
    white space is reduced.
    """
    if not references:
        raise ValueError("ANLS needs at least one accepted answer.")
    distances = []
    for reference in references:
        distance = levenshtein_distance(_plain(reference), _plain(answer))
        length = max(len(reference.upper()), len(answer.upper()))
        distances.append(distance / length if length else 0.0)
    similarity = 1 - min(distances)
    return similarity if similarity >= 0.5 else 0.0


def relaxed_match(answer: str, reference: str) -> bool:
    """Whether an answer about a chart is right: numbers within 5 %, other texts exactly.

    `12%` is 0.12; case does not count. If the reference is 0 or no number, the texts must agree.

    Source: ChartQA, arXiv:2203.10244, section 5.1.
    """
    said, true = _number(answer), _number(reference)
    if said is not None and true:  # not None, not 0
        return abs(said - true) / abs(true) <= 0.05
    return answer.lower() == reference.lower()


def levenshtein_distance(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements of a character between two texts."""
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(second, start=1):
            cost = min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
            diagonal, row[j] = row[j], cost
    return row[-1]


def _plain(text: str) -> str:
    return " ".join(text.strip().lower().split())


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None
