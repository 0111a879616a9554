"""Pixel values of frames on the model's own device, equal to Pillow's to the last bit.

Pillow resizes pictures of 8 bits in whole numbers: along one axis, then the other, with weights of
22 bits, rounded and clipped after each pass. Both passes are matrix products here, in float64,
which holds all of these whole numbers exactly. Which axis comes first depends on Pillow's version
and the size, so each size is tried once against Pillow, on the device. What follows (scale, mean,
deviation) depends on a level and its channel alone, and is looked up in what the checkpoint's own
processor makes of it.

Source: Pillow, src/libImaging/Resample.c.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from longva_eval.media.decode import Frames

__all__ = ["can_prepare", "pillows_order", "prepare_on", "resize_bicubic"]

Size = tuple[int, int]
"""(height, width) in pixels."""
Order = Literal["width first", "height first"]

_BITS = 22
_SUPPORT = 2.0
_AT_ONCE_BYTES = 1 << 26
"""Of frames in float64."""


def can_prepare(processor: CLIPImageProcessorPil) -> bool:
    """Whether a processor does what is done here: bicubic to the shortest side, centre crop."""
    side = dict(processor.size).get("shortest_edge")
    return bool(
        processor.do_resize
        and processor.do_center_crop
        and processor.resample == Image.Resampling.BICUBIC
        and dict(processor.crop_size) == {"height": side, "width": side}
    )


def prepare_on(
    frames: Frames, processor: CLIPImageProcessorPil, device: torch.device
) -> torch.Tensor | None:
    """As `longva_eval.media.images.frames_to_pixel_values` with `crop`, on a device.

    Args:
        frames: (num_frames, height, width, 3), uint8 RGB.
        processor: One that `can_prepare` says yes to.
        device: Where.

    Returns:
        (num_frames, 3, image_size, image_size), float32; or None where it would not be equal.
    """
    side = int(dict(processor.size)["shortest_edge"])
    height, width = frames.shape[1:3]
    short, long = sorted((height, width))
    longer = int(side * long / short)
    new_height, new_width = (side, longer) if height <= width else (longer, side)
    top, left = (new_height - side) // 2, (new_width - side) // 2
    order = pillows_order((height, width), (new_height, new_width), device)
    if order is None:
        return None
    levels = _levels(processor, side).to(device)
    parts = []
    for part in torch.split(
        torch.from_numpy(np.ascontiguousarray(frames)),
        max(1, _AT_ONCE_BYTES // (24 * height * width)),
    ):
        planes = part.to(device).permute(0, 3, 1, 2)
        resized = resize_bicubic(planes, (new_height, new_width), order)
        square = resized[:, :, top : top + side, left : left + side].long()
        parts.append(torch.stack([levels[c][square[:, c]] for c in range(3)], dim=1))
    return torch.cat(parts)


def resize_bicubic(planes: torch.Tensor, size: Size, order: Order) -> torch.Tensor:
    """Pictures resized as `Image.resize(..., BICUBIC)` does, to the last bit.

    Args:
        planes: (..., height, width), uint8.
        size: (height, width) of the result, in pixels.
        order: From `pillows_order`.

    Returns:
        (..., height, width), uint8, on the same device.
    """
    for axis in (-1, -2) if order == "width first" else (-2, -1):
        if planes.shape[axis] == size[axis]:
            continue
        weights = _weights(planes.shape[axis], size[axis]).to(planes.device)
        values = planes.double()
        planes = _rounded(values @ weights.T if axis == -1 else weights @ values)
    return planes


@functools.lru_cache(maxsize=256)
def pillows_order(old: Size, new: Size, device: torch.device) -> Order | None:
    """Which axis Pillow resizes first, by a picture of noise; None if neither gives its pixels."""
    noise = np.random.default_rng(0).integers(-200, 456, (*old, 3)).clip(0, 255).astype(np.uint8)
    expected = np.asarray(Image.fromarray(noise).resize(new[::-1], Image.Resampling.BICUBIC))
    planes = torch.from_numpy(noise).to(device).permute(2, 0, 1)
    for order in get_args(Order):
        found = resize_bicubic(planes, new, order).permute(1, 2, 0).cpu().numpy()
        if np.array_equal(found, expected):
            return order  # type: ignore[no-any-return]
    return None


def _rounded(sums: torch.Tensor) -> torch.Tensor:
    """Sums of `_BITS` more bits as levels from 0 to 255."""
    half = 1 << (_BITS - 1)
    return sums.add_(half).div_(1 << _BITS).floor_().clamp_(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=64)
def _weights(old: int, new: int) -> torch.Tensor:
    """(new, old) whole numbers in float64: the share of each pixel, times 2 ** 22."""
    scale = old / new
    stretch = max(scale, 1.0)
    weights = torch.zeros(new, old, dtype=torch.float64)
    for place in range(new):
        centre = (place + 0.5) * scale
        first = max(0, int(centre - _SUPPORT * stretch + 0.5))
        last = min(old, int(centre + _SUPPORT * stretch + 0.5))
        shares = [_bicubic((x - centre + 0.5) * (1.0 / stretch)) for x in range(first, last)]
        total = 0.0
        for share in shares:  # in Pillow's order: `sum` rounds otherwise from Python 3.12 on
            total += share
        for x, share in enumerate(shares, start=first):
            part = share / total * (1 << _BITS)
            weights[place, x] = int(part + math.copysign(0.5, part))
    return weights


def _bicubic(x: float) -> float:
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


def _levels(processor: CLIPImageProcessorPil, side: int) -> torch.Tensor:
    """(3, 256) what the processor makes of each level of each channel."""
    values = []
    for start in range(0, 256, side):
        column = np.arange(start, start + side).clip(0, 255).astype(np.uint8)
        picture = np.broadcast_to(column[:, None, None], (side, side, 3))
        made = processor(images=[Image.fromarray(picture)], return_tensors="pt")["pixel_values"]
        values.append(made[0, :, :, 0])
    return torch.cat(values, dim=1)[:, :256]
