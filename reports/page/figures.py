"""The figures of the page: curves over frames, maps over RoPE settings, needle grids.

What they show comes from the functions that make the figures of `sweep` and `niah`; here it becomes
HTML tables in colour, and SVG whose colours are the style sheet's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longva_eval import stats
from longva_eval.errors import MediaError
from longva_eval.reports.figures.panels import CurvePanel, GridCell, GridPanel
from longva_eval.reports.figures.study import (
    curve_line,
    plateau_sentence,
    published_lines,
    rope_grid,
)
from longva_eval.reports.methods import method_panels
from longva_eval.reports.page.charts import draw_chart
from longva_eval.reports.page.runs import ShownRun, all_tasks, link_to, with_task
from longva_eval.reports.reading.controls import control_of
from longva_eval.reports.reading.needle_runs import (
    Controls,
    Grid,
    grid_of,
    insert_index,
    is_lattice,
)
from longva_eval.reports.reading.runs import Run, TaskRun
from longva_eval.reports.reading.samples import as_number
from longva_eval.reports.reading.study import (
    OVERALL,
    StudyPoint,
    StudyRuns,
    TaskCurves,
    study_curves,
)
from longva_eval.reports.tables.labels import rope_text
from longva_eval.studies.definition import NEEDLES_NAME

__all__ = ["GridFigure", "frame_figures", "method_figures", "needle_figures"]


@dataclass(frozen=True, kw_only=True)
class GridFigure:
    """A grid in colour."""

    identity: str
    each: ShownRun | None
    """The run, if it is of one."""
    title: str
    panel: GridPanel
    links: Mapping[tuple[str, str], str]
    missed: Mapping[tuple[str, str], Sequence[Sequence[str]]]
    """By place: needle, answer and what was said."""
    sentences: tuple[str, ...]

    def missed_by_place(self) -> dict[str, Sequence[Sequence[str]]]:
        """As the page's script asks for it."""
        return {f"{row}|{column}": found for (row, column), found in self.missed.items() if found}


# Curves -------------------------------------------------------------------------------------------


def frame_figures(shown: Sequence[ShownRun]) -> tuple[list[dict[str, Any]], list[GridFigure]]:
    """A curve for each model, task and RoPE setting that was run at several numbers of frames.

    And a grid for each model and task that was run at several RoPE settings.
    """
    curves: list[dict[str, Any]] = []
    grids: list[GridFigure] = []
    for name in all_tasks(shown):
        for model in dict.fromkeys(each.run.name for each in shown):
            having = [(each, t) for each, t in with_task(shown, name) if each.run.name == model]
            found = _task_curves(model, name, having)
            if found is None:
                continue
            told = {problem.text for each, _ in having for problem in each.run.problems}
            notes = [note for note in found.notes if note not in told]
            curves += _curve_figures(model, found, notes)
            frames = {count for curve in found.curves for count in curve.frames}
            if len(set(found.ropes) - set(found.controls)) > 1 and len(frames) > 1:
                links = {
                    (_rope(each.run), f"{_asked_frames(each.run, task):,}"): link_to(
                        task=name, run=each.place
                    )
                    for each, task in having
                }
                grids.append(
                    GridFigure(
                        identity=f"rope-{len(grids)}",
                        each=None,
                        title=f"{model}, {name}",
                        panel=rope_grid(found, OVERALL),
                        links=links,
                        missed={},
                        sentences=("Score in percent by RoPE setting.",),
                    )
                )
    return curves, grids


def _rope(run: Run) -> str:
    control = control_of(run)
    return (rope_text(run) or "own RoPE") + ("" if control == "none" else f", {control}")


def _task_curves(
    model: str, name: str, having: Sequence[tuple[ShownRun, TaskRun]]
) -> TaskCurves | None:
    points: dict[tuple[str, int], StudyPoint] = {}
    for each, task in having:
        frames = _asked_frames(each.run, task)
        if (frames or control_of(each.run) == "blind") and grid_of(task) is None:
            run = replace(each.run, tasks={name: task})
            point = StudyPoint(name=each.label, frames=frames, rope=_rope(run), run=run, reason="",
                               control=control_of(run))  # fmt: skip
            points.setdefault((point.rope, frames), point)
    study = StudyRuns(folder=Path(), name=model, points=tuple(points.values()), record={})
    return next(iter(study_curves(study)), None)


def _asked_frames(run: Run, task: TaskRun) -> int:
    """What was asked of most questions, or of the model; 0 if that is no number of frames."""
    asked = [sample.frames_asked for sample in task.samples if sample.frames_asked]
    if asked:
        return max(set(asked), key=asked.count)
    frames = run.frames(task.name)
    return int(frames) if frames.isdigit() else 0


def _curve_figures(model: str, found: TaskCurves, notes: Sequence[str]) -> list[dict[str, Any]]:
    figures = []
    published, note = published_lines(found, "auto")
    for rope in found.ropes:
        curves = [c for subset in found.subsets if (c := found.find(rope, subset)) is not None]
        if len(curves[-1].frames) < 2:
            continue
        overall = curves[-1].estimates[0]
        sentences = [f"{overall.num_questions:,} questions, {overall.num_clusters:,} videos."]
        if sentence := plateau_sentence(curves[-1]):
            sentences.append(f"Overall {sentence}.")
        lines = [curve_line(curve, curve.subset) for curve in curves]
        beside = [line for label, line in published.items() if label in found.subsets]
        named = f"{model}, {rope}" if len(found.ropes) > 1 else model
        figures.append(
            {
                "title": f"{named}, {found.task}",
                "sentences": (*sentences, *([note] if beside else []), *notes),
                "chart": draw_chart(
                    CurvePanel(
                        title=named,
                        lines=[*lines, *beside],
                        chance=found.chance,
                        floors=found.floors(OVERALL),
                    )
                ),
                "curves": tuple(curves),
            }
        )
    return figures


# Needle grids -------------------------------------------------------------------------------------


def needle_figures(shown: Sequence[ShownRun]) -> list[GridFigure]:
    """A grid for each needle test of each run."""
    return [
        _needle_figure(each, name, grid, f"grid-{each.place}-{number}")
        for each in shown
        for number, (name, task) in enumerate(each.run.tasks.items())
        if (grid := grid_of(task)) is not None
    ]


def method_figures(path: Path) -> list[GridFigure]:
    """Of the folder of a study of needle tests: a grid for each press (position, frame policy).

    Nothing for other paths.

    Raises:
        MediaError: If its tables cannot be read.
    """
    file = path / NEEDLES_NAME if path.is_dir() else path
    if file.name != NEEDLES_NAME or not file.is_file():
        return []
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        panels = method_panels(record["scores"])
        name = str(record["settings"]["pretrained"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MediaError(f"{file} cannot be read ({error}): run the sweep again.") from error
    return [
        GridFigure(
            identity=f"method-{number}",
            each=None,
            title=f"{name}, {panel.title}",
            panel=panel,
            links={},
            missed={},
            sentences=(f"{panel.note}.",),
        )
        for number, panel in enumerate(panels)
    ]


def _needle_figure(each: ShownRun, name: str, grid: Grid, identity: str) -> GridFigure:
    cells: dict[tuple[str, str], GridCell] = {}
    links: dict[tuple[str, str], str] = {}
    missed: dict[tuple[str, str], list[list[str]]] = {}
    places: dict[float, str] = {}
    lattice, means = is_lattice(grid), []
    for (frames, depth), samples in grid.items():
        at = float(insert_index(samples) or 0) if lattice else depth
        percent = f"{100 * depth:.4g} %"
        places[at] = f"{at:,.0f}" if lattice else percent
        place = places[at], f"{frames:,}"
        where = (
            f"{frames:,} frames, {f'before frame {at:,.0f}' if lattice else f'depth {percent}'}:"
        )
        found = math.fsum(sample.score for sample in samples)
        means.append(found / len(samples))
        cells[place] = _grid_cell(found, len(samples), where, "needles")
        links[place] = link_to(task=name, run=each.place, c__frames=f"{frames:g}", c__depth=percent)
        missed[place] = [
            [str(s.record.get("needle_name", s.cluster)), s.answer, s.generated[:80]]
            for s in samples
            if s.score < 1
        ]
    controls, apart = each.controls, ""
    for frames, (right, asked) in controls.no_needle_by_frames.items() if controls else ():
        apart = "no needle"
        cells[apart, f"{frames:,}"] = _grid_cell(
            right, asked, f"{frames:,} frames without a needle:", "answered all the same"
        )
    panel = GridPanel(
        title=each.label,
        rows=[*(places[at] for at in sorted(places)), *([apart] if apart else [])],
        columns=[f"{frames:,}" for frames in sorted({frames for frames, _ in grid})],
        cells=cells,
        row_title="Needle before frame" if lattice else "Needle depth",
        column_title="Frames in the video",
        row_apart=apart,
    )
    sentences = [f"Mean of all cells {100 * math.fsum(means) / len(means):.1f} %."]
    return GridFigure(
        identity=identity,
        each=each,
        title=name,
        panel=panel,
        links=links,
        missed=missed,
        sentences=(*sentences, *(_control_sentences(controls) if controls else ())),
    )


def _grid_cell(found: float, asked: int, where: str, what: str) -> GridCell:
    low, high = stats.wilson_interval(found, asked)
    return GridCell(
        share=found / asked,
        interval=(low, high),
        title=f"{where} {found:g} of {asked} {what}, {100 * found / asked:.1f} % "
        f"({100 * low:.1f} to {100 * high:.1f})",
    )


def _control_sentences(controls: Controls) -> list[str]:
    sentences = []
    reach, told = controls.reach, controls.told
    frames, threshold = as_number(reach.get("frames")), as_number(reach.get("threshold"))
    if reach.get("can_be_told") is False:
        sentences.append("Effective frames: too few needles to tell.")
    elif threshold is not None:
        at_least = f"{100 * threshold:.0f} %"
        sentences.append(
            f"Effective frames: none of these lengths has a lower bound above {at_least}."
            if frames is None
            else f"Effective frames {frames:,.0f}{' or more' if reach.get('is_at_least') else ''}: "
            f"up to there the lower bound of a length stays above {at_least}."
        )
    shares = [
        f"{name.replace('_', ' ')} {100 * share:.1f} %"
        for name in ("needle_only", "no_needle", "blind")
        if (share := as_number(told.get(name))) is not None
    ]
    if shares:
        sentences.append(f"Controls: {', '.join(shares)}.")
    if known := told.get("known_without_seeing"):
        names = ", ".join(map(str, known))
        sentences.append(f"Answered without being seen, so they prove nothing: {names}.")
    return sentences
