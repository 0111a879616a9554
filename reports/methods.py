"""Methods against none: every policy of a study beside the first of its axis, paired.

Presses also beside `random`. Everything else of the two points is equal, and so are the questions.
Differences are taken within questions and clustered by video or needle (`stats.compare_pairs`);
p-values are corrected for their number within each test (`stats.holm`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from longva_eval import stats
from longva_eval.needle.results import NeedleAnswer, read_answers
from longva_eval.reports.figures.panels import GridCell, GridPanel
from longva_eval.reports.tables.tables import Table, render, text_table
from longva_eval.studies.definition import (
    AXES,
    LEAST_KNOWN,
    NEEDLES_NAME,
    PICTURES_ALONE_NAME,
    Study,
    rope_label,
    write_json,
)

__all__ = [
    "METHOD_TITLES",
    "MethodPoint",
    "method_panels",
    "method_rows",
    "method_table",
    "write_needle_study",
]

METHOD_TITLES: Final = (
    "test", "policy", "against", "frames", "with", "n", "clusters", "score", "diff.",
    "95 % interval", "p", "Holm", "+ / -",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MethodPoint:
    """The scores of a test at one point of a study."""

    task: str
    setting: Mapping[str, Any]
    """`frames`, `rope`, and the policy on every axis."""
    scores: Mapping[Any, tuple[float, str]]
    """Score and cluster of each question."""


def method_rows(points: Sequence[MethodPoint]) -> list[list[str]]:
    """The table, titles first; nothing but them if no axis has two policies.

    The first policy of an axis is that of the first point.
    """
    rows = [list(METHOD_TITLES)]
    for task in dict.fromkeys(point.task for point in points):
        here = [point for point in points if point.task == task]
        found = []
        for axis in AXES:
            first = here[0].setting[axis]
            for point in here:
                for other in _against(axis, first, point.setting[axis]):
                    wanted = {**point.setting, axis: other}
                    base = next((each for each in here if each.setting == wanted), None)
                    if base is not None:
                        found.append((axis, other, point, base, _compare(point, base)))
        corrected = stats.holm([compared[0].p_value for *_, compared in found])
        for (axis, first, point, _, (compared, score)), holm in zip(found, corrected, strict=True):
            others = [
                str(point.setting[name])
                for name in AXES
                if name != axis and point.setting[name] != AXES[name]
            ]
            low, high = compared.interval.low, compared.interval.high
            rows.append(
                [
                    task, str(point.setting[axis]), str(first), f"{point.setting['frames']:,}",
                    ", ".join(others), f"{compared.num_questions:,}", f"{compared.num_clusters:,}",
                    f"{100 * score:.1f}", f"{100 * compared.difference:+.1f}",
                    f"[{100 * low:+.1f}, {100 * high:+.1f}]", f"{compared.p_value:.2g}",
                    f"{holm:.2g}", f"{compared.num_only_first} / {compared.num_only_second}",
                ]
            )  # fmt: skip
    return rows


def method_table(rows: Sequence[Sequence[str]]) -> list[Table]:
    """The rows as a table; none if they are but the titles."""
    title = "Each policy against the first of its axis, on the same questions"
    return [text_table(title, rows, words=3)] if len(rows) > 1 else []


def _against(axis: str, first: str, policy: str) -> list[str]:
    """The first of the axis; for a press that has a score also `random`, which keeps as much."""
    found = [first]
    name, _, kept = policy.partition(":")
    if axis == "kv_press" and name in ("knorm", "vnorm", "snapkv"):
        found.append(f"random:{kept.removesuffix(':question')}")
    return [each for each in dict.fromkeys(found) if each != policy]


def _compare(point: MethodPoint, base: MethodPoint) -> tuple[stats.PairedComparison, float]:
    common = [key for key in point.scores if key in base.scores]
    first = [point.scores[key][0] for key in common]
    second = [base.scores[key][0] for key in common]
    compared = stats.compare_pairs(first, second, [point.scores[key][1] for key in common])
    return compared, math.fsum(first) / len(first)


def write_needle_study(study: Study, folder: Path) -> tuple[list[Path], str]:
    """Tables of a finished study of needle tests, beside its points.

    Args:
        study: As it was run.
        folder: Of the study.

    Returns:
        The files, and the tables as text.

    Raises:
        MediaError: If a run cannot be read.
    """
    alone = json.loads((folder / PICTURES_ALONE_NAME).read_text(encoding="utf-8"))
    known = [test for test in study.tests if alone[test] >= LEAST_KNOWN]
    points, rows = [], [["test", "frames", "RoPE", *AXES, "cells", "shown", "found",
                         "found of shown", "kv tokens"]]  # fmt: skip
    for point in study.needle_points():
        for test in known:
            answers = read_answers(folder / "points" / point.name / test / "cells.jsonl")
            for frames in study.frames:
                cells = [each for each in answers if each.num_frames == frames]
                setting = {"frames": frames, "rope": rope_label(point.rope), **vars(point.method)}
                points.append(MethodPoint(task=test, setting=setting, scores=_scores(cells)))
                rows.append([test, f"{frames:,}", rope_label(point.rope),
                             *vars(point.method).values(), *_shares(cells)])  # fmt: skip
    compared = method_rows(points)
    shares = [["test", "pictures alone", "compared"]]
    shares += [[test, f"{100 * share:.1f}", "yes" if test in known else "no"]
               for test, share in alone.items()]  # fmt: skip
    tables = [text_table("What the model knows", shares, words=1)] if len(alone) > 1 else []
    tables += [text_table("Shown, and found", rows, words=3 + len(AXES)), *method_table(compared)]
    (folder / "scores.md").write_text(
        f"# {study.pretrained}\n\n{render(tables, 'md')}", encoding="utf-8"
    )
    record = {"settings": study.describe(), "scores": rows, "methods": compared}
    write_json(folder / NEEDLES_NAME, record)
    files = [folder / "scores.md", folder / NEEDLES_NAME]
    panels = method_panels(rows)
    if panels:
        from longva_eval.reports.figures.heatmap import draw_grids
        from longva_eval.reports.figures.paper import save_figure

        pictures = [folder / "methods.png", folder / "methods.svg"]
        title = f"{study.pretrained}: needles found"
        note = "Shares of cells. What differs: the paired table in scores.md."
        figure = draw_grids(panels, label="Found (%)", low=0, high=100, title=title, note=note)
        save_figure(figure, *pictures)
        files += pictures
    return files, render(tables, "terminal").rstrip()


def method_panels(rows: Sequence[Sequence[str]]) -> list[GridPanel]:
    """Small multiples of a needle study: a panel for each press (position, frame policy).

    Args:
        rows: The table of `write_needle_study`, titles first; `scores` of `NEEDLES_NAME`.

    Returns:
        Nothing, if no axis has two policies.
    """
    titles, *body = rows
    found = [dict(zip(titles, row, strict=True)) for row in body]
    axes = ["RoPE", *AXES]
    varied = [axis for axis in axes if len({row[axis] for row in found}) > 1]
    if not varied:
        return []
    facet, others = varied[-1], varied[:-1]
    lengths = len({row["frames"] for row in found}) > 1
    panels = []
    for policy in dict.fromkeys(row[facet] for row in found):
        cells, held = {}, []
        for row in found:
            if row[facet] != policy:
                continue
            place = (
                ", ".join(row[axis] for axis in others) or "all",
                f"{row['test']} {row['frames']}" if lengths else row["test"],
            )
            said = f"{place[0]}, {policy}, {row['test']}, {row['frames']} frames: {row['found']} % "
            said += f"of {row['cells']} cells, needles shown {row['shown']} %"
            cells[place] = GridCell(share=float(row["found"]) / 100, title=said)
            held.append(float(row["kv tokens"].replace(",", "")))
        panels.append(
            GridPanel(
                title=f"{facet.replace('_', ' ')}: {policy}",
                rows=list(dict.fromkeys(row for row, _ in cells)),
                columns=list(dict.fromkeys(column for _, column in cells)),
                cells=cells,
                row_title=", ".join(axis.replace("_", " ") for axis in others),
                column_title="Needle test, length of the video" if lengths else "Needle test",
                note=f"{math.fsum(held) / len(held):,.0f} tokens held at the end of a prompt",
            )
        )
    return panels


def _scores(cells: Sequence[NeedleAnswer]) -> dict[Any, tuple[float, str]]:
    return {
        (each.needle, each.insert_indices): (float(each.correct), str(each.needle))
        for each in cells
    }


def _shares(cells: Sequence[NeedleAnswer]) -> list[str]:
    """Cells, needles shown, answers found, found where all needles were shown, tokens held."""
    shown = [each for each in cells if each.shown is None or each.shown == 1]
    part = math.fsum(1.0 if each.shown is None else each.shown for each in cells) / len(cells)
    held = [each.kv_tokens or each.num_prompt_tokens for each in cells]
    return [
        f"{len(cells)}",
        f"{100 * part:.1f}",
        f"{100 * sum(each.correct for each in cells) / len(cells):.1f}",
        f"{100 * sum(each.correct for each in shown) / len(shown):.1f}" if shown else "-",
        f"{math.fsum(held) / len(held):,.0f}",
    ]
