"""InternVL and LLaVA-OneVision: frames as squares of one size, positions that count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from accelerate.utils import align_module_device  # type: ignore[import-untyped]
from PIL import Image

from longva_eval.families.family import Family, Shape
from longva_eval.model.modeling import own_parameter
from longva_eval.prompts.pieces import VisualPiece

__all__ = ["InternVL", "LlavaOnevision"]


class _Squares(Family):
    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        size = self.video_processor.size
        self._height, self._width = int(size["height"]), int(size["width"])

    @property
    def tokens_per_frame(self) -> int:
        """Visual tokens of a frame."""
        raise NotImplementedError

    def video_shape(self, num_frames: int, width: int, height: int) -> Shape:
        del num_frames, width, height
        return self._frame(padded=False)

    def square_shape(self) -> Shape:
        return self._frame(padded=True)

    def _frame(self, *, padded: bool) -> Shape:
        return Shape(
            kind="video",
            height=self._height,
            width=self._width,
            num_tokens=self.tokens_per_frame,
            padded=padded,
        )

    def video_pixels(self, frames: torch.Tensor, shape: Shape) -> torch.Tensor:
        del shape
        prepared = self.video_processor([frames], **self.videos_kwargs)["pixel_values_videos"]
        return prepared[0]  # type: ignore[no-any-return]


class InternVL(_Squares):
    """InternVL3 and 3.5: `Frame1: <img>...</img>`, numbers instead of times; pictures in tiles."""

    architectures: ClassVar[tuple[str, ...]] = ("InternVLForConditionalGeneration",)

    @property
    def tokens_per_frame(self) -> int:
        return int(self.processor.image_seq_length)

    @property
    def pads(self) -> tuple[str, ...]:
        return (self.image_token,)

    def picture_text(self, shape: Shape) -> str:
        return str(self.processor.replace_image_token({"num_patches": [shape.tiles]}, 0))

    def video_text(self, units: Sequence[VisualPiece]) -> str:
        frames = torch.empty(len(units), 0)
        return str(self.processor.replace_video_token({"pixel_values_videos": [frames]}, 0))

    def picture_shape(self, width: int, height: int, *, alone: bool) -> Shape:
        del alone
        tiles = self.image_processor.get_number_of_image_patches(height, width, self.images_kwargs)
        return Shape(
            kind="image",
            height=self._height,
            width=self._width,
            num_tokens=int(tiles) * self.tokens_per_frame,
            tiles=int(tiles),
        )

    def picture_pixels(self, image: Image.Image, shape: Shape) -> torch.Tensor:
        del shape
        return self.image_processor(images=[image], **self.images_kwargs)["pixel_values"][None]  # type: ignore[no-any-return]

    def tokens(self, pixels: torch.Tensor, shape: Shape) -> torch.Tensor:
        if shape.kind == "image":
            pixels = pixels.flatten(0, 1)
        found = self.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
        return found.reshape(-1, shape.num_tokens, found.shape[-1])  # type: ignore[no-any-return]


class LlavaOnevision(_Squares):
    """LLaVA-OneVision: no text around frames, one newline token behind a video.

    A picture is cut into tiles only where it is alone in its prompt.
    """

    architectures: ClassVar[tuple[str, ...]] = ("LlavaOnevisionForConditionalGeneration",)

    @property
    def tokens_per_frame(self) -> int:
        side = round(int(self.processor.num_image_tokens) ** 0.5)
        return int(-(-side // 2)) ** 2

    def picture_shape(self, width: int, height: int, *, alone: bool) -> Shape:
        tile = torch.empty(1, self._height, self._width)
        tokens = self.processor.replace_image_token(
            {
                "batch_num_images": [1 if alone else 2],
                "image_sizes": [[height, width]] * 2,
                "pixel_values": [[tile]],
            },
            0,
        ).count(self.image_token)
        return Shape(
            kind="image", height=height, width=width, num_tokens=tokens, tiles=0 if alone else 1
        )

    def picture_pixels(self, image: Image.Image, shape: Shape) -> torch.Tensor:
        # Beside others it is one square, padded instead of cut: the processor counts them.
        images = [[image] if shape.tiles == 0 else [image, image]]
        return self.image_processor(images=images, **self.images_kwargs)["pixel_values"][:1]  # type: ignore[no-any-return]

    def tokens(self, pixels: torch.Tensor, shape: Shape) -> torch.Tensor:
        with align_module_device(self.model.model):  # its newline, with `device_map`
            if shape.kind == "video":
                found = self.model.get_video_features(
                    pixel_values_videos=pixels[:, None], return_dict=True
                ).pooler_output
                return torch.stack(list(found))[:, :-1]  # the newline comes once, behind the last
            found = self.model.get_image_features(
                pixel_values=pixels,
                image_sizes=torch.tensor([[shape.height, shape.width]]),
                batch_num_images=[1 if shape.tiles == 0 else 2],
                return_dict=True,
            ).pooler_output
        return torch.stack(list(found))

    def closing_tokens(self) -> torch.Tensor:
        newline = own_parameter(self.model.model, "image_newline")
        assert newline is not None
        return newline[None]
