"""The questions that two runs of a task were both asked, or why they cannot be held together.

One rule for `compare`, `--baseline` and the page. Questions are paired by the task's own id, else
by prompt and target, else (other prompts, same data) by their place in the data. Equal ids with
other right answers: a few were corrected by the data's authors, and such questions are left out;
where it is more than one in ten the data are others, and nothing is compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from longva_eval.reports.reading.run import TaskRun
from longva_eval.reports.reading.samples import Sample, count_of

__all__ = ["Pairing", "pair_samples"]

_MOST_CORRECTED: Final = 0.1
"""Share of right answers that may differ in one and the same benchmark."""
_ALIKE: Final = 0.99
"""Share of common questions from which on two scores are of one benchmark."""


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Common questions of two runs."""

    first: tuple[Sample, ...]
    second: tuple[Sample, ...]
    """In the same order."""
    refusal: str = ""
    """Why the two are not compared; empty if they are."""
    remarks: tuple[str, ...] = ()
    """What makes the comparison less than plain."""
    is_alike: bool = False
    """Whether the two scores are of the same questions, but for one in a hundred."""


def pair_samples(
    first: TaskRun, second: TaskRun, *, names: tuple[str, str] = ("the run", "the baseline")
) -> Pairing:
    """Hold two runs of one task, or of two tasks of one benchmark, together.

    Args:
        first: One run.
        second: The other.
        names: What to call them.

    Returns:
        The pairs of questions that both score.
    """
    for name, task in zip(names, (first, second), strict=True):
        if not task.samples:
            return _refused(
                f"{name} has no samples with scores, so that nothing can be paired (--log_samples "
                "writes them, if the task scores questions one by one). Two averages alone do not "
                "say whether they differ."
            )
    if (first.is_share, first.higher_is_better) != (second.is_share, second.higher_is_better):
        return _refused(f"the scores of {names[0]} and {names[1]} are on different scales")
    if first.metric != second.metric and first.name == second.name:
        return _refused(f"{names[0]} is scored by {first.metric}, {names[1]} by {second.metric}")
    ours, theirs = _scored(first), _scored(second)
    if not ours or not theirs:
        return _refused("the right answers are not public: there is nothing to compare")
    common = [(ours[key], theirs[key]) for key in theirs if key in ours]
    remarks = []
    if not common:
        common = _by_place(first, second)
        if common:
            remarks.append("questions are paired by their place in the data, as prompts differ.")
    if not common:
        return _refused(
            f"{names[0]} and {names[1]} have no question in common ({len(ours):,} and "
            f"{len(theirs):,}, paired by {first.read_from.get('question_id')}): different data or "
            "other prompts"
        )
    kept = [pair for pair in common if not _has_other_answer(*pair, first.name == second.name)]
    changed = len(common) - len(kept)
    if changed > _MOST_CORRECTED * len(common):
        return _refused(
            f"{changed:,} of {len(common):,} questions with the same id have different right "
            f"answers in {names[0]} and {names[1]}: different data"
        )
    if changed:
        remarks.append(
            f"{count_of(changed, 'question')} with other right answers in {names[0]} than in "
            f"{names[1]}: left out of differences."
        )
    most = max(len(ours), len(theirs))
    if len(common) < most:
        remarks.append(
            f"{len(common):,} questions in common, of {len(ours):,} ({names[0]}) and "
            f"{len(theirs):,} ({names[1]})."
        )
    if first.name != second.name:
        remarks.append(
            f"{names[0]} ran {first.name}, {names[1]} {second.name}: prompts and answer parsing "
            "may differ."
        )
    elif first.version != second.version:
        remarks.append(
            f"version {first.version or '?'} of the task ({names[0]}) against "
            f"{second.version or '?'} ({names[1]})."
        )
    other_prompts = sum(one.prompt != other.prompt for one, other in kept)
    if first.name == second.name and other_prompts:
        remarks.append(
            f"{names[0]} was asked with other prompts than {names[1]} ({other_prompts:,} of "
            f"{len(kept):,} common questions)."
        )
    if first.num_fewshot != second.num_fewshot:
        remarks.append(
            f"{count_of(first.num_fewshot, 'example')} in the prompts of {names[0]}, "
            f"{second.num_fewshot:,} in those of {names[1]}."
        )
    return Pairing(
        first=tuple(one for one, _ in kept),
        second=tuple(other for _, other in kept),
        remarks=tuple(remarks),
        is_alike=len(kept) >= _ALIKE * most,
    )


def _refused(reason: str) -> Pairing:
    return Pairing(first=(), second=(), refusal=reason)


def _scored(task: TaskRun) -> Mapping[str, Sample]:
    return {sample.key: sample for sample in task.samples if sample.is_scored}


def _by_place(first: TaskRun, second: TaskRun) -> list[tuple[Sample, Sample]]:
    """Pairs by doc_id, if there are no ids and equal answers show that the data are the same."""
    if any(sample.question_id is not None for task in (first, second) for sample in task.samples):
        return []
    places = {sample.doc_id: sample for sample in first.samples if sample.is_scored}
    pairs = [
        (places[other.doc_id], other)
        for other in second.samples
        if other.is_scored and other.doc_id in places
    ]
    same = sum(one.answer == other.answer for one, other in pairs)
    return pairs if len(pairs) >= 20 and same >= _ALIKE * len(pairs) else []


def _has_other_answer(one: Sample, other: Sample, same_task: bool) -> bool:
    """Tasks of one benchmark may write an answer in two ways; letters are letters."""
    if one.answer == other.answer:
        return False
    return same_task or all(re.fullmatch("[A-J]", each.answer) for each in (one, other))
