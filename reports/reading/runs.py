"""The one reader of what lmms-eval 0.7.x writes: results and samples, of any of its models.

What is unusual about these files, and why this takes more than `json.load`:

* A line of the samples keeps neither the document nor the video it was asked on, only what the task
  put into its metric. Tasks of ours put a record there (`longva_eval.questions.outcomes`); of other
  tasks we read what they have, and `TaskRun.read_from` says which field every fact came from.
* A task's score may be a share, a percentage or a mean of categories, while the standard error
  beside it is always a share. `Metric.percent` is None where the scale cannot be told.
* `doc_hash` is the same for all documents of a task. Questions of two runs are paired by the task's
  question id, or by a digest of prompt and target (`Sample.key`).
* Of a question that was answered several times (`--repeats`) the task scores one answer. Runs of a
  folder that differ in their seeds only are one run with as many tries (`pooling`).

What is wrong with a run (no samples, a truncated file, `--limit`) is a `Problem` in `Run.problems`.
Only a path where nothing can be read is an error. No torch, no pandas.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from longva_eval.errors import MediaError
from longva_eval.reports.reading.building import build_run
from longva_eval.reports.reading.lines import read_lines
from longva_eval.reports.reading.pooling import pool, seeds_of, settings_but_seeds
from longva_eval.reports.reading.run import Metric, Run, TaskRun
from longva_eval.reports.reading.samples import Problem, Sample, count_of
from longva_eval.reports.reading.sheets import is_sheet, read_sheet

__all__ = ["Metric", "Problem", "Run", "Sample", "TaskRun", "find_results", "read_run", "read_runs"]

_DATE: Final = re.compile(r"^(\d{8}_\d{6})_(?:results\.json|samples_(.+)\.jsonl)$")


def read_run(path: str | Path) -> Run:
    """Read a run.

    Args:
        path: A results file (`*_results.json`), a samples file (`*_samples_<task>.jsonl`), a sheet
            of VLMEvalKit, or a folder. Of several runs in a folder those are read, as one, that
            differ from the newest in their seeds only; others are named in a Problem.

    Raises:
        MediaError: If there is nothing that can be read.
    """
    found = find_results(path)
    run = _read_one(found[-1])
    pooled = [found[-1], *_other_seeds(found)]
    together = pool([run, *map(_read_one, pooled[1:])]) if len(pooled) > 1 else None
    if together is None:
        together, pooled = run, pooled[:1]
    left = [file for file in found if file not in pooled]
    if not left:
        return together
    others = ", ".join(str(other.relative_to(path)) for other in left[-1:-4:-1])
    more = ", ..." if len(left) > 3 else ""
    read = "the newest was" if len(pooled) == 1 else f"the newest {len(pooled)} of one setting were"
    text = (
        f"{path} holds {len(found)} runs; {read} read. Others: {others}{more}. Name a results file "
        "to read that one."
    )
    problem = Problem(kind="several runs", text=text)
    return replace(together, problems=(problem, *together.problems))


def _other_seeds(found: list[Path]) -> list[Path]:
    """Older results files with the settings of the newest and other seeds, newest first."""
    results = [_results_or_nothing(file) for file in reversed(found)]
    settings, seeds = settings_but_seeds(results[0]), {seeds_of(results[0])}
    same = []
    for file, read in zip(reversed(found[:-1]), results[1:], strict=True):
        if read and settings_but_seeds(read) == settings and seeds_of(read) not in seeds:
            seeds.add(seeds_of(read))
            same.append(file)
    return same


def _results_or_nothing(file: Path) -> Mapping[str, Any]:
    """For comparing settings only: what is wrong with a file is said where it is read."""
    try:
        results = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return results if isinstance(results, dict) else {}


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
    if is_sheet(path):
        return read_sheet(path)
    problems: list[Problem] = []
    stamp = _stamp(path)
    siblings = path.parent.glob(f"{stamp}_samples_*.jsonl") if stamp else []
    samples_paths = {_task_of(sibling): sibling for sibling in siblings}
    results_path = path.with_name(f"{stamp}_results.json")
    if path.suffix != ".jsonl":
        results_path = path
    elif stamp and results_path.is_file():
        samples_paths, path = {_task_of(path): path}, results_path
    else:
        samples_paths = {_task_of(path): path} | samples_paths
        text = (
            f"{path} has no results file beside it: model, versions and settings are not known. "
            "lmms-eval writes it before the samples; a copy may have left it behind."
        )
        problems.append(Problem(kind="no results", text=text))
    is_there = path == results_path
    results = _read_results(path, samples_paths, problems) if is_there else {}
    samples = {
        task: _read_lines(file, task, problems) for task, file in sorted(samples_paths.items())
    }
    # The host has four seeds, which are usually one number or its own defaults.
    given = dict.fromkeys(seed for seed in seeds_of(results) if seed)
    seeds = f"seed {'/'.join(given)}" if given else ""
    run = build_run(path, results, samples, problems, date=stamp, seeds=seeds)
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
    found = read_lines(path, _line)
    damaged = found.damaged
    if damaged and damaged[-1][0] == found.last:
        damaged.pop()
        text = (
            f"{path} breaks off in its last line, {found.last}: {len(found.values)} samples were "
            "read, and what followed is lost. The run or a copy was interrupted."
        )
        problems.append(Problem(kind="truncated", text=text, task=task))
    if damaged:
        shown = ", ".join(str(number) for number, _ in damaged[:5])
        text = (
            f"{path}: {count_of(len(damaged), 'line')} cannot be read and "
            f"{'is' if len(damaged) == 1 else 'are'} left out (line {shown}; {damaged[0][1]})."
        )
        problems.append(Problem(kind="damaged", text=text, task=task))
    return found.values


def _line(sample: Any) -> dict[str, Any]:
    if not isinstance(sample, dict) or "doc_id" not in sample:
        raise ValueError("it is no sample of lmms-eval, which has a doc_id")
    return sample
