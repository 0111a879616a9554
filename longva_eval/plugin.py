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
know them, and `record_recipes` puts them there.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

__all__ = ["MODEL_CLASSES", "RECIPE_KEY", "model_manifests", "record_recipes", "tasks_folder"]

MODEL_CLASSES = {"longva": "longva_eval.model_adapters.longva.LongVA"}
"""Model id -> class, for `lmms-eval --model ID`."""

RECIPE_KEY = "longva_eval"
"""Where a results file says how its scores were made."""


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
    if module is not None:
        _apply_once(module, _add_recipe)


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
        return original(
            self, include_path=paths or None, include_defaults=include_defaults, **kwargs
        )

    module.TaskManager.initialize_tasks = initialize_tasks


def _add_recipe(module: ModuleType) -> None:
    """Let the results say how they were made: lmms-eval writes neither dtype nor versions."""
    original = module.__dict__["evaluate"]

    @functools.wraps(original)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        lm = kwargs.get("lm", args[0] if args else None)
        results = original(*args, **kwargs)
        recipe = getattr(lm, "recipe", None)
        if isinstance(results, dict) and callable(recipe):
            results[RECIPE_KEY] = recipe()
        return results

    module.evaluate = evaluate  # type: ignore[attr-defined]  # the host's function


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
