"""A study as tables, curves and heatmaps: how scores move with frames and RoPE settings.

Every number comes from the samples of the points, read by `reports/reading/runs.py` like those of
any run.
A curve is drawn over the questions that all its points were asked, so that a point with other
questions cannot bend it. Bands hold for all points of a line at once; the intervals of a table hold
for one number each.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from longva_eval import stats
from longva_eval.errors import MediaError, SettingsError
from longva_eval.reports.figures.panels import CurveLine, CurvePanel, GridCell, GridPanel
from longva_eval.reports.methods import MethodPoint, method_rows
from longva_eval.reports.reading.controls import under_control
from longva_eval.reports.reading.runs import Run, Sample, read_run
from longva_eval.reports.tables.benchmarks import benchmark_of
from longva_eval.reports.tables.published import (
    find_benchmark,
    published_rows,
    read_published,
)
from longva_eval.studies.definition import (
    AXES,
    RECORD_NAME,
    WITHOUT_FRAMES,
    read_record,
    write_json,
)
from longva_eval.text import csv_cell

if TYPE_CHECKING:
    from longva_eval.reports.figures.paper import FigureWidth

__all__ = [
    "OVERALL",
    "Curve",
    "StudyPoint",
    "StudyRuns",
    "TaskCurves",
    "curve_line",
    "plateau_sentence",
    "published_lines",
    "read_study",
    "rope_grid",
    "study_curves",
    "study_results",
    "study_tables",
    "write_study",
]

OVERALL: Final = "overall"
_DURATIONS: Final = ("duration", "duration_group", "duration_category", "video_duration")
_ORDER: Final = ("short", "medium", "long")
_MOST_SUBSETS: Final = 8
_TOLERANCE: Final = 0.01
_BESIDE: Final = "LongVA-7B, published"


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
        plateau=stats.plateau(scores, clusters, tolerance=_TOLERANCE) if several else None,
        num_failed=counts("failed"),
        num_silent=counts("no answer"),
    )


def _chance(questions: Sequence[Sample]) -> float | None:
    if not all(len(question.options) > 1 for question in questions):
        return None
    return math.fsum(1 / len(question.options) for question in questions) / len(questions)


# Tables -------------------------------------------------------------------------------------------


def study_tables(study: StudyRuns, found: Sequence[TaskCurves], *, form: str = "terminal") -> str:
    """The scores of all tasks as text.

    Args:
        study: From `read_study`.
        found: From `study_curves`.
        form: `terminal` or `md`.
    """
    parts = []
    for task in found:
        for rope in task.ropes:
            title = f"{study.name}, {task.task}" + (f", {rope}" if len(task.ropes) > 1 else "")
            rows = _table_rows(task, rope)
            table = _markdown(rows) if form == "md" else _columns(rows)
            parts.append(f"### {title}\n\n{table}" if form == "md" else f"{title}\n{table}")
        lines = [*_sentences(task), *task.notes]
        parts.append("\n".join(f"- {line}" for line in lines) if form == "md" else "\n".join(lines))
    for point in study.points:
        if point.run is None:
            parts.append(f"Point {point.name} is missing: {point.reason.partition('. ')[0]}.")
    if not found:
        parts.append("No task of this study has questions with scores from 0 to 1.")
    return "\n\n".join(parts)


def _table_rows(task: TaskCurves, rope: str) -> list[list[str]]:
    curves = [curve for subset in task.subsets if (curve := task.find(rope, subset)) is not None]
    overall = curves[-1]
    header = ["frames"]
    for curve in curves:
        header.append(f"{curve.subset} ({curve.estimates[0].num_questions:,})")
    rows = [[*header, "failed", "no answer"]]
    for place, frames in enumerate(overall.frames):
        cells = [_cell(curve.estimates[place]) for curve in curves]
        rows.append(
            [f"{frames:,}", *cells, f"{overall.num_failed[place]}", f"{overall.num_silent[place]}"]
        )
    if any(curve.plateau for curve in curves):
        rows.append(["stops rising", *(_plateau_cell(curve) for curve in curves), "", ""])
    return rows


def _cell(found: stats.Estimate) -> str:
    if found.num_clusters == 1:
        return f"{100 * found.mean:.1f} [one video]"
    low, high = found.interval.low, found.interval.high
    few = " few" if found.is_few else ""
    return f"{100 * found.mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]{few}"


def _plateau_cell(curve: Curve) -> str:
    if curve.plateau is None:
        return ""
    place, flat = curve.plateau.place, curve.plateau.flat_from
    if flat is None:
        return f"{curve.frames[place]:,} or later"
    return f"{curve.frames[place]:,} to {curve.frames[flat]:,}"


def _sentences(task: TaskCurves) -> list[str]:
    clusters = task.curves[-1].estimates[0].num_clusters
    lines = [
        f"Percent right with 95 % intervals over {clusters:,} videos or pictures (clusters); what "
        "failed or was not answered counts as not right."
    ]
    if "circular" in task.controls.values():
        lines.append("circular: right under every rotation of the options.")
    if any(curve.plateau for curve in task.curves):
        lines.append(
            "Stops rising: no later number of frames is surely better than the first one given, "
            f"and from the second on none is better by {100 * _TOLERANCE:g} point (every point "
            "against every later one, on the same questions, at once at 95 %)."
        )
    if any(found.is_few for curve in task.curves for found in curve.estimates):
        lines.append(
            f"few: fewer than {stats.FEW} videos hold a miss, or a hit, so that the interval leans "
            "on the worst case, questions of a video all alike."
        )
    return lines


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:]])


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _score_rows(found: Sequence[TaskCurves]) -> list[dict[str, Any]]:
    """A row for each number, for other programs."""
    rows = []
    for task in found:
        for curve in task.curves:
            for place, (frames, estimate) in enumerate(
                zip(curve.frames, curve.estimates, strict=True)
            ):
                band = curve.bands.intervals[place]
                rows.append(
                    {
                        "task": task.task,
                        "rope": curve.rope,
                        "subset": curve.subset,
                        "frames": frames,
                        "score": round(estimate.mean, 6),
                        "standard_error": round(estimate.standard_error, 6),
                        "low": round(estimate.interval.low, 6),
                        "high": round(estimate.interval.high, 6),
                        "band_low": round(band.low, 6),
                        "band_high": round(band.high, 6),
                        "num_questions": estimate.num_questions,
                        "num_clusters": estimate.num_clusters,
                        "num_failed": curve.num_failed[place],
                        "num_no_answer": curve.num_silent[place],
                    }
                )
    return rows


def _plateau_rows(found: Sequence[TaskCurves]) -> list[dict[str, Any]]:
    return [
        {
            "task": task.task,
            "rope": curve.rope,
            "subset": curve.subset,
            "frames": curve.frames[curve.plateau.place],
            "flat_from": None
            if curve.plateau.flat_from is None
            else curve.frames[curve.plateau.flat_from],
        }
        for task in found
        for curve in task.curves
        if curve.plateau is not None
    ]


# Files --------------------------------------------------------------------------------------------


def write_study(
    folder: Path, *, by: str = "", published: str = "", width: FigureWidth = "page"
) -> tuple[list[Path], str]:
    """Write tables and figures of a study beside its record, and the scores into it.

    Args:
        folder: Of the study.
        by: As in `study_curves`.
        published: A published benchmark whose LongVA curve is drawn beside; `auto` is that of each
            task.
        width: Of the figures.

    Returns:
        The files, and the tables as text.

    Raises:
        MediaError: If a run cannot be read.
        SettingsError: If nothing is published under that name, or not by number of frames.
    """
    from longva_eval.reports.figures.paper import save_figure  # matplotlib, which is slow to load

    study = read_study(folder)
    found = study_curves(study, by=by)
    files = []
    notes = []
    for task in found:
        beside, note = published_lines(task, published)
        notes += [note] if note else []
        figures = {f"frames_{_plain(task.task)}": _curve_figure(study, task, beside, note, width)}
        if len(set(task.ropes) - set(task.controls)) > 1:
            figures[f"rope_{_plain(task.task)}"] = _rope_figure(study, task, width)
        for name, figure in figures.items():
            paths = [study.folder / f"{name}.png", study.folder / f"{name}.svg"]
            save_figure(figure, *paths)
            files += paths
    compared = method_rows(_method_points(study, found))
    text = "\n\n".join([study_tables(study, found), *_methods(compared, "terminal"), *notes])
    table = study.folder / "scores.md"
    body = "\n\n".join([study_tables(study, found, form="md"), *_methods(compared, "md"), *notes])
    table.write_text(f"# {study.name}\n\n{body}\n", encoding="utf-8")
    rows = _score_rows(found)
    if rows:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        lines = (rows[0], *(row.values() for row in rows))
        writer.writerows([csv_cell(cell) for cell in line] for line in lines)
        (study.folder / "scores.csv").write_text(buffer.getvalue(), encoding="utf-8")
        files = [table, study.folder / "scores.csv", *files]
    record = {**study.record, "scores": rows, "plateaus": _plateau_rows(found)}
    write_json(study.folder / RECORD_NAME, record)
    return [*files, study.folder / RECORD_NAME], text


def _method_points(study: StudyRuns, found: Sequence[TaskCurves]) -> list[MethodPoint]:
    """Points that were asked with several policies, with their scores by question."""
    tasks = {task.task for task in found}
    return [
        MethodPoint(
            task=name,
            setting={"frames": told["frames"], "rope": str(told.get("rope")),
                     **{axis: told.get("method", {}).get(axis, AXES[axis]) for axis in AXES}},
            scores={
                question.key: (question.score, question.cluster)
                for question in under_control(task.samples, point.control)
            },
        )
        for point, told in zip(study.points, study.record["points"], strict=True)
        if point.run is not None
        for name, task in point.run.tasks.items()
        if name in tasks
    ]  # fmt: skip


def _methods(rows: Sequence[Sequence[str]], form: str) -> list[str]:
    """The table of methods, if there are any."""
    if len(rows) < 2:
        return []
    title = "Each policy against the first of its axis, on the same questions"
    table = _markdown(rows) if form == "md" else _columns(rows)
    return [f"### {title}\n\n{table}" if form == "md" else f"{title}\n{table}"]


def _plain(task: str) -> str:
    return re.sub(r"[^\w.-]+", "_", task)


def published_lines(task: TaskCurves, published: str) -> tuple[dict[str, CurveLine], str]:
    """LongVA's published curve by subset, and what to know of it."""
    if not published:
        return {}, ""
    scores = read_published()
    if published == "auto":
        benchmark = benchmark_of(task.task)
        if benchmark is None:
            return {}, f"No published curve belongs to {task.task}; --published NAME draws one."
    else:
        benchmark = find_benchmark(published, scores)
    subtitles = ("w/" if "subtitle" in task.task else "w/o",) if benchmark.subtitles else ()
    rows, _ = published_rows(scores, benchmark, models=("LongVA",), subtitles=subtitles)
    rows = [row for row in rows if row.model == "LongVA" and row.frames.isdigit()]
    table = next((row.sources[0] for row in rows), None)
    rows = [row for row in rows if row.sources[0] == table]
    lines = {}
    for place, column in enumerate(benchmark.columns):
        shown = [(int(row.frames), row.percent(place)) for row in rows]
        values = sorted((frames, value / 100) for frames, value in shown if value is not None)
        if len(values) > 1:
            label = column.title.lower()
            lines[label] = CurveLine(
                label=label,
                frames=[frames for frames, _ in values],
                means=[mean for _, mean in values],
                is_published=True,
            )
    if not lines or table is None:
        if published == "auto":
            return {}, f"LongVA's scores on {benchmark.name} are not published by number of frames."
        raise SettingsError(
            f"--published {published}: LongVA's scores on {benchmark.name} are not published by "
            "number of frames; those on Video-MME are."
        )
    note = f"Published: LongVA-7B on {benchmark.name}, {table.table}."
    if benchmark_of(task.task) != benchmark:
        note += f" That is another benchmark than {task.task}."
    return lines, note


def _curve_figure(
    study: StudyRuns,
    task: TaskCurves,
    beside: Mapping[str, CurveLine],
    remark: str,
    width: FigureWidth,
) -> Any:
    """A line for each subset; with several RoPE settings a panel for each subset instead."""
    from longva_eval.reports.figures.curve import draw_curves

    overall = task.curves[-1].estimates[0]
    note = (
        f"{overall.num_questions:,} questions on {overall.num_clusters:,} videos. Bands hold at 95 "
        "% for all points of a line at once, clustered by video."
    )
    if beside:
        note += f"\n{remark}"
    title = f"{study.name} on {task.task}"
    if len(task.lines) > 1:
        panels = [
            CurvePanel(
                title=subset,
                chance=task.chance,
                floors=task.floors(subset),
                lines=[
                    curve_line(curve, rope)
                    for rope in task.lines
                    if (curve := task.find(rope, subset)) is not None
                ]
                + [
                    replace(line, label=_BESIDE) for line in beside.values() if line.label == subset
                ],
            )
            for subset in task.subsets
        ]
        return draw_curves(
            panels,
            title=title,
            note=note,
            legend_title="" if task.controls else "RoPE",
            width=width,
        )
    curves = [c for subset in task.subsets if (c := task.find(task.lines[0], subset)) is not None]
    lines = [curve_line(curve, curve.subset) for curve in curves]
    lines += [line for label, line in beside.items() if label in task.subsets]
    if sentence := plateau_sentence(curves[-1]):
        note += f"\nOverall {sentence}."
    legend = "videos" if len(task.subsets) > 1 else ""
    floors = task.floors(OVERALL)
    panel = CurvePanel(title="", lines=lines, chance=task.chance, floors=floors)
    return draw_curves([panel], title=title, note=note, legend_title=legend, width=width)


def plateau_sentence(curve: Curve) -> str:
    """Where a line stops rising, in words that follow its name; empty if that is not known."""
    flat, frames = curve.plateau, curve.frames
    if flat is None:
        return ""
    if flat.place == len(frames) - 1:
        return "still rises at the last number of frames"
    start = (
        f"surely rises up to {frames[flat.place]:,} frames"
        if flat.place
        else f"does not surely rise after {frames[0]:,} frames"
    )
    if flat.flat_from is None:
        return f"{start}; a later rise of more than 1 point is not excluded"
    return f"{start}; from {frames[flat.flat_from]:,} on it rises by less than 1 point"


def curve_line(curve: Curve, label: str) -> CurveLine:
    """The curve as a line of a figure, its band and the point from which on it is flat."""
    flat = curve.plateau
    stops = flat is not None and flat.place < len(curve.frames) - 1
    return CurveLine(
        label=label,
        frames=curve.frames,
        means=curve.bands.means,
        intervals=[(band.low, band.high) for band in curve.bands.intervals],
        plateau=curve.frames[flat.place] if flat is not None and stops else None,
    )


def _rope_figure(study: StudyRuns, task: TaskCurves, width: FigureWidth) -> Any:
    from longva_eval.reports.figures.heatmap import draw_grids

    overall = task.curves[-1].estimates[0]
    note = (
        f"{overall.num_questions:,} questions on {overall.num_clusters:,} videos; small: 95 % "
        "interval of each cell, clustered by video."
    )
    subsets = [OVERALL, *(subset for subset in task.subsets if subset != OVERALL)]
    return draw_grids(
        [rope_grid(task, subset) for subset in subsets],
        label="Accuracy (%)",
        title=f"{study.name} on {task.task}: RoPE by frames",
        note=note,
        width=width,
    )


def rope_grid(task: TaskCurves, subset: str) -> GridPanel:
    """The scores of a subset by RoPE setting and number of frames."""
    ropes = [rope for rope in task.ropes if rope not in task.controls]
    curves = [curve for rope in ropes if (curve := task.find(rope, subset)) is not None]
    cells = {}
    for curve in curves:
        for frames, found in zip(curve.frames, curve.estimates, strict=True):
            low, high = found.interval.low, found.interval.high
            title = (
                f"{curve.rope}, {frames:,} frames: {100 * found.mean:.1f} % "
                f"({100 * low:.1f} to {100 * high:.1f}), {found.num_questions:,} questions"
            )
            cells[curve.rope, f"{frames:,}"] = GridCell(
                share=found.mean, interval=(low, high), title=title
            )
    return GridPanel(
        title=subset,
        rows=ropes,
        columns=[f"{n:,}" for n in sorted({n for curve in curves for n in curve.frames})],
        cells=cells,
        row_title="",
        column_title="Frames shown to the model",
    )


def study_results(folder: Path) -> list[Path]:
    """The results files of a study's complete points, in the order of the grid.

    Raises:
        MediaError: If there is none.
    """
    record = read_record(folder)
    files = [
        folder / str(point["results"])
        for point in record["points"]
        if point.get("status") == "complete"
    ]
    if not files:
        raise MediaError(f"{folder} has no complete point yet; run the sweep again.")
    return files
