"""What runs are called, so that each can be told from the others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from longva_eval.reports.reading.run import Run
from longva_eval.reports.reading.samples import as_mapping

__all__ = ["params_of", "rope_text", "run_labels"]

_UNTOLD: Final = frozenset(
    [
        "pretrained",
        "device",
        "device_map",
        "batch_size",
        "on_error",
        "max_failed",
        "journal",
        "seed",
    ]
)
"""Model arguments that make no other score, or that are told otherwise."""


def run_labels(runs: Sequence[Run], *, with_frames: bool = False) -> list[str]:
    """Names of runs; what tells them apart is added where names are the same.

    Args:
        runs: What to name.
        with_frames: Whether the number of frames is part of the name, where it tells runs apart;
            tables of scores have a column for it.
    """
    labels = []
    for run in runs:
        same = [other for other in runs if other.name == run.name]
        more = []
        if with_frames and len({other.frames() for other in same}) > 1 and run.frames():
            more.append(f"{run.frames()} frames")
        # A needle test has no model_args: that is no difference of settings.
        asked = [other for other in same if other.model_args]
        for key in dict.fromkeys(key for other in asked for key in other.model_args):
            given = {other.model_args.get(key, "") for other in asked}
            if len(given) > 1 and key not in _UNTOLD and "frames" not in key:
                value = run.model_args.get(key, "")
                more += [f"{key}={value}"] if value else []
        for tell in (rope_text, lambda each: each.seeds):
            if len({tell(other) for other in same}) > 1 and tell(run):
                more.append(tell(run))
        labels.append(", ".join([run.name, *more]))
    shown = list(zip(labels, ["" if with_frames else run.frames() for run in runs], strict=True))
    for label in dict.fromkeys(shown):
        group = [place for place, each in enumerate(shown) if each == label]
        if len(group) > 1:
            for place, told in zip(group, _told_apart([runs[n] for n in group]), strict=True):
                labels[place] += f" ({told})"
    return labels


def _told_apart(runs: Sequence[Run]) -> list[str]:
    """What differs between runs of one name: tasks, folders, dates, or else their place."""
    paths = [run.path.resolve().parent.parts for run in runs]
    alike = next((n for n, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1), 0)
    for told in (
        [", ".join(run.tasks) if len(run.tasks) == 1 else "" for run in runs],
        [_own_folder(run) for run in runs],
        ["/".join(parts[alike:]) for parts in paths],
        [run.date for run in runs],
    ):
        if len(set(told)) == len(runs) and all(told):
            return told
    return [str(number) for number in range(1, len(runs) + 1)]


def _own_folder(run: Run) -> str:
    """The folder a user chose, above the one that lmms-eval names after the model."""
    folder = run.path.resolve().parent
    model = run.results.get("model_name_sanitized")
    return folder.parent.name if model and folder.name == model else folder.name


def rope_text(run: Run) -> str:
    """What RoPE settings were asked for; empty if the checkpoint's own."""
    asked: Mapping[str, Any] = as_mapping(as_mapping(run.recipe.get("rope")).get("asked"))
    names = {"theta": "RoPE base", "rope_type": "RoPE type"}
    parts = []
    for name, value in asked.items():
        text = f"{value:,.10g}" if isinstance(value, (int, float)) else str(value)
        parts.append(f"{names.get(name, name.replace('_', ' '))} {text}")
    return ", ".join(parts)


def params_of(run: Run) -> str:
    """The size that a checkpoint's name tells, as `7B`; else empty."""
    found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)[Bb](?![\w.])", run.name.replace("_", "-"))
    return f"{found[1]}B" if found else ""
