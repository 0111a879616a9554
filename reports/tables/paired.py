"""Runs against a baseline, on the questions both were asked.

Differences are taken within questions and summed by video (`stats.compare_pairs`). Where there is
no common question, or the data differ, there is a sentence in place of a number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from longva_eval import stats
from longva_eval.reports.reading.runs import Run, Sample, TaskRun
from longva_eval.reports.tables.compare import (
    by_length,
    category_values,
    run_labels,
    subtitle_setting,
)
from longva_eval.reports.tables.notes import Notes
from longva_eval.reports.tables.published import benchmark_of
from longva_eval.reports.tables.tables import Cell, Column, Note, Row, Table

__all__ = ["paired_tables"]

_TITLES = ("Questions of", "n", "Videos", "Diff.", "95 % interval", "p", "Holm", "+ / -", "MDE")

Part = Literal["overall", "split", "repeated"]
"""A whole task, a part of it, or a task again without the questions that failed."""


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """The common questions of a run and the baseline."""

    run: int
    """Place of the run."""
    subset: str
    first: tuple[Sample, ...]
    second: tuple[Sample, ...]
    is_share: bool
    part: Part


def paired_tables(
    runs: Sequence[Run], baseline: Run, *, by: str = "", mcnemar: bool = False
) -> list[Table]:
    """Every run minus the baseline, on the questions both were asked: a table for each run.

    Args:
        runs: The baseline itself is passed over if it is among them.
        baseline: What to compare with.
        by: Category of the samples to split by; without it the benchmark's own split, if it is one
            whose columns are known.
        mcnemar: Whether to show McNemar's p, which takes questions as independent.

    Returns:
        Tables with a row for each task and each value it is split by. p is corrected by Holm, over
        the tasks of all tables; and, as a second family, over the parts that tasks are split into,
        where no part is surer than its whole task (gatekeeping). Rows that leave failed questions
        out repeat a comparison and are not counted. Where a comparison is refused, a note says why.
    """
    others = [run for run in runs if run.path != baseline.path]
    labels = run_labels([baseline, *others], with_frames=True)
    notes = [Notes() for _ in others]
    pairs: list[_Pair] = []
    for place, run in enumerate(others):
        for task in run.tasks.values():
            if task.subtasks:
                continue
            other = _same_task(task, baseline)
            if other is None:
                text = f"{task.name}: not in the baseline; not compared."
                notes[place].general(text, task=task.name)
                continue
            pairs += _pairs_of(place, labels[place + 1], task, other, by, notes[place])
    sizes = Counter(pair.part for pair in pairs)
    compared = [
        stats.compare_pairs(
            [question.score for question in pair.first],
            [question.score for question in pair.second],
            [question.cluster for question in pair.second],
            level=0.05 / max(1, sizes[pair.part] if pair.part != "repeated" else sizes["overall"]),
        )
        for pair in pairs
    ]
    corrected = _corrected(pairs, [found.p_value for found in compared])
    rows: list[list[Row]] = [[] for _ in others]
    for pair, found, p_value in zip(pairs, compared, corrected, strict=True):
        names = (labels[pair.run + 1], labels[0])
        rows[pair.run].append(_row(pair, found, p_value, names, notes[pair.run], mcnemar))
    if pairs:
        _explain(notes[-1], pairs, sizes, mcnemar)
    titles = (*_TITLES, *(["McNemar"] if mcnemar else []))
    return [
        Table(
            title=f"{labels[place + 1]} minus {labels[0]}",
            columns=tuple(
                Column(title=title, is_number=number > 0) for number, title in enumerate(titles)
            ),
            rows=tuple(rows[place]),
            notes=notes[place].all()
            if rows[place]
            else (*notes[place].all(), Note(mark="", text="Nothing could be compared.")),
        )
        for place in range(len(others))
    ]


def _corrected(pairs: Sequence[_Pair], p_values: Sequence[float]) -> list[float | None]:
    """Holm's p in two families, the parts of a task after the whole of it; None if not counted."""
    corrected: list[float | None] = [None] * len(pairs)
    for part in ("overall", "split"):
        members = [place for place, pair in enumerate(pairs) if pair.part == part]
        found = stats.holm([p_values[place] for place in members])
        for place, p_value in zip(members, found, strict=True):
            corrected[place] = p_value
    whole = 0.0
    for place, pair in enumerate(pairs):  # a task's parts follow it
        own = corrected[place]
        if pair.part == "overall":
            whole = own or 0.0
        elif own is not None:
            corrected[place] = max(own, whole)
    return corrected


def _row(
    pair: _Pair,
    found: stats.PairedComparison,
    holm: float | None,
    names: tuple[str, str],
    notes: Notes,
    mcnemar: bool,
) -> Row:
    scale, digits = (100.0, 1) if pair.is_share else (1.0, 2)
    interval = _bounded(found.interval, pair.is_share)
    marks: tuple[str, ...] = ()
    if found.num_clusters < stats.FEW:
        marks = (notes.letter(f"Fewer than {stats.FEW} videos: read with care."),)
    known = math.isfinite(interval.high)
    low, high = (_signed(scale * end, digits) for end in (interval.low, interval.high))
    detectable = scale * found.smallest_detectable
    cells = [
        Cell(text=pair.subset, marks=marks),
        Cell(text=f"{found.num_questions:,}"),
        Cell(text=f"{found.num_clusters:,}"),
        Cell(
            text=_signed(scale * found.difference, digits),
            rank=int(holm is not None and holm < 0.05),
        ),
        Cell(text=f"{low} to {high}" if known else "unknown"),
        Cell(text=_p(found.p_value) if known else ""),
        Cell(text="" if holm is None or not known else _p(holm)),
        Cell(text=f"{found.num_only_first:,} / {found.num_only_second:,}"),
        Cell(text=f"{detectable:.{digits}f}" if math.isfinite(detectable) else "none"),
    ]
    exact = stats.mcnemar(found.num_only_first, found.num_only_second) if mcnemar else None
    cells += [] if exact is None else [Cell(text=_p(exact))]
    data = {
        "run": names[0],
        "baseline": names[1],
        "subset": pair.subset.strip(),
        "questions": found.num_questions,
        "videos": found.num_clusters,
        "difference": f"{scale * found.difference:.4f}",
        "standard_error": f"{scale * found.standard_error:.4f}",
        "low_95": f"{scale * interval.low:.4f}",
        "high_95": f"{scale * interval.high:.4f}",
        "p": f"{found.p_value:.6g}",
        "p_holm": "" if holm is None else f"{holm:.6g}",
        "run_better": found.num_only_first,
        "baseline_better": found.num_only_second,
        "minimum_detectable": f"{detectable:.4f}",
        **({} if exact is None else {"p_mcnemar": f"{exact:.6g}"}),
    }
    return Row(cells=tuple(cells), data=(data,))


def _explain(
    notes: Notes, pairs: Sequence[_Pair], sizes: Mapping[Part, int], mcnemar: bool
) -> None:
    scale = "points of 100" if all(pair.is_share for pair in pairs) else "the metric's own scale"
    tasks, parts = (f"{sizes[part]} row{'s' * (sizes[part] > 1)}" for part in ("overall", "split"))
    notes.general(
        f"Paired on common questions, in {scale}; interval and p by video (CR2, t). Holm: p "
        f"corrected for {tasks} of whole tasks"
        + (f", then for {parts} of their parts, none surer than its task" * (sizes["split"] > 0))
        + "; bold (or *) where that is below 0.05."
    )
    notes.general(
        "+ / -: questions that the run, and that the baseline, scores higher. MDE, minimum "
        "detectable effect: the true difference that data like these show (bold) in 80 of 100 "
        "cases; a smaller one may exist and stay unseen."
    )
    if mcnemar:
        notes.general(
            "McNemar: exact p of + and -, as if questions on one video were independent, which "
            "finds differences between equal runs far too often."
        )


def _same_task(task: TaskRun, baseline: Run) -> TaskRun | None:
    if task.name in baseline.tasks:
        return baseline.tasks[task.name]
    known = benchmark_of(task.name)
    if known is None:
        return None
    same = [
        other
        for other in baseline.tasks.values()
        if benchmark_of(other.name) is known and subtitle_setting(other) == subtitle_setting(task)
    ]
    return same[0] if len(same) == 1 else None


def _pairs_of(
    place: int, label: str, task: TaskRun, other: TaskRun, by: str, notes: Notes
) -> list[_Pair]:
    """The rows of one task: overall and by the benchmark's split; none if it is refused."""

    def say(text: str) -> None:
        notes.general(f"{task.name}: {text}", task=task.name)

    for which, found in ((label, task), ("the baseline", other)):
        if not found.samples:
            say(
                f"{which} has no samples with scores, so that nothing can be paired; run it with "
                "--log_samples. Two averages alone do not say whether they differ."
            )
            return []
    if task.is_share != other.is_share:
        say(f"the scores of {label} and the baseline are on different scales; not compared.")
        return []
    ours = {question.key: question for question in task.samples if question.is_scored}
    theirs = {question.key: question for question in other.samples if question.is_scored}
    if not ours or not theirs:
        say("the right answers are not public: there is nothing to compare.")
        return []
    common = [key for key in theirs if key in ours]
    if not common:
        say(
            f"{label} and the baseline have no question in common ({len(ours):,} and "
            f"{len(theirs):,}, paired by {task.read_from.get('question_id')}): different data or "
            "other prompts; not compared."
        )
        return []
    if task.name == other.name:
        differing = {key for key in common if ours[key].answer != theirs[key].answer}
        if len(differing) > len(common) / 10:
            say(
                f"{len(differing):,} of {len(common):,} questions with the same id have different "
                f"right answers in {label} and the baseline: different data; not compared."
            )
            return []
        if differing:
            say(
                f"{len(differing):,} questions have different right answers in {label} and the "
                "baseline and are left out."
            )
            common = [key for key in common if key not in differing]
    if len(common) < max(len(ours), len(theirs)):
        say(
            f"{len(common):,} questions in common, of {len(ours):,} ({label}) and {len(theirs):,} "
            "(baseline)."
        )
    if task.name != other.name:
        say(f"the baseline ran {other.name}: prompts and answer parsing may differ.")
    elif task.version != other.version:
        say(f"version {task.version or '?'} ({label}) against {other.version or '?'} (baseline).")
    if task.name == other.name and any(ours[k].prompt != theirs[k].prompt for k in common):
        say(f"{label} was asked with other prompts than the baseline.")

    def pair(subset: str, keys: Sequence[str], part: Part) -> _Pair:
        return _Pair(
            run=place,
            subset=subset,
            first=tuple(ours[key] for key in keys),
            second=tuple(theirs[key] for key in keys),
            is_share=task.is_share,
            part=part,
        )

    pairs = [pair(task.name, common, "overall")]
    answered = [k for k in common if "failed" not in (ours[k].outcome, theirs[k].outcome)]
    if answered and len(answered) < len(common):
        pairs.append(
            pair(f"  without {len(common) - len(answered):,} failed", answered, "repeated")
        )
    for value, keys in _split(task, [theirs[key] for key in common], by):
        if len(keys) < len(common):
            pairs.append(pair(f"  {value}", keys, "split"))
    return pairs


def _split(task: TaskRun, questions: Sequence[Sample], by: str) -> list[tuple[str, list[str]]]:
    """Keys of the questions in each part that a comparison is repeated for."""
    known = benchmark_of(task.name)
    if known is not None and known.by_frames and not by:
        lengths = by_length(questions)
        return [(f"{n:,} frames", [q.key for q in lengths[n]]) for n in sorted(lengths)]
    if by:
        values = category_values([task], by)
    else:
        values = [c.category for c in known.columns if c.category] if known else []
    parts = [
        (value, [q.key for q in questions if value in q.categories.values()]) for value in values
    ]
    return [(value, keys) for value, keys in parts if keys]


def _bounded(interval: stats.Interval, is_share: bool) -> stats.Interval:
    """A difference of shares lies within -1 and 1, whatever t says for a few videos."""
    if not is_share or not math.isfinite(interval.high):
        return interval
    return stats.Interval(low=max(-1.0, interval.low), high=min(1.0, interval.high))


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text.replace("+", "").replace("-", "") if float(text) == 0 else text


def _p(value: float) -> str:
    if value < 0.0001:
        return "< 0.0001"
    return f"{value:.4f}" if value < 0.01 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
