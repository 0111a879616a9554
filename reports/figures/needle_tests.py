"""Figures of needle tests: every test over lengths, and a test beside its text twin over tokens.

Folders of `longva-eval niah` in, figures out. What is read is `summary.json` and `cells.jsonl`.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from longva_eval.errors import MediaError
from longva_eval.needle.summary import summary_text
from longva_eval.reports.figures.colours import MUTED
from longva_eval.reports.figures.curve import draw_curves
from longva_eval.reports.figures.heatmap import accuracy_table, needle_panel, save_heatmaps
from longva_eval.reports.figures.panels import CurveLine, CurvePanel
from longva_eval.reports.figures.paper import paper_style, save_figure, start_figure
from longva_eval.stats import estimate_mean

if TYPE_CHECKING:  # they import torch
    from longva_eval.needle.media import Haystack
    from longva_eval.needle.run import NiahRun
    from longva_eval.needle.tests import NeedleTest

__all__ = [
    "TestScores",
    "draw_shown",
    "draw_tests",
    "draw_twin",
    "lost_in_vision",
    "read_test",
    "save_examples",
    "save_runs",
    "save_tests",
]

_NEEDLE, _DISTRACTOR = "#2a788e", "#b07418"


@dataclass(frozen=True, kw_only=True)
class TestScores:
    """A needle test by length."""

    __test__ = False  # not a test of pytest's

    test: str
    items: frozenset[str]
    """Their names."""
    frames: tuple[int, ...]
    shares: tuple[float, ...]
    """Of right answers, over all places and items."""
    intervals: tuple[tuple[float, float], ...]
    tokens: tuple[float, ...]
    """Mean length of the prompts."""
    floor: float | None
    """Share of right answers of one who guesses."""
    needle_only: float | None


def read_test(folder: Path, *, items: Container[str] | None = None) -> TestScores:
    """The scores of a finished test.

    Args:
        folder: Of the test.
        items: Names of those that count; all if None.

    Raises:
        MediaError: If the folder holds none.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        text = (folder / "cells.jsonl").read_text(encoding="utf-8").removesuffix("\n")
        rows: list[dict[str, Any]] = [json.loads(line) for line in text.split("\n")]
        rows = [row for row in rows if items is None or row.get("needle_name", "") in items]
        columns: dict[int, list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: row["num_frames"]):
            columns.setdefault(row["num_frames"], []).append(row)
        found = [
            estimate_mean([float(row["correct"]) for row in column],
                          [row["needle"] for row in column])
            for column in columns.values()
        ]  # fmt: skip
        floors: list[Any] = [row.get("floor") for row in rows]
        return TestScores(
            test=str(summary.get("test", "single")),
            items=frozenset(row.get("needle_name", "") for row in rows),
            frames=tuple(columns),
            shares=tuple(each.mean for each in found),
            intervals=tuple((each.interval.low, each.interval.high) for each in found),
            tokens=tuple(
                math.fsum(row["num_prompt_tokens"] for row in column) / len(column)
                for column in columns.values()
            ),
            floor=None if None in floors else math.fsum(floors) / len(floors),
            needle_only=(summary["controls"] or {}).get("needle_only"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise MediaError(
            f"{folder} holds no finished needle test ({type(error).__name__}: {error}); "
            "longva-eval niah --test writes one."
        ) from error


def draw_tests(runs: Mapping[str, Sequence[TestScores]], *, title: str = "") -> Figure:
    """A panel for each test, a line for each model, with the guess floor.

    Args:
        runs: Finished tests by model.
        title: Above the figure.

    Raises:
        ValueError: If there is no test.
    """
    names = list(dict.fromkeys(scores.test for tests in runs.values() for scores in tests))
    panels = []
    for name in names:
        found = {model: s for model, tests in runs.items() for s in tests if s.test == name}
        floors = [scores.floor for scores in found.values() if scores.floor is not None]
        lines = [
            CurveLine(label=model, frames=s.frames, means=s.shares, intervals=s.intervals)
            for model, s in found.items()
        ]
        panels.append(CurvePanel(title=name, lines=lines, chance=max(floors, default=None)))
    alone = [
        f"{scores.test} {100 * scores.needle_only:.0f} %"
        for tests in list(runs.values())[:1]
        for scores in tests
        if scores.needle_only is not None
    ]
    note = f"Bands: Wilson 95 %. Pictures alone, {next(iter(runs), '')}: {', '.join(alone)}."
    return draw_curves(panels, title=title, note=note if alone else "")


def save_tests(folders: Mapping[str, Sequence[Path]], *paths: Path) -> None:
    """Draw finished tests of several models, by the model's name."""
    scores = {name: [read_test(folder) for folder in each] for name, each in folders.items()}
    save_figure(draw_tests(scores, title="Needle tests"), *paths)


def draw_shown(
    frames: Sequence[tuple[Image.Image, str]], *, title: str, question: str, answer: str
) -> Figure:
    """What a test shows and asks: the frames of one cell, and which of them are pictures.

    Args:
        frames: Pictures, and `needle`, `distractor` or nothing for a frame of the haystack.
        title: Above the figure.
        question: As the model reads it.
        answer: The right one.
    """
    note = " / ".join(question.strip().split("\n")) + f" / Right: {answer}"
    a_row = 14
    rows = -(-len(frames) // a_row)
    with paper_style():
        figure, _ = start_figure("page", 0.55 * rows, title=title, note=note)
        grid = figure.subplots(rows, a_row, squeeze=False)
        for number, axes in enumerate(grid.flat):
            axes.set_axis_off()
            if number >= len(frames):
                continue
            picture, kind = frames[number]
            axes.imshow(np.asarray(picture.convert("RGB").resize((96, 96))))
            axes.set_title(f"{number} s", fontsize=6, color=MUTED, pad=2)
            if kind:
                colour = _NEEDLE if kind == "needle" else _DISTRACTOR
                style = "-" if kind == "needle" else ":"
                axes.add_patch(
                    Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, clip_on=False,
                              color=colour, linestyle=style, linewidth=2)
                )  # fmt: skip
    return figure


def save_examples(tests: Sequence[NeedleTest], haystack: Haystack, folder: Path) -> list[Path]:
    """A figure for each test: the frames of its first item in the middle of its shortest length."""
    paths = []
    for test in tests:
        frames = test.example(haystack)
        item, path = test.items[0], folder / f"needle_{test.name}.png"
        figure = draw_shown(frames, title=test.name, question=item.question, answer=item.answer)
        save_figure(figure, path)
        paths.append(path)
    return paths


def save_runs(runs: Iterable[NiahRun], *, in_one_figure: bool) -> Iterator[str]:
    """Draw tests as they are finished, each beside its answers.

    Args:
        runs: From `run_tests`.
        in_one_figure: Whether also to draw all tests of a model together, in the folder above.

    Yields:
        What is told of each.
    """
    for model, of_model in itertools.groupby(runs, key=lambda run: run.model):
        folders = []
        for run in of_model:
            title = f"{model}, {run.test}" if in_one_figure else model
            yield _save_run(run, title=title + (", as text" if run.as_text else ""))
            if run.as_text:
                yield _save_twin(run.folder.parent, title=title)
            else:
                folders.append(run.folder)
        if in_one_figure:
            path = folders[0].parent / "tests.png"
            save_tests({model: folders}, path, path.with_suffix(".svg"))
            yield f"\nAll tests over lengths: {path}"


def _save_run(run: NiahRun, *, title: str) -> str:
    """Draw the heatmap of a test beside its answers, unless it is there; what is told of it."""
    image = run.folder / "heatmap.png"
    if not (run.was_there and image.with_suffix(".svg").exists()):
        note = f"{len({cell.needle for cell in run.cells})} needles a cell"
        panel = needle_panel(run.rows, run.summary, title=title, note=note)
        save_heatmaps([panel], image, image.with_suffix(".svg"))
    there = f"{run.folder} is complete already: nothing is computed. --fresh starts over.\n"
    return (
        f"{there if run.was_there else ''}\n{title}\n{accuracy_table(run.rows)}\n"
        f"{summary_text(run.summary)}\n\nHeatmap: {image}\n"
        f"Every answer: {run.folder / 'cells.jsonl'}"
    )


def _save_twin(folder: Path, *, title: str) -> str:
    """Draw a test beside its text twin, over the items of both; what is told of them."""
    folders = (folder, folder / "text")
    common = frozenset.intersection(*(read_test(each).items for each in folders))
    if not common:
        return "Nothing is known to be lost in vision: no item is answered both ways on its own."
    video, text = (read_test(each, items=common) for each in folders)
    image = folder / "twin.png"
    save_figure(draw_twin(video, text, title=title), image, image.with_suffix(".svg"))
    lines = [
        f"Lost in vision at {frames:,} frames: {100 * share:+.1f} points over {len(common)} items"
        for frames, share in lost_in_vision(video, text).items()
    ]
    return "\n".join([*lines, f"Video beside its text twin: {image}"])


def lost_in_vision(video: TestScores, text: TestScores) -> dict[int, float]:
    """For each length of both: the text twin's share minus the video's."""
    theirs = dict(zip(text.frames, text.shares, strict=True))
    return {
        frames: theirs[frames] - share
        for frames, share in zip(video.frames, video.shares, strict=True)
        if frames in theirs
    }


def draw_twin(video: TestScores, text: TestScores, *, title: str = "") -> Figure:
    """The same cells as video and as captions, over prompt tokens, side by side."""
    lost = ", ".join(
        f"{frames:,} frames {100 * share:+.1f}"
        for frames, share in lost_in_vision(video, text).items()
    )
    panels = []
    for name, scores in (("Video", video), ("Text twin", text)):
        tokens = [round(count) for count in scores.tokens]
        line = CurveLine(label=name, frames=tokens, means=scores.shares, intervals=scores.intervals)
        panels.append(CurvePanel(title=name, lines=[line], chance=scores.floor))
    note = f"Lost in vision (text minus video), in points: {lost}. {len(video.items)} items."
    return draw_curves(panels, title=title, note=note, below="Prompt tokens")
