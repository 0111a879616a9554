"""Runs of made-up models in the format of lmms-eval 0.7.3, of the host's tasks and others.

The fields are those of real results and samples files (tests/data/runs/host).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def videomme_line(
    number: int, said: str, right: str, *, metric: str = "videomme_perception_score", **more: Any
) -> Line:
    """A line of the host's videomme: three questions a video, 300 videos a duration."""
    video = number // 3
    record = {
        "question_id": f"{video + 1:03}-{number % 3 + 1}",
        "duration": ("short", "medium", "long")[video * 3 // 900 if video < 900 else 2],
        "category": "Sports Competition",
        "sub_category": "Basketball",
        "task_category": "Attribute Perception",
        "pred_answer": said,
        "answer": right,
        "score": float(said == right),
        "videoID": f"video-{video:03}",
        **more,
    }
    return {
        "doc_id": number,
        "target": right,
        "filtered_resps": said,
        "token_counts": [None],
        "doc_hash": "0" * 64,
        metric: record,
        "input": f"What happens in {number}?\nA. one\nB. two\nC. three\nD. four\nAnswer:",
    }


def number_line(number: int, metric: str, value: Any, **more: Any) -> Line:
    """A line of a task whose metric is a number, of one video each."""
    return {
        "doc_id": number,
        "target": f"text {number}",
        "filtered_resps": f"said {number}",
        metric: value,
        "input": f"Question {number}",
        "input_media": [f"clip-{number}.mp4"],
        **more,
    }


def write_host_run(
    folder: Path,
    tasks: Mapping[str, Sequence[Line]],
    *,
    results: Mapping[str, Mapping[str, float]],
    model: str = "qwen2_5_vl",
    pretrained: str = "Qwen/Qwen2.5-VL-7B-Instruct",
    higher: Mapping[str, bool] | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    num_fewshot: int = 0,
    date: str = "20261101_120000",
    change: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Write the files of a run. Returns its folder.

    Args:
        folder: For them.
        tasks: Lines of the samples.
        results: By task the metrics as the host writes them, such as `{"acc,none": 50.0}`.
        model: Of the host.
        pretrained: Its argument.
        higher: By metric whether more is better; all if None.
        config: More of every task's configuration.
        seed: The host's first.
        num_fewshot: Examples in the prompt.
        date: In the files' names.
        change: Changes the results file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    better = dict(higher or {})
    data: dict[str, Any] = {
        "results": {task: {"alias": task, **metrics} for task, metrics in results.items()},
        "group_subtasks": {task: [] for task in results},
        "configs": {
            task: {"task": task, "repeats": 1, "score_key": "score", "cluster_key": "videoID",
                   "generation_kwargs": {"temperature": 0.0, "do_sample": False}, **(config or {})}
            for task in tasks
        },
        "versions": dict.fromkeys(results, "0.0"),
        "n-shot": dict.fromkeys(tasks, num_fewshot),
        "higher_is_better": {
            task: {key.split(",")[0]: better.get(key.split(",")[0], True) for key in metrics}
            for task, metrics in results.items()
        },
        "n-samples": {
            task: {"original": len({line["doc_id"] for line in lines}),
                   "effective": len({line["doc_id"] for line in lines})}
            for task, lines in tasks.items()
        },
        "config": {
            "model": model, "model_args": f"pretrained={pretrained},max_num_frames=32",
            "limit": None, "offset": 0, "gen_kwargs": "", "random_seed": seed, "numpy_seed": seed,
            "torch_seed": seed, "fewshot_seed": 1234,
        },
        "lmms_eval_version": "0.7.3",
        "date": date,
        "model_name_sanitized": folder.name,
    }  # fmt: skip
    if change is not None:
        change(data)
    (folder / f"{date}_results.json").write_text(json.dumps(data), encoding="utf-8")
    for task, lines in tasks.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{date}_samples_{task}.jsonl").write_text(text, encoding="utf-8")
    return folder
