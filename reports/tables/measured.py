"""Rows of our runs: each number with what makes it not comparable.

Rules that a reader can rely on:

* A question that failed scores 0 and stays in the denominator; a second row leaves it out.
* A run on part of a benchmark, or on other data than the first run, is shown, marked, and never
  ranked.
* A task that is a part of its benchmark, as `videomme_long`, fills that part's column only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from longva_eval.reports.reading.pairs import pair_samples
from longva_eval.reports.reading.run import Run, TaskRun
from longva_eval.reports.reading.samples import Sample
from longva_eval.reports.reading.scores import Score, score_facts, score_of
from longva_eval.reports.tables.benchmarks import (
    PublishedColumn,
    benchmark_of,
    missing_parts,
    subtitle_setting,
    value_of,
)
from longva_eval.reports.tables.labels import params_of, run_labels
from longva_eval.reports.tables.notes import Notes
from longva_eval.reports.tables.rows import Draft, Value

__all__ = ["Place", "further_metrics", "measured_drafts", "only", "score_at"]

_UNRANKED: Final = frozenset(["limit", "truncated", "damaged", "number of samples", "repeated"])
"""Problems that keep a run out of the ranking."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a run has for a column."""

    column: int
    task: TaskRun
    shown: PublishedColumn
    split: tuple[str, ...] = ()
    """Names of the category that `shown.value` is a value of."""


def measured_drafts(
    runs: Sequence[Run],
    places_of: Callable[[Run], list[Place]],
    notes: Notes,
    *,
    beside_published: bool = False,
) -> list[Draft]:
    """Rows of runs, two of one in which questions failed.

    Args:
        runs: In order; others are compared with the first that has the same benchmark.
        places_of: What a run has for the columns.
        notes: Of the table.
        beside_published: Whether they are ranked with published scores, so that the data must be
            the benchmark's.
    """
    drafts: list[Draft] = []
    reference: dict[str, tuple[str, TaskRun]] = {}
    # A row has its frames in a column; notes need them in the name.
    full = run_labels(runs, with_frames=True)
    for run, label, name in zip(runs, run_labels(runs), full, strict=True):
        places = places_of(run)
        if not places:
            notes.general(f"{label} has nothing for this table: it ran {', '.join(run.tasks)}.")
            continue
        tasks = list({place.task.name: place.task for place in places}.values())
        row = _row_of(run, (label, name), tasks, reference, notes, beside_published)
        kept = replace(row, values={}, label="", marks=[], is_ranked=False)
        for place in places:
            found = score_at(place)
            if found is not None:
                row.values[place.column] = _value(found, place, row.facts)
            rest = [s for s in place.task.samples if s.outcome != "failed"]
            if len(rest) < len(place.task.samples):
                without = score_at(place, rest)
                if without is not None:
                    facts = {**row.facts, "kind": "without failed"}
                    kept.values[place.column] = _value(without, place, facts)
        drafts.append(row)
        failed = sum(task.counts()["failed"] for task in tasks)
        if failed:
            asked = sum(len(task.samples) or task.num_asked or 0 for task in tasks)
            kept.label = f"  without the {failed:,} failed"
            kept.params = kept.frames = kept.subtitles = ""
            kept.num_questions = f"{asked - failed:,}"
            drafts.append(kept)
    if drafts:
        drafts[0].rule_above = True
    return drafts


def _row_of(
    run: Run,
    names: tuple[str, str],
    tasks: Sequence[TaskRun],
    reference: dict[str, tuple[str, TaskRun]],
    notes: Notes,
    beside_published: bool,
) -> Draft:
    """A row without its numbers, and whether it may be ranked.

    `names` is its label, and its name in notes.
    """
    label, name = names
    said: list[tuple[str, str]] = []
    is_ranked = True
    for task in tasks:
        for problem in run.problems_of(task.name):
            is_ranked = is_ranked and problem.kind not in _UNRANKED
            if problem.kind == "several runs":
                notes.general(problem.text)
            elif problem.kind != "aggregate":
                said.append((problem.text, problem.task))
        other_data = _other_data(task) if beside_published else ""
        texts, is_alike = _beside_the_first(name, task, reference)
        is_ranked = is_ranked and is_alike and not other_data
        said += [(text, task.name) for text in [other_data, *texts] if text]
    asked = sum(len(task.samples) or task.num_asked or 0 for task in tasks)
    frames = run.frames(tasks[0].name) if len(tasks) == 1 else run.frames()
    return Draft(
        label=label,
        params=params_of(run),
        frames=frames,
        subtitles=subtitle_setting(tasks[0]),
        values={},
        num_questions=f"{asked:,}" if asked else "",
        marks=list(dict.fromkeys(notes.letter(text, task=task) for text, task in said)),
        is_ranked=is_ranked,
        facts={
            "kind": "measured",
            "run": label,
            "params": params_of(run),
            "frames": frames,
            "seeds": run.seeds,
            "notes": " ".join(dict.fromkeys(text for text, _ in said)),
            "source": str(run.path),
        },
    )


def score_at(place: Place, samples: Sequence[Sample] | None = None) -> Score | None:
    """What a run has for a column, of all its questions or of some."""
    task, shown = place.task, place.shown
    if shown.value:
        chosen = task.samples if samples is None else samples
        samples = [s for s in chosen if value_of(s, place.split) == shown.value]
    return score_of(task, samples, metric=shown.metric, over_categories=shown.macro)


def _value(found: Score, place: Place, facts: Any) -> Value:
    task, shown = place.task, place.shown
    names = dict.fromkeys(name for sample in task.samples for name in sample.categories)
    category = next((name for name in place.split if name in names), "") if shown.value else ""
    return Value(
        number=found.value,
        text=found.text,
        unit=found.unit,
        score=found,
        facts={
            **facts,
            "subtitles": subtitle_setting(task),
            "task": task.name,
            "task_version": task.version,
            "category": category,
            "part": shown.value,
            **score_facts(found),
        },
    )


def _other_data(task: TaskRun) -> str:
    """What is wrong with the data of a task that has the name of a published benchmark."""
    known = benchmark_of(task.name)
    size = task.num_in_benchmark
    if known is None or size is None or not known.sizes or size in known.sizes:
        return ""
    missing = missing_parts(task.name, known)
    if missing:
        return f"{task.name}: a part of {known.name}, without {', '.join(missing)}."
    wanted = " or ".join(f"{number:,}" for number in known.sizes)
    return (
        f"{task.name}: its data have {size:,} questions, {known.name} has {wanted}: other data, no "
        "score of the benchmark."
    )


def _beside_the_first(
    label: str, task: TaskRun, reference: dict[str, tuple[str, TaskRun]]
) -> tuple[list[str], bool]:
    """What to know beside the first run of the same benchmark, and whether both may be ranked."""
    known = benchmark_of(task.name)
    name = f"{known.name if known else task.name}{subtitle_setting(task)}"
    other_label, other = reference.setdefault(name, (label, task))
    if other is task:
        return [], True
    if not task.samples or not other.samples:
        sizes = {each.num_in_benchmark for each in (task, other)} - {None}
        if len(sizes) == 1 or None in (task.num_in_benchmark, other.num_in_benchmark):
            return [], True
        return [
            f"its data have {task.num_in_benchmark:,} questions, those of {other_label} "
            f"{other.num_in_benchmark:,}: other data, not ranked together."
        ], False
    pairing = pair_samples(task, other, names=(label, other_label))
    if pairing.refusal:
        return [f"{pairing.refusal}; not ranked together."], False
    return list(pairing.remarks), pairing.is_alike


def further_metrics(task: TaskRun) -> list[str]:
    """Labels of the metrics beside the main one that say something that no other column says."""
    main = task.main_metric()
    values = {value for sample in task.samples for value in sample.categories.values()}
    return [
        metric.label
        for metric in task.metrics
        if metric is not main and metric.name not in values and score_of(task, metric=metric.label)
    ]


def only(run: Run, task: TaskRun, *, name: str = "") -> Run:
    """A run as if it had one task only, under another name if one is given."""
    problems = tuple(problem for problem in run.problems if problem.task in ("", task.name))
    return replace(run, tasks={task.name: task}, problems=problems, name=name or run.name)
