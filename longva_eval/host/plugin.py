"""The one place where lmms-eval learns about this suite. Imports no torch.

Models: the entry point `lmms_eval.models` calls `model_manifests` while lmms-eval is itself being
imported. Ours overwrite its built-in `longva`. If the callable raised, lmms-eval would skip the
plugins of *every* package and fall back to its own adapter with one warning, so it never does.

Tasks: lmms-eval 0.7.3 has no entry point for them, and its plugin variable is read after the task
index is built. So the same callable arranges that our folder is added to every index as soon as
the module concerned has been imported. `lmms-eval tasks list` never loads model plugins and cannot
show ours: use
`--include-path $(longva-eval tasks-path)` there.

Results: lmms-eval writes neither dtype nor versions nor frames into a results file. Our adapters
know them, and `record_recipes` puts them there: the recipe into the results file, what is known of
each question into its line of the samples file. Samples of several processes are put into the order
of the documents.

Runs: our adapters are told where results will be written (`HostRun`), so that their journal lies
beside; and where several processes share a run, one that fails ends all, instead of leaving the
others in a collective. All of this concerns our models only; others run as they would without us.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from longva_eval.host.group_order import order_results

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

__all__ = [
    "MODEL_CLASSES",
    "RECIPE_KEY",
    "HostRun",
    "model_manifests",
    "record_recipes",
    "start_over",
    "tasks_folder",
]

MODEL_CLASSES = {
    "longva": "longva_eval.model_adapters.longva.LongVA",
    "longva_llava_next": "longva_eval.model_adapters.llava_next.LlavaNext",
    "longva_llava_next_video": "longva_eval.model_adapters.llava_next.LlavaNextVideo",
}
"""Model id -> class, for `lmms-eval --model ID`. Only `longva` replaces one of the host's own."""

RECIPE_KEY = "longva_eval"
"""Where a results file says how its scores were made."""


@dataclass(frozen=True, kw_only=True)
class HostRun:
    """What an adapter is told of the run it works in."""

    output: Path | None
    """`--output_path`."""
    model_folder: str = ""
    """What lmms-eval makes of the model's name, for its folder in `output`."""
    fresh: bool = False
    """Start over: `longva-eval run --fresh`."""

    def journal_folder(self) -> Path | None:
        """Where answers are kept as they come; None if no place was named."""
        return self.output / self.model_folder / "journal" if self.output else None


_fresh = False
_tracker: Any = None


def start_over() -> None:
    """Let runs of this process set aside what is in their journals."""
    global _fresh
    _fresh = True


def tasks_folder() -> Path:
    """The folder with our task files, for `--include_path`."""
    found = importlib.util.find_spec("longva_eval.tasks")
    if found is None or not found.submodule_search_locations:
        raise ImportError("longva_eval.tasks is missing; reinstall longva-eval.")
    return Path(next(iter(found.submodule_search_locations))).resolve()


def model_manifests() -> list[ModelManifest]:
    """Our models, for lmms-eval's entry point. Never raises."""
    try:
        # Imported here: lmms-eval calls this while it is itself being imported.
        from lmms_eval.models.registry_v2 import ModelManifest

        _after_import("lmms_eval.tasks", _add_task_folder)
        return [
            ModelManifest(model_id=name, simple_class_path=path)
            for name, path in MODEL_CLASSES.items()
        ]
    except Exception as error:
        warnings.warn(f"longva-eval could not register with lmms-eval: {error!r}", stacklevel=2)
        return []


def record_recipes() -> None:
    """Let results carry the recipe of the model that made them; called by our adapters.

    Not done by `model_manifests`: lmms-eval's evaluator is then in the middle of its own import.
    """
    module = sys.modules.get("lmms_eval.evaluator")
    if module is not None and not _is_importing(module):
        _apply_once(module, _change_evaluator)


def _add_task_folder(module: ModuleType) -> None:
    """Let every task index include our folder, beside those the user names."""
    original = module.TaskManager.initialize_tasks

    @functools.wraps(original)
    def initialize_tasks(
        self: Any, include_path: Any = None, include_defaults: bool = True, **kwargs: Any
    ) -> Any:
        paths = (
            [include_path] if isinstance(include_path, (str, Path)) else list(include_path or [])
        )
        ours = str(tasks_folder())
        if include_defaults and ours not in map(str, paths):
            paths.append(ours)
        record_recipes()  # the evaluator has been imported by now, and no model been made
        return original(
            self, include_path=paths or None, include_defaults=include_defaults, **kwargs
        )

    module.TaskManager.initialize_tasks = initialize_tasks
    _raise_our_errors_at_once(module.ConfigurableTask)


def _raise_our_errors_at_once(task_class: Any) -> None:
    """Let lmms-eval not try again, four times and two seconds apart, what we say cannot be done.

    After the last time it would show `RetryError`, which says nothing; other errors stay as they
    are.
    """
    from tenacity import retry_if_exception

    from longva_eval.errors import EvaluationError

    def is_worth_a_try(error: BaseException) -> bool:
        return isinstance(error, Exception) and not isinstance(error, EvaluationError)

    for name in ("download", "process_results"):
        retrying = getattr(task_class.__dict__.get(name), "retry", None)
        if retrying is not None:
            retrying.retry = retry_if_exception(is_worth_a_try)


def _change_evaluator(module: ModuleType) -> None:
    """Let the evaluator tell our models of the run, and the results what they know of it."""
    evaluate_by_host = module.__dict__["evaluate"]
    simple_evaluate_by_host = module.__dict__["simple_evaluate"]
    agentic_by_host = module.__dict__.get("_run_generate_until_agentic")

    @functools.wraps(simple_evaluate_by_host)
    def simple_evaluate(*args: Any, **kwargs: Any) -> Any:
        global _tracker
        model = kwargs.get("model", args[0] if args else None)
        if not (_is_ours(model) or (isinstance(model, str) and model in MODEL_CLASSES)):
            return simple_evaluate_by_host(*args, **kwargs)
        with _ending_all(None):
            _tracker = kwargs.get("evaluation_tracker")
            output = getattr(_tracker, "output_path", None)
            if output:
                from longva_eval.running.journal import check_writable

                check_writable(output, "output_path")
            try:
                return simple_evaluate_by_host(*args, **kwargs)
            finally:
                _tracker = None

    @functools.wraps(evaluate_by_host)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        lm: Any = kwargs.get("lm", args[0] if args else None)
        if not _is_ours(lm):
            return evaluate_by_host(*args, **kwargs)
        with _ending_all(lm):
            lm.begin_run(_host_run(kwargs.get("cli_args")))
            with _metrics_in_order():
                results = evaluate_by_host(*args, **kwargs)
            if isinstance(results, dict):
                _add_recipe(results, lm)
                order_results(results)
                lm.end_run()
            return results

    module.evaluate = evaluate  # type: ignore[attr-defined]  # the host's functions
    module.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    if "ResponseCache" in module.__dict__:
        _change_cache(module.__dict__["ResponseCache"])
    if agentic_by_host is None:
        return

    @functools.wraps(agentic_by_host)
    def run_agentic(lm: Any, *args: Any, **kwargs: Any) -> Any:
        # Asks one question after the other, so that processes ask differently often.
        if not _is_ours(lm):
            return agentic_by_host(lm, *args, **kwargs)
        with lm.alone():
            return agentic_by_host(lm, *args, **kwargs)

    module._run_generate_until_agentic = run_agentic  # type: ignore[attr-defined]


def _change_cache(cache: Any) -> None:
    """Let `--use_cache` keep no failures, and no process keep the others waiting."""
    from longva_eval.questions.outcomes import FAILED

    execute_by_host = cache.execute
    is_valid_by_host = cache._is_valid_response

    @functools.wraps(execute_by_host)
    def execute(self: Any, lm: Any, reqtype: str, requests: Any) -> Any:
        if not _is_ours(lm):
            return execute_by_host(self, lm, reqtype, requests)
        method = getattr(lm, reqtype)
        called = False

        def noting(given: Any) -> Any:
            nonlocal called
            called = True
            return method(given)

        setattr(lm, reqtype, noting)
        try:
            answers = execute_by_host(self, lm, reqtype, requests)
        finally:
            delattr(lm, reqtype)
        if not called:  # all was known here, and other processes may wait for their share
            method([])
        return answers

    def is_valid(response: Any, request_type: str) -> bool:
        text = getattr(response, "text", response)
        failed = text == FAILED or (isinstance(text, list) and FAILED in text)
        return not failed and bool(is_valid_by_host(response, request_type))

    cache.execute = execute
    cache._is_valid_response = staticmethod(is_valid)


def _is_ours(lm: Any) -> bool:
    return callable(getattr(lm, "begin_run", None)) and callable(getattr(lm, "recipe", None))


def _host_run(cli_args: Any) -> HostRun:
    output = getattr(_tracker, "output_path", None) or getattr(cli_args, "output_path", None)
    named = getattr(getattr(_tracker, "general_config_tracker", None), "model_name_sanitized", None)
    return HostRun(
        output=Path(output) if output else None, model_folder=str(named or ""), fresh=_fresh
    )


def _add_recipe(results: dict[str, Any], lm: Any) -> None:
    """Put what the model knows into the results, and each document's part into its sample."""
    recipe = dict(lm.recipe())
    samples = results.get("samples")
    if isinstance(samples, dict):
        for task, lines in samples.items():
            lines.sort(key=lambda line: line["doc_id"])  # several processes: in their order
            for line in lines:
                info = lm.sample_info(task, line["doc_id"])
                if info is not None:
                    line[RECIPE_KEY] = info
        recipe.pop("prompts", None)  # they stand in the samples
    results[RECIPE_KEY] = recipe


@contextmanager
def _ending_all(lm: Any) -> Iterator[None]:
    """Where several processes share a run, let one that fails end all."""
    try:
        yield
    except Exception as error:
        from longva_eval.running.ranks import end_all

        answering = getattr(lm, "_answering", None)
        end_all(getattr(answering, "ranks", None), error)
        raise


@contextmanager
def _metrics_in_order() -> Iterator[None]:
    """Let metrics of several processes be computed in the order of the documents.

    lmms-eval gives process r the documents r, r + n, r + 2n, ... and puts the processes' lists one
    after the other. A sum of fractions depends on the order in its last bits, a bootstrap in more.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size < 2:
        yield
        return
    output_type = sys.modules["lmms_eval.evaluator_utils"].__dict__["TaskOutput"]
    by_host = output_type.calculate_aggregate_metric

    def calculate(self: Any, *args: Any, **kwargs: Any) -> Any:
        for values in (self.sample_metrics, self.per_sample_metrics):
            for key, found in values.items():
                values[key] = _woven(found, size)
        return by_host(self, *args, **kwargs)

    output_type.calculate_aggregate_metric = calculate
    try:
        yield
    finally:
        output_type.calculate_aggregate_metric = by_host


def _woven(values: Sequence[Any], size: int) -> list[Any]:
    """Lists that were dealt out like cards, and laid one behind the other, as they were before."""
    lengths = [(len(values) - rank + size - 1) // size for rank in range(size)]
    starts = [sum(lengths[:rank]) for rank in range(size)]
    return [values[starts[place % size] + place // size] for place in range(len(values))]


def _after_import(name: str, change: Callable[[ModuleType], None]) -> None:
    """Apply a change to a module now, or once it is imported. Once only."""
    module = sys.modules.get(name)
    if module is not None and not _is_importing(module):
        _apply_once(module, change)
    elif not any(isinstance(finder, _Finder) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(name, change))


def _is_importing(module: ModuleType) -> bool:
    return bool(getattr(module.__spec__, "_initializing", False))


def _apply_once(module: ModuleType, change: Callable[[ModuleType], None]) -> None:
    if not getattr(module, "__longva_eval__", False):
        change(module)
        module.__longva_eval__ = True  # type: ignore[attr-defined]  # a mark of ours


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as Python would, and has it changed after it was loaded."""

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self.name = name
        self._change = change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        found = importlib.util.find_spec(fullname)
        if found is not None and found.loader is not None:
            original = found.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                original(module)
                _apply_once(module, self._change)

            found.loader.exec_module = exec_module  # type: ignore[method-assign]  # of this loader
        return found
