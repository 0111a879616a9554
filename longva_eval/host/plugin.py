"""lmms-eval learns about us here. Imports no torch.

Models: the entry point `lmms_eval.models` calls `model_manifests` while lmms-eval is itself being
imported. Ours overwrite its built-in `longva`. If the callable raised, lmms-eval would skip the
plugins of *every* package and fall back to its own adapter with one warning, so it never does.

Tasks, results and runs have no entry point: `longva_eval.host.patches` lists what is changed for
them. The same callable arranges that they are applied once the host's modules are imported.
`lmms-eval tasks list` never loads model plugins and cannot show our tasks: use
`--include-path $(longva-eval tasks-path)` there.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from longva_eval.embedded import MODEL_CLASSES
from longva_eval.host.patches import apply_patches

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

__all__ = ["model_manifests"]


def model_manifests() -> list[ModelManifest]:
    """Our models, for lmms-eval's entry point. Never raises."""
    try:
        # Imported here: lmms-eval calls this while it is itself being imported.
        from lmms_eval.models.registry_v2 import ModelManifest

        apply_patches()
        if "lmms_eval.tasks" not in sys.modules and not any(
            isinstance(finder, _TasksFinder) for finder in sys.meta_path
        ):
            sys.meta_path.insert(0, _TasksFinder())
        return [
            ModelManifest(model_id=name, simple_class_path=path)
            for name, path in MODEL_CLASSES.items()
        ]
    except Exception as error:
        warnings.warn(f"longva-eval could not register with lmms-eval: {error!r}", stacklevel=2)
        return []


class _TasksFinder(importlib.abc.MetaPathFinder):
    """Finds the host's task module as Python would, and has it patched once it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "lmms_eval.tasks":
            return None
        sys.meta_path.remove(self)
        found = importlib.util.find_spec(fullname)
        if found is not None and found.loader is not None:
            original = found.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                original(module)
                apply_patches(loaded=fullname)

            found.loader.exec_module = exec_module  # type: ignore[method-assign]  # of this loader
        return found
