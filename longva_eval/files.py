"""Files and folders, as every part of the project treats them. No torch."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longva_eval.errors import ResourceError, SettingsError
from longva_eval.text import plain

__all__ = [
    "check_output",
    "check_writable",
    "hf_home",
    "set_aside",
    "unwritable",
    "write_atomically",
]


def hf_home() -> Path:
    """Where data lies, as lmms-eval sees it: `$HF_HOME`, or the hub's default.

    Raises:
        SettingsError: If its name is no UTF-8: results name files below it.
    """
    folder = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    _check_name(folder, "HF_HOME")
    return folder


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the name when all went well.

    So nothing that is half written has its final name, whatever ends the process.

    Raises:
        ResourceError: If the disk is full, or may not be written.
    """
    temporary = path.with_name(f".{path.stem[:100]}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno is None:  # of a damaged archive that is being read
            raise
        raise ResourceError(f"{path} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_output(path: Path) -> None:
    """Make sure that a file can be written before any work is done for it.

    Raises:
        ResourceError: If it is a folder, or cannot be made or written.
    """
    if path.is_dir():
        raise ResourceError(f"{path} cannot be written: it is a folder. Name a file.")
    try:
        if not path.exists():
            _try_to_write(path.parent)
        elif not os.access(path, os.W_OK):
            raise PermissionError(None, "Permission denied")
    except OSError as error:
        raise ResourceError(
            f"{path} cannot be written: {error.strerror}. Nothing was computed. Make room or name "
            "another file."
        ) from error


def check_writable(folder: str | Path, name: str, *, make: bool = True) -> None:
    """Make sure that a folder can be written before anything is computed.

    Args:
        folder: May be missing.
        name: How the user calls it.
        make: Make the folder; otherwise nothing is left of the check.

    Raises:
        SettingsError: If it cannot: read-only, full, a file, or a name that is no UTF-8.
    """
    folder = Path(folder).expanduser()
    _check_name(folder.absolute(), name)
    try:
        tried = folder
        while not (make or tried.exists()):
            tried = tried.parent
        _try_to_write(tried)
    except OSError as error:
        raise unwritable(folder, name, error) from error


def unwritable(folder: Path, name: str, error: OSError) -> SettingsError:
    """What to say of a folder that cannot be written."""
    hint = "; journal=off goes without" if name == "journal" else ""
    return SettingsError(
        f"The {name} folder {folder} cannot be written: {error.strerror}. Nothing was computed. "
        f"Make room or choose another folder{hint}."
    )


def _check_name(folder: Path, name: str) -> None:
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise SettingsError(
            f"The {name} folder {plain(str(folder))} has a name that is no UTF-8, which results "
            "cannot hold. Rename it, or choose another."
        ) from error


def _try_to_write(folder: Path) -> None:
    probe = folder / f".write-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:  # a full disk lets empty files be made
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


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
