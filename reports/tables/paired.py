"""Runs against a baseline, on the questions both were asked.

Differences are taken within questions and summed by video (`stats.compare_pairs`). Where there is
no common question, or the data differ, there is a sentence in place of a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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

_TITLES = (
    "Questions of", "n", "Videos", "Diff.", "95 % interval", "p", "Holm", "+ / -", "McNemar",
    "MDE",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """The common questions of a run and the baseline."""

    run: int
    """Place of the run."""
    subset: str
    first: tuple[Sample, ...]
    second: tuple[Sample, ...]
    is_share: bool
    is_variant: bool
    """Whether it repeats another row without the failed questions."""


def paired_tables(runs: Sequence[Run], baseline: Run, *, by: str = "") -> list[Table]:
    """Every run minus the baseline, on the questions both were asked: a table for each run.

    Args:
        runs: The baseline itself is passed over if it is among them.
        baseline: What to compare with.
        by: Category of the samples to split by; without it the benchmark's own split, if it is one
            whose columns are known.

    Returns:
        Tables with a row for each task and each value it is split by. p is corrected by Holm over
        the rows of all tables; rows that leave failed questions out repeat a comparison and are
        not counted. Where a comparison is refused, a note says why.
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
    compared = [
        stats.compare_pairs(
            [question.score for question in pair.first],
            [question.score for question in pair.second],
            [question.cluster for question in pair.second],
        )
        for pair in pairs
    ]
    counted = [place for place, pair in enumerate(pairs) if not pair.is_variant]
    corrected = dict(
        zip(counted, stats.holm([compared[place].p_value for place in counted]), strict=True)
    )
    rows: list[list[Row]] = [[] for _ in others]
    for place, (pair, found) in enumerate(zip(pairs, compared, strict=True)):
        names = (labels[pair.run + 1], labels[0])
        rows[pair.run].append(_row(pair, found, corrected.get(place), names, notes[pair.run]))
    if pairs:
        _explain(notes[-1], pairs, len(counted))
    return [
        Table(
            title=f"{labels[place + 1]} minus {labels[0]}",
            columns=tuple(
                Column(title=title, is_number=number > 0) for number, title in enumerate(_TITLES)
            ),
            rows=tuple(rows[place]),
            notes=notes[place].all()
            if rows[place]
            else (*notes[place].all(), Note(mark="", text="Nothing could be compared.")),
        )
        for place in range(len(others))
    ]


def _row(
    pair: _Pair,
    found: stats.PairedComparison,
    holm: float | None,
    names: tuple[str, str],
    notes: Notes,
) -> Row:
    scale, digits = (100.0, 1) if pair.is_share else (1.0, 2)
    interval = _bounded(found.interval, pair.is_share)
    marks: tuple[str, ...] = ()
    if found.num_clusters < stats.FEWEST_CLUSTERS:
        marks = (notes.letter(f"Fewer than {stats.FEWEST_CLUSTERS} videos: read with care."),)
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
        Cell(text=_p(found.mcnemar_p_value)),
        Cell(text=f"{detectable:.{digits}f}" if known else ""),
    ]
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
        "p_mcnemar": f"{found.mcnemar_p_value:.6g}",
        "minimum_detectable": f"{detectable:.4f}",
    }
    return Row(cells=tuple(cells), data=(data,))


def _explain(notes: Notes, pairs: Sequence[_Pair], counted: int) -> None:
    scale = "points of 100" if all(pair.is_share for pair in pairs) else "the metric's own scale"
    notes.general(
        f"Paired on common questions, in {scale}; interval and p by video (CR2, t). Holm: p "
        f"corrected for {counted} row{'s' if counted > 1 else ''}; bold (or *) where that is below "
        "0.05."
    )
    notes.general(
        "+ / -: questions that the run, and that the baseline, scores higher; McNemar: exact p of "
        "those two, as if questions were independent. MDE, minimum detectable effect: what data "
        "like these show in 80 of 100 cases; a smaller difference may exist and stay unseen."
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

    def pair(subset: str, keys: Sequence[str], is_variant: bool = False) -> _Pair:
        return _Pair(
            run=place,
            subset=subset,
            first=tuple(ours[key] for key in keys),
            second=tuple(theirs[key] for key in keys),
            is_share=task.is_share,
            is_variant=is_variant,
        )

    pairs = [pair(task.name, common)]
    answered = [k for k in common if "failed" not in (ours[k].outcome, theirs[k].outcome)]
    if answered and len(answered) < len(common):
        pairs.append(
            pair(f"  without {len(common) - len(answered):,} failed", answered, is_variant=True)
        )
    for value, keys in _split(task, [theirs[key] for key in common], by):
        if len(keys) < len(common):
            pairs.append(pair(f"  {value}", keys))
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
