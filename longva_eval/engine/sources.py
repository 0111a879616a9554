"""Pictures and videos as the model sees them: pieces of a prompt, and their visual tokens.

A *source* is one picture or one video. It gives its pieces before any pixel is read (a piece is
known by the content of its file, its place, and how it is prepared), and loads pixels only when
the encoder asks for tokens that nobody has computed yet. So a frame that ten questions share, or
that stands in every length of a needle grid, is decoded and encoded once.

Encodings of a picture, by `image_aspect_ratio` and the checkpoint's `mm_patch_merge_type`:

* `unires` (LongVA): canvas cut into tiles; the base tile is left out; each tile pooled 2 x 2 to
  144 tokens; tiles one after the other.
* `spatial_unpad` (AnyRes: LongVA-AnyRes, LLaVA-NeXT): base tile first, unpooled; then the tiles
  stitched to one map, padding cut off, a newline token after each row.
* `pad`, `crop`: one grid, unpooled, 576 tokens. V-NIAH prepares frames with `pad` and pools them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from PIL import Image
from transformers.models.llava_next.modeling_llava_next import unpad_image

from longva_eval.media.decode import DecodeBackend, Frames, read_frames
from longva_eval.media.frames import FrameSample
from longva_eval.media.images import (
    ImageAspectRatio,
    anyres_grid,
    anyres_tiles,
    frames_to_pixel_values,
    image_digest,
    parse_grid_pinpoints,
)
from longva_eval.media.probe import VideoInfo
from longva_eval.model.checkpoint import Checkpoint
from longva_eval.model.modeling import PoolMode, VisionLanguageModel, pool_visual_tokens
from longva_eval.prompts.pieces import VisualPiece

__all__ = [
    "FrameStack",
    "Picture",
    "VideoFrames",
    "VisualSource",
]

_UNIRES_POOL_STRIDE = 2
_ANYRES_MAX_TILES = 4
"""LongVA-AnyRes keeps LLaVA-NeXT's bound of 2 x 2 tiles (and 1 x n, n x 1 within four), where the
checkpoint's list of canvases goes beyond it."""


ReadFrames = Callable[..., Iterator[Frames]]
"""`longva_eval.media.decode.read_frames`, or the same from another process."""


class VisualSource(Protocol):
    """What the encoder needs of a picture or a video."""

    @property
    def media_key(self) -> str:
        """Identity of the picture or video and its preparation; equal keys are read together."""
        ...

    def pieces(self) -> list[VisualPiece]:
        """Its pieces in order, known without decoding."""
        ...

    def pixel_values(self, items: Sequence[int]) -> Iterator[torch.Tensor]:
        """Blocks of (n, 3, image_size, image_size), float32, for these pieces in order."""
        ...

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Projected features (n, patches, hidden) of a batch of a block."""
        ...

    def visual_tokens(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Features of a whole block as one tensor per piece."""
        ...

    def count_pieces(self, num_pixel_rows: int) -> int:
        """How many pieces a block with this many frames or tiles makes."""
        ...


def _frame_features(
    model: VisionLanguageModel, pixels: torch.Tensor, pool_stride: int, pool_mode: PoolMode
) -> torch.Tensor:
    """Features of frames: pooled already where the model does that before its projector."""
    if model.pools_before_projection:
        return model.encode_pixels(pixels, pool_stride=pool_stride, pool_mode=pool_mode)
    return model.encode_pixels(pixels)


def _frame_tokens(
    model: VisionLanguageModel, features: torch.Tensor, pool_stride: int, pool_mode: PoolMode
) -> list[torch.Tensor]:
    """Visual tokens of frames, one tensor each."""
    if model.pools_before_projection:
        return list(features)
    return list(pool_visual_tokens(features, pool_stride=pool_stride, pool_mode=pool_mode))


@dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """The chosen frames of a video; each is a piece."""

    checkpoint: Checkpoint
    info: VideoInfo
    sample: FrameSample
    backend: DecodeBackend = "auto"
    aspect: ImageAspectRatio = "crop"
    pool_stride: int = 2
    pool_mode: PoolMode = "average"
    read: ReadFrames = read_frames

    @property
    def media_key(self) -> str:
        return f"{self.info.digest}/{self.aspect}/{self.pool_mode}{self.pool_stride}"

    def pieces(self) -> list[VisualPiece]:
        side = self.checkpoint.model.patches_per_side // self.pool_stride
        how = f"{self.aspect}/{self.pool_mode}{self.pool_stride}"
        return [
            VisualPiece(f"{self.info.digest}#{index}/{how}", side * side, self, index)
            for index in self.sample.indices
        ]

    def count_pieces(self, num_pixel_rows: int) -> int:
        return num_pixel_rows

    def pixel_values(self, items: Sequence[int]) -> Iterator[torch.Tensor]:
        for block in self.read(self.info, items, backend=self.backend):
            yield frames_to_pixel_values(block, self.checkpoint.image_processor, aspect=self.aspect)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return _frame_features(self.checkpoint.model, pixels, self.pool_stride, self.pool_mode)

    def visual_tokens(self, features: torch.Tensor) -> list[torch.Tensor]:
        return _frame_tokens(self.checkpoint.model, features, self.pool_stride, self.pool_mode)


@dataclass(frozen=True, kw_only=True)
class FrameStack:
    """Pictures used as video frames: needles, or the frames a task hands over itself."""

    checkpoint: Checkpoint
    pictures: tuple[Image.Image, ...]
    """RGB."""
    aspect: ImageAspectRatio = "crop"
    pool_stride: int = 2
    pool_mode: PoolMode = "average"

    @property
    def media_key(self) -> str:
        return f"stack:{id(self)}"

    def count_pieces(self, num_pixel_rows: int) -> int:
        return num_pixel_rows

    def pieces(self) -> list[VisualPiece]:
        side = self.checkpoint.model.patches_per_side // self.pool_stride
        how = f"{self.aspect}/{self.pool_mode}{self.pool_stride}"
        return [
            VisualPiece(f"picture:{image_digest(picture)}/{how}", side * side, self, number)
            for number, picture in enumerate(self.pictures)
        ]

    def pixel_values(self, items: Sequence[int]) -> Iterator[torch.Tensor]:
        for item in items:
            yield frames_to_pixel_values(
                [self.pictures[item]], self.checkpoint.image_processor, aspect=self.aspect
            )

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return _frame_features(self.checkpoint.model, pixels, self.pool_stride, self.pool_mode)

    def visual_tokens(self, features: torch.Tensor) -> list[torch.Tensor]:
        return _frame_tokens(self.checkpoint.model, features, self.pool_stride, self.pool_mode)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture, in the checkpoint's encoding."""

    checkpoint: Checkpoint
    image: Image.Image
    """RGB."""
    aspect: ImageAspectRatio = "anyres"

    @property
    def media_key(self) -> str:
        return f"picture:{image_digest(self.image)}/{self.aspect}"

    def count_pieces(self, num_pixel_rows: int) -> int:
        return num_pixel_rows if self.aspect == "anyres" and self.merge == "unires" else 1

    @property
    def merge(self) -> Literal["unires", "anyres"]:
        """How tiles become tokens, from the checkpoint's `mm_patch_merge_type`."""
        return "unires" if self.checkpoint.config.mm_patch_merge_type == "unires" else "anyres"

    @property
    def tile_size(self) -> int:
        return int(self.checkpoint.model.vision_config.image_size)

    @property
    def grid_pinpoints(self) -> list[tuple[int, int]]:
        """Canvases the picture may be put on, (width, height) in pixels."""
        pinpoints = parse_grid_pinpoints(
            getattr(self.checkpoint.config, "image_grid_pinpoints", None), tile_size=self.tile_size
        )
        if self.merge == "anyres":
            limit = getattr(self.checkpoint.config, "anyres_max_tiles", _ANYRES_MAX_TILES)
            if limit is None:
                return pinpoints
            bounded = [(w, h) for w, h in pinpoints if w * h <= limit * self.tile_size**2]
            return bounded or pinpoints
        return pinpoints

    @property
    def grid(self) -> tuple[int, int]:
        """(columns, rows) of tiles."""
        return anyres_grid(self.image.size, self.grid_pinpoints, tile_size=self.tile_size)

    def tiles(self) -> torch.Tensor:
        """(1 + columns * rows, 3, tile_size, tile_size): the base tile, then the grid.

        With `pad` or `crop` the picture is one tile: (1, 3, tile_size, tile_size).
        """
        processor = self.checkpoint.image_processor
        if self.aspect == "anyres":
            cut = anyres_tiles(self.image, self.grid_pinpoints, tile_size=self.tile_size)
            return frames_to_pixel_values(cut, processor)
        return frames_to_pixel_values([self.image], processor, aspect=self.aspect)

    def pieces(self) -> list[VisualPiece]:
        name = f"picture:{image_digest(self.image)}"
        patches = self.checkpoint.model.patches_per_side
        if self.aspect != "anyres":
            return [VisualPiece(f"{name}/{self.aspect}", patches**2, self, 0)]
        columns, rows = self.grid
        if self.merge == "unires":
            tokens = (patches // _UNIRES_POOL_STRIDE) ** 2
            return [
                VisualPiece(f"{name}/unires{columns}x{rows}#{tile}", tokens, self, tile)
                for tile in range(1, columns * rows + 1)
            ]
        return [
            VisualPiece(
                f"{name}/anyres{columns}x{rows}", self._count_anyres_tokens(columns, rows), self, 0
            )
        ]

    def pixel_values(self, items: Sequence[int]) -> Iterator[torch.Tensor]:
        tiles = self.tiles()
        if self.aspect == "anyres" and self.merge == "unires":
            yield tiles[list(items)]  # without the base tile, whose features UniRes leaves out
        else:
            yield tiles

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.checkpoint.model.encode_pixels(pixels)

    def visual_tokens(self, features: torch.Tensor) -> list[torch.Tensor]:
        if self.aspect != "anyres":
            return [features[0]]
        if self.merge == "unires":
            return list(pool_visual_tokens(features, pool_stride=_UNIRES_POOL_STRIDE))
        return [self._pack_anyres(features)]

    def _count_anyres_tokens(self, columns: int, rows: int) -> int:
        side = self.checkpoint.model.patches_per_side
        shape = torch.empty(1, rows * side, columns * side, device="meta")
        height, width = unpad_image(shape, (self.image.height, self.image.width)).shape[1:]
        newlines = height if self.checkpoint.config.has_image_newline else 0
        return side * side + int(height * width) + int(newlines)

    def _pack_anyres(self, features: torch.Tensor) -> torch.Tensor:
        """Base tile, then the stitched and unpadded map with a newline token after each row.

        Source: LLaVA-NeXT (`spatial_unpad`), as in transformers' `LlavaNextModel`.
        """
        columns, rows = self.grid
        side = self.checkpoint.model.patches_per_side
        base, tiles = features[0], features[1:]
        hidden_size = tiles.shape[-1]
        stitched = tiles.view(rows, columns, side, side, hidden_size).permute(4, 0, 2, 1, 3)
        stitched = stitched.reshape(hidden_size, rows * side, columns * side)
        stitched = unpad_image(stitched, (self.image.height, self.image.width))
        newline = self.checkpoint.model.image_newline
        if newline is not None:
            column = newline.to(stitched)[:, None, None].expand(-1, stitched.shape[1], 1)
            stitched = torch.cat([stitched, column], dim=2)
        return torch.cat([base, stitched.flatten(1).transpose(0, 1)])
