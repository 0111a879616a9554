"""Needle grids as tables: a column for each length, the mean, and the effective frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

from longva_eval import stats
from longva_eval.reports.reading.run import Run, TaskRun
from longva_eval.reports.reading.samples import Sample
from longva_eval.reports.reading.scores import score_facts, score_of
from longva_eval.reports.tables.benchmarks import Benchmark, PublishedColumn, benchmark_of
from longva_eval.reports.tables.measured import Place, measured_drafts, only
from longva_eval.reports.tables.notes import Notes
from longva_eval.reports.tables.printed import published_drafts
from longva_eval.reports.tables.published import PublishedScore, published_rows
from longva_eval.reports.tables.rows import Draft, Value, score_table
from longva_eval.reports.tables.tables import Table

__all__ = ["by_length", "grid_table"]


def grid_table(
    runs: Sequence[Run],
    benchmark: Benchmark,
    scores: Sequence[PublishedScore],
    models: Sequence[str],
) -> Table:
    """The table of V-NIAH.

    Args:
        runs: A row for each of their tasks that is a grid.
        benchmark: V-NIAH.
        scores: Published ones to stand beside them.
        models: Which of these, as in `published_rows`.
    """
    notes = Notes()
    published, left_out = published_rows(scores, benchmark, models=models) if scores else ([], 0)
    ours = [
        (run, task)
        for run in runs
        for task in run.tasks.values()
        if task.samples and not task.is_group and benchmark_of(task.name) is benchmark
    ]
    lengths = sorted(
        {frames for row in published for frames in row.values}
        | {frames for _, task in ours for frames in by_length(task.samples)}
    )
    mean = len(lengths)
    drafts = published_drafts(published, benchmark, notes)
    for draft in drafts:
        numbers = [value.number for value in draft.values.values()]
        draft.values = {lengths.index(frames): value for frames, value in draft.values.items()}
        number = math.fsum(numbers) / len(numbers)
        facts = {"part": "mean", "value": number, "unit": "%"}
        draft.values[mean] = Value(number=number, text=f"{number:.1f}", unit="%", facts=facts)
    several = {run.path for run, _ in ours if sum(run is other for other, _ in ours) > 1}
    rows = [
        only(run, task, name=f"{run.name}, {task.name}" if run.path in several else "")
        for run, task in ours
    ]
    whole = PublishedColumn(title="Mean", subset="")
    our_drafts = measured_drafts(
        rows,
        lambda run: [Place(column=mean, task=next(iter(run.tasks.values())), shown=whole)],
        notes,
    )
    tasks = iter(task for _, task in ours)
    for draft in our_drafts:
        draft.frames = ""
        if draft.label.startswith("  "):  # without the failed
            continue
        task = next(tasks)
        if mean in draft.values:
            _fill(draft, task, lengths)
    notes.general(
        "Needles found, in percent, by number of haystack frames. Effective: the longest haystack "
        "up to which the lower bound (95 %, clustered by needle) stays above 85 % of all needles "
        "(NoLiMa's rule). Published grids have five needles, which is too few to tell."
    )
    if our_drafts and published:
        notes.general("Grids differ in haystack, needles and depths; compare shapes, not decimals.")
    if left_out:
        notes.general(f"{left_out:,} more published models: --models all, or parts of their names.")
    title = benchmark.name
    if published:
        title += ": measured beside published" if ours else ": published"
    titles = [*(f"{frames:,}" for frames in lengths), "Mean"]
    return score_table(title, [*drafts, *our_drafts], titles, notes, extra="Effective")


def _fill(draft: Draft, task: TaskRun, lengths: Sequence[int]) -> None:
    """The numbers of a run's row, beside its mean."""
    columns = by_length(task.samples)
    whole = draft.values[len(lengths)].facts
    for frames, samples in columns.items():
        found = score_of(task, samples)
        if found is not None:
            # A length has few needles: the mean says so for all of them.
            draft.values[lengths.index(frames)] = Value(
                number=found.value,
                text=found.text,
                unit=found.unit,
                facts={
                    **whole,
                    **score_facts(found),
                    "category": "num_frames",
                    "part": f"{frames}",
                },
            )
    if not columns:
        return
    found_at = {
        frames: [(sample.cluster, sample.score) for sample in samples]
        for frames, samples in columns.items()
    }
    effective = stats.effective_frames(found_at)
    draft.extra = str(effective)
    names = ("kind", "run", "params", "seeds", "task", "task_version", "source")
    draft.values[len(lengths) + 1] = Value(
        number=effective.frames or 0,
        text=draft.extra,
        unit="frames",
        facts={
            **{name: whole.get(name) for name in names},
            "metric": "effective frames",
            "higher_is_better": True,
            "value": effective.frames,
            "unit": "frames",
            "notes": draft.extra,
            "videos": effective.num_needles,
        },
    )


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
