"""A run's multiple-choice answers read again by the rules of boards and other harnesses.

The answers stay as they are; only what is read in them, and how it is counted, changes. Where a
rule draws an option at random it gets the expected value of the draw. Which benchmark has which
rule is `RULES`. Questions count equally, also where a benchmark's own score is a mean over
categories; open questions are not read again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from longva_eval.questions.answers import read_choice
from longva_eval.reports.reading.run import TaskRun
from longva_eval.reports.reading.samples import Sample
from longva_eval.reports.rules.harnesses import (
    host_letter,
    host_mmmu_letter,
    vlmevalkit_infer,
    vlmevalkit_mlvu_letter,
)
from longva_eval.reports.rules.official import (
    longvideobench_letter,
    lvbench_letter,
    mlvu_dev_is_right,
    mlvu_option,
    mmmu_letter,
    videomme_letter,
)

__all__ = ["RULES", "Example", "Rescored", "benchmark_of_rules", "read_as_ours", "rescore"]


class _Question(NamedTuple):
    """An answer with what it was asked about."""

    text: str
    options: Mapping[str, str]
    """Letter -> text, in order; texts are empty where the log does not say them."""
    answer: str
    """The right letter."""


_Reader = Callable[[_Question], str | None]


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """How letters are read, and what happens to an answer in which there is none."""

    read: _Reader
    unread: str = "wrong"
    """`wrong`, `dropped` from the denominator, or `drawn` from all options."""


def _mlvu_dev(question: _Question) -> str | None:
    if mlvu_dev_is_right(question.text, question.answer):
        return question.answer
    before, bracket, _ = question.text.partition(")")
    return before[-1:] if bracket else question.text


def _vlmevalkit(date: str) -> Mapping[str, _Rule]:
    verbose = date >= "2026-06"
    return {
        "videomme": _Rule(read=lambda q: videomme_letter(q.text)),
        "longvideobench": _Rule(read=lambda q: videomme_letter(q.text, letters="ABCDE")),
        "mlvu_dev": _Rule(
            read=lambda q: vlmevalkit_mlvu_letter(q.text, q.options, q.answer, verbose=verbose)
        ),
        "mmmu": _Rule(read=lambda q: vlmevalkit_infer(q.text, q.options, verbose=verbose)),
    }


_OURS: Final = _Rule(read=lambda q: read_choice(q.text, q.options))
_HOST: Final = _Rule(read=lambda q: host_letter(q.text))
_HOST_MMMU: Final = _Rule(read=lambda q: host_mmmu_letter(q.text, q.options), unread="drawn")
_LONGVIDEOBENCH: Final = _Rule(read=lambda q: longvideobench_letter(q.text), unread="drawn")

RULES: Final[Mapping[str, Mapping[str, _Rule]]] = {
    "ours": dict.fromkeys(
        ("videomme", "mlvu_dev", "mlvu_test", "longvideobench", "lvbench", "mmmu", "nextqa"), _OURS
    ),
    "official": {
        "videomme": _Rule(read=lambda q: videomme_letter(q.text), unread="dropped"),
        "mlvu_dev": _Rule(read=_mlvu_dev),
        "mlvu_test": _Rule(read=lambda q: mlvu_option(q.text)),
        "longvideobench": _LONGVIDEOBENCH,
        "lvbench": _Rule(read=lambda q: lvbench_letter(q.text)),
        "mmmu": _Rule(read=lambda q: mmmu_letter(q.text, q.options), unread="drawn"),
    },
    "host": {
        **dict.fromkeys(("videomme", "mlvu_dev", "mlvu_test", "lvbench"), _HOST),
        "longvideobench": _LONGVIDEOBENCH,
        **dict.fromkeys(("mmmu", "nextqa"), _HOST_MMMU),
    },
    "vlmevalkit@2026-05": _vlmevalkit("2026-05"),
    "vlmevalkit@2026-06": _vlmevalkit("2026-06"),
}
"""By rule and benchmark; `host` is lmms-eval 0.7.3. NExT-QA's own script reads no text; VLMEvalKit
has neither LVBench, NExT-QA nor MLVU's test split."""

_BENCHMARKS: Final = (
    ("videomme", r"video-?mme(?!.*v2)|longva_mini"),
    ("mlvu_test", r"mlvu_test"),
    ("mlvu_dev", r"mlvu"),
    ("longvideobench", r"longvideobench|(?:^|_)lvb(?:$|_)"),
    ("lvbench", r"lvbench"),
    ("mmmu", r"mmmu(?!_pro)"),
    ("nextqa", r"nextqa(?!_oe)"),
)


class Example(NamedTuple):
    """An answer that two rules take for different things."""

    doc_id: int | str
    text: str
    key: str
    """Of the sample, which finds it on the page: `report.html#sample=TASK/KEY`."""
    reads: Mapping[str, str | None]
    """By rule the letter; None where nothing is read, or an option is drawn."""


@dataclass(frozen=True, kw_only=True)
class Rescored:
    """A task under one rule."""

    task: str
    rule: str
    num_questions: int
    num_right: int
    """Read, and right."""
    num_unread: int
    expected_draws: float
    """Right answers to be expected of the unread ones, where an option is drawn."""
    num_counted: int
    """In the rule's own denominator."""
    letters: float
    """Points of 100 that the rule gives more than ours because it reads other letters."""
    denominator: float
    """Because it leaves unread answers out."""
    draws: float
    """Because it draws options."""
    examples: Mapping[str, Example]
    """By `letters`, `denominator`, `draws`, one each where there is one."""

    @property
    def score_percent(self) -> float:
        """Right, with the expected draws, of all questions."""
        return 100 * (self.num_right + self.expected_draws) / self.num_questions

    @property
    def own_denominator_percent(self) -> float:
        """The same of the questions that the rule counts; 0 of none."""
        right = self.num_right + self.expected_draws
        return 100 * right / self.num_counted if self.num_counted else 0.0

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "task": self.task,
            "rule": self.rule,
            "questions": self.num_questions,
            "right": self.num_right,
            "unread": self.num_unread,
            "score_percent": self.score_percent,
            "own_denominator_percent": self.own_denominator_percent,
            "expected_draws": self.expected_draws,
            "letters_points": self.letters,
            "denominator_points": self.denominator,
            "draws_points": self.draws,
            "examples": {name: example._asdict() for name, example in self.examples.items()},
        }


def benchmark_of_rules(task: str) -> str | None:
    """The benchmark in `RULES` that a task of ours or of lmms-eval is of; None if there is none."""
    return next((name for name, form in _BENCHMARKS if re.search(form, task.lower())), None)


def read_as_ours(sample: Sample, task: str) -> tuple[str | None, float] | None:
    """The letter that our rule reads in an answer, and 1.0 if that is right.

    None where the task is none of `RULES`, or the question is none with options and a right letter.
    """
    benchmark = benchmark_of_rules(task)
    question = None if benchmark is None else _question(sample, benchmark)
    if question is None:
        return None
    letter = _letter(_OURS, question)
    return letter, float(_is_ours_right(letter, question))


def rescore(task: TaskRun, rules: Sequence[str]) -> list[Rescored]:
    """Read a task's answers by several rules.

    Args:
        task: With samples.
        rules: Names in `RULES`; those that do not know the benchmark are passed over.

    Returns:
        In the order of `rules`; empty where the task is none of `RULES`, or no question has
        options and a letter that is right.
    """
    benchmark = benchmark_of_rules(task.name)
    if benchmark is None:
        return []
    asked = [(s, q) for s in task.samples if (q := _question(s, benchmark)) is not None]
    if not asked:
        return []
    chosen = {rule: RULES[rule][benchmark] for rule in rules if benchmark in RULES[rule]}
    letters = {
        name: [_letter(rule, question) for _, question in asked]
        for name, rule in {"ours": _OURS, **chosen}.items()
    }
    return [_rescored(task.name, name, rule, asked, letters) for name, rule in chosen.items()]


def _rescored(
    task: str,
    name: str,
    rule: _Rule,
    asked: Sequence[tuple[Sample, _Question]],
    letters: Mapping[str, Sequence[str | None]],
) -> Rescored:
    number, right, right_ours, unread, draws = len(asked), 0, 0, 0, 0.0
    examples: dict[str, Example] = {}
    for place, (sample, question) in enumerate(asked):
        theirs = letters[name][place]
        was_right = _is_ours_right(letters["ours"][place], question)
        is_right = was_right if name == "ours" else theirs == question.answer
        right, right_ours = right + is_right, right_ours + was_right
        unread += theirs is None
        if theirs is None and rule.unread == "drawn":
            draws += 1 / len(question.options)
        reads = {each: found[place] for each, found in letters.items()}
        example = Example(sample.doc_id, sample.generated, sample.key, reads)
        if is_right != was_right:
            examples.setdefault("letters", example)
        if theirs is None and rule.unread != "wrong":
            examples.setdefault("draws" if rule.unread == "drawn" else "denominator", example)
    counted = number - unread if rule.unread == "dropped" else number
    own = 100 * (right + draws) / counted if counted else 0.0
    return Rescored(
        task=task,
        rule=name,
        num_questions=number,
        num_right=right,
        num_unread=unread,
        expected_draws=draws,
        num_counted=counted,
        letters=100 * (right - right_ours) / number,
        denominator=own - 100 * (right + draws) / number,
        draws=100 * draws / number,
        examples=examples,
    )


def _letter(rule: _Rule, question: _Question) -> str | None:
    """What is read; what is none of the letters a question may have is nothing."""
    found = rule.read(question)
    return found if found is not None and re.fullmatch("[A-Z]", found) else None


def _is_ours_right(letter: str | None, question: _Question) -> bool:
    """Options with the same text are the same option, as in `choice_record`."""
    if letter is None or letter == question.answer:
        return letter is not None
    same, right = question.options[letter], question.options[question.answer]
    return same == right != ""


def _question(sample: Sample, benchmark: str) -> _Question | None:
    """None for an open question, or one whose right answer is not known."""
    if not sample.is_scored:
        return None
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    options = {
        letter: re.sub(rf"^\s*\(?{letter}\s*[.):]\s*(?=\S)", "", option).strip()
        for letter, option in zip(letters, sample.options, strict=False)
    }
    if not options:
        if benchmark == "mmmu":
            return None
        options = dict.fromkeys(
            letters[: 5 if benchmark in ("longvideobench", "nextqa") else 4], ""
        )
    answer = sample.answer.strip()
    if re.fullmatch(r"\d", answer) and benchmark == "nextqa":
        answer = letters[int(answer)]
    if answer not in options:
        return None
    text = "" if sample.outcome == "failed" else sample.generated
    return _Question(text, options, answer)
