"""The numbers of the page, each from the function that makes it for `compare` and `sweep` too.

A number that would mislead is not made, or comes with what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from longva_eval.questions.outcomes import OUTCOMES
from longva_eval.reports.page.runs import ShownRun, all_tasks, is_hidden, link_to, with_task
from longva_eval.reports.reading import scores
from longva_eval.reports.reading.needle_runs import grid_of
from longva_eval.reports.reading.runs import Sample, TaskRun
from longva_eval.reports.tables.benchmarks import benchmark_of
from longva_eval.reports.tables.compare import comparison_tables
from longva_eval.reports.tables.measured import further_metrics
from longva_eval.reports.tables.paired import NOTHING_COMPARED, paired_tables, signed
from longva_eval.reports.tables.published import published_scores
from longva_eval.reports.tables.tables import Note, Table

__all__ = [
    "Score",
    "category_tables",
    "differences",
    "published_tables",
    "score_of",
    "score_rows",
]

_BADGES: Final = {
    "limit": "part of the benchmark",
    "truncated": "breaks off",
    "damaged": "damaged lines",
    "number of samples": "samples missing",
    "not a number": "NaN scores left out",
    "repeated": "repeated questions",
    "predict only": "no scores",
    "independent": "questions as independent",
    "aggregate": "weighed otherwise by the task",
}
_MOST_CATEGORY_VALUES: Final = 24
_MOST_RUNS_IN_BARS: Final = 6


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score as it is written, with what belongs beside it."""

    text: str
    """The number, or why there is none."""
    is_known: bool = True
    interval: str = ""
    bar: tuple[float, float | None, float | None] | None = None
    """Value and interval in percent, to be drawn; None for what is no share."""
    more: tuple[str, ...] = ()
    """Sentences below it."""
    marks: tuple[str, ...] = ()
    """What is wrong with the run, in a few words each."""


# Summary ------------------------------------------------------------------------------------------


def score_rows(shown: Sequence[ShownRun]) -> list[tuple[str, list[dict[str, Any]]]]:
    """By task: score, interval and outcomes of each run."""
    return [
        (name, [_score_row(each, task) for each, task in with_task(shown, name)])
        for name in all_tasks(shown)
    ]


def _score_row(each: ShownRun, task: TaskRun) -> dict[str, Any]:
    asked = len(task.samples) or task.num_asked or 0
    of = task.num_in_benchmark
    has_outcomes = bool(task.samples) and not is_hidden(task)
    counts = task.counts()
    return {
        "each": each,
        "frames": re.sub(r"\d{4,}", lambda n: f"{int(n[0]):,}", each.run.frames(task.name)),
        "asked": (f"{asked:,}" if asked else "") + (f" of {of:,}" if of and asked != of else ""),
        "score": _task_score(each, task),
        "outcomes": tuple((name, counts[name]) for name in OUTCOMES if counts[name])
        if has_outcomes and task.is_share
        else (),
        "counts": _counts_text(task) if has_outcomes else "",
    }


def _counts_text(task: TaskRun) -> str:
    counts = task.counts()
    if not task.is_share:
        return f"{sum(counts.values()):,} scored"
    partial = sum(0.0 < sample.score < 1.0 for sample in task.samples)
    parts = [f"{counts[name]:,} {name}" for name in OUTCOMES if counts[name] or name == "right"]
    return ", ".join(parts) + (f" ({partial:,} with partial credit)" if partial else "")


def _task_score(each: ShownRun, task: TaskRun) -> Score:
    kinds = dict.fromkeys(problem.kind for problem in each.run.problems_of(task.name))
    marks = tuple(_BADGES[kind] for kind in kinds if kind in _BADGES)
    metric, whole = task.main_metric(), scores.score_of(task)
    if is_hidden(task) or "predict only" in kinds or whole is None:
        hidden = "The right answers are not public: nothing to score."
        text = hidden if is_hidden(task) else "No score"
        return Score(text=text, is_known=False, marks=marks)
    if not task.samples and metric is not None:
        error = ""
        if whole.standard_error is not None:
            kind = "clustered" if metric.is_clustered else "of independent questions"
            error = f"standard error {whole.standard_error:.1f} ({kind})"
        return Score(
            text=_text(whole),
            interval=error,
            more=(f"{metric.name} as lmms-eval wrote it; there are no samples to count",),
            marks=marks,
        )
    rest = [sample for sample in task.samples if sample.outcome != "failed"]
    more = []
    if len(rest) < len(task.samples):
        without = score_of(task, rest)
        text = "all questions failed" if without is None else (
            f"without the {len(task.samples) - len(rest):,} failed: {without.text} "
            f"({without.interval})"
        )  # fmt: skip
        more.append(text)
    if "aggregate" in kinds and metric is not None and metric.percent is not None:
        more.append(f"the task's own score ({metric.name}): {metric.percent:.1f} %")
    further = further_metrics(task)
    if metric is not None and (further or not whole.higher_is_better):
        less = "" if whole.higher_is_better else ", less is better"
        more.append(f"{whole.metric}{less}")
    for label in further:
        other = scores.score_of(task, metric=label)
        if other is not None:
            interval = _interval(other)
            more.append(f"{label}: {_text(other)}" + (f" ({interval})" if interval else ""))
    found = _shown(whole)
    return replace(found, more=(*found.more, *more), marks=marks)


def score_of(task: TaskRun, samples: Sequence[Sample]) -> Score | None:
    """The score of some questions of a task, as `compare` has it; None of nothing."""
    found = scores.score_of(task, samples)
    return None if found is None else _shown(found)


def _shown(found: scores.Score) -> Score:
    known = found.num_videos > 1 and found.low is not None
    ends = (found.low, found.high) if known else (None, None)
    return Score(
        text=_text(found),
        interval=_interval(found) if known else "no interval: one video",
        bar=(found.value, *ends) if found.unit and found.value <= 100 else None,
        more=(f"few: {found.few}",) if found.num_videos > 1 and found.is_few else (),
    )


def _text(found: scores.Score) -> str:
    return f"{found.text} {found.unit}".rstrip()


def _interval(found: scores.Score) -> str:
    if found.low is None or found.high is None:
        return ""
    return f"{found.write(found.low)} to {found.write(found.high)}"


# Beside others ------------------------------------------------------------------------------------


def differences(shown: Sequence[ShownRun]) -> tuple[list[dict[str, Any]], list[Note]]:
    """Every run minus the first, as `compare --baseline` has it, and what to know of them."""
    if len(shown) < 2:
        return [], []
    tables = paired_tables([each.run for each in shown[1:]], shown[0].run)
    others = [each for each in shown[1:] if each.run.path != shown[0].run.path]
    notes = {note.text: note for table in tables for note in table.notes}
    rows = [
        (second, row.cells[0].text, row.data[0])
        for second, table in zip(others, tables, strict=True)
        for row in table.rows
    ]
    ends = [abs(end) for _, _, data in rows for end in (data["low_95"], data["high_95"]) if end]
    if rows:
        notes.pop(NOTHING_COMPARED.text, None)  # of a run; here it would be read as of all
    reach = min(100.0, max([5.0, *ends]))
    made = []
    for second, name, data in rows:
        value, low, high = data["value"], data["low_95"], data["high_95"]
        known = low is not None
        p_value = data["p"] if data["p_holm"] is None else data["p_holm"]
        detectable = data["minimum_detectable"]
        digits = 1 if data["unit"] else 2
        made.append(
            {
                "task": name.strip(),
                "is_part": data["kind"] != "whole",
                "second": second,
                "num_questions": data["questions"],
                "difference": signed(value, digits),
                "interval": f"{signed(low, digits)} to {signed(high, digits)}"
                if known
                else "no interval: one video",
                "bar": (value / reach, low / reach, high / reach) if known
                else (value / reach, None, None),
                "p_value": _p_text(p_value) if known else "",
                "only_second": data["run_better"],
                "only_first": data["baseline_better"],
                "detectable": "" if not known else "none" if detectable is None
                else f"{detectable:.{digits}f}",
                "link": link_to(task=data["task"], first=0, second=second.place, relation="differ"),
            }
        )  # fmt: skip
    return made, list(notes.values())


def _p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def published_tables(shown: Sequence[ShownRun]) -> list[Table]:
    """The published table of each benchmark of the runs with them in it, as `compare` has it."""
    names = {name: benchmark_of(name) for name in all_tasks(shown)}
    known = {benchmark.name: benchmark for benchmark in names.values() if benchmark is not None}
    scores = published_scores() if known else []
    tables = []
    for benchmark in known.values():
        having = [
            each.run for each in shown if any(names[task] is benchmark for task in each.run.tasks)
        ]
        tables += comparison_tables(having, benchmark=benchmark, scores=scores)
    return tables


# Categories ---------------------------------------------------------------------------------------


def category_tables(shown: Sequence[ShownRun]) -> tuple[list[dict[str, Any]], list[str]]:
    """The scores by every category of every task, and what is left out."""
    tables: list[dict[str, Any]] = []
    notes = []
    for name in all_tasks(shown):
        having = [
            (each, task)
            for each, task in with_task(shown, name)
            if task.samples and task.is_share and not is_hidden(task) and grid_of(task) is None
        ]
        drawn = having[:_MOST_RUNS_IN_BARS]
        before = len(tables)
        for category, values in _category_values([task for _, task in drawn]).items():
            if len(values) > _MOST_CATEGORY_VALUES:
                notes.append(f"{name} by {category} ({len(values)} values) is not drawn.")
            elif len(values) > 1:
                tables.append(_category_table(name, category, values, drawn))
        if len(having) > len(drawn) and len(tables) > before:
            notes.append(f"{name}: drawn for the first {len(drawn)} of {len(having)} runs.")
    return tables, notes


def _category_values(tasks: Sequence[TaskRun]) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for task in tasks:
        for sample in task.samples:
            for name, value in sample.categories.items():
                found.setdefault(name, {})[value] = None
    ordered: list[str] = ["short", "medium", "long"]
    return {
        name: [value for value in ordered if value in values]
        if all(value in ordered for value in values)
        else list(values)
        for name, values in found.items()
    }


def _category_table(
    name: str, category: str, values: Sequence[str], having: Sequence[tuple[ShownRun, TaskRun]]
) -> dict[str, Any]:
    rows = []
    for value in values:
        chosen = [
            [sample for sample in task.samples if sample.categories.get(category) == value]
            for _, task in having
        ]
        sizes = sorted({len(samples) for samples in chosen})
        rows.append(
            (
                value,
                f"{' / '.join(f'{size:,}' for size in sizes)} questions",
                tuple(
                    score_of(task, samples)
                    for (_, task), samples in zip(having, chosen, strict=True)
                ),
            )
        )
    runs = tuple(each for each, _ in having)
    return {"task": name, "category": category, "runs": runs, "rows": tuple(rows)}
