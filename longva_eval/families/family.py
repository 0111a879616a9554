"""What the suite asks of a model family of transformers, and what most of them have in common.

A family says how pictures and frames are prepared and encoded (by its own processor and its own
network), what its processor writes about them, and which positions they take. Everything else
(prompts, sharing, decoding, scoring) is the same for all. A *unit* is what is encoded together: one
frame, or a pair of frames in the families that merge neighbours.

All rules are the installed transformers' own: sizes come from the processor's `resize`, texts from
its `replace_*_token`, positions from the model's `get_rope_index`. Nothing is written down twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers.video_utils import VideoMetadata

from longva_eval.errors import MediaError
from longva_eval.media.frames import FramePolicy, FrameSample, refuse_gaps
from longva_eval.media.probe import VideoInfo
from longva_eval.prompts.pieces import Prompt, VisualPiece

__all__ = ["Family", "Shape"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a picture, or each unit of a video, is seen: part of the identity of its tokens."""

    kind: Literal["image", "video"]
    height: int
    """Pixels after resizing."""
    width: int
    num_tokens: int
    grid: tuple[int, int] = (0, 0)
    """Patches (rows, columns), where positions depend on them."""
    tiles: int = 1
    """Of a picture that is cut."""
    padded: bool = False
    """Whether it is put on a square of the mean colour first."""

    def __str__(self) -> str:
        padded = "/pad" if self.padded else ""
        return f"{self.kind}/{self.width}x{self.height}/{self.num_tokens}{padded}"


class Family:
    """A family whose positions count and whose frames are encoded one by one.

    Args:
        model: transformers' own class, with its weights.
        processor: The checkpoint's.
    """

    architectures: ClassVar[tuple[str, ...]] = ()
    """Values of `architectures` in `config.json`."""
    rope_axes: ClassVar[tuple[str, ...]] = ("position",)
    """What rotary embeddings rotate by."""
    frames_per_unit = 1
    deepstack_levels = 0
    """Vectors beside each visual token that are added after the first layers."""
    mixes_pictures_and_videos = True
    """Whether the model's own class takes both in one prompt."""
    size_depends_on_count = False
    """Whether a frame is smaller where there are more of them."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.image_processor = processor.image_processor
        self.video_processor = processor.video_processor
        merged = processor._merge_kwargs(
            processor.valid_processor_kwargs, tokenizer_init_kwargs=processor.tokenizer.init_kwargs
        )
        self.images_kwargs: dict[str, Any] = dict(merged["images_kwargs"])
        self.images_kwargs["return_tensors"] = "pt"
        self.videos_kwargs: dict[str, Any] = dict(merged["videos_kwargs"]) | {
            "do_sample_frames": False, "return_metadata": False, "return_tensors": "pt",
        }  # fmt: skip

    # What stands in the text.

    @property
    def image_token(self) -> str:
        """What the chat template writes for a picture."""
        return str(self.processor.image_token)

    @property
    def video_token(self) -> str:
        """What the chat template writes for a video."""
        return str(self.processor.video_token)

    @property
    def pads(self) -> tuple[str, ...]:
        """Tokens whose embeddings visual tokens take the place of."""
        return (self.image_token, self.video_token)

    def picture_text(self, shape: Shape) -> str:
        """What the processor writes for a picture."""
        del shape
        return self.image_token

    def video_text(self, units: Sequence[VisualPiece]) -> str:
        """What the processor writes for a video."""
        del units
        return self.video_token

    def runs(self, pieces: Sequence[VisualPiece]) -> tuple[str, list[list[VisualPiece]]]:
        """A picture's or video's text with one pad for each run of pieces, and these runs."""
        shape: Shape = pieces[0].source.how
        is_video = shape.kind == "video"
        text = self.video_text(pieces) if is_video else self.picture_text(shape)
        pad = "|".join(map(re.escape, self.pads))
        text, count = re.subn(rf"({pad})(?:\1)*", r"\1", text)
        if count == 1:
            return text, [list(pieces)]
        assert count == len(pieces), "one run for all pieces, or one for each"
        return text, [[piece] for piece in pieces]

    # What is seen.

    def picture_shape(self, width: int, height: int, *, alone: bool) -> Shape:
        """How a picture is seen, alone in its prompt or beside others."""
        raise NotImplementedError

    def video_shape(self, num_frames: int, width: int, height: int) -> Shape:
        """How each unit of a video is seen."""
        raise NotImplementedError

    def square_shape(self) -> Shape:
        """How frames of a composed clip are seen, which are squares of one size."""
        raise NotImplementedError

    def picture_pixels(self, image: Image.Image, shape: Shape) -> torch.Tensor:
        """(1, ...) what the processor makes of a picture."""
        raise NotImplementedError

    def video_pixels(self, frames: torch.Tensor, shape: Shape) -> torch.Tensor:
        """(units, ...) what the processor makes of (units * frames_per_unit, 3, H, W) uint8."""
        raise NotImplementedError

    def tokens(self, pixels: torch.Tensor, shape: Shape) -> torch.Tensor:
        """(units, num_tokens, width) visual tokens, with deepstack vectors behind each."""
        raise NotImplementedError

    def unit_flops(self, shape: Shape) -> int:
        """FLOPs of encoding a unit, as torch counts them; the model may be without weights."""
        pixels = torch.empty(1, 3, shape.height, shape.width, device="meta")
        with FlopCounterMode(display=False) as counter:
            self.tokens(pixels, shape)
        return int(counter.get_total_flops())

    def closing_tokens(self) -> torch.Tensor | None:
        """(n, hidden_size) what stands behind a video's last frame."""
        return None

    def own_frames(self, info: VideoInfo, policy: FramePolicy) -> FrameSample:
        """The frames that the processor itself would take, with its own settings.

        `policy.fps` takes the place of its rate; where it has neither a rate nor a number, it is
        asked for `policy.max_frames`.

        Raises:
            MediaError: If its rule gives nothing for this video, or pictures are missing in it and
                `policy.gaps` is `error`.
        """
        if policy.gaps == "error":
            refuse_gaps(info)
        processor = self.video_processor
        settings = {name: getattr(processor, name, None) for name in _names(processor)}
        if policy.fps is not None:
            settings |= {"fps": policy.fps, "num_frames": None}
        elif settings.get("fps") is None and settings.get("num_frames") is None:
            settings["num_frames"] = min(policy.max_frames, info.num_frames)
        metadata = VideoMetadata(
            total_num_frames=info.num_frames,
            fps=info.average_fps,
            duration=info.duration_seconds,
        )
        try:
            found = processor.sample_frames(metadata=metadata, **settings)
        except ValueError as error:
            raise MediaError(f"{info.path}: {error}") from error
        return FrameSample.of(info, found)

    # Where it stands.

    def place(self, shape: Shape, interval_seconds: float) -> tuple[Any, ...]:
        """What positions depend on, beside the number of tokens."""
        del shape, interval_seconds
        return ()

    def positions(self, prompt: Prompt) -> torch.Tensor | None:
        """(axes, tokens) int64 positions; None if they count."""
        del prompt
        return None

    def describe(self) -> dict[str, Any]:
        """What of this family's rules a result should say."""
        return {}


def _names(processor: Any) -> list[str]:
    """Settings that a video processor takes."""
    own = ("video_metadata", "do_sample_frames", "return_metadata", "return_tensors", "device")
    return [name for name in processor.valid_kwargs.__annotations__ if name not in own]
