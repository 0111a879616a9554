"""Tests in several processes that are forked once everything is imported and collected.

Importing PyTorch, transformers and lmms-eval takes as long as half of the quick tests; processes of
pytest-xdist import them once each. Here the processes share them, take whole files from one queue,
and hand their reports to the first, which shows them.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import traceback
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import IO

import pytest

__all__ = ["Forks"]


class Forks:
    """A plugin that runs what was collected, in as many processes as there are cores."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        config = session.config
        if config.option.collectonly or session.testsfailed:
            return None
        files = [list(items) for _, items in groupby(session.items, lambda item: item.path)]
        files.sort(key=len, reverse=True)
        config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # one for all
        queue, end = os.pipe()
        os.write(end, b"".join(place.to_bytes(2, "big") for place in range(len(files))))
        os.close(end)
        others: list[tuple[int, IO[bytes]]] = []
        for _ in range(min(os.cpu_count() or 1, len(files)) - 1):
            written = tempfile.TemporaryFile()  # noqa: SIM115
            pid = os.fork()
            if pid == 0:
                _be_another(session, _taken(queue, files), written)
            others.append((pid, written))
        _run(session, _taken(queue, files))
        for pid, written in others:
            report = None
            _, status = os.waitpid(pid, 0)
            with written:
                written.seek(0)
                size = os.fstat(written.fileno()).st_size
                while written.tell() < size:
                    report = config.hook.pytest_report_from_serializable(
                        config=config, data=pickle.load(written)
                    )
                    config.hook.pytest_runtest_logreport(report=report)
            if status:
                raise RuntimeError(f"A process of the tests ended with {status}, after {report}.")
        return True


class _Writer:
    def __init__(self, config: pytest.Config, file: IO[bytes]) -> None:
        self.config, self.file = config, file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        pickle.dump(found, self.file)
        self.file.flush()


def _taken(queue: int, files: list[list[pytest.Item]]) -> Iterator[pytest.Item]:
    """Tests of the files that this process takes from the queue."""
    while place := os.read(queue, 2):
        yield from files[int.from_bytes(place, "big")]


def _run(session: pytest.Session, items: Iterator[pytest.Item]) -> None:
    item = next(items, None)
    while item is not None and not (session.shouldstop or session.shouldfail):
        after = next(items, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        item = after


def _be_another(session: pytest.Session, items: Iterator[pytest.Item], written: IO[bytes]) -> None:
    """Run tests in a forked process, to its end."""
    status = 1
    try:
        plugins = session.config.pluginmanager
        capture = plugins.get_plugin("capturemanager")
        assert capture is not None
        capture.stop_global_capturing()  # its files are the first process's
        capture.start_global_capturing()
        capture.suspend_global_capture()
        shown = session.config.get_terminal_writer()
        shown._file = Path(os.devnull).open("w")  # noqa: SIM115
        plugins.register(_Writer(session.config, written))
        _run(session, items)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
