"""Copies of lmms-eval's own task modules, for texts that only stand in their functions.

A copy is ours alone: what is put into it changes no task of the host.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from longva_eval.errors import EvaluationError, SettingsError

__all__ = ["copy_of_host_task", "host_tasks_folder"]

Value = TypeVar("Value")


def host_tasks_folder() -> Path:
    """Where lmms-eval has its tasks; nothing is imported.

    Raises:
        SettingsError: If it is not installed.
    """
    spec = importlib.util.find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError("lmms-eval is not installed. Mend: pip install 'lmms-eval>=0.7.3,<0.8'")
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def copy_of_host_task(folder: str, stand_ins: Mapping[str, ModuleType] | None = None) -> ModuleType:
    """The `utils.py` of one of lmms-eval's tasks, loaded anew.

    Args:
        folder: Of the task, such as `activitynetqa`.
        stand_ins: Modules that it imports instead of installed ones, by name.

    Raises:
        EvaluationError: If lmms-eval has no such task.
    """
    path = host_tasks_folder() / folder / "utils.py"
    spec = importlib.util.spec_from_file_location(f"longva_eval._host_{folder}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise EvaluationError(f"lmms-eval has no {path}; longva-eval supports lmms-eval 0.7.")
    module = importlib.util.module_from_spec(spec)
    # Without these two the host's modules fail to load; their values are not used here.
    environment = {"HF_HOME": os.environ.get("HF_HOME", "."), "API_TYPE": "openai"}
    with _replaced(os.environ, environment), _replaced(sys.modules, stand_ins or {}):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _replaced(values: MutableMapping[str, Value], new: Mapping[str, Value]) -> Iterator[None]:
    """Other values for a while."""
    before = {name: values[name] for name in new if name in values}
    values.update(new)
    try:
        yield
    finally:
        for name in new:
            del values[name]
        values.update(before)
