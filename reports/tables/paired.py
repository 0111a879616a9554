"""Runs against a baseline, on the questions both were asked.

Differences are taken within questions and summed by video (`stats.compare_pairs`). Where there is
no common question, or the data differ, there is a sentence in place of a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from longva_eval import stats
from longva_eval.reports.reading.pairs import pair_samples
from longva_eval.reports.reading.run import Run, TaskRun
from longva_eval.reports.reading.samples import Sample
from longva_eval.reports.reading.scores import MetricScores, scores_in
from longva_eval.reports.tables.benchmarks import benchmark_of, subtitle_setting, value_of
from longva_eval.reports.tables.compare import category_values
from longva_eval.reports.tables.grids import by_length
from longva_eval.reports.tables.labels import run_labels
from longva_eval.reports.tables.measured import further_metrics
from longva_eval.reports.tables.notes import Notes
from longva_eval.reports.tables.rows import tidy
from longva_eval.reports.tables.tables import Cell, Column, Note, Row, Table

__all__ = ["NOTHING_COMPARED", "paired_tables", "signed"]

NOTHING_COMPARED: Final = Note(mark="", text="Nothing could be compared.")
_TITLES = ("Questions of", "n", "Videos", "Diff.", "95 % interval", "p", "Holm", "+ / -", "MDE")

Part = Literal["whole", "part", "metric", "without failed"]
"""A whole task; one value of a category, or another metric, of it; or the task again without the
questions that failed."""


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """The common questions of a run and the baseline in one metric."""

    run: int
    """Place of the run."""
    task: TaskRun
    label: str
    """Of the row."""
    part: Part
    category: str = ""
    value: str = ""
    first: tuple[float, ...]
    second: tuple[float, ...]
    clusters: tuple[str, ...]
    metric: MetricScores
    remarks: tuple[str, ...]


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
            if task.is_group:
                continue
            other = _same_task(task, baseline)
            if other is None:
                text = f"{task.name}: not in the baseline; not compared."
                notes[place].general(text, task=task.name)
                continue
            pairs += _pairs_of(place, labels[place + 1], task, other, by, notes[place])
    wholes = sum(pair.part == "whole" for pair in pairs)
    parts = sum(pair.part in ("part", "metric") for pair in pairs)
    compared = [
        stats.compare_pairs(
            pair.first,
            pair.second,
            pair.clusters,
            level=0.05 / max(1, parts if pair.part in ("part", "metric") else wholes),
        )
        for pair in pairs
    ]
    corrected = _corrected(pairs, [found.p_value for found in compared])
    rows: list[list[Row]] = [[] for _ in others]
    for pair, found, p_value in zip(pairs, compared, corrected, strict=True):
        names = (labels[pair.run + 1], labels[0])
        rows[pair.run].append(_row(pair, found, p_value, names, notes[pair.run], mcnemar))
    if pairs:
        _explain(notes[-1], pairs, wholes, parts, mcnemar)
    titles = (*_TITLES, *(["McNemar"] if mcnemar else []))
    return [
        Table(
            title=f"{labels[place + 1]} minus {labels[0]}",
            columns=tuple(
                Column(title=title, is_number=number > 0) for number, title in enumerate(titles)
            ),
            rows=tuple(rows[place]),
            notes=notes[place].all() if rows[place] else (*notes[place].all(), NOTHING_COMPARED),
        )
        for place in range(len(others))
    ]


def _corrected(pairs: Sequence[_Pair], p_values: Sequence[float]) -> list[float | None]:
    """Holm's p in two families, the parts of a task after the whole of it; None if not counted."""
    corrected: list[float | None] = [None] * len(pairs)
    for family in (("whole",), ("part", "metric")):
        members = [place for place, pair in enumerate(pairs) if pair.part in family]
        found = stats.holm([p_values[place] for place in members])
        for place, p_value in zip(members, found, strict=True):
            corrected[place] = p_value
    whole = 0.0
    for place, pair in enumerate(pairs):  # a task's parts follow it
        own = corrected[place]
        if pair.part == "whole":
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
    scale, digits = pair.metric.scale, 1 if pair.metric.scale == 100 else 2
    interval = _bounded(found.interval, pair.metric.is_share)
    marks: tuple[str, ...] = ()
    if found.num_clusters < stats.FEW:
        marks = (notes.letter(f"Fewer than {stats.FEW} videos: read with care."),)
    known = math.isfinite(interval.high)
    low, high = (signed(scale * end, digits) for end in (interval.low, interval.high))
    detectable = scale * found.smallest_detectable
    better, worse = found.num_only_first, found.num_only_second
    if not pair.metric.higher_is_better:
        better, worse = worse, better
    cells = [
        Cell(text=pair.label, marks=marks),
        Cell(text=f"{found.num_questions:,}"),
        Cell(text=f"{found.num_clusters:,}"),
        Cell(
            text=signed(scale * found.difference, digits),
            rank=int(holm is not None and holm < 0.05),
        ),
        Cell(text=f"{low} to {high}" if known else "unknown"),
        Cell(text=_p(found.p_value) if known else ""),
        Cell(text="" if holm is None or not known else _p(holm)),
        Cell(text=f"{better:,} / {worse:,}"),
        Cell(text=f"{detectable:.{digits}f}" if math.isfinite(detectable) else "none"),
    ]
    exact = stats.mcnemar(better, worse) if mcnemar else None
    cells += [] if exact is None else [Cell(text=_p(exact))]
    facts = {
        "table": "differences",
        "kind": pair.part,
        "run": names[0],
        "baseline": names[1],
        "task": pair.task.name,
        "task_version": pair.task.version,
        "category": pair.category,
        "part": pair.value,
        "metric": pair.metric.label,
        "higher_is_better": pair.metric.higher_is_better,
        "value": scale * found.difference,
        "unit": "%" if scale == 100 else "",
        "standard_error": scale * found.standard_error,
        "low_95": scale * interval.low if known else None,
        "high_95": scale * interval.high if known else None,
        "few": f"{found.num_clusters} videos" if marks else "",
        "questions": found.num_questions,
        "videos": found.num_clusters,
        "p": found.p_value if known else None,
        "p_holm": holm if known else None,
        "p_mcnemar": exact,
        "run_better": better,
        "baseline_better": worse,
        "minimum_detectable": detectable if math.isfinite(detectable) else None,
        "notes": " ".join(pair.remarks),
    }
    return Row(cells=tuple(cells), data=(tidy(facts),))


def _explain(notes: Notes, pairs: Sequence[_Pair], wholes: int, parts: int, mcnemar: bool) -> None:
    scales = {pair.metric.scale for pair in pairs}
    scale = "in points of 100" if scales == {100} else "on the metric's own scale"
    if len(scales) > 1:
        scale = "in points of 100 where it is a share, else on the metric's own scale"
    tasks, more = (f"{number} row{'s' * (number > 1)}" for number in (wholes, parts))
    notes.general(
        f"Paired on common questions, {scale}; interval and p by video (CR2, t). Holm: p "
        f"corrected for {tasks} of whole tasks"
        + (f", then for {more} of their parts, none surer than its task" * (parts > 0))
        + "; bold (or *) where that is below 0.05."
    )
    lower = dict.fromkeys(p.metric.label for p in pairs if not p.metric.higher_is_better)
    if lower:
        notes.general(
            f"Less is better, so that a difference below 0 is a gain: {', '.join(lower)}."
        )
    notes.general(
        "+ / -: questions on which the run, and on which the baseline, is better. MDE, minimum "
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
    """The rows of one task: the whole, its parts and further metrics; none if it is refused."""
    pairing = pair_samples(task, other, names=(label, "the baseline"))
    if pairing.refusal:
        text = f"{task.name}: {pairing.refusal.rstrip('.')}; not compared."
        notes.general(text, task=task.name)
        return []
    for remark in pairing.remarks:
        notes.general(f"{task.name}: {remark}", task=task.name)

    def pair(
        name: str,
        members: Sequence[tuple[Sample, Sample]],
        part: Part,
        *,
        metric: str = "",
        category: str = "",
        value: str = "",
    ) -> None:
        mine, theirs = scores_in(task, metric), scores_in(other, metric)
        if mine is None or theirs is None or mine.scale != theirs.scale:
            return
        pairs.append(
            _Pair(
                run=place,
                task=task,
                label=name,
                part=part,
                first=tuple(mine.by_key[sample.key] for sample, _ in members),
                second=tuple(theirs.by_key[sample.key] for _, sample in members),
                clusters=tuple(sample.cluster for _, sample in members),
                metric=mine,
                category=category,
                value=value,
                remarks=pairing.remarks,
            )
        )

    pairs: list[_Pair] = []
    common = list(zip(pairing.first, pairing.second, strict=True))
    pair(task.name, common, "whole")
    answered = [each for each in common if "failed" not in (each[0].outcome, each[1].outcome)]
    if answered and len(answered) < len(common):
        name = f"  without {len(common) - len(answered):,} failed"
        pair(name, answered, "without failed")
    category, parts = _split(task, common, by)
    for value, members in parts.items():
        if len(members) < len(common):
            shown = f"  {int(value):,} frames" if category == "num_frames" else f"  {value}"
            pair(shown, members, "part", category=category, value=value)
    for metric in further_metrics(task):
        pair(f"  {metric}", common, "metric", metric=metric)
    return pairs


def _split(
    task: TaskRun, common: Sequence[tuple[Sample, Sample]], by: str
) -> tuple[str, dict[str, list[tuple[Sample, Sample]]]]:
    """A category and the questions of each of its values that a comparison is repeated for."""
    known = benchmark_of(task.name)
    if known is not None and known.by_frames and not by:
        lengths = by_length([theirs for _, theirs in common])
        of = {sample.key: str(n) for n in sorted(lengths) for sample in lengths[n]}
        category, values = "num_frames", [str(n) for n in sorted(lengths)]
    else:
        split = (by,) if by else known.split if known else ()
        of = {s.key: value for _, s in common if (value := value_of(s, split)) is not None}
        names = dict.fromkeys(name for sample in task.samples for name in sample.categories)
        category = next((name for name in split if name in names), "")
        if by:
            values = category_values([task], by)[1]
        else:
            values = [c.value for c in known.columns if c.value] if known else []
    parts = {value: [each for each in common if of.get(each[1].key) == value] for value in values}
    return category, {value: members for value, members in parts.items() if members}


def _bounded(interval: stats.Interval, is_share: bool) -> stats.Interval:
    """A difference of shares lies within -1 and 1, whatever t says for a few videos."""
    if not is_share or not math.isfinite(interval.high):
        return interval
    return stats.Interval(low=max(-1.0, interval.low), high=min(1.0, interval.high))


def signed(value: float, digits: int) -> str:
    """A difference as it is written: `+2.0`, `-0.5`, `0.0`."""
    text = f"{value:+.{digits}f}"
    return text.replace("+", "").replace("-", "") if float(text) == 0 else text


def _p(value: float) -> str:
    if value < 0.0001:
        return "< 0.0001"
    return f"{value:.4f}" if value < 0.01 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
