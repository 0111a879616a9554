"""Which frames of a video the model is to see.

The original's rule is `np.linspace(0, total - 1, n, dtype=int)`; another is one frame per interval
with a cap. What happens to a video with fewer frames than that is a named policy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from longva_eval.errors import MediaError, SettingsError
from longva_eval.media.probe import VideoInfo

__all__ = [
    "FramePolicy",
    "FrameSample",
    "ShortVideoPolicy",
    "one_per_second",
    "sample_frames",
]

ShortVideoPolicy = Literal["repeat", "each_once", "error"]
_MOST_FRAMES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class FramePolicy:
    """How many frames to take, and where."""

    max_frames: int = 128
    """Frames to spread evenly over the video; with `fps`, the most that may be taken."""
    fps: float | None = None
    """Take a frame every round(average_fps / fps) frames instead, from the first one on."""
    short_video: ShortVideoPolicy = "repeat"
    """A video with fewer frames than asked: `repeat` shows some twice (the original: 3 frames of
    2 are 0, 0, 1), `each_once` shows fewer, `error` refuses."""

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

    def describe(self) -> dict[str, Any]:
        """The rule in words and numbers, for the record."""
        rule = (
            f"np.linspace(0, total - 1, {self.max_frames}, dtype=int)"
            if self.fps is None
            else f"every round(average_fps / {self.fps:g})-th frame, at most {self.max_frames}"
        )
        return {
            "rule": rule,
            "max_frames": self.max_frames,
            "fps": self.fps,
            "short_video": self.short_video,
        }


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


def sample_frames(info: VideoInfo, policy: FramePolicy) -> FrameSample:
    """Choose the frames of a video that the model is to see.

    Raises:
        MediaError: If the video is shorter than asked and `short_video` is `error`.
    """
    total = info.num_frames
    if policy.fps is None:
        wanted = policy.max_frames
        indices = np.linspace(0, total - 1, wanted, dtype=int)
    else:
        step = max(1, round(min(info.average_fps / policy.fps, total)))
        indices = np.arange(0, total, step)
        wanted = len(indices)
        if wanted > policy.max_frames:
            wanted = policy.max_frames
            indices = np.linspace(0, total - 1, wanted, dtype=int)
    if wanted > total and policy.short_video != "repeat":
        if policy.short_video == "error":
            raise MediaError(
                f"{info.path} has {total} frames, but max_frames_num={policy.max_frames} were "
                "asked for. Lower it, or set short_video=repeat or short_video=each_once."
            )
        indices = np.arange(total)
    chosen = tuple(int(index) for index in indices)
    return FrameSample(
        indices=chosen,
        timestamps_seconds=tuple(round(float(info.presentation_seconds[i]), 3) for i in chosen),
        num_frames_asked=wanted,
        num_frames_total=total,
    )


def one_per_second(info: VideoInfo) -> range:
    """The frames of a V-NIAH haystack: every round(average fps)-th, from the first.

    Source: LongVA repository, commit f4c8781, vision_niah (haystack preparation).
    """
    return range(0, info.num_frames, max(1, round(info.average_fps)))
