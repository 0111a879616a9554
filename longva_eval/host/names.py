"""What lmms-eval knows by name, and whether it can start: asked without importing torch.

Its own look-ups import torch and every benchmark first, and answer a typing error after half a
minute with three lists of all names. Task files are read here as text; models are asked of its
registry, which is light.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from longva_eval.embedded import MODEL_CLASSES, tasks_folder
from longva_eval.errors import SettingsError, nearest
from longva_eval.questions.host_tasks import host_tasks_folder

__all__ = [
    "broken_bounds",
    "check_model",
    "check_start",
    "check_tasks",
    "read_task_file",
    "task_files",
    "task_leaves",
]

_NAMED = re.compile(
    r"""^["']?(task|group|tag)["']?[ \t]*:[ \t]*(.*(?:\n[ \t]*-.*)*)$""", re.MULTILINE
)
_LISTED = re.compile(r"^[ \t]*-[ \t]*(\S+)[ \t]*$", re.MULTILINE)
_WHY = {
    "filelock": "lmms-eval 0.7.3 uses filelock._api.FileLockMeta before every evaluation, which "
    "only 3.15.2 to 4.2 have",
}


def broken_bounds() -> dict[str, tuple[str, str]]:
    """Installed packages that longva-eval cannot work with: name -> what is wrong, and the way out.

    By the bounds that the installed longva-eval states. Absent packages are left out, and so is
    lmms-eval itself: a development version of the host is tried, not refused.
    """
    from packaging.requirements import Requirement

    problems = {}
    for text in importlib.metadata.requires("longva-eval") or ():
        requirement = Requirement(text)
        marker, name = requirement.marker, requirement.name
        if name == "lmms-eval" or (marker is not None and not marker.evaluate({"extra": ""})):
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        wanted = f"{name}{requirement.specifier}"
        if not requirement.specifier.contains(version, prereleases=True):
            why = f" ({_WHY[name]})" if name in _WHY else ""
            told = f"{name} {version} is installed, and longva-eval needs {wanted}{why}."
            problems[name] = told, f"pip install '{wanted}'"
    return problems


def check_start() -> None:
    """Raises SettingsError if an installed package keeps evaluations from starting."""
    problems = broken_bounds().values()
    if problems:
        raise SettingsError("\n".join(f"{told} Mend: {mend}" for told, mend in problems))


def check_model(name: str) -> None:
    """Raises SettingsError, with the nearest name, if lmms-eval has no model `name`."""
    if name in MODEL_CLASSES:
        return
    import lmms_eval.models as host

    try:
        host.MODEL_REGISTRY_V2.resolve(name)
    except ValueError as error:
        known = [
            *MODEL_CLASSES,
            *host.AVAILABLE_SIMPLE_MODELS,
            *host.AVAILABLE_CHAT_TEMPLATE_MODELS,
        ]
        raise SettingsError(
            f"There is no model {name!r}.{nearest(name, known)} All: lmms-eval models"
        ) from error


def check_tasks(names: Sequence[str], *, folders: Iterable[Path] = ()) -> None:
    """Raises SettingsError, with the nearest names, if lmms-eval knows one of `names` not.

    Args:
        names: Tasks, groups, tags, patterns with `*`, and paths of task files.
        folders: Of `--include_path`.
    """
    known = task_files(tuple(folders))
    unknown = [
        name for name in names
        if name not in known and not Path(name).exists()
        and not any(fnmatch(other, name) for other in known)
    ]  # fmt: skip
    if unknown:
        told = " ".join(f"There is no task {name!r}.{nearest(name, known)}" for name in unknown)
        raise SettingsError(f"{told} All: lmms-eval --tasks list")


@cache
def task_files(folders: tuple[Path, ...] = ()) -> dict[str, Path]:
    """Every task, group and tag -> the file that defines it, or one that lists it.

    Ours and `folders` come before the host's.
    """
    defined: dict[str, Path] = {}
    listed: dict[str, Path] = {}
    for folder in (*folders, tasks_folder(), host_tasks_folder()):
        for root, _, names in os.walk(folder):
            for name in names:
                if "yaml" in name:  # templates without a dot too: a name can stand in one
                    path = Path(root, name)
                    text = path.read_text(encoding="utf-8", errors="replace")
                    for key, told in _NAMED.findall(text):
                        is_own = key != "tag" and told[:1] not in ("", "\n", "[", "#")
                        for value in _values(told):
                            (defined if is_own else listed).setdefault(value, path)
    return listed | defined


class Loader(yaml.SafeLoader):
    """Functions stay names."""


Loader.add_constructor("!function", lambda _loader, node: node.value)


def read_task_file(path: Path) -> dict[str, Any]:
    """A task's or group's YAML as it stands there."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader) or {}  # a SafeLoader


def task_leaves(name: str) -> list[str]:
    """The tasks that a group comes down to; a task by itself, and a tag, is its own."""
    files = task_files()

    def leaves(name: str, seen: frozenset[str]) -> list[str]:
        if name not in files or name in seen:
            return [name]
        entry = read_task_file(files[name])
        members = entry.get("task")
        if entry.get("group") != name or not isinstance(members, list):
            return [name]
        inner = [m if isinstance(m, str) else m.get("task") or m.get("group") for m in members]
        return [leaf for m in inner if isinstance(m, str) for leaf in leaves(m, seen | {name})]

    return leaves(name, frozenset())


def _values(text: str) -> list[str]:
    """The names behind a key: one, `[a, b]`, or lines `- a`."""
    first, _, rest = text.partition("\n")
    first = first.split(" #")[0].strip()
    if first.startswith("["):
        return re.findall(r"[\w.\-]+", first)
    names = [first.strip("\"'")] if first else _LISTED.findall(rest)
    return [name.strip("\"'") for name in names]
