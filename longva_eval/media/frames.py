"""Which frames of a video the model is to see, and these frames themselves.

The original's rule is `np.linspace(0, total - 1, n, dtype=int)`; another is one frame per interval
of time with a cap. What happens to a video with fewer frames than that, or with pictures missing in
the middle, is a named policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from longva_eval.errors import MediaError, SettingsError
from longva_eval.media.decode import Frames
from longva_eval.media.files import printable
from longva_eval.media.probe import VideoInfo

__all__ = [
    "FrameBatch",
    "FramePolicy",
    "FrameSample",
    "GapPolicy",
    "ShortVideoPolicy",
    "one_per_second",
    "read_frames",
    "refuse_gaps",
    "sample_frames",
]

ShortVideoPolicy = Literal["repeat", "each_once", "error"]
GapPolicy = Literal["error", "count"]
_MOST_FRAMES = 1_000_000
_ROUNDING_SECONDS = 0.001
"""Matroska writes whole milliseconds: a frame at 1.0004 s counts as on screen at 1 s."""


@dataclass(frozen=True, kw_only=True)
class FramePolicy:
    """How many frames to take, and where."""

    max_frames: int = 128
    """Frames to spread evenly over the video; with `fps`, the most that may be taken."""
    fps: float | None = None
    """Take the frames on screen every 1 / fps seconds instead, from the first one on: every
    round(average_fps / fps)-th frame at a constant rate; by their times where it varies, a frame
    that stays on screen again and again."""
    short_video: ShortVideoPolicy = "repeat"
    """A video with fewer frames than asked: `repeat` shows some twice (the original: 3 frames of
    2 are 0, 0, 1), `each_once` shows fewer, `error` refuses."""
    gaps: GapPolicy = "error"
    """A video in which pictures are missing: `error` refuses it, `count` takes what is there and
    says in the record how many gaps there are."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_frames <= _MOST_FRAMES:
            raise SettingsError(
                f"max_frames_num={self.max_frames} must be at least 1 and at most {_MOST_FRAMES:,}."
            )
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise SettingsError(f"fps={self.fps} must be above 0 and finite.")
        if self.short_video not in get_args(ShortVideoPolicy):
            raise SettingsError(
                f"short_video={self.short_video!r} is unknown; "
                f"use one of {', '.join(get_args(ShortVideoPolicy))}."
            )
        if self.gaps not in get_args(GapPolicy):
            raise SettingsError(f"video_gaps={self.gaps!r} is unknown; use error or count.")

    def describe(self) -> dict[str, Any]:
        """The rule in words and numbers, for the record."""
        if self.fps is None:
            rule = f"np.linspace(0, total - 1, {self.max_frames}, dtype=int)"
        else:
            rule = f"every round(average_fps / {self.fps:g})-th frame, at most {self.max_frames}"
        described = {
            "rule": rule,
            "max_frames": self.max_frames,
            "fps": self.fps,
            "short_video": self.short_video,
        }
        return described if self.gaps == "error" else described | {"gaps": self.gaps}


@dataclass(frozen=True, kw_only=True)
class FrameSample:
    """The frames chosen from one video."""

    indices: tuple[int, ...]
    """Ascending, repeats allowed."""
    timestamps_seconds: tuple[float, ...]
    num_frames_asked: int
    """What the policy wanted; `len(indices)` is what the model sees."""
    num_frames_total: int
    """Frames of the whole video."""
    num_gaps: int = 0
    """Places of the video where pictures are missing (`gaps=count`)."""


@dataclass(frozen=True, kw_only=True)
class FrameBatch:
    """Frames of a video, with their pixels."""

    pixels: Frames
    """(num_frames, height, width, 3), uint8 RGB, upright."""
    indices: tuple[int, ...]
    """Of each frame among those that the `ffmpeg` command shows; ascending, repeats allowed."""
    seconds: tuple[float, ...]
    """When each is shown, from the start of the file."""


def read_frames(path: str | Path, policy: FramePolicy | None = None) -> FrameBatch:
    """The frames of a video that a model would see, decoded in a process of its own.

    Args:
        path: The video.
        policy: How many, and where; `FramePolicy()` if there is none.

    Raises:
        MediaError: If the video cannot be read, is damaged at these frames, or pictures are
            missing in it.
    """
    from longva_eval.media.decode_worker import shared_worker

    worker = shared_worker()
    info = worker.probe_video(path)
    sample = sample_frames(info, policy or FramePolicy())
    blocks = list(worker.read_frames(info, sample.indices))
    return FrameBatch(
        pixels=np.concatenate(blocks), indices=sample.indices, seconds=sample.timestamps_seconds
    )


def sample_frames(info: VideoInfo, policy: FramePolicy) -> FrameSample:
    """Choose the frames of a video that the model is to see.

    Raises:
        MediaError: If the video is shorter than asked and `short_video` is `error`, or pictures are
            missing in it and `gaps` is `error`.
    """
    if policy.gaps == "error":
        refuse_gaps(info)
    total = info.num_frames
    if policy.fps is None:
        wanted = policy.max_frames
        indices = np.linspace(0, total - 1, wanted, dtype=int)
        if wanted > total and policy.short_video == "error":
            raise MediaError(
                f"{info.path} has {total} frames, but max_frames_num={policy.max_frames} were "
                "asked for. Lower it, or set short_video=repeat or short_video=each_once."
            )
    else:
        indices = _by_rate(info, policy.fps, policy.max_frames)
        wanted = len(indices)
    if policy.short_video == "each_once":
        indices = np.unique(indices)
    chosen = tuple(int(index) for index in indices)
    return FrameSample(
        indices=chosen,
        timestamps_seconds=tuple(round(float(info.presentation_seconds[i]), 3) for i in chosen),
        num_frames_asked=wanted,
        num_frames_total=total,
        num_gaps=len(info.gaps),
    )


def one_per_second(info: VideoInfo, *, gaps: GapPolicy = "error") -> Sequence[int]:
    """The frames of a V-NIAH haystack, one a second from the first.

    At a constant rate every round(average fps)-th; where it varies, the one on screen.

    Raises:
        MediaError: If pictures are missing in the video and `gaps` is `error`.

    Source: LongVA repository, commit f4c8781, vision_niah (haystack preparation).
    """
    if gaps == "error":
        refuse_gaps(info)
    return [int(index) for index in _by_rate(info, 1.0, _MOST_FRAMES)]


def _by_rate(info: VideoInfo, fps: float, most: int) -> npt.NDArray[np.int64]:
    """A frame every 1 / fps seconds, or `most` spread evenly if that would be more."""
    total = info.num_frames
    if info.has_constant_rate:
        step = max(1, round(min(info.average_fps / fps, total)))
        if -(-total // step) > most:
            return np.linspace(0, total - 1, most, dtype=np.int64)
        return np.arange(0, total, step)
    after_first = info.presentation_seconds - info.presentation_seconds[0]
    count = math.ceil(min(info.duration_seconds * fps, most + 1) - _ROUNDING_SECONDS)
    if count > most:
        times = np.linspace(0, after_first[-1], most)
    else:
        times = np.arange(max(1, count)) / fps
    return np.searchsorted(after_first, times + _ROUNDING_SECONDS, side="right") - 1


def refuse_gaps(info: VideoInfo) -> None:
    """Raise a MediaError that says where pictures are missing, if any are."""
    if info.gaps:
        longest = max(info.gaps, key=lambda gap: gap.missing_seconds)
        raise MediaError(
            f"{printable(info.path)} lacks pictures in {len(info.gaps)} places: the most, "
            f"{longest.missing_seconds:.2f} s, after {longest.at_seconds:.2f} s. Packets were lost "
            "or a part was cut out; its frame rate does not explain it. Fetch it again; or set "
            "video_gaps=count: what is there is used, and the record counts the gaps."
        )
