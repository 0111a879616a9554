"""A study against the same points as separate runs of lmms-eval.

    python benchmarks/sweep.py [--task longva_mini] [--frames 4,8,16,32,64,128] [--rounds 1]

The embedded model on the CPU, one thread. Processor time of all processes, start-up included;
frames encoded and videos opened as each run's recipe counts them; answers of both ways compared.
The videos are drawn before the clock runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import machine, say_ratio

ARGUMENTS = "device=cpu,dtype=float32"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="longva_mini")
    parser.add_argument("--frames", default="4,8,16,32,64,128")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    frames = [int(count) for count in options.frames.split(",")]
    print(machine())
    seconds: dict[str, list[float]] = {"separate runs": [], "one sweep": []}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        run(home, host_command(options.task, 1, home / "warm", limit=1))  # draws the videos
        for number in range(options.rounds):
            apart, together = home / f"apart{number}", home / f"together{number}"
            spent = [
                run(home, host_command(options.task, count, apart / f"{count}")) for count in frames
            ]
            cpu, wall = sum(one for one, _ in spent), sum(other for _, other in spent)
            seconds["separate runs"].append(cpu)
            say("separate runs", cpu, wall, results_of(apart))
            cpu, wall = run(home, sweep_command(options.task, options.frames, together))
            seconds["one sweep"].append(cpu)
            say("one sweep", cpu, wall, results_of(together / "points"))
            one, other = answers_of(apart), answers_of(together / "points")
            same = sum(other[key] == one[key] for key in one)
            print(f"equal answers: {same:,} of {len(one):,} ({len(other):,} in the sweep)")
    say_ratio("separate / sweep, CPU time", seconds["separate runs"], seconds["one sweep"])


def host_command(task: str, frames: int, output: Path, *, limit: int = 0) -> list[str]:
    """A point as a run by itself."""
    command = [
        sys.executable, "-m", "lmms_eval", "--model", "longva", "--model_args",
        f"pretrained=longva-tiny,{ARGUMENTS},max_frames_num={frames}", "--tasks", task,
        "--output_path", str(output), "--log_samples",
    ]  # fmt: skip
    return command + (["--limit", str(limit)] if limit else [])


def sweep_command(task: str, frames: str, output: Path) -> list[str]:
    """All points together."""
    return [
        sys.executable, "-m", "longva_eval", "sweep", "--pretrained", "longva-tiny", "--tasks",
        task, "--frames", frames, "--model-args", ARGUMENTS, "--out", str(output),
    ]  # fmt: skip


def run(home: Path, command: Sequence[str]) -> tuple[float, float]:
    """Run a command. Returns processor and wall seconds of it and what it started."""
    environment = os.environ | {
        "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall


def results_of(folder: Path) -> list[dict[str, Any]]:
    """The results files below a folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("*_results.json"))]


def answers_of(folder: Path) -> dict[tuple[int, int], str]:
    """Frames and document -> what was said."""
    found = {}
    for path in folder.rglob("*_samples_*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            frames = sample["longva_eval"]["frames_asked"]
            found[frames, sample["doc_id"]] = str(sample["filtered_resps"])
    return found


def say(what: str, cpu: float, wall: float, results: Sequence[dict[str, Any]]) -> None:
    """Print a way's work."""
    engines = [found["longva_eval"]["engine"] for found in results]
    total = {name: sum(engine[name] for engine in engines) for name in
             ("media_read", "frames_encoded", "tokens_asked", "tokens_computed")}  # fmt: skip
    print(
        f"  {what:<14} {cpu:7.1f} s CPU, {wall:7.1f} s; videos opened {total['media_read']:,}, "
        f"frames encoded {total['frames_encoded']:,}, tokens computed "
        f"{total['tokens_computed']:,} of {total['tokens_asked']:,} asked",
        flush=True,
    )


if __name__ == "__main__":
    main()
