"""How long the commands that only read files take, from the shell's return key to the last line.

    python benchmarks/startup.py [--rounds 5] [--questions 2700]

Wall time on a quiet machine is what a user waits; processor time is shown beside it because other
programs inflate it less. The full-size runs are drawn: 2,700 questions on 900 videos with 128
frames each, 7 MB of samples, as Video-MME has. Last comes what lmms-eval reads whenever it starts,
the YAML of its tasks, with PyYAML's own reader and with libyaml, which our patch gives it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from harness import interleave, machine, say_ratio

RUNS = Path(__file__).parent.parent / "tests" / "data" / "runs"
COMMAND = Path(sys.executable).with_name("longva-eval")


def full_size_run(folder: Path, accuracy: float, questions: int) -> Path:
    """A run as large as Video-MME's, made of the lines of a small one."""
    (results,) = (RUNS / "mini_32").glob("*_results.json")
    (samples,) = (RUNS / "mini_32").glob("*.jsonl")
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    data = json.loads(results.read_text(encoding="utf-8"))
    data["n-samples"] = {
        name: {"original": questions, "effective": questions} for name in data["n-samples"]
    }
    folder.mkdir(parents=True)
    (folder / results.name).write_text(json.dumps(data), encoding="utf-8")
    rng = random.Random(accuracy)
    with (folder / samples.name).open("w", encoding="utf-8") as file:
        for number in range(questions):
            line = json.loads(json.dumps(lines[number % len(lines)]))
            record, (video,) = line["longva_videomme_score"], line["longva_eval"]["videos"]
            right = rng.random() < accuracy
            line["doc_id"] = number
            record |= {
                "question_id": f"{number // 3:03d}-{number % 3 + 1}",
                "cluster": f"v{number // 3}",
                "score": float(right),
                "outcome": "right" if right else "wrong",
            }
            record["categories"]["duration"] = ["short", "medium", "long"][3 * number // questions]
            video["frame_indices"] = [30 * frame for frame in range(128)]
            video["timestamps_seconds"] = [1.5 * frame for frame in range(128)]
            file.write(json.dumps(line) + "\n")
    return folder


def measure(arguments: list[str], rounds: int) -> tuple[float, float]:
    """Median wall and processor seconds of a command."""
    wall, processor = [], []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        subprocess.run([COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL)
        wall.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(wall), statistics.median(processor)


def compare_readers(rounds: int) -> None:
    """Read the task files of lmms-eval with PyYAML and with libyaml, in turns."""
    spec = importlib.util.find_spec("lmms_eval")
    assert spec is not None
    assert spec.origin is not None
    texts = [path.read_bytes() for path in (Path(spec.origin).parent / "tasks").rglob("*.yaml")]

    def read(base: type) -> None:
        loader: Any = type("Loader", (base,), {})
        loader.add_constructor("!function", lambda _, node: node.value)
        for text in texts:
            yaml.load(text, Loader=loader)

    print(f"\nThe {len(texts):,} task files of lmms-eval, processor seconds:")
    ways = {
        "PyYAML": lambda: read(yaml.FullLoader),
        "libyaml": lambda: read(yaml.CFullLoader),
    }
    seconds, _ = interleave(ways, rounds=rounds)
    say_ratio("PyYAML beside libyaml", seconds["PyYAML"], seconds["libyaml"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=2700, help="of the full-size runs")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        big = [
            str(full_size_run(folder / name, p, options.questions))
            for name, p in (("a", 0.52), ("b", 0.55))
        ]
        small = [str(RUNS / name) for name in ("mini_8", "mini_32")]
        commands = {
            "--help": ["--help"],
            "compare --published Video-MME": ["compare", "--published", "Video-MME"],
            "show, 54 questions": ["show", small[0]],
            "compare, two runs of 54": ["compare", *small, "--baseline", small[0]],
            f"show, {options.questions:,} questions": ["show", big[0]],
            f"compare, two runs of {options.questions:,}": [
                "compare", *big, "--baseline", big[0], "--published", "Video-MME",
            ],
        }  # fmt: skip
        print("| command | wall, s | processor, s |\n|---|---|---|")
        for name, arguments in commands.items():
            wall, processor = measure(arguments, options.rounds)
            print(f"| {name} | {wall:.2f} | {processor:.2f} |", flush=True)
        compare_readers(options.rounds)
        print(f"\nwanted: compare under 1.5 s. Load {os.getloadavg()[0]:.1f}; {machine()}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
