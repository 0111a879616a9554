"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and GLM-4V: patches in a grid, positions on three axes.

* Neighbouring frames are encoded in pairs; an odd one is repeated, as the processor does.
* A frame's size follows a budget of pixels. In Qwen3-VL and GLM it is one for the whole video, so
  that frames are smaller where there are more.
* Positions (temporal, height, width) are those of the model's own `get_rope_index`, and new tokens
  continue at the prompt's last position + 1: the rule of `generate()`. (`forward()` without
  positions continues at the largest position + 1, another rule.)
* Qwen3-VL adds deepstack vectors at visual tokens after its first layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, ClassVar

import torch
from PIL import Image
from transformers.image_utils import SizeDict
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from longva_eval.families.family import Family, Shape
from longva_eval.prompts.pieces import Prompt, TextPiece, VisualPiece

__all__ = ["Glm", "Qwen2", "Qwen3", "Qwen25"]

_CLIP_TOKENS_PER_SIDE = 12
"""A frame of a composed clip has 12 x 12 tokens, as LongVA's."""
_TYPE_IDS = {"image": 1, "video": 2}


class _Grid(Family):
    rope_axes = ("temporal", "height", "width")

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self.frames_per_unit = int(self.video_processor.temporal_patch_size)
        self._merge = int(self.video_processor.merge_size)
        # Unset, transformers warns that its default is about to change.
        if "cap_pixels_per_frame" in self.video_processor.valid_kwargs.__annotations__:
            capped = bool(getattr(self.video_processor, "cap_pixels_per_frame", None))
            self.videos_kwargs["cap_pixels_per_frame"] = capped

    # What is seen.

    def picture_shape(self, width: int, height: int, *, alone: bool) -> Shape:
        del alone
        return self._shape("image", self._resized(self.image_processor, height, width))

    def video_shape(self, num_frames: int, width: int, height: int) -> Shape:
        # A single frame is repeated to fill its unit before it is measured.
        count = max(num_frames, self.frames_per_unit)
        return self._shape("video", self._resized(self.video_processor, height, width, count))

    def square_shape(self) -> Shape:
        side = _CLIP_TOKENS_PER_SIDE * self._merge * int(self.video_processor.patch_size)
        return self._shape("video", (side, side), padded=True)

    def _resized(
        self, processor: Any, height: int, width: int, num_frames: int | None = None
    ) -> tuple[int, int]:
        """The size that the processor's own rule gives, without any pixels."""
        shape = (1, 3, height, width) if num_frames is None else (1, num_frames, 3, height, width)
        if not processor.do_resize:
            return height, width
        resized = processor.resize(
            torch.empty(shape, dtype=torch.uint8, device="meta"),
            size=SizeDict(**dict(processor.size)),
            resample=processor.resample,
            factor=processor.patch_size * processor.merge_size,
            temporal_factor=processor.temporal_patch_size,
            cap_pixels_per_frame=self.videos_kwargs.get("cap_pixels_per_frame"),
        )
        return int(resized.shape[-2]), int(resized.shape[-1])

    def _shape(self, kind: Any, size: tuple[int, int], *, padded: bool = False) -> Shape:
        rows, columns = (side // int(self.video_processor.patch_size) for side in size)
        return Shape(
            kind=kind,
            height=size[0],
            width=size[1],
            num_tokens=rows * columns // self._merge**2,
            grid=(rows, columns),
            padded=padded,
        )

    def picture_pixels(self, image: Image.Image, shape: Shape) -> torch.Tensor:
        del shape
        return self.image_processor(images=[image], **self.images_kwargs)["pixel_values"][None]  # type: ignore[no-any-return]

    def video_pixels(self, frames: torch.Tensor, shape: Shape) -> torch.Tensor:
        processor = self.video_processor
        resized = BaseVideoProcessor.resize(
            processor,
            frames,
            SizeDict(height=shape.height, width=shape.width),
            resample=processor.resample,
        )
        patches = processor([resized], **(self.videos_kwargs | {"do_resize": False}))
        rows, columns = shape.grid
        return patches["pixel_values_videos"].unflatten(0, (-1, rows * columns))  # type: ignore[no-any-return]

    def tokens(self, pixels: torch.Tensor, shape: Shape) -> torch.Tensor:
        grid = torch.tensor([[1, *shape.grid]] * len(pixels), device=pixels.device)
        encode = (
            self.model.get_image_features
            if shape.kind == "image"
            else self.model.get_video_features
        )
        found = encode(pixels.flatten(0, 1), grid, return_dict=True)
        levels = [found.pooler_output]
        if self.deepstack_levels:
            levels += found.deepstack_features
        return torch.cat([torch.stack(list(level)) for level in levels], dim=-1)

    def unit_flops(self, shape: Shape) -> int:
        tower, config = self.model.model.visual, self.model.config.vision_config
        num_patches = shape.grid[0] * shape.grid[1]
        at_patches = _matrices(tower.patch_embed) + _matrices(tower.blocks)
        merged = _matrices(tower) - at_patches
        pairs = [num_patches**2] * len(tower.blocks)  # of patches that see each other
        if hasattr(config, "fullatt_block_indexes"):  # the other layers see windows
            side = config.window_size // self._merge // config.patch_size * self._merge
            rows, columns = (n // side * side**2 + (n % side) ** 2 for n in shape.grid)
            pairs = [
                whole if layer in config.fullatt_block_indexes else rows * columns
                for layer, whole in enumerate(pairs)
            ]
        width = int(tower.blocks[0].attn.qkv.in_features)
        products = at_patches * num_patches + merged * shape.num_tokens
        return 2 * products + 4 * width * sum(pairs)

    # Where it stands.

    def place(self, shape: Shape, interval_seconds: float) -> tuple[Any, ...]:
        del interval_seconds
        return (shape.kind, *shape.grid)

    def positions(self, prompt: Prompt) -> torch.Tensor:
        types: list[int] = []
        grids: dict[str, list[list[int]]] = {"image": [], "video": []}
        intervals: list[float] = []
        for kind, group in groupby(prompt.pieces, key=_kind):
            pieces = list(group)
            types += [_TYPE_IDS.get(kind, 0)] * sum(piece.num_tokens for piece in pieces)
            if kind == "text":
                continue
            visual = [piece for piece in pieces if isinstance(piece, VisualPiece)]
            _, rows, columns, *rest = visual[0].place
            grids[kind].append([len(visual), rows, columns])
            if kind == "video":
                intervals += rest
        known: dict[str, Any] = {
            f"{kind}_grid_thw": torch.tensor(found) for kind, found in grids.items() if found
        }
        if intervals:
            known["second_per_grid_ts"] = torch.tensor(intervals)
        table, _ = self.model.model.get_rope_index(
            torch.zeros(1, len(types), dtype=torch.int64),
            mm_token_type_ids=torch.tensor([types]),
            **known,
        )
        return table[:, 0]  # type: ignore[no-any-return]


def _matrices(part: torch.nn.Module) -> int:
    """Numbers in matrices that are multiplied with."""
    return sum(
        weight.numel()
        for module in part.modules()
        if not isinstance(module, torch.nn.Embedding)
        for weight in module.parameters(recurse=False)
        if weight.ndim > 1
    )


def _kind(piece: TextPiece | VisualPiece) -> str:
    return "text" if isinstance(piece, TextPiece) else str(piece.place[0])


class Qwen2(_Grid):
    """Qwen2-VL: a video is one run of tokens, without times."""

    architectures: ClassVar[tuple[str, ...]] = ("Qwen2VLForConditionalGeneration",)


class Qwen25(_Grid):
    """Qwen2.5-VL: time is in the temporal positions, as seconds between units.

    The processor takes frames for evenly spread over the whole file; here it is their true
    distance. Equal frames at another distance are no equal prefix: positions differ.
    """

    architectures: ClassVar[tuple[str, ...]] = ("Qwen2_5_VLForConditionalGeneration",)

    def place(self, shape: Shape, interval_seconds: float) -> tuple[Any, ...]:
        times = (interval_seconds,) if shape.kind == "video" else ()
        return (*super().place(shape, interval_seconds), *times)


class _Timed(_Grid):
    """The processor writes a time at each unit."""

    size_depends_on_count = True

    def video_text(self, units: Sequence[VisualPiece]) -> str:
        seconds = list(_seconds(units))
        # With frames_indices in seconds and one frame a second, the times are these.
        metadata = VideoMetadata(
            total_num_frames=len(seconds),
            fps=1.0,
            frames_indices=seconds,
        )
        one_token_each = torch.tensor([[len(units), self._merge, self._merge]])
        text = self.processor.replace_video_token(
            {"video_grid_thw": one_token_each, "video_metadata": [metadata]}, 0
        )
        return str(text)


def _seconds(units: Sequence[VisualPiece]) -> Iterator[float]:
    for unit in units:
        yield from unit.seconds


class Qwen3(_Timed):
    """Qwen3-VL and its mixtures of experts: `<12.5 seconds>`, then the unit; deepstack."""

    architectures: ClassVar[tuple[str, ...]] = (
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
    )

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self.deepstack_levels = len(model.config.vision_config.deepstack_visual_indexes)


class Glm(_Timed):
    """GLM-4.1V, 4.5V and 4.6V: the unit, then the time of its first frame.

    Which way it is written is the processor's, and a checkpoint's processor need not be named as
    its model: GLM-4.6V-Flash runs with the class of 4.1V and the processor of 4.6V.
    """

    architectures: ClassVar[tuple[str, ...]] = (
        "Glm4vForConditionalGeneration",
        "Glm4vMoeForConditionalGeneration",
        "Glm46VForConditionalGeneration",
    )

    mixes_pictures_and_videos = False  # transformers counts frames as pictures, and stops

    @property
    def pads(self) -> tuple[str, ...]:
        return (self.image_token,)  # in videos, too
