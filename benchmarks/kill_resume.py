"""Kill a run at random moments, resume it each time, and compare its files with a whole run's.

    python benchmarks/kill_resume.py [--kills 20] [--processes 1 2] [--videos 10] [--seed 1]

Two small tasks (benchmarks/small_task.py) on the embedded model: generated answers and
likelihoods. Each attempt takes over what is there, opens the journal, computes as many answers more
as a random number says, and gets SIGKILL, with all its processes, a random moment later: while a
video is decoded, an answer computed, a line written, results saved. Every answer may stand in the
journal once: what was computed twice would be there twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_task import (
    comparable,
    differences,
    result_files,
    run_command,
    run_environment,
    write_tasks,
)

__all__ = ["Killing", "kill_and_resume"]


def _start(command: Sequence[str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            command, env=run_environment(folder), cwd=folder, stdout=file, stderr=file
        )


@dataclass(frozen=True, kw_only=True)
class Killing:
    """How a run fared that was killed again and again."""

    processes: int
    answers: int
    """Asked for."""
    kept_at_kills: list[int]
    """Answers in the journal at each kill."""
    kills_after_results: int
    """Kills that came so late that the results were there."""
    computed_twice: int
    differing: list[str]
    """Parts of the files that are not those of the whole run."""
    seconds: float


def kill_and_resume(
    folder: Path,
    *,
    kills: int,
    processes: int,
    videos: int,
    seed: int = 1,
    last_processes: int | None = None,
    start: Callable[[Sequence[str], Path, Path], Any] = _start,
) -> Killing:
    """Run once undisturbed and once with kills; compare.

    Args:
        folder: For tasks, videos and results; a whole run that is there is used again.
        kills: How often.
        processes: That share the killed run.
        videos: Three questions each.
        seed: Of the moments.
        last_processes: That share the last attempt, which is left alone; if not as many.
        start: Starts a command in a folder, its output added to a file; as `subprocess.Popen`.

    Raises:
        RuntimeError: If a run that was left alone fails.
    """
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    rows = write_tasks(folder / "tasks", num_videos=videos)
    answers = len(rows) * 5  # one generated, four likelihoods
    whole = folder / "whole"
    if not result_files(whole):
        _run_to_the_end(start, folder, whole, 1)
    killed = folder / f"killed{processes}"
    kept: list[int] = []
    late = 0
    for left in range(kills, 0, -1):
        # So that the last ones come while results are written.
        share = (answers - _journal_lines(killed)[0]) / left
        wanted, delay = rng.randint(0, round(2 * share)), rng.random() * 0.2
        _run_until(start, folder, killed, processes, wanted, delay)
        kept.append(_journal_lines(killed)[0])
        late += bool(result_files(killed))
    _run_to_the_end(start, folder, killed, last_processes or processes)
    lines, distinct = _journal_lines(killed)
    return Killing(
        processes=processes,
        answers=answers,
        kept_at_kills=kept,
        kills_after_results=late,
        computed_twice=lines - distinct,
        differing=differences(comparable(whole), comparable(killed)),
        seconds=time.monotonic() - began,
    )


def _run_to_the_end(start: Callable[..., Any], folder: Path, output: Path, processes: int) -> None:
    log = folder / f"{output.name}.log"
    run = start(run_command(folder / "tasks", output, processes=processes), folder, log)
    if run.wait(timeout=1800) != 0:
        raise RuntimeError(f"The run failed:\n{log.read_text(encoding='utf-8')[-6000:]}")


def _run_until(
    start: Callable[..., Any], folder: Path, output: Path, processes: int, answers: int,
    delay: float,
) -> None:  # fmt: skip
    """Start a run and kill it, with all its processes, once it has added so many answers."""
    before, files = _journal_lines(output)[0], len(_journal_files(output))
    command = run_command(folder / "tasks", output, processes=processes)
    run = start(command, folder, folder / "killed.log")
    while run.poll() is None and (
        len(_journal_files(output)) < files + processes
        or _journal_lines(output)[0] < before + answers
    ):
        time.sleep(0.005)
    time.sleep(delay)
    for pid in {run.pid} | _descendants(run.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.wait()


def _descendants(pid: int) -> set[int]:
    """Processes that a process has started, and those that they started; on Linux."""
    found: set[int] = set()
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {
            int(child)
            for task in tasks
            for child in (task / "children").read_text(encoding="ascii").split()
        }
    except (OSError, ValueError):
        return found
    for child in children:
        found |= {child} | _descendants(child)
    return found


def _journal_files(output: Path) -> list[Path]:
    return list(output.glob("*/journal/*/*.jsonl"))


def _journal_lines(output: Path) -> tuple[int, int]:
    """Answers in the journal, and how many different ones."""
    keys = []
    for path in _journal_files(output):
        for line in path.read_bytes().split(b"\n")[1:-1]:
            with contextlib.suppress(ValueError):
                keys.append(json.loads(line)["key"])
    return len(keys), len(set(keys))


def main() -> int:
    """Kill, resume, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--videos", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = [
            kill_and_resume(
                Path(name),
                kills=options.kills,
                processes=processes,
                videos=options.videos,
                seed=options.seed,
            )
            for processes in options.processes
        ]
    print("| processes | answers | kills | kept at the kills | computed twice | files |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        kept = ", ".join(map(str, row.kept_at_kills))
        files = "equal" if not row.differing else "differ in " + ", ".join(row.differing)
        print(
            f"| {row.processes} | {row.answers} | {len(row.kept_at_kills)} | {kept} | "
            f"{row.computed_twice} | {files} |"
        )
    for row in rows:
        print(
            f"{row.processes} processes: {row.seconds:.0f} s; "
            f"{row.kills_after_results} kills came after the results were written"
        )
    return int(any(row.differing or row.computed_twice for row in rows))


if __name__ == "__main__":
    sys.exit(main())
