"""Answers on disk as they come, so that a run that dies costs the answer in flight. No torch.

A journal is a folder. For every group of settings there is a folder in it, and in that a file for
every process that ever wrote: lines of JSON, each with a checksum, each flushed to the disk before
the next answer is computed. Nobody writes into another's file, so many processes and machines can
share a folder; all files are read when a journal is opened.

The first line of a file states the settings that can move a number. Answers are only taken over
from files with equal ones. An unfinished journal with *other* settings in the same folder is
refused, and the difference named: the usual case is a resumed run with a typing error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import weakref
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

from loguru import logger

from longva_eval.errors import ResourceError, SettingsError
from longva_eval.files import check_writable, set_aside, unwritable

__all__ = [
    "Journal",
    "JournalKey",
    "UnfinishedRun",
    "journal_settings",
    "settings_difference",
    "unfinished_runs",
]

JournalKey = Mapping[str, Any]
"""What an answer depends on, besides the journal's settings; JSON can hold it."""

_FORMAT: Final = 1
_FINISHED: Final = "finished"
_OWN_RUN: Final = frozenset({"checkpoint", "revision", "device", "reuse", "engine", "prompts"})
"""What a description of a model holds beside what can move a number."""


class Journal:
    """Answers by key, in a folder.

    Args:
        folder: Made if it is not there.
        settings: What all answers depend on: weights, dtype, frames, versions.
        fresh: Set aside what is there instead of taking it over.
        leader: Whether this process decides about what others left: one of those that share the
            work. The others open the journal after it.
        refuse_others: Whether an unfinished journal with other settings is refused. Not wanted
            in a folder that nobody has named.

    Raises:
        SettingsError: If the folder cannot be written, or holds an unfinished journal that was made
            under other settings, or in another release's format.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        *,
        fresh: bool = False,
        leader: bool = True,
        refuse_others: bool = True,
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.settings: dict[str, Any] = json.loads(_canonical(settings))
        self.num_taken_over = 0
        """Answers of earlier runs that were asked for and found."""
        self.num_written = 0
        self._answers: dict[str, dict[str, Any]] = {}
        self._earlier: set[str] = set()
        self._place = self.folder / _digest(self.settings)
        self._descriptor: int | None = None
        self._end: weakref.finalize[..., Journal] | None = None
        self._own: Path | None = None
        check_writable(self.folder, "journal")
        if leader:
            if fresh:
                self._set_aside()
            elif refuse_others:
                self._refuse_others()
        try:
            self._place.mkdir(exist_ok=True)
            if leader:
                (self._place / _FINISHED).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.folder, "journal", error) from error
        if leader or not fresh:
            self._read()
        self._start_file()

    def __len__(self) -> int:
        """Answers that are there."""
        return len(self._answers)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def get(self, key: JournalKey) -> dict[str, Any] | None:
        """The answer of this key, or None."""
        digest = self._digest_of(key)
        if digest in self._earlier:
            self._earlier.remove(digest)
            self.num_taken_over += 1
        return self._answers.get(digest)

    def put(self, key: JournalKey, value: Mapping[str, Any], *, about: str = "") -> None:
        """Keep an answer; it is on the disk when this returns.

        Args:
            key: What it depends on.
            value: The answer; JSON can hold it.
            about: For people who read the file: task and document.

        Raises:
            ResourceError: If it cannot be written. What was written before is kept.
        """
        digest = self._digest_of(key)
        self._write({"key": digest, "about": about, "value": dict(value)})
        self._answers[digest] = json.loads(json.dumps(dict(value)))
        self.num_written += 1

    def finish(self, *, remove: bool = False) -> None:
        """Note that the run is complete: other settings may use the folder from now on.

        Args:
            remove: Delete the answers; they stand in the run's results.
        """
        self.close()
        # A run is complete without its journal: no reason to fail now.
        with contextlib.suppress(OSError):
            if remove:
                for path in self._place.glob("*.jsonl"):
                    path.unlink(missing_ok=True)
                (self._place / _FINISHED).unlink(missing_ok=True)
                self._place.rmdir()
                self.folder.rmdir()
            else:
                (self._place / _FINISHED).touch()

    def close(self) -> None:
        """Stop writing. A file without answers is not kept."""
        if self._descriptor is None:
            return
        self._descriptor = None
        if self._end is not None:
            self._end()
        if self.num_written == 0 and self._own is not None:
            with contextlib.suppress(OSError):
                self._own.unlink(missing_ok=True)

    def _digest_of(self, key: JournalKey) -> str:
        # With the settings, so that lines that strayed here from another journal fit no question.
        return _digest({"settings": self._place.name, "key": dict(key)})

    def _start_file(self) -> None:
        host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]
        header = {"journal": _FORMAT, "host": socket.gethostname(), "pid": os.getpid()}
        for number in range(10_000):
            path = self._place / f"{host}-{os.getpid()}-{number}.jsonl"
            try:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                continue
            except OSError as error:
                raise unwritable(self.folder, "journal", error) from error
            break
        self._own = path
        assert self._descriptor is not None
        self._end = weakref.finalize(self, os.close, self._descriptor)
        self._write(header | {"settings": self.settings})

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._descriptor is None:
            raise ValueError("The journal is closed.")
        line = _line(record)
        size = 0
        try:
            size = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        except OSError as error:
            # Half a line must not stay: if this fails too, the next reader leaves it out.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
                os.lseek(self._descriptor, size, os.SEEK_SET)
            raise ResourceError(
                f"The journal {self._own} cannot be written: {error.strerror}. The answers up to "
                "here are kept; make room and run the same command again."
            ) from error

    def _read(self) -> None:
        for path in sorted(self._place.glob("*.jsonl")):
            found = _read_file(path)
            if found.settings == self.settings:
                for key, value in found.answers.items():
                    self._answers.setdefault(key, value)
        self._earlier.update(self._answers)

    def _others(self) -> Iterator[tuple[Path, str]]:
        """Unfinished journals that this run cannot go on with, and what each holds."""
        for place in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            if (place / _FINISHED).exists() or "." in place.name:
                continue
            files = [_read_file(path) for path in sorted(place.glob("*.jsonl"))]
            stated = [each.stated_format for each in files
                      if each.stated_format not in (None, _FORMAT)]  # fmt: skip
            full = [each for each in files if each.settings is not None and each.answers]
            told = ""
            if stated:
                told = (
                    f"is a journal in format {stated[0]}, of another release of longva-eval; "
                    f"this one reads format {_FORMAT}. Run it to its end with its own release"
                )
            elif full and place != self._place:
                differ = settings_difference(full[-1].settings or {}, self.settings)
                told = (
                    f"holds {sum(len(each.answers) for each in full)} answers of an unfinished run "
                    f"with other settings: {differ}. Run it to its end with its own settings"
                )
            if told:
                yield place, told

    def _refuse_others(self) -> None:
        for place, told in self._others():
            raise SettingsError(
                f"{place} {told}, choose another folder, or start over with fresh=true in "
                "--model_args (longva-eval: --fresh), which sets it aside."
            )

    def _set_aside(self) -> None:
        for place in dict.fromkeys([self._place, *(place for place, _ in self._others())]):
            try:
                number = set_aside(place)
            except OSError as error:
                raise unwritable(self.folder, "journal", error) from error
            if number:
                logger.info(
                    "Starting over: earlier answers were set aside in {}", f"{place}{number}"
                )


def journal_settings(description: Mapping[str, Any]) -> dict[str, Any]:
    """What of a session's description can move a number; from `Session.describe`.

    Left out are where the checkpoint lies (its weights have a fingerprint), which of several equal
    devices computed, and whether prefixes were shared, which changes nothing.
    """
    kept = {name: value for name, value in description.items() if name not in _OWN_RUN}
    kept["device"] = str(description.get("device", "")).partition(":")[0]
    return kept


def settings_difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Where two groups of settings differ, in words."""
    one, two = dict(_flat(there)), dict(_flat(now))
    differing = [
        f"{name} is {_short(one.get(name, 'not set'))} there and {_short(two.get(name, 'not set'))}"
        " now"
        for name in sorted(one.keys() | two.keys())
        if name not in one or name not in two or one[name] != two[name]
    ]
    if len(differing) > 6:
        return "; ".join(differing[:6]) + f"; and {len(differing) - 6} more"
    return "; ".join(differing) or "nothing"


class UnfinishedRun(NamedTuple):
    """What a journal holds of a run that is not complete."""

    folder: Path
    """Of the journal."""
    settings: dict[str, Any]
    answers: list[tuple[str, dict[str, Any]]]
    """What each is about (task and document, where it was said) and its value, as they came."""
    is_running: bool
    """Whether a process that writes it may be alive."""
    written: float
    """When it was last written to, in seconds since 1970."""


def unfinished_runs(folder: Path) -> list[UnfinishedRun]:
    """Journals of incomplete runs below a folder. Nothing is changed: they may be written to."""
    found = []
    places = {path.parent for path in folder.rglob("*.jsonl")}
    for place in sorted(place for place in places if re.fullmatch(r"[0-9a-f]{32}", place.name)):
        if (place / _FINISHED).exists():
            continue
        settings: dict[str, Any] = {}
        answers, running, written = [], False, 0.0
        for path in sorted(place.glob("*.jsonl")):
            try:
                header, *lines = map(_parse, path.read_bytes().split(b"\n")[:-1])
                written = max(written, path.stat().st_mtime)
            except (OSError, ValueError):  # gone meanwhile, or without its first line
                continue
            if header is not None and header.get("journal") == _FORMAT:
                settings = header.get("settings") or settings
                running = running or _is_running(path)
                answers += [
                    (str(line.get("about", "")), value)
                    for line in lines
                    if line is not None and isinstance(value := line.get("value"), dict)
                ]
        if settings:
            found.append(UnfinishedRun(place.parent, settings, answers, running, written))
    return found


class _File(NamedTuple):
    """What one file of a journal says; None for what it does not."""

    stated_format: Any
    settings: dict[str, Any] | None
    answers: dict[str, dict[str, Any]]


def _read_file(path: Path) -> _File:
    """A file of a journal.

    A line that is cut off or damaged is left out with a notice, never used.
    """
    try:
        data = path.read_bytes() if path.is_file() else b""  # of a pipe it would wait for ever
    except OSError as error:
        logger.warning("The journal {} cannot be read ({}); it is left out.", path, error.strerror)
        return _File(None, None, {})
    lines = data.split(b"\n")
    torn = lines.pop()  # a complete file ends with a line break
    header = (_parse(lines[0]) if lines else None) or {}
    stated = header.get("journal")
    settings = header.get("settings") if stated == _FORMAT else None
    if not isinstance(settings, dict):
        if data and stated in (None, _FORMAT) and not _is_running(path):
            logger.warning("The journal {} has no readable first line; it is left out.", path)
        return _File(stated, None, {})
    answers: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines[1:], start=2):
        record = _parse(line)
        key, value = (record or {}).get("key"), (record or {}).get("value")
        if not isinstance(key, str) or not isinstance(value, dict):
            logger.warning(
                "Line {} of the journal {} is damaged; its answer is computed again.", number, path
            )
            continue
        answers.setdefault(key, value)
    if torn and not _is_running(path):
        logger.warning(
            "The last line of the journal {} was cut off after {} bytes; it is removed, and its "
            "answer computed again.", path, len(torn),
        )  # fmt: skip
        with contextlib.suppress(OSError):
            os.truncate(path, len(data) - len(torn))
    return _File(stated, settings, answers)


def _is_running(path: Path) -> bool:
    """Whether the process that writes a file may be alive: on another machine it may."""
    host, _, rest = path.stem.rpartition("-")[0].rpartition("-")
    here = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]
    if host != here or not rest.isdigit():
        return host != here
    if int(rest) == os.getpid():
        return True
    try:
        os.kill(int(rest), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _line(record: Mapping[str, Any]) -> bytes:
    payload = _canonical(record)
    return f'{{"crc":"{zlib.crc32(payload.encode()):08x}",{payload[1:]}\n'.encode()


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line, if its checksum holds."""
    start = b'{"crc":"'
    crc, payload = line[len(start) : len(start) + 8], b"{" + line[len(start) + 10 :]
    if not line.startswith(start) or line[len(start) + 8 : len(start) + 10] != b'",':
        return None
    if crc != f"{zlib.crc32(payload):08x}".encode():
        return None
    try:
        record = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:32]


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [
            item
            for key, part in value.items()
            for item in _flat(part, f"{name}.{key}" if name else str(key))
        ]
    return [(name, value)]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
