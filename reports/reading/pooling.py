"""Runs that differ in their seeds only, as one run with a try for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from longva_eval.reports.reading.building import parse_arguments
from longva_eval.reports.reading.run import Metric, Run, TaskRun
from longva_eval.reports.reading.samples import (
    Problem,
    Sample,
    as_mapping,
    count_of,
    majority,
)
from longva_eval.reports.reading.scores import score_of, tries_text

__all__ = ["pool", "seeds_of", "settings_but_seeds"]

_SEEDS: Final = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")


def seeds_of(results: Mapping[str, Any]) -> tuple[str, ...]:
    """All seeds that a results file names."""
    config = as_mapping(results.get("config"))
    given = [str(config.get(name, "")) for name in _SEEDS]
    for key in ("model_args", "gen_kwargs"):
        given.append(parse_arguments(config.get(key)).get("seed", ""))
    return tuple(given)


def settings_but_seeds(results: Mapping[str, Any]) -> object:
    """What has to be equal for two runs to be two draws of one."""
    config = as_mapping(results.get("config"))
    arguments = [
        {k: v for k, v in parse_arguments(config.get(key)).items() if k != "seed"}
        for key in ("model_args", "gen_kwargs")
    ]
    tasks = {
        name: (as_mapping(task).get("generation_kwargs"), as_mapping(task).get("repeats"))
        for name, task in as_mapping(results.get("configs")).items()
    }
    same = [results.get(key) for key in ("versions", "n-shot", "n-samples", "group_subtasks")]
    return config.get("model"), arguments, config.get("limit"), config.get("offset"), tasks, same


def pool(runs: Sequence[Run]) -> Run | None:
    """One run of several; None if their questions are not the same.

    Args:
        runs: That differ in their seeds, the one whose settings are shown first.

    Returns:
        The score of a question is its mean over all runs, `Sample.tries` has each, and its outcome
        is that of most.
    """
    first = runs[0]
    tasks = {}
    problems = list(first.problems)
    for name in first.tasks:
        others = [run.tasks.get(name) for run in runs]
        having = [other for other in others if other is not None]
        pooled = _pool_task(having) if len(having) == len(runs) else None
        if pooled is None:
            return None
        tasks[name] = pooled
        for run in runs[1:]:
            problems += [p for p in run.problems if p.task == name and p not in problems]
        if pooled.samples:
            problems.append(_what_was_pooled(pooled, having, runs))
    # Each run is one draw; together they are what has just been said.
    problems = [p for p in problems if p.kind != "sampled"]
    seeds = ", ".join(dict.fromkeys(run.seeds.removeprefix("seed ") for run in runs))
    return replace(first, tasks=tasks, problems=tuple(problems), seeds=f"seeds {seeds}")


def _pool_task(tasks: Sequence[TaskRun]) -> TaskRun | None:
    first = tasks[0]
    by_key = [{sample.key: sample for sample in task.samples} for task in tasks]
    if any(samples.keys() != by_key[0].keys() for samples in by_key):
        return None
    samples = [_pool_sample([found[key] for found in by_key]) for key in by_key[0]]
    metrics = [_pool_metric(metric, tasks) for metric in first.metrics]
    return replace(
        first,
        samples=tuple(samples),
        metrics=tuple(metrics),
        num_tries=sum(task.num_tries for task in tasks),
        is_share=all(task.is_share for task in tasks),
    )


def _pool_sample(samples: Sequence[Sample]) -> Sample:
    first = samples[0]
    tries = [score for sample in samples for score in sample.tries or (sample.score,)]
    more = {
        name: math.fsum(sample.more_scores.get(name, 0.0) for sample in samples) / len(samples)
        for name in first.more_scores
    }
    return replace(
        first,
        score=math.fsum(tries) / len(tries),
        tries=tuple(tries),
        outcome=majority(first.outcome, tries),
        more_scores=more,
    )


def _pool_metric(metric: Metric, tasks: Sequence[TaskRun]) -> Metric:
    """The mean over runs; a standard error of one run is none of their mean."""
    same = [m for task in tasks for m in task.metrics if m.label == metric.label]
    percents = [m.percent for m in same if m.percent is not None]
    return replace(
        metric,
        value=math.fsum(m.value for m in same) / len(same),
        percent=math.fsum(percents) / len(percents) if len(percents) == len(same) else None,
        standard_error=None,
    )


def _what_was_pooled(pooled: TaskRun, tasks: Sequence[TaskRun], runs: Sequence[Run]) -> Problem:
    means = [
        pooled.scale * math.fsum(s.score for s in task.samples if s.is_scored)
        / max(1, sum(s.is_scored for s in task.samples))
        for task in tasks
    ]  # fmt: skip
    spread = math.sqrt(math.fsum((m - math.fsum(means) / len(means)) ** 2 for m in means)
                       / (len(means) - 1))  # fmt: skip
    each = ", ".join(f"{mean:.1f}" if pooled.unit else f"{mean:.2f}" for mean in means)
    seeds = ", ".join(run.seeds.removeprefix("seed ") for run in runs)
    text = (
        f"{pooled.name}: {count_of(len(tasks), 'run')} that differ in their seed only ({seeds}) "
        f"are shown as one: {each}, standard deviation {spread:.2f}"
        f"{'; ' + tries_text(found) if (found := score_of(pooled)) else ''}."
    )
    return Problem(kind="tries", text=text, task=pooled.name)
