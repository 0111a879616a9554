"""The tables of the page: the scores of all runs, and their differences.

A number that would mislead is not shown, or stands beside what is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from longva_eval import stats
from longva_eval.questions.outcomes import OUTCOMES
from longva_eval.reports.page.charts import difference_bar, interval_bar, outcome_bar
from longva_eval.reports.page.common import (
    ShownRun,
    all_tasks,
    badge,
    estimate,
    is_hidden,
    named,
    percent,
    quoted,
    range_text,
    with_task,
)
from longva_eval.reports.page.markup import Markup, isolated, joined, tag
from longva_eval.reports.reading.needle_runs import grid_of
from longva_eval.reports.reading.runs import TaskRun

__all__ = ["comparison_table", "summary_table"]

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


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Two runs on the questions both were asked, or why they are not compared."""

    task: str
    first: ShownRun
    second: ShownRun
    found: stats.PairedComparison | None
    refusal: str = ""


def summary_table(shown: Sequence[ShownRun]) -> Markup:
    """Score, interval and outcomes of every task of every run."""
    rows = []
    for name in all_tasks(shown):
        having = with_task(shown, name)
        for number, (each, task) in enumerate(having):
            head = (
                tag("th", isolated(name), scope="rowgroup", rowspan=len(having), class_="task")
                if number == 0
                else ""
            )
            rows.append(
                tag(
                    "tr", head, *_summary_cells(each, task), class_="first" if number == 0 else None
                )
            )
    columns = ("Task", "Run", "Frames", "Questions", "Score, 95 % interval", "Outcomes")
    table = tag(
        "table",
        tag("caption", "Scores of all runs", class_="unseen"),
        tag("thead", tag("tr", *(tag("th", text, scope="col") for text in columns))),
        tag("tbody", *rows),
        class_="summary",
    )
    key = tag(
        "ul",
        *(
            tag("li", tag("span", class_=f"swatch {name.replace(' ', '-')}"), name)
            for name in OUTCOMES
            if name != "not scored"  # tasks with hidden answers have no bar
        ),
        class_="key",
        aria_label="Colours of the outcomes",
    )
    note = (
        "Questions about one video are not independent: intervals are clustered by video or "
        "picture. Unanswered and failed questions count as not right; where questions failed, "
        "the score without them stands below."
    )
    return joined(tag("div", table, class_="scroll", tabindex=0, role="region",
                      aria_label="Summary table"), key, tag("p", note, class_="note"))  # fmt: skip


def _summary_cells(each: ShownRun, task: TaskRun) -> list[Markup]:
    frames = each.run.frames(task.name)
    counts = task.counts()
    failed = counts["failed"]
    if grid_of(task) is not None:
        lengths = sorted({int(question.record["num_frames"]) for question in task.samples})
        frames = f"{lengths[0]:,} to {lengths[-1]:,}" if len(lengths) > 1 else f"{lengths[0]:,}"
    asked = f"{len(task.samples):,}"
    if task.num_in_benchmark and task.num_in_benchmark != len(task.samples):
        asked += f" of {task.num_in_benchmark:,}"
    if not task.samples:
        asked = f"{task.num_asked:,}" if task.num_asked else "\u2013"
    outcome: Markup | str = "\u2013"
    if task.samples and not is_hidden(task):
        outcome = joined(
            outcome_bar({name: counts[name] for name in OUTCOMES}) if task.is_share else Markup(""),
            tag("span", _counts_text(counts, task), class_="counts"),
        )
    return [
        tag("th", named(each), scope="row"),
        tag("td", frames or "\u2013", class_="number", data_label="Frames"),
        tag("td", asked, class_="number", data_label="Questions"),
        tag("td", _score(each, task, failed), class_="score"),
        tag("td", outcome, class_="outcomes"),
    ]


def _counts_text(counts: Mapping[str, int], task: TaskRun) -> str:
    if not task.is_share:
        return f"{sum(counts.values()):,} scored"
    partial = sum(0.0 < question.score < 1.0 for question in task.samples)
    parts = [f"{counts[name]:,} {name}" for name in OUTCOMES if counts[name] or name == "right"]
    return ", ".join(parts) + (f" ({partial:,} with partial credit)" if partial else "")


def _score(each: ShownRun, task: TaskRun, failed: int) -> Markup:
    problems = each.run.problems_of(task.name)
    kinds = dict.fromkeys(problem.kind for problem in problems)
    marks = [
        tag("a", _BADGES[kind], class_="mark-badge", href="#main")
        for kind in kinds
        if kind in _BADGES
    ]
    if "predict only" in kinds or is_hidden(task):
        why = "The right answers are not public: nothing to score." if is_hidden(task) else ""
        return joined(tag("span", why or "No score", class_="none"), *marks)
    if not task.samples:
        return joined(_as_written(task), *marks)
    found = estimate(task.samples, is_share=task.is_share)
    assert found is not None
    parts = []
    if task.is_share:
        parts.append(tag("strong", f"{percent(found.mean)} %"))
        known = found.num_clusters > 1
        bar = interval_bar(
            found.mean, found.interval.low if known else None,
            found.interval.high if known else None, run=each.place,
        )  # fmt: skip
    else:
        parts.append(tag("strong", f"{found.mean:.3g}"))
        bar = Markup("")
    parts.append(tag("span", range_text(found, is_share=task.is_share), class_="range"))
    if 1 < found.num_clusters < stats.FEWEST_CLUSTERS:
        parts.append(
            tag("span", f"only {found.num_clusters} videos: a rough interval", class_="range")
        )
    parts.append(bar)
    if failed:
        rest = [question for question in task.samples if question.outcome != "failed"]
        other = estimate(rest, is_share=task.is_share)
        if other is None:
            text = "all questions failed"
        else:
            shown = f"{percent(other.mean)} %" if task.is_share else f"{other.mean:.3g}"
            text = (
                f"without the {failed:,} failed: {shown} "
                f"({range_text(other, is_share=task.is_share)})"
            )
        parts.append(tag("span", text, class_="second"))
    metric = task.main_metric()
    if "aggregate" in kinds and metric is not None and metric.percent is not None:
        text = f"the task's own score ({metric.name}): {metric.percent:.1f} %"
        parts.append(tag("span", text, class_="second"))
    return joined(*parts, *marks)


def _as_written(task: TaskRun) -> Markup:
    """The score of a task without samples, as lmms-eval wrote it."""
    metric = task.main_metric()
    if metric is None:
        return tag("span", "No score", class_="none")
    shown = f"{metric.percent:.1f} %" if metric.percent is not None else f"{metric.value:g}"
    error = ""
    if metric.standard_error and metric.percent is not None:
        kind = "clustered" if metric.is_clustered else "of independent questions"
        error = f"standard error {100 * metric.standard_error:.1f} ({kind})"
    source = f"{metric.name} as lmms-eval wrote it; there are no samples to count"
    return joined(
        tag("strong", shown),
        tag("span", error, class_="range") if error else Markup(""),
        tag("span", source, class_="second"),
    )


# Runs against each other --------------------------------------------------------------------------


def comparison_table(shown: Sequence[ShownRun]) -> Markup:
    """Paired differences of runs that were asked the same questions."""
    pairs = _pairs(shown)
    if not pairs:
        return Markup("")
    compared = [pair for pair in pairs if pair.found is not None]
    corrected = stats.holm([pair.found.p_value for pair in compared if pair.found is not None])
    p_values = {id(pair): p for pair, p in zip(compared, corrected, strict=True)}
    ends = [
        max(abs(pair.found.interval.low), abs(pair.found.interval.high))
        for pair in compared
        if pair.found is not None and math.isfinite(pair.found.interval.low)
    ]
    reach = min(1.0, max([0.05, *ends]))
    rows = [_pair_row(pair, p_values.get(id(pair)), reach) for pair in pairs]
    columns = (
        "Task", "Runs", "Questions", "Difference in points, 95 % interval", "p",
        "Only one is right", "Could have shown",
    )  # fmt: skip
    table = tag(
        "table",
        tag("caption", "Paired differences", class_="unseen"),
        tag("thead", tag("tr", *(tag("th", text, scope="col") for text in columns))),
        tag("tbody", *rows),
        class_="pairs",
    )
    note = (
        "Differences are taken within questions that both runs were asked, clustered by video. p "
        "is corrected for the number of comparisons (Holm). “Could have shown” is the smallest "
        "difference that data like these reveal in 80 of 100 cases: a smaller one may exist "
        "unseen."
    )
    return joined(tag("div", table, class_="scroll", tabindex=0, role="region",
                      aria_label="Differences"), tag("p", note, class_="note"))  # fmt: skip


def _pairs(shown: Sequence[ShownRun]) -> list[_Pair]:
    """All pairs of up to three runs; each with the first, of more."""
    pairs = []
    for name in all_tasks(shown):
        having = [
            (each, task)
            for each, task in with_task(shown, name)
            if task.samples and not is_hidden(task)
        ]
        firsts = having[:-1] if len(having) <= 3 else having[:1]
        for number, (first, first_task) in enumerate(firsts):
            for second, second_task in having[number + 1 :]:
                pairs.append(_compare(name, first, first_task, second, second_task))
    return pairs


def _compare(name: str, first: ShownRun, a: TaskRun, second: ShownRun, b: TaskRun) -> _Pair:
    ours = {question.key: question for question in a.samples}
    theirs = {question.key: question for question in b.samples}
    common = [key for key in ours if key in theirs]
    refusal = ""
    if not common:
        refusal = (
            f"no common question: {len(ours):,} and {len(theirs):,} questions, none the same. The "
            "runs used different data."
        )
    elif a.is_share != b.is_share:
        refusal = "the scores are on different scales"
    else:
        other = sum(ours[key].answer != theirs[key].answer for key in common)
        if other:
            refusal = (
                f"{other:,} of {len(common):,} common questions have another right answer: the "
                "runs used different data"
            )
    if refusal:
        return _Pair(task=name, first=first, second=second, found=None, refusal=refusal)
    found = stats.compare_pairs(
        [theirs[key].score for key in common],
        [ours[key].score for key in common],
        [ours[key].cluster for key in common],
    )
    return _Pair(task=name, first=first, second=second, found=found)


def _pair_row(pair: _Pair, p_value: float | None, reach: float) -> Markup:
    who = tag("span", badge(pair.second), " minus ", badge(pair.first), class_="nowrap")
    head = [tag("th", isolated(pair.task), scope="row", class_="task"), tag("td", who)]
    found = pair.found
    if found is None:
        return tag("tr", *head, tag("td", f"Not compared: {pair.refusal}.", colspan=5))
    scale = 100 if _is_share_pair(pair) else 1
    known = math.isfinite(found.interval.low)
    interval = (
        f"{scale * found.interval.low:+.1f} to {scale * found.interval.high:+.1f}"
        if known
        else "no interval: one video"
    )
    difference = joined(
        tag("strong", f"{scale * found.difference:+.1f}"),
        tag("span", interval, class_="range"),
        difference_bar(
            found.difference, found.interval.low if known else None,
            found.interval.high if known else None, reach=reach, run=pair.second.place,
        ) if scale == 100 else Markup(""),
    )  # fmt: skip
    link = (
        f"#task={quoted(pair.task)}&first={pair.first.place}&second={pair.second.place}"
        "&relation=differ"
    )
    only = tag(
        "a",
        f"{pair.second.letter}: {found.num_only_first:,}, "
        f"{pair.first.letter}: {found.num_only_second:,}",
        href=link,
        title="Show these questions",
    )
    p_text = "\u2013" if p_value is None or not known else _p_text(p_value)
    detectable = (
        f"{scale * found.smallest_detectable:.1f}"
        if math.isfinite(found.smallest_detectable)
        else "\u2013"
    )
    return tag(
        "tr",
        *head,
        tag("td", f"{found.num_questions:,}", class_="number", data_label="Questions"),
        tag("td", difference, class_="score"),
        tag("td", p_text, class_="number", data_label="p"),
        tag("td", only, class_="number", data_label="Only one is right"),
        tag("td", detectable, class_="number", data_label="Could have shown"),
    )


def _is_share_pair(pair: _Pair) -> bool:
    return pair.first.run.tasks[pair.task].is_share


def _p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
