"""Measuring A against B fairly on a noisy machine.

Rounds are interleaved (A B, then B A, ...), so that a slow minute hits both. Time is processor
time, which other programs on the machine inflate little; ratios are of medians. Every script says
what it ran on.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["interleave", "machine", "measure_here", "peak_bytes", "run_fresh", "say_ratio"]


def machine() -> str:
    """Processor, cores and versions, in a line."""
    import torch
    import transformers

    name = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            name = next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        pass
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{name}, {os.cpu_count()} cores, {device}; torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}; "
        f"{time.strftime('%Y-%m-%d')}; load {os.getloadavg()[0]:.1f}"
    )


def measure_here(function: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of a call in this process, and its result."""
    began = time.process_time()
    result = function()
    return time.process_time() - began, result


def interleave(
    ways: Mapping[str, Callable[[], Any]], *, rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each way in each round, and the result of its last call."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for number in range(rounds):
        names = list(ways) if number % 2 == 0 else list(ways)[::-1]
        for name in names:
            took, results[name] = measure_here(ways[name])
            seconds[name].append(took)
            print(f"  round {number + 1}: {name:<34} {took:9.2f} s", flush=True)
    return seconds, results


def say_ratio(
    what: str, slow: Sequence[float], fast: Sequence[float], *, wanted: str = ""
) -> float:
    """Print and return the ratio of medians."""
    ratio = statistics.median(slow) / statistics.median(fast)
    spread = f"{min(slow) / max(fast):.2f} to {max(slow) / min(fast):.2f}"
    print(f"{what}: {ratio:.2f} ({spread}){'   wanted: ' + wanted if wanted else ''}", flush=True)
    return ratio


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_fresh(code: str, *arguments: str) -> dict[str, Any]:
    """Run code in a new interpreter; it prints one JSON object last."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
