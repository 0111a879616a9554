"""The one reader of what lmms-eval 0.7.x writes: results and samples, of any of its models.

What is unusual about these files, and why this module is longer than `json.load`:

* A sample keeps neither the document nor the video it was asked on, only what the task put into
  its metric. Tasks of ours put a record there (`longva_eval.questions.outcomes`); of other tasks
  we read what they have, and `Task.read_from` says which field every fact came from.
* A task's score may be a share, a percentage or a mean of categories, while the standard error
  beside it is always a share. `Metric.percent` is None where the scale cannot be told.
* `doc_hash` is the same for all documents of a task. Questions of two runs are paired by the task's
  question id, or by a digest of prompt and target (`Sample.key`).

What is wrong with a run (no samples, a truncated file, `--limit`) is a `Problem` in `Run.problems`.
Only a path where nothing can be read is an error. No torch, no pandas.
"""

from __future__ import annotations

import gc
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from longva_eval.errors import MediaError
from longva_eval.questions.outcomes import OUTCOMES
from longva_eval.reports.reading.samples import (
    RECIPE_KEY,
    Problem,
    Reading,
    Sample,
    as_mapping,
    as_number,
    count_of,
)

__all__ = ["Metric", "Problem", "Run", "Sample", "TaskRun", "find_results", "read_run", "read_runs"]

_DATE: Final = re.compile(r"^(\d{8}_\d{6})_(?:results\.json|samples_(.+)\.jsonl)$")
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


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """What a run has of one task."""

    name: str
    version: str
    metrics: tuple[Metric, ...]
    metric: str
    """The metric that the questions' scores come from; empty if there are none."""
    num_asked: int | None
    """Questions that lmms-eval says it asked."""
    num_in_benchmark: int | None
    """Questions that the benchmark has."""
    samples: tuple[Sample, ...]
    is_share: bool
    """Whether every score lies within 0 and 1, so that percent makes sense."""
    is_ours: bool
    """Whether the samples hold records of longva-eval."""
    read_from: Mapping[str, str]
    """For score, question_id and cluster: the field of the samples it was read from."""
    subtasks: tuple[str, ...]
    """The members, if this is a group."""
    config: Mapping[str, Any]

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
    model_args: Mapping[str, str]
    date: str
    limit: float | None
    offset: int
    tasks: Mapping[str, TaskRun]
    config: Mapping[str, Any]
    recipe: Mapping[str, Any]
    """What our adapters say of themselves; empty for other models."""
    problems: tuple[Problem, ...]
    results: Mapping[str, Any] = field(repr=False)
    """The whole results file."""

    def problems_of(self, task: str) -> list[Problem]:
        """Those of a task and those of the whole run."""
        return [problem for problem in self.problems if problem.task in ("", task)]

    def frames(self, task: str = "") -> str:
        """Frames per video, to read: `128`, `8 to 128`, `1 fps`; empty if the run does not say.

        What the model saw comes before what was asked for, and both before its arguments.
        """
        chosen = [self.tasks[task]] if task in self.tasks else list(self.tasks.values())
        questions = [question for each in chosen for question in each.samples]
        seen = [q.frames_seen for q in questions if q.frames_seen is not None]
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


def read_run(path: str | Path) -> Run:
    """Read a run.

    Args:
        path: A results file (`*_results.json`), a samples file (`*_samples_<task>.jsonl`), or a
            folder; of several runs in a folder the newest is read, which is a Problem.

    Raises:
        MediaError: If there is nothing that can be read.
    """
    found = find_results(path)
    run = _read_one(found[-1])
    if len(found) > 1:
        others = ", ".join(str(other.relative_to(path)) for other in found[-2:-5:-1])
        more = ", ..." if len(found) > 4 else ""
        text = (
            f"{path} holds {len(found)} runs; the newest was read. Others: {others}{more}. Name a "
            "results file to read that one."
        )
        problem = Problem(kind="several runs", text=text)
        run = Run(**{**_fields(run), "problems": (problem, *run.problems)})
    return run


def read_runs(path: str | Path) -> list[Run]:
    """Read every run below a folder, oldest first; or the one that a file belongs to.

    Raises:
        MediaError: If there is nothing that can be read.
    """
    return [_read_one(found) for found in find_results(path)]


def find_results(path: str | Path) -> list[Path]:
    """The results files at a path, oldest first; samples files where their results are missing.

    Raises:
        MediaError: If there is none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise MediaError(f"{path} does not exist.")
    results = [file for file in path.rglob("*_results.json") if _DATE.match(file.name)]
    have = {(file.parent, _stamp(file)) for file in results}
    alone: dict[tuple[Path, str], Path] = {}
    for file in sorted(path.rglob("*_samples_*.jsonl")):
        if _DATE.match(file.name) and (file.parent, _stamp(file)) not in have:
            alone.setdefault((file.parent, _stamp(file)), file)
    found = sorted([*results, *alone.values()], key=lambda file: (_stamp(file), str(file)))
    if not found:
        needles = [
            folder
            for folder in (path, *sorted(path.glob("*/")))
            if (folder / "run.json").is_file() and (folder / "cells.jsonl").is_file()
        ]
        if needles:
            raise MediaError(
                f"{needles[0]} is a longva-eval niah folder, not a run of lmms-eval: use "
                f"longva-eval heatmap {needles[0]} or longva-eval report {path}."
            )
        raise MediaError(
            f"{path} holds no run of lmms-eval: no file <date>_results.json or "
            "<date>_samples_<task>.jsonl lies in it or below. lmms-eval writes them where "
            "--output_path says, the samples with --log_samples, when all tasks are done."
        )
    return found


def _stamp(file: Path) -> str:
    found = _DATE.match(file.name)
    return found[1] if found else ""


def _fields(run: Run) -> dict[str, Any]:
    return {name: getattr(run, name) for name in run.__dataclass_fields__}


# From files to rows -------------------------------------------------------------------------------


def _read_one(path: Path) -> Run:
    """Read a run, without looking for garbage among the many small objects of its lines.

    That search finds nothing and takes two fifths of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return _read_files(path)
    finally:
        if was_enabled:
            gc.enable()


def _read_files(path: Path) -> Run:
    problems: list[Problem] = []
    stamp = _stamp(path)
    if path.suffix == ".jsonl":
        samples_paths = {_task_of(path): path}
        results_path = path.with_name(f"{stamp}_results.json") if stamp else None
        if results_path is not None and results_path.is_file():
            path = results_path
        else:
            results_path = None
            siblings = path.parent.glob(f"{stamp}_samples_*.jsonl") if stamp else []
            samples_paths |= {_task_of(sibling): sibling for sibling in siblings}
            text = (
                f"{path} has no results file beside it: model, versions and settings are not "
                "known. lmms-eval writes it before the samples; a copy may have left it behind."
            )
            problems.append(Problem(kind="no results", text=text))
    else:
        results_path = path
        samples_paths = {
            _task_of(sibling): sibling
            for sibling in (path.parent.glob(f"{stamp}_samples_*.jsonl") if stamp else [])
        }
    results = _read_results(results_path, samples_paths, problems) if results_path else {}
    samples = {
        task: _read_lines(file, task, problems) for task, file in sorted(samples_paths.items())
    }
    run = _build_run(path, results, samples, problems)
    if not run.tasks:
        raise MediaError(f"{path} holds no task: neither scores nor samples could be read.")
    return run


def _task_of(path: Path) -> str:
    found = _DATE.match(path.name)
    if found and found[2]:
        return found[2]
    return re.sub(r"^.*samples_", "", path.stem)


def _read_results(
    path: Path, samples_paths: Mapping[str, Path], problems: list[Problem]
) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{path} cannot be read: {error}") from error
    try:
        results = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not samples_paths:
            raise MediaError(
                f"{path} is not valid JSON ({error}); it may have been cut off while it was "
                "written or copied."
            ) from error
        problems.append(
            Problem(
                kind="truncated",
                text=f"{path} is not valid JSON ({error}): model, versions and settings are not "
                "known, and scores are computed from the samples alone.",
            )
        )
        return {}
    if not isinstance(results, dict) or not isinstance(results.get("results"), dict):
        raise MediaError(
            f"{path} is no results file of lmms-eval: it has no mapping under 'results'."
        )
    return results


def _read_lines(path: Path, task: str, problems: list[Problem]) -> list[dict[str, Any]]:
    """The samples of a file, without those that cannot be read, which become problems."""
    try:
        # Damaged bytes must not cost the other lines.
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error}") from error
    # Not splitlines(), which also ends lines at U+2028 and others that JSON leaves as they are.
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    samples, damaged = [], []
    for number, line in enumerate(lines, start=1):
        try:
            sample = json.loads(line)
            if not isinstance(sample, dict) or "doc_id" not in sample:
                raise ValueError("it is no sample of lmms-eval, which has a doc_id")
        except (ValueError, RecursionError) as error:
            damaged.append((number, error))
            continue
        samples.append(sample)
    if damaged and damaged[-1][0] == len(lines):
        damaged.pop()
        text = (
            f"{path} breaks off in its last line, {len(lines)}: {len(samples)} samples were read, "
            "and what followed is lost. The run or a copy was interrupted."
        )
        problems.append(Problem(kind="truncated", text=text, task=task))
    if damaged:
        shown = ", ".join(str(number) for number, _ in damaged[:5])
        text = (
            f"{path}: {count_of(len(damaged), 'line')} cannot be read and "
            f"{'is' if len(damaged) == 1 else 'are'} left out (line {shown}; {damaged[0][1]})."
        )
        problems.append(Problem(kind="damaged", text=text, task=task))
    return samples


# From rows to a run -------------------------------------------------------------------------------


def _build_run(
    path: Path,
    results: Mapping[str, Any],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    problems: list[Problem],
) -> Run:
    config = as_mapping(results.get("config"))
    limit, offset = as_number(config.get("limit")), int(as_number(config.get("offset")) or 0)
    model_args = _parse_arguments(config.get("model_args"))
    recipe = as_mapping(results.get(RECIPE_KEY))
    tasks: dict[str, TaskRun] = {}
    for name in [*as_mapping(results.get("results")), *samples]:
        if name not in tasks:
            task, found = _build_task(name, results, samples.get(name), path)
            if task is not None:
                tasks[name] = task
            problems.extend(found)
    problems = [*_limits(tasks, limit, offset), *problems]
    return Run(
        path=path,
        name=_name(config, model_args, recipe, path),
        model=str(config.get("model") or recipe.get("model") or ""),
        model_args=model_args,
        date=str(results.get("date") or _stamp(path)),
        limit=limit,
        offset=offset,
        tasks=tasks,
        config=config,
        recipe=recipe,
        problems=tuple(problems),
        results=results,
    )


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


def _parse_arguments(given: object) -> dict[str, str]:
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
    samples: Sequence[Mapping[str, Any]] | None,
    path: Path,
) -> tuple[TaskRun | None, list[Problem]]:
    problems: list[Problem] = []
    row = as_mapping(as_mapping(results.get("results")).get(name))
    config = as_mapping(as_mapping(results.get("configs")).get(name))
    members = as_mapping(results.get("group_subtasks")).get(name)
    subtasks = tuple(map(str, members)) if isinstance(members, list) else ()
    counts = as_mapping(as_mapping(results.get("n-samples")).get(name))
    in_benchmark, asked = as_number(counts.get("original")), as_number(counts.get("effective"))
    higher = as_mapping(as_mapping(results.get("higher_is_better")).get(name))
    metrics = _metrics(row, higher)
    if any(metric.name == "bypass" for metric in metrics):
        metrics = [metric for metric in metrics if metric.name != "bypass"]
        text = f"{name} was run with --predict_only: there are answers, but no scores."
        problems.append(Problem(kind="predict only", text=text, task=name))
    prompts = as_mapping(as_mapping(as_mapping(results.get(RECIPE_KEY)).get("prompts")).get(name))
    if samples is None:
        if subtasks or not row:
            return (
                _task(name, results, metrics, config, subtasks, in_benchmark, asked)
                if metrics
                else None
            ), problems
        text = (
            f"{name} has no samples file beside {path.name}: questions cannot be counted, paired "
            "or looked at. Run lmms-eval with --log_samples."
        )
        problems.append(Problem(kind="no samples", text=text, task=name))
        metrics = [_scaled(metric, None, asked) for metric in metrics]
        problems += _scale_problems(name, metrics)
        return _task(name, results, metrics, config, subtasks, in_benchmark, asked), problems
    samples = _once(samples, name, metrics, problems)
    reading = Reading(name, samples, [metric.name for metric in metrics], config, prompts)
    problems += reading.problems
    metrics = [
        _scaled(
            metric,
            reading.mean() if metric.name == reading.metric else None,
            asked,
            is_ours=reading.is_ours,
        )
        for metric in metrics
    ]
    task = _task(name, results, metrics, config, subtasks, in_benchmark, asked, reading)
    problems += _scale_problems(name, metrics) + _check(task, reading)
    return task, problems


def _task(
    name: str,
    results: Mapping[str, Any],
    metrics: Sequence[Metric],
    config: Mapping[str, Any],
    subtasks: tuple[str, ...],
    in_benchmark: float | None,
    asked: float | None,
    reading: Reading | None = None,
) -> TaskRun:
    version = as_mapping(results.get("versions")).get(name)
    return TaskRun(
        name=name,
        version="" if version in (None, "Yaml", "N/A") else str(version),
        metrics=tuple(metrics),
        metric=reading.metric if reading else "",
        # A fraction as --limit gives a fraction here, which is no number of questions.
        num_asked=int(asked) if asked is not None and asked >= 1 else None,
        num_in_benchmark=int(in_benchmark) if in_benchmark is not None else None,
        samples=tuple(reading.samples) if reading else (),
        is_share=reading.is_share if reading else all(m.percent is not None for m in metrics),
        is_ours=reading.is_ours if reading else False,
        read_from=reading.read_from if reading else {},
        subtasks=subtasks,
        config=config,
    )


def _metrics(row: Mapping[str, Any], higher: Mapping[str, Any]) -> list[Metric]:
    """The scores in a task's row; `percent` is filled in later."""
    metrics = []
    for key, value in row.items():
        name, comma, name_of_filter = key.partition(",")
        number = as_number(value)
        if not comma or number is None or re.search(r"_stderr(_clt|_clustered)?$", name):
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

    A value above 1 is no share. One up to 1 is compared with the questions' mean score (`mean`, a
    share) if that is at hand; if not, with its standard error, which lmms-eval computes from scores
    of 0 and 1 whatever the scale of the value. Our own tasks give shares.
    """
    value, percent = metric.value, None
    if 1.0 < value <= 100.0:
        percent = value
    elif is_ours and 0.0 <= value <= 1.0:
        percent = 100.0 * value
    elif mean is not None:
        distances = {100.0: abs(value - mean), 1.0: abs(value / 100 - mean)}
        factor = min(distances, key=lambda f: distances[f])
        # An aggregate of categories may lie away from the mean, but not by a factor of 100.
        percent = value * factor if distances[factor] <= max(0.02, 0.5 * abs(mean)) else None
    elif 0.0 < value <= 1.0 and metric.standard_error and asked and asked > 1:
        fits = {
            factor: abs(math.log(metric.standard_error / error))
            for factor, share in ((100.0, value), (1.0, value / 100))
            if (error := math.sqrt(share * (1 - share) / (asked - 1))) > 0
        }
        if fits and min(fits.values()) < math.log(2):
            percent = value * min(fits, key=lambda factor: fits[factor])
    return Metric(
        **{**{n: getattr(metric, n) for n in metric.__dataclass_fields__}, "percent": percent}
    )


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


def _once(
    samples: Sequence[Mapping[str, Any]],
    task: str,
    metrics: Sequence[Metric],
    problems: list[Problem],
) -> list[Mapping[str, Any]]:
    """Each document once, its first line: lmms-eval writes a line for each of a task's filters."""
    first: dict[str, Mapping[str, Any]] = {}
    for sample in samples:
        first.setdefault(str(sample["doc_id"]), sample)
    repeated = len(samples) - len(first)
    filters = list(dict.fromkeys(metric.filter for metric in metrics))
    if repeated:
        by_filter = len(filters) > 1 and len(samples) == len(filters) * len(first)
        why = (
            f"one line for each of the filters {', '.join(filters)}; the first, {filters[0]}, is "
            "read"
            if by_filter
            else "the first line of each is read; two runs may have written into one file"
        )
        text = f"{task}: {len(samples):,} lines for {len(first):,} documents in the samples: {why}."
        problems.append(Problem(kind="repeated", text=text, task=task))
    return sorted(first.values(), key=lambda sample: _order(sample["doc_id"]))


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
            f"{task.name}: the right answers to {count_of(hidden, 'question')} are not public. "
            "lmms-eval's number for it is the share of questions with an answer to send in."
        )
        problems.append(Problem(kind="not scored", text=text, task=task.name))
    mean, metric = reading.mean(), task.main_metric()
    own = None if metric is None else metric.percent
    if mean is not None and own is not None and abs(own - 100 * mean) > 0.051:
        text = (
            f"{task.name}: its own score, {own:.1f} %, is not the mean over the questions read, "
            f"{100 * mean:.1f} %: the task weighs them otherwise (by category), or samples are "
            "missing."
        )
        problems.append(Problem(kind="aggregate", text=text, task=task.name))
    return problems
