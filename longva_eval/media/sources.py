"""Pictures and videos before they are seen: files, frames and times, and no model.

A *source* is one picture or one video. It knows the identity of its content without reading a
pixel of a video, and reads frames only when the encoder asks for tokens that nobody has computed
yet. So a frame that ten questions share, or that stands in every length of a needle grid, is
decoded and encoded once. How frames are prepared, and what becomes of them, is the model's
(`longva_eval.engine.vision`).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from longva_eval.media.decode import DecodeBackend, Frames, read_frames
from longva_eval.media.files import image_digest
from longva_eval.media.frames import FrameSample
from longva_eval.media.probe import VideoInfo

__all__ = ["FrameStack", "Picture", "ReadFrames", "Source", "VideoFrames"]

ReadFrames = Callable[..., Iterator[Frames]]
"""`longva_eval.media.decode.read_frames`, or the same from another process."""


@dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """The chosen frames of a video."""

    info: VideoInfo
    sample: FrameSample
    backend: DecodeBackend = "auto"
    read: ReadFrames = read_frames
    how: Any = None
    """How they are prepared; set by the model that is to see them."""

    @property
    def media_key(self) -> str:
        """Identity of content and preparation: pieces of equal keys are read together."""
        return f"{self.info.digest}/{self.how}"

    @property
    def items(self) -> tuple[int, ...]:
        """The frames, by their index in the file."""
        return self.sample.indices

    @property
    def num_parts(self) -> int:
        """Parts that can be decoded side by side, at most."""
        return min(len(self.items), self.info.num_starts)

    @property
    def seconds(self) -> tuple[float, ...]:
        """When each of the frames is shown, exactly."""
        return tuple(float(self.info.presentation_seconds[item]) for item in self.items)

    def frame_key(self, item: int) -> str:
        """Identity of one frame."""
        return f"{self.info.digest}#{item}"

    def frames(self, items: Sequence[int]) -> Iterator[Frames]:
        """Blocks of (n, height, width, 3) uint8 RGB, for these frames in order."""
        return self.read(self.info, items, backend=self.backend)


@dataclass(frozen=True, kw_only=True)
class FrameStack:
    """Pictures used as video frames: needles, or the frames a task hands over itself."""

    pictures: tuple[Image.Image, ...]
    """RGB."""
    how: Any = None

    @functools.cached_property
    def _digests(self) -> tuple[str, ...]:
        return tuple(image_digest(picture) for picture in self.pictures)

    @property
    def media_key(self) -> str:
        whole = hashlib.sha256("/".join(self._digests).encode()).hexdigest()
        return f"stack:{whole}/{self.how}"

    @property
    def items(self) -> tuple[int, ...]:
        return tuple(range(len(self.pictures)))

    @property
    def seconds(self) -> None:
        """Nobody knows."""
        return None

    def frame_key(self, item: int) -> str:
        return f"picture:{self._digests[item]}"

    def frames(self, items: Sequence[int]) -> Iterator[list[Image.Image]]:
        """One picture after the other; they need not be of one size."""
        for item in items:
            yield [self.pictures[item]]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture."""

    image: Image.Image
    """RGB."""
    how: Any = None

    @functools.cached_property
    def key(self) -> str:
        """Identity of its content."""
        return f"picture:{image_digest(self.image)}"

    @property
    def media_key(self) -> str:
        return f"{self.key}/{self.how}"


Source = VideoFrames | FrameStack | Picture
