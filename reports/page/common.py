"""What all parts of the page share: runs with their letters, estimates and how they are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from longva_eval import stats
from longva_eval.reports.page.markup import Markup, isolated, tag
from longva_eval.reports.reading.needle_runs import Controls, grid_of
from longva_eval.reports.reading.runs import Run, Sample, TaskRun
from longva_eval.reports.reading.samples import as_mapping

__all__ = [
    "PageRun",
    "ShownRun",
    "all_tasks",
    "badge",
    "estimate",
    "is_hidden",
    "named",
    "percent",
    "quoted",
    "range_text",
    "rope_text",
    "shown_runs",
    "with_task",
]


@dataclass(frozen=True, kw_only=True)
class PageRun:
    """A run on the page."""

    run: Run
    controls: Controls | None = None
    """Of a needle test."""


@dataclass(frozen=True, kw_only=True)
class ShownRun:
    """A run with its letter and the words that tell it from the others."""

    place: int
    letter: str
    label: str
    run: Run
    controls: Controls | None


def shown_runs(runs: Sequence[PageRun]) -> list[ShownRun]:
    """Letters and labels: a model's name, its frames, and its date if that is not enough."""
    labels = []
    for each in runs:
        frames = each.run.frames() if each.controls is None and not _is_grid_only(each.run) else ""
        parts = [each.run.name, _frames_text(frames) if frames else "", rope_text(each.run)]
        labels.append(", ".join(part for part in parts if part))
    shown = []
    tasks = [", ".join(each.run.tasks) if len(each.run.tasks) == 1 else "" for each in runs]
    with_tasks = [f"{label}, {task}" for label, task in zip(labels, tasks, strict=True)]
    for place, each in enumerate(runs):
        label = labels[place]
        if labels.count(label) > 1 and tasks[place] and with_tasks.count(with_tasks[place]) == 1:
            label = with_tasks[place]
        elif labels.count(label) > 1:
            label = f"{label}, {_date(each.run) or f'run {place + 1}'}"
        shown.append(
            ShownRun(place=place, letter=_letter(place), label=label, run=each.run,
                   controls=each.controls)
        )  # fmt: skip
    return shown


def _date(run: Run) -> str:
    """lmms-eval writes 20261101_120000, a needle test an ISO date."""
    found = re.match(r"(\d{4})-?(\d\d)-?(\d\d)[T_](\d\d):?(\d\d):?(\d\d)", run.date)
    return "{}-{}-{} {}:{}:{}".format(*found.groups()) if found else run.date


def _is_grid_only(run: Run) -> bool:
    return all(grid_of(task) is not None for task in run.tasks.values())


def _frames_text(frames: str) -> str:
    return frames if "fps" in frames else f"{frames} frame{'' if frames == '1' else 's'}"


def _letter(place: int) -> str:
    letters = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def rope_text(run: Run) -> str:
    """What RoPE settings were asked for; empty if the checkpoint's own."""
    asked = as_mapping(as_mapping(run.recipe.get("rope")).get("asked"))
    names = {"theta": "RoPE base", "rope_type": "RoPE type"}
    parts = []
    for name, value in asked.items():
        shown = f"{value:,.10g}" if isinstance(value, (int, float)) else str(value)
        parts.append(f"{names.get(name, name.replace('_', ' '))} {shown}")
    return ", ".join(parts)


def badge(each: ShownRun) -> Markup:
    """A run's letter in its colour."""
    return tag("span", each.letter, class_=f"letter run-{each.place % 8}", title=each.label)


def named(each: ShownRun) -> Markup:
    """A run's letter and label."""
    return tag("span", badge(each), " ", isolated(each.label), class_="named")


def all_tasks(shown: Sequence[ShownRun]) -> list[str]:
    """Names of all tasks, in the order in which runs have them."""
    return list(dict.fromkeys(name for each in shown for name in each.run.tasks))


def with_task(shown: Sequence[ShownRun], name: str) -> list[tuple[ShownRun, TaskRun]]:
    """The runs that have a task."""
    return [(each, each.run.tasks[name]) for each in shown if name in each.run.tasks]


def is_hidden(task: TaskRun) -> bool:
    """Whether nobody but the board knows the right answers."""
    return bool(task.samples) and all(
        question.record.get("hidden_answer") is True for question in task.samples
    )


def estimate(questions: Sequence[Sample], *, is_share: bool) -> stats.Estimate | None:
    """Mean score with its clustered interval; None of nothing."""
    if not questions:
        return None
    return stats.estimate_mean(
        [question.score for question in questions],
        [question.cluster for question in questions],
        is_share=is_share,
    )


def percent(value: float, digits: int = 1) -> str:
    """A share in percent, without the sign."""
    return f"{100 * value:.{digits}f}"


def range_text(found: stats.Estimate, *, is_share: bool) -> str:
    """The interval of an estimate, in words where there is none."""
    if found.num_clusters == 1:
        return "no interval: one video"
    if is_share:
        return f"{percent(found.interval.low)} to {percent(found.interval.high)}"
    return f"{found.interval.low:.2f} to {found.interval.high:.2f}"


def quoted(text: str) -> str:
    """For the part of an address behind the #."""
    return quote(text.encode("utf-8", errors="replace"), safe="")
