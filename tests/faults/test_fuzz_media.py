"""Films of any matrix, rate, start and damage: the frames of the `ffmpeg` command, or an error."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import hard_videos as hard
import numpy as np
import numpy.typing as npt
import pytest
from fuzzing import damaged, fuzz
from hypothesis import assume, example, given
from hypothesis import strategies as st
from video_files import VP9, Clip, pictures, write_mpeg, write_video

from longva_eval.errors import MediaError
from longva_eval.media.frames import FramePolicy, read_frames

pytestmark = pytest.mark.process
ALL = FramePolicy(max_frames=1000, short_video="each_once")
_ONE, _W = 1 << 16, 1 << 30
needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="the ffmpeg command is not installed"
)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Intact films by name, written once."""
    folder = tmp_path_factory.mktemp("films")
    clips = {
        "h264.mp4": Clip(),
        "h264.ts": Clip(suffix=".ts"),
        "h264.mkv": Clip(suffix=".mkv"),
        "h264.flv": Clip(suffix=".flv"),
        "h264.h264": Clip(suffix=".h264"),
        "fragmented.mp4": Clip(container_options={"movflags": "frag_keyframe+empty_moov"}),
        "vp9.webm": Clip(suffix=".webm", codec="libvpx-vp9", options=VP9),
        "vp8.webm": Clip(suffix=".webm", codec="libvpx", options={"g": "8"}),
        "mpeg4.avi": Clip(suffix=".avi", codec="mpeg4", options={"g": "8"}),
        "mjpeg.avi": Clip(suffix=".avi", codec="mjpeg", pixel_format="yuvj420p", options={}),
        "wmv2.wmv": Clip(suffix=".wmv", codec="wmv2", options={"g": "8"}),
    }

    def film(name: str) -> bytes:
        path = folder / name
        if not path.exists():
            if name.startswith("mpeg2"):
                path = write_mpeg(folder, Clip(suffix=path.suffix, codec="mpeg2video")).rename(path)
            else:
                path = write_video(path, clips[name])
        return path.read_bytes()

    return film


def shown_by_ffmpeg(path: Path) -> npt.NDArray[np.uint8]:
    """(bytes,) all frames, one after the other."""
    command = ["ffmpeg", "-nostdin", "-v", "quiet", "-i", str(path), "-an"]
    command += ["-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True).stdout, np.uint8)


_NUMBER = st.sampled_from([0.0, 1.0, -1.0, 0.5, -2.0]) | st.floats(-2, 2)
_TURNED = st.builds(
    lambda degrees, x, y: (
        x * np.cos(np.radians(degrees)),
        x * np.sin(np.radians(degrees)),
        -y * np.sin(np.radians(degrees)),
        y * np.cos(np.radians(degrees)),
    ),
    st.integers(-360, 360) | st.floats(-180, 180) | st.sampled_from([89.2, 90.6, 179.5, 0.7]),
    st.sampled_from([1, -1, 2, 0.5]),
    st.sampled_from([1, -1, 2, 0.5]),
)


@needs_ffmpeg
@fuzz(25)
@given(matrix=_TURNED | st.tuples(_NUMBER, _NUMBER, _NUMBER, _NUMBER))
@example(matrix=(0.0, 0.0, 0.0, 0.0))
@example(matrix=(0.0, 0.0, 0.0, -1.0))
@example(matrix=(1.0, 1.0, -1.0, 1.0))
@example(matrix=(0.99985, 0.01745, -0.01745, 0.99985))  # one degree
def test_any_display_matrix_turns_as_ffmpeg_does(
    tmp_path: Path, films: Callable[[str], bytes], matrix: tuple[float, ...]
) -> None:
    a, b, c, d = (round(number * _ONE) for number in matrix)
    path = tmp_path / "clip.mp4"
    path.write_bytes(films("h264.mp4"))
    hard.set_matrix(path, (a, b, 0, c, d, 0, 0, 0, _W))
    found = read_frames(path, ALL).pixels
    expected = shown_by_ffmpeg(path)
    assert expected.size == found.size
    difference = np.abs(found.astype(np.int16) - expected.reshape(found.shape))
    assert difference.mean(axis=(1, 2, 3)).max() < 2


_CONTAINERS = {
    ".mp4": ("libx264", "aac"),
    ".mov": ("mpeg4", "aac"),
    ".mkv": ("libx264", "aac"),
    ".ts": ("libx264", "aac"),
    ".flv": ("libx264", "aac"),
    ".webm": ("libvpx", "libopus"),
    ".avi": ("libx264", "aac"),
    ".wmv": ("wmv2", "wmav2"),
    ".nut": ("mpeg4", "aac"),
}


@fuzz(40)
@given(
    suffix=st.sampled_from(sorted(_CONTAINERS)),
    rate=st.sampled_from([1, 2, 5, 10, 12, 24, 25, 30, 50, 60])
    | st.sampled_from([Fraction(24000, 1001), Fraction(30000, 1001), Fraction(15, 2)]),
    picture_from=st.integers(0, 60),
    sound_seconds=st.none() | st.floats(0.2, 30),
    num_b_frames=st.integers(0, 3),
    count=st.integers(5, 40),
)
@example(  # FFmpeg's guess of a decoding time, taken back
    suffix=".mkv", rate=1, picture_from=7, sound_seconds=6.0, num_b_frames=1, count=5
)
def test_times_are_those_that_were_written(
    tmp_path: Path,
    suffix: str,
    rate: Fraction,
    picture_from: int,
    sound_seconds: float | None,
    num_b_frames: int,
    count: int,
) -> None:
    """Pictures may start later than the sound, and end earlier or later."""
    codecs = _CONTAINERS[suffix]
    if sound_seconds is None:
        picture_from = 0
    if codecs[0] != "libx264":
        num_b_frames = 0
    clip = Clip(num_frames=count)
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        film: Any = container.add_stream(codecs[0], rate=rate)
        film.width, film.height, film.pix_fmt = clip.width, clip.height, "yuv420p"
        film.options = {"g": "8", "bf": str(num_b_frames)}
        packets = []
        if sound_seconds is not None:
            sound: Any = container.add_stream(codecs[1], rate=48000, layout="mono")
            sound.bit_rate = 64000
            size = 1024
            for start in range(0, int(sound_seconds * 48000), size):
                silence = av.AudioFrame.from_ndarray(
                    np.zeros((1, size), np.float32), format="fltp", layout="mono"
                )
                silence.sample_rate, silence.pts = 48000, start
                wanted = sound.codec_context.format.name
                packets += sound.encode(_as_format(silence, wanted))
            packets += sound.encode()
        for number, picture in enumerate(pictures(clip)):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = number + picture_from, 1 / Fraction(rate)
            packets += film.encode(frame)
        packets += film.encode()
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)
    found = read_frames(path, ALL)
    assert len(found.indices) == count
    known = np.stack(list(pictures(clip))).astype(np.int16)
    for number, picture in enumerate(found.pixels):
        assert np.abs(known - picture).mean(axis=(1, 2, 3)).argmin() == number
    seconds = np.array(found.seconds)
    np.testing.assert_allclose(seconds - seconds[0], np.arange(count) / float(rate), atol=0.003)
    # A coder of sound may start before zero, a transport stream's pictures in its middle; AVI has
    # the decoder's delay in its times.
    late = picture_from / float(rate) if sound_seconds is not None else 0.0
    delay = (num_b_frames + 2 * (suffix == ".avi")) / float(rate)
    assert seconds[0] == pytest.approx(late, abs=0.15 + delay)


def _as_format(frame: Any, wanted: str) -> Any:
    if frame.format.name == wanted:
        return frame
    resampler = av.AudioResampler(format=wanted, layout="mono", rate=48000)
    (changed,) = resampler.resample(frame)
    changed.pts = frame.pts
    return changed


@fuzz(25)
@given(
    suffix_codec=st.sampled_from(
        [(".ts", "libx264"), (".mkv", "libx264"), (".flv", "libx264"), (".webm", "libvpx"),
         (".webm", "libvpx-vp9"), (".mkv", "mpeg4"), (".nut", "mpeg4"), (".wmv", "wmv2")]
    ),
    lost=st.integers(1, 50),
    count=st.integers(1, 20),
)  # fmt: skip
def test_packets_that_were_lost_are_noticed(
    tmp_path: Path, suffix_codec: tuple[str, str], lost: int, count: int
) -> None:
    assume(lost + count < 58)
    path = hard.without_packets(*suffix_codec, range(lost, lost + count))(tmp_path)
    with pytest.raises(
        MediaError, match=r"lacks pictures|damaged|cannot be (decoded|read)|cut off"
    ):
        read_frames(path, ALL)


@fuzz(60)
@given(
    data=st.data(),
    name=st.sampled_from(
        ["h264.mp4", "h264.ts", "h264.mkv", "h264.flv", "h264.h264", "fragmented.mp4", "vp9.webm",
         "vp8.webm", "mpeg4.avi", "mjpeg.avi", "wmv2.wmv", "mpeg2.ts", "mpeg2.mpg"]
    ),
)  # fmt: skip
def test_a_film_of_any_bytes_is_read_or_refused(
    tmp_path: Path, films: Callable[[str], bytes], data: st.DataObject, name: str
) -> None:
    path = tmp_path / f"clip{Path(name).suffix}"
    path.write_bytes(data.draw(damaged(films(name))))
    try:
        found = read_frames(path, replace(ALL, gaps="count"))
    except MediaError as error:
        assert path.name in str(error)  # noqa: PT017
        return
    assert len(found.pixels) == len(found.seconds) == len(found.indices)
    assert np.all(np.diff(found.seconds) >= 0)
