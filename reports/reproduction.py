"""What a paper prints beside what was measured: difference, interval, verdict. No torch.

The interval is that of our score, clustered by video, moved by the printed number, which is taken
as exact: the paper does not print its spread. Both asked the same questions, so that a faithful
repetition lies much nearer than the interval is wide; a difference outside it is no chance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from longva_eval.files import write_atomically
from longva_eval.reports.explain import warnings_of
from longva_eval.reports.reading.needle_runs import read_needle_run
from longva_eval.reports.reading.run import Run, TaskRun
from longva_eval.reports.reading.runs import read_run
from longva_eval.reports.reading.scores import Score, score_of
from longva_eval.reports.tables.benchmarks import Benchmark, benchmark_of
from longva_eval.reports.tables.grids import by_length
from longva_eval.reports.tables.measured import Place, score_at
from longva_eval.reports.tables.published import (
    PublishedRow,
    find_benchmark,
    published_rows,
    published_scores,
)
from longva_eval.reports.tables.tables import Table, render, text_table

__all__ = ["Reproduced", "reproduced", "write_reproduction"]

_ROUNDING: Final = 0.05
"""Half of the last digit that papers print."""


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """A printed number and ours, in percent."""

    name: str
    frames: str
    paper: float | None
    """None where the paper prints none."""
    ours: Score | None
    """None where nothing was measured."""
    is_comparable: bool
    """Whether the data are the benchmark's, all of them."""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, in points."""
        if self.paper is None or self.ours is None:
            return None
        return self.ours.value - self.paper

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, of the difference."""
        found = self.ours
        if self.paper is None or found is None or found.low is None or found.high is None:
            return None
        return found.low - self.paper, found.high - self.paper

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.difference is None:
            return "not measured" if self.ours is None else "not printed"
        if not self.is_comparable:
            return "other data"
        if abs(self.difference) <= _ROUNDING:
            return "as printed"
        if self.interval is None:
            return "unknown"
        return "consistent" if self.interval[0] <= 0 <= self.interval[1] else "differs"

    def as_json(self) -> dict[str, Any]:
        """Numbers, and no more."""
        return {
            "part": self.name,
            "frames": self.frames,
            "paper_percent": self.paper,
            "ours_percent": self.ours and self.ours.value,
            "difference_points": self.difference,
            "interval_95": self.interval,
            "questions": self.ours.num_questions if self.ours else 0,
            "verdict": self.verdict,
        }


def reproduced(
    runs: Sequence[tuple[str, Run]], benchmark: Benchmark, printed: Sequence[PublishedRow]
) -> list[Reproduced]:
    """Every printed number of a benchmark's rows, with ours.

    Args:
        runs: Numbers of frames as printed (empty where the paper has none), and a run at each.
        benchmark: The table.
        printed: One row for each number of frames.
    """
    found = []
    for frames, run in runs:
        row = next((row for row in printed if row.frames in ("", frames)), None)
        tasks = [task for task in run.tasks.values() if task.samples and not task.is_group]
        if benchmark.by_frames:
            found += _of_grid(run, tasks, row)
            continue
        for place, column in enumerate(benchmark.columns):
            name = column.benchmark or benchmark.name
            own = [each for each in tasks if (b := benchmark_of(each.name)) and b.name == name]
            # What stands in for the data of a benchmark has its columns.
            task = own[0] if own else None if column.benchmark and len(tasks) > 1 else tasks[0]
            score, is_known = None, bool(own)
            if task is not None:
                at = Place(column=place, task=task, shown=column, split=benchmark.split)
                score = score_at(at)
                is_known = is_known and _is_whole(run, task)
            paper = row.percent(place) if row else None
            found.append(
                Reproduced(
                    name=column.title, frames=frames, paper=paper, ours=score,
                    is_comparable=is_known,
                )
            )  # fmt: skip
    return found


def _of_grid(run: Run, tasks: Sequence[TaskRun], row: PublishedRow | None) -> list[Reproduced]:
    """A grid of needles: its lengths."""
    columns = by_length(tasks[0].samples)
    lengths = sorted({*columns, *(row.values if row else ())})
    return [
        Reproduced(
            name="needles found",
            frames=f"{length:,}",
            paper=row.percent(length) if row else None,
            ours=score_of(tasks[0], columns[length]) if length in columns else None,
            is_comparable=_is_whole(run, tasks[0]),
        )
        for length in lengths
    ]


def _is_whole(run: Run, task: TaskRun) -> bool:
    known = benchmark_of(task.name)
    sizes = known.sizes if known is not None else ()
    size = task.num_in_benchmark
    return not warnings_of(run, task) and (size is None or not sizes or size in sizes)


def write_reproduction(
    folder: Path,
    *,
    title: str,
    benchmark: str,
    model: str,
    source: str,
    runs: Mapping[str, Path],
    notes: Sequence[str],
) -> str:
    """Write every printed number of a table with ours into `folder / "reproduction.json"`.

    Args:
        folder: For the file.
        title: Of the table that is returned.
        benchmark: Name of the table.
        model: As its rows name it.
        source: Beginning of the rows' `source_table`.
        runs: By numbers of frames as printed, as in `reproduced`.
        notes: What a reader must know beside that.

    Returns:
        The same as text.

    Raises:
        MediaError: If a run cannot be read.
    """
    scores = [
        score
        for score in published_scores()
        if score.model == model and score.source_table.startswith(source)
    ]
    table = find_benchmark(benchmark, scores)
    printed, _ = published_rows(scores, table, models=[model])
    found = [
        (frames, read_needle_run(path)[0] if table.by_frames else read_run(path))
        for frames, path in runs.items()
    ]
    rows = reproduced(found, table, printed)
    notes = [
        "The interval is that of our score, clustered by video; the printed number is taken as "
        "exact. On the same questions a faithful repetition lies nearer than it is wide.",
        f"Printed: {printed[0].sources[0].table} {printed[0].sources[0].url}",
        *notes,
    ]
    if any(row.verdict == "differs" for row in rows):
        notes.append(
            "What differs in the recipe: longva-eval explain RUN --like longva-paper "
            "(docs/explain.md)."
        )
    path = folder / "reproduction.json"
    with write_atomically(path) as temporary:
        text = json.dumps([row.as_json() for row in rows], indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    shown = render([_table(title, rows, notes)], "terminal")
    return f"\n{shown}\nThe same as JSON: {path}"


def _table(title: str, rows: Sequence[Reproduced], notes: Sequence[str]) -> Table:
    """The rows as a table."""
    lines = [["Part", "Frames", "Paper", "Ours", "Difference", "95 % interval", "Verdict"]]
    rules = []
    for before, row in zip((None, *rows), rows, strict=False):
        cells = [row.name, row.frames, "", "", "", "", row.verdict]
        cells[2] = "" if row.paper is None else f"{row.paper:.1f}"
        cells[3] = "" if row.ours is None else row.ours.text
        cells[4] = "" if row.difference is None else f"{row.difference:+.1f}"
        cells[5] = "" if row.interval is None else "{:+.1f} to {:+.1f}".format(*row.interval)
        lines.append(cells)
        rules.append(before is not None and before.name != row.name and before.frames != row.frames)
    table = text_table(title, lines, notes=notes)
    ruled = [replace(row, rule_above=rule) for row, rule in zip(table.rows, rules, strict=True)]
    verdict = replace(table.columns[-1], is_number=False)
    return replace(table, columns=(*table.columns[:-1], verdict), rows=tuple(ruled))
