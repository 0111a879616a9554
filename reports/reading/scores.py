"""The one place where the samples of a task become a score.

`compare`, `show`, the page, the log for inspect_ai and `runs_frame` all show what these functions
give. Statistics are in `longva_eval.stats`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from longva_eval import stats
from longva_eval.reports.reading.run import Metric, TaskRun
from longva_eval.reports.reading.samples import Sample, as_mapping, within_question

__all__ = ["MetricScores", "Score", "score_facts", "score_of", "scores_in", "tries_text"]


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
    low: float | None = None
    """Of the 95 % interval; None where there is none."""
    high: float | None = None
    num_questions: int
    num_videos: int = 0
    """0 where there are no samples."""
    num_failed: int = 0
    num_with_miss: int = 0
    """Videos with a question that is not wholly right."""
    num_with_hit: int = 0
    tries: int = 1
    """Answers to every question."""
    within: float | None = None
    """Standard deviation between answers to one question."""
    majority: float | None = None
    """Share of questions that are right in most of their answers, in percent."""
    pass_at: Mapping[int, float] = field(default_factory=dict)
    """By k the share of questions that are right in at least one of k answers, in percent: for what
    the task asks with filters `pass@k`, else for all its answers."""

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


@dataclass(frozen=True, kw_only=True)
class MetricScores:
    """A task's questions in one metric."""

    label: str
    by_key: Mapping[str, float]
    """By `Sample.key`; of several tries the mean."""
    is_share: bool
    """Whether all lie within 0 and 1."""
    scale: float
    """What a score is multiplied by to be shown."""
    higher_is_better: bool


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
    written = next((m for m in task.metrics if m.label == metric), None) if metric else None
    written = written or (None if metric else task.main_metric())
    known = scores_in(task, metric) if task.samples else None
    if known is None:
        return _as_written(task, written) if samples is None and written is not None else None
    scored = [s for s in (task.samples if samples is None else samples) if s.is_scored]
    if not scored:
        return None
    category = _main_category(scored) if over_categories and known.is_share else None
    found = _measured(known, scored, category)
    tries = max(1, *(len(sample.tries) for sample in scored))
    if tries == 1 or known.label != task.metric:
        return found
    found = replace(found, tries=tries, within=task.scale * within_question(scored))
    if not (task.is_share and task.higher_is_better):
        return found
    most = sum(sample.outcome == "right" for sample in scored)
    fewest = min(len(sample.tries) for sample in scored)
    pass_at = {}
    for k in _asked_k(task, fewest):
        chances = [stats.pass_at_k(s.tries.count(1.0), len(s.tries), k) for s in scored]
        pass_at[k] = 100 * math.fsum(chances) / len(scored)
    return replace(found, majority=100 * most / len(scored), pass_at=pass_at)


def score_facts(found: Score) -> dict[str, Any]:
    """All that is known of a score, by the columns of `compare --format csv` and `runs_frame`."""
    return {
        "metric": found.metric,
        "higher_is_better": found.higher_is_better,
        "value": found.value,
        "unit": found.unit,
        "standard_error": found.standard_error,
        "low_95": found.low,
        "high_95": found.high,
        "few": found.few,
        "questions": found.num_questions,
        "videos": found.num_videos,
        "failed": found.num_failed,
        "tries": found.tries,
        "within": found.within,
        "majority": found.majority,
    }


def tries_text(found: Score) -> str:
    """What is known of a score from several answers to each question, as a part of a sentence."""
    within = found.write(found.within or 0.0)
    parts = [f"between answers to one question scores vary by {within} (standard deviation)"]
    if found.majority is not None:
        parts.append(f"{found.majority:.1f} % are right in most of their answers")
    parts += [f"pass@{k} is {share:.1f} %" for k, share in found.pass_at.items()]
    return "; ".join(parts)


def _asked_k(task: TaskRun, fewest: int) -> list[int]:
    """The k of the task's `pass@k` filters that its answers allow, else their number."""
    filters = task.config.get("filter_list")
    names = [str(as_mapping(f).get("name")) for f in filters] if isinstance(filters, list) else []
    given = {int(found[1]) for name in names if (found := re.fullmatch(r"pass@(\d+)", name))}
    return [k for k in sorted(given) or [fewest] if 1 <= k <= fewest]


def scores_in(task: TaskRun, metric: str) -> MetricScores | None:
    """The score of every scored question in one of the task's metrics.

    Args:
        task: The task.
        metric: Its label; the main metric if empty.

    Returns:
        None where the samples do not say it: some have no number in this metric, or the task's own
        value is not the mean of what they have.
    """
    main = task.main_metric()
    scored = [sample for sample in task.samples if sample.is_scored]
    if not metric or (main is not None and metric == main.label):
        return MetricScores(
            label=task.metric,
            by_key={sample.key: sample.score for sample in scored},
            is_share=task.is_share,
            scale=task.scale,
            higher_is_better=task.higher_is_better,
        )
    written = next((each for each in task.metrics if each.label == metric), None)
    if written is None or not scored:
        return None
    found: dict[str, float] = {}
    for sample in scored:
        value = sample.more_scores.get(metric, sample.more_scores.get(written.name))
        if value is None:
            return None
        found[sample.key] = value
    mean = math.fsum(found.values()) / len(found)
    is_share = all(0.0 <= value <= 1.0 for value in found.values())
    for scale in (100.0, 1.0):
        # Its value in percent, or as a share, or on its own scale.
        if math.isclose(written.value, scale * mean, rel_tol=0.01, abs_tol=1e-9):
            return MetricScores(
                label=metric,
                by_key=found,
                is_share=is_share,
                scale=100.0 if is_share else scale,
                higher_is_better=written.higher_is_better,
            )
    return None


def _measured(known: MetricScores, samples: Sequence[Sample], category: str | None) -> Score:
    """The mean over samples, or over the values of a category."""
    found = stats.estimate_mean(
        [known.by_key[sample.key] for sample in samples],
        [sample.cluster for sample in samples],
        groups=[sample.categories.get(category, "") for sample in samples] if category else None,
        is_share=known.is_share,
    )
    scale = known.scale
    return Score(
        value=scale * found.mean,
        unit="%" if scale == 100 else "",
        metric=f"{known.label}, mean over {category}" if category else known.label,
        higher_is_better=known.higher_is_better,
        # One video, or videos that all agree, show no spread; that is not certainty.
        standard_error=scale * found.standard_error if found.standard_error else None,
        low=scale * found.interval.low if math.isfinite(found.interval.low) else None,
        high=scale * found.interval.high if math.isfinite(found.interval.high) else None,
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
        num_questions=task.num_asked or len(task.samples),
    )


def _main_category(samples: Sequence[Sample]) -> str | None:
    names = dict.fromkeys(name for sample in samples for name in sample.categories)
    return next((name for name in ("task_type", *names) if name in names), None)
