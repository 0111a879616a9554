"""Runs beside published scores: from files' contents to tables. Differences: `paired.py`.

Rules that a reader can rely on:

* A question that failed scores 0 and stays in the denominator; a second row leaves it out.
* A run on part of a benchmark is shown, marked, and never ranked.
* What makes two numbers not comparable is a mark on the row and a note below the table.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from longva_eval import stats
from longva_eval.errors import SettingsError
from longva_eval.reports.reading.runs import Run, Sample, TaskRun
from longva_eval.reports.tables.notes import Notes, joined_marks
from longva_eval.reports.tables.published import (
    Benchmark,
    PublishedColumn,
    PublishedRow,
    PublishedScore,
    benchmark_of,
    published_rows,
)
from longva_eval.reports.tables.tables import Cell, Column, Row, Table

__all__ = [
    "Measured",
    "by_length",
    "category_values",
    "comparison_tables",
    "measure",
    "run_labels",
    "subtitle_setting",
]

_MOST_CATEGORIES: Final = 6
_UNRANKED: Final = frozenset(["limit", "truncated", "damaged", "number of samples", "repeated"])
"""Problems that keep a run out of the ranking."""
_UNTOLD: Final = frozenset(
    ["pretrained", "device", "device_map", "batch_size", "on_error", "max_failed", "journal"]
)
"""Model arguments that make no other score."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A score of ours, on the scale it is shown on: percent for shares."""

    value: float
    standard_error: float | None
    low: float | None
    high: float | None
    num_questions: int
    num_clusters: int
    num_failed: int
    unit: str
    """`%`, or empty for a metric that is no share."""
    few: str = ""
    """Which of misses and hits too few videos hold for a narrow interval, in words."""


def measure(questions: Sequence[Sample], *, is_share: bool = True) -> Measured | None:
    """Mean score of the scored questions with its clustered uncertainty; None of none."""
    questions = [question for question in questions if question.is_scored]
    if not questions:
        return None
    found = stats.estimate_mean(
        [question.score for question in questions],
        [question.cluster for question in questions],
        is_share=is_share,
    )
    scale = 100.0 if is_share else 1.0
    return Measured(
        value=scale * found.mean,
        # One video, or videos that all agree, show no spread; that is not certainty.
        standard_error=scale * found.standard_error if found.standard_error else None,
        low=scale * found.interval.low,
        high=scale * found.interval.high,
        num_questions=found.num_questions,
        num_clusters=found.num_clusters,
        num_failed=sum(question.outcome == "failed" for question in questions),
        unit="%" if is_share else "",
        few=_few(found, is_share),
    )


def _few(found: stats.Estimate, is_share: bool) -> str:
    if not found.is_few:
        return ""
    if not is_share:
        return f"{found.num_clusters} videos"
    number, what = min((found.num_with_miss, "miss"), (found.num_with_hit, "hit"))
    return f"{number} video{'s hold' if number != 1 else ' holds'} a {what}"


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
        SettingsError: If no question of the runs has the category asked for.
    """
    if by:
        _check_category(runs, by)
    if benchmark is not None:
        return [_benchmark_table(runs, benchmark, scores, models, subtitles)]
    groups: dict[str, tuple[Benchmark | None, list[str]]] = {}
    for run in runs:
        for task in run.tasks.values():
            known = benchmark_of(task.name)
            name = known.name if known else task.name
            if subtitle_setting(task) == "w/":
                name += " with subtitles"
            names = groups.setdefault(name, (known, []))[1]
            if task.name not in names:
                names.append(task.name)
    tables = [_overview(runs, groups)] if len(groups) > 1 else []
    for known, names in groups.values():
        tables.append(_split_table(runs, known, names, by))
    return tables


# Rows in the making -------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Draft:
    """A row before the best of each column is known."""

    label: str
    params: str
    frames: str
    subtitles: str
    values: dict[int, tuple[float, str, Measured | None]]
    """By column: the number to rank by, as shown, and what is known of it."""
    num_questions: str
    marks: list[str]
    is_ranked: bool
    kind: str
    rule_above: bool = False
    data: Mapping[str, Any]
    extra: str = ""


def _ranks(drafts: Sequence[_Draft], column: int, higher_is_better: bool = True) -> dict[int, int]:
    """1 for the best and 2 for the second of a column; equal as shown is equal.

    Settings with and without subtitles are ranked apart.
    """
    ranks: dict[int, int] = {}
    for setting in dict.fromkeys(draft.subtitles for draft in drafts):
        shown = {
            place: float(draft.values[column][1])
            for place, draft in enumerate(drafts)
            if draft.is_ranked and column in draft.values and draft.subtitles == setting
        }
        ordered = sorted(set(shown.values()), reverse=higher_is_better)
        if len(shown) > 1:
            ranks |= {place: ordered.index(value) + 1 for place, value in shown.items()}
    return {place: rank for place, rank in ranks.items() if rank < 3}


def _table(
    title: str,
    drafts: Sequence[_Draft],
    titles: Sequence[str],
    notes: Notes,
    *,
    extra: str = "",
    lower_is_better: Sequence[int] = (),
) -> Table:
    has_params = any(draft.params for draft in drafts)
    has_frames = any(draft.frames for draft in drafts)
    has_subtitles = len({draft.subtitles for draft in drafts} - {""}) > 1
    has_numbers = any(draft.num_questions for draft in drafts)
    columns = [Column(title="Model", is_number=False)]
    columns += [Column(title="LLM params")] if has_params else []
    columns += [Column(title="Frames")] if has_frames else []
    columns += [Column(title="Subtitles")] if has_subtitles else []
    columns += [Column(title="n")] if has_numbers else []
    columns += [Column(title=name) for name in titles]
    columns += [Column(title=extra)] if extra else []
    ranks = [_ranks(drafts, place, place not in lower_is_better) for place in range(len(titles))]
    rows = []
    for number, draft in enumerate(drafts):
        cells = [Cell(text=draft.label, marks=joined_marks(draft.marks))]
        cells += [Cell(text=draft.params)] if has_params else []
        cells += [Cell(text=draft.frames)] if has_frames else []
        cells += [Cell(text=draft.subtitles)] if has_subtitles else []
        cells += [Cell(text=draft.num_questions)] if has_numbers else []
        data = []
        for place, name in enumerate(titles):
            if place not in draft.values:
                cells.append(Cell(text=""))
                continue
            _, text, known = draft.values[place]
            error = ""
            if known is not None and known.standard_error is not None:
                error = _number(known.standard_error, known.unit)
            cells.append(Cell(text=text, error=error, rank=ranks[place].get(number, 0)))
            data.append({**draft.data, "column": name, **_data_of(text, known)})
        cells += [Cell(text=draft.extra)] if extra else []
        rows.append(Row(cells=tuple(cells), rule_above=draft.rule_above, data=tuple(data)))
    return Table(title=title, columns=tuple(columns), rows=tuple(rows), notes=notes.all())


def _data_of(text: str, known: Measured | None) -> dict[str, Any]:
    row: dict[str, Any] = {"value": text}
    if known is not None:
        row |= {
            "unit": known.unit,
            "standard_error": "" if known.standard_error is None else f"{known.standard_error:.4f}",
            "low_95": "" if known.low is None else f"{known.low:.4f}",
            "high_95": "" if known.high is None else f"{known.high:.4f}",
            "questions": known.num_questions,
            "videos": known.num_clusters,
            "failed": known.num_failed,
        }
    return row


def _number(value: float, unit: str) -> str:
    return f"{value:.1f}" if unit == "%" else f"{value:.2f}"


# Our rows -----------------------------------------------------------------------------------------


def _our_drafts(
    runs: Sequence[Run],
    tasks_of: Callable[[Run], list[tuple[int, TaskRun, PublishedColumn]]],
    notes: Notes,
    *,
    beside_published: bool = False,
) -> list[_Draft]:
    """Rows of runs. `tasks_of` gives the column, the task and what of it is shown."""
    drafts = []
    labels = run_labels(runs)
    reference: dict[str, tuple[str, TaskRun]] = {}
    for run, label in zip(runs, labels, strict=True):
        places = tasks_of(run)
        if not places:
            names = ", ".join(run.tasks)
            notes.general(f"{label} has nothing for this table: it ran {names}.")
            continue
        tasks = list({task.name: task for _, task, _ in places}.values())
        marks: list[str] = []
        kinds = set()
        for task in tasks:
            for problem in run.problems_of(task.name):
                kinds.add(problem.kind)
                if problem.kind == "several runs":
                    notes.general(problem.text)
                elif problem.kind != "aggregate":
                    marks.append(notes.letter(problem.text, task=problem.task))
            other_data = _other_data(task) if beside_published else ""
            if other_data:
                kinds.add("limit")
                marks.append(notes.letter(other_data, task=task.name))
            for text in _differences(label, task, reference):
                marks.append(notes.letter(text, task=task.name))
        values: dict[int, tuple[float, str, Measured | None]] = {}
        kept: dict[int, tuple[float, str, Measured | None]] = {}
        failed = 0
        for place, task, column in places:
            found = _column_value(task, column)
            if found is not None:
                values[place] = found
            others = [q for q in task.samples if q.outcome != "failed"]
            without = _column_value(task, column, others)
            if without is not None and len(others) < len(task.samples):
                kept[place] = without
        failed = sum(task.counts()["failed"] for task in tasks)
        asked = sum(len(task.samples) or task.num_asked or 0 for task in tasks)
        subtitles = subtitle_setting(tasks[0])
        data = {
            "row": label,
            "kind": "measured",
            "params": _params(run),
            "frames": run.frames(tasks[0].name),
            "subtitles": subtitles,
            "task": " ".join(task.name for task in tasks),
            "task_version": " ".join(task.version for task in tasks),
            "problems": "; ".join(sorted(kinds)),
            "source": str(run.path),
        }
        draft = _Draft(
            label=label,
            params=_params(run),
            frames=run.frames(tasks[0].name) if len(tasks) == 1 else run.frames(),
            subtitles=subtitles,
            values=values,
            num_questions=f"{asked:,}" if asked else "",
            marks=marks,
            is_ranked=not kinds & _UNRANKED,
            kind="measured",
            data=data,
        )
        drafts.append(draft)
        if failed:
            drafts.append(
                _Draft(
                    label=f"  without the {failed:,} failed",
                    params="",
                    frames="",
                    subtitles="",
                    values=kept,
                    num_questions=f"{asked - failed:,}",
                    marks=[],
                    is_ranked=False,
                    kind="measured",
                    data={**data, "row": f"{label}, without failed"},
                )
            )
    if drafts:
        drafts[0].rule_above = True
    return drafts


def run_labels(runs: Sequence[Run], *, with_frames: bool = False) -> list[str]:
    """Names of runs; what tells them apart is added where names are the same.

    Args:
        runs: What to name.
        with_frames: Whether the number of frames is part of the name, where it tells runs apart;
            tables of scores have a column for it.
    """
    labels = []
    for run in runs:
        same = [other for other in runs if other.name == run.name]
        more = []
        if with_frames and len({other.frames() for other in same}) > 1 and run.frames():
            more.append(f"{run.frames()} frames")
        for key in dict.fromkeys(key for other in same for key in other.model_args):
            given = {other.model_args.get(key, "") for other in same}
            if len(given) > 1 and key not in _UNTOLD and "frames" not in key:
                value = run.model_args.get(key, "")
                more += [f"{key}={value}"] if value else []
        labels.append(", ".join([run.name, *more]))
    frames = ["" if with_frames else run.frames() for run in runs]
    counts = Counter(zip(labels, frames, strict=True))
    # The folder a user chose, above the one that lmms-eval names after the model.
    folders = [_own_folder(run) for run in runs]
    if len(set(folders)) < len(folders):
        folders = [run.date for run in runs]
    return [
        f"{label} ({folder})" if counts[label, shown] > 1 else label
        for label, shown, folder in zip(labels, frames, folders, strict=True)
    ]


def _own_folder(run: Run) -> str:
    folder = run.path.resolve().parent
    model = run.results.get("model_name_sanitized")
    return folder.parent.name if model and folder.name == model else folder.name


def _params(run: Run) -> str:
    found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)[Bb](?![\w.])", run.name.replace("_", "-"))
    return f"{found[1]}B" if found else ""


def subtitle_setting(task: TaskRun) -> str:
    """`w/` or `w/o` for a task whose benchmark has both, else empty."""
    known = benchmark_of(task.name)
    if known is None or not known.subtitles:
        return ""
    name = task.name.lower()
    return "w/" if re.search(r"(?<!o)_subtitle|w_sub|with_sub", name) else "w/o"


def _other_data(task: TaskRun) -> str:
    """What is wrong with the data of a task that has the name of a published benchmark."""
    known = benchmark_of(task.name)
    size = task.num_in_benchmark
    if known is None or size is None or not known.sizes or size in known.sizes:
        return ""
    wanted = " or ".join(f"{number:,}" for number in known.sizes)
    return (
        f"{task.name}: its data have {size:,} questions, {known.name} has {wanted}: other data, no "
        "score of the benchmark."
    )


def _differences(label: str, task: TaskRun, reference: dict[str, tuple[str, TaskRun]]) -> list[str]:
    """What makes a run not comparable with the first one of the same benchmark."""
    known = benchmark_of(task.name)
    name = known.name if known else task.name
    if name not in reference:
        reference[name] = (label, task)
        return []
    other_label, other = reference[name]
    texts = []
    if task.name != other.name:
        texts.append(
            f"{other_label} ran {other.name}: prompts and answer parsing may differ from {label}'s."
        )
    elif task.version != other.version:
        texts.append(
            f"version {task.version or '?'} of the task, {other_label} has {other.version or '?'}."
        )
    if task.samples and other.samples:
        ours = {question.key: question for question in task.samples}
        theirs = {question.key: question for question in other.samples}
        common = ours.keys() & theirs.keys()
        if len(common) < max(len(ours), len(theirs)):
            texts.append(
                f"{len(common):,} questions in common with {other_label}, of {len(ours):,} and "
                f"{len(theirs):,}."
            )
        differing = sum(ours[key].prompt != theirs[key].prompt for key in common)
        if differing and task.name == other.name:
            texts.append(
                f"asked with other prompts than {other_label} ({differing:,} of {len(common):,} "
                "common questions)."
            )
    return texts


def _column_value(
    task: TaskRun, column: PublishedColumn, questions: Sequence[Sample] | None = None
) -> tuple[float, str, Measured | None] | None:
    """What a run has for a column: number, as shown, and how sure."""
    chosen = [q for q in (task.samples if questions is None else questions) if q.is_scored]
    if column.category:
        chosen = [q for q in chosen if column.category in q.categories.values()]
    if column.macro and chosen:
        found = _macro(task, chosen)
        if found is not None:
            return found.value, _number(found.value, found.unit), found
    if chosen:
        measured = measure(chosen, is_share=task.is_share)
        if measured is None:
            return None
        return measured.value, _number(measured.value, measured.unit), measured
    metric = task.main_metric()
    if column.category or task.samples or metric is None:
        return None
    # No samples: what lmms-eval wrote.
    is_percent = metric.percent is not None
    value = metric.value if metric.percent is None else metric.percent
    error = metric.standard_error if is_percent else None
    measured = Measured(
        value=value,
        standard_error=100 * error if error else None,
        low=None,
        high=None,
        num_questions=task.num_asked or 0,
        num_clusters=0,
        num_failed=0,
        unit="%" if is_percent else "",
    )
    return value, _number(value, measured.unit), measured


def _macro(task: TaskRun, questions: Sequence[Sample]) -> Measured | None:
    """Mean over the values of the task's first category, as MLVU's M-Avg.

    The standard error is that of a weighted mean: each question weighs 1 / (categories x questions
    in its category), and weighted deviations are summed by video as in `stats.estimate_mean`.
    """
    names = dict.fromkeys(name for question in questions for name in question.categories)
    name = next((name for name in ("task_type", *names) if name in names), None)
    if name is None or not task.is_share:
        return None
    groups: dict[str, list[Sample]] = {}
    for question in questions:
        groups.setdefault(question.categories.get(name, ""), []).append(question)
    means = {key: math.fsum(q.score for q in group) / len(group) for key, group in groups.items()}
    sums: dict[str, float] = {}
    for key, group in groups.items():
        for question in group:
            deviation = (question.score - means[key]) / (len(groups) * len(group))
            sums[question.cluster] = sums.get(question.cluster, 0.0) + deviation
    clusters = len(sums)
    variance = math.fsum(total**2 for total in sums.values())
    error = math.sqrt(variance * clusters / (clusters - 1)) if clusters > 1 else 0.0
    return Measured(
        value=100 * math.fsum(means.values()) / len(means),
        standard_error=100 * error or None,
        low=None,
        high=None,
        num_questions=len(questions),
        num_clusters=clusters,
        num_failed=sum(question.outcome == "failed" for question in questions),
        unit="%",
    )


# Tables -------------------------------------------------------------------------------------------


def _tasks_for(run: Run, benchmark: Benchmark) -> list[TaskRun]:
    return [
        task
        for task in run.tasks.values()
        if re.fullmatch(benchmark.tasks, task.name) and not task.subtasks
    ]


def _benchmark_table(
    runs: Sequence[Run],
    benchmark: Benchmark,
    scores: Sequence[PublishedScore],
    models: Sequence[str],
    subtitles: Sequence[str] | None,
) -> Table:
    if benchmark.by_frames:
        return _grid_table(runs, benchmark, scores, models)
    notes = Notes()

    def tasks_of(run: Run) -> list[tuple[int, TaskRun, PublishedColumn]]:
        found = []
        for task in _tasks_for(run, benchmark):
            for place, column in enumerate(benchmark.columns):
                if column.benchmark:
                    known = benchmark_of(task.name)
                    if known is None or known.name != column.benchmark:
                        continue
                found.append((place, task, column))
        return found

    ours = _our_drafts(
        _one_task_each(runs, benchmark), tasks_of, notes, beside_published=bool(scores)
    )
    settings = tuple(dict.fromkeys(draft.subtitles for draft in ours if draft.subtitles))
    if benchmark.subtitles:
        wanted = (settings or ("w/o",)) if subtitles is None else tuple(subtitles)
    else:
        wanted = ()
    published, left_out = published_rows(scores, benchmark, models=models, subtitles=wanted)
    frames = {draft.frames for draft in ours if draft.frames}
    drafts = _published_drafts(published, notes, frames, set(settings))
    if benchmark.subtitles and wanted and len(wanted) == 1:
        notes.general({"w/o": "Without subtitles.", "w/": "With subtitles."}[wanted[0]])
    _say_in_general(notes, ours, published, left_out)
    return _table(
        _title(benchmark, published, ours),
        [*drafts, *ours],
        [column.title for column in benchmark.columns],
        notes,
    )


def _one_task_each(runs: Sequence[Run], benchmark: Benchmark) -> list[Run]:
    """Runs in which a benchmark is one row: with and without subtitles are two."""
    if any(column.benchmark for column in benchmark.columns):
        return list(runs)
    split = []
    for run in runs:
        tasks = _tasks_for(run, benchmark)
        if len(tasks) < 2:
            split.append(run)
            continue
        for task in tasks:
            fields = {name: getattr(run, name) for name in run.__dataclass_fields__}
            problems = tuple(p for p in run.problems if p.task in ("", task.name))
            fields |= {
                "tasks": {task.name: task},
                "problems": problems,
                "name": f"{run.name}, {task.name}",
            }
            split.append(Run(**fields))
    return split


def _title(benchmark: Benchmark, published: Sequence[PublishedRow], ours: Sequence[_Draft]) -> str:
    what = "image benchmarks" if benchmark.name == "images" else benchmark.name
    if published and ours:
        return f"{what}: measured beside published"
    return f"{what}: published" if published else what


def _say_in_general(
    notes: Notes, ours: Sequence[_Draft], published: Sequence[PublishedRow], left_out: int
) -> None:
    errors = any(
        known is not None and known.standard_error is not None
        for draft in ours
        for _, _, known in draft.values.values()
    )
    notes.general(
        "In percent"
        + (", ± standard error clustered by video" if errors else "")
        + ". The best of a column is bold (or *), the second underlined, by value alone: that says "
        "nothing about significance."
    )
    if ours and published:
        tasks = dict.fromkeys(
            f"{draft.data['task']} {draft.data['task_version']}".strip() for draft in ours
        )
        notes.general(
            "Published scores come with their authors' prompts and answer parsing; measured ones "
            f"with those of {', '.join(tasks)}."
        )
    if left_out:
        notes.general(f"{left_out:,} more published models: --models all, or parts of their names.")


def _published_drafts(
    rows: Sequence[PublishedRow], notes: Notes, frames: set[str], settings: set[str]
) -> list[_Draft]:
    drafts = []
    common = _common_notes(rows)
    for row in rows:
        marks = []
        for source in row.sources:
            said = common[source.table, source.url]
            text = source.table + "".join(f"; {part}" for part in said)
            marks.append(notes.source(text, source.url))
            marks += [
                notes.letter(f"{part[0].upper()}{part[1:]}.")
                for part in _parts(source.note)
                if part not in said
            ]
        if row.disagrees:
            marks.append(
                notes.letter("Sources disagree about this setting; each is shown as printed.")
            )
        if frames and not row.frames:
            marks.append(notes.letter("The source gives no number of frames."))
        elif frames and row.frames not in frames:
            shown = ", ".join(sorted(frames))
            marks.append(notes.letter(f"Not at the number of frames measured here ({shown})."))
        if settings and row.subtitles not in settings:
            marks.append(notes.letter("Another subtitle setting than measured here."))
        values: dict[int, tuple[float, str, Measured | None]] = {}
        for place, score in row.values.items():
            number = row.percent(place)
            if number is not None:
                shown = f"{number:.1f}" if score.unit == "ratio" else score.value
                values[place] = (number, shown, None)
        name = f"{row.model}, {row.subset}" if row.subset else row.model
        drafts.append(
            _Draft(
                label=name,
                params=row.llm_params,
                frames=row.frames,
                subtitles=row.subtitles,
                values=values,
                num_questions="",
                marks=marks,
                is_ranked=True,
                kind="published",
                data={
                    "row": name,
                    "kind": "published",
                    "params": row.llm_params,
                    "frames": row.frames,
                    "subtitles": row.subtitles,
                    "problems": "sources disagree" if row.disagrees else "",
                    "source": "; ".join(f"{s.table} {s.url}" for s in row.sources),
                    "note": "; ".join(dict.fromkeys(s.note for s in row.sources if s.note)),
                },
            )
        )
    return drafts


def _parts(note: str) -> list[str]:
    return [part.strip() for part in note.split(";") if part.strip()]


def _common_notes(rows: Sequence[PublishedRow]) -> dict[tuple[str, str], list[str]]:
    """By source, what its notes say of every row shown."""
    found: dict[tuple[str, str], list[list[str]]] = {}
    for row in rows:
        for source in row.sources:
            found.setdefault((source.table, source.url), []).append(_parts(source.note))
    return {
        source: [part for part in notes[0] if all(part in other for other in notes)]
        for source, notes in found.items()
    }


def _split_table(
    runs: Sequence[Run], known: Benchmark | None, names: Sequence[str], by: str
) -> Table:
    """A table of one task or benchmark without published rows."""
    tasks = [run.tasks[name] for run in runs for name in names if name in run.tasks]
    if known is not None and known.by_frames:
        return _grid_table(runs, known, (), ())
    columns = list(known.columns) if known else []
    if by or not columns or not any(c.category for c in columns):
        values = category_values(tasks, by)
        last = columns[-1] if columns else PublishedColumn(title="Overall", subset="")
        columns = [PublishedColumn(title=v, subset="", category=v) for v in values] + [last]
    benchmark = Benchmark(
        name=names[0] if len(names) == 1 else known.name if known else ", ".join(names),
        tasks="|".join(map(re.escape, names)),
        columns=tuple(columns),
        subtitles=known.subtitles if known else False,
    )
    return _benchmark_table(runs, benchmark, (), (), None)


def category_values(tasks: Sequence[TaskRun], by: str) -> list[str]:
    """Values to split by: of the category asked for, else of the first that has few."""
    found: dict[str, dict[str, None]] = {}
    for task in tasks:
        for question in task.samples:
            for name, value in question.categories.items():
                found.setdefault(name, {})[value] = None
    if by:
        return list(found.get(by, {}))
    few = (list(values) for values in found.values() if 2 <= len(values) <= _MOST_CATEGORIES)
    return next(few, [])


def _check_category(runs: Sequence[Run], by: str) -> None:
    """A category that no run has would split nothing, and nobody would see it."""
    questions = (q for run in runs for task in run.tasks.values() for q in task.samples)
    found = {name for question in questions for name in question.categories}
    if by not in found:
        there = f"there is {', '.join(sorted(found))}" if found else "their samples have none"
        raise SettingsError(f"--by {by}: no question of the runs has this category; {there}.")


def _overview(
    runs: Sequence[Run], groups: Mapping[str, tuple[Benchmark | None, list[str]]]
) -> Table:
    """All tasks of all runs, one number each."""
    notes = Notes()
    names = list(groups)

    def tasks_of(run: Run) -> list[tuple[int, TaskRun, PublishedColumn]]:
        found = []
        for place, name in enumerate(names):
            known, tasks = groups[name]
            own = [run.tasks[task] for task in tasks if task in run.tasks]
            last = known.columns[-1] if known and known.columns else None
            column = PublishedColumn(title=name, subset="", macro=bool(last and last.macro))
            # Several variants of one benchmark have their own table below.
            if len(own) == 1:
                found.append((place, own[0], column))
        return found

    drafts = _our_drafts(runs, tasks_of, notes)
    lower = [
        place
        for place, name in enumerate(names)
        for run in runs
        for task in groups[name][1]
        if task in run.tasks
        and (metric := run.tasks[task].main_metric()) is not None
        and not metric.higher_is_better
    ]
    _say_in_general(notes, drafts, (), 0)
    return _table("All tasks", drafts, names, notes, lower_is_better=lower)


# Needle grids -------------------------------------------------------------------------------------


def _grid_table(
    runs: Sequence[Run],
    benchmark: Benchmark,
    scores: Sequence[PublishedScore],
    models: Sequence[str],
) -> Table:
    """V-NIAH: a column for each length, the mean of cells, and the effective number of frames."""
    notes = Notes()
    published, left_out = _published_grids(scores, benchmark, models)
    ours = []
    for run in runs:
        ours += [(run, task) for task in _tasks_for(run, benchmark) if task.samples]
    lengths = sorted(
        {frames for row in published for frames in row.values}
        | {frames for _, task in ours for frames in by_length(task.samples)}
    )
    drafts = _published_drafts(published, notes, set(), set())
    for draft in drafts:
        draft.values = {lengths.index(frames): value for frames, value in draft.values.items()}
        numbers = [number for number, _, _ in draft.values.values()]
        draft.values[len(lengths)] = (
            mean := math.fsum(numbers) / len(numbers),
            f"{mean:.1f}",
            None,
        )
    our_drafts = _our_drafts(
        [_only(run, task) for run, task in ours],
        lambda run: [
            (len(lengths), next(iter(run.tasks.values())), PublishedColumn(title="", subset=""))
        ],
        notes,
    )
    tasks = iter(task for _, task in ours)
    for draft in our_drafts:
        draft.frames = ""
        if draft.label.startswith("  "):
            continue
        columns = by_length(next(tasks).samples)
        for frames, questions in columns.items():
            measured = measure(questions)
            if measured is not None:
                share = f"{measured.value:.1f}"
                # Lengths have few needles: the interval says more than a standard error.
                shown = replace(measured, standard_error=None)
                draft.values[lengths.index(frames)] = (measured.value, share, shown)
        draft.extra = (
            str(
                stats.effective_frames(
                    {
                        frames: [(question.cluster, question.score) for question in questions]
                        for frames, questions in columns.items()
                    }
                )
            )
            if columns
            else ""
        )
    notes.general(
        "Needles found, in percent, by number of haystack frames. Effective: the longest haystack "
        "up to which the lower bound (95 %, clustered by needle) stays above 85 % of all needles "
        "(NoLiMa's rule). Published grids have five needles, which is too few to tell."
    )
    if our_drafts and published:
        notes.general("Grids differ in haystack, needles and depths; compare shapes, not decimals.")
    if left_out:
        notes.general(f"{left_out:,} more published models: --models all, or parts of their names.")
    return _table(
        _title(benchmark, published, our_drafts),
        [*drafts, *our_drafts],
        [*(f"{frames:,}" for frames in lengths), "Mean"],
        notes,
        extra="Effective",
    )


def _published_grids(
    scores: Sequence[PublishedScore], benchmark: Benchmark, models: Sequence[str]
) -> tuple[list[PublishedRow], int]:
    return published_rows(scores, benchmark, models=models) if scores else ([], 0)


def _only(run: Run, task: TaskRun) -> Run:
    fields = {name: getattr(run, name) for name in run.__dataclass_fields__}
    several = len(_tasks_named(run)) > 1
    fields |= {
        "tasks": {task.name: task},
        "problems": tuple(p for p in run.problems if p.task in ("", task.name)),
        "name": f"{run.name}, {task.name}" if several else run.name,
    }
    return Run(**fields)


def _tasks_named(run: Run) -> list[str]:
    return [name for name, task in run.tasks.items() if task.samples]


def by_length(questions: Sequence[Sample]) -> dict[int, list[Sample]]:
    """Questions of a needle grid by number of haystack frames."""
    found: dict[int, list[Sample]] = {}
    for question in questions:
        frames = question.record.get("num_frames", question.categories.get("num_frames"))
        try:
            found.setdefault(int(frames), []).append(question)
        except (TypeError, ValueError):
            continue
    return found
