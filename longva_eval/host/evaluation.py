"""lmms-eval at work: one evaluation, what came of it, and what is missing of what was asked for.

It prints an exception and ends with status 0, and drops tasks and files it could not make with a
line in the log; here each of these has its reason, and what was made is read back and counted.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import importlib
import importlib.util
import json
import math
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from loguru import logger

from longva_eval.errors import EvaluationError, SettingsError, nearest

__all__ = [
    "Finished",
    "Host",
    "import_without",
    "is_unreached",
    "problems_of",
    "quiet_host",
    "reason_of",
    "run_host",
]

_LISTINGS = {"list", "list_groups", "list_tags", "list_subtasks"}
"""Values of --tasks that list tasks, and evaluate nothing."""
_UNREACHED = {
    "ConnectionError", "ConnectError", "ConnectTimeout", "ProxyError", "LocalEntryNotFoundError",
    "OfflineModeIsEnabled", "DatasetNotFoundError",
}  # fmt: skip
"""Names of the errors with which datasets and the hub's client say that data is not here."""


@dataclass(kw_only=True)
class Finished:
    """One evaluation of the host, as it ended."""

    arguments: Mapping[str, Any]
    """lmms-eval's, after it read them."""
    results: Mapping[str, Any] | None = None
    """None in a process that does not have them, or if there was an error."""
    samples: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
    error: BaseException | None = None
    files: list[Path] = field(default_factory=list)
    """Written by it."""

    def metrics(self, task: str) -> dict[str, Any]:
        """A task's metrics by name, without their errors and the task's alias."""
        found = ((self.results or {}).get("results") or {}).get(task, {})
        return {
            name.removesuffix(",none"): value
            for name, value in found.items()
            if "," in name and "_stderr" not in name
        }


def run_host(arguments: Sequence[str]) -> tuple[int, list[Finished]]:
    """Let lmms-eval evaluate; the status it would end with, and what became of each evaluation."""
    host = _import_host()
    runs: list[Finished] = []
    evaluate_by_host = host.cli_evaluate_single

    def evaluate(args: Any) -> Any:
        run = Finished(arguments=dict(vars(args)))
        output = Path(args.output_path) if args.output_path else None
        before = set(_files(output))
        try:
            results, samples = evaluate_by_host(args)
        except SystemExit as error:
            if error.code not in (None, 0) or args.tasks not in _LISTINGS:
                run.error = error
                runs.append(run)
            raise
        except BaseException as error:
            run.error = error
            runs.append(run)
            if _message_is_enough(error) and not args.config and args.verbosity != "DEBUG":
                # The host would print it twice more. It goes on only with further runs of a file.
                raise SystemExit(1) from error
            raise
        run.results, run.samples = results, samples
        run.files = sorted(set(_files(output)) - before)
        runs.append(run)
        return results, samples

    host.cli_evaluate_single = evaluate
    argv, sys.argv = sys.argv, ["lmms-eval", *arguments]
    try:
        host.cli_evaluate()
    except SystemExit as error:
        code = error.code
        return (code if isinstance(code, int) else int(code is not None)), runs
    except Exception:  # with --verbosity DEBUG errors pass through
        if not runs or runs[-1].error is None:
            raise
        traceback.print_exc()
        return 1, runs
    finally:
        sys.argv = argv
        host.cli_evaluate_single = evaluate_by_host
    return 0, runs


class _Later(ModuleType):
    """A package that is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # asked of all modules, by who looks round
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _import_host() -> Any:
    """lmms-eval's main module, without what most runs have no use for.

    Hugging Face's `evaluate` is for metrics that the host does not know, aiohttp for judges: 1.2 s
    of CPU.
    """
    return import_without("lmms_eval.__main__", ["evaluate", "aiohttp"])


def import_without(name: str, packages: Sequence[str]) -> Any:
    """A module; packages that it imports are loaded when something of them is asked for."""
    put_off = [_Later(package) for package in packages if package not in sys.modules]
    for package in put_off:
        package.__spec__ = importlib.util.find_spec(package.__name__)
        if package.__spec__ is not None:
            sys.modules[package.__name__] = package
    try:
        return importlib.import_module(name)
    finally:
        for package in put_off:
            if sys.modules.get(package.__name__) is package:
                del sys.modules[package.__name__]


def reason_of(error: BaseException) -> str:
    """Why an evaluation ended with an error."""
    error = _unwrapped(error)
    return str(error) if isinstance(error, EvaluationError) else f"{type(error).__name__}: {error}"


def _unwrapped(error: BaseException) -> BaseException:
    """What went wrong the last time, where the host tried several times."""
    attempt = getattr(error, "last_attempt", None)
    return (attempt.exception() if attempt is not None else None) or error


def _message_is_enough(error: BaseException) -> bool:
    """Whether nobody needs to see where in the code an error came up."""
    error = _unwrapped(error)
    unknown_task = isinstance(error, ValueError) and str(error).startswith("Tasks not found: ")
    return isinstance(error, EvaluationError) or unknown_task or is_unreached(error)


def is_unreached(error: BaseException) -> bool:
    """Whether data could not be fetched, as this error or one that it came from says."""
    seen: list[BaseException] = []
    now: BaseException | None = _unwrapped(error)
    while now is not None and now not in seen:
        if isinstance(now, EvaluationError):
            return False
        if type(now).__name__ in _UNREACHED:
            return True
        seen.append(now)
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
    return False


def problems_of(run: Finished) -> list[str]:
    """What was asked for and is not there.

    Args:
        run: That ended without an error, in the process that has its results.
    """
    if run.results is None:
        return ["The run ended without results."]
    problems = []
    configs = run.results.get("configs") or {}
    if not configs:
        problems.append("No task was evaluated.")
    for task in configs:
        metrics = run.metrics(task)
        if not metrics:
            problems.append(f"Task {task} has no result.")
        for name, value in metrics.items():
            if isinstance(value, float) and not math.isfinite(value):
                problems.append(f"Task {task}: {name} is {value}.")
        asked = (run.results.get("n-samples") or {}).get(task, {}).get("effective")
        if run.samples is not None:
            got = len(run.samples.get(task, ()))
            if isinstance(asked, int) and got < asked:
                problems.append(f"Task {task}: {asked} documents were asked for, {got} are there.")
    if run.arguments.get("output_path"):
        problems.extend(_file_problems(run, configs))
    return problems


def _file_problems(run: Finished, tasks: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the files of a run: they are read back."""
    folder = run.arguments["output_path"]
    written = [path for path in run.files if path.name.endswith("_results.json")]
    if not written:
        yield f"No results file was written to {folder}: is it full or read-only?"
    for path in written:
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            yield _half_written(path, error)
    for task in tasks if run.samples is not None else ():
        lines = [path for path in run.files if path.name.endswith(f"_samples_{task}.jsonl")]
        if not lines:
            yield f"No samples of task {task} were written to {folder}."
        for path in lines:
            wanted = len((run.samples or {}).get(task, ()))
            try:
                with path.open(encoding="utf-8") as file:
                    found = sum(isinstance(json.loads(line), dict) for line in file)
                if found != wanted:
                    raise ValueError(f"it holds {found} of {wanted} lines")
            except (OSError, ValueError) as error:
                yield _half_written(path, error)


def _half_written(path: Path, error: Exception) -> str:
    """Rename a file that is not complete, so that nobody reads it for one that is."""
    target = path.with_name(path.name + ".incomplete")
    try:
        path.rename(target)
    except OSError:
        target = path
    return (
        f"{target} is incomplete ({error}). The answers are in the journal: make room and run the "
        "same command again."
    )


def _files(folder: Path | None) -> Iterator[Path]:
    if folder is not None and folder.is_dir():
        yield from folder.rglob("*_results.json")
        yield from folder.rglob("*_samples_*.jsonl")


# Many evaluations of one model -------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _task_manager(include_path: str | None, model: str) -> Any:
    """lmms-eval's index of its tasks; it reads some 2,000 files."""
    from lmms_eval.tasks import TaskManager

    return TaskManager("WARNING", include_path=include_path, model_name=model)


class Host:
    """lmms-eval, driven as its own command line drives it.

    Args:
        model: Its id.
        tasks: Names and patterns.
        include_path: Of tasks that it does not have.
        limit: Docs of each task; a share of them below 1.

    Raises:
        SettingsError: If a task is unknown.
    """

    def __init__(
        self, model: str, tasks: Sequence[str], *, include_path: str | None, limit: float | None
    ) -> None:
        host = _import_host()
        self._host: Any = host
        self._model = model
        self._limit = limit
        self._manager = _task_manager(include_path, model)
        self._tasks: list[str] = self._manager.match_tasks(list(tasks))
        unknown = [task for task in tasks if not fnmatch.filter(self._tasks, task)]
        if unknown:
            known = self._manager.all_tasks
            told = " ".join(f"There is no task {name!r}.{nearest(name, known)}" for name in unknown)
            raise SettingsError(f"{told} All: lmms-eval --tasks list")

    def load_model(self, model_args: str) -> Any:
        """The model with these arguments."""
        from lmms_eval.models import get_model

        return get_model(self._model).create_from_arg_string(model_args)

    def run(self, adapter: Any, model_args: str, folder: Path) -> Finished:
        """One evaluation of an open model, with its files."""
        host, args = self._host, self._arguments(model_args, folder)
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
        results["config"]["model"] = self._model
        tracker.general_config_tracker.model_source = self._model
        tracker.save_results_aggregated(results=results, samples=samples, datetime_str=date)
        for task in results["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])
        files = sorted(
            path for path in folder.rglob(f"{date}_*") if path.suffix in (".json", ".jsonl")
        )
        return Finished(arguments=vars(args), results=results, samples=samples, files=files)

    def _arguments(self, model_args: str, folder: Path) -> argparse.Namespace:
        """What lmms-eval's own parser makes of the same run."""
        given = ["--model", self._model, "--model_args", model_args,
                 "--tasks", ",".join(self._tasks), "--output_path", str(folder), "--log_samples",
                 "--verbosity", "WARNING"]  # fmt: skip
        if self._limit is not None:
            given += ["--limit", f"{self._limit}"]
        argv, sys.argv = sys.argv, ["lmms-eval", *given]
        try:
            _, args = self._host.parse_eval_args()
        finally:
            sys.argv = argv
        return args  # type: ignore[no-any-return]  # lmms-eval is untyped


@contextmanager
def quiet_host() -> Iterator[None]:
    """Keep lmms-eval's account of each of many runs to warnings, and its bars away."""
    importlib.import_module("lmms_eval.models")  # replaces all log sinks when it is imported

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
