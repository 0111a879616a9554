"""Videos that were read wrong once, and others of their kinds: each made from nothing.

The frames are those of `video_files.pictures`, so that it is known which must come out.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from video_files import RATE, VP9, Clip, pictures, write_video

GOPS = {"g": "8", "bf": "2", "sc_threshold": "0"}
FILM = Clip(num_frames=60, width=96, height=64, options=GOPS)
_ONE, _W = 1 << 16, 1 << 30

ORIENTATIONS: dict[str, tuple[int, ...]] = {
    "mirrored": (-_ONE, 0, 0, 0, _ONE, 0, 96 * _ONE, 0, _W),
    "upside-down-mirrored": (_ONE, 0, 0, 0, -_ONE, 0, 0, 64 * _ONE, _W),
    "half-turn": (-_ONE, 0, 0, 0, -_ONE, 0, 96 * _ONE, 64 * _ONE, _W),
    "quarter-turn": (0, _ONE, 0, -_ONE, 0, 0, 64 * _ONE, 0, _W),
    "three-quarter-turn": (0, -_ONE, 0, _ONE, 0, 0, 0, 96 * _ONE, _W),
    "transposed": (0, _ONE, 0, _ONE, 0, 0, 0, 0, _W),
    "anti-transposed": (0, -_ONE, 0, -_ONE, 0, 0, 64 * _ONE, 96 * _ONE, _W),
}
"""Display matrices of the orientations that are no identity."""
SHOWN: dict[str, Callable[[Any], Any]] = {
    "mirrored": lambda picture: picture[:, ::-1],
    "upside-down-mirrored": lambda picture: picture[::-1],
    "half-turn": lambda picture: picture[::-1, ::-1],
    "quarter-turn": lambda picture: np.rot90(picture, -1),
    "three-quarter-turn": np.rot90,
    "transposed": lambda picture: picture.transpose(1, 0, 2),
    "anti-transposed": lambda picture: picture[::-1, ::-1].transpose(1, 0, 2),
}


def set_matrix(path: Path, matrix: tuple[int, ...]) -> Path:
    """Write a display matrix into an MP4."""
    data = bytearray(path.read_bytes())
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *matrix)
    path.write_bytes(data)
    return path


def oriented(name: str) -> Callable[[Path], Path]:
    return lambda folder: set_matrix(write_video(folder / "clip", FILM), ORIENTATIONS[name])


def odd_angle(folder: Path) -> Path:
    """Turned by 30 degrees."""
    cosine, sine = round(np.cos(np.pi / 6) * _ONE), round(np.sin(np.pi / 6) * _ONE)
    return set_matrix(
        write_video(folder / "clip", FILM), (cosine, sine, 0, -sine, cosine, 0, 0, 0, _W)
    )


def copy_packets(
    source: Path,
    path: Path,
    change: Callable[[int, Any], bool],
    *,
    format: str | None = None,  # noqa: A002
    **options: str,
) -> Path:
    """Stream copy; `change` may move a packet in time, and says whether it is kept."""
    with av.open(str(source)) as taken, av.open(str(path), "w", format, options) as container:
        template: Any = taken.streams.video[0]
        stream = container.add_stream_from_template(template)
        for number, packet in enumerate(taken.demux(template)):
            if packet.size and change(number, packet):
                packet.stream = stream
                container.mux(packet)
    return path


def screen_recording(folder: Path, suffix: str = ".webm", codec: str = "libvpx") -> Path:
    """Half a second at ten frames a second, then one frame every two seconds: 20.1 s."""
    times = (*range(6), *range(20, 201, 20))
    options = {"g": "8"} if codec == "libvpx" else {"g": "8", "bf": "2"}
    clip = Clip(suffix=suffix, codec=codec, num_frames=len(times), times=times, options=options)
    return write_video(folder / "clip", clip)


def write_with_sound(
    path: Path,
    *,
    picture_from: float = 0.0,
    sound_seconds: float = 6.0,
    codecs: tuple[str, str] = ("libx264", "aac"),
) -> Path:
    """Pictures that may start later than the sound, and sound of its own length."""
    with av.open(str(path), "w") as container:
        film: Any = container.add_stream(codecs[0], rate=RATE)
        film.width, film.height, film.pix_fmt = FILM.width, FILM.height, "yuv420p"
        film.options = GOPS if codecs[0] == "libx264" else {"g": "8"}
        sound: Any = container.add_stream(codecs[1], rate=16000, layout="mono")
        sound.bit_rate = 32000
        packets = []
        for number, picture in enumerate(pictures(FILM)):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts = number + round(picture_from * RATE)
            frame.time_base = Fraction(1, RATE)
            packets += film.encode(frame)
        for start in range(0, int(sound_seconds * 16000), 1024):
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            silence.sample_rate, silence.pts = 16000, start
            packets += sound.encode(silence)
        packets += film.encode() + sound.encode()
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)
    return path


def sound_with_cover(folder: Path) -> Path:
    """Sound, and a picture flagged as its cover."""
    path = folder / "clip.mp4"
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream("aac", rate=16000, layout="mono")
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        picture = np.full((64, 64, 3), 128, np.uint8)
        packets = list(cover.encode(av.VideoFrame.from_ndarray(picture)))
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 16384), np.float32), format="fltp", layout="mono"
        )
        silence.sample_rate, silence.pts = 16000, 0
        for packet in packets + list(sound.encode(silence)) + list(sound.encode()):
            container.mux(packet)
    return path


def song(folder: Path) -> Path:
    with av.open(str(folder / "clip.mp4"), "w", format="flac") as container:
        sound: Any = container.add_stream("flac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 16384), np.int16), format="s16", layout="mono"
        )
        silence.sample_rate, silence.pts = 16000, 0
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    return folder / "clip.mp4"


def photograph(folder: Path) -> Path:
    Image.fromarray(next(pictures(FILM))).save(folder / "clip.mp4", format="JPEG")
    return folder / "clip.mp4"


def animation(kind: str) -> Callable[[Path], Path]:
    """An animation of pictures that FFmpeg does not read as a film, named like one."""

    def make(folder: Path) -> Path:
        first, *others = map(Image.fromarray, itertools.islice(pictures(FILM), 4))
        first.save(folder / "clip.mp4", format=kind, save_all=True, append_images=others)
        return folder / "clip.mp4"

    return make


def still_before_film(folder: Path) -> Path:
    """One still in the first stream; the film is the second and flagged as default."""
    path = folder / "clip.mkv"
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("libx264", rate=RATE) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = FILM.width, FILM.height, "yuv420p"
            stream.options = {"g": "8", "bf": "0"}
        streams[0].disposition = 0
        streams[1].disposition = av.stream.Disposition.default.value
        still = np.full((FILM.height, FILM.width, 3), 128, np.uint8)
        container.mux(streams[0].encode(av.VideoFrame.from_ndarray(still)))
        for picture in pictures(FILM):
            container.mux(streams[1].encode(av.VideoFrame.from_ndarray(picture)))
        for stream in streams:
            container.mux(stream.encode())
    return path


def raw_stream(folder: Path, codec: str = "libx264", suffix: str = ".h264") -> Path:
    clip = replace(FILM, codec=codec, suffix=suffix)
    if codec == "mjpeg":
        clip = replace(clip, pixel_format="yuvj420p", options={"q": "3"})
    if codec == "libx265":
        clip = replace(
            clip, options={"x265-params": "keyint=8:bframes=2:log-level=none:pools=none"}
        )
    return write_video(folder / "clip", clip)


def joined(folder: Path) -> Path:
    """Two transport streams, one after the other: the clock starts again."""
    one = write_video(folder / "one", replace(FILM, suffix=".ts", num_frames=30))
    two = write_video(folder / "two", replace(FILM, suffix=".ts"))
    path = folder / "clip.ts"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    return path


def negative_times(folder: Path) -> Path:
    """A cut by stream copy whose first twenty frames lie before zero."""
    source = write_video(folder / "source", FILM)

    def earlier(_number: int, packet: Any) -> bool:
        packet.pts -= 2 / packet.time_base
        packet.dts -= 2 / packet.time_base
        return True

    return copy_packets(source, folder / "clip.mkv", earlier, avoid_negative_ts="disabled")


def from_between_key_frames(suffix: str, codec: str = "libx264") -> Callable[[Path], Path]:
    """A recording that begins in the middle of a group of pictures."""

    def make(folder: Path) -> Path:
        options = {"libx265": {"x265-params": "keyint=16:bframes=2:log-level=none:pools=none"}}
        clip = replace(
            FILM, codec=codec, suffix=suffix, options=options.get(codec, {**GOPS, "g": "16"})
        )
        if codec == "mpeg2video":
            return copy_packets(
                write_mpeg2(folder), folder / f"clip{suffix}", lambda number, _: number >= 5
            )
        source = write_video(folder / "source", clip)
        return copy_packets(source, folder / f"clip{suffix}", lambda number, _: number >= 5)

    return make


def write_mpeg2(folder: Path, suffix: str = ".ts", **options: str) -> Path:
    """At 25 frames a second: MPEG-2 knows none of ten."""
    path = folder / f"source{suffix}"
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = FILM.width, FILM.height, "yuv420p"
        stream.options = {"g": "12", "bf": "2", "q": "4"}
        for picture in pictures(replace(FILM, num_frames=200)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


def wrapped_clock(folder: Path) -> Path:
    """The 33 bits of the clock run over after two of eight seconds."""
    seconds = (1 << 33) / 90000 - 3.4
    return write_mpeg2(folder, output_ts_offset=f"{seconds:.3f}")


def without_packets(suffix: str, codec: str, left_out: range) -> Callable[[Path], Path]:
    """Some packets in the middle were lost."""

    def make(folder: Path) -> Path:
        options = VP9 if codec == "libvpx-vp9" else {**GOPS, "bf": "0"}
        clip = replace(FILM, suffix=suffix, codec=codec, options=options)
        source = write_video(folder / "source", clip)
        return copy_packets(
            source, folder / f"clip{suffix}", lambda number, _: number not in left_out
        )

    return make


def without_fragment(folder: Path) -> Path:
    """A fragmented MP4 whose fourth fragment is gone."""
    path = write_video(
        folder / "clip", replace(FILM, container_options={"movflags": "frag_keyframe+empty_moov"})
    )
    data = path.read_bytes()
    boxes = list(_boxes(data))
    fourth = [place for place, (kind, _) in enumerate(boxes) if kind == b"moof"][3]
    path.write_bytes(b"".join(box for _, box in boxes[:fourth] + boxes[fourth + 2 :]))
    return path


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place < len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        yield kind, data[place : place + size]
        place += size


def without_transport_packets(folder: Path) -> Path:
    """A transport stream of which some packets of 188 bytes did not arrive."""
    path = write_video(folder / "clip", replace(FILM, suffix=".ts"))
    data = path.read_bytes()
    middle = len(data) // 188 // 2 * 188
    path.write_bytes(data[:middle] + data[middle + 3 * 188 :])
    return path


def hidden_play_list(folder: Path) -> Path:
    """A list for FFmpeg's `concat`, behind a comment with a byte that is no text."""
    write_video(folder / "other", FILM)
    path = folder / "clip.mp4"
    path.write_bytes(b"ffconcat version 1.0\n# \x01\xff\nfile other.mp4\n")
    return path
