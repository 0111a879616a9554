"""Mistakes in a command's arguments, told before torch is imported: in one line, within a second.

Only what can be judged from names and files; all else is left to the commands and to lmms-eval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from longva_eval.embedded import MODEL_CLASSES, check_pretrained
from longva_eval.errors import MediaError, nearest
from longva_eval.files import check_writable
from longva_eval.host.names import check_model, check_start, check_tasks

__all__ = ["check_arguments"]


def check_arguments(command: str, arguments: Sequence[str]) -> None:
    """Look at the arguments of a command that imports torch.

    Raises:
        EvaluationError: For a package, model, task, checkpoint, file or folder that cannot work.
    """
    if command not in _CHECKED or {"-h", "--help"} & set(arguments):
        return
    check_start()
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("model_args", *_CHECKED[command]):
        parser.add_argument(f"--{name}", action="append", default=[])
    try:
        given = vars(parser.parse_known_args(arguments)[0])
    except argparse.ArgumentError:  # the command itself says what is missing behind an option
        return
    folders = [Path(folder) for folder in given.get("include_path", ())]
    for name, check in _CHECKED[command].items():
        for value in given[name.replace("-", "_")]:
            check(f"--{name}", value)
    if command in ("run", "sweep"):
        for names in given["tasks"]:
            if not names.startswith("list") and not Path(names).is_dir():
                check_tasks([name.strip() for name in names.split(",")], folders=folders)
        for text in given["model_args"] if set(given.get("model", ())) & set(MODEL_CLASSES) else ():
            settings = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
            if "pretrained" in settings:
                check_pretrained(settings["pretrained"])


def _exists(option: str, path: str) -> None:
    """Raises MediaError, with what its folder has instead, if a path is not there."""
    if not Path(path).expanduser().exists():
        there = Path(path).expanduser().parent
        others = [entry.name for entry in there.iterdir()] if there.is_dir() else []
        hint = nearest(Path(path).name, others)
        raise MediaError(f"{option} {path} does not exist.{hint} Check the path.")


def _exists_or_hub(option: str, path: str) -> None:
    if path.count("/") != 1 or path.startswith((".", "~", "/")):
        _exists(option, path)


def _writable(option: str, folder: str) -> None:
    check_writable(folder, option, make=False)


_CHECKED: Mapping[str, Mapping[str, Callable[[str, str], None]]] = {
    "run": {
        "config": _exists,
        "include_path": _exists,
        "model": lambda _, name: check_model(name),
        "tasks": lambda *_: None,  # judged with other options
        "output_path": _writable,
    },
    "sweep": {
        "pretrained": lambda _, name: check_pretrained(name),
        "tasks": lambda *_: None,
        "include-path": _exists,
        "out": _writable,
    },
    "niah": {
        "pretrained": lambda _, name: check_pretrained(name),
        "haystack": _exists,
        "captions": _exists,
        "needles": _exists_or_hub,
        "out": _writable,
    },
    "demo": {"out": _writable},
}
"""Options of the commands that import torch, and what must hold for each."""
