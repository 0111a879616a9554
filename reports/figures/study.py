"""Figures of a study: curves over numbers of frames, and a grid of RoPE settings by frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from longva_eval.errors import SettingsError
from longva_eval.reports.figures.panels import CurveLine, CurvePanel, GridCell, GridPanel
from longva_eval.reports.reading.study import OVERALL, Curve, StudyRuns, TaskCurves
from longva_eval.reports.tables.benchmarks import benchmark_of
from longva_eval.reports.tables.published import find_benchmark, published_rows, published_scores

if TYPE_CHECKING:
    from longva_eval.reports.figures.paper import FigureWidth

__all__ = [
    "curve_figure",
    "curve_line",
    "plateau_sentence",
    "published_lines",
    "rope_figure",
    "rope_grid",
]

_BESIDE: Final = "LongVA-7B, published"


def published_lines(task: TaskCurves, published: str) -> tuple[dict[str, CurveLine], str]:
    """LongVA's published curve by subset, and what to know of it."""
    if not published:
        return {}, ""
    benchmark = benchmark_of(task.task)
    if published == "auto" and benchmark is None:
        return {}, f"No published curve belongs to {task.task}; --published NAME draws one."
    scores = published_scores()
    if published != "auto" or benchmark is None:
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


def curve_figure(
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


def rope_figure(study: StudyRuns, task: TaskCurves, width: FigureWidth) -> Any:
    """The scores of each subset by RoPE setting and number of frames."""
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
