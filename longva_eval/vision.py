"""Pictures and videos as the model sees them: pieces of a prompt, and their visual tokens.

A *source* is one picture or one video. It gives its pieces before any pixel is read (a piece is
known by the content of its file, its place, and how it is prepared), and loads pixels only when
the encoder asks for tokens that nobody has computed yet. So a frame that ten questions share, or
that stands in every length of a needle grid, is decoded and encoded once.

Encodings of a picture, by `image_aspect_ratio` and the checkpoint's `mm_patch_merge_type`:

* `unires` (LongVA): canvas cut into tiles; the base tile is left out; each tile pooled 2 x 2 to
  144 tokens; tiles one after the other.
* `anyres` (LongVA-AnyRes, LLaVA-NeXT): base tile first, unpooled; then the tiles stitched to one
  map, padding cut off, a newline token after each row.
* `pad`, `crop`: one grid, unpooled, 576 tokens. V-NIAH prepares frames with `pad` and pools them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from PIL import Image
from transformers.models.llava_next.modeling_llava_next import unpad_image

from longva_eval.checkpoint import Checkpoint
from longva_eval.errors import CheckpointError, SettingsError
from longva_eval.images import (
    ImageAspectRatio,
    anyres_grid,
    anyres_tiles,
    frames_to_pixel_values,
    image_digest,
    parse_grid_pinpoints,
)
from longva_eval.modeling import PoolMode, pool_visual_tokens
from longva_eval.prompt import VisualPiece
from longva_eval.video import DecodeBackend, FrameSample, VideoInfo, read_frames

__all__ = [
    "FrameStack",
    "Picture",
    "VideoFrames",
    "VisualEncoder",
    "VisualSource",
]

_UNIRES_POOL_STRIDE = 2
_ANYRES_MAX_TILES_PER_SIDE = 2
"""LongVA-AnyRes keeps LLaVA-NeXT's bound of 2 x 2 tiles (and 1 x n, n x 1 within four)."""


class VisualSource(Protocol):
    """What the encoder needs of a picture or a video."""

    def pieces(self) -> list[VisualPiece]:
        """Its pieces in order, known without decoding."""
        ...

    def pixel_values(self, items: Sequence[int]) -> Iterator[torch.Tensor]:
        """Blocks of (n, 3, image_size, image_size), float32, for these pieces in order."""
        ...

    def visual_tokens(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Projected features (n, patches, hidden) of a block as one tensor per piece."""
        ...


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

    def pieces(self) -> list[VisualPiece]:
        side = self.checkpoint.model.patches_per_side // self.pool_stride
        how = f"{self.aspect}/{self.pool_mode}{self.pool_stride}"
        return [
            VisualPiece(f"{self.info.digest}#{index}/{how}", side * side, self, index)
            for index in self.sample.indices
        ]

    def pixel_values(self, items: Sequence[int]) -> Iterator[torch.Tensor]:
        for block in read_frames(self.info, items, backend=self.backend):
            yield frames_to_pixel_values(block, self.checkpoint.image_processor, aspect=self.aspect)

    def visual_tokens(self, features: torch.Tensor) -> list[torch.Tensor]:
        return list(
            pool_visual_tokens(features, pool_stride=self.pool_stride, pool_mode=self.pool_mode)
        )


@dataclass(frozen=True, kw_only=True)
class FrameStack:
    """Pictures used as video frames: needles, or the frames a task hands over itself."""

    checkpoint: Checkpoint
    pictures: tuple[Image.Image, ...]
    """RGB."""
    aspect: ImageAspectRatio = "crop"
    pool_stride: int = 2
    pool_mode: PoolMode = "average"

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

    def visual_tokens(self, features: torch.Tensor) -> list[torch.Tensor]:
        return list(
            pool_visual_tokens(features, pool_stride=self.pool_stride, pool_mode=self.pool_mode)
        )


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture, in the checkpoint's encoding."""

    checkpoint: Checkpoint
    image: Image.Image
    """RGB."""
    aspect: ImageAspectRatio = "anyres"

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
        pinpoints = parse_grid_pinpoints(self.checkpoint.config.image_grid_pinpoints)
        if self.merge == "anyres":
            limit = _ANYRES_MAX_TILES_PER_SIDE**2 * self.tile_size**2
            bounded = [(w, h) for w, h in pinpoints if w * h <= limit]
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
                VisualPiece(f"{name}/unires#{tile}", tokens, self, tile)
                for tile in range(1, columns * rows + 1)
            ]
        return [VisualPiece(f"{name}/anyres", self._count_anyres_tokens(columns, rows), self, 0)]

    def pixel_values(self, items: Sequence[int]) -> Iterator[torch.Tensor]:
        tiles = self.tiles()
        if self.aspect == "anyres" and self.merge == "unires":
            yield tiles[list(items)]  # without the base tile, whose features UniRes leaves out
        else:
            yield tiles

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
        newline = getattr(self.checkpoint.model.model, "image_newline", None)
        if newline is not None:
            column = newline.to(stitched)[:, None, None].expand(-1, stitched.shape[1], 1)
            stitched = torch.cat([stitched, column], dim=2)
        return torch.cat([base, stitched.flatten(1).transpose(0, 1)])


class VisualEncoder:
    """Visual tokens of pieces, each computed once and kept while somebody may need it.

    Args:
        checkpoint: The model.
        batch_size: Frames or tiles that go through the vision tower at once.
        keep_bytes: Tokens kept in memory; beyond it the least recently used go first.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, batch_size: int = 16, keep_bytes: int = 4 << 30
    ) -> None:
        if batch_size < 1:
            raise SettingsError(f"vision_batch_size={batch_size} must be at least 1.")
        self._checkpoint = checkpoint
        self._batch_size = batch_size
        self._keep_bytes = keep_bytes
        self._kept: dict[str, torch.Tensor] = {}
        self._kept_bytes = 0
        self.num_encoded = 0
        """Pieces that went through the vision tower so far."""

    def encode(self, pieces: Sequence[VisualPiece]) -> list[torch.Tensor]:
        """The visual tokens of each piece.

        Returns:
            One (num_tokens, hidden_size) tensor per piece, in the model's dtype, on the device of
            the projector.

        Raises:
            MediaError: If a picture or video cannot be read.
        """
        found: dict[str, torch.Tensor] = {}
        missing: dict[int, list[VisualPiece]] = {}
        for asked in pieces:
            piece = asked.whole or asked
            if piece.key in found:
                continue
            if piece.key in self._kept:
                found[piece.key] = self._kept[piece.key] = self._kept.pop(piece.key)
            else:
                found[piece.key] = torch.empty(0)  # marks it as asked for
                missing.setdefault(id(piece.source), []).append(piece)
        for wanted in missing.values():
            wanted = sorted(wanted, key=lambda piece: piece.item)
            source: VisualSource = wanted[0].source
            tokens = self._encode_source(source, [piece.item for piece in wanted])
            for piece, value in zip(wanted, tokens, strict=True):
                if value.shape[0] != piece.num_tokens:
                    raise CheckpointError(
                        f"{piece.key} became {value.shape[0]} tokens, {piece.num_tokens} expected."
                    )
                found[piece.key] = value
                self._keep(piece.key, value)
        return [found[(piece.whole or piece).key][: piece.num_tokens] for piece in pieces]

    def _encode_source(self, source: VisualSource, items: Sequence[int]) -> Iterator[torch.Tensor]:
        for pixels in source.pixel_values(items):
            features = torch.cat(
                [
                    self._checkpoint.model.encode_pixels(batch)
                    for batch in torch.split(pixels, self._batch_size)
                ]
            )
            self.num_encoded += len(pixels)
            yield from source.visual_tokens(features)

    def _keep(self, key: str, value: torch.Tensor) -> None:
        # A slice of a batch would keep the whole batch alive.
        self._kept[key] = value.clone()
        self._kept_bytes += value.numel() * value.element_size()
        while self._kept_bytes > self._keep_bytes:
            oldest = self._kept.pop(next(iter(self._kept)))
            self._kept_bytes -= oldest.numel() * oldest.element_size()
