"""Every script in benchmarks/ runs at its smallest size and takes the arguments that pages show."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import processes
import pytest
import torch
from conftest import TESTS

ROOT = TESTS.parent
FOLDER = ROOT / "benchmarks"
sys.path.insert(0, str(FOLDER))

HERE = {
    "branches": "--tiny",
    "coverage": "score pairs power frames --runs 1",
    "frame_sweep": "--tiny --rounds 1",
    "gpu": "--tiny",
    "needle_grid": "--tiny",
    "prefill": "--tiny --rounds 1",
    "questions": "--tiny --rounds 1",
}
"""Scripts that run in this process, and their arguments."""
STARTING = {
    "bit_flips": "--draws 1 --frames 8",
    "decode": "--tiny",
    "media_checks": "--tiny",
    "memory": "--videos 2",
    "page": "--questions 6 --rounds 1",
    "soak": "--videos 7 --kills 0",
    "startup": "--rounds 1 --questions 6",
    "sweep": "--task longva_mini_small --frames 2",
    "task_times": "--documents 1 --tasks longva_mini_small",
    "waiting": "--tiny",
    "whole_run": "--tiny --jobs videos",
}
"""Scripts that start others."""
FORKED = {"soak", "sweep", "task_times", "whole_run"}
"""Of these, whose processes begin with PyTorch loaded here."""
ELSEWHERE = {
    "kill_resume": "tests/running/test_processes.py",
}
"""Scripts that other tests run."""


def script(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture(autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run_here(code: str, *arguments: str) -> dict[str, Any]:
    """As `harness.run_fresh`, without a process of its own."""
    said, before = io.StringIO(), sys.argv
    sys.argv = ["-c", *arguments]
    try:
        with contextlib.redirect_stdout(said):
            exec(code, {})
    finally:
        sys.argv = before
    found: dict[str, Any] = json.loads(said.getvalue().splitlines()[-1])
    return found


def run_forked(
    command: Sequence[str],
    *,
    env: dict[str, str],
    stdout: Any = None,
    cwd: Path | None = None,
    **_: object,
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run`, with `stdout` and `stderr` in one file if one is given."""
    done = processes.run(command, env=env, cwd=cwd)
    if stdout is not None:
        stdout.write(done.stdout + done.stderr)
    return done


def run(name: str, arguments: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(folder)
    if name in FORKED:
        monkeypatch.setattr(
            script(name), "subprocess", SimpleNamespace(run=run_forked, STDOUT=subprocess.STDOUT)
        )
        # What another's children used is not known here; seconds by the clock are.
        monkeypatch.setattr(
            script(name),
            "resource",
            SimpleNamespace(
                RUSAGE_CHILDREN=resource.RUSAGE_CHILDREN,
                getrusage=lambda _: SimpleNamespace(ru_utime=time.monotonic(), ru_stime=0.0),
            ),
            raising=False,
        )
    if name in ("decode", "prefill"):
        monkeypatch.setattr(script(name), "run_fresh", run_here)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments.split()])
    assert not script(name).main()  # None, or the exit status


@pytest.mark.slow
@pytest.mark.parametrize("name", HERE)
def test_it_runs_at_its_smallest_size(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(name, HERE[name], monkeypatch, tmp_path)


@pytest.mark.process
@pytest.mark.parametrize("name", STARTING)
def test_it_runs_with_its_processes_at_its_smallest_size(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(name, STARTING[name], monkeypatch, tmp_path)


def test_no_script_is_left_out() -> None:
    scripts = {path.stem for path in FOLDER.glob("*.py") if "\ndef main(" in path.read_text()}
    assert scripts == {*HERE, *STARTING, *ELSEWHERE}


class ParsedError(Exception):
    """The arguments were understood."""


def shown() -> list[tuple[str, str]]:
    """Scripts and arguments, as pages show them."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    return sorted(set(re.findall(r"python benchmarks/(\w+)\.py([^`\n#]*)", text)))


@pytest.mark.parametrize(("name", "arguments"), shown())
def test_arguments_on_pages_are_understood(
    name: str, arguments: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser) -> None:
        parse(parser)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments.split()])
    with pytest.raises(ParsedError):
        script(name).main()
