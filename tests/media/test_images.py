"""Pictures: opening them, cutting them into tiles, and both ways of making tokens of the tiles."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import random
import struct
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import OPEN, Golden, vision_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, LlavaNextConfig, Qwen2Config
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel

from longva_eval.engine.encoder import VisualEncoder
from longva_eval.errors import CheckpointError, MediaError, SettingsError
from longva_eval.families.loading import load_checkpoint
from longva_eval.media import images
from longva_eval.media.files import image_digest
from longva_eval.media.images import (
    anyres_grid,
    anyres_tiles,
    frames_to_pixel_values,
    open_image,
    pad_to_square,
    parse_grid_pinpoints,
    read_picture,
)
from longva_eval.media.sources import FrameStack, Picture
from longva_eval.model.checkpoint import Checkpoint
from longva_eval.model.settings import LoadSettings
from longva_eval.prompts.pieces import VisualPiece

PINPOINTS = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
"""LLaVA-NeXT's, (width, height)."""


def noise(width: int, height: int, *, mode: str = "RGB", seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    picture = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return picture.convert(mode)


def pixel(image: Image.Image, place: tuple[int, int] = (0, 0)) -> tuple[int, int, int]:
    found = image.getpixel(place)
    assert isinstance(found, tuple)
    return found[0], found[1], found[2]


# Opening


def test_alpha_is_dropped_and_not_blended(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (200, 10, 20, 0)).save(tmp_path / "a.png")
    opened = open_image(tmp_path / "a.png")
    assert (opened.mode, pixel(opened)) == ("RGB", (200, 10, 20))


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30])
    picture.save(tmp_path / "p.png")
    assert pixel(open_image(tmp_path / "p.png")) == (10, 200, 30)


def test_a_palette_with_transparency_is_looked_up(tmp_path: Path) -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30])
    picture.save(tmp_path / "p.png", transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow would rather have RGBA
        assert pixel(open_image(tmp_path / "p.png")) == (10, 200, 30)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("1", "png"), ("CMYK", "jpg"), ("LA", "png"), ("YCbCr", "jpg"), ("RGB", "webp")],
)
def test_every_mode_becomes_rgb_as_pillow_converts_it(
    tmp_path: Path, mode: str, suffix: str
) -> None:
    path = tmp_path / f"picture.{suffix}"
    noise(20, 12, mode=mode).save(path)
    opened = open_image(path)
    with Image.open(path) as reference:
        expected = np.asarray(reference.convert("RGB"))
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(opened), expected)


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).repeat(64).reshape(64, 64).T
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "deep.png")
    opened = np.asarray(open_image(tmp_path / "deep.png"))[0, :, 0].astype(int)
    np.testing.assert_allclose(opened, np.linspace(0, 255, 64), atol=2)


def test_deep_grey_from_other_files_keeps_its_shades(tmp_path: Path) -> None:
    ramp = np.arange(0, 65536, 256, dtype=np.uint16).repeat(2).reshape(256, 2)
    expected = np.arange(256).repeat(2).reshape(256, 2)
    Image.fromarray(ramp).save(tmp_path / "deep.tif")
    (tmp_path / "deep.pgm").write_bytes(b"P5 2 256 65535\n" + ramp.astype(">u2").tobytes())
    for name in ("deep.tif", "deep.pgm"):
        opened = np.asarray(open_image(tmp_path / name))
        np.testing.assert_array_equal(opened, expected[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_values_of_unknown_range_are_refused(kind: Any) -> None:
    fits = Image.fromarray(np.full((4, 4), 200, kind))
    assert pixel(open_image(fits)) == (200, 200, 200)
    for value in (300, -1):
        with pytest.raises(
            MediaError, match=r"in memory cannot be read: its values .* from 0 to 255"
        ):
            open_image(Image.fromarray(np.full((4, 4), value, kind)))


def test_an_animation_is_no_picture(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(MediaError, match=r"moving\.gif cannot be read: it is animated \(3 pict"):
        open_image(path)
    frames[0].save(path)
    assert open_image(path).size == (8, 6)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"The picture .*absent\.png does not exist"):
        open_image(tmp_path / "absent.png")
    with pytest.raises(MediaError, match=r"The picture .* is a folder"):
        open_image(tmp_path)
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(MediaError, match=r"empty\.png is empty \(0 bytes\)"):
        open_image(tmp_path / "empty.png")
    (tmp_path / "page.png").write_bytes(b"<html>404</html>" * 9)
    with pytest.raises(MediaError, match=r"page\.png cannot be read: cannot identify"):
        open_image(tmp_path / "page.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tif"])
def test_a_partial_download_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"part.{suffix}"
    noise(64, 64).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(MediaError, match=rf"part\.{suffix} cannot be read"):
        open_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tif", "ico", "ppm"])
def test_damaged_bytes_give_a_picture_or_a_media_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"damaged.{suffix}"
    noise(24, 24).save(path)
    data = path.read_bytes()
    random_numbers = random.Random(suffix)
    for _ in range(150):
        changed = bytearray(data[: random_numbers.choice([len(data), len(data) // 2, 30])])
        for _ in range(random_numbers.randint(1, 6)):
            # Headers, where the damage is, more often than pixels.
            end = random_numbers.choice([len(changed), min(len(changed), 60)])
            changed[random_numbers.randrange(end)] = random_numbers.randrange(256)
        path.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert open_image(path).mode == "RGB"
            except MediaError as error:
                assert path.name in str(error)  # noqa: PT017


def test_a_picture_in_memory_that_is_cut_off_is_a_media_error() -> None:
    # As lmms-eval hands it over: opened, but not read yet.
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, "png")
    opened = Image.open(io.BytesIO(buffer.getvalue()[: buffer.tell() * 6 // 10]))
    with pytest.raises(MediaError, match="cannot be read"):
        open_image(opened)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(MediaError, match=r"bomb\.png is refused as too large: .*10000 pixels"):
        open_image(tmp_path / "bomb.png")


def test_a_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    picture = noise(12, 8)
    picture.save(tmp_path / "one.png")
    picture.save(tmp_path / "two.bmp")
    assert image_digest(open_image(tmp_path / "one.png")) == image_digest(picture)
    assert image_digest(open_image(tmp_path / "two.bmp")) == image_digest(picture)
    expected = hashlib.sha256(b"12x8\0" + picture.tobytes()).hexdigest()[:24]
    assert image_digest(picture) == expected
    assert image_digest(picture.transpose(Image.Transpose.ROTATE_90)) != expected
    same_bytes = Image.frombytes("RGB", (8, 12), picture.tobytes())
    assert image_digest(same_bytes) != expected
    changed = picture.copy()
    changed.putpixel((3, 3), (1, 2, 3))
    assert image_digest(changed) != expected


# Grids and tiles


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([[336, 672]], [(336, 672)]),
        ("[[336, 672], [672, 336]]", [(336, 672), (672, 336)]),
        ("[(336, 672)]", [(336, 672)]),
    ],
)
def test_grid_pinpoints_come_as_lists_or_spelt_out(value: Any, expected: Any) -> None:
    assert parse_grid_pinpoints(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "image_grid_pinpoints=None is not a list"),
        (5, "image_grid_pinpoints=5 is not a list"),
        ([[336]], r"=\[\[336\]\] is not a list of \[width, height\] pairs"),
        ([[336, "x"]], "is not a list"),
        ([[336, None]], "is not a list"),
        ("(1x1),...,(6x6)", r"=\(1x1\),\.\.\.,\(6x6\) is not a list"),
        ("__import__('os')", "is not a list"),
        ([], r"=\[\] has no usable pair"),
        ([[336, 0]], "has no usable pair"),
        ([[-336, 336]], "has no usable pair"),
        ([[math.inf, 336]], "is not a list"),
        (["12", "34"], "is not a list"),
    ],
)
def test_other_grid_pinpoints_are_refused(value: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse_grid_pinpoints(value)


def test_a_canvas_without_whole_tiles_is_refused(open_golden: Golden) -> None:
    checkpoint = with_config(open_golden.session.checkpoint, image_grid_pinpoints=[[300, 300]])
    with pytest.raises(CheckpointError, match="image_grid_pinpoints"):
        vision_of(checkpoint).pieces(Picture(image=noise(300, 300)))


def test_a_canvas_that_ends_within_a_tile_is_refused() -> None:
    assert parse_grid_pinpoints([[672, 336]], tile_size=336) == [(672, 336)]
    with pytest.raises(
        CheckpointError, match=r"has \[336, 500\], which is not made of whole tiles"
    ):
        parse_grid_pinpoints([[336, 336], [336, 500]], tile_size=336)


@given(width=st.integers(1, 3000), height=st.integers(1, 3000))
@settings(max_examples=200)
def test_the_canvas_keeps_most_of_the_picture_and_wastes_least(width: int, height: int) -> None:
    columns, rows = anyres_grid((width, height), PINPOINTS, tile_size=336)
    assert (columns * 336, rows * 336) in PINPOINTS

    def score(canvas: tuple[int, int]) -> tuple[int, int]:
        scale = min(canvas[0] / width, canvas[1] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, -(canvas[0] * canvas[1] - effective)

    assert score((columns * 336, rows * 336)) == max(score(canvas) for canvas in PINPOINTS)


@given(width=st.integers(1, 1500), height=st.integers(1, 1500))
@settings(max_examples=15, deadline=None)
def test_tiles_put_together_show_the_whole_picture_in_the_middle(width: int, height: int) -> None:
    image = Image.new("RGB", (width, height), (250, 250, 250))
    base, *tiles = anyres_tiles(image, PINPOINTS, tile_size=336)
    columns, rows = anyres_grid(image.size, PINPOINTS, tile_size=336)
    assert len(tiles) == columns * rows
    assert {tile.size for tile in [base, *tiles]} == {(336, 336)}
    canvas = np.zeros((rows * 336, columns * 336, 3), np.uint8)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        canvas[row * 336 : (row + 1) * 336, column * 336 : (column + 1) * 336] = np.asarray(tile)
    lit = np.argwhere(canvas[..., 0] > 128)
    (top, left), (bottom, right) = lit.min(0), lit.max(0) + 1
    scale = min(columns * 336 / width, rows * 336 / height)
    assert abs((bottom - top) - height * scale) <= 1
    assert abs((right - left) - width * scale) <= 1
    assert abs(top - (canvas.shape[0] - bottom)) <= 1
    assert abs(left - (canvas.shape[1] - right)) <= 1


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (1, 1), (336, 336)])
def test_extreme_pictures_still_have_tiles(size: tuple[int, int]) -> None:
    base, *tiles = anyres_tiles(Image.new("RGB", size, (9, 9, 9)), PINPOINTS, tile_size=336)
    assert len(tiles) >= 1
    assert base.size == (336, 336)


@given(width=st.integers(1, 200), height=st.integers(1, 200))
@settings(deadline=None)
def test_a_padded_picture_stands_in_the_middle_of_its_square(width: int, height: int) -> None:
    image = noise(width, height)
    square = pad_to_square(image, [0.48145466, 0.4578275, 0.40821073])
    side = max(width, height)
    assert square.size == (side, side)
    left, top = (side - width) // 2, (side - height) // 2
    inner = square.crop((left, top, left + width, top + height))
    assert inner.tobytes() == image.tobytes()
    if width != height:
        # int(0.48145466 * 255), ... as in the original's expand2square
        assert pixel(square, (side - 1, side - 1)) == (122, 116, 104)


def test_no_frames_have_no_pixels(open_golden: Golden) -> None:
    processor = open_golden.session.checkpoint.image_processor
    assert frames_to_pixel_values([], processor).shape == (0, 3, 336, 336)
    frames = np.zeros((0, 10, 10, 3), np.uint8)
    assert frames_to_pixel_values(frames, processor).shape == (0, 3, 336, 336)


def test_arrays_and_pictures_give_the_same_pixels(open_golden: Golden) -> None:
    processor = open_golden.session.checkpoint.image_processor
    frames = np.stack([np.asarray(noise(60, 40, seed=seed)) for seed in range(2)])
    pictures = [Image.fromarray(frame) for frame in frames]
    for aspect in ("crop", "pad"):
        one = frames_to_pixel_values(frames, processor, aspect=aspect)
        two = frames_to_pixel_values(pictures, processor, aspect=aspect)
        assert one.shape == (2, 3, 336, 336)
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, two, atol=0, rtol=0)
    with pytest.raises(SettingsError, match="cannot be prepared with 'anyres'; use crop or pad"):
        frames_to_pixel_values(frames, processor, aspect="anyres")


# AnyRes: equal to transformers' LLaVA-NeXT


def with_config(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    """The same weights under another configuration, without touching the shared one."""
    model: Any = checkpoint.model
    config = SimpleNamespace(**{**vars(model.config), **changes})
    inner = SimpleNamespace(vision_tower=model.model.vision_tower)
    stand_in: Any = SimpleNamespace(
        config=config,
        model=inner,
        vision_config=model.vision_config,
        patches_per_side=model.patches_per_side,
        encode_pixels=model.encode_pixels,
        image_newline=changes.get("newline"),
        pools_before_projection=model.pools_before_projection,
    )
    return replace(checkpoint, model=stand_in)


def anyres_checkpoint(folder: Path, *, newline: bool) -> Checkpoint:
    """Make a copy of the small checkpoint one of LLaVA-NeXT's kind, and load it."""
    config = json.loads((folder / "config.json").read_text())
    config["mm_patch_merge_type"] = "spatial_unpad"
    (folder / "config.json").write_text(json.dumps(config))
    if newline:
        index_path = folder / "model.safetensors.index.json"
        index = json.loads(index_path.read_text())
        name = sorted(set(index["weight_map"].values()))[0]
        tensors = load_file(folder / name)
        generator = torch.Generator().manual_seed(5)
        tensors["model.image_newline"] = torch.randn(config["hidden_size"], generator=generator)
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index["weight_map"]["model.image_newline"] = name
        index_path.write_text(json.dumps(index))
    return load_checkpoint(folder, LoadSettings(device="cpu", dtype="float32"))


def llava_next(checkpoint: Checkpoint, pinpoints: list[tuple[int, int]]) -> Any:
    """transformers' own LLaVA-NeXT with the same grid; its packing has no other weights."""
    vision = checkpoint.model.vision_config
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**vision.to_dict()),
        text_config=Qwen2Config(
            hidden_size=48,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            vocab_size=8,
        ),
        image_grid_pinpoints=[[height, width] for width, height in pinpoints],
        vision_feature_select_strategy="default",
    )
    return LlavaNextModel(config)


SIZES = [
    (336, 336),
    (640, 480),
    (480, 640),
    (1024, 300),
    (300, 1400),
    (1, 1),
    (1000, 7),
    (671, 673),
]


@pytest.mark.slow
@pytest.mark.parametrize("newline", [True, False], ids=["newline", "no newline"])
def test_anyres_packing_equals_llava_next(
    copy_checkpoint: Callable[[], Path], newline: bool
) -> None:
    checkpoint = anyres_checkpoint(copy_checkpoint(), newline=newline)
    assert checkpoint.config.has_image_newline is newline
    vision = vision_of(checkpoint)
    assert not vision.is_unires
    theirs = llava_next(checkpoint, vision.grid_pinpoints)
    side = checkpoint.model.patches_per_side
    for seed, size in enumerate(SIZES):
        picture = noise(*size)
        columns, rows = vision.grid(picture)
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(1 + columns * rows, side * side, 48, generator=generator)
        row_end = getattr(checkpoint.model.model, "image_newline", None)
        expected, lengths = theirs.pack_image_features(
            [features],
            torch.tensor([[size[1], size[0]]]),
            vision_feature_select_strategy="default",
            image_newline=row_end,
        )
        found = vision.pack_anyres(features, size)
        torch.testing.assert_close(found, expected[0], atol=0, rtol=0)
        (piece,) = vision.pieces(Picture(image=picture))
        assert piece.num_tokens == found.shape[0] == int(lengths[0])


@given(width=st.integers(1, 4000), height=st.integers(1, 4000), newline=st.booleans())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_number_of_anyres_tokens_is_known_before_encoding(
    open_golden: Golden, width: int, height: int, newline: bool
) -> None:
    checkpoint = with_config(
        open_golden.session.checkpoint,
        mm_patch_merge_type="spatial_unpad",
        has_image_newline=newline,
        newline=torch.ones(4) if newline else None,
    )
    vision, size = vision_of(checkpoint), (width, height)
    columns, rows = anyres_grid(size, vision.grid_pinpoints, tile_size=vision.tile_size)
    assert columns * rows <= 4
    side = checkpoint.model.patches_per_side
    features = torch.zeros(1 + columns * rows, side * side, 4)
    assert vision.count_anyres_tokens(size) == vision.pack_anyres(features, size).shape[0]


@pytest.mark.slow
def test_an_anyres_picture_is_encoded_base_tile_first(
    copy_checkpoint: Callable[[], Path],
) -> None:
    checkpoint = anyres_checkpoint(copy_checkpoint(), newline=True)
    vision = vision_of(checkpoint)
    (piece,) = vision.pieces(Picture(image=noise(500, 300)))
    encoder = VisualEncoder(vision)
    (tokens,) = encoder.encode([piece])
    assert tokens.shape == (piece.num_tokens, 48)
    features = checkpoint.model.encode_pixels(vision.tiles(noise(500, 300), "anyres"))
    assert encoder.num_encoded == len(features)
    torch.testing.assert_close(tokens[: features.shape[1]], features[0], atol=1e-5, rtol=0)


def test_anyres_and_unires_read_the_same_tiles(open_golden: Golden) -> None:
    vision = vision_of(open_golden.session.checkpoint)
    assert vision.is_unires
    columns, rows = vision.grid(noise(600, 300))
    pieces = vision.pieces(Picture(image=noise(600, 300)))
    assert len(pieces) == columns * rows
    (pixels,) = vision.pixel_values(pieces[0].source, [2])
    tiles = vision.tiles(noise(600, 300), "anyres")
    torch.testing.assert_close(pixels, tiles[2:3], atol=0, rtol=0)


# The encoder


def stack(golden: Golden, count: int) -> list[VisualPiece]:
    pictures = tuple(noise(40, 30, seed=seed) for seed in range(count))
    return vision_of(golden.session.checkpoint).pieces(FrameStack(pictures=pictures))


def test_each_distinct_piece_is_encoded_once(open_golden: Golden) -> None:
    encoder = VisualEncoder(vision_of(open_golden.session.checkpoint), keep_all=True)
    one, two = stack(open_golden, 3), stack(open_golden, 3)
    tokens = encoder.encode([one[2], one[0], two[2], one[2], one[1]])
    assert encoder.num_encoded == 3
    torch.testing.assert_close(tokens[0], tokens[2], atol=0, rtol=0)
    torch.testing.assert_close(tokens[0], tokens[3], atol=0, rtol=0)
    assert not torch.equal(tokens[0], tokens[1])
    again = encoder.encode(two)
    assert encoder.num_encoded == 3
    for place, token in ((2, tokens[0]), (0, tokens[1]), (1, tokens[4])):
        torch.testing.assert_close(again[place], token, atol=0, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_the_batch_size_changes_nothing(open_golden: Golden, batch_size: int) -> None:
    pieces = vision_of(open_golden.session.checkpoint).pieces(Picture(image=noise(700, 300)))
    found = VisualEncoder(vision_of(open_golden.session.checkpoint), batch_size=batch_size).encode(
        pieces
    )
    expected = VisualEncoder(vision_of(open_golden.session.checkpoint)).encode(pieces)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_least_recently_used_piece_goes_first(open_golden: Golden) -> None:
    pieces = stack(open_golden, 3)
    num_bytes = pieces[0].num_tokens * 48 * 4
    encoder = VisualEncoder(
        vision_of(open_golden.session.checkpoint), keep_bytes=2 * num_bytes, keep_all=True
    )
    encoder.encode(pieces[:2])
    encoder.encode(pieces[:1])  # now piece 1 is the older
    assert encoder.num_encoded == 2
    encoder.encode(pieces[2:])
    encoder.encode([pieces[0], pieces[2]])
    assert encoder.num_encoded == 3
    encoder.encode(pieces[1:2])
    assert encoder.num_encoded == 4


def test_nothing_kept_still_gives_right_tokens(open_golden: Golden) -> None:
    pieces = stack(open_golden, 3)
    forgetful = VisualEncoder(
        vision_of(open_golden.session.checkpoint), keep_bytes=0, keep_all=True
    )
    remembering = VisualEncoder(vision_of(open_golden.session.checkpoint), keep_all=True)
    for _ in range(2):
        torch.testing.assert_close(
            forgetful.encode(pieces), remembering.encode(pieces), atol=0, rtol=0
        )
    assert (forgetful.num_encoded, remembering.num_encoded) == (6, 3)


def test_expected_pieces_are_read_in_one_pass_and_let_go_after_their_last_use(
    open_golden: Golden,
) -> None:
    encoder = VisualEncoder(vision_of(open_golden.session.checkpoint))
    pieces = stack(open_golden, 4)
    calls = [[pieces[3], pieces[0]], [pieces[1], pieces[3]], [pieces[2]]]
    expected = VisualEncoder(vision_of(open_golden.session.checkpoint), keep_all=True)
    encoder.expect(calls)
    for call in calls:
        torch.testing.assert_close(encoder.encode(call), expected.encode(call), atol=1e-5, rtol=0)
    assert (encoder.num_encoded, encoder.num_passes) == (4, 1)
    assert not encoder._kept
    encoder.stop()


def test_the_beginning_of_a_piece_is_cut_from_the_whole(open_golden: Golden) -> None:
    encoder = VisualEncoder(vision_of(open_golden.session.checkpoint))
    (piece,) = stack(open_golden, 1)
    part, whole = encoder.encode([piece.first(5), piece])
    assert encoder.num_encoded == 1
    torch.testing.assert_close(part, whole[:5], atol=0, rtol=0)


def test_preparation_is_part_of_what_a_piece_is(open_golden: Golden) -> None:
    plain = vision_of(open_golden.session.checkpoint)
    keys = {
        piece.key
        for vision, how in (
            (plain, None),
            (plain, "pad"),
            (replace(plain, pool_stride=3), None),
            (replace(plain, pool_mode="max"), None),
        )
        for piece in vision.pieces(FrameStack(pictures=(noise(40, 30),), how=how))
    }
    assert len(keys) == 4


def test_a_piece_with_another_number_of_tokens_is_an_error(open_golden: Golden) -> None:
    (piece,) = stack(open_golden, 1)
    wrong = VisualPiece(piece.key, piece.num_tokens + 1, piece.source, piece.item)
    encoder = VisualEncoder(vision_of(open_golden.session.checkpoint))
    with pytest.raises(CheckpointError, match=r"picture:.* became 144 tokens, 145 expected"):
        encoder.encode([wrong])


def test_a_broken_source_costs_its_own_pieces_only(open_golden: Golden) -> None:
    class Broken:
        media_key = "broken"

        def frames(self, items: Any) -> Any:
            raise MediaError("clip.mp4 cannot be decoded")

    encoder = VisualEncoder(vision_of(open_golden.session.checkpoint))
    good = stack(open_golden, 1)
    with pytest.raises(MediaError, match=r"clip\.mp4"):
        encoder.encode([*good, VisualPiece("x", 144, Broken())])
    torch.testing.assert_close(
        encoder.encode(good),
        VisualEncoder(vision_of(open_golden.session.checkpoint)).encode(good),
        atol=0,
        rtol=0,
    )


def test_impossible_encoder_settings_are_refused(open_golden: Golden) -> None:
    with pytest.raises(SettingsError, match="vision_batch_size=0 must be at least 1"):
        VisualEncoder(vision_of(open_golden.session.checkpoint), batch_size=0)


def test_pictures_of_the_repository_open() -> None:
    paths = sorted((OPEN / "inputs").glob("*.png"))
    assert len(paths) >= 5
    for path in paths:
        assert open_image(path).mode == "RGB"


def test_frames_prepared_by_several_threads_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(3).integers(0, 256, (11, 90, 120, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    together = []
    for threads in (1, 3):
        monkeypatch.setattr(images, "_preparing_threads", lambda threads=threads: threads)
        images._prepare_pool.cache_clear()
        monkeypatch.setattr(images, "_FRAMES_PER_THREAD", 2)
        together.append(
            [frames_to_pixel_values(frames, processor, aspect=aspect) for aspect in ("crop", "pad")]
        )
    images._prepare_pool.cache_clear()
    for one, several in zip(*together, strict=True):
        assert torch.equal(one, several)


# Pictures that were read wrong once


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright_as_datasets_gives_it(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    stored = Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    stored.save(path, exif=exif)
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(np.asarray(read_picture(path)), expected)
    np.testing.assert_array_equal(np.asarray(open_image(Image.open(path))), expected)
    as_stored = open_image(path, orientation="stored")
    np.testing.assert_array_equal(np.asarray(as_stored), np.asarray(stored))


def test_fractions_are_scaled_and_other_floats_refused(tmp_path: Path) -> None:
    path = tmp_path / "float.tif"
    Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)).save(path)
    levels = np.asarray(read_picture(path))[..., 0].ravel()
    np.testing.assert_array_equal(levels, np.arange(256))
    for values in ([0, 3.5], [-1, 0], [0, 300], [0, np.nan]):
        Image.fromarray(np.array([values], np.float32)).save(path)
        with pytest.raises(MediaError, match=r"float\.tif cannot be read: its values"):
            read_picture(path)


LEVELS = np.tile(np.arange(256), (4, 1))


def tiff(bits: int, data: bytes, *, zero_is: int = 1, number: int = 1) -> bytes:
    """An uncompressed grey TIFF of 256 x 4."""
    tags = {256: 256, 257: 4, 258: bits, 259: 1, 262: zero_is, 273: 134, 277: 1, 278: 4,
            279: len(data), 339: number}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<4sIH", b"II*\0", 8, len(tags)) + entries.ljust(124, b"\0") + data


@pytest.mark.parametrize(
    "data",
    [
        tiff(16, (LEVELS << 8).astype("<u2").tobytes()),
        tiff(16, (0xFFFF - (LEVELS << 8)).astype("<u2").tobytes(), zero_is=0),
        tiff(12, b"".join((a << 16 | b << 4).to_bytes(3, "big")
                          for a, b in LEVELS.reshape(-1, 2).tolist())),
        tiff(32, (LEVELS / 255).astype("<f4").tobytes(), number=3),
        tiff(32, (1 - LEVELS / 255).astype("<f4").tobytes(), zero_is=0, number=3),
        tiff(8, (255 - LEVELS).astype("u1").tobytes(), zero_is=0),
    ],
    ids=["16 bits", "16 bits, 0 is white", "12 bits", "float", "float, 0 is white", "0 is white"],
)  # fmt: skip
def test_grey_of_any_depth_keeps_its_shades(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "grey.tif").write_bytes(data)
    shown = np.asarray(read_picture(tmp_path / "grey.tif")).astype(int)
    assert np.abs(shown - LEVELS[..., None]).max() <= 1


def test_what_pillow_reads_in_part_is_refused(tmp_path: Path) -> None:
    grey = Image.fromarray(LEVELS.astype(np.uint8))
    grey.save(tmp_path / "two.im")
    one = (tmp_path / "two.im").read_bytes()
    two = one.replace(b"images): 1", b"images): 2") + bytes(LEVELS.size)
    (tmp_path / "two.im").write_bytes(two)
    cards = ["SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 4", "NAXIS2  = 1", "END"]
    header = "".join(f"{card:80}" for card in cards).ljust(2880)
    (tmp_path / "sky.fits").write_bytes(header.encode().ljust(5760, b"\0"))
    for name, reason in {"two.im": "it has 2 pages", "sky.fits": "of FITS Pillow"}.items():
        with pytest.raises(MediaError, match=f"{name} cannot be read: {reason}"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".avif", ".tif"])
def test_what_holds_several_pictures_is_refused(tmp_path: Path, suffix: str) -> None:
    pages = [Image.new("RGB", (32, 32), (40 * n, 0, 0)) for n in range(3)]
    path = tmp_path / f"several{suffix}"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with pytest.raises(MediaError, match=r"several\.\w+ cannot be read: it (is anim|has 3 p)"):
        read_picture(path)
    pages[0].save(path)
    assert read_picture(path).size == (32, 32)


def test_other_sizes_of_one_picture_are_no_other_pictures(tmp_path: Path) -> None:
    path = tmp_path / "icon.ico"
    Image.new("RGB", (64, 64), "red").save(path, sizes=[(16, 16), (64, 64)])
    assert read_picture(path).size == (64, 64)
    path = tmp_path / "camera.mpo"
    Image.new("RGB", (64, 64)).save(
        path, save_all=True, append_images=[Image.new("RGB", (32, 32))], format="MPO"
    )
    assert read_picture(path).size == (64, 64)


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    with pytest.raises(MediaError, match=r"pipe\.png is no ordinary file"):
        read_picture(path)
