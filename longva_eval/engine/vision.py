"""From frames and pictures to visual tokens, as LongVA and LLaVA-NeXT do it.

`pieces` are known before any pixel is read (a piece is known by the content of its file, its place,
and how it is prepared); `pixel_values` prepares pixels, in the thread that reads ahead; `tokens`
runs the network.

Encodings of a picture, by `image_aspect_ratio` and the checkpoint's `mm_patch_merge_type`:

* `unires` (LongVA): canvas cut into tiles; the base tile is left out; each tile pooled 2 x 2 to
  144 tokens; tiles one after the other.
* `spatial_unpad` (AnyRes: LongVA-AnyRes, LLaVA-NeXT): base tile first, unpooled; then the tiles
  stitched to one map, padding cut off, a newline token after each row.
* `pad`, `crop`: one grid, unpooled, 576 tokens. V-NIAH prepares frames with `pad` and pools them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import unpad_image

from longva_eval.errors import SettingsError
from longva_eval.families.vision import FamilyVision
from longva_eval.media.device_pixels import can_prepare, prepare_on
from longva_eval.media.images import (
    ImageAspectRatio,
    anyres_grid,
    anyres_tiles,
    frames_to_pixel_values,
    parse_grid_pinpoints,
)
from longva_eval.media.sources import Picture, Source
from longva_eval.model.llava_next import ClipModel
from longva_eval.model.modeling import PoolMode, pool_visual_tokens
from longva_eval.prompts.pieces import VisualPiece

__all__ = ["ClipVision", "Preparation", "Vision", "read_frame_pooling"]

_UNIRES_POOL_STRIDE = 2
_ANYRES_MAX_TILES = 4
"""LongVA-AnyRes keeps LLaVA-NeXT's bound of 2 x 2 tiles (and 1 x n, n x 1 within four), where the
checkpoint's list of canvases goes beyond it."""


@dataclass(frozen=True)
class Preparation:
    """How a picture or frame is prepared: part of the identity of its tokens."""

    aspect: ImageAspectRatio
    pool_stride: int
    pool_mode: PoolMode

    def __str__(self) -> str:
        return f"{self.aspect}/{self.pool_mode}{self.pool_stride}"


def read_frame_pooling(text: str, side: int) -> tuple[int, int] | None:
    """`same`, or `progressive:K:S` as (K, S), for frames of so many patches a side.

    Raises:
        SettingsError: If it is neither.

    Source: Visual Context Window Extension, arXiv:2409.20018: one frame of each group of K at the
        model's own resolution, the others pooled more.
    """
    if text == "same":
        return None
    found = re.fullmatch(r"progressive:(\d{1,6}):(\d{1,6})", text)
    if found is None or int(found[1]) < 2 or not 1 <= int(found[2]) <= side:
        raise SettingsError(
            f"frame_pooling={text!r} must be same, or progressive:K:S: of each K frames (2 or more)"
            f" one as the model pools them, the others pooled by S (1 to {side})."
        )
    return int(found[1]), int(found[2])


@dataclass(kw_only=True)
class ClipVision:
    """A CLIP tower and a projector over square grids."""

    model: ClipModel
    image_processor: CLIPImageProcessorPil
    aspect: ImageAspectRatio = "anyres"
    """How pictures are prepared that do not say it themselves; frames are `crop`."""
    pool_stride: int = 2
    """Of frames, in patches."""
    pool_mode: PoolMode = "average"
    progressive: tuple[int, int] | None = None
    """Every K-th frame is pooled by `pool_stride`, those between by S: (K, S)."""

    frames_per_unit: ClassVar[int] = 1
    """Frames that are encoded together, as one piece."""

    def video(self, units: Sequence[VisualPiece], *, composed: bool = False) -> list[VisualPiece]:
        """Pieces of frames, in a row, as one video; composed ones are shown one a second."""
        del composed
        if self.progressive is None:
            return list(units)  # nothing depends on what stands beside a frame
        every, stride = self.progressive
        sources: dict[int, Any] = {}
        return [
            self._pooled(unit, stride, sources) if place % every else unit
            for place, unit in enumerate(units)
        ]

    def _pooled(self, piece: VisualPiece, stride: int, sources: dict[int, Any]) -> VisualPiece:
        """A frame that is pooled by another stride; `sources` are those made before."""
        old = piece.source
        how = replace(old.how, pool_stride=stride)
        source = sources.setdefault(id(old), replace(old, how=how))
        side = self.model.patches_per_side // stride
        key = f"{source.frame_key(piece.item)}/{how}"
        return replace(piece, key=key, num_tokens=side * side, source=source)

    def pieces(self, source: Source, *, num_pictures: int = 1) -> list[VisualPiece]:
        """The pieces of a picture or video in order, known without decoding all of it.

        `num_pictures` stand in the same prompt.
        """
        del num_pictures
        aspect: ImageAspectRatio = self.aspect if isinstance(source, Picture) else "crop"
        how = Preparation(source.how or aspect, self.pool_stride, self.pool_mode)
        source = replace(source, how=how)
        if not isinstance(source, Picture):
            side = self.model.patches_per_side // self.pool_stride
            return [
                VisualPiece(f"{source.frame_key(item)}/{how}", side * side, source, item)
                for item in source.items
            ]
        patches = self.model.patches_per_side
        if how.aspect != "anyres":
            return [VisualPiece(f"{source.key}/{how.aspect}", patches**2, source, 0)]
        columns, rows = self.grid(source.image)
        if self.is_unires:
            tokens = (patches // _UNIRES_POOL_STRIDE) ** 2
            return [
                VisualPiece(f"{source.key}/unires{columns}x{rows}#{tile}", tokens, source, tile)
                for tile in range(1, columns * rows + 1)
            ]
        tokens = self.count_anyres_tokens(source.image.size)
        return [VisualPiece(f"{source.key}/anyres{columns}x{rows}", tokens, source, 0)]

    def pixel_values(self, source: Source, items: Sequence[int]) -> Iterator[torch.Tensor]:
        """Blocks of (n, 3, image_size, image_size), float32."""
        if isinstance(source, Picture):
            tiles = self.tiles(source.image, source.how.aspect)
            # UniRes leaves out the features of the base tile.
            yield tiles[list(items)] if self._is_cut_into_pieces(source) else tiles
            return
        device = self.model.device
        for block in source.frames(items):
            made = None
            if (
                device.type == "cuda"
                and source.how.aspect == "crop"
                and isinstance(block, np.ndarray)
                and can_prepare(self.image_processor)
            ):
                made = prepare_on(block, self.image_processor, device)
            if made is None:
                made = frames_to_pixel_values(block, self.image_processor, aspect=source.how.aspect)
            yield made

    def count_pieces(self, source: Source, num_rows: int) -> int:
        """How many pieces a block with this many rows makes."""
        is_one = isinstance(source, Picture) and not self._is_cut_into_pieces(source)
        return 1 if is_one else num_rows

    def tokens(
        self, source: Source, pixels: torch.Tensor, *, batch_size: int
    ) -> list[torch.Tensor]:
        """The (num_tokens, hidden_size) visual tokens of a block's pieces."""
        how: Preparation = source.how
        pooling: dict[str, Any] = {"pool_stride": how.pool_stride, "pool_mode": how.pool_mode}
        is_frame = not isinstance(source, Picture)
        pools_first = is_frame and self.model.pools_before_projection
        features = torch.cat(
            [
                self.model.encode_pixels(batch, **(pooling if pools_first else {}))
                for batch in torch.split(pixels, batch_size)
            ]
        )
        if isinstance(source, Picture):
            if how.aspect != "anyres":
                return [features[0]]
            if not self.is_unires:
                return [self.pack_anyres(features, source.image.size)]
            return list(pool_visual_tokens(features, pool_stride=_UNIRES_POOL_STRIDE))
        return list(features if pools_first else pool_visual_tokens(features, **pooling))

    def describe(self) -> dict[str, Any]:
        """How every picture and frame is prepared and encoded."""
        return {
            "image_processor": type(self.image_processor).__name__,
            "image_aspect_ratio": self.aspect,
            "mm_patch_merge_type": self.model.config.mm_patch_merge_type,
            "image_newline": self.model.image_newline is not None,
            "pools_before_projection": self.model.pools_before_projection,
            "mm_spatial_pool_stride": self.pool_stride,
            "mm_spatial_pool_mode": self.pool_mode,
            **(
                {}
                if self.progressive is None
                else {"frame_pooling": "progressive:{}:{}".format(*self.progressive)}
            ),
        }

    @property
    def is_unires(self) -> bool:
        """How tiles become tokens, from the checkpoint's `mm_patch_merge_type`."""
        return bool(self.model.config.mm_patch_merge_type == "unires")

    def _is_cut_into_pieces(self, picture: Picture) -> bool:
        return self.is_unires and picture.how.aspect == "anyres"

    @property
    def tile_size(self) -> int:
        return int(self.model.vision_config.image_size)

    @property
    def grid_pinpoints(self) -> list[tuple[int, int]]:
        """Canvases a picture may be put on, (width, height) in pixels."""
        config = self.model.config
        pinpoints = parse_grid_pinpoints(
            getattr(config, "image_grid_pinpoints", None), tile_size=self.tile_size
        )
        limit = getattr(config, "anyres_max_tiles", _ANYRES_MAX_TILES)
        if self.is_unires or limit is None:
            return pinpoints
        bounded = [(w, h) for w, h in pinpoints if w * h <= limit * self.tile_size**2]
        return bounded or pinpoints

    def grid(self, image: Image.Image) -> tuple[int, int]:
        """(columns, rows) of tiles."""
        return anyres_grid(image.size, self.grid_pinpoints, tile_size=self.tile_size)

    def tiles(self, image: Image.Image, aspect: ImageAspectRatio) -> torch.Tensor:
        """(1 + columns * rows, 3, tile_size, tile_size): the base tile, then the grid.

        With `pad` or `crop` the picture is one tile: (1, 3, tile_size, tile_size).
        """
        if aspect == "anyres":
            cut = anyres_tiles(image, self.grid_pinpoints, tile_size=self.tile_size)
            return frames_to_pixel_values(cut, self.image_processor)
        return frames_to_pixel_values([image], self.image_processor, aspect=aspect)

    def count_anyres_tokens(self, size: tuple[int, int]) -> int:
        """Tokens of a picture of (width, height) pixels."""
        columns, rows = anyres_grid(size, self.grid_pinpoints, tile_size=self.tile_size)
        side = self.model.patches_per_side
        shape = torch.empty(1, rows * side, columns * side, device="meta")
        height, width = unpad_image(shape, size[::-1]).shape[1:]
        newlines = height if self.model.config.has_image_newline else 0
        return side * side + int(height * width) + int(newlines)

    def pack_anyres(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Base tile, then the stitched and unpadded map with a newline token after each row.

        Args:
            features: (1 + columns * rows, patches, hidden_size) of a picture's tiles.
            size: Of the picture, (width, height) in pixels.

        Source: LLaVA-NeXT (`spatial_unpad`), as in transformers' `LlavaNextModel`.
        """
        columns, rows = anyres_grid(size, self.grid_pinpoints, tile_size=self.tile_size)
        side = self.model.patches_per_side
        base, tiles = features[0], features[1:]
        hidden_size = tiles.shape[-1]
        stitched = tiles.view(rows, columns, side, side, hidden_size).permute(4, 0, 2, 1, 3)
        stitched = stitched.reshape(hidden_size, rows * side, columns * side)
        stitched = unpad_image(stitched, size[::-1])
        newline = self.model.image_newline
        if newline is not None:
            column = newline.to(stitched)[:, None, None].expand(-1, stitched.shape[1], 1)
            stitched = torch.cat([stitched, column], dim=2)
        return torch.cat([base, stitched.flatten(1).transpose(0, 1)])


Vision = ClipVision | FamilyVision
"""How a model sees."""
