"""Tables of scores: which there are for some runs, and their columns.

The rows are made by `measured.py` and `printed.py`, grids of needles by `grids.py`, differences by
`paired.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from longva_eval.errors import SettingsError
from longva_eval.reports.reading.run import Run, TaskRun
from longva_eval.reports.reading.scores import score_of
from longva_eval.reports.tables.benchmarks import (
    Benchmark,
    PublishedColumn,
    benchmark_of,
    missing_parts,
    subtitle_setting,
)
from longva_eval.reports.tables.grids import grid_table
from longva_eval.reports.tables.measured import Place, further_metrics, measured_drafts, only
from longva_eval.reports.tables.notes import Notes
from longva_eval.reports.tables.printed import published_drafts
from longva_eval.reports.tables.published import PublishedRow, PublishedScore, published_rows
from longva_eval.reports.tables.rows import Draft, score_table
from longva_eval.reports.tables.tables import Note, Table

__all__ = ["category_values", "comparison_tables"]

_MOST_CATEGORIES: Final = 6
_MOST_METRICS: Final = 6


def comparison_tables(
    runs: Sequence[Run],
    *,
    benchmark: Benchmark | None = None,
    scores: Sequence[PublishedScore] = (),
    models: Sequence[str] = (),
    subtitles: Sequence[str] | None = None,
    by: str = "",
) -> list[Table]:
    """Tables of scores.

    Args:
        runs: Each becomes a row, or two where questions failed.
        benchmark: Published benchmark to show beside them, from `find_benchmark`.
        scores: From `read_published`.
        models: Published models to show, as in `published_rows`.
        subtitles: Published settings to show; those of the runs if None, without if there is none.
        by: Category to split by where the benchmark's own columns are not known.

    Returns:
        With a benchmark its table. Without, a table for each benchmark or task of the runs, and
        before them one of all tasks if a run has several.

    Raises:
        SettingsError: If no question of the runs has the category asked for, or none of the runs
            has a task of the benchmark.
    """
    if by:
        _check_category(runs, by)
    if benchmark is not None:
        if runs and not any(_tasks_for(run, benchmark) for run in runs):
            ran = "; ".join(f"{run.path} ran {', '.join(run.tasks) or 'nothing'}" for run in runs)
            raise SettingsError(
                f"The runs have no task of {benchmark.name}: {ran}. To see them alone leave out "
                "--published; to see published scores alone leave out the runs."
            )
        return [_benchmark_table(runs, benchmark, scores, models, subtitles)]
    groups: dict[str, tuple[Benchmark | None, list[str]]] = {}
    for run in runs:
        for task in run.tasks.values():
            if task.is_group and score_of(task) is None:
                continue
            known = None if task.is_group else benchmark_of(task.name)
            name = known.name if known else task.name
            if subtitle_setting(task) == "w/" and known:
                name += " with subtitles"
            names = groups.setdefault(name, (known, []))[1]
            if task.name not in names:
                names.append(task.name)
    groups_of_host = {name for run in runs for name, task in run.tasks.items() if task.is_group}
    own = [group for group in groups.values() if not groups_of_host & set(group[1])]
    tables = [] if len(groups) == len(own) == 1 else [_overview(runs, groups)]
    for known, names in own:
        having = [run for run in runs if any(name in run.tasks for name in names)]
        tables.append(_split_table(having, known, names, by))
    return tables


def category_values(tasks: Sequence[TaskRun], by: str = "") -> tuple[str, list[str]]:
    """A category and its values: the one asked for, else the first that has few."""
    found: dict[str, dict[str, None]] = {}
    for task in tasks:
        for question in task.samples:
            for name, value in question.categories.items():
                found.setdefault(name, {})[value] = None
    if by:
        return by, list(found.get(by, {}))
    few = (
        (name, list(values))
        for name, values in found.items()
        if 2 <= len(values) <= _MOST_CATEGORIES
    )
    return next(few, ("", []))


def _check_category(runs: Sequence[Run], by: str) -> None:
    """A category that no run has would split nothing, and nobody would see it."""
    questions = (q for run in runs for task in run.tasks.values() for q in task.samples)
    found = {name for question in questions for name in question.categories}
    if by not in found:
        there = f"there is {', '.join(sorted(found))}" if found else "their samples have none"
        raise SettingsError(f"--by {by}: no question of the runs has this category; {there}.")


# One benchmark ------------------------------------------------------------------------------------


def _benchmark_table(
    runs: Sequence[Run],
    benchmark: Benchmark,
    scores: Sequence[PublishedScore],
    models: Sequence[str],
    subtitles: Sequence[str] | None,
) -> Table:
    if benchmark.by_frames:
        return grid_table(runs, benchmark, scores, models)
    notes = Notes()

    def places_of(run: Run) -> list[Place]:
        found = []
        for task in _tasks_for(run, benchmark):
            missing = missing_parts(task.name, benchmark)
            for number, column in enumerate(benchmark.columns):
                known = benchmark_of(task.name) if column.benchmark else None
                if column.benchmark and (known is None or known.name != column.benchmark):
                    continue
                if column.value in missing or (missing and not column.value):
                    continue
                place = Place(column=number, task=task, shown=column, split=benchmark.split)
                found.append(place)
        return found

    ours = measured_drafts(
        _one_task_each(runs, benchmark), places_of, notes, beside_published=bool(scores)
    )
    settings = tuple(dict.fromkeys(draft.subtitles for draft in ours if draft.subtitles))
    if benchmark.subtitles:
        wanted = (settings or ("w/o",)) if subtitles is None else tuple(subtitles)
    else:
        wanted = ()
    published, left_out = published_rows(scores, benchmark, models=models, subtitles=wanted)
    frames = {draft.frames for draft in ours if draft.frames}
    drafts = published_drafts(published, benchmark, notes, frames=frames, settings=settings)
    if benchmark.subtitles and len(wanted) == 1:
        notes.general({"w/o": "Without subtitles.", "w/": "With subtitles."}[wanted[0]])
    _say_in_general(notes, ours, published, left_out)
    what = "image benchmarks" if benchmark.name == "images" else benchmark.name
    if published:
        what += ": measured beside published" if ours else ": published"
    titles = _titles(benchmark.columns, ours)
    return score_table(what, [*drafts, *ours], titles, notes)


def _titles(columns: Sequence[PublishedColumn], drafts: Sequence[Draft]) -> list[str]:
    """With an arrow where less is better."""
    lower = {
        place
        for draft in drafts
        for place, value in draft.values.items()
        if value.score is not None and not value.score.higher_is_better
    }
    return [f"{c.title} ↓" if place in lower else c.title for place, c in enumerate(columns)]


def _tasks_for(run: Run, benchmark: Benchmark) -> list[TaskRun]:
    return [
        task
        for task in run.tasks.values()
        if re.fullmatch(benchmark.tasks, task.name) and not task.is_group
    ]


def _one_task_each(runs: Sequence[Run], benchmark: Benchmark) -> list[Run]:
    """Runs in which a benchmark is one row: with and without subtitles are two."""
    if any(column.benchmark for column in benchmark.columns):
        return list(runs)
    split = []
    for run in runs:
        tasks = _tasks_for(run, benchmark)
        if len(tasks) < 2:
            split.append(run)
        else:
            split += [only(run, task, name=f"{run.name}, {task.name}") for task in tasks]
    return split


def _say_in_general(
    notes: Notes, ours: Sequence[Draft], published: Sequence[PublishedRow], left_out: int
) -> None:
    known = [v.score for draft in ours for v in draft.values.values() if v.score is not None]
    said = "In percent" if all(score.unit for score in known) else "In percent where it is a share"
    if any(score.standard_error is not None and not score.is_few for score in known):
        said += ", ± standard error clustered by video"
    if not all(score.higher_is_better for score in known):
        said += "; ↓: less is better"
    notes.general(
        f"{said}. The best of a column is bold (or *), the second underlined, by value alone: that "
        "says nothing about significance."
    )
    if ours and published:
        tasks = dict.fromkeys(
            f"{v.facts['task']} {v.facts['task_version']}".strip()
            for draft in ours
            for v in draft.values.values()
        )
        notes.general(
            "Published scores come with their authors' prompts and answer parsing; measured ones "
            f"with those of {', '.join(tasks)}."
        )
    if left_out:
        notes.general(f"{left_out:,} more published models: --models all, or parts of their names.")


def _split_table(
    runs: Sequence[Run], known: Benchmark | None, names: Sequence[str], by: str
) -> Table:
    """A table of one task or benchmark without published rows: its parts, and all its metrics."""
    tasks = [run.tasks[name] for run in runs for name in names if name in run.tasks]
    if known is not None and known.by_frames and not by:
        return grid_table(runs, known, (), ())
    columns = list(known.columns) if known else []
    split = known.split if known else ()
    metrics = dict.fromkeys(label for task in tasks for label in further_metrics(task))
    if not columns:
        main = next((m.label for task in tasks if (m := task.main_metric())), "")
        columns = [PublishedColumn(title=main or "Overall", subset="")]
    elif columns[-1].macro:
        metrics = {}  # its mean over categories is a column
    if by or not any(column.value for column in columns):
        name, values = category_values(tasks, by)
        split = (name,)
        parts = [PublishedColumn(title=value, subset="", value=value) for value in values]
        columns = [*parts, columns[-1]]
    shown = list(metrics)[:_MOST_METRICS]
    columns += [PublishedColumn(title=label, subset="", metric=label) for label in shown]
    benchmark = Benchmark(
        name=names[0] if len(names) == 1 else known.name if known else ", ".join(names),
        tasks="|".join(map(re.escape, names)),
        columns=tuple(columns),
        subtitles=known.subtitles if known else False,
        split=split,
    )
    table = _benchmark_table(runs, benchmark, (), (), None)
    if len(metrics) > len(shown):
        text = f"{len(metrics) - len(shown)} more metrics are in runs_frame."
        table = replace(table, notes=(*table.notes, Note(mark="", text=text)))
    return table


def _overview(
    runs: Sequence[Run], groups: Mapping[str, tuple[Benchmark | None, list[str]]]
) -> Table:
    """All tasks of all runs, one number each. A group's stands here only."""
    notes = Notes()
    columns = []
    for name, (known, _) in groups.items():
        last = known.columns[-1] if known and known.columns else None
        columns.append(PublishedColumn(title=name, subset="", macro=bool(last and last.macro)))

    def places_of(run: Run) -> list[Place]:
        found = []
        for number, (known, tasks) in enumerate(groups.values()):
            own = [run.tasks[task] for task in tasks if task in run.tasks]
            # Several variants of one benchmark, or a part of it, have their own table below.
            if len(own) == 1 and not (known and missing_parts(own[0].name, known)):
                found.append(Place(column=number, task=own[0], shown=columns[number]))
        return found

    drafts = measured_drafts(runs, places_of, notes)
    _say_in_general(notes, drafts, (), 0)
    metrics = dict.fromkeys(
        f"{value.facts['task']} {value.facts['metric']}"
        for draft in drafts
        for value in draft.values.values()
        if value.facts["metric"]
    )
    if metrics:
        notes.general(f"Metrics: {', '.join(metrics)}.")
    table = score_table("All tasks", drafts, _titles(columns, drafts), notes)
    in_groups = {name for run in runs for name, task in run.tasks.items() if task.is_group}
    rows = [
        replace(row, data=tuple(data for data in row.data if data["task"] in in_groups))
        for row in table.rows
    ]
    return replace(table, rows=tuple(rows))
