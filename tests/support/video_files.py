"""Small videos of every kind, written for tests: frames that differ, in many containers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

WIDTH, HEIGHT, RATE = 64, 48, 10
GOP = {"g": "8", "bf": "2"}
VP9 = {"g": "8", "deadline": "realtime", "cpu-used": "8"}

BT709, BT601, BT2020, SMPTE240M = 1, 5, 9, 7
FULL_RANGE = 2


@dataclass(frozen=True, kw_only=True)
class Clip:
    """How a test video is made."""

    suffix: str = ".mp4"
    codec: str = "libx264"
    num_frames: int = 20
    width: int = WIDTH
    height: int = HEIGHT
    pixel_format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=lambda: dict(GOP))
    container_options: dict[str, str] = field(default_factory=dict)
    times: tuple[int, ...] | None = None
    """When each frame is shown, in tenths of a second."""
    colorspace: int | None = None
    color_range: int | None = None
    format: str | None = None


def pictures(clip: Clip) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames that differ from each other everywhere, with one quarter in a flat colour."""
    y, x = np.mgrid[0 : clip.height, 0 : clip.width]
    for number in range(clip.num_frames):
        channels = (x * 3 + number * 11, y * 5 + number * 7, (x + y) * 2 + number * 29)
        picture = (np.stack(channels, -1) % 256).astype(np.uint8)
        picture[: clip.height // 2, : clip.width // 2] = (
            number * 37 % 256,
            number * 91 % 256,
            number * 53 % 256,
        )
        yield picture


def write_video(path: Path, clip: Clip) -> Path:
    path = path.with_suffix(clip.suffix)
    try:
        av.codec.Codec(clip.codec, "w")
    except Exception:
        pytest.skip(f"this PyAV has no encoder {clip.codec}")
    with av.open(str(path), "w", format=clip.format, options=clip.container_options) as container:
        stream: Any = container.add_stream(clip.codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, clip.pixel_format
        stream.options = clip.options
        if clip.colorspace is not None:
            stream.codec_context.colorspace = clip.colorspace
        if clip.color_range is not None:
            stream.codec_context.color_range = clip.color_range
        for number, picture in enumerate(pictures(clip)):
            frame = av.VideoFrame.from_ndarray(picture).reformat(
                format=clip.pixel_format,
                dst_colorspace=clip.colorspace,
                dst_color_range=clip.color_range,
            )
            frame.pts = clip.times[number] if clip.times else number
            frame.time_base = Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def reference_frames(path: Path) -> npt.NDArray[np.uint8]:
    """Every shown frame of a file, from a pass of its own, as RGB."""
    shown = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.pts is not None and frame.pts < 0:
                continue
            source, other = ("ITU709", "ITU601")
            if int(frame.colorspace) != BT709:
                source, other = other, source
            rgb = frame.reformat(
                format="rgb24",
                interpolation="BICUBIC",
                src_colorspace=None if frame.format.is_rgb else source,
                dst_colorspace=None if frame.format.is_rgb else other,
                src_color_range=frame.color_range,
            )
            shown.append(np.rot90(rgb.to_ndarray(), (frame.rotation or 0) // 90 % 4))
    return np.stack(shown)


def set_edit_list(path: Path, *, first_frame: int = 0, seconds: float | None = None) -> Path:
    """Make an MP4 begin at a later frame, or end earlier, as a trimmed phone video does."""
    data = bytearray(path.read_bytes())
    timescale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    place = data.index(b"elst") + 12
    duration, start = struct.unpack_from(">Ii", data, place)
    if seconds is not None:
        duration = round(seconds * 1000)
    struct.pack_into(">Ii", data, place, duration, start + first_frame * timescale // RATE)
    path.write_bytes(data)
    return path


def set_rotation(path: Path, degrees: int) -> Path:
    """Write a display matrix that turns the picture clockwise."""
    data = bytearray(path.read_bytes())
    one, w = 1 << 16, 1 << 30
    matrix = {
        90: (0, one, 0, -one, 0, 0, HEIGHT * one, 0, w),
        180: (-one, 0, 0, 0, -one, 0, WIDTH * one, HEIGHT * one, w),
        270: (0, -one, 0, one, 0, 0, 0, WIDTH * one, w),
    }[degrees]
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *matrix)
    path.write_bytes(data)
    return path


def cut(path: Path, share: float = 0.6) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


OPEN_GOP_H264 = Clip(options={"x264-params": "open-gop=1:keyint=6:bframes=3:scenecut=0:threads=1"})
OPEN_GOP_HEVC = Clip(
    codec="libx265",
    num_frames=29,
    options={"x265-params": "keyint=5:bframes=1:open-gop=1:log-level=none:pools=none"},
)
B_FRAMES_MPEG4 = Clip(codec="mpeg4", num_frames=31, options={"g": "5", "bf": "2"})
AVI = Clip(suffix=".avi", codec="mpeg4", num_frames=30)
MPEG_PS = Clip(suffix=".mpg", codec="mpeg2video", num_frames=30)
AV1 = Clip(codec="libaom-av1", num_frames=4, options={"cpu-used": "8", "usage": "realtime"})
GIF = Clip(suffix=".gif", codec="gif", pixel_format="rgb8", options={})


def write_mpeg(folder: Path, clip: Clip) -> Path:
    """At 25 frames a second: MPEG-2 knows none of ten."""
    path = folder / f"clip{clip.suffix}"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(clip.codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        stream.options = clip.options
        for picture in pictures(clip):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


def write_hidden_start(folder: Path) -> Path:
    """A stream copy that keeps the frames before the cut, with negative times: Matroska-like."""
    source = write_video(folder / "source", Clip(options={"g": "8", "bf": "0"}))
    path = folder / "clip.mp4"
    with (
        av.open(str(source)) as taken,
        av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container,
    ):
        template: Any = taken.streams.video[0]
        stream = container.add_stream_from_template(template)
        tick = int(Fraction(1, RATE) / template.time_base)
        for packet in taken.demux(template):
            if packet.dts is None or packet.pts is None:
                continue
            packet.dts -= 3 * tick
            packet.pts -= 3 * tick
            packet.stream = stream
            container.mux(packet)
    return path


def write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 4096), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
