"""Files and folders, as every part of the project treats them. No torch."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["hf_home", "set_aside", "write_atomically"]


def hf_home() -> Path:
    """Where data lies, as lmms-eval sees it: `$HF_HOME`, or the hub's default."""
    return Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the name when all went well.

    So nothing that is half written has its final name, whatever ends the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:100]}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def set_aside(*paths: Path) -> str:
    """Rename what earlier runs left, all with the same number: `journal` becomes `journal.1`.

    Args:
        *paths: Files and folders in one folder; those that are not there are left out.

    Returns:
        What stands behind their names now: `.1`, `.2`, ...; empty if none was there.

    Raises:
        OSError: If one cannot be renamed.
    """
    there = [path for path in paths if os.path.lexists(path)]
    if not there:
        return ""
    number = 1
    while any(os.path.lexists(path.with_name(f"{path.name}.{number}")) for path in paths):
        number += 1
    for path in there:
        path.rename(path.with_name(f"{path.name}.{number}"))
    return f".{number}"
