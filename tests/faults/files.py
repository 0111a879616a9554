"""The fault set: videos and pictures that go wrong in practice, each made from nothing.

    python tests/faults/files.py FOLDER        # writes all of them, to look at

Each file has an expectation: frames that must be the right ones, or an error whose message must say
what is wrong. `run.py` runs all of them and writes the table in README.md.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import hard_videos as hard
from video_files import (
    AV1,
    AVI,
    B_FRAMES_MPEG4,
    BT601,
    BT709,
    FULL_RANGE,
    GIF,
    MPEG_PS,
    OPEN_GOP_H264,
    OPEN_GOP_HEVC,
    RATE,
    VP9,
    Clip,
    cut,
    pictures,
    set_edit_list,
    set_rotation,
    write_audio,
    write_hidden_start,
    write_mpeg,
    write_video,
)

FRAMES = "frames"
"""The file is unusual, not broken: its frames must be the right ones."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One file of the set."""

    name: str
    make: Callable[[Path], Path]
    """Writes the file into a folder of its own and returns its path."""
    expect: str
    """`FRAMES`, or a part of the error's message (a regular expression)."""
    is_picture: bool = False


def _video(clip: Clip, name: str = "clip") -> Callable[[Path], Path]:
    return lambda folder: write_video(folder / name, clip)


def _flipped(folder: Path) -> Path:
    path = write_video(folder / "clip", Clip(num_frames=60, width=160, height=120))
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 4, len(data) * 3 // 4, 401):
        data[place] ^= 0x55
    path.write_bytes(data)
    return path


def _text(text: str, name: str = "clip.mp4") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return make


def _two_streams(folder: Path) -> Path:
    path = folder / "clip.mp4"
    small, large = Clip(num_frames=12), Clip(num_frames=12, width=128, height=96)
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("libx264", rate=RATE) for _ in range(2)]
        for stream, clip in zip(streams, (small, large), strict=True):
            stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        for pair in zip(pictures(small), pictures(large), strict=True):
            for stream, picture in zip(streams, pair, strict=True):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        for stream in streams:
            container.mux(stream.encode())
    return path


def _deep_vp9(folder: Path) -> Path:
    """By the `ffmpeg` command: PyAV's libvpx has no such encoder."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("the ffmpeg command is not installed")
    path = folder / "clip.webm"
    command = "ffmpeg -nostdin -v error -f lavfi -i testsrc2=s=64x48:r=10:d=2 -c:v libvpx-vp9"
    options = "-deadline realtime -cpu-used 8 -pix_fmt yuv420p10le"
    subprocess.run([*command.split(), *options.split(), str(path)], check=True)
    return path


def _huge_header(folder: Path) -> Path:
    """Frames of 64 x 48 in an AVI file whose header announces 16,000 x 16,000."""
    path = write_video(folder / "clip", replace(AVI, codec="rawvideo", pixel_format="bgr24"))
    data = bytearray(path.read_bytes())
    struct.pack_into("<2I", data, data.index(b"avih") + 8 + 32, 16_000, 16_000)
    struct.pack_into("<2i", data, data.index(b"strf") + 8 + 4, 16_000, 16_000)
    path.write_bytes(data)
    return path


def _changed(make: Callable[[Path], Path], change: Callable[[Path], Path]) -> Callable[..., Path]:
    return lambda folder: change(make(folder))


def _missing(folder: Path) -> Path:
    return folder / "absent.mp4"


def _folder(folder: Path) -> Path:
    (folder / "clip.mp4").mkdir()
    return folder / "clip.mp4"


def _empty(folder: Path) -> Path:
    (folder / "clip.mp4").touch()
    return folder / "clip.mp4"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "clip.mp4")
    return folder / "clip.mp4"


def _circle(folder: Path) -> Path:
    (folder / "clip.mp4").symlink_to(folder / "clip.mp4")
    return folder / "clip.mp4"


def _picture(mode: str, name: str, **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = Image.fromarray(next(pictures(Clip()))).convert(mode)
        image.save(folder / name, **options)
        return folder / name

    return make


def _deep_png(folder: Path) -> Path:
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(ramp).save(folder / "deep.png")
    return folder / "deep.png"


def _turned_photograph(folder: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(next(pictures(Clip()))).save(folder / "turned.jpg", exif=exif)
    return folder / "turned.jpg"


def _float_picture(folder: Path) -> Path:
    Image.fromarray(np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)).save(
        folder / "fractions.tif"
    )
    return folder / "fractions.tif"


def _picture_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def _pages(folder: Path) -> Path:
    pages = [Image.fromarray(picture) for picture in pictures(Clip(num_frames=3))]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    return folder / "pages.tif"


def _bomb(folder: Path) -> Path:
    """A PNG of 100 kB that unpacks to 10 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    side = 100_000
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" * (side + 1)) for _ in range(1_000)) + packer.flush()
    header = struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
    path = folder / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    return path


def _animated(folder: Path) -> Path:
    frames = [Image.fromarray(picture) for picture in pictures(Clip(num_frames=4))]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    return folder / "moving.gif"


_LONG = Clip(num_frames=60)
_FASTSTART = replace(_LONG, container_options={"movflags": "faststart"})

VIDEOS = [
    Fault(name="ordinary H.264", make=_video(_LONG), expect=FRAMES),
    Fault(name="cut off at 60 %, index at the end", make=_changed(_video(_LONG), cut),
          expect="cannot be read as a video"),
    Fault(name="cut off at 60 %, index at the start", make=_changed(_video(_FASTSTART), cut),
          expect="is cut off"),
    Fault(name="cut off at 60 %, Matroska", expect="is cut off",
          make=_changed(_video(replace(_LONG, suffix=".mkv")), cut)),
    Fault(name="flipped bytes", make=_flipped, expect="damaged|cannot be decoded"),
    Fault(name="0 bytes", make=_empty, expect="is empty"),
    Fault(name="an error page named .mp4", make=_text("<html>404 Not Found</html>"),
          expect="it is a text"),
    Fault(name="a Git LFS pointer", make=_text("version https://git-lfs.github.com/spec/v1\n"),
          expect="it is a text"),
    Fault(name="a play list that names another file",
          make=_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n/etc/passwd\n#EXT-X-ENDLIST\n"),
          expect="it is a text"),
    Fault(name="random bytes", expect="cannot be read as a video",
          make=lambda folder: _write(folder, np.random.default_rng(0).bytes(20_000))),
    Fault(name="sound only", make=lambda folder: write_audio(folder / "clip.mp4"),
          expect="no video stream"),
    Fault(name="one frame", make=_video(Clip(num_frames=1)), expect=FRAMES),
    Fault(name="two frames", make=_video(Clip(num_frames=2)), expect=FRAMES),
    Fault(name="two video streams", make=_two_streams, expect=FRAMES),
    Fault(name="variable frame rate", expect=FRAMES,
          make=_video(Clip(times=tuple(number * number for number in range(20))))),
    Fault(name="edit list: starts late", expect=FRAMES,
          make=lambda folder: set_edit_list(write_video(folder / "clip", _LONG), first_frame=11,
                                              seconds=4.9)),
    Fault(name="edit list: ends early", expect=FRAMES,
          make=lambda folder: set_edit_list(write_video(folder / "clip", _LONG), seconds=3.0)),
    Fault(name="frames before time zero", make=write_hidden_start, expect=FRAMES),
    Fault(name="open GOPs, H.264", expect=FRAMES,
          make=_video(replace(OPEN_GOP_H264, num_frames=40))),
    Fault(name="open GOPs, HEVC", make=_video(OPEN_GOP_HEVC), expect=FRAMES),
    Fault(name="HEVC", expect=FRAMES, make=_video(
        Clip(codec="libx265", options={"x265-params": "keyint=6:open-gop=0:log-level=none"}))),
    Fault(name="VP9 in WebM", make=_video(Clip(suffix=".webm", codec="libvpx-vp9", options=VP9)),
          expect=FRAMES),
    Fault(name="AV1", make=_video(AV1), expect=FRAMES),
    Fault(name="Matroska", make=_video(Clip(suffix=".mkv")), expect=FRAMES),
    Fault(name="AVI", make=_video(AVI), expect=FRAMES),
    Fault(name="MPEG-4 with B-frames", make=_video(B_FRAMES_MPEG4), expect=FRAMES),
    Fault(name="MPEG-TS", make=_video(Clip(suffix=".ts")), expect=FRAMES),
    Fault(name="MPEG-PS", make=lambda folder: write_mpeg(folder, MPEG_PS), expect=FRAMES),
    Fault(name="fragmented MP4", expect=FRAMES, make=_video(
        Clip(container_options={"movflags": "frag_keyframe+empty_moov"}))),
    Fault(name="a GIF, as video", make=_video(GIF), expect="it is animated"),
    Fault(name="turned by 90 degrees", expect=FRAMES,
          make=lambda folder: set_rotation(write_video(folder / "clip", Clip()), 90)),
    Fault(name="full range", make=_video(Clip(color_range=FULL_RANGE)), expect=FRAMES),
    Fault(name="tagged BT.601", make=_video(Clip(colorspace=BT601)), expect=FRAMES),
    Fault(name="tagged BT.709", make=_video(Clip(colorspace=BT709)), expect=FRAMES),
    Fault(name="odd size", make=_video(Clip(width=63, height=47, pixel_format="yuv444p")),
          expect=FRAMES),
    Fault(name="10 bits", make=_video(Clip(pixel_format="yuv420p10le")), expect=FRAMES),
    Fault(name="10 bits, VP9", make=_deep_vp9, expect=FRAMES),
    Fault(name="mirrored, as a selfie", make=hard.oriented("mirrored"), expect=FRAMES),
    Fault(name="transposed", make=hard.oriented("transposed"), expect=FRAMES),
    Fault(name="turned by 30 degrees", make=hard.odd_angle, expect=FRAMES),
    Fault(name="a screen recording: one frame every two seconds", make=hard.screen_recording,
          expect=FRAMES),
    Fault(name="picture later than sound, Matroska", expect=FRAMES,
          make=lambda folder: hard.write_with_sound(folder / "clip.mkv", picture_from=2)),
    Fault(name="picture later than sound, AVI", expect=FRAMES,
          make=lambda folder: hard.write_with_sound(folder / "clip.avi", picture_from=2)),
    Fault(name="sound longer than picture, WMV", expect=FRAMES,
          make=lambda folder: hard.write_with_sound(
              folder / "clip.wmv", sound_seconds=12, codecs=("wmv2", "wmav2"))),
    Fault(name="H.264 without a container", make=hard.raw_stream, expect=FRAMES),
    Fault(name="JPEGs in a row", expect=FRAMES,
          make=lambda folder: hard.raw_stream(folder, "mjpeg", ".mjpeg")),
    Fault(name="a still first, the film is the default", make=hard.still_before_film,
          expect=FRAMES),
    Fault(name="joined recordings: the clock restarts", make=hard.joined, expect=FRAMES),
    Fault(name="a clock that runs over", make=hard.wrapped_clock, expect=FRAMES),
    Fault(name="a third of its frames before zero", make=hard.negative_times, expect=FRAMES),
    Fault(name="begins between key frames, MPEG-TS", make=hard.from_between_key_frames(".ts"),
          expect=FRAMES),
    Fault(name="begins between key frames, HEVC", expect="begins between key frames",
          make=hard.from_between_key_frames(".mkv", "libx265")),
    Fault(name="a fragment is missing", make=hard.without_fragment, expect="lacks pictures"),
    Fault(name="a group of pictures is missing, MPEG-TS", expect="lacks pictures",
          make=hard.without_packets(".ts", "libx264", range(24, 32))),
    Fault(name="a packet is missing, VP9", expect="lacks pictures",
          make=hard.without_packets(".webm", "libvpx-vp9", range(27, 28))),
    Fault(name="transport packets are missing", make=hard.without_transport_packets,
          expect="lacks pictures|is damaged"),
    Fault(name="sound with a cover picture", make=hard.sound_with_cover,
          expect="has no film in it: a cover picture"),
    Fault(name="a song named .mp4", make=hard.song, expect="no video stream"),
    Fault(name="a photograph named .mp4", make=hard.photograph, expect="no video but a picture"),
    Fault(name="a play list behind a comment", make=hard.hidden_play_list,
          expect="container is none of those that are read"),
    Fault(name="16,000 x 16,000 in the header", make=_huge_header, expect="refused as too large"),
    Fault(name="a path that does not exist", make=_missing, expect="cannot be opened"),
    Fault(name="a folder", make=_folder, expect="is a folder"),
    Fault(name="a pipe", make=_pipe, expect="no ordinary file"),
    Fault(name="a link to itself", make=_circle, expect="cannot be opened"),
    Fault(name="spaces, é, 日本 and a newline in its name", expect=FRAMES,
          make=lambda folder: write_video(folder / "ein film", Clip()).rename(
              folder / "a b é 日本\n.mp4")),
]  # fmt: skip
"""Videos, and what is taken for one."""

PICTURES = [
    Fault(name="a broken JPEG", expect="cannot be read",
          make=_changed(_picture("RGB", "broken.jpg"), lambda path: cut(path, 0.5))),
    Fault(name="a JPEG without its last bytes", expect="cannot be read: .*truncated",
          make=_changed(_picture("RGB", "cut.jpg"), lambda path: cut(path, 0.95))),
    Fault(name="a PNG cut off at half", expect="cannot be read: .*truncated",
          make=_changed(_picture("RGB", "cut.png"), lambda path: cut(path, 0.5))),
    Fault(name="a decompression bomb", make=_bomb, expect="refused as too large"),
    Fault(name="a photograph turned by its EXIF entry", make=_turned_photograph, expect=FRAMES),
    Fault(name="grey as fractions from 0 to 1", make=_float_picture, expect=FRAMES),
    Fault(name="a pipe named .png", make=_picture_pipe, expect="no ordinary file"),
    Fault(name="a TIFF of three pages", make=_pages, expect="it has 3 pages"),
    Fault(name="CMYK", make=_picture("CMYK", "cmyk.jpg"), expect=FRAMES),
    Fault(name="a palette", make=_picture("P", "palette.png"), expect=FRAMES),
    Fault(name="16-bit grey", make=_deep_png, expect=FRAMES),
    Fault(name="transparent", make=_picture("RGBA", "clear.png"), expect=FRAMES),
    Fault(name="black and white", make=_picture("1", "bits.png"), expect=FRAMES),
    Fault(name="an animated GIF, as picture", make=_animated, expect="it is animated"),
    Fault(name="a text named .png", make=_text("hello", "text.png"), expect="cannot be read"),
    Fault(name="a picture that does not exist", make=lambda folder: folder / "absent.png",
          expect="does not exist"),
]  # fmt: skip
FAULTS = VIDEOS + [replace(fault, is_picture=True) for fault in PICTURES]


def _write(folder: Path, data: bytes) -> Path:
    (folder / "clip.mp4").write_bytes(data)
    return folder / "clip.mp4"


def make_fault(fault: Fault, root: Path) -> Path:
    """Write one file into a folder of its own below `root`."""
    folder = root / f"{FAULTS.index(fault):02d}"
    folder.mkdir(parents=True)
    return fault.make(folder)


if __name__ == "__main__":
    for made in FAULTS:
        print(f"{made.name:45} {make_fault(made, Path(sys.argv[1]))!r}")
