"""Pixels made on a device are those that Pillow and the checkpoint's processor make."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil

from longva_eval.media.device_pixels import (
    can_prepare,
    pillows_order,
    prepare_on,
    resize_bicubic,
)
from longva_eval.media.images import frames_to_pixel_values

SIDES = st.integers(1, 90)
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


def noise(height: int, width: int, seed: int, count: int = 2) -> np.ndarray:
    """Frames of 0 and 255 and what lies between, so that sums are clipped too."""
    values = np.random.default_rng(seed).integers(-200, 456, (count, height, width, 3))
    return values.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=150)
@given(old=st.tuples(SIDES, SIDES), new=st.tuples(SIDES, SIDES), seed=st.integers(0, 99))
def test_every_size_is_resized_as_pillow_does(
    device: str, old: tuple[int, int], new: tuple[int, int], seed: int
) -> None:
    (frame,) = noise(*old, seed, 1)
    planes = torch.from_numpy(frame).to(device).permute(2, 0, 1)
    order = pillows_order(old, new, planes.device)
    assert order is not None
    found = resize_bicubic(planes, new, order).permute(1, 2, 0).cpu().numpy()
    expected = np.asarray(Image.fromarray(frame).resize(new[::-1], Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("side", [56, 336])
@pytest.mark.parametrize(
    "size", [(360, 640), (640, 361), (57, 56), (336, 336), (31, 480), (500, 961)]
)
def test_pixel_values_are_the_processors(size: tuple[int, int], side: int, device: str) -> None:
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    assert can_prepare(processor)
    frames = noise(*size, seed=1)
    found = prepare_on(frames, processor, torch.device(device))
    assert found is not None
    torch.testing.assert_close(
        found.cpu(), frames_to_pixel_values(frames, processor), rtol=0, atol=0
    )


def test_a_processor_that_does_something_else_is_left_to_pillow() -> None:
    assert not can_prepare(CLIPImageProcessorPil(do_center_crop=False))
    assert not can_prepare(CLIPImageProcessorPil(resample=Image.Resampling.BILINEAR))
    assert not can_prepare(CLIPImageProcessorPil(crop_size={"height": 300, "width": 336}))
