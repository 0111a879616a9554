"""What is known of a run of lmms-eval: the run, its tasks, their metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from longva_eval.questions.outcomes import OUTCOMES
from longva_eval.reports.reading.samples import Problem, Sample

__all__ = ["Metric", "Run", "TaskRun"]

_FRAME_ARGUMENTS: Final = (
    "max_frames_num", "max_num_frames", "num_frames", "nframes", "max_frames", "num_video_frames",
    "video_frames", "frames", "frame_num", "for_get_frames_num", "fps", "video_fps",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score as lmms-eval wrote it."""

    name: str
    filter: str
    value: float
    percent: float | None
    """The value in percent; None where its scale cannot be told."""
    standard_error: float | None
    """lmms-eval's own: clustered if it has that, else of independent questions. A share, as it is
    computed from the scores of the questions."""
    is_clustered: bool
    higher_is_better: bool

    @property
    def label(self) -> str:
        """The name, with its filter if it is not the only one."""
        return self.name if self.filter in ("", "none") else f"{self.name}, {self.filter}"


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """What a run has of one task."""

    name: str
    version: str = ""
    metrics: tuple[Metric, ...]
    metric: str = ""
    """The metric that the questions' scores come from; empty if there are none."""
    num_asked: int | None
    """Questions that lmms-eval says it asked."""
    num_in_benchmark: int | None = None
    """Questions that the benchmark has."""
    samples: tuple[Sample, ...] = ()
    is_share: bool
    """Whether every score lies within 0 and 1."""
    scale: float
    """What a score is multiplied by to be shown: 100 for shares and error rates in percent."""
    higher_is_better: bool
    num_tries: int = 1
    """Answers asked of every question."""
    num_fewshot: int = 0
    """Examples in the prompt."""
    sampling: str = ""
    """How answers are drawn, as `temperature 0.7`; empty if greedily."""
    is_ours: bool = False
    """Whether the samples hold records of longva-eval."""
    read_from: Mapping[str, str] = field(default_factory=dict)
    """For score, question_id and cluster: the field of the samples it was read from."""
    subtasks: tuple[str, ...] = ()
    """The members, if this is a group."""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_group(self) -> bool:
        """Whether it has members in place of questions of its own."""
        return bool(self.subtasks) and not self.samples

    @property
    def unit(self) -> str:
        """`%` for what is shown in percent, else empty."""
        return "%" if self.scale == 100 else ""

    def main_metric(self) -> Metric | None:
        """The metric the questions belong to, else the first."""
        named = [metric for metric in self.metrics if metric.name == self.metric]
        return next(iter(named or self.metrics), None)

    def counts(self) -> dict[str, int]:
        """Questions per outcome; all of them are there."""
        found = Counter(question.outcome for question in self.samples)
        return {**dict.fromkeys(OUTCOMES, 0), **found}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of lmms-eval."""

    path: Path
    """The results file, or the samples file if that is all there is."""
    name: str
    """Last part of the checkpoint's name, or of the model's."""
    model: str
    model_args: Mapping[str, str] = field(default_factory=dict)
    date: str
    limit: float | None = None
    offset: int = 0
    tasks: Mapping[str, TaskRun]
    config: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any]
    """What our adapters say of themselves; empty for other models."""
    problems: tuple[Problem, ...]
    results: Mapping[str, Any] = field(repr=False)
    """The whole results file."""
    seeds: str = ""
    """As `seed 1234`, to tell runs apart; of pooled runs all."""

    def problems_of(self, task: str) -> list[Problem]:
        """Those of a task and those of the whole run."""
        return [problem for problem in self.problems if problem.task in ("", task)]

    def frames(self, task: str = "") -> str:
        """Frames per video, to read: `128`, `8 to 128`, `1 fps`; empty if the run does not say.

        What the model saw comes before what was asked for, and both before its arguments. Of
        needles in a haystack, the haystack's.
        """
        chosen = [self.tasks[task]] if task in self.tasks else list(self.tasks.values())
        questions = [question for each in chosen for question in each.samples]
        shown = [q.needle_place[0] if q.needle_place else q.frames_seen for q in questions]
        seen = [frames for frames in shown if frames is not None]
        if seen:
            low, high = min(seen), max(seen)
            return f"{high}" if low == high else f"{low} to {high}"
        policy = self.recipe.get("frames")
        if isinstance(policy, Mapping) and policy.get("max_frames") is not None:
            return f"{policy['max_frames']}"
        for name in _FRAME_ARGUMENTS:
            if name in self.model_args:
                value = self.model_args[name]
                return f"{value} fps" if "fps" in name else value
        return ""
