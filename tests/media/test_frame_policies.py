"""Named frame policies, each beside its rule written out anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_files import Clip, write_video

from longva_eval.errors import MediaError, SettingsError
from longva_eval.media.decode import read_frames
from longva_eval.media.frames import FramePolicy, FrameSample, sample_frames
from longva_eval.media.probe import VideoInfo, probe_video

SCENES = (0, 7, 8, 30)
"""First frames of the scenes of `film`; the second has one frame, as a needle."""
COLOURS = ((200, 30, 30), (30, 200, 30), (210, 40, 40), (20, 20, 220))


def info_of(num_frames: int, fps: float = 30.0) -> VideoInfo:
    return VideoInfo(
        path=Path("video.mp4"), num_frames=num_frames, average_fps=fps, width_pixels=64,
        height_pixels=48, codec="h264", container="mov", digest="0",
        presentation_seconds=np.arange(num_frames) / fps,
    )  # fmt: skip


def indices(info: object, policy: str, most: int, **more: object) -> list[int]:
    chosen = FramePolicy(max_frames=most, policy=policy)
    return list(sample_frames(info, chosen, **more).indices)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2, options={"g": "16", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(40):
            colour = COLOURS[sum(number >= first for first in SCENES) - 1]
            picture = np.full((48, 64, 3), colour, np.uint8)
            picture[:, number : number + 4] = 255 - number  # something moves within a scene
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@given(total=st.integers(1, 3000), most=st.integers(1, 300))
def test_midpoints_are_those_of_vlmevalkit(total: int, most: int) -> None:
    # VLMEvalKit, vlmeval/dataset/video_base.py, save_video_frames.
    step = total / (most + 1)
    assert indices(info_of(total), "midpoints", most) == [int(i * step) for i in range(1, most + 1)]


@given(total=st.integers(1, 3000), most=st.integers(1, 300), least=st.integers(1, 40))
def test_a_budget_grows_with_the_duration_between_its_bounds(
    total: int, most: int, least: int
) -> None:
    found = indices(info_of(total, fps=10), f"budget:0.5:{least}", most)
    assert len(found) == int(np.clip(round(total / 10 * 0.5), min(least, most), most))
    assert found == np.linspace(0, total - 1, len(found), dtype=int).tolist()


def test_fps_is_the_setting_that_was_there_before() -> None:
    assert FramePolicy(policy="fps:2") == FramePolicy(fps=2.0)
    assert "policy" not in FramePolicy(policy="fps:2").describe()
    assert FramePolicy(policy="midpoints").describe()["policy"] == "midpoints"


def test_keyframes_are_those_the_container_marks(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "clip",
        Clip(
            num_frames=60, width=96, height=64, options={"g": "8", "bf": "2", "sc_threshold": "0"}
        ),
    )
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shown = sorted(p.pts for p in container.demux(stream) if p.pts is not None)
        container.seek(0)
        keys = [p.pts for p in container.demux(stream) if p.pts is not None and p.is_keyframe]
    expected = [shown.index(pts) for pts in keys]
    info = probe_video(path)
    assert len(expected) > 4
    assert indices(info, "keyframes", 100) == expected
    spread = np.linspace(0, len(expected) - 1, 4, dtype=int)
    assert indices(info, "keyframes", 4) == [expected[place] for place in spread]


def test_scene_takes_the_middle_of_each_scene(film: Path) -> None:
    info = probe_video(film)
    ends = (*SCENES[1:], 40)
    middles = [(first + end - 1) // 2 for first, end in zip(SCENES, ends, strict=True)]
    looks: list[int] = []

    def read(*arguments: object) -> object:
        looks.append(1)
        return read_frames(*arguments)  # type: ignore[arg-type]

    assert indices(info, "scene", 4, read=read) == middles
    # With fewer scenes, the largest changes: one frame, looked at before, is never lost to them.
    assert 7 in indices(info, "scene", 3, read=read)
    assert indices(info, "uniform", 4) == [0, 13, 26, 39]  # which does not show it
    assert len(looks) == 1
    # At one frame a second every other frame is a candidate.
    assert set(indices(info, "scene:1", 3)) <= set(range(0, 40, 2))


def test_a_file_names_frames_by_video_and_by_question(film: Path, tmp_path: Path) -> None:
    info = probe_video(film)
    file = tmp_path / "aks.json"
    policy = f"file:{file}"
    file.write_text(json.dumps({"film.mp4": [30, 2, 8, 5]}))
    assert indices(info, policy, 10) == [2, 5, 8, 30]
    assert indices(info, policy, 2) == [2, 30]
    described = FramePolicy(policy=policy).describe()
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"film": {"seconds": [0.0, 3.6, 19.5]}}))
    assert indices(info, f"file:{other}", 10) == [0, 7, 39]
    assert (
        FramePolicy(policy=f"file:{other}").describe()["selection_sha256"]
        != described["selection_sha256"]
    )
    third = tmp_path / "questions.json"
    third.write_text(json.dumps({"film": {"questions": {"001-1": [1], "001-2": [9, 3]}}}))
    policy = f"file:{third}"
    assert FramePolicy(policy=policy).is_per_question
    assert not FramePolicy(policy=f"file:{other}").is_per_question
    assert indices(info, policy, 10, question=("001-2", "5")) == [3, 9]
    with pytest.raises(MediaError, match=r"questions.json names no frames for .*film.mp4, q.* 7"):
        sample_frames(info, FramePolicy(policy=policy), question=("7",))


@pytest.mark.parametrize(
    "values", [[], [40], [-1], [1.5], ["3"], {"seconds": [25.0]}, {}, 3, [True]]
)
def test_a_selection_that_cannot_be_is_refused(film: Path, tmp_path: Path, values: object) -> None:
    file = tmp_path / f"{abs(hash(str(values)))}.json"
    file.write_text(json.dumps({"film": values}))
    with pytest.raises(MediaError, match=str(file)):
        sample_frames(probe_video(film), FramePolicy(policy=f"file:{file}"))


def test_a_rule_that_finds_no_frame_or_one_that_is_not_there_is_refused(film: Path) -> None:
    info = probe_video(film)
    assert info.packets is not None
    nowhere = replace(info.packets, starts=np.array([], dtype=np.int64))
    with pytest.raises(MediaError, match=r"film.mp4: none of its 40 frames .* frame_policy"):
        sample_frames(replace(info, packets=nowhere), FramePolicy(policy="keyframes"))
    for indices in ([0, 40], [-1, 0]):
        with pytest.raises(MediaError, match=r"film.mp4 has 40 frames, frame (40|-1) "):
            FrameSample.of(info, indices)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("middle", "frame_policy='middle' is unknown; use one of uniform"),
        ("budget:1", "is unknown"),
        ("budget:0.01:0.5", "whole number from 1 on"),
        ("budget:1:2.7", "whole number from 1 on"),
        ("midpoints:2", "is unknown"),
        ("scene:x", "must be numbers above 0"),
        ("fps:0", "must be numbers above 0"),
        ("file:", "is unknown"),
        ("file:/nowhere.json", "nowhere.json.* cannot be used"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(policy: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FramePolicy(policy=policy)
    with pytest.raises(SettingsError, match="give one"):
        FramePolicy(policy="midpoints", fps=1.0)
