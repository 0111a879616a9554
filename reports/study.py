"""What a finished study writes: tables, curves and heatmaps, and its scores for other programs.

The intervals of a table hold for one number each, the bands of a figure for all points of a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longva_eval import stats
from longva_eval.reports.methods import MethodPoint, method_rows, method_table
from longva_eval.reports.reading.controls import under_control
from longva_eval.reports.reading.study import (
    TOLERANCE,
    Curve,
    StudyRuns,
    TaskCurves,
    read_study,
    study_curves,
)
from longva_eval.reports.tables.tables import Row, Table, render, text_table
from longva_eval.studies.definition import AXES, RECORD_NAME, write_json

if TYPE_CHECKING:
    from longva_eval.reports.figures.paper import FigureWidth

__all__ = ["study_tables", "write_study"]


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
    # They load matplotlib, which is slow.
    from longva_eval.reports.figures.paper import save_figure
    from longva_eval.reports.figures.study import curve_figure, published_lines, rope_figure

    study = read_study(folder)
    found = study_curves(study, by=by)
    files = []
    notes = []
    for task in found:
        beside, note = published_lines(task, published)
        notes += [note] if note else []
        name = re.sub(r"[^\w.-]+", "_", task.task)
        figures = {f"frames_{name}": curve_figure(study, task, beside, note, width)}
        if len(set(task.ropes) - set(task.controls)) > 1:
            figures[f"rope_{name}"] = rope_figure(study, task, width)
        for stem, figure in figures.items():
            paths = [study.folder / f"{stem}.png", study.folder / f"{stem}.svg"]
            save_figure(figure, *paths)
            files += paths
    tables = [*study_tables(study, found), *method_table(method_rows(_method_points(study, found)))]
    notes += [
        f"Point {point.name} is missing: {point.reason.partition('. ')[0]}."
        for point in study.points
        if point.run is None
    ]
    if not found:
        notes.append("No task of this study has questions with scores from 0 to 1.")
    table = study.folder / "scores.md"
    body = "\n".join([f"# {study.name}\n", render(tables, "md"), *notes])
    table.write_text(f"{body.rstrip()}\n", encoding="utf-8")
    rows = _score_rows(found)
    if rows:
        text = render([Table(title="", columns=(), rows=(Row(cells=(), data=tuple(rows)),))], "csv")
        (study.folder / "scores.csv").write_text(text, encoding="utf-8")
        files = [table, study.folder / "scores.csv", *files]
    record = {**study.record, "scores": rows, "plateaus": _plateau_rows(found)}
    write_json(study.folder / RECORD_NAME, record)
    shown = "\n".join([render(tables, "terminal"), *notes]).strip()
    return [*files, study.folder / RECORD_NAME], shown


def study_tables(study: StudyRuns, found: Sequence[TaskCurves]) -> list[Table]:
    """The scores of all tasks, a table for each RoPE setting.

    Args:
        study: From `read_study`.
        found: From `study_curves`.
    """
    tables = []
    for task in found:
        for rope in task.ropes:
            title = f"{study.name}, {task.task}" + (f", {rope}" if len(task.ropes) > 1 else "")
            notes = [*_sentences(task), *task.notes] if rope == task.ropes[-1] else []
            tables.append(text_table(title, _table_rows(task, rope), notes=notes))
    return tables


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
            f"and from the second on none is better by {100 * TOLERANCE:g} point (every point "
            "against every later one, on the same questions, at once at 95 %)."
        )
    if any(found.is_few for curve in task.curves for found in curve.estimates):
        lines.append(
            f"few: fewer than {stats.FEW} videos hold a miss, or a hit, so that the interval leans "
            "on the worst case, questions of a video all alike."
        )
    return lines


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
