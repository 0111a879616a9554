"""Drawn scenes and the mini benchmark: the same from the same seed, balanced, and readable."""

import hashlib
import json
import random
import re
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from longva_eval.needle.scenes import (
    COLORS,
    DISTRACTORS,
    LOCATORS,
    caption_words,
    haystack_scenes,
    random_scene,
    render_scene,
)
from longva_eval.tasks.mini.mini_benchmark import (
    DURATION_FRAMES,
    EVENT_FRAMES,
    MINI_BENCHMARK_SEED,
    MINI_BENCHMARK_SHA256,
    benchmark_rows,
    encode_video,
    generate_mini_benchmark,
    plan_videos,
    video_frames,
)

DATA = Path(__file__).parents[2] / "longva_eval" / "data"
# Columns of lmms-lab/Video-MME.
VIDEO_MME_COLUMNS = [
    "video_id",
    "duration",
    "domain",
    "sub_category",
    "url",
    "videoID",
    "question_id",
    "task_type",
    "question",
    "options",
    "answer",
]


def test_a_seed_gives_the_same_picture_again() -> None:
    pictures = []
    for _ in range(2):
        rng = random.Random(5)
        scenes = [random_scene(rng, shape=shape, digit="3") for shape in (*LOCATORS, *DISTRACTORS)]
        pictures.append(np.stack([render_scene(scene) for scene in scenes]))
    assert np.array_equal(pictures[0], pictures[1])
    assert pictures[0].shape == (len(LOCATORS) + len(DISTRACTORS), 96, 96, 3)
    assert len({picture.tobytes() for picture in pictures[0]}) == len(pictures[0])


def test_a_haystack_shows_no_locator_and_always_moves() -> None:
    scenes = list(islice(haystack_scenes(random.Random(1)), 300))
    assert not {caption_words(scene)[0] for scene in scenes} & set(LOCATORS)
    frames = [render_scene(scene, side=48) for scene in scenes]
    assert all((a != b).any() for a, b in pairwise(frames))


def test_caption_is_four_words() -> None:
    scene = random_scene(random.Random(0), shape="star", color="red", digit="7")
    assert caption_words(scene) == ("star", "red", "7", ".")
    bare = random_scene(random.Random(0), shape=None)
    assert caption_words(bare) == ("nothing", "none", "none", ".")


@pytest.mark.slow
def test_rows_have_the_columns_of_video_mme() -> None:
    rows = benchmark_rows(plan_videos())
    assert len(rows) == 180
    assert all(list(row) == VIDEO_MME_COLUMNS for row in rows)
    assert [row["question_id"] for row in rows[:4]] == ["001-1", "001-2", "001-3", "002-1"]
    assert Counter(str(row["duration"]) for row in rows) == {"short": 60, "medium": 60, "long": 60}
    for row in rows:
        options = row["options"]
        assert isinstance(options, list)
        assert [option[:3] for option in options] == ["A. ", "B. ", "C. ", "D. "]
        assert len(set(options)) == 4
        values = {option[3:] for option in options}
        assert values <= set(COLORS) or values <= set("0123456789")


@pytest.mark.slow
def test_answer_letters_are_balanced() -> None:
    rows = benchmark_rows(plan_videos())
    assert set(Counter(str(row["answer"]) for row in rows).values()) == {45}


@pytest.mark.slow
def test_the_right_option_is_what_the_event_shows() -> None:
    videos = plan_videos()
    for video in videos:
        assert len(video.scenes) == DURATION_FRAMES[video.duration]
        for start, question in zip(video.event_starts, video.questions, strict=True):
            words = {caption_words(s) for s in video.scenes[start : start + EVENT_FRAMES]}
            assert len(words) == 1
            noun, color, digit, _ = words.pop()
            assert noun in question.question
            right = question.options["ABCD".index(question.answer)][3:]
            assert right == (color if "color" in question.question else digit)
        shown = [caption_words(scene)[0] for scene in video.scenes]
        assert sum(noun in LOCATORS for noun in shown) == EVENT_FRAMES * len(video.questions)


@pytest.mark.slow
def test_sparse_sampling_misses_events_of_long_videos_only() -> None:
    hits: dict[tuple[str, int], list[bool]] = {}
    for video in plan_videos():
        for count in (8, 128):
            total = len(video.scenes)
            indices = np.linspace(0, total - 1, min(count, total), dtype=int)
            for start in video.event_starts:
                hit = bool(((indices >= start) & (indices < start + EVENT_FRAMES)).any())
                hits.setdefault((video.duration, count), []).append(hit)
    assert np.mean(hits["short", 8]) == 1
    assert np.mean(hits["long", 8]) < 0.3
    assert np.mean(hits["long", 128]) == 1


@pytest.mark.slow
def test_the_published_frames_are_those_of_the_hash() -> None:
    # Every tenth video, as drawing all of them takes seconds.
    everything = hashlib.sha256()
    for video in plan_videos(MINI_BENCHMARK_SEED)[::10]:
        everything.update(b"".join(frame.tobytes() for frame in video_frames(video)))
    assert everything.hexdigest() == TENTH_SHA256
    assert re.fullmatch("[0-9a-f]{64}", MINI_BENCHMARK_SHA256)


TENTH_SHA256 = "674085ce3495274e2a93f374858cf0d764cd0120c02cb7dbeea26058edd9fe05"


@pytest.mark.slow
def test_generated_files_are_reused_and_checked(tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    rows = generate_mini_benchmark(folder, seed=4, videos_per_duration=1, side=32)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [entry["num_frames"] for entry in manifest["videos"]] == [32, 128, 512]
    path = folder / manifest["videos"][0]["file"]
    written = path.stat().st_mtime_ns
    assert generate_mini_benchmark(folder, seed=4, videos_per_duration=1, side=32) == rows
    assert path.stat().st_mtime_ns == written
    path.write_bytes(b"no video")
    with pytest.raises(RuntimeError, match="is damaged"):
        generate_mini_benchmark(folder, seed=4, videos_per_duration=1, side=32)


def test_h264_keeps_the_picture(tmp_path: Path) -> None:
    decord = pytest.importorskip("decord")
    scenes = list(islice(haystack_scenes(random.Random(2)), 40))
    frames = np.stack([render_scene(scene) for scene in scenes])
    encode_video(tmp_path / "video.mp4", frames, frame_rate=1)
    reader = decord.VideoReader(str(tmp_path / "video.mp4"))
    decoded = reader.get_batch(range(len(reader))).asnumpy()
    assert decoded.shape == frames.shape
    assert reader.get_avg_fps() == 1.0
    assert np.abs(decoded.astype(int) - frames.astype(int)).mean() < 4


def test_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames"):
        encode_video(tmp_path / "video.mp4", [], frame_rate=1)


def test_the_shipped_haystack_is_long_enough() -> None:
    decord = pytest.importorskip("decord")
    reader = decord.VideoReader(str(DATA / "haystack.mp4"))
    stride = round(reader.get_avg_fps())
    assert len(range(0, len(reader), stride)) >= 1100
    captions = json.loads((DATA / "captions.json").read_text())["haystack"]
    assert len(captions) == len(reader)
    assert not {caption[0] for caption in captions} & set(LOCATORS)


def test_shipped_needles_ask_for_what_they_show() -> None:
    entries = json.loads((DATA / "needles" / "dataset.json").read_text())
    captions = json.loads((DATA / "captions.json").read_text())["needles"]
    assert len(entries) >= 24
    for entry in entries:
        assert set(entry) == {"path", "prompt", "answer", "choices", "caption"}
        assert entry["caption"].split() == captions[entry["path"]]
        assert entry["answer"] in entry["choices"]
        assert (DATA / "needles" / entry["path"]).exists()
        noun, color, digit, _ = captions[entry["path"]]
        assert entry["prompt"].startswith(f"\nFind the frame with the {noun}. ")
        assert entry["answer"] == (color if "color" in entry["prompt"] else digit)
    # A constant answer is right for 2 of 16 colours or 1 of 10 digits.
    counts = Counter(entry["answer"] for entry in entries)
    assert all(counts[color] == 2 for color in COLORS)
    assert all(counts[digit] == 1 for digit in "0123456789")
