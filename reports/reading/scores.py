"""The one place where the samples of a task become a score.

`compare`, `show`, the page, `submit`, studies and `samples_frame` all show what these functions
give. Statistics are in `longva_eval.stats`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from longva_eval import stats
from longva_eval.reports.reading.run import Metric, TaskRun
from longva_eval.reports.reading.samples import Sample, within_question

__all__ = ["Score", "score_of"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score on the scale it is shown on: percent where `unit` says so."""

    value: float
    unit: str
    """`%`, or empty for a metric that is not shown in percent."""
    metric: str
    higher_is_better: bool
    standard_error: float | None
    """Clustered; None where videos show no spread, or the run did not say."""
    low: float | None
    """Of the 95 % interval; None where there is none."""
    high: float | None
    num_questions: int
    num_videos: int
    """0 where there are no samples."""
    num_failed: int
    num_with_miss: int
    """Videos with a question that is not wholly right."""
    num_with_hit: int
    tries: int = 1
    """Answers to every question."""
    within: float | None = None
    """Standard deviation between answers to one question."""
    majority: float | None = None
    """Share of questions that are right in most of their answers, in percent."""

    @property
    def text(self) -> str:
        """The value as tables show it."""
        return self.write(self.value)

    def write(self, number: float) -> str:
        """A number on this scale with the digits that it is shown with."""
        return f"{number:.1f}" if self.unit else f"{number:.2f}"

    @property
    def is_few(self) -> bool:
        """Whether too few videos hold a miss, or a hit, for a narrow interval to be trusted."""
        return self.num_videos > 0 and min(self.num_with_miss, self.num_with_hit) < stats.FEW

    @property
    def few(self) -> str:
        """What there is few of, as `3 videos hold a miss`; empty if that is enough."""
        if not self.is_few:
            return ""
        number, what = min((self.num_with_miss, "miss"), (self.num_with_hit, "hit"))
        if number == self.num_videos:
            return f"{number} video{'' if number == 1 else 's'}"
        return f"{number or 'no'} video{' holds' if number == 1 else 's hold'} a {what}"


def score_of(
    task: TaskRun,
    samples: Sequence[Sample] | None = None,
    *,
    metric: str = "",
    over_categories: bool = False,
) -> Score | None:
    """The score of a task, or of some of its samples.

    Args:
        task: Whose metric and scale count.
        samples: All of the task if None. A task without any has what lmms-eval wrote.
        metric: Label of another metric of the task; its main one if empty.
        over_categories: Whether the score is the mean over the values of the task's first
            category, as MLVU's M-Avg, instead of the mean over questions.

    Returns:
        None where nothing is scored.
    """
    main = task.main_metric()
    chosen = task.samples if samples is None else samples
    if metric and (main is None or metric != main.label):
        return _other_metric(task, chosen, metric, is_whole=samples is None)
    if not task.samples:
        return None if samples is not None or main is None else _as_written(task, main)
    scored = [sample for sample in chosen if sample.is_scored]
    if not scored:
        return None
    category = _main_category(scored) if over_categories and task.is_share else None
    found = _measured(
        [sample.score for sample in scored],
        scored,
        groups=[sample.categories.get(category, "") for sample in scored] if category else None,
        is_share=task.is_share,
        scale=task.scale,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
    )
    tries = max(1, *(len(sample.tries) for sample in scored))
    if tries == 1:
        return found
    right = sum(sample.outcome == "right" for sample in scored)
    return replace(
        found,
        tries=tries,
        within=task.scale * within_question(scored),
        majority=100 * right / len(scored) if task.is_share and task.higher_is_better else None,
    )


def _other_metric(
    task: TaskRun, samples: Sequence[Sample], label: str, *, is_whole: bool
) -> Score | None:
    """The score in another of the task's metrics, by question where that is its mean."""
    metric = next((metric for metric in task.metrics if metric.label == label), None)
    if metric is None:
        return None
    scored = [sample for sample in samples if sample.is_scored]
    given = [s.more_scores.get(label, s.more_scores.get(metric.name)) for s in scored]
    values = [value for value in given if value is not None]
    if not values or len(values) < len(given):
        return _as_written(task, metric) if is_whole else None
    mean = math.fsum(values) / len(values)
    for scale in (100.0, 1.0):
        # Its value in percent, or as a share, or on its own scale.
        if math.isclose(metric.value, scale * mean, rel_tol=0.01, abs_tol=1e-9):
            is_share = all(0.0 <= value <= 1.0 for value in values)
            return _measured(
                values,
                scored,
                groups=None,
                is_share=is_share,
                scale=100.0 if is_share else scale,
                metric=label,
                higher_is_better=metric.higher_is_better,
            )
    return _as_written(task, metric) if is_whole else None


def _measured(
    scores: Sequence[float],
    samples: Sequence[Sample],
    *,
    groups: Sequence[str] | None,
    is_share: bool,
    scale: float,
    metric: str,
    higher_is_better: bool,
) -> Score:
    found = stats.estimate_mean(
        scores,
        [sample.cluster for sample in samples],
        groups=groups,
        is_share=is_share,
    )
    return Score(
        value=scale * found.mean,
        unit="%" if scale == 100 else "",
        metric=metric,
        higher_is_better=higher_is_better,
        # One video, or videos that all agree, show no spread; that is not certainty.
        standard_error=scale * found.standard_error if found.standard_error else None,
        low=scale * found.interval.low,
        high=scale * found.interval.high,
        num_questions=found.num_questions,
        num_videos=found.num_clusters,
        num_failed=sum(sample.outcome == "failed" for sample in samples),
        num_with_miss=found.num_with_miss,
        num_with_hit=found.num_with_hit,
    )


def _as_written(task: TaskRun, metric: Metric) -> Score:
    """What lmms-eval wrote, where the samples do not say it."""
    percent = metric.percent
    error = metric.standard_error if percent is not None else None
    return Score(
        value=metric.value if percent is None else percent,
        unit="" if percent is None else "%",
        metric=metric.label,
        higher_is_better=metric.higher_is_better,
        standard_error=100 * error if error else None,
        low=None,
        high=None,
        num_questions=task.num_asked or len(task.samples),
        num_videos=0,
        num_failed=0,
        num_with_miss=0,
        num_with_hit=0,
    )


def _main_category(samples: Sequence[Sample]) -> str | None:
    names = dict.fromkeys(name for sample in samples for name in sample.categories)
    return next((name for name in ("task_type", *names) if name in names), None)
