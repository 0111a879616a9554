"""Pictures become square grids, and grids become pixel values.

LongVA reads every picture as a row of grids of the vision tower's size (336 pixels):

* `anyres`: the best-fitting canvas of the checkpoint's list, the picture centred on it and cut
  into tiles. UniRes and AnyRes both start here and differ in what becomes of the tiles
  (`longva_eval.media.sources`).
* `pad`: the picture on a square of the mean colour, one grid. V-NIAH uses it for every frame.
* `crop`: shortest side to the grid, centre crop. Frames of a video.

Resizing is Pillow's bicubic throughout: the torchvision-based processor of transformers gives up
to two levels other pixels, enough to move every later number (see docs/differences.md).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from transformers import CLIPImageProcessorPil
from transformers.image_processing_utils import select_best_resolution

from longva_eval.errors import CheckpointError, MediaError, SettingsError
from longva_eval.media.decode import Frames, own_cores
from longva_eval.media.files import identify, printable

__all__ = [
    "ImageAspectRatio",
    "Orientation",
    "PatchMerge",
    "anyres_grid",
    "anyres_tiles",
    "frames_to_pixel_values",
    "open_image",
    "pad_to_square",
    "parse_grid_pinpoints",
    "read_picture",
    "whole_pictures_only",
]

ImageAspectRatio = Literal["anyres", "pad", "crop"]
Orientation = Literal["upright", "stored"]
_TIFF_SUBFILE, _TIFF_SMALLER = 254, 1
_TIFF_BITS, _TIFF_ZERO_IS, _WHITE = 258, 262, 0
_FRAMES_PER_THREAD = 4
_MOST_THREADS = 8
"""Of one process. One prepares 90 to 150 frames a second, eight 400; a tower takes 990 (H200)."""
PatchMerge = Literal["unires", "spatial_unpad"]
"""What becomes of the tiles of an `anyres` picture: LongVA's UniRes, or LLaVA-NeXT's AnyRes."""

_MOST_PIXELS = 1 << 26
"""Of a canvas; LongVA's largest has 49 tiles of 336 x 336, a twelfth of that."""


def read_picture(path: str | Path) -> Image.Image:
    """A picture file as the model gets it: RGB, upright.

    Raises:
        MediaError: As `open_image`.
    """
    return open_image(Path(path))


def open_image(
    image: Image.Image | str | Path, *, orientation: Orientation = "upright"
) -> Image.Image:
    """A picture as RGB.

    An alpha channel is dropped, not blended, and a palette is looked up, as in the original. Grey
    of 16 bits keeps its high byte; the original makes nearly all of it white. Grey as fractions
    from 0 to 1 is scaled; the original makes it black.

    Args:
        image: A file, or a picture in memory, which may be opened without having been read.
        orientation: `upright` turns a photograph as its EXIF entry says, and as `datasets` does;
            `stored` leaves it as it is, as the original does.

    Raises:
        MediaError: If the file is missing, no ordinary file, not one complete picture that Pillow
            can read, or has values beyond 8 bits of unknown range.
    """
    name: object = image
    if isinstance(image, Image.Image):
        name = getattr(image, "filename", "") or "in memory"
    else:
        name = printable(image)
        try:
            identify(Path(image), kind="picture")
        except MediaError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise MediaError(f"The picture {name} does not exist.") from error
            raise
    try:
        with whole_pictures_only():
            if isinstance(image, Image.Image):
                return _to_rgb(image, orientation)
            with Image.open(image) as opened:
                return _to_rgb(opened, orientation)
    except Image.DecompressionBombError as error:
        raise MediaError(f"The picture {name} is refused as too large: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        raise MediaError(f"The picture {name} cannot be read: {error}") from error


def _to_rgb(image: Image.Image, orientation: Orientation) -> Image.Image:
    _refuse_several(image)
    if image.format == "FITS":
        raise ValueError("of FITS Pillow does not read what the values mean; save it as a PNG.")
    tags, kind = getattr(image, "tag_v2", {}), image.format
    bits = tags.get(_TIFF_BITS, (16,))[0]
    if orientation == "upright":
        image = ImageOps.exif_transpose(image)
    is_deep = image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM"))
    if not is_deep and image.mode not in ("I", "F"):
        return image.convert("RGB")
    # Pillow clips deeper grey at 255 instead of scaling it, and inverts none where 0 is white. It
    # reads 16 bits (12 of TIFF) as I;16, or as I from a PGM (older ones from a PNG too); of 16-bit
    # colour it keeps the high byte itself.
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if is_deep:
        values = values >> (bits - 8)
    elif image.mode == "F" and low >= 0 and high <= 1:
        values = np.rint(values * 255)
    elif not (low >= 0 and high <= 255 and np.all(values == np.rint(values))):
        raise ValueError(
            f"its values from {low:g} to {high:g} are neither fractions from 0 to 1 nor whole "
            "numbers from 0 to 255; scale them to one of these."
        )
    grey = values.astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(_TIFF_ZERO_IS) == _WHITE else grey).convert("RGB")


def _refuse_several(image: Image.Image) -> None:
    """Refuse animations and documents of several pages.

    Cameras and icons keep other sizes of one picture in a file (MPO, ICO); so do TIFF files, where
    a page says that it is a smaller copy.
    """
    count = getattr(image, "n_frames", 1)
    if count < 2 or image.format in ("MPO", "PSD"):  # of these, Pillow shows the picture first
        return
    if image.format in ("WEBP", "AVIF"):  # FFmpeg reads one picture of these, or none
        raise ValueError(
            f"it is animated ({count} pictures). Make it a GIF and that a video: "
            "python -c \"from PIL import Image; Image.open('IN').save('OUT.gif', save_all=True)\"; "
            "ffmpeg -i OUT.gif OUT.mp4"
        )
    if image.format in ("GIF", "PNG", "FLI"):
        raise ValueError(
            f"it is animated ({count} pictures). Pass it as a video: ffmpeg -i IN OUT.mp4"
        )
    pages = count
    if image.format == "TIFF":
        pages = 0
        for page in range(count):
            image.seek(page)
            pages += not image.tag_v2.get(_TIFF_SUBFILE, 0) & _TIFF_SMALLER  # type: ignore[attr-defined]
        image.seek(0)
    if pages > 1:
        raise ValueError(
            f'it has {pages} pages. Save the one that is meant: python -c "from PIL import Image; '
            "i = Image.open('IN'); i.seek(0); i.save('OUT.png')\""
        )


@contextlib.contextmanager
def whole_pictures_only() -> Iterator[None]:
    """Let Pillow refuse pictures that are cut off.

    Importing lmms-eval's tasks sets `ImageFile.LOAD_TRUNCATED_IMAGES` for the whole process: Pillow
    then fills up what is missing with grey, and says nothing. Several threads may be inside at
    once; the last one that leaves puts the setting back. Threads that decode pictures of their own
    meanwhile get an error where they would have got grey.
    """
    with _whole_lock:
        if not _whole_outside:
            _whole_outside.append(ImageFile.LOAD_TRUNCATED_IMAGES)
        else:
            _whole_outside.append(_whole_outside[0])
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _whole_lock:
            outside = _whole_outside.pop()
            if not _whole_outside:
                ImageFile.LOAD_TRUNCATED_IMAGES = outside


_whole_lock = threading.Lock()
_whole_outside: list[bool] = []
"""What the setting is to be again, once for each that is inside."""


def parse_grid_pinpoints(value: Any, *, tile_size: int = 1) -> list[tuple[int, int]]:
    """The `image_grid_pinpoints` of a configuration as (width, height) pairs.

    Args:
        value: A list of pairs, or a string that spells one.
        tile_size: What each width and height must be a multiple of, in pixels.

    Raises:
        CheckpointError: If the value is anything else.
    """
    try:
        pairs = ast.literal_eval(value) if isinstance(value, str) else value
        if any(isinstance(pair, str) for pair in pairs):
            raise TypeError("a text is no pair")
        parsed = [(int(width), int(height)) for width, height in pairs]
    except (
        TypeError,
        ValueError,
        OverflowError,
        SyntaxError,
        RecursionError,
        MemoryError,
    ) as error:
        raise CheckpointError(
            f"image_grid_pinpoints={str(value)[:80]} is not a list of [width, height] pairs."
        ) from error
    if not parsed or min(min(pair) for pair in parsed) <= 0:
        raise CheckpointError(f"image_grid_pinpoints={str(value)[:80]} has no usable pair.")
    for pair in parsed:
        if pair[0] * pair[1] > _MOST_PIXELS:
            raise CheckpointError(
                f"image_grid_pinpoints has {str(list(pair))[:80]}; a canvas has at most "
                f"{_MOST_PIXELS:,} pixels."
            )
        if pair[0] % tile_size or pair[1] % tile_size:
            raise CheckpointError(
                f"image_grid_pinpoints has {list(pair)}, which is not made of whole tiles of "
                f"{tile_size} pixels, the vision tower's image_size."
            )
    return parsed


def anyres_grid(
    image_size: tuple[int, int], grid_pinpoints: Sequence[tuple[int, int]], *, tile_size: int
) -> tuple[int, int]:
    """Columns and rows of tiles that a picture is cut into.

    Args:
        image_size: (width, height) of the picture, in pixels.
        grid_pinpoints: Allowed canvases, (width, height) in pixels.
        tile_size: Side of a tile in pixels.

    Returns:
        (columns, rows) of the canvas that keeps most of the picture's pixels; of equals the
        smallest canvas; of those the first in the list.

    Source: LLaVA-NeXT; transformers has the same rule with height and width exchanged.
    """
    width, height = image_size
    best = select_best_resolution((height, width), [(h, w) for w, h in grid_pinpoints])
    if best is None:  # a picture so thin that it vanishes on every canvas
        smallest = min(grid_pinpoints, key=lambda pair: pair[0] * pair[1])
        best = (smallest[1], smallest[0])
    return best[1] // tile_size, best[0] // tile_size


def anyres_tiles(
    image: Image.Image, grid_pinpoints: Sequence[tuple[int, int]], *, tile_size: int
) -> list[Image.Image]:
    """The base tile and the grid of tiles of a picture.

    Args:
        image: RGB.
        grid_pinpoints: Allowed canvases, (width, height) in pixels.
        tile_size: Side of a tile in pixels.

    Returns:
        1 + columns * rows pictures of tile_size x tile_size: first the whole picture, squashed;
        then the tiles of the canvas, row by row.
    """
    columns, rows = anyres_grid(image.size, grid_pinpoints, tile_size=tile_size)
    canvas_width, canvas_height = columns * tile_size, rows * tile_size
    width, height = image.size
    scale_width, scale_height = canvas_width / width, canvas_height / height
    if scale_width < scale_height:
        new_width, new_height = canvas_width, min(math.ceil(height * scale_width), canvas_height)
    else:
        new_width, new_height = min(math.ceil(width * scale_height), canvas_width), canvas_height
    resized = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (canvas_width, canvas_height), (0, 0, 0))
    canvas.paste(resized, ((canvas_width - new_width) // 2, (canvas_height - new_height) // 2))
    base = image.resize((tile_size, tile_size), Image.Resampling.BICUBIC)
    corners = [
        (column * tile_size, row * tile_size) for row in range(rows) for column in range(columns)
    ]
    return [base] + [canvas.crop((x, y, x + tile_size, y + tile_size)) for x, y in corners]


def pad_to_square(image: Image.Image, background: Sequence[float]) -> Image.Image:
    """The picture in the middle of a square whose side is its longer one.

    Args:
        image: RGB.
        background: Mean of each channel in [0, 1]; the colour is int(mean * 255).
    """
    side = max(image.size)
    colour = tuple(int(mean * 255) for mean in background)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def frames_to_pixel_values(
    frames: Sequence[Image.Image] | Frames,
    processor: CLIPImageProcessorPil,
    *,
    aspect: ImageAspectRatio = "crop",
) -> torch.Tensor:
    """Resize, crop and normalise frames or tiles for the vision tower.

    Args:
        frames: RGB pictures, or (num_frames, height, width, 3) uint8.
        processor: The checkpoint's CLIP processor.
        aspect: `crop` (centre crop), or `pad` (square of the mean colour first).

    Returns:
        (num_frames, 3, image_size, image_size), float32. No frames give (0, 3, ...).
    """
    if aspect not in ("crop", "pad"):
        raise SettingsError(f"frames cannot be prepared with {aspect!r}; use crop or pad.")
    crop = processor.crop_size
    if len(frames) == 0:
        return torch.empty(0, 3, int(crop["height"]), int(crop["width"]))

    def prepare(part: Sequence[Image.Image] | Frames) -> torch.Tensor:
        pictures = [
            frame if isinstance(frame, Image.Image) else Image.fromarray(frame) for frame in part
        ]
        if aspect == "pad":
            pictures = [pad_to_square(picture, processor.image_mean) for picture in pictures]
        values: torch.Tensor = processor(images=pictures, return_tensors="pt")["pixel_values"]
        return values

    threads = min(_preparing_threads(), len(frames) // _FRAMES_PER_THREAD)
    if threads < 2:
        return prepare(frames)
    share = -(-len(frames) // threads)
    parts = [frames[start : start + share] for start in range(0, len(frames), share)]
    return torch.cat(list(_prepare_pool().map(prepare, parts)))


@functools.lru_cache(maxsize=1)
def _preparing_threads() -> int:
    """Few, since every process of a node has its own; none beside the main thread on two cores."""
    return min(_MOST_THREADS, own_cores() - 1)


@functools.lru_cache(maxsize=1)
def _prepare_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_preparing_threads(), thread_name_prefix="prepare")
