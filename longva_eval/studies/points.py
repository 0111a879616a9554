"""The points of a study on disk: which are complete, with which settings, and what they took."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loguru import logger

from longva_eval.embedded import MODEL_CLASSES, RECIPE_KEY
from longva_eval.errors import EvaluationError, SettingsError
from longva_eval.files import check_writable, set_aside
from longva_eval.media.frames import FramePolicy
from longva_eval.questions.outcomes import record_of
from longva_eval.running.journal import journal_settings, settings_difference
from longva_eval.studies.definition import (
    RECORD_NAME,
    SETTINGS_NAME,
    Point,
    Study,
    check_same_study,
    study_text,
    write_json,
)

__all__ = [
    "PointRun",
    "check_same_model",
    "complete_point",
    "missing_text",
    "open_points",
    "overview",
    "remove_incomplete",
    "set_point",
    "write_record",
]

_POINT_NAME = "point.json"
"""In a point's folder, once it is complete."""


@dataclass(kw_only=True)
class PointRun:
    """A point, and what became of it."""

    point: Point
    folder: Path
    record: dict[str, Any] = field(default_factory=dict)
    """Empty until it is complete."""
    reason: str = "it was not begun."
    """Why it is not complete."""
    error: EvaluationError | None = None
    """What it was given up for, where a doc that cannot be asked ends a run."""
    num_taken_over: int = 0
    """Answers that its journal had."""
    num_computed: int = 0

    @property
    def is_complete(self) -> bool:
        return bool(self.record)

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def read(self) -> None:
        """Take over a complete point of an earlier run."""
        path = self.folder / _POINT_NAME
        if not path.is_file():
            return
        record = json.loads(path.read_text(encoding="utf-8"))
        files = [self.folder / name for name in record.get("files", ())]
        if files and all(file.is_file() for file in files):
            self.record = record

    def __str__(self) -> str:
        """Its name and what became of it, in a line."""
        if not self.is_complete:
            return f"{self.point.name}: missing, {self.reason.partition('. ')[0].rstrip('.')}"
        counts: Counter[str] = Counter()
        for found in self.record["outcomes"].values():
            counts.update(found)
        taken = self.record["answers"]["taken_over"]
        parts = [", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())]
        parts += [f"{taken:,} answers taken over"] if taken else []
        return f"{self.point.name}: {'; '.join(parts)}"

    def describe(self, folder: Path) -> dict[str, Any]:
        """For the study's record; paths are from the study's folder on."""
        place = self.folder.relative_to(folder)
        told: dict[str, Any] = {
            "name": self.point.name,
            "frames": self.point.frames,
            "rope": self.point.rope.describe(),
            "rope_label": self.point.rope_label,
            **({"method": changed} if (changed := self.point.method.changed()) else {}),
            "model_args": self.point.arguments,
            "status": "complete" if self.is_complete else "missing",
        }
        if not self.is_complete:
            return told | {"reason": self.reason}
        results = next(name for name in self.record["files"] if name.endswith("_results.json"))
        facts = {name: v for name, v in self.record.items() if name not in ("files", "settings")}
        return told | {"results": str(place / results)} | facts


def open_points(study: Study, folder: Path, *, fresh: bool = False) -> list[PointRun]:
    """The points of a study with what its folder holds of them already; notes the study there.

    Args:
        study: What is asked.
        folder: Made if it is not there.
        fresh: Set aside what it holds.

    Raises:
        SettingsError: If the folder holds another study or cannot be written, the model is
            unknown, or this is one of several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError(
            "A sweep is one process. device_map=auto spreads its model over several GPUs; to use "
            "several processes, give each a part of the grid and an --out of its own."
        )
    if study.model not in MODEL_CLASSES:
        raise SettingsError(f"model={study.model!r} is unknown; use {', '.join(MODEL_CLASSES)}.")
    if fresh and folder.is_dir() and any(folder.iterdir()):
        if not (folder / SETTINGS_NAME).is_file():
            raise SettingsError(f"--fresh: {folder} holds no study; it is left alone.")
        logger.info("Starting over: the earlier study is now {}{}", folder, set_aside(folder))
    check_same_study(study, folder)
    check_writable(folder, "output")
    (folder / SETTINGS_NAME).write_text(study_text(study), encoding="utf-8")
    runs = [PointRun(point=each, folder=folder / "points" / each.name) for each in study.points()]
    for run in runs:
        run.read()
    return runs


def overview(runs: Sequence[PointRun]) -> str:
    """How many points there are, and how many are left."""
    left = [run for run in runs if not run.is_complete]
    begun = sum(run.journal.is_dir() for run in left)
    text = _count(len(runs))
    if len(left) < len(runs):
        text += f", {len(runs) - len(left)} complete"
    if begun:
        text += f", {begun} begun (their answers are taken over)"
    return text + ("." if left else ": nothing is left to compute.")


def missing_text(runs: Sequence[PointRun]) -> str:
    """Which points are missing, and why, for a terminal; empty if none is."""
    missing = [run for run in runs if not run.is_complete]
    if not missing:
        return ""
    lines = []
    for reason in dict.fromkeys(run.reason for run in missing):
        names = ", ".join(run.point.name for run in missing if run.reason == reason)
        lines.append(f"longva-eval sweep: missing: {names}: {reason}")
    lines.append(
        f"longva-eval sweep: {len(missing)} of {_count(len(runs))} "
        f"{'is' if len(runs) == 1 else 'are'} missing; the same command goes on with them."
    )
    return "\n".join(lines)


def _count(points: int) -> str:
    return f"{points} point{'' if points == 1 else 's'}"


def complete_point(
    run: PointRun,
    results: Mapping[str, Any],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    files: Sequence[Path],
) -> None:
    """Note that a point is there, from lmms-eval's results, its samples by task, and its files."""
    recipe: Mapping[str, Any] = results.get(RECIPE_KEY, {})
    outcomes: dict[str, dict[str, int]] = {}
    for task, lines in samples.items():
        found = [record["outcome"] for record in map(record_of, lines) if record is not None]
        outcomes[task] = dict(Counter(found)) or dict(recipe.get("outcomes", {}).get(task, {}))
    run.record = {
        "files": [str(path.relative_to(run.folder)) for path in files],
        "outcomes": outcomes,
        "answers": {"taken_over": run.num_taken_over, "computed": run.num_computed},
        "engine": dict(recipe.get("engine", {})),
        "settings": settings_of(recipe),
    }
    write_json(run.folder / _POINT_NAME, run.record)


def settings_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What of a point's recipe must be equal at all points: nothing that the grid changes."""
    left_out = {"model", "failures", "outcomes", "journal", "ignored_generation_settings",
                "rope", "frames", "kv_press", "task_code", "control"}  # fmt: skip
    kept = {name: value for name, value in recipe.items() if name not in left_out}
    return journal_settings(kept)


def set_point(session: Any, point: Point, frames: FramePolicy) -> None:
    """Let a session ask as at a point from now on.

    Args:
        session: An open model.
        point: What it takes over.
        frames: The session's own rule; its number and policy are the point's.

    Raises:
        SettingsError: If its settings do not fit the checkpoint.
    """
    method = point.method
    session.frames = replace(frames, max_frames=point.frames, policy=method.frame_policy)
    if point.rope != session.checkpoint.rope:
        session.change_rope(point.rope)
    session.change_positions(method.positions)
    session.change_press(method.kv_press)
    session.control = method.control
    _ = session.selector  # one that cannot be loaded is said before anything is read


def check_same_model(session: Any, complete: Sequence[PointRun]) -> None:
    """Refuse to put points beside others that were made with other weights or packages."""
    now = json.loads(json.dumps(settings_of(session.describe()), default=str))
    for run in complete:
        there = run.record.get("settings", {})
        if there != now:
            raise SettingsError(
                f"{run.folder} was made under other settings: {settings_difference(there, now)}. "
                "Points of one study must not differ in them: choose another folder, or start over "
                "with --fresh."
            )


def remove_incomplete(folder: Path) -> None:
    """Files of a point that was interrupted while they were written."""
    for pattern in ("*_results.json", "*_samples_*.jsonl", "*_breakdown_*.json", "*.incomplete"):
        for path in folder.rglob(pattern):
            path.unlink()


def write_record(
    study: Study,
    folder: Path,
    runs: Sequence[PointRun],
    seconds: float,
) -> None:
    """Say in the study's folder which points there are, and what they took."""
    work: dict[str, int] = {}
    for run in runs:
        for name, value in run.record.get("engine", {}).items():
            if name != "smallest_chunk" and isinstance(value, int):
                work[name] = work.get(name, 0) + value
    record = {
        "study": 1,
        "settings": study.describe(),
        "points": [run.describe(folder) for run in runs],
        "work": work,
        "seconds": round(seconds, 1),
    }
    write_json(folder / RECORD_NAME, record)
