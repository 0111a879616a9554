"""Small drawn pictures and videos, made from a seed.

Everything LongVA-tiny has ever seen, and everything it is tested on, is a `Scene`: a muted
texture, perhaps a coloured silhouette, perhaps a digit in a black corner box. Needles show a
*locator* silhouette (star, key, boat, ...), haystacks only *distractors* (circle, bar, ...), so
that a locator never occurs in a haystack by chance. A scene also knows its caption, which makes
the same haystack available as text.

Only Pillow and NumPy are used, and no fonts: the digits are small bitmaps, as fonts differ
between machines.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

__all__ = [
    "COLORS",
    "DISTRACTORS",
    "LOCATORS",
    "TEXTURES",
    "Scene",
    "Texture",
    "caption_sentence",
    "caption_words",
    "haystack_scenes",
    "pointer_scene",
    "random_scene",
    "render_scene",
]

RgbImage: TypeAlias = npt.NDArray[np.uint8]
_Points: TypeAlias = list[tuple[float, float]]
# A polygon in [-1, 1], and whether it is filled (or cut out).
_Part: TypeAlias = tuple[_Points, bool]

COLORS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (225, 25, 30),
    "orange": (250, 135, 10),
    "yellow": (245, 230, 20),
    "green": (20, 165, 50),
    "blue": (25, 60, 225),
    "purple": (125, 25, 165),
    "pink": (250, 140, 195),
    "white": (250, 250, 250),
}
"""Colours of silhouettes, in RGB."""
_DARK: Final = (20, 20, 20)

TEXTURES: Final = ("waves", "stripes", "tiles", "sand", "clouds")
"""Names of the background textures."""


def _ring(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> _Points:
    """Points on an ellipse, clockwise in degrees from the right."""
    angles = np.radians(np.linspace(start, stop, 28))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def _box(x0: float, y0: float, x1: float, y1: float) -> _Points:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _outline(*numbers: float) -> _Points:
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _star() -> _Points:
    radii = [1.0, 0.42] * 5
    return [
        (r * math.sin(math.pi * k / 5), -r * math.cos(math.pi * k / 5)) for k, r in enumerate(radii)
    ]


def _heart() -> _Points:
    points = []
    for t in np.linspace(0, 2 * math.pi, 40):
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 16.5, -y / 16.5))
    return points


_SILHOUETTES: Final = {
    # Locators.
    "star": "star",
    "heart": "heart",
    "moon": "ring 0 0 0.95 0.95; cut ring 0.45 -0.1 0.78 0.78",
    "cross": "box -0.3 -0.95 0.3 0.95; box -0.95 -0.3 0.95 0.3",
    "arrow": "outline -1 -0.2 0.15 -0.2 0.15 -0.7 1 0 0.15 0.7 0.15 0.2 -1 0.2",
    "house": "outline 0 -0.95 1 -0.1 0.72 -0.1 0.72 0.9 -0.72 0.9 -0.72 -0.1 -1 -0.1; "
    "cut box -0.22 0.25 0.22 0.9",
    "bolt": "outline 0.25 -1 -0.6 0.15 -0.05 0.15 -0.3 1 0.6 -0.25 0.05 -0.25",
    "flag": "box -0.75 -1 -0.5 1; outline -0.5 -0.95 0.9 -0.95 0.55 -0.45 0.9 0.05 -0.5 0.05",
    "key": "ring -0.55 0 0.42 0.42; cut ring -0.55 0 0.18 0.18; box -0.2 -0.13 1 0.13; "
    "box 0.35 0 0.52 0.45; box 0.78 0 0.95 0.45",
    "cup": "ring 0.5 0 0.45 0.42; cut ring 0.5 0 0.22 0.2; "
    "outline -0.85 -0.75 0.55 -0.75 0.4 0.8 -0.7 0.8",
    "fish": "ring -0.2 0 0.75 0.5; outline 0.35 0 1 -0.6 1 0.6; cut ring -0.6 -0.12 0.1 0.1",
    "umbrella": "ring 0 0 1 0.95 180 360; box -0.08 0 0.08 0.85; box -0.08 0.75 0.45 0.93; "
    "box 0.29 0.5 0.45 0.93",
    "tree": "outline 0 -1 0.6 -0.3 0.3 -0.3 0.85 0.45 -0.85 0.45 -0.3 -0.3 -0.6 -0.3; "
    "box -0.17 0.45 0.17 1",
    "boat": "outline -1 0.4 1 0.4 0.6 0.9 -0.6 0.9; outline -0.08 -1 -0.08 0.25 -0.85 0.25; "
    "outline 0.08 -0.7 0.08 0.25 0.7 0.25",
    "hourglass": "outline -0.75 -0.95 0.75 -0.95 0.1 0 0.75 0.95 -0.75 0.95 -0.1 0",
    "crown": "outline -0.9 0.7 -0.95 -0.6 -0.45 0 0 -0.8 0.45 0 0.95 -0.6 0.9 0.7",
    "ladder": "box -0.6 -1 -0.38 1; box 0.38 -1 0.6 1; box -0.5 -0.8 0.5 -0.6000000000000001; "
    "box -0.5 -0.3 0.5 -0.09999999999999998; box -0.5 0.2 0.5 0.4; "
    "box -0.5 0.7 0.5 0.8999999999999999",
    "car": "outline -1 0.4 -1 -0.05 -0.6 -0.1 -0.35 -0.6 0.4 -0.6 0.65 -0.1 1 0 1 0.4; "
    "cut box -0.25 -0.42 0.3 -0.1; ring -0.5 0.4 0.26 0.26; ring 0.5 0.4 0.26 0.26",
    "glasses": "ring -0.54 0 0.46 0.46; ring 0.54 0 0.46 0.46; cut ring -0.54 0 0.27 0.27; "
    "cut ring 0.54 0 0.27 0.27; box -0.14 -0.1 0.14 0.1",
    "hammer": "box -0.14 -0.4 0.14 1; box -0.75 -0.95 0.75 -0.35",
    "comb": "box -1 -0.6 1 -0.15; box -1 -0.2 -0.8 0.6; box -0.6 -0.2 -0.39999999999999997 0.6; "
    "box -0.2 -0.2 0 0.6; box 0.2 -0.2 0.4 0.6; box 0.6 -0.2 0.8 0.6; box 0.8 -0.2 1 0.6",
    "stairs": "outline -1 0.95 -1 0.45 -0.5 0.45 -0.5 -0.05 0 -0.05 0 -0.5 0.5 -0.5 0.5 -0.95 "
    "1 -0.95 1 0.95",
    "fork": "box -0.12 0 0.12 1; box -0.6 -0.2 0.6 0.08; box -0.6 -1 -0.36 0; "
    "box -0.12 -1 0.12 0; box 0.36 -1 0.6 0",
    "butterfly": "ring 0.52 -0.42 0.5 0.45; ring 0.4 0.45 0.36 0.4; "
    "mirrored ring 0.52 -0.42 0.5 0.45; mirrored ring 0.4 0.45 0.36 0.4; "
    "box -0.08 -0.7 0.08 0.8",
    # Distractors.
    "circle": "ring 0 0 0.85 0.85",
    "square": "box -0.75 -0.75 0.75 0.75",
    "triangle": "outline 0 -0.85 0.9 0.75 -0.9 0.75",
    "bar": "box -1 -0.28 1 0.28",
    "ellipse": "ring 0 0 0.55 1",
}
"""The parts of every silhouette, drawn in order in [-1, 1]; `cut` ones are cut out."""

_PARTS: Final[dict[str, Callable[..., _Points]]] = {
    "ring": _ring, "box": _box, "outline": _outline, "star": _star, "heart": _heart,
}  # fmt: skip


@cache
def _parts(silhouette: str) -> list[_Part]:
    found = []
    for text in _SILHOUETTES[silhouette].split("; "):
        words = text.split()
        is_cut, mirrored = "cut" in words, "mirrored" in words
        name, *numbers = words[is_cut + mirrored :]
        points = _PARTS[name](*map(float, numbers))
        found.append(([(-x, y) for x, y in points] if mirrored else points, not is_cut))
    return found


DISTRACTORS: Final = ("circle", "square", "triangle", "bar", "ellipse")
"""Silhouettes of haystack frames."""

LOCATORS: Final = tuple(name for name in _SILHOUETTES if name not in DISTRACTORS)
"""Silhouettes that questions ask about; they never occur in a haystack."""

# 5 x 7 bitmaps, one string of bits per row.
_DIGITS: Final = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
}


@dataclass(frozen=True, kw_only=True)
class Texture:
    """A muted background."""

    name: str
    """One of `TEXTURES`."""
    dark: tuple[int, int, int]
    """RGB colour where the pattern is 0."""
    light: tuple[int, int, int]
    """RGB colour where the pattern is 1."""
    angle: float
    """Direction of the pattern, in radians."""
    frequency: float
    """Periods across the picture."""
    phase: float
    """Shift of the pattern, in periods; a video drifts by changing it."""
    noise_seed: int
    """Seed of the random textures."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture: a texture, perhaps a silhouette, perhaps a digit."""

    texture: Texture
    """The background."""
    shape: str | None
    """A locator, a distractor, or nothing."""
    color: str | None
    """Colour of the silhouette, one of `COLORS`; nothing without a silhouette."""
    center: tuple[float, float] = (0.5, 0.5)
    """Middle of the silhouette, (x, y) as fractions of the side."""
    size: float = 0.5
    """Side of the silhouette as a fraction of the picture's."""
    angle: float = 0.0
    """Rotation of the silhouette, in radians."""
    digit: str | None = None
    """A digit in a black box, or nothing."""
    names: str | None = None
    """A small white silhouette in a black box, in place of a digit: the picture, whose own
    silhouette is dark, *names* another object."""
    corner: int = 0
    """Corner of the box: 0 top left, 1 top right, 2 bottom left, 3 bottom right."""


def caption_words(scene: Scene) -> tuple[str, str, str, str]:
    """The scene in four words: what, its colour, its number, and a full stop."""
    told = scene.names or scene.digit or "none"
    return (scene.shape or "nothing", scene.color or "none", told, ".")


def caption_sentence(scene: Scene) -> str:
    """The scene as a sentence, for models that read English."""
    if scene.names:
        return f"A dark {scene.shape}, with a small white {scene.names} in a corner."
    what = f"A {scene.color} {scene.shape}" if scene.shape else "Nothing but a background"
    return what + (f", with the number {scene.digit} in a corner." if scene.digit else ".")


def _noise(seed: int, cells: int, side: int, shift: float) -> npt.NDArray[np.float64]:
    """Smooth noise in [0, 1] that moves sideways with `shift`, in cells."""
    grid = np.random.default_rng(seed).integers(0, 256, (cells, 2 * cells), dtype=np.uint8)
    offset = (shift * cells) % cells
    whole = Image.fromarray(np.concatenate([grid, grid[:, : cells + 1]], axis=1))
    box = (offset, 0, offset + cells, cells)
    return np.asarray(whole.resize((side, side), Image.Resampling.BILINEAR, box)) / 255.0


def _texture_pattern(texture: Texture, side: int) -> npt.NDArray[np.float64]:
    """The pattern of a texture, (side, side) in [0, 1]."""
    if texture.name == "sand":
        return _noise(texture.noise_seed, 24, side, texture.phase)
    if texture.name == "clouds":
        return _noise(texture.noise_seed, 5, side, texture.phase)
    axis = np.arange(side) / side
    x, y = axis[None, :], axis[:, None]
    along = (x * math.cos(texture.angle) + y * math.sin(texture.angle)) * texture.frequency
    across = (y * math.cos(texture.angle) - x * math.sin(texture.angle)) * texture.frequency
    along = along + texture.phase
    if texture.name == "waves":
        return np.asarray(0.5 + 0.5 * np.sin(2 * np.pi * (along + 0.15 * np.sin(6 * across))))
    if texture.name == "stripes":
        return np.asarray((along % 1.0) < 0.5, dtype=np.float64)
    if texture.name == "tiles":
        return np.asarray(((along % 1.0) < 0.5) ^ ((across % 1.0) < 0.5), dtype=np.float64)
    raise ValueError(f"Unknown texture {texture.name!r}; it must be one of {TEXTURES}.")


def _shape_mask(scene: Scene, side: int) -> Image.Image:
    """How much of each pixel the silhouette covers; drawn twice as large for smooth edges."""
    mask = Image.new("L", (2 * side, 2 * side), 0)
    draw = ImageDraw.Draw(mask)
    cos, sin = math.cos(scene.angle), math.sin(scene.angle)
    radius = scene.size * side
    cx, cy = scene.center[0] * 2 * side, scene.center[1] * 2 * side
    for points, filled in _parts(scene.shape or ""):
        turned = [
            (cx + radius * (x * cos - y * sin), cy + radius * (x * sin + y * cos))
            for x, y in points
        ]
        draw.polygon(turned, fill=255 if filled else 0)
    return mask.resize((side, side), Image.Resampling.BOX)


def _digit_box(digit: str, side: int) -> npt.NDArray[np.uint8]:
    rows = [[255 * int(bit) for bit in row] for row in _DIGITS[digit].split()]
    glyph = np.zeros((9, 7), dtype=np.uint8)
    glyph[1:8, 1:6] = rows
    size = round(side * 0.24), round(side * 0.30)
    return np.asarray(Image.fromarray(glyph).resize(size, Image.Resampling.BOX))


def _names_box(scene: Scene, side: int) -> npt.NDArray[np.uint8]:
    small = replace(scene, shape=scene.names, center=(0.5, 0.5), size=0.92, angle=0.0)
    return np.asarray(_shape_mask(small, round(side * 0.42)))


def _paste_box(pixels: RgbImage, box: npt.NDArray[np.uint8], corner: int) -> None:
    side = pixels.shape[0]
    height, width = box.shape
    top = 0 if corner < 2 else side - height
    left = 0 if corner % 2 == 0 else side - width
    pixels[top : top + height, left : left + width] = box[:, :, None]


def render_scene(scene: Scene, *, side: int = 96) -> RgbImage:
    """Draw a scene: (side, side, 3) uint8 RGB."""
    pattern = _texture_pattern(scene.texture, side)[:, :, None]
    dark = np.array(scene.texture.dark, dtype=np.float64)
    light = np.array(scene.texture.light, dtype=np.float64)
    picture = dark + (light - dark) * pattern
    if scene.shape is not None:
        cover = np.asarray(_shape_mask(scene, side))[:, :, None] / 255.0
        color = _DARK if scene.names else COLORS[scene.color or ""]
        picture = picture + (np.array(color) - picture) * cover
    pixels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    if scene.names is not None:
        _paste_box(pixels, _names_box(scene, side), scene.corner)
    elif scene.digit is not None:
        _paste_box(pixels, _digit_box(scene.digit, side), scene.corner)
    return pixels


def _random_texture(rng: random.Random) -> Texture:
    base = [rng.randint(30, 120) for _ in range(3)]
    gray = sum(base) / 3
    # Pulled towards grey, so that a background is never mistaken for a silhouette's colour.
    dark = [gray + 0.45 * (value - gray) for value in base]
    contrast = rng.uniform(20, 55)
    return Texture(
        name=rng.choice(TEXTURES),
        dark=(round(dark[0]), round(dark[1]), round(dark[2])),
        light=(round(dark[0] + contrast), round(dark[1] + contrast), round(dark[2] + contrast)),
        angle=rng.uniform(0, math.pi),
        frequency=rng.uniform(2.0, 6.0),
        phase=rng.random(),
        noise_seed=rng.randrange(2**31),
    )


def random_scene(
    rng: random.Random,
    *,
    shape: str | None,
    color: str | None = None,
    digit: str | None = None,
) -> Scene:
    """A scene with the given content and everything else at random.

    Args:
        rng: Source of randomness.
        shape: Silhouette, or None for a bare texture.
        color: Its colour; None picks one.
        digit: Digit in the corner box, or None for no box.

    Returns:
        The scene; distractors may be small and off the middle, as in a haystack.
    """
    if shape is None:
        color = None
    elif color is None:
        color = rng.choice(tuple(COLORS))
    reach = 0.22 if shape in DISTRACTORS else 0.10
    return Scene(
        texture=_random_texture(rng),
        shape=shape,
        color=color,
        center=(0.5 + rng.uniform(-reach, reach), 0.5 + rng.uniform(-reach, reach)),
        size=rng.uniform(0.44, 0.62) if shape in LOCATORS else rng.uniform(0.32, 0.5),
        angle=rng.uniform(-0.2, 0.2) if shape in LOCATORS else rng.uniform(-0.5, 0.5),
        digit=digit,
        corner=rng.randrange(4),
    )


def pointer_scene(rng: random.Random, *, shape: str, names: str) -> Scene:
    """A dark silhouette whose corner box names another object; it stands off that corner."""
    scene = random_scene(rng, shape=shape)
    left, top = scene.corner % 2 == 0, scene.corner < 2
    center = (
        (0.62 if left else 0.38) + rng.uniform(-0.05, 0.05),
        (0.62 if top else 0.38) + (rng.uniform(-0.05, 0.05)),
    )
    return replace(scene, color=None, names=names, center=center, size=rng.uniform(0.44, 0.54))


def _reflect(value: float, low: float, high: float) -> float:
    """Bounce a coordinate between two walls."""
    span = high - low
    offset = (value - low) % (2 * span)
    return low + (offset if offset <= span else 2 * span - offset)


def haystack_scenes(rng: random.Random) -> Iterator[Scene]:
    """Endless frames of a video without locators: a texture drifts, a distractor moves about.

    A scene lasts 8 to 40 frames. One in eight has no distractor, two in five have a digit, which
    changes now and then.
    """

    def pick_digit() -> str | None:
        return rng.choice("0123456789") if rng.random() < 0.4 else None

    while True:
        shape = None if rng.random() < 0.125 else rng.choice(DISTRACTORS)
        scene = random_scene(rng, shape=shape, digit=pick_digit())
        speed = (rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04))
        drift, spin = rng.uniform(-0.08, 0.08), rng.uniform(-0.05, 0.05)
        for _ in range(rng.randint(8, 40)):
            yield scene
            if scene.digit is not None and rng.random() < 0.06:
                scene = replace(scene, digit=pick_digit())
            scene = replace(
                scene,
                texture=replace(scene.texture, phase=scene.texture.phase + drift),
                center=(
                    _reflect(scene.center[0] + speed[0], 0.26, 0.74),
                    _reflect(scene.center[1] + speed[1], 0.26, 0.74),
                ),
                angle=scene.angle + spin,
            )
