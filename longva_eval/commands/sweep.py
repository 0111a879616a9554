"""`longva-eval sweep`: one model at several numbers of frames and RoPE settings.

Every point of the grid is an ordinary evaluation of lmms-eval, with its results and samples in a
folder of its own. What is unusual is the order of work: the first point's requests are answered for
all points at once, video by video (`model_adapters/together.py`), and the points then find their
answers in their journals. What a run that was killed has answered is never computed again.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loguru import logger

from longva_eval.cli import load
from longva_eval.commands.run import Finished, problems_of
from longva_eval.embedded import MODEL_CLASSES, RECIPE_KEY
from longva_eval.errors import EvaluationError, ResourceError, SettingsError
from longva_eval.files import check_writable, set_aside
from longva_eval.running.journal import journal_settings, settings_difference
from longva_eval.studies.definition import (
    RECORD_NAME,
    SETTINGS_NAME,
    Point,
    Study,
    check_same_study,
    read_study_file,
    study_from,
    study_text,
    write_json,
)
from longva_eval.text import parse_whole_range

__all__ = ["main", "run_study"]

_POINT_NAME = "point.json"
"""In a point's folder, once it is complete."""


def main(arguments: Sequence[str]) -> int:
    """Run a study. Returns 1 if a point is missing."""
    options = _parser().parse_args(arguments)
    study = _study(options)
    try:
        return run_study(
            study,
            options.out,
            by=options.by,
            published=options.published,
            fresh=options.fresh,
            verbose=options.verbose,
        )
    except KeyboardInterrupt:
        print("\nAnswers so far are kept; the same command goes on with them.", file=sys.stderr)
        raise


def run_study(
    study: Study,
    folder: Path,
    *,
    by: str = "",
    published: str = "",
    fresh: bool = False,
    verbose: bool = False,
) -> int:
    """Run what is missing of a study, then write its tables and figures.

    Args:
        study: What is asked.
        folder: Holds it; may hold a part of it already.
        by: Category of the questions to split by; a duration if there is one, if empty.
        published: A published benchmark whose curve is drawn beside; `auto` is that of the task.
        fresh: Set aside what the folder holds.
        verbose: Show what lmms-eval says.

    Returns:
        0 if every point is complete.

    Raises:
        SettingsError: If the folder holds another study, or a setting is impossible.
        EvaluationError: If the model cannot be loaded, or memory or disk are not enough.
    """
    _check_alone()
    if study.model not in MODEL_CLASSES:
        raise SettingsError(f"model={study.model!r} is unknown; use {', '.join(MODEL_CLASSES)}.")
    if fresh:
        _set_aside(folder)
    check_same_study(study, folder)
    check_writable(folder, "output")
    (folder / SETTINGS_NAME).write_text(study_text(study), encoding="utf-8")
    began = time.monotonic()
    runs = [
        _PointRun(point=point, folder=folder / "points" / point.name) for point in study.points()
    ]
    for run in runs:
        run.read()
    left = [run for run in runs if not run.is_complete]
    _say_what_is_there(runs, left)
    if left:
        with _quiet_host(verbose):
            _run_points(study, runs, left, began)
    _write_record(study, folder, runs, {}, time.monotonic() - began)
    from longva_eval.reports.study import write_study

    complete = [run for run in runs if run.is_complete]
    if complete:
        written, shown = write_study(folder, by=by, published=published)
        print(f"\n{shown}\n")
        for path in written:
            print(f"  {path}")
    missing = [run for run in runs if not run.is_complete]
    for reason in dict.fromkeys(run.reason for run in missing):
        names = ", ".join(run.point.name for run in missing if run.reason == reason)
        print(f"longva-eval sweep: missing: {names}: {reason}", file=sys.stderr)
    if missing:
        print(
            f"longva-eval sweep: {len(missing)} of {_points(len(runs))} "
            f"{'is' if len(runs) == 1 else 'are'} missing; the same command goes on with them.",
            file=sys.stderr,
        )
    return 1 if missing else 0


# Points -------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _PointRun:
    """A point, and what became of it."""

    point: Point
    folder: Path
    record: dict[str, Any] = field(default_factory=dict)
    """Empty until it is complete."""
    reason: str = "it was not begun."

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

    def describe(self, folder: Path) -> dict[str, Any]:
        """For the study's record; paths are from the study's folder on."""
        place = self.folder.relative_to(folder)
        told: dict[str, Any] = {
            "name": self.point.name,
            "frames": self.point.frames,
            "rope": self.point.rope.describe(),
            "rope_label": self.point.rope_label,
            "model_args": self.point.arguments,
            "status": "complete" if self.is_complete else "missing",
        }
        if not self.is_complete:
            return told | {"reason": self.reason}
        results = next(name for name in self.record["files"] if name.endswith("_results.json"))
        facts = {name: v for name, v in self.record.items() if name not in ("files", "settings")}
        return told | {"results": str(place / results)} | facts


def _run_points(
    study: Study, runs: Sequence[_PointRun], left: Sequence[_PointRun], began: float
) -> None:
    """Run the points that are left. What cannot be run says why in its `reason`."""
    host = _Host(study)
    model = host.load_model(left[0].point)
    for run in runs:
        model.session.change_rope(run.point.rope)  # one that does not fit shows now
    _check_same_model(model.session, [run for run in runs if run.is_complete])
    from longva_eval.model_adapters.together import PointState, Together

    states = [PointState(point=run.point, journal=run.journal) for run in left]
    together = Together(model, states)
    for number, (run, state) in enumerate(zip(left, states, strict=True), start=1):
        if state.error is not None:
            run.reason = str(state.error)
            _say(run, number, len(left), time.monotonic() - began)
            continue
        _remove_incomplete(run.folder)
        adapter = together.run_of(state)
        try:
            finished = host.run(adapter, run.point, run.folder)
        except (SettingsError, ResourceError):
            raise
        except EvaluationError as error:
            run.reason = str(error)
        except SystemExit as error:
            run.reason = f"a task gave up: {error.code}"
        except Exception as error:
            run.reason = _reason(error)
            logger.debug("{}", traceback.format_exc())
        else:
            problems = problems_of(finished)
            run.reason = " ".join(problems)
            if not problems:
                _complete(run, state, finished)
        _say(run, number, len(left), time.monotonic() - began)


def _reason(error: Exception) -> str:
    """What is wrong; where lmms-eval tried several times, what was wrong the last time."""
    attempt = getattr(error, "last_attempt", None)
    cause = attempt.exception() if attempt is not None else None
    return f"{type(cause or error).__name__}: {cause or error}"


def _complete(run: _PointRun, state: Any, finished: Finished) -> None:
    """Note that a point is there."""
    recipe: Mapping[str, Any] = (finished.results or {}).get(RECIPE_KEY, {})
    outcomes: dict[str, dict[str, int]] = {}
    for task, lines in (finished.samples or {}).items():
        counts: dict[str, int] = {}
        for line in lines:
            for value in line.values():
                if isinstance(value, dict) and "outcome" in value and "score" in value:
                    counts[value["outcome"]] = counts.get(value["outcome"], 0) + 1
                    break
        outcomes[task] = counts or dict(recipe.get("outcomes", {}).get(task, {}))
    run.record = {
        "files": [str(path.relative_to(run.folder)) for path in finished.files],
        "outcomes": outcomes,
        "answers": {"taken_over": state.num_taken_over, "computed": state.num_computed},
        "engine": dict(recipe.get("engine", {})),
        "settings": _settings_of(recipe),
    }
    write_json(run.folder / _POINT_NAME, run.record)


def _settings_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What of a point's recipe must be equal at all points: nothing that the grid changes."""
    left_out = {"model", "failures", "outcomes", "journal", "ignored_generation_settings",
                "rope", "frames"}  # fmt: skip
    kept = {name: value for name, value in recipe.items() if name not in left_out}
    return journal_settings(kept)


def _check_same_model(session: Any, complete: Sequence[_PointRun]) -> None:
    """Refuse to put points beside others that were made with other weights or packages."""
    now = json.loads(json.dumps(_settings_of(session.describe()), default=str))
    for run in complete:
        there = run.record.get("settings", {})
        if there != now:
            raise SettingsError(
                f"{run.folder} was made under other settings: {settings_difference(there, now)}. "
                "Points of one study must not differ in them: choose another folder, or start over "
                "with --fresh."
            )


def _remove_incomplete(folder: Path) -> None:
    """Files of a point that was interrupted while they were written."""
    for pattern in ("*_results.json", "*_samples_*.jsonl", "*_breakdown_*.json", "*.incomplete"):
        for path in folder.rglob(pattern):
            path.unlink()


def _write_record(
    study: Study,
    folder: Path,
    runs: Sequence[_PointRun],
    more: Mapping[str, Any],
    seconds: float,
) -> None:
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
        **more,
    }
    write_json(folder / RECORD_NAME, record)


# lmms-eval ----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _task_manager(include_path: str | None, model: str) -> Any:
    """lmms-eval's index of its tasks; it reads some 2,000 files."""
    from lmms_eval.tasks import TaskManager

    return TaskManager("WARNING", include_path=include_path, model_name=model)


class _Host:
    """lmms-eval, driven as its own command line drives it."""

    def __init__(self, study: Study) -> None:
        import lmms_eval.__main__ as host

        self._host: Any = host
        self._study = study
        self._manager = _task_manager(study.include_path, study.model)
        self._tasks: list[str] = self._manager.match_tasks(list(study.tasks))
        for task in study.tasks:
            if task not in self._tasks and "*" not in task:
                raise SettingsError(self._unknown(task))
        if not self._tasks:
            raise SettingsError(f"No task is called {', '.join(study.tasks)}.")

    def _unknown(self, task: str) -> str:
        import difflib

        close = difflib.get_close_matches(task, self._manager.all_tasks, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        return f"lmms-eval knows no task {task!r}.{hint} `lmms-eval --tasks list` names all."

    def load_model(self, point: Point) -> Any:
        """The model with the settings of a point."""
        model_class = load(MODEL_CLASSES[self._study.model])
        from lmms_eval.utils import simple_parse_args_string

        return model_class(**simple_parse_args_string(point.arguments))

    def run(self, adapter: Any, point: Point, folder: Path) -> Finished:
        """One evaluation, with its files."""
        host, args = self._host, self._arguments(point, folder)
        tracker = host.EvaluationTracker(output_path=str(folder))
        date = host.utils.get_datetime_str(timezone=args.timezone)
        results = host.evaluator.simple_evaluate(
            model=adapter,
            model_args=args.model_args,
            tasks=list(self._tasks),
            batch_size=args.batch_size,
            limit=args.limit,
            log_samples=True,
            evaluation_tracker=tracker,
            task_manager=self._manager,
            verbosity=args.verbosity,
            random_seed=args.seed[0],
            numpy_random_seed=args.seed[1],
            torch_random_seed=args.seed[2],
            fewshot_random_seed=args.seed[3],
            cli_args=args,
            datetime_str=date,
        )
        samples = results.pop("samples")
        # The host was given an open model, and would write down the object.
        results["config"]["model"] = self._study.model
        tracker.general_config_tracker.model_source = self._study.model
        tracker.save_results_aggregated(results=results, samples=samples, datetime_str=date)
        for task in results["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])
        files = sorted(
            path for path in folder.rglob(f"{date}_*") if path.suffix in (".json", ".jsonl")
        )
        return Finished(arguments=vars(args), results=results, samples=samples, files=files)

    def _arguments(self, point: Point, folder: Path) -> argparse.Namespace:
        """What lmms-eval's own parser makes of the same run."""
        given = ["--model", self._study.model, "--model_args", point.arguments,
                 "--tasks", ",".join(self._tasks), "--output_path", str(folder), "--log_samples",
                 "--verbosity", "WARNING"]  # fmt: skip
        if self._study.limit is not None:
            given += ["--limit", f"{self._study.limit}"]
        argv, sys.argv = sys.argv, ["lmms-eval", *given]
        try:
            _, args = self._host.parse_eval_args()
        finally:
            sys.argv = argv
        return args  # type: ignore[no-any-return]  # lmms-eval is untyped


@contextmanager
def _quiet_host(verbose: bool) -> Iterator[None]:
    """Keep lmms-eval's account of each of many runs to warnings, and its bars away."""
    importlib.import_module("lmms_eval.models")  # replaces all log sinks when it is imported

    if verbose:
        yield
        return
    import lmms_eval.api.task as host_task
    import lmms_eval.evaluator as host_evaluator

    by_host = host_evaluator.tqdm

    def no_bar(*args: Any, **kwargs: Any) -> Any:
        return by_host(*args, **kwargs | {"disable": True})

    def wanted(record: Any) -> bool:
        # An adapter tells of a journal for a run by itself; here the sweep does.
        is_run = (record["name"] or "").startswith(
            ("lmms_eval", "longva_eval.model_adapters.longva")
        )
        return not is_run or record["level"].no >= logger.level("WARNING").no

    logger.remove()
    logger.add(sys.stderr, level="INFO", format="{message}", filter=wanted)
    host_evaluator.tqdm = host_task.tqdm = no_bar
    try:
        yield
    finally:
        host_evaluator.tqdm = host_task.tqdm = by_host
        logger.remove()
        logger.add(sys.stderr, level="INFO", format="{message}")


# What is said -------------------------------------------------------------------------------------


def _say_what_is_there(runs: Sequence[_PointRun], left: Sequence[_PointRun]) -> None:
    done = len(runs) - len(left)
    begun = sum(run.journal.is_dir() for run in left)
    text = _points(len(runs))
    if done:
        text += f", {done} complete"
    if begun:
        text += f", {begun} begun (their answers are taken over)"
    print(text + ("." if left else ": nothing is left to compute."))


def _points(count: int) -> str:
    return f"{count} point{'' if count == 1 else 's'}"


def _say(run: _PointRun, number: int, total: int, seconds: float) -> None:
    place = f"[{number}/{total}] {run.point.name}"
    if not run.is_complete:
        print(f"{place}: missing, {run.reason.partition('. ')[0].rstrip('.')}", flush=True)
        return
    answers = run.record["answers"]
    counts: dict[str, int] = {}
    for found in run.record["outcomes"].values():
        for outcome, count in found.items():
            counts[outcome] = counts.get(outcome, 0) + count
    told = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
    taken = f"; {answers['taken_over']:,} answers taken over" if answers["taken_over"] else ""
    print(f"{place}: {told}{taken}; {_time(seconds)} so far", flush=True)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# Settings -----------------------------------------------------------------------------------------


def _study(options: argparse.Namespace) -> Study:
    """The study of a command line; options win over the file."""
    given = {
        "pretrained": options.pretrained, "model": options.model, "tasks": options.tasks,
        "frames": options.frames, "rope_theta": options.rope_theta, "rope_type": options.rope_type,
        "rope_factor": options.rope_factor, "limit": options.limit,
        "model_args": options.model_args, "include_path": options.include_path,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if ":" in (options.frames or ""):
        given["frames"] = list(parse_whole_range(options.frames, name="frames"))
    if options.study is None:
        return study_from(given, where="command line")
    if options.study.is_dir():
        options.study = options.study / SETTINGS_NAME
    return study_from(read_study_file(options.study) | given, where=str(options.study))


def _check_alone() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError(
            "A sweep is one process. device_map=auto spreads its model over several GPUs; to use "
            "several processes, give each a part of the grid and an --out of its own."
        )


def _set_aside(folder: Path) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / SETTINGS_NAME).is_file():
        raise SettingsError(f"--fresh: {folder} holds no study; it is left alone.")
    logger.info("Starting over: the earlier study was set aside in {}{}", folder, set_aside(folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longva-eval sweep",
        usage="longva-eval sweep [STUDY.yaml] [--pretrained P --tasks T,... --frames N,...] "
        "[OPTIONS] --out DIR",
        description="Evaluate one model at several numbers of frames and RoPE settings. It is "
        "loaded once, each video decoded once, each frame encoded once. A study that was "
        "interrupted is continued by the same command.",
        epilog="Each point is a run of its own in DIR/points: `longva-eval compare`, `show` and "
        "`report` read it. DIR/study.yaml repeats the study: longva-eval sweep DIR/study.yaml "
        "--out OTHER.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "study", nargs="?", type=Path, metavar="STUDY.yaml",
        help="a file with pretrained, tasks, frames, ... as keys; options win over it",
    )  # fmt: skip
    parser.add_argument("--pretrained", help="folder, hub id or name of an embedded checkpoint")
    parser.add_argument("--model", help=f"model id: {', '.join(MODEL_CLASSES)} (longva)")
    parser.add_argument("--tasks", help="of lmms-eval, with commas between")
    parser.add_argument("--frames", metavar="N,N,...", help="numbers of frames, or START:STOP:STEP")
    parser.add_argument(
        "--rope-theta", metavar="X,X,...", help="RoPE bases; own is the checkpoint's"
    )
    parser.add_argument(
        "--rope-type", metavar="T,T,...",
        help="own, default, linear, ntk, yarn, llama3, longrope, dynamic",
    )  # fmt: skip
    parser.add_argument("--rope-factor", metavar="X,X,...", help="for the types that need one")
    parser.add_argument("--include-path", metavar="DIR", help="of tasks lmms-eval does not have")
    parser.add_argument("--limit", help="questions of each task, for tests only")
    parser.add_argument(
        "--model-args", metavar="K=V,...", help="further arguments of the model, as in lmms-eval"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the study"
    )
    parser.add_argument(
        "--by", default="", metavar="CATEGORY",
        help="split curves by this category of the questions (a duration, if there is one)",
    )  # fmt: skip
    parser.add_argument(
        "--published", nargs="?", const="auto", default="", metavar="BENCHMARK",
        help="draw LongVA's published curve beside, where its numbers of frames are published",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="start over: set aside what DIR holds")
    parser.add_argument("--verbose", action="store_true", help="show what lmms-eval says")
    return parser
