"""From a results file and the lines of samples to a run."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from longva_eval.reports.reading.run import Metric, Run, TaskRun
from longva_eval.reports.reading.samples import (
    RECIPE_KEY,
    Document,
    Problem,
    Reading,
    as_mapping,
    as_number,
    count_of,
)
from longva_eval.reports.reading.scores import score_of, tries_text

__all__ = ["build_run", "parse_arguments"]

_MOST_POINTS: Final = 10.0
"""Up to here a value may be a judge's points."""
_NO_SCORES: Final = re.compile(
    r"_stderr(_clt|_clustered)?$"
    # What lmms-eval says of repeated answers; here they are counted from the samples.
    r"|_(expected_accuracy|consensus_accuracy|internal_variance|consistency_rate)$"
)


def build_run(
    path: Path,
    results: Mapping[str, Any],
    lines: Mapping[str, Sequence[Mapping[str, Any]]],
    problems: list[Problem],
    *,
    date: str,
    seeds: str,
) -> Run:
    """Put a run together.

    Args:
        path: Of the results file, or of the samples if there is none.
        results: Its content; empty if there is none.
        lines: Of the samples, by task.
        problems: Found so far.
        date: Where the results do not say it.
        seeds: In words.
    """
    config = as_mapping(results.get("config"))
    limit, offset = as_number(config.get("limit")), int(as_number(config.get("offset")) or 0)
    model_args = parse_arguments(config.get("model_args"))
    recipe = as_mapping(results.get(RECIPE_KEY))
    tasks: dict[str, TaskRun] = {}
    for name in [*as_mapping(results.get("results")), *lines]:
        if name not in tasks:
            task, found = _build_task(name, results, lines.get(name), path)
            if task is not None:
                tasks[name] = task
            problems.extend(found)
    tasks = {name: _group_in_percent(task, tasks) for name, task in tasks.items()}
    problems = [*_limits(tasks, limit, offset), *problems]
    return Run(
        path=path,
        name=_name(config, model_args, recipe, path),
        model=str(config.get("model") or recipe.get("model") or ""),
        model_args=model_args,
        date=str(results.get("date") or date),
        limit=limit,
        offset=offset,
        tasks=tasks,
        config=config,
        recipe=recipe,
        problems=tuple(problems),
        results=results,
        seeds=seeds,
    )


def _group_in_percent(task: TaskRun, tasks: Mapping[str, TaskRun]) -> TaskRun:
    """A group's mean in percent, where its members' scores of that name have one scale."""
    if not task.subtasks:
        return task
    scaled = []
    for metric in task.metrics:
        factors = {
            round(own.percent / own.value, 6)
            for name in task.subtasks
            if name in tasks
            for own in tasks[name].metrics
            if own.label == metric.label and own.percent is not None and own.value
        }
        percent = metric.value * factors.pop() if len(factors) == 1 else None
        scaled.append(replace(metric, percent=percent))
    return replace(task, metrics=tuple(scaled))


def _limits(tasks: Mapping[str, TaskRun], limit: float | None, offset: int) -> list[Problem]:
    """A problem for each task that was not run on the whole of its benchmark."""
    options = [f"--limit {limit:g}"] if limit is not None else []
    options += [f"--offset {offset}"] if offset else []
    if not options:
        return []
    problems = []
    for task in tasks.values():
        asked = len(task.samples) or task.num_asked
        if task.num_in_benchmark and asked == task.num_in_benchmark:
            continue  # a limit beyond the benchmark's size
        of = f" of {task.num_in_benchmark:,}" if task.num_in_benchmark else ""
        text = (
            f"{task.name}: run with {' '.join(options)}, on {f'{asked:,}' if asked else 'part'}"
            f"{of} questions: no score of the benchmark."
        )
        problems.append(Problem(kind="limit", text=text, task=task.name))
    return problems


def _name(
    config: Mapping[str, Any],
    arguments: Mapping[str, str],
    recipe: Mapping[str, Any],
    path: Path,
) -> str:
    for value in (
        recipe.get("checkpoint"),
        *(arguments.get(k) for k in ("pretrained", "model_version", "model", "model_name")),
        config.get("model"),
    ):
        if value:
            return str(value).rstrip("/").split("/")[-1]
    return path.parent.name


def parse_arguments(given: object) -> dict[str, str]:
    """`--model_args` as a mapping: lmms-eval writes the string as it was typed, or a mapping."""
    if isinstance(given, Mapping):
        return {str(name): str(value) for name, value in given.items()}
    if not isinstance(given, str):
        return {}
    pairs = (part.partition("=") for part in given.split(",") if "=" in part)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _build_task(
    name: str,
    results: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]] | None,
    path: Path,
) -> tuple[TaskRun | None, list[Problem]]:
    task = _as_written(name, results)
    problems = _how_asked(task)
    metrics = [metric for metric in task.metrics if metric.name != "bypass"]
    if len(metrics) < len(task.metrics):
        text = f"{name} was run with --predict_only: there are answers, but no scores."
        problems.insert(0, Problem(kind="predict only", text=text, task=name))
    # A fraction as --limit gives a fraction, which is no number of questions.
    asked = as_number(_of(name, results, "n-samples").get("effective"))
    if lines is None:
        if task.subtasks or not _of(name, results, "results"):
            return (_on_scale(task, metrics) if metrics else None), problems
        text = (
            f"{name} has no samples file beside {path.name}: questions cannot be counted, paired "
            "or looked at. Run lmms-eval with --log_samples."
        )
        problems.append(Problem(kind="no samples", text=text, task=name))
        metrics = [_scaled(metric, None, asked) for metric in metrics]
        problems += _scale_problems(name, metrics)
        return _on_scale(task, metrics), problems
    documents = _documents(lines, name, metrics, task.num_tries, problems)
    higher = {metric.name: metric.higher_is_better for metric in metrics}
    prompts = _of(name, as_mapping(results.get(RECIPE_KEY)), "prompts")
    reading = Reading(name, documents, higher, task.config, prompts, task.num_tries)
    problems += reading.problems
    own = next((m.value for m in metrics if m.name == reading.metric), None)
    if own is not None and asked == len(reading.samples):
        shares = [own, 100 * own] if own <= 1 else [own]
        if all(reading.is_another_rule(share) for share in shares):
            text = (
                f"{name}: the task scores by another rule than {reading.read_from['score']}, which "
                f"gives {100 * (reading.mean_score() or 0.0):.1f} %; only its own score is shown."
            )
            problems.append(Problem(kind="unread", text=text, task=name))
            reading.samples = []
    scaled, unsure = [], []
    for metric in metrics:
        mean = reading.mean_score()
        if metric.name != reading.metric:
            mean = reading.mean_in(metric.label, metric.name, metric.value)
        scaled.append(_scaled(metric, mean, asked, is_ours=reading.is_ours))
        # A judge's mean from 0 to 5 is on its own scale.
        if not (mean and abs(metric.value / mean - 1) < 0.02):
            unsure.append(scaled[-1])
    task = _on_scale(task, scaled, reading)
    return task, problems + _scale_problems(name, unsure) + _check(task, reading)


def _of(task: str, results: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """What a part of the results file holds of a task."""
    return as_mapping(as_mapping(results.get(part)).get(task))


def _as_written(name: str, results: Mapping[str, Any]) -> TaskRun:
    """What the results file says of a task; its metrics are not in percent yet."""
    config, counts = _of(name, results, "configs"), _of(name, results, "n-samples")
    version = as_mapping(results.get("versions")).get(name)
    members = as_mapping(results.get("group_subtasks")).get(name)
    in_benchmark, asked = as_number(counts.get("original")), as_number(counts.get("effective"))
    shots = as_number(as_mapping(results.get("n-shot")).get(name))
    given = as_mapping(config.get("generation_kwargs"))
    given = {**given, **parse_arguments(as_mapping(results.get("config")).get("gen_kwargs"))}
    temperature = given.get("temperature")
    draws = str(given.get("do_sample", temperature not in (None, 0))).lower() == "true"
    sampling = ""
    if draws and (temperature is None or float(temperature or 0) != 0):
        sampling = "sampling" if temperature is None else f"temperature {temperature}"
    metrics = _metrics(_of(name, results, "results"), _of(name, results, "higher_is_better"))
    return TaskRun(
        name=name,
        version="" if version in (None, "Yaml", "N/A") else str(version),
        metrics=tuple(metrics),
        num_asked=int(asked) if asked is not None and asked >= 1 else None,
        num_in_benchmark=None if in_benchmark is None else int(in_benchmark),
        is_share=False,
        scale=1.0,
        higher_is_better=True,
        num_tries=int(as_number(config.get("repeats")) or 1),
        num_fewshot=int(shots or as_number(config.get("num_fewshot")) or 0),
        sampling=sampling,
        subtasks=tuple(map(str, members)) if isinstance(members, list) else (),
        config=config,
    )


def _how_asked(task: TaskRun) -> list[Problem]:
    found = []
    if task.num_fewshot:
        text = f"{task.name}: asked with {count_of(task.num_fewshot, 'example')} in the prompt."
        found.append(Problem(kind="few-shot", text=text, task=task.name))
    if task.sampling and task.num_tries == 1:
        text = (
            f"{task.name}: answers are drawn ({task.sampling}): with another seed the score is "
            "another."
        )
        found.append(Problem(kind="sampled", text=text, task=task.name))
    return found


def _on_scale(task: TaskRun, metrics: Sequence[Metric], reading: Reading | None = None) -> TaskRun:
    """The task with its metrics in percent, its samples, and the scale of their scores."""
    higher = all(metric.higher_is_better for metric in metrics[:1])
    if reading is None:
        is_share = all(metric.percent is not None for metric in metrics)
        return replace(
            task, metrics=tuple(metrics), is_share=is_share, scale=100.0 if is_share else 1.0,
            higher_is_better=higher,
        )  # fmt: skip
    main = next((m for m in metrics if m.name == reading.metric), None)
    mean, in_percent = reading.mean_score(), reading.is_share
    if not in_percent and main is not None and mean:
        # A word error rate beyond 1, whose task gives percent.
        in_percent = abs(main.value - 100 * mean) < 0.02 * abs(100 * mean)
    return replace(
        task,
        metrics=tuple(metrics),
        metric=reading.metric,
        samples=tuple(reading.samples),
        is_share=reading.is_share,
        scale=100.0 if in_percent else 1.0,
        higher_is_better=reading.higher_is_better if reading.samples else higher,
        is_ours=reading.is_ours,
        read_from=reading.read_from,
    )


def _metrics(row: Mapping[str, Any], higher: Mapping[str, Any]) -> list[Metric]:
    """The scores in a task's row; `percent` is filled in later."""
    metrics = []
    for key, value in row.items():
        name, comma, name_of_filter = key.partition(",")
        number = as_number(value)
        if not comma or number is None or _NO_SCORES.search(name):
            continue
        clustered = as_number(row.get(f"{name}_stderr_clustered,{name_of_filter}"))
        plain = as_number(row.get(f"{name}_stderr_clt,{name_of_filter}"))
        if plain is None:
            plain = as_number(row.get(f"{name}_stderr,{name_of_filter}"))
        metrics.append(
            Metric(
                name=name,
                filter=name_of_filter,
                value=number,
                percent=None,
                standard_error=plain if clustered is None else clustered,
                is_clustered=clustered is not None,
                higher_is_better=bool(higher.get(name, True)),
            )
        )
    return metrics


def _scaled(
    metric: Metric, mean: float | None, asked: float | None, *, is_ours: bool = False
) -> Metric:
    """The metric with its value in percent, if it can be told what its scale is.

    A value above 10 is a percentage, unless less is better: an error rate may be anything. One up
    to 10 may be points of a judge or a CIDEr too: it is compared with the questions' mean score
    (`mean`) if that is at hand; if not, with its standard error, which lmms-eval computes from
    scores of 0 and 1 whatever the scale of the value. Our own tasks give shares.
    """
    value, percent = metric.value, None
    if mean is not None and mean > 1.0:
        percent = value if abs(value - 100 * mean) < 0.02 * abs(100 * mean) else None
    elif _MOST_POINTS < value <= 100.0 or (mean is not None and 1.0 < value <= 100.0):
        percent = value if metric.higher_is_better or mean is not None else None
    elif is_ours and 0.0 <= value <= 1.0:
        percent = 100.0 * value
    elif mean is not None:
        distances = {100.0: abs(value - mean), 1.0: abs(value / 100 - mean)}
        factor = min(distances, key=lambda f: distances[f])
        # An aggregate of categories may lie away from the mean, but not by a factor of 100.
        percent = value * factor if distances[factor] <= max(0.02, 0.5 * abs(mean)) else None
    elif 0.0 < value <= _MOST_POINTS and metric.standard_error and asked and asked > 1:
        fits = {
            factor: abs(math.log(metric.standard_error / error))
            for factor, share in ((100.0, value), (1.0, value / 100))
            if share < 1 and (error := math.sqrt(share * (1 - share) / (asked - 1))) > 0
        }
        if fits and min(fits.values()) < math.log(2):
            percent = value * min(fits, key=lambda factor: fits[factor])
    return replace(metric, percent=percent)


def _scale_problems(task: str, metrics: Sequence[Metric]) -> list[Problem]:
    return [
        Problem(
            kind="scale",
            task=task,
            text=f"{task}: it cannot be told whether {metric.name} = {metric.value:g} is a share, "
            "a percentage or something else; it is shown as it was written.",
        )
        for metric in metrics
        if metric.percent is None
    ]


def _documents(
    lines: Sequence[Mapping[str, Any]],
    task: str,
    metrics: Sequence[Metric],
    num_tries: int,
    problems: list[Problem],
) -> list[Document]:
    """The lines of each document: one, or one for each of the task's filters, or for each try."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(str(line["doc_id"]), []).append(line)
    filters = list(dict.fromkeys(metric.filter for metric in metrics))
    sizes = {len(group) for group in groups.values()}
    documents = []
    for group in groups.values():
        if len(filters) > 1 and sizes == {len(filters)}:
            others = tuple(zip(filters[1:], group[1:], strict=True))
            documents.append(Document(line=group[0], by_filter=others))
        elif num_tries > 1 and sizes == {num_tries}:
            documents.append(Document(line=group[0], tries=tuple(group)))
        else:
            documents.append(Document(line=group[0]))
    repeated = len(lines) - len(groups)
    if repeated and not any(each.tries or each.by_filter for each in documents):
        text = (
            f"{task}: {len(lines):,} lines for {len(groups):,} documents in the samples: the first "
            "line of each is read; two runs may have written into one file."
        )
        problems.append(Problem(kind="repeated", text=text, task=task))
    return sorted(documents, key=lambda document: _order(document.line["doc_id"]))


def _order(doc_id: object) -> tuple[int, float, str]:
    number = as_number(doc_id)
    return (1, 0.0, str(doc_id)) if number is None else (0, number, "")


def _check(task: TaskRun, reading: Reading) -> list[Problem]:
    """Where counts and scores of the results file and of the samples disagree."""
    problems = []
    read = len(reading.samples)
    # A question that was damaged or had no score has its own problem; here all lines count.
    if task.num_asked is not None and read and read != task.num_asked:
        text = (
            f"{task.name}: the results file speaks of {task.num_asked:,} questions, {read:,} were "
            "read from the samples. Numbers here are of those."
        )
        problems.append(Problem(kind="number of samples", text=text, task=task.name))
    failed = [question for question in task.samples if question.outcome == "failed"]
    if failed:
        reasons = Counter(question.reason for question in failed if question.reason)
        why = f" Most often: {reasons.most_common(1)[0][0]}" if reasons else ""
        text = (
            f"{task.name}: {count_of(len(failed), 'question')} of {read:,} could not be asked and "
            f"count 0 in the score.{why}"
        )
        problems.append(Problem(kind="failed", text=text, task=task.name))
    hidden = sum(question.outcome == "not scored" for question in task.samples)
    if hidden:
        text = (
            f"{task.name}: the right answers to {count_of(hidden, 'question')} are not public."
            + " lmms-eval's number for it is the share of questions with an answer to send in."
            * task.is_ours
        )
        problems.append(Problem(kind="not scored", text=text, task=task.name))
    tried = [sample for sample in task.samples if sample.tries]
    if tried:
        text = (
            f"{task.name}: the mean over {len(tried[0].tries)} answers to every question"
            f"{f' ({task.sampling})' if task.sampling else ''}"
            f"{'; ' + tries_text(found) if (found := score_of(task)) else ''}."
        )
        problems.append(Problem(kind="tries", text=text, task=task.name))
        return problems  # the task's own score is of one answer
    mean, metric = reading.mean_score(), task.main_metric()
    own = metric.percent if metric is not None and task.is_share else None
    if mean is not None and own is not None and abs(own - 100 * mean) > 0.051:
        text = (
            f"{task.name}: its own score, {own:.1f} %, is not the mean over the questions read, "
            f"{100 * mean:.1f} %: the task weighs them otherwise (by category), or samples are "
            "missing."
        )
        problems.append(Problem(kind="aggregate", text=text, task=task.name))
    return problems
