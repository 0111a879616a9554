"""A study read back: its points, their runs, and the curves that their questions make.

A curve is drawn over the questions that all its points were asked, so that a point with other
questions cannot bend it. Bands hold for all points of a line at once; estimates for one number
each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from longva_eval import stats
from longva_eval.errors import SettingsError
from longva_eval.reports.reading.controls import under_control
from longva_eval.reports.reading.runs import Run, Sample, read_run
from longva_eval.studies.definition import WITHOUT_FRAMES, read_record

__all__ = [
    "OVERALL",
    "TOLERANCE",
    "Curve",
    "StudyPoint",
    "StudyRuns",
    "TaskCurves",
    "read_study",
    "study_curves",
]

OVERALL: Final = "overall"
TOLERANCE: Final = 0.01
"""A smaller rise is none."""
_DURATIONS: Final = ("duration", "duration_group", "duration_category", "video_duration")
_ORDER: Final = ("short", "medium", "long")
_MOST_SUBSETS: Final = 8


@dataclass(frozen=True, kw_only=True)
class StudyPoint:
    """A point of a study, and its run if it is there."""

    name: str
    frames: int
    rope: str
    """In words."""
    run: Run | None
    reason: str
    """Why it is missing."""
    control: str = "none"


@dataclass(frozen=True, kw_only=True)
class StudyRuns:
    """A study with the runs of its points."""

    folder: Path
    name: str
    """Of the model."""
    points: tuple[StudyPoint, ...]
    record: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The scores of a subset at one RoPE setting, by number of frames."""

    rope: str
    subset: str
    frames: tuple[int, ...]
    estimates: tuple[stats.Estimate, ...]
    """Each by itself."""
    bands: stats.Bands
    """All at once."""
    plateau: stats.Plateau | None
    """None with fewer than three points, or one video."""
    num_failed: tuple[int, ...]
    num_silent: tuple[int, ...]
    """Questions without an answer that could be read."""


@dataclass(frozen=True, kw_only=True)
class TaskCurves:
    """The curves of a task."""

    task: str
    curves: tuple[Curve, ...]
    subsets: tuple[str, ...]
    """In order, `overall` last."""
    ropes: tuple[str, ...]
    """RoPE settings and controls in words: what a line is."""
    controls: Mapping[str, str]
    """Of these, the control of each that has one."""
    chance: float | None
    notes: tuple[str, ...]
    """What a reader of the numbers must know."""

    @property
    def lines(self) -> list[str]:
        """Those of `ropes` that are drawn as lines; `floors` has the others."""
        return [rope for rope in self.ropes if self.controls.get(rope) not in WITHOUT_FRAMES]

    def floors(self, subset: str) -> dict[str, float]:
        """Scores of the controls that do not depend on the number of frames."""
        found = {rope: self.find(rope, subset) for rope in self.ropes if rope not in self.lines}
        return {
            rope.removeprefix("own RoPE, "): curve.bands.means[-1]
            for rope, curve in found.items()
            if curve is not None
        }

    def find(self, rope: str, subset: str) -> Curve | None:
        """The curve of a subset at a RoPE setting."""
        return next((c for c in self.curves if c.rope == rope and c.subset == subset), None)


def read_study(folder: Path) -> StudyRuns:
    """Read a study and the runs of its points.

    Args:
        folder: With `study.json`, or that file.

    Raises:
        MediaError: If it or a run that it names cannot be read.
    """
    record = read_record(folder)
    folder = folder if folder.is_dir() else folder.parent
    points = []
    for told in record["points"]:
        run = None
        if told.get("status") == "complete":
            run = read_run(folder / str(told["results"]))
        points.append(
            StudyPoint(
                name=str(told["name"]),
                frames=int(told["frames"]),
                rope=str(told.get("rope_label", "")),
                run=run,
                reason=str(told.get("reason", "")),
                control=str(told.get("method", {}).get("control", "none")),
            )
        )
    pretrained = str(record.get("settings", {}).get("pretrained", "")).rstrip("/")
    return StudyRuns(
        folder=folder, name=pretrained.split("/")[-1], points=tuple(points), record=record
    )


# From runs to curves ------------------------------------------------------------------------------


def study_curves(study: StudyRuns, *, by: str = "") -> list[TaskCurves]:
    """The curves of every task whose questions have scores from 0 to 1.

    Args:
        study: From `read_study`.
        by: Category to split by; the videos' duration, where questions have one, if empty.

    Raises:
        SettingsError: If no question has that category.
    """
    runs = [point.run for point in study.points if point.run is not None]
    tasks = list(dict.fromkeys(name for run in runs for name in run.tasks))
    found = [curves for task in tasks if (curves := _task_curves(study, task, by)) is not None]
    if by and found and all(curves.subsets == (OVERALL,) for curves in found):
        known = sorted(
            {name for run in runs for task in run.tasks.values() for question in task.samples
             for name in question.categories}
        )  # fmt: skip
        raise SettingsError(
            f"--by {by}: no task has between 2 and {_MOST_SUBSETS} values of this category. There "
            f"are: {', '.join(known) or 'none'}."
        )
    return found


def _task_curves(study: StudyRuns, name: str, by: str) -> TaskCurves | None:
    points = [
        (point, {question.key: question
                 for question in under_control(point.run.tasks[name].samples, point.control)})
        for point in study.points
        if point.run is not None and name in point.run.tasks
        and point.run.tasks[name].is_share and point.run.tasks[name].samples
    ]  # fmt: skip
    if not points:
        return None
    first = points[0][1]
    if not any(question.is_scored for question in first.values()):
        return None
    common = [key for key in first if all(key in questions for _, questions in points)]
    if not common:
        return None
    most = max(len(questions) for _, questions in points)
    notes = [] if len(common) == most else [
        f"{most - len(common):,} of {most:,} questions are left out: not all points have them."
    ]  # fmt: skip
    for point, _ in points:
        for problem in point.run.problems_of(name) if point.run else ():
            if problem.kind in ("failed", "aggregate", "scale"):
                continue  # the table counts them, and has the mean over questions
            text = re.sub(r"\S*/points/\S+", "a samples file", problem.text)
            if text not in notes:
                notes.append(text)
    groups = _subsets(common, first, by)
    ropes = list(dict.fromkeys(point.rope for point, _ in points))
    curves = []
    for rope in ropes:
        line = sorted(
            ((point.frames, questions) for point, questions in points if point.rope == rope),
            key=lambda each: each[0],
        )
        for subset, keys in groups.items():
            curves.append(_curve(rope, subset, keys, line))
    return TaskCurves(
        task=name,
        curves=tuple(curves),
        subsets=tuple(groups),
        ropes=tuple(ropes),
        controls={point.rope: point.control for point, _ in points if point.control != "none"},
        chance=_chance([first[key] for key in common]),
        notes=tuple(notes),
    )


def _subsets(keys: Sequence[str], questions: Mapping[str, Sample], by: str) -> dict[str, list[str]]:
    names = [by] if by else _DURATIONS
    groups: dict[str, list[str]] = {}
    for key in keys:
        categories = questions[key].categories
        value = next((categories[name] for name in names if name in categories), None)
        if value is not None:
            groups.setdefault(value, []).append(key)
    if not 2 <= len(groups) <= _MOST_SUBSETS:
        groups = {}
    order: list[str] = [value for value in _ORDER if value in groups]
    order += [value for value in groups if value not in order]
    return {value: groups[value] for value in order} | {OVERALL: list(keys)}


def _curve(
    rope: str,
    subset: str,
    keys: Sequence[str],
    line: Sequence[tuple[int, Mapping[str, Sample]]],
) -> Curve:
    clusters = [line[0][1][key].cluster for key in keys]
    scores = [[questions[key].score for key in keys] for _, questions in line]

    def counts(outcome: str) -> tuple[int, ...]:
        return tuple(
            sum(questions[key].outcome == outcome for key in keys) for _, questions in line
        )

    several = len(line) > 2 and len(set(clusters)) > 1
    return Curve(
        rope=rope,
        subset=subset,
        frames=tuple(frames for frames, _ in line),
        estimates=tuple(stats.estimate_mean(each, clusters) for each in scores),
        bands=stats.simultaneous_bands(scores, clusters),
        plateau=stats.plateau(scores, clusters, tolerance=TOLERANCE) if several else None,
        num_failed=counts("failed"),
        num_silent=counts("no answer"),
    )


def _chance(questions: Sequence[Sample]) -> float | None:
    if not all(len(question.options) > 1 for question in questions):
        return None
    return math.fsum(1 / len(question.options) for question in questions) / len(questions)
