"""A folder of `longva-eval niah` as a run: the same questions and outcomes as a task's.

`cells.jsonl` becomes the questions of a task called V-NIAH; `run.json` says how they were made and
has the needles' questions and answers. What only a needle test has (controls, conclusions) is in
`Controls`. Tasks of lmms-eval that are needle grids are found by `grid_of`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from longva_eval.errors import MediaError
from longva_eval.reports.reading.lines import read_lines, read_text
from longva_eval.reports.reading.run import Metric, Run, TaskRun
from longva_eval.reports.reading.samples import Problem, Sample, as_mapping, as_number, count_of

__all__ = ["NEEDLE_TASK", "Controls", "Grid", "grid_of", "insert_index", "is_lattice",
           "is_needle_folder", "read_needle_run"]  # fmt: skip

NEEDLE_TASK: Final = "V-NIAH"


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What a grid must be compared with, from `summary.json` and `controls.jsonl`."""

    told: Mapping[str, Any]
    """Of the summary: shares by control, and the needles that were known without being seen."""
    reach: Mapping[str, Any]
    """Of the summary: effective frames."""
    no_needle_by_frames: Mapping[int, tuple[float, int]]
    """Right answers and questions on the clean haystack."""


Grid = Mapping[tuple[int, float], list[Sample]]
"""The needles at each place: number of frames, and depth from 0 to 1."""


def is_needle_folder(path: Path) -> bool:
    """Whether `longva-eval niah` has written its results here."""
    return (path / "cells.jsonl").is_file()


def read_needle_run(path: Path) -> tuple[Run, Controls | None]:
    """Read the folder of a needle test.

    Returns:
        The run, whose one task is `NEEDLE_TASK` with the test's name, and its controls if any.

    Raises:
        MediaError: If nothing in it can be read.
    """
    problems: list[Problem] = []
    file = path / "cells.jsonl"
    record = _read_mapping(path / "run.json", problems)
    needles = [as_mapping(needle) for needle in record.get("needles") or []]
    needles = [needle for needle in needles if not needle.get("rotation")]
    found = read_lines(file, lambda row: _sample(row, needles))
    damaged = found.damaged
    cells = [replace(cell, doc_id=number) for number, cell in enumerate(found.values)]
    if damaged:
        text = (
            f"{file}: {count_of(len(damaged), 'line')} cannot be read and left out (line "
            f"{damaged[0][0]}: {damaged[0][1]}); the run or a copy was interrupted."
        )
        problems.append(Problem(kind="truncated", text=text, task=NEEDLE_TASK))
    if not cells:
        raise MediaError(f"{file} holds no needle cell that can be read.")
    asked = as_number(record.get("num_answers"))
    if asked is not None and int(asked) != len(cells) and not damaged:
        text = f"{file} holds {len(cells):,} cells, run.json speaks of {int(asked):,}."
        problems.append(Problem(kind="number of samples", text=text, task=NEEDLE_TASK))
    mean = math.fsum(question.score for question in cells) / len(cells)
    model = as_mapping(record.get("model"))
    metric = Metric(
        name="vniah_accuracy", filter="none", value=mean, percent=100 * mean, standard_error=None,
        is_clustered=False, higher_is_better=True,
    )  # fmt: skip
    test = str(cells[0].record.get("test") or "single")
    name_of_test = NEEDLE_TASK if test == "single" else f"{NEEDLE_TASK} {test}"
    name_of_test += ", as text" if record.get("captions_sha256") else ""
    task = TaskRun(
        name=name_of_test,
        metrics=(metric,),
        metric="vniah_accuracy",
        num_asked=None if asked is None else int(asked),
        samples=tuple(cells),
        is_share=True,
        scale=100.0,
        higher_is_better=True,
        is_ours=True,
        read_from={"score": "correct", "question_id": "place and needle", "cluster": "needle"},
    )
    name = str(model.get("checkpoint") or path.name).rstrip("/").split("/")[-1]
    run = Run(
        path=path,
        name=name,
        model="longva",
        date=str(record.get("date") or ""),
        tasks={name_of_test: task},
        recipe={**{k: v for k, v in record.items() if k not in ("model", "needles")}, **model},
        problems=tuple(problems),
        results=record,
    )
    return run, _read_controls(path, problems)


def grid_of(task: TaskRun) -> Grid | None:
    """The grid of a task whose questions say a length and a depth; None if they do not."""
    places: dict[tuple[int, float], list[Sample]] = {}
    for question in task.samples:
        place = question.needle_place
        if place is None or not task.is_share:
            return None
        places.setdefault(place, []).append(question)
    return dict(sorted(places.items())) if len(places) > 1 else None


def insert_index(samples: Sequence[Sample]) -> int | None:
    """The frame before which the needle of a place stands, where the run says it."""
    index = as_number(samples[-1].record.get("insert_index"))
    return None if index is None else int(index)


def is_lattice(grid: Grid) -> bool:
    """Whether needles stand before fixed frames instead of at fixed depths."""
    indices = {insert_index(samples) for samples in grid.values()}
    return None not in indices and len(indices) < len({depth for _, depth in grid})


def _sample(row: Any, needles: Sequence[Mapping[str, Any]]) -> Sample:
    if not isinstance(row, dict):
        raise ValueError("no cell")
    frames, depth = int(row["num_frames"]), float(row["depth"])
    place, correct = int(row["needle"]), row["correct"]
    if not isinstance(correct, bool) or not math.isfinite(depth) or frames < 1:
        raise ValueError("no cell with num_frames, depth and correct")
    needle = needles[place] if 0 <= place < len(needles) else {}
    name = str(needle.get("name") or f"needle {place}")
    tokens = as_number(row.get("num_prompt_tokens"))
    spread = as_number(row.get("spread"))
    key = f"{frames}-{depth:.3f}-{place}" + ("" if spread is None else f"-{spread:g}")
    inserted = [*(row.get("insert_indices") or [0]), *(row.get("distractor_indices") or [])]
    return Sample(
        key=key,
        question_id=key,
        doc_id=0,
        cluster=name,
        outcome="right" if correct else "wrong",
        score=float(correct),
        answer=str(row.get("answer") or needle.get("answer", "")),
        generated=str(row.get("generated", "")),
        question=str(row.get("question") or needle.get("question", "")).strip(),
        categories={"num_frames": str(frames), "depth": f"{100 * depth:g} %", "needle": name},
        frames_asked=frames + len(inserted),
        # Of a selection nobody but the recipe knows how many.
        frames_seen=None if row.get("shown") is not None else frames + len(inserted),
        num_prompt_tokens=None if tokens is None else int(tokens),
        record={**row, "needle_name": name},
    )


def _read_controls(path: Path, problems: list[Problem]) -> Controls | None:
    summary = _read_mapping(path / "summary.json", problems)
    controls = summary.get("controls")
    if not isinstance(controls, Mapping):
        return None
    clean: dict[int, tuple[float, int]] = {}

    def count(row: Any) -> None:
        if row.get("control") == "no needle" and not row.get("rotation"):
            right, asked = clean.get(int(row["num_frames"]), (0.0, 0))
            clean[int(row["num_frames"])] = right + float(bool(row["correct"])), asked + 1

    if (path / "controls.jsonl").is_file():
        read_lines(path / "controls.jsonl", lambda row: count(as_mapping(row)))
    reach = as_mapping(summary.get("effective_frames"))
    return Controls(told=controls, reach=reach, no_needle_by_frames=clean)


def _read_mapping(path: Path, problems: list[Problem]) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        return as_mapping(json.loads(read_text(path)))
    except (ValueError, RecursionError) as error:
        text = f"{path} is not valid JSON ({error}); what it says is missing here."
        problems.append(Problem(kind="damaged", text=text, task=NEEDLE_TASK))
        return {}
