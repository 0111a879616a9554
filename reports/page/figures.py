"""The figures of the page: curves over frames, needle grids, and scores by category."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final

from longva_eval import stats
from longva_eval.reports.page.charts import CurvePoint, HeatCell, curve, heatmap, interval_bar
from longva_eval.reports.page.common import (
    ShownRun,
    all_tasks,
    badge,
    estimate,
    is_hidden,
    named,
    percent,
    quoted,
    range_text,
    rope_text,
    with_task,
)
from longva_eval.reports.page.markup import Markup, isolated, joined, script_json, tag
from longva_eval.reports.reading.needle_runs import Controls, Grid, GridCell, grid_of
from longva_eval.reports.reading.runs import Run, Sample, TaskRun

__all__ = ["category_figures", "frame_curves", "needle_grids"]

_MOST_CATEGORY_VALUES: Final = 24
_MOST_RUNS_IN_BARS: Final = 6
_DURATIONS: Final = ("duration", "duration_group", "duration_category", "video_duration")
_CURVE_STYLES: Final = {"short": "short", "medium": "medium", "long": "long", "all": "overall"}

# Curves -------------------------------------------------------------------------------------------


def frame_curves(shown: Sequence[ShownRun]) -> Markup:
    """A curve for each model and task that was run at several numbers of frames."""
    figures = []
    for name in all_tasks(shown):
        families: dict[str, list[tuple[float, ShownRun, TaskRun]]] = {}
        for each, task in with_task(shown, name):
            frames = _asked_frames(each.run, task)
            if frames is None or not task.is_share or not task.samples or is_hidden(task):
                continue
            if grid_of(task) is None:
                rope = rope_text(each.run)
                family = families.setdefault(each.run.name + (f", {rope}" if rope else ""), [])
                if frames not in [known for known, _, _ in family]:
                    family.append((frames, each, task))
        figures += _rope_maps(name, [p for points in families.values() for p in points])
        for family_name, points in families.items():
            if len(points) >= 2:
                figures.append(_curve_figure(family_name, name, sorted(points, key=_frames_of)))
    if not figures:
        return Markup("")
    note = (
        "Bands hold 95 % for all points of a line at once, clustered by video. Lines are drawn "
        "over the questions that every one of their runs was asked."
    )
    return joined(tag("div", *figures, class_="figures"), tag("p", note, class_="note"))


def _frames_of(point: tuple[float, ShownRun, TaskRun]) -> float:
    return point[0]


def _asked_frames(run: Run, task: TaskRun) -> float | None:
    """One number of frames for a task: what was asked of most questions, or of the model."""
    asked = [question.frames_asked for question in task.samples if question.frames_asked]
    if asked:
        return float(max(set(asked), key=asked.count))
    try:
        return float(run.frames(task.name))
    except ValueError:
        return None


def _curve_figure(
    family: str, name: str, points: Sequence[tuple[float, ShownRun, TaskRun]]
) -> Markup:
    by_key = [{question.key: question for question in task.samples} for _, _, task in points]
    common = [key for key in by_key[0] if all(key in questions for questions in by_key)]
    if not common:
        return Markup("")
    first = by_key[0]
    groups: dict[str, list[str]] = {}
    for key in common:
        value = next(
            (first[key].categories[c] for c in _DURATIONS if c in first[key].categories), None
        )
        if value is not None:
            groups.setdefault(value, []).append(key)
    if not 2 <= len(groups) <= 6:
        groups = {}
    order: list[str] = [value for value in ("short", "medium", "long") if value in groups]
    order += [value for value in groups if value not in order]
    lines: dict[str, list[CurvePoint]] = {}
    sentences = []
    for value in [*order, "all"]:
        keys = groups.get(value, common)
        clusters = [first[key].cluster for key in keys]
        scores = [[questions[key].score for key in keys] for questions in by_key]
        bands = stats.simultaneous_bands(scores, clusters)
        lines[value] = [
            CurvePoint(frames=frames, value=100 * mean, low=100 * band.low, high=100 * band.high)
            for (frames, _, _), mean, band in zip(points, bands.means, bands.intervals, strict=True)
        ]
        if value == "all" and len(points) >= 3 and len(set(clusters)) > 1:
            flat = stats.plateau(scores, clusters)
            frames = [point[0] for point in points]
            sentences.append(
                f"Best at {frames[-1]:g} frames, the most that were run; where it stops rising is "
                "not known."
                if flat.place == len(frames) - 1
                else f"Within one point of its best at {frames[flat.place]:g} frames (95 %: "
                f"{frames[flat.low]:g} to {frames[flat.high]:g})."
            )
    table = tag(
        "table",
        tag("thead", tag("tr", tag("th", "Questions", scope="col"),
            *(tag("th", f"{frames:g} frames", scope="col") for frames, _, _ in points))),
        tag("tbody", *(
            tag("tr", tag("th", isolated(value), scope="row"), *(
                tag("td", f"{p.value:.1f} ({p.low:.1f} to {p.high:.1f})", class_="number")
                for p in line))
            for value, line in lines.items())),
    )  # fmt: skip
    drawing = curve(
        lines,
        label=f"{family} on {name}: score by number of frames, numbers in the table below",
        chance=_chance([first[key] for key in common]),
        classes={v: _CURVE_STYLES.get(v, f"run-{n % 8}") for n, v in enumerate(lines)},
    )
    used = f"{len(common):,} questions, {len({first[key].cluster for key in common}):,} videos. "
    return tag(
        "figure",
        tag("figcaption", tag("strong", isolated(f"{family}, {name}")),
            tag("span", used + " ".join(sentences), class_="sub")),
        tag("div", drawing, class_="scroll", tabindex=0, role="region",
            aria_label=f"Curve of {family}"),
        tag("details", tag("summary", "The numbers"), tag("div", table, class_="scroll")),
    )  # fmt: skip


def _rope_maps(name: str, points: Sequence[tuple[float, ShownRun, TaskRun]]) -> list[Markup]:
    """A heatmap for each model that was run with several RoPE settings and frames."""
    figures = []
    for model in dict.fromkeys(each.run.name for _, each, _ in points):
        own = [point for point in points if point[1].run.name == model]
        frames = sorted({count for count, _, _ in own})
        ropes = list(dict.fromkeys(rope_text(each.run) or "own" for _, each, _ in own))
        if len(ropes) < 2 or len(frames) < 2:
            continue
        cells, info = [], []
        for count, each, task in own:
            found = estimate(task.samples, is_share=True)
            if found is None:
                continue
            title = (
                f"{each.label}: {percent(found.mean)} % "
                f"({range_text(found, is_share=True)}), {found.num_questions:,} questions"
            )
            row = (rope_text(each.run) or "own").removeprefix("RoPE ")
            cells.append(HeatCell(column=f"{count:g}", row=row, share=found.mean, title=title))
            info.append(
                {"title": title, "missed": [], "link": f"#task={quoted(name)}&run={each.place}"}
            )
        drawing = heatmap(
            cells,
            columns=[f"{count:g}" for count in frames],
            rows=[rope.removeprefix("RoPE ") for rope in ropes],
            clean={},
            label=f"{model} on {name}: score by RoPE setting and number of frames",
            column_title="Frames shown to the model",
            row_title="",
        )
        digest = hashlib.sha256(f"{model}\0{name}".encode()).hexdigest()[:8]
        figures.append(
            tag(
                "figure",
                tag(
                    "figcaption",
                    tag("strong", isolated(f"{model}, {name}")),
                    tag("span", "Score in percent by RoPE setting.", class_="sub"),
                ),
                tag("div", drawing, class_="scroll grid", id=f"rope-{digest}"),
                tag("p", "Point at a cell for its interval.", class_="cell-info",
                    aria_live="polite"),
                script_json(f"rope-{digest}-cells", info),
            )
        )  # fmt: skip
    return figures


def _chance(questions: Sequence[Sample]) -> float | None:
    """Score of guessing, in percent, if all questions have options."""
    if not all(len(question.options) > 1 for question in questions):
        return None
    return 100 * math.fsum(1 / len(question.options) for question in questions) / len(questions)


# Needle grids -------------------------------------------------------------------------------------


def needle_grids(shown: Sequence[ShownRun]) -> Markup:
    """A heatmap for each needle grid of each run."""
    figures = []
    for each in shown:
        for name, task in each.run.tasks.items():
            grid = grid_of(task)
            if grid is not None:
                figures.append(_grid_figure(each, name, grid))
    if not figures:
        return Markup("")
    scale = tag(
        "p",
        *(
            tag("span", tag("span", class_=f"swatch grid-{number}"), f"{20 * number} %")
            for number in range(6)
        ),
        class_="key scale",
    )
    note = (
        "Each number is the share of needles found at a place, in percent. Tab and the arrow keys "
        "reach the cells too; a click or Enter lists a cell's questions."
    )
    return joined(tag("div", *figures, class_="figures"), scale, tag("p", note, class_="note"))


def _grid_figure(each: ShownRun, name: str, grid: Grid) -> Markup:
    lengths = sorted({cell.num_frames for cell in grid.cells})
    where = "before frame" if grid.is_lattice else "depth"
    places = sorted({_place(cell, grid) for cell in grid.cells})
    cells = [
        HeatCell(
            column=f"{cell.num_frames:,}", row=_place_text(_place(cell, grid), grid),
            share=cell.found / len(cell.samples), title=_cell_title(cell, grid),
        )
        for cell in grid.cells
    ]  # fmt: skip
    clean = {}
    controls = each.controls
    if controls is not None:
        for frames, (right, asked) in controls.no_needle_by_frames.items():
            low, high = stats.wilson_interval(right, asked)
            clean[f"{frames:,}"] = HeatCell(
                column=f"{frames:,}", row="no needle", share=right / asked,
                title=f"{frames:,} frames without a needle: {right:g} of {asked} answered all the "
                f"same, {percent(right / asked)} % ({percent(low)} to {percent(high)})",
            )  # fmt: skip
    drawing = heatmap(
        cells,
        columns=[f"{frames:,}" for frames in lengths],
        rows=[_place_text(place, grid) for place in places],
        clean=clean,
        label=f"{each.label}, {name}: needles found by number of frames and {where}",
        column_title="Frames in the video",
        row_title="Needle before frame" if grid.is_lattice else "Needle depth",
    )
    sentences = [f"Mean of all cells {percent(grid.mean())} %."]
    if controls is not None:
        sentences += _control_sentences(controls)
    identity = f"grid-{each.place}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    info = [
        {
            "title": shown.title,
            "missed": [
                [str(q.record.get("needle_name", q.cluster)), q.answer, q.generated[:80]]
                for q in cell.samples
                if q.score < 1
            ],
            "link": f"#task={quoted(name)}&run={each.place}"
            f"&c.frames={quoted(f'{cell.num_frames:g}')}"
            f"&c.depth={quoted(f'{100 * cell.depth:.4g} %')}",
        }
        for shown, cell in zip(cells, grid.cells, strict=True)
    ] + [{"title": cell.title, "missed": [], "link": ""} for cell in clean.values()]
    return tag(
        "figure",
        tag("figcaption", named(each), tag("span", isolated(name), class_="sub")),
        tag("div", drawing, class_="scroll grid", id=identity),
        tag(
            "p",
            "Point at a cell for its Wilson interval and the needles that were missed.",
            class_="cell-info",
            aria_live="polite",
        ),
        tag("p", " ".join(sentences), class_="sub"),
        tag("details", tag("summary", "The numbers"), _grid_table(grid, lengths, places)),
        script_json(f"{identity}-cells", info),
    )


def _place(cell: GridCell, grid: Grid) -> float:
    return float(cell.insert_index or 0) if grid.is_lattice else cell.depth


def _place_text(place: float, grid: Grid) -> str:
    return f"{place:,.0f}" if grid.is_lattice else f"{100 * place:.4g} %"


def _cell_title(cell: GridCell, grid: Grid) -> str:
    asked = len(cell.samples)
    low, high = stats.wilson_interval(cell.found, asked)
    where = (
        f"before frame {cell.insert_index:,}"
        if grid.is_lattice
        else f"depth {100 * cell.depth:.4g} %"
    )
    return (
        f"{cell.num_frames:,} frames, {where}: {cell.found:g} of {asked} needles, "
        f"{percent(cell.found / asked)} % ({percent(low)} to {percent(high)})"
    )


def _control_sentences(controls: Controls) -> list[str]:
    sentences = []
    if controls.effective_frames is not None and controls.threshold is not None:
        more = " or more" if controls.is_at_least else ""
        sentences.append(
            f"Effective frames {controls.effective_frames:,}{more}: up to there the lower bound of "
            f"a length stays above {100 * controls.threshold:.0f} %."
        )
    elif controls.threshold is not None:
        sentences.append(
            f"Effective frames: none of these lengths has a lower bound above "
            f"{100 * controls.threshold:.0f} %."
        )
    shares = [
        f"{name} {percent(value)} %"
        for name, value in (
            ("needle only", controls.needle_only),
            ("no needle", controls.no_needle),
            ("blind", controls.blind),
        )
        if value is not None
    ]
    if shares:
        sentences.append(f"Controls: {', '.join(shares)}.")
    if controls.known_without_seeing:
        names = ", ".join(controls.known_without_seeing)
        sentences.append(f"Answered without being seen, so they prove nothing: {names}.")
    return sentences


def _grid_table(grid: Grid, lengths: Sequence[int], places: Sequence[float]) -> Markup:
    found = {(cell.num_frames, _place(cell, grid)): cell for cell in grid.cells}

    def text(cell: GridCell | None) -> str:
        if cell is None:
            return ""
        low, high = stats.wilson_interval(cell.found, len(cell.samples))
        share = cell.found / len(cell.samples)
        return f"{percent(share)} ({percent(low, 0)} to {percent(high, 0)})"

    head = "Before frame" if grid.is_lattice else "Depth"
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", tag("th", head, scope="col"), *(
                tag("th", f"{frames:,} frames", scope="col") for frames in lengths))),
            tag("tbody", *(
                tag("tr", tag("th", _place_text(place, grid), scope="row"), *(
                    tag("td", text(found.get((frames, place))), class_="number")
                    for frames in lengths))
                for place in places)),
        ),
        class_="scroll",
    )  # fmt: skip


# Categories ---------------------------------------------------------------------------------------


def category_figures(shown: Sequence[ShownRun]) -> Markup:
    """Small bars for every category of every task, all runs side by side."""
    parts = []
    for name in all_tasks(shown):
        having = [
            (each, task)
            for each, task in with_task(shown, name)
            if task.samples and task.is_share and not is_hidden(task) and grid_of(task) is None
        ]
        if not having:
            continue
        drawn, having = len(having), having[:_MOST_RUNS_IN_BARS]
        values = _category_values([task for _, task in having])
        figures, left_out = [], []
        for category, found in values.items():
            if len(found) > _MOST_CATEGORY_VALUES:
                left_out.append(f"{category} ({len(found)} values)")
            elif len(found) > 1:
                figures.append(_category_figure(category, found, having))
        if not figures:
            continue
        parts.append(tag("h3", isolated(name)))
        parts.append(tag("div", *figures, class_="multiples"))
        if drawn > len(having):
            text = f"Drawn for the first {len(having)} of {drawn} runs."
            parts.append(tag("p", text, class_="note"))
        if left_out:
            text = f"Not drawn, but found in the samples: {', '.join(left_out)}."
            parts.append(tag("p", text, class_="note"))
    return joined(*parts)


def _category_values(tasks: Sequence[TaskRun]) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for task in tasks:
        for question in task.samples:
            for name, value in question.categories.items():
                found.setdefault(name, {})[value] = None
    ordered: list[str] = ["short", "medium", "long"]
    return {
        name: [value for value in ordered if value in values]
        if all(value in ordered for value in values)
        else list(values)
        for name, values in found.items()
    }


def _category_figure(
    category: str, values: Sequence[str], having: Sequence[tuple[ShownRun, TaskRun]]
) -> Markup:
    rows = []
    for value in values:
        for number, (each, task) in enumerate(having):
            chosen = [q for q in task.samples if q.categories.get(category) == value]
            found = estimate(chosen, is_share=True)
            cells: list[Markup] = []
            if number == 0:
                sizes = {
                    sum(q.categories.get(category) == value for q in other.samples)
                    for _, other in having
                }
                size = " / ".join(f"{n:,}" for n in sorted(sizes))
                cells.append(
                    tag("th", isolated(value), tag("span", f"{size} questions", class_="sub"),
                        scope="rowgroup", rowspan=len(having))
                )  # fmt: skip
            if len(having) > 1:
                cells.append(tag("td", badge(each), class_="who"))
            if found is None:
                cells.append(tag("td", "not asked", colspan=2, class_="none"))
            else:
                known = found.num_clusters > 1
                cells.append(
                    tag("td", interval_bar(
                        found.mean, found.interval.low if known else None,
                        found.interval.high if known else None, run=each.place), class_="bars")
                )  # fmt: skip
                cells.append(
                    tag("td", f"{percent(found.mean)} %",
                        tag("span", range_text(found, is_share=True), class_="sub"),
                        class_="number")
                )  # fmt: skip
            rows.append(tag("tr", *cells, class_="first" if number == 0 else None))
    heads = ["Value", *(["Run"] if len(having) > 1 else []), "Score", "Number"]
    return tag(
        "table",
        tag("caption", isolated(category.replace("_", " "))),
        tag("thead", tag("tr", *(tag("th", text, scope="col") for text in heads)), class_="unseen"),
        tag("tbody", *rows),
        class_="category",
    )
