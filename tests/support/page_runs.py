"""Runs as lmms-eval 0.7.3 writes them, drawn for the tests and the benchmark of the page.

The fields were taken from results and samples files of real runs of `longva_mini`; no model is
needed here, since the page reads files only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from longva_eval import embedded
from longva_eval.media.probe import probe_video
from longva_eval.questions.outcomes import FAILED, choice_record
from longva_eval.reports.page.film import picture_file_digest

DATE = "20261101_120000"
HOSTILE = (
    "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='x'\">"
    "' \" & \u202egnp.exe\u202c \u05e9\u05dc\u05d5\u05dd \U0001f600 \u2028\u2029 \x00\x07 \ud800 "
    "]]> <!-- {{7*7}}"
)


def sample(
    number: int,
    *,
    text: str,
    answer: str = "A",
    question: str = "What color is the flag?",
    options: Sequence[str] = ("red", "blue", "green", "white"),
    categories: Mapping[str, str] | None = None,
    video: Path | str | None = None,
    frames: Sequence[int] = (),
    num_frames_total: int | None = None,
    facts: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A line of a samples file: three questions a video."""
    place = number // 3
    record = choice_record(
        text, options=options, answer=answer, question_id=f"{place:03}-{number % 3 + 1}",
        cluster=f"video-{place:03}", question=question, categories=categories or {},
        media=[] if video is None else [str(video)], **more,
    )  # fmt: skip
    said: dict[str, Any] = dict(facts or {})
    if frames:
        said["videos"] = [
            {
                "num_frames_asked": len(frames),
                "num_frames_seen": len(frames),
                "num_frames_total": num_frames_total,
                "frame_indices": list(frames),
                "timestamps_seconds": [index / 2 for index in frames],
            }
        ]
        said.setdefault("num_prompt_tokens", 87 + 4 * len(frames))
    if text == FAILED:
        said |= {"outcome": "failed", "reason": "clip.mp4 is cut off: fetch it again."}
    return {
        "doc_id": number,
        "target": answer,
        "filtered_resps": text,
        "accuracy": record,
        "input": f"{question} Answer with the letter.",
        **({"longva_eval": said} if said else {}),
    }


def write_run(
    folder: Path,
    samples: Sequence[Mapping[str, Any]] | None,
    *,
    task: str = "longva_mini",
    model: str = "longva-tiny",
    frames: int = 8,
    limit: float | None = None,
    num_in_benchmark: int | None = None,
    score: float | None = None,
    num_asked: int | None = None,
    date: str = DATE,
) -> Path:
    """A results file, and a samples file if there are samples. Returns the results file."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(samples or ())
    scores = [float(row["accuracy"]["score"]) for row in rows]
    value = score if score is not None else sum(scores) / max(1, len(scores))
    asked = num_asked if num_asked is not None else len(rows)
    results = {
        "results": {
            task: {
                "alias": task,
                "accuracy,none": value,
                "accuracy_stderr,none": "N/A",
                "accuracy_stderr_clustered,none": (value * (1 - value) / max(1, asked)) ** 0.5,
            }
        },
        "group_subtasks": {task: []},
        "configs": {task: {"task": task, "cluster_key": "cluster", "score_key": "score"}},
        "versions": {task: 1.0},
        "higher_is_better": {task: {"accuracy": True}},
        "n-samples": {task: {"original": num_in_benchmark or asked, "effective": asked}},
        "config": {
            "model": "longva",
            "model_args": f"pretrained={model},max_frames_num={frames}",
            "limit": limit,
            "offset": 0,
        },
        "longva_eval": {
            "model": "longva",
            "checkpoint": model,
            "dtype": "float32",
            "frames": {"rule": f"np.linspace(0, total - 1, {frames}, dtype=int)",
                       "max_frames": frames},
            "versions": {"lmms-eval": "0.7.3"},
        },
        "lmms_eval_version": "0.7.3",
        "date": date,
    }  # fmt: skip
    path = folder / f"{date}_results.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    if samples is not None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        samples_path = folder / f"{date}_samples_{task}.jsonl"
        samples_path.write_text(text, encoding="utf-8", newline="\n")
    return path


def write_needle_run(
    folder: Path,
    *,
    frames: Sequence[int] = (16, 64),
    depths: Sequence[float] = (0.0, 0.5, 1.0),
    needles: Sequence[Mapping[str, Any]] = (),
    haystack: Sequence[Mapping[str, Any]] = (),
    missed: Sequence[tuple[int, float, int]] = (),
) -> Path:
    """A folder as `longva-eval niah` leaves it. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = [
        {
            "num_frames": count, "depth": depth, "insert_index": int(depth * count),
            "needle": number, "answer_ids": [1], "pred_ids": [1],
            "correct": (count, depth, number) not in missed, "logprob": -0.25, "min_margin": 1.0,
            "generated": "yellow" if (count, depth, number) in missed else needle["answer"],
            "num_prompt_tokens": 48 + 4 * count,
        }
        for count in frames for depth in depths for number, needle in enumerate(needles)
    ]  # fmt: skip
    controls = [
        {
            "control": "no needle", "num_frames": count, "needle": number, "correct": number == 0,
            "logprob": -3.0, "generated": "9", "needle_name": needle["name"], "rotation": 0,
        }
        for count in frames for number, needle in enumerate(needles)
    ]  # fmt: skip
    summary = {
        "columns": {},
        "effective_frames": {"frames": frames[0], "is_at_least": False, "threshold": 0.85},
        "controls": {
            "no_needle": 1 / len(needles), "blind": 0.0, "needle_only": 1.0,
            "no_needle_by_frames": {}, "known_without_seeing": [needles[0]["name"]],
        },
        "circular": None,
    }  # fmt: skip
    record = {
        "test": "V-NIAH, teacher-forced",
        "date": "2026-11-01T12:00:00+00:00",
        "num_answers": len(cells),
        "haystack": list(haystack),
        "needles": list(needles),
        "model": {"checkpoint": "longva-tiny", "dtype": "float32", "rope": {"asked": {}}},
    }
    for name, rows in (("cells.jsonl", cells), ("controls.jsonl", controls)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def questions(right: int, number: int = 12, **given: Any) -> list[dict[str, Any]]:
    durations = ("short", "medium", "long")
    return [
        sample(
            place,
            text="A" if place < right else "B",
            categories={"duration": durations[place // 3 % 3]},
            question=f"What color is flag {place}?",
            **given,
        )
        for place in range(number)
    ]


@pytest.fixture
def needle_folder(tmp_path: Path) -> Path:
    info = probe_video(embedded.HAYSTACK)
    entries = json.loads((embedded.NEEDLES / "dataset.json").read_text(encoding="utf-8"))[:3]
    needles = [
        {
            "name": entry["path"], "question": entry["prompt"], "answer": entry["answer"],
            "image_sha256": picture_file_digest(embedded.NEEDLES / entry["path"]),
        }
        for entry in entries
    ]  # fmt: skip
    return write_needle_run(
        tmp_path / "niah",
        needles=needles,
        haystack=[{"file": info.path.name, "digest": info.digest}],
        missed=[(64, 0.5, 1), (64, 1.0, 1)],
    )
