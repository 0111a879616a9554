"""How a family sees: pieces of pictures and videos, their pixels, and their visual tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from longva_eval.errors import PromptError
from longva_eval.families.family import Family, Shape
from longva_eval.media.images import pad_to_square
from longva_eval.media.sources import FrameStack, Picture, Source, VideoFrames
from longva_eval.model.modeling import execution_device
from longva_eval.prompts.pieces import VisualPiece

__all__ = ["FamilyVision"]


@dataclass(frozen=True)
class _Closing:
    """What stands behind the last frame of a video; it has no pixels."""

    how: Shape
    media_key = "closing"


@dataclass(kw_only=True)
class FamilyVision:
    """Pictures and videos as a family's own processor and network see them.

    What it writes about frames is written from their exact times; where nobody knows them (frames
    that a task hands over, clips that are put together) they are taken for one a second.
    """

    family: Family
    size_for_frames: int | None = None
    """Frames are as large as if there were so many of them; None for the family's own rule."""
    own_frames: bool = False
    """Whether frames were chosen by the processor's own rule, which takes them for evenly spread
    over the whole file."""
    _sizes: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)

    @property
    def frames_per_unit(self) -> int:
        return self.family.frames_per_unit

    def pieces(self, source: Source, *, num_pictures: int = 1) -> list[VisualPiece]:
        """A picture as one piece, or the units of a video.

        Raises:
            MediaError: If the first frame of a video cannot be read.
            PromptError: If frames that are handed over differ in size.
        """
        if isinstance(source, Picture):
            width, height = source.image.size
            shape = self.family.picture_shape(width, height, alone=num_pictures == 1)
            source = replace(source, how=shape)
            place = self.family.place(shape, 0.0)
            key = f"{source.key}/{shape}"
            return [VisualPiece(key, shape.num_tokens, source, place=place)]
        items = source.items
        if source.how == "pad":
            shape = self.family.square_shape()
        else:
            count = max(len(items), self.size_for_frames or 0)
            shape = self.family.video_shape(count, *self._size(source))
        source = replace(source, how=shape)
        seconds = source.seconds or tuple(map(float, items))
        size = self.frames_per_unit
        units = []
        for first in range(0, len(items), size):
            frames, times = items[first : first + size], seconds[first : first + size]
            missing = size - len(frames)  # the last frame fills its unit
            frames, times = frames + frames[-1:] * missing, times + times[-1:] * missing
            key = "+".join(dict.fromkeys(source.frame_key(item) for item in frames))
            units.append(
                VisualPiece(f"{key}/{shape}", shape.num_tokens, source, frames, seconds=times)
            )
        return units

    def video(self, units: Sequence[VisualPiece], *, composed: bool = False) -> list[VisualPiece]:
        """Units, in a row, as one video.

        Args:
            units: From `pieces`, of one video or of several.
            composed: Whether they are put together: then they are shown one frame a second.
        """
        if not units:
            return []
        size = self.frames_per_unit
        if composed:
            units = [
                replace(unit, seconds=tuple(float(number * size + n) for n in range(size)))
                for number, unit in enumerate(units)
            ]
        shape: Shape = units[0].source.how
        place = self.family.place(shape, self._interval_seconds(units))
        pieces = [replace(unit, place=place) for unit in units]
        closing = self.family.closing_tokens()
        if closing is not None:
            pieces.append(VisualPiece("closing", len(closing), _Closing(shape)))
        return pieces

    def pixel_values(
        self, source: Source | _Closing, items: Sequence[Any]
    ) -> Iterator[torch.Tensor]:
        """Blocks of units, as the processor makes them."""
        if isinstance(source, _Closing):
            yield torch.zeros(1)
        elif isinstance(source, Picture):
            yield self.family.picture_pixels(source.image, source.how)
        else:
            yield from self._video_pixels(source, items)

    def _video_pixels(
        self, source: VideoFrames | FrameStack, units: Sequence[tuple[int, ...]]
    ) -> Iterator[torch.Tensor]:
        wanted = sorted({item for unit in units for item in unit})
        there: dict[int, torch.Tensor] = {}
        given = 0
        left = list(units)
        for block in source.frames(wanted):
            for frame in block:
                there[wanted[given]] = self._prepared(frame, source.how)
                given += 1
            complete = 0
            while complete < len(left) and all(item in there for item in left[complete]):
                complete += 1
            if complete:
                frames = [there[item] for unit in left[:complete] for item in unit]
                yield self.family.video_pixels(torch.stack(frames), source.how)
                left = left[complete:]
                needed = {item for unit in left for item in unit}
                there = {item: frame for item, frame in there.items() if item in needed}

    def _prepared(self, frame: Any, shape: Shape) -> torch.Tensor:
        """(3, H, W) uint8."""
        if shape.padded:
            picture = frame if isinstance(frame, Image.Image) else Image.fromarray(frame)
            frame = pad_to_square(picture, self.family.video_processor.image_mean)
        pixels = np.ascontiguousarray(np.asarray(frame)).copy()
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def count_pieces(self, source: Source | _Closing, num_rows: int) -> int:
        del source
        return num_rows

    @torch.inference_mode()
    def tokens(
        self, source: Source | _Closing, pixels: torch.Tensor, *, batch_size: int
    ) -> list[torch.Tensor]:
        """The (num_tokens, width) visual tokens of a block's units."""
        if isinstance(source, _Closing):
            closing = self.family.closing_tokens()
            assert closing is not None
            return [closing]
        size = max(1, batch_size // self.frames_per_unit)
        device = execution_device(self.family.model.get_input_embeddings())
        found = [
            self.family.tokens(batch.to(device), source.how) for batch in torch.split(pixels, size)
        ]
        return [unit for batch in found for unit in batch]

    def _size(self, source: VideoFrames | FrameStack) -> tuple[int, int]:
        """(width, height) of frames as they are decoded: turned as the file asks."""
        if isinstance(source, FrameStack):
            sizes = {picture.size for picture in source.pictures}
            if len(sizes) > 1:
                raise PromptError(
                    f"Frames of one video have {len(sizes)} sizes ({sorted(sizes)[:3]}, ...); this "
                    "model needs one."
                )
            return sizes.pop()
        key = source.info.digest
        if key not in self._sizes:
            first = next(iter(source.frames(source.items[:1])))
            self._sizes[key] = (first.shape[2], first.shape[1])
        return self._sizes[key]

    def _interval_seconds(self, units: Sequence[VisualPiece]) -> float:
        """Mean seconds between the units of a video."""
        source = units[0].source
        if self.own_frames and isinstance(source, VideoFrames):
            return self.frames_per_unit * source.info.duration_seconds / len(source.items)
        if len(units) < 2:
            return 1.0  # no unit stands at a distance from the first
        return (units[-1].seconds[0] - units[0].seconds[0]) / (len(units) - 1)

    def describe(self) -> dict[str, Any]:
        """How every picture and frame is prepared and encoded."""
        processors = (self.family.image_processor, self.family.video_processor)
        return {
            "family": type(self.family).__name__,
            "image_processor": [type(processor).__name__ for processor in processors],
            "rope_axes": list(self.family.rope_axes),
            "frames_per_unit": self.frames_per_unit,
            "frame_size": "the model's own rule"
            if self.size_for_frames is None
            else f"the model's own rule for {self.size_for_frames} frames",
            **self.family.describe(),
        }
