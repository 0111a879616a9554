"""Still pictures for training, prepared as the evaluation prepares frames.

Every picture goes through Pillow's bicubic resize, most after a round of JPEG, whose blocks and
halved colour resemble those of H.264. No video and no sequence of frames is used in training.
"""

import io
import math
import random
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from longva_eval.needle.scenes import (
    DISTRACTORS,
    LOCATORS,
    Scene,
    caption_words,
    random_scene,
    render_scene,
)
from training.progress import Progress
from training.vocabulary import token_id

__all__ = [
    "IMAGE_MEAN",
    "IMAGE_STD",
    "Pictures",
    "degrade",
    "make_pictures",
    "normalize",
    "prepare",
]

# CLIP's, as in its `preprocessor_config.json`.
IMAGE_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD: Final = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Pictures:
    """A pool of still pictures with their captions."""

    pixels: npt.NDArray[np.uint8]
    """(count, side, side, 3) RGB."""
    captions: npt.NDArray[np.int64]
    """(count, 4) token ids: what, colour, number, full stop."""
    is_locator: npt.NDArray[np.bool_]
    """(count,) whether the picture shows a locator."""


def prepare(picture: Image.Image, image_size: int) -> npt.NDArray[np.uint8]:
    """Resize a square picture as CLIP's Pillow processor does."""
    return np.asarray(picture.resize((image_size, image_size), Image.Resampling.BICUBIC))


def degrade(rng: random.Random, pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Most often a round of JPEG, whose blocks resemble those of H.264."""
    picture = Image.fromarray(pixels)
    if rng.random() < 0.25:
        return picture
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=rng.randint(20, 95))
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def _random_training_scene(rng: random.Random) -> Scene:
    draw = rng.random()
    digit = rng.choice("0123456789") if rng.random() < 0.7 else None
    if draw < 0.62:
        return random_scene(rng, shape=rng.choice(LOCATORS), digit=digit)
    scene = random_scene(rng, shape=rng.choice(DISTRACTORS) if draw < 0.94 else None, digit=digit)
    # Distractors turn about in a haystack; here they are seen from every side, and at places
    # that they only reach by moving.
    place = (0.5 + rng.uniform(-0.24, 0.24), 0.5 + rng.uniform(-0.24, 0.24))
    return replace(scene, angle=rng.uniform(-math.pi, math.pi), center=place)


def make_pictures(count: int, *, seed: str, image_size: int) -> Pictures:
    """Draw a pool of pictures.

    Args:
        count: How many.
        seed: Seed of the scenes.
        image_size: Side of the vision tower's input, in pixels.
    """
    rng = random.Random(f"pictures-{seed}")
    pixels = np.empty((count, image_size, image_size, 3), dtype=np.uint8)
    captions = np.empty((count, 4), dtype=np.int64)
    is_locator = np.empty(count, dtype=np.bool_)
    progress = Progress(f"pictures {seed}", count)
    for index in range(count):
        scene = _random_training_scene(rng)
        drawn = render_scene(scene, side=rng.choice((64, 96)))
        pixels[index] = prepare(degrade(rng, drawn), image_size)
        captions[index] = [token_id(word) for word in caption_words(scene)]
        is_locator[index] = scene.shape in LOCATORS
        progress.update(index + 1)
    progress.close()
    return Pictures(pixels, captions, is_locator)


def normalize(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """CLIP's pixel values.

    Args:
        pixels: (count, side, side, 3) RGB.

    Returns:
        (count, 3, side, side) float32.
    """
    values = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255.0
    mean = torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGE_STD).view(1, 3, 1, 1)
    return (values - mean) / std
