"""Two small lmms-eval tasks over generated videos, to run, kill, break and resume.

`small_generate` asks for a letter; `small_choice` compares the likelihoods of the letters. Three
questions a video, 32 frames of 64 pixels each, so that the embedded model answers one in well under
a second on a CPU.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longva_eval.tasks.mini.mini_benchmark import (
    FRAME_RATE,
    FRAME_SIDE,
    benchmark_rows,
    encode_video,
    plan_videos,
    video_frames,
)

__all__ = [
    "comparable",
    "differences",
    "result_files",
    "run_command",
    "run_environment",
    "write_tasks",
]

_SHARED = """dataset_path: json
dataset_kwargs:
  data_files:
    test: rows.jsonl
test_split: test
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
metadata:
  version: 1.0
"""
_GENERATE = f"""task: small_generate
{_SHARED}output_type: generate_until
doc_to_target: answer
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: 4
cluster_key: cluster
score_key: score
metric_list:
  - metric: small_accuracy
    aggregation: !function utils.mean
    higher_is_better: true
"""
_CHOICE = f"""task: small_choice
{_SHARED}output_type: multiple_choice
doc_to_target: !function utils.target
doc_to_choice: ["A", "B", "C", "D"]
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
_UTILS = '''"""Small questions."""

from longva_eval.questions.outcomes import choice_record, mean_score
from longva_eval.tasks.videomme.videomme import TASK


def doc_to_visual(doc):
    return [doc["path"]]


def doc_to_text(doc):
    return TASK.doc_to_text(doc)


def target(doc):
    return "ABCD".index(doc["answer"])


def process_results(doc, results):
    return {
        "small_accuracy": choice_record(
            results[0],
            options=doc["options"],
            answer=doc["answer"],
            question_id=doc["question_id"],
            cluster=doc["videoID"],
        )
    }


def mean(records):
    return mean_score(records)
'''


def write_tasks(
    folder: Path, *, num_videos: int = 6, seed: int = 1, side: int = FRAME_SIDE, mixed: bool = False
) -> list[dict[str, Any]]:
    """Write both tasks and their videos into a folder, for `--include_path`.

    Args:
        folder: Made if it is not there.
        num_videos: Three questions each.
        seed: Of what the videos show.
        side: Width and height of a frame, in pixels.
        mixed: Whether videos are of three durations, 16 to 256 s, not only short.

    Returns:
        The questions; `path` is the video of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Of three durations; the short ones come first.
    each = -(-num_videos // 3) if mixed else num_videos
    videos = plan_videos(seed, videos_per_duration=each)[:num_videos]
    rows: list[dict[str, Any]] = []
    for row in benchmark_rows(videos):
        rows.append({**row, "path": str(folder / f"{row['videoID']}.mp4")})
    for video in videos:
        path = folder / f"{video.name}.mp4"
        if not path.exists():
            encode_video(path, video_frames(video, side=side), frame_rate=FRAME_RATE)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name, text in {
        "rows.jsonl": lines,
        "utils.py": _UTILS,
        "small_generate.yaml": _GENERATE,
        "small_choice.yaml": _CHOICE,
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    return rows


def run_command(
    tasks: Path,
    output: Path,
    *,
    names: Sequence[str] = ("small_generate", "small_choice"),
    processes: int = 1,
    model_args: str = "",
    more: Sequence[str] = (),
    program: Sequence[str] = ("longva_eval", "run"),
) -> list[str]:
    """The command that runs the tasks, with the embedded model on the CPU."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
        start += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--max-restarts=0"]
    return [
        *start, "-m", *program, "--model", "longva",
        "--model_args", "pretrained=longva-tiny,device=cpu,max_frames_num=8" + model_args,
        "--include_path", str(tasks), "--tasks", ",".join(names),
        "--output_path", str(output), "--log_samples", *more,
    ]  # fmt: skip


def run_environment(home: Path) -> dict[str, str]:
    """The environment of such a run: offline, and caches of its own."""
    return os.environ | {
        "HF_HOME": str(home / "hf"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }


def result_files(output: Path) -> list[Path]:
    """The results file and the samples files of the last run that wrote some."""
    results = sorted(output.rglob("*_results.json"))
    if not results:
        return []
    date = results[-1].name.removesuffix("_results.json")
    return [results[-1], *sorted(results[-1].parent.glob(f"{date}_samples_*.jsonl"))]


_OF_THE_MOMENT = {
    "date", "start_time", "end_time", "total_evaluation_time_seconds", "task_hashes",
    "config", "git_hash", "git_branch", "lmms_eval_version", "throughput",
}  # fmt: skip
"""Of a results file: when it was made, and with which command line."""


def comparable(output: Path) -> dict[str, Any]:
    """All that the files of a run say, without times and what the run itself did.

    The recipe's `engine` and `journal` say how much was computed and how much taken over; the
    path of the output is another in each run.
    """
    files = result_files(output)
    if not files:
        raise FileNotFoundError(f"{output} has no results file.")
    # lmms-eval writes functions with their addresses.
    text = re.sub(r" at 0x[0-9a-f]+>", ">", files[0].read_text(encoding="utf-8"))
    results = json.loads(text)
    found: dict[str, Any] = {
        name: value for name, value in results.items() if name not in _OF_THE_MOMENT
    }
    found["longva_eval"] = {
        name: value
        for name, value in results["longva_eval"].items()
        if name not in ("engine", "journal")
    }
    for path in files[1:]:
        name = path.name.split("_samples_")[1]
        found[name] = path.read_text(encoding="utf-8").splitlines()
    return found


def differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """Names of what differs between two runs."""
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
