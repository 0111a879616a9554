"""The runs of a page: where they are read from, their letters, and what all parts say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from longva_eval.errors import MediaError
from longva_eval.reports.reading.needle_runs import Controls, is_needle_folder, read_needle_run
from longva_eval.reports.reading.runs import Problem, Run, TaskRun, read_run
from longva_eval.reports.reading.study import read_study
from longva_eval.reports.tables.labels import run_labels
from longva_eval.reports.tables.notes import letters
from longva_eval.studies.definition import (
    NEEDLES_NAME,
    RECORD_NAME,
    read_study_file,
    study_from,
)

__all__ = [
    "PageRun",
    "ShownRun",
    "all_tasks",
    "is_hidden",
    "link_to",
    "read_page_runs",
    "shown_runs",
    "with_task",
]


@dataclass(frozen=True, kw_only=True)
class PageRun:
    """A run to be shown."""

    run: Run
    controls: Controls | None = None
    """Of a needle test."""
    folder: Path | None = None
    """What the run was read from, if it is a folder."""


@dataclass(frozen=True, kw_only=True)
class ShownRun:
    """A run with its letter and the words that tell it from the others."""

    place: int
    letter: str
    label: str
    run: Run
    controls: Controls | None


def read_page_runs(path: Path) -> list[PageRun]:
    """The runs at a path: needle tests, all points of a study, or the one run that is there.

    Raises:
        MediaError: If nothing can be read there.
    """
    folder = path if path.is_dir() else path.parent
    if path.name == NEEDLES_NAME or (path / NEEDLES_NAME).is_file():
        return [PageRun(run=run, folder=folder) for run in _needle_study_runs(folder)]
    if is_needle_folder(path):
        found = [path]
    elif path.name == RECORD_NAME or (path / RECORD_NAME).is_file():
        return [PageRun(run=run, folder=folder) for run in _study_runs(path)]
    else:
        try:
            return [PageRun(run=read_run(path), folder=folder)]
        except MediaError:
            found = sorted(file.parent for file in path.rglob("cells.jsonl"))
            if not found:
                raise
    pairs = [read_needle_run(each) for each in found]
    return [PageRun(run=run, controls=controls, folder=folder) for run, controls in pairs]


def _study_runs(path: Path) -> list[Run]:
    """The runs of a study's points; what is missing is a problem of the first."""
    study = read_study(path)
    runs = [point.run for point in study.points if point.run is not None]
    missing = [point.name for point in study.points if point.run is None]
    if not runs:
        raise MediaError(f"{path}: no point of this study is finished; longva-eval sweep goes on.")
    if missing:
        problem = Problem(
            kind="truncated",
            text=f"the study {path.name} is not finished: {len(missing)} of {len(study.points)} "
            f"points are missing ({', '.join(missing[:6])}{', ...' if len(missing) > 6 else ''}).",
        )
        runs[0] = replace(runs[0], problems=(problem, *runs[0].problems))
    return runs


def _needle_study_runs(folder: Path) -> list[Run]:
    """A run for each point of a study of needle tests, with all its tests."""
    study = study_from(read_study_file(folder), where=str(folder))
    found = []
    for point in study.needle_points():
        place = folder / "points" / point.name
        runs = [read_needle_run(place / test)[0] for test in study.tests
                if is_needle_folder(place / test)]  # fmt: skip
        if runs:
            tasks = {name: task for run in runs for name, task in run.tasks.items()}
            found.append(replace(runs[0], tasks=tasks, model_args=point.method.changed()))
    return found


def shown_runs(runs: Sequence[PageRun]) -> list[ShownRun]:
    """Letters, and the labels that tables have too."""
    labels = run_labels([each.run for each in runs], with_frames=True)
    return [
        ShownRun(
            place=place,
            letter=letter.upper(),
            label=label,
            run=each.run,
            controls=each.controls,
        )
        for place, (each, label, letter) in enumerate(zip(runs, labels, letters(), strict=False))
    ]


def all_tasks(shown: Sequence[ShownRun]) -> list[str]:
    """Names of all tasks, in the order in which runs have them."""
    return list(dict.fromkeys(name for each in shown for name in each.run.tasks))


def with_task(shown: Sequence[ShownRun], name: str) -> list[tuple[ShownRun, TaskRun]]:
    """The runs that have a task."""
    return [(each, each.run.tasks[name]) for each in shown if name in each.run.tasks]


def is_hidden(task: TaskRun) -> bool:
    """Whether nobody but the board knows the right answers."""
    return bool(task.samples) and not any(question.is_scored for question in task.samples)


def link_to(**given: object) -> str:
    """An address within the page that its script reads: `#task=videomme&run=0`; __ is a dot."""
    return "#" + "&".join(
        f"{quote(name.replace('__', '.'), safe='.')}="
        f"{quote(str(value).encode('utf-8', errors='replace'), safe='')}"
        for name, value in given.items()
    )
