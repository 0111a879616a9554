"""The mini suite: subtitles that fit the questions, made once, run without any preparation."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import processes
import pysubs2
import pytest
from conftest import TESTS
from datasets import Dataset

from longva_eval.media.subtitles import Cue, cues_at, read_subtitles
from longva_eval.tasks.mini import mini_benchmark
from longva_eval.tasks.mini.mini_benchmark import (
    EVENT_FRAMES,
    FRAME_RATE,
    MiniVideo,
    ensure_mini_benchmark,
    generate_mini_benchmark,
    plan_videos,
    video_subtitles,
)
from longva_eval.tasks.videomme import videomme

TASK = TESTS.parent / "tasks" / "mini"


@pytest.fixture(scope="module")
def videos() -> list[MiniVideo]:
    return plan_videos()


def cues_of(video: MiniVideo) -> list[Cue]:
    text = video_subtitles(video)
    assert text is not None
    return [
        Cue(event.start / 1000, event.end / 1000, event.plaintext)
        for event in pysubs2.SSAFile.from_string(text, format_="srt")
    ]


@pytest.mark.slow
def test_subtitles_answer_every_question_while_it_is_shown(videos: list[MiniVideo]) -> None:
    asked = 0
    for video in videos:
        if video_subtitles(video) is None:
            continue
        cues = cues_of(video)
        for start, question in zip(video.event_starts, video.questions, strict=True):
            right = next(o[3:] for o in question.options if o.startswith(question.answer))
            for frame in range(start, start + EVENT_FRAMES):
                (cue,) = cues_at(cues, [frame / FRAME_RATE])
                assert right in re.findall(r"\w+", cue.text)
                asked += 1
    assert asked == 52 * 3 * EVENT_FRAMES


@pytest.mark.slow
def test_subtitles_follow_each_other_within_the_video(videos: list[MiniVideo]) -> None:
    for video in videos:
        if video_subtitles(video) is None:
            continue
        cues = cues_of(video)
        assert all(cue.start_seconds < cue.end_seconds for cue in cues)
        starts = [cue.start_seconds for cue in cues[1:]]
        assert all(cue.end_seconds <= start for cue, start in zip(cues, starts, strict=False))
        assert cues[0].start_seconds >= 0
        assert cues[-1].end_seconds <= len(video.scenes) / FRAME_RATE


def test_as_in_video_mme_some_videos_have_no_subtitles_but_all_long_ones_do(
    videos: list[MiniVideo],
) -> None:
    have = Counter(video.duration for video in videos if video_subtitles(video) is not None)
    assert have == {"short": 16, "medium": 16, "long": 20}


def test_questions_are_those_of_video_mme_in_form(videos: list[MiniVideo]) -> None:
    rows = mini_benchmark.benchmark_rows(videos)
    assert len(rows) == 180
    assert Counter(row["answer"] for row in rows) == dict.fromkeys("ABCD", 45)
    read = [videomme.read_row(row) for row in rows]
    assert [document["question_id"] for document in read[:4]] == [
        "001-1",
        "001-2",
        "001-3",
        "002-1",
    ]
    assert set(rows[0]) >= set(videomme.TASK.columns)


@pytest.mark.slow
def test_processes_that_come_at_once_make_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    encode = mini_benchmark.encode_video

    def counted(path: Path, *arguments: Any, **settings: Any) -> None:
        written.append(path)
        encode(path, *arguments, **settings)

    monkeypatch.setattr(mini_benchmark, "encode_video", counted)
    folder = tmp_path / "new" / "1"
    with ThreadPoolExecutor(3) as pool:
        found = list(
            pool.map(lambda _: ensure_mini_benchmark(folder, videos_per_duration=1), range(3))
        )
    assert found[0] == found[1] == found[2]
    assert len(written) == 3
    assert len(list(folder.glob("*.srt"))) == 3


@pytest.mark.slow
def test_what_a_killed_run_left_is_made_again(tmp_path: Path) -> None:
    rows = generate_mini_benchmark(tmp_path, videos_per_duration=1)
    (tmp_path / "manifest.json").unlink()
    first, *_ = sorted(tmp_path.glob("*.mp4"))
    first.write_bytes(first.read_bytes()[:100])
    next(tmp_path.glob("*.srt")).unlink()
    assert ensure_mini_benchmark(tmp_path, videos_per_duration=1) == rows
    assert first.stat().st_size > 1000
    assert len(list(tmp_path.glob("*.srt"))) == 3


def utils() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mini_utils", TASK / "utils.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_task_asks_as_video_mme_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    task = utils()
    docs = list(task.process_docs_subtitles(Dataset.from_list([{"videos_per_duration": 1}])))
    assert len(docs) == 9
    *_, last = docs
    assert task.doc_to_text(last) == videomme.TASK.doc_to_text(last)
    text = task.doc_to_text_subtitles(last, {"subtitles": "evenly_spread", "frame_num": 4})
    assert text.startswith("This video's subtitles are listed below:\n")
    assert text.endswith(task.doc_to_text(last))
    metrics = task.process_results_subtitles(last, ["hm"])
    record = metrics["accuracy"]
    assert (record["outcome"], record["has_subtitles"]) == ("no answer", True)
    assert Path(record["media"][0]).is_file()
    assert set(metrics) == {"accuracy", "long"}
    without = next(doc for doc in docs if doc["video_id"] == "003")
    assert read_subtitles(Path(record["media"][0]).with_suffix(".srt"))
    assert without["categories"]["duration"] == "long"


@pytest.mark.process
def test_the_small_suite_runs_without_any_preparation(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "lmms_eval", "--model", "longva",
        "--model_args", "pretrained=longva-tiny,max_frames_num=16,device=cpu",
        "--tasks", "longva_mini_small", "--limit", "8",
        "--output_path", "out", "--log_samples",
    ]  # fmt: skip
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = processes.run(command, cwd=tmp_path, env=environment)
    paths = list((tmp_path / "out").rglob("*_results.json"))
    assert len(paths) == 1, done.stderr[-3000:]
    scores = json.loads(paths[0].read_text(encoding="utf-8"))["results"]["longva_mini_small"]
    # Six questions on short videos, which 16 frames of 32 always meet, and two on a medium one.
    assert scores["short,none"] >= 0.5
    assert "long,none" not in scores
    assert len(list((tmp_path / "hf" / "longva_eval" / "mini" / "2").glob("*.mp4"))) == 6
