"""A folder of `longva-eval niah` as a run: the same questions and outcomes as a task's.

`cells.jsonl` becomes the questions of a task called V-NIAH; `run.json` says how they were made and
has the needles' questions and answers. What only a needle test has (controls, conclusions) is in
`Controls`. Tasks of lmms-eval that are needle grids are found by `grid_of`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from longva_eval.errors import MediaError
from longva_eval.reports.reading.run import Metric, Run, TaskRun
from longva_eval.reports.reading.samples import Problem, Sample, as_mapping, as_number, count_of

__all__ = ["NEEDLE_TASK", "Controls", "Grid", "GridCell", "grid_of", "is_needle_folder",
           "read_needle_run"]  # fmt: skip

NEEDLE_TASK: Final = "V-NIAH"


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What a grid must be compared with, from `summary.json` and `controls.jsonl`."""

    needle_only: float | None
    no_needle: float | None
    blind: float | None
    no_needle_by_frames: Mapping[int, tuple[float, int]]
    """Right answers and questions on the clean haystack."""
    known_without_seeing: tuple[str, ...]
    effective_frames: int | None
    is_at_least: bool
    threshold: float | None
    can_be_told: bool
    """False if there are too few needles for effective frames."""


@dataclass(frozen=True, kw_only=True)
class GridCell:
    """The needles at one place."""

    num_frames: int
    depth: float
    """From 0 to 1."""
    insert_index: int | None
    samples: tuple[Sample, ...]

    @property
    def found(self) -> float:
        return math.fsum(question.score for question in self.samples)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A needle grid."""

    cells: tuple[GridCell, ...]
    is_lattice: bool
    """Whether needles stand before fixed frames instead of at fixed depths."""

    def mean(self) -> float:
        """Mean of the cells, as the original has it."""
        return math.fsum(cell.found / len(cell.samples) for cell in self.cells) / len(self.cells)


def is_needle_folder(path: Path) -> bool:
    """Whether `longva-eval niah` has written, or begun to write, its results here."""
    return path.is_dir() and any(
        (path / name).is_file() for name in ("cells.jsonl", "cells.partial.jsonl")
    )


def read_needle_run(path: Path) -> tuple[Run, Controls | None]:
    """Read the folder of a needle test.

    Returns:
        The run, whose one task is `NEEDLE_TASK` with the test's name, and its controls if any.

    Raises:
        MediaError: If nothing in it can be read.
    """
    problems: list[Problem] = []
    file = path / "cells.jsonl"
    if not file.is_file():
        file = path / "cells.partial.jsonl"
        text = (
            f"{path} holds cells.partial.jsonl only: the needle test was not finished, and what is "
            "shown is the part of the grid that was answered."
        )
        problems.append(Problem(kind="truncated", text=text, task=NEEDLE_TASK))
    record = _read_mapping(path / "run.json", problems)
    needles = [as_mapping(needle) for needle in record.get("needles") or []]
    needles = [needle for needle in needles if not needle.get("rotation")]
    cells: list[Sample] = []
    damaged, first = 0, ""
    lines = _text(file).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            cells.append(_sample(len(cells), row, needles))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            damaged += 1
            if damaged == 1:
                first = f"line {number}: {error}"
    if damaged:
        text = (
            f"{file}: {count_of(damaged, 'line')} cannot be read and left out ({first}); the run "
            "or a copy was interrupted."
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
        version="",
        metrics=(metric,),
        metric="vniah_accuracy",
        num_asked=None if asked is None else int(asked),
        num_in_benchmark=None,
        samples=tuple(cells),
        is_share=True,
        scale=100.0,
        higher_is_better=True,
        num_tries=1,
        num_fewshot=0,
        sampling="",
        is_ours=True,
        read_from={"score": "correct", "question_id": "place and needle", "cluster": "needle"},
        subtasks=(),
        config={},
    )
    name = str(model.get("checkpoint") or path.name).rstrip("/").split("/")[-1]
    run = Run(
        path=path,
        name=name,
        model="longva",
        model_args={},
        date=str(record.get("date") or ""),
        limit=None,
        offset=0,
        tasks={name_of_test: task},
        config={},
        recipe={**{k: v for k, v in record.items() if k not in ("model", "needles")}, **model},
        problems=tuple(problems),
        results=record,
    )
    return run, _read_controls(path, problems)


def grid_of(task: TaskRun) -> Grid | None:
    """The grid of a task whose questions say a length and a depth; None if they do not."""
    places: dict[tuple[int, float], list[Sample]] = {}
    indices: dict[tuple[int, float], int | None] = {}
    for question in task.samples:
        frames = as_number(question.record.get("num_frames"))
        depth = as_number(question.record.get("depth"))
        if frames is None or depth is None or not task.is_share:
            return None
        place = int(frames), round(depth, 6)
        places.setdefault(place, []).append(question)
        index = as_number(question.record.get("insert_index"))
        indices[place] = None if index is None else int(index)
    if len(places) < 2:
        return None
    cells = tuple(
        GridCell(
            num_frames=frames, depth=depth, insert_index=indices[frames, depth],
            samples=tuple(questions),
        )
        for (frames, depth), questions in sorted(places.items())
    )  # fmt: skip
    return Grid(cells=cells, is_lattice=_is_lattice(cells))


def _is_lattice(cells: Sequence[GridCell]) -> bool:
    """Whether lengths share their insertion indices rather than their depths."""
    depths = {cell.depth for cell in cells}
    indices = {cell.insert_index for cell in cells}
    return None not in indices and len(indices) < len(depths)


def _sample(number: int, row: Any, needles: Sequence[Mapping[str, Any]]) -> Sample:
    if not isinstance(row, dict):
        raise ValueError("no cell")
    frames, depth = int(row["num_frames"]), float(row["depth"])
    place, correct = int(row["needle"]), row["correct"]
    if not isinstance(correct, bool) or not math.isfinite(depth) or frames < 1:
        raise ValueError("no cell with num_frames, depth and correct")
    needle = needles[place] if 0 <= place < len(needles) else {}
    name = str(needle.get("name") or f"needle {place}")
    generated = str(row.get("generated", ""))
    tokens = as_number(row.get("num_prompt_tokens"))
    spread = as_number(row.get("spread"))
    key = f"{frames}-{depth:.3f}-{place}" + ("" if spread is None else f"-{spread:g}")
    inserted = [*(row.get("insert_indices") or [0]), *(row.get("distractor_indices") or [])]
    return Sample(
        key=key,
        question_id=key,
        doc_id=number,
        cluster=name,
        outcome="right" if correct else "wrong",
        score=float(correct),
        tries=(),
        more_scores={},
        answer=str(row.get("answer") or needle.get("answer", "")),
        choice=None,
        generated=generated,
        question=str(row.get("question") or needle.get("question", "")).strip(),
        options=(),
        categories={"num_frames": str(frames), "depth": f"{100 * depth:g} %", "needle": name},
        media=(),
        prompt="",
        frames_asked=frames + len(inserted),
        # Of a selection nobody but the recipe knows how many.
        frames_seen=None if row.get("shown") is not None else frames + len(inserted),
        timestamps=(),
        num_prompt_tokens=None if tokens is None else int(tokens),
        seconds=None,
        reason="",
        record={**row, "needle_name": name},
        facts={},
    )


def _read_controls(path: Path, problems: list[Problem]) -> Controls | None:
    summary = _read_mapping(path / "summary.json", problems)
    controls = summary.get("controls")
    if not isinstance(controls, Mapping):
        return None
    clean: dict[int, tuple[float, int]] = {}
    lines = path / "controls.jsonl"
    for line in _text(lines).split("\n") if lines.is_file() else []:
        try:
            row = as_mapping(json.loads(line)) if line.strip() else {}
            if row.get("control") == "no needle" and not row.get("rotation"):
                right, asked = clean.get(int(row["num_frames"]), (0.0, 0))
                clean[int(row["num_frames"])] = right + float(bool(row["correct"])), asked + 1
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    reach = as_mapping(summary.get("effective_frames"))
    frames = as_number(reach.get("frames"))
    return Controls(
        needle_only=as_number(controls.get("needle_only")),
        no_needle=as_number(controls.get("no_needle")),
        blind=as_number(controls.get("blind")),
        no_needle_by_frames=clean,
        known_without_seeing=tuple(map(str, controls.get("known_without_seeing") or ())),
        effective_frames=None if frames is None else int(frames),
        is_at_least=bool(reach.get("is_at_least")),
        threshold=as_number(reach.get("threshold")),
        can_be_told=reach.get("can_be_told") is not False,
    )


def _text(path: Path) -> str:
    try:
        # Damaged bytes must not cost the other lines.
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error}") from error


def _read_mapping(path: Path, problems: list[Problem]) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        return as_mapping(json.loads(_text(path)))
    except (ValueError, RecursionError) as error:
        text = f"{path} is not valid JSON ({error}); what it says is missing here."
        problems.append(Problem(kind="damaged", text=text, task=NEEDLE_TASK))
        return {}
