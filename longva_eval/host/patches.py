"""What we change in lmms-eval while it runs: each change with its reason and its way out.

lmms-eval 0.7 offers an entry point for models and none for tasks, results or runs. What it lacks is
put in here, in one place, for our own models only; others run as they would without us. `PATCHES`
lists every change, the versions it was written for, and the test that fails once the host does the
same by itself: then the entry goes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from longva_eval.embedded import MODEL_CLASSES, RECIPE_KEY, tasks_folder

__all__ = [
    "PATCHES",
    "HostRun",
    "Patch",
    "apply_patches",
    "code_digest",
    "order_results",
    "start_over",
]


Apply = Callable[[ModuleType], None]


@dataclass(frozen=True)
class Patch:
    """One change to the host."""

    module: str
    """The host's module that is changed, once it is imported."""
    name: str
    """What is changed in it."""
    test: str
    """The test in `tests/host/test_patches.py` that fails when the host no longer needs it."""
    apply: Apply
    """Says what it does, and why."""
    versions: str = "0.7.3; main of 2026-08-06"
    """Host versions it was written for and tried with."""


PATCHES: Final[list[Patch]] = []
"""Every change that lasts. One more lasts as long as an evaluation on several processes:
`_metrics_in_order`. `host/evaluation.py` replaces the host's progress bars during a sweep."""


def _patch(module: str, name: str, test: str) -> Callable[[Apply], Apply]:
    """Put a change on the list."""

    def add(apply: Apply) -> Apply:
        PATCHES.append(Patch(module, name, test, apply))
        return apply

    return add


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


_CODE = (".yaml", ".yml", ".py", ".json")

_OTHERS_METRICS = ("lmms_eval.tasks.amber_g.utils", "lmms_eval.tasks.coco_cap_chair.utils")
"""Modules that the host imports whenever it looks for a metric's standard error."""

_fresh = False
_tracker: Any = None
_read_once: dict[str, dict[str, Any]] | None = None
"""Task files by path, while an index of tasks is built."""
_yaml_of: dict[str, str] = {}
"""Where the host found each task."""


def start_over() -> None:
    """Let runs of this process set aside what is in their journals."""
    global _fresh
    _fresh = True


def apply_patches(*, loaded: str = "") -> None:
    """Apply the patches of all host modules that are imported by now, each once.

    Called as soon as the host's task module is there, whenever an index of tasks is built, and by
    our adapters: the evaluator is in the middle of its own import when it loads plugins.

    Args:
        loaded: A module that was loaded just now, which Python still calls unfinished.
    """
    for name in dict.fromkeys(patch.module for patch in PATCHES):
        module = sys.modules.get(name)
        if module is None:
            continue
        if name != loaded and getattr(module.__spec__, "_initializing", False):
            continue
        if not getattr(module, "__longva_eval__", False):
            module.__longva_eval__ = True  # type: ignore[attr-defined]  # a mark of ours
            for patch in PATCHES:
                if patch.module == name:
                    patch.apply(module)


# lmms_eval.tasks ----------------------------------------------------------------------------------


@_patch(
    "lmms_eval.tasks", "TaskManager.initialize_tasks", "test_the_host_has_no_entry_point_for_tasks"
)
def _add_task_folder(module: ModuleType) -> None:
    """Add our folder of tasks to every index that has the host's own tasks.

    There is no entry point for tasks, and LMMS_EVAL_PLUGINS is read after the index is built.
    """
    original = module.TaskManager.initialize_tasks

    @functools.wraps(original)
    def initialize_tasks(
        self: Any, include_path: Any = None, include_defaults: bool = True, **kwargs: Any
    ) -> Any:
        given = [include_path] if isinstance(include_path, (str, Path)) else include_path
        global _read_once
        paths = list(given or [])
        ours = str(tasks_folder())
        if include_defaults and ours not in map(str, paths):
            paths.append(ours)
        apply_patches()  # the evaluator has been imported by now, and no model been made
        _read_once = {}
        try:
            index = original(
                self, include_path=paths or None, include_defaults=include_defaults, **kwargs
            )
        finally:
            _read_once = None
        _yaml_of.update({name: str(entry.get("yaml_path")) for name, entry in index.items()})
        return index

    module.TaskManager.initialize_tasks = initialize_tasks


@_patch(
    "lmms_eval.tasks",
    "ConfigurableTask.download, .process_results",
    "test_the_host_tries_again_whatever_the_error",
)
def _raise_our_errors_at_once(module: ModuleType) -> None:
    """Raise our errors at once.

    The host tries again four times, two seconds apart, and then shows RetryError, which says
    nothing.
    """
    from tenacity import retry_if_exception

    from longva_eval.errors import EvaluationError

    def is_worth_a_try(error: BaseException) -> bool:
        return isinstance(error, Exception) and not isinstance(error, EvaluationError)

    for name in ("download", "process_results"):
        retrying = getattr(module.ConfigurableTask.__dict__.get(name), "retry", None)
        if retrying is not None:
            retrying.retry = retry_if_exception(is_worth_a_try)


# lmms_eval.utils ----------------------------------------------------------------------------------


@_patch("lmms_eval.utils", "yaml", "test_the_host_reads_yaml_slowly_and_we_read_the_same")
def _read_yaml_with_libyaml(module: ModuleType) -> None:
    """Read the YAML of tasks with libyaml, and each file once for an index.

    The host reads 2,220 files 3,368 times whenever it starts: 3 s of CPU with PyYAML's own reader,
    0.3 s with libyaml (benchmarks/startup.py).
    """
    import yaml

    if not yaml.__with_libyaml__:
        return

    class Loader(yaml.CFullLoader):
        def __init__(self, stream: Any) -> None:
            super().__init__(stream)
            self.name = stream.name  # where `!function` looks for its module

    def add_constructor(tag: str, constructor: Any) -> None:
        yaml.add_constructor(tag, constructor)
        Loader.add_constructor(tag, constructor)

    def load(stream: Any) -> Any:
        try:
            return yaml.load(stream, Loader=Loader)
        except yaml.YAMLError:  # the same again, for the other reader's message
            stream.seek(0)
            return yaml.full_load(stream)

    def full_load(stream: Any) -> Any:
        if _read_once is None:
            return load(stream)
        if stream.name not in _read_once:
            _read_once[stream.name] = load(stream)
        found = _read_once[stream.name]
        # The host deletes from what it reads, and turns lists round.
        return {key: value[:] if isinstance(value, list) else value for key, value in found.items()}

    faster = ModuleType("yaml")
    faster.__dict__.update(
        yaml.__dict__ | {"add_constructor": add_constructor, "full_load": full_load}
    )
    module.yaml = faster  # type: ignore[attr-defined]  # the host's import


# lmms_eval.evaluator_utils ------------------------------------------------------------------------


@_patch(
    "lmms_eval.evaluator_utils", "stderr_for_metric", "test_a_metrics_error_loads_no_other_task"
)
def _import_no_other_task(module: ModuleType) -> None:
    """Import no code of two tasks that are not run.

    It asks whether a metric is one of theirs, and loads nltk and, where it is installed, spaCy: 0.8
    s of CPU and more. Metrics of a task that is run are recognised by name.
    """
    by_host = module.__dict__["stderr_for_metric"]

    @functools.wraps(by_host)
    def stderr_for_metric(*args: Any, **kwargs: Any) -> Any:
        left_out = [name for name in _OTHERS_METRICS if name not in sys.modules]
        sys.modules.update(dict.fromkeys(left_out))  # type: ignore[arg-type]  # None: it fails
        try:
            return by_host(*args, **kwargs)
        finally:
            for name in left_out:
                del sys.modules[name]

    module.stderr_for_metric = stderr_for_metric  # type: ignore[attr-defined]


# lmms_eval.evaluator ------------------------------------------------------------------------------


@_patch("lmms_eval.evaluator", "simple_evaluate", "test_the_host_tells_models_nothing_of_a_run")
def _tell_the_output(module: ModuleType) -> None:
    """Check that the output can be written before the model is loaded; end all processes together.

    The host finds out at the end; when one process fails, it leaves the others waiting in a
    collective.
    """
    by_host = module.__dict__["simple_evaluate"]

    @functools.wraps(by_host)
    def simple_evaluate(*args: Any, **kwargs: Any) -> Any:
        global _tracker
        model = kwargs.get("model", args[0] if args else None)
        if not (_is_ours(model) or (isinstance(model, str) and model in MODEL_CLASSES)):
            return by_host(*args, **kwargs)
        with _ending_all_processes(None):
            _tracker = kwargs.get("evaluation_tracker")
            output = getattr(_tracker, "output_path", None)
            if output:
                from longva_eval.files import check_writable

                check_writable(output, "output_path")
            try:
                return by_host(*args, **kwargs)
            finally:
                _tracker = None

    module.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]  # the host's function


@_patch("lmms_eval.evaluator", "evaluate", "test_the_host_tells_models_nothing_of_a_run")
def _record_recipes(module: ModuleType) -> None:
    """Tell our models of the run, write down what they know, keep documents and groups in order.

    Their recipe goes into the results, what is known of each question into its sample.
    A results file of the host holds neither dtype nor versions nor frames; samples of several
    processes come interleaved; groups are sorted by name.
    """
    by_host = module.__dict__["evaluate"]

    @functools.wraps(by_host)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        lm: Any = kwargs.get("lm", args[0] if args else None)
        if not _is_ours(lm):
            return by_host(*args, **kwargs)
        with _ending_all_processes(lm):
            lm.begin_run(_host_run(kwargs.get("cli_args")))
            with _metrics_in_order():
                results = by_host(*args, **kwargs)
            if isinstance(results, dict):
                _add_recipe(results, lm)
                order_results(results)
                lm.end_run()
            return results

    module.evaluate = evaluate  # type: ignore[attr-defined]  # the host's function


@_patch("lmms_eval.evaluator", "_run_generate_until_agentic", "test_every_patched_name_is_there")
def _ask_agentic_alone(module: ModuleType) -> None:
    """Let one process ask by itself.

    Questions are asked one after the other, so that processes ask differently often.
    """
    by_host = module.__dict__.get("_run_generate_until_agentic")
    if by_host is None:
        return

    @functools.wraps(by_host)
    def run_agentic(lm: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_ours(lm):
            return by_host(lm, *args, **kwargs)
        with lm.alone():
            return by_host(lm, *args, **kwargs)

    module._run_generate_until_agentic = run_agentic  # type: ignore[attr-defined]


@_patch("lmms_eval.evaluator", "ResponseCache", "test_every_patched_name_is_there")
def _keep_no_failures(module: ModuleType) -> None:
    """Let --use_cache keep no failures, and call our model in every process.

    A failure that is kept is never asked again; a process whose share is known would leave the
    others waiting.
    """
    cache: Any = module.__dict__.get("ResponseCache")
    if cache is None:
        return
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
    files = {name: Path(_yaml_of.get(name, "")) for name in results.get("configs") or {}}
    recipe["task_code"] = {name: code_digest(file) for name, file in files.items() if file.name}
    results[RECIPE_KEY] = recipe


def code_digest(file: Path) -> str:
    """Of a task's code: YAML, Python and JSON of its folder, and of ours what tasks are made of.

    Args:
        file: The task's YAML.

    Returns:
        The first 12 hex digits of a SHA-256 over the files' places and contents.
    """
    folder = file.parent
    found = [path for path in folder.rglob("*") if path.suffix in _CODE or "_yaml" in path.name]
    if tasks_folder() in folder.parents:
        found += (Path(__file__).parents[1] / "questions").glob("*.py")
    hashed = hashlib.sha256()
    for path in sorted(path for path in found if path.is_file()):
        hashed.update(f"{os.path.relpath(path, folder)}\0".encode())
        hashed.update(path.read_bytes() + b"\0")
    return hashed.hexdigest()[:12]


@contextmanager
def _ending_all_processes(lm: Any) -> Iterator[None]:
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
                values[key] = _in_document_order(found, size)
        return by_host(self, *args, **kwargs)

    output_type.calculate_aggregate_metric = calculate
    try:
        yield
    finally:
        output_type.calculate_aggregate_metric = by_host


def _in_document_order(values: Sequence[Any], size: int) -> list[Any]:
    """Values of documents r, r + size, ... for r = 0, 1, ..., in the order of the documents."""
    lengths = [(len(values) - rank + size - 1) // size for rank in range(size)]
    starts = [sum(lengths[:rank]) for rank in range(size)]
    return [values[starts[place % size] + place // size] for place in range(len(values))]


def order_results(results: dict[str, Any]) -> None:
    """Put `results["results"]` in order, in place: a group, then its tasks as its YAML has them.

    Args:
        results: What lmms-eval's `evaluate` returns: `results`, and `group_subtasks` with the
            members of each group.
    """
    rows: dict[str, Any] = results.get("results") or {}
    members: dict[str, list[str]] = results.get("group_subtasks") or {}
    below = {name for names in members.values() for name in names}
    ordered: dict[str, Any] = {}

    def visit(name: str) -> None:
        if name in rows and name not in ordered:
            ordered[name] = rows[name]
            for member in members.get(name, []):
                visit(member)

    for name in rows:
        if name not in below:
            visit(name)
    results["results"] = ordered | rows  # `ordered` comes first; nothing is lost
