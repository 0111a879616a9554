"""Videos: which frames are chosen, and that every decoder gives exactly those.

The reference is an independent pass through the file with PyAV: every packet decoded from the
start, every frame that has a time of its own kept, BT.709 and rotation taken into account.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from conftest import OPEN, TESTS
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import (
    AV1,
    AVI,
    B_FRAMES_MPEG4,
    BT601,
    BT709,
    BT2020,
    FULL_RANGE,
    GIF,
    HEIGHT,
    MPEG_PS,
    OPEN_GOP_H264,
    OPEN_GOP_HEVC,
    RATE,
    SMPTE240M,
    VP9,
    WIDTH,
    Clip,
    cut,
    pictures,
    reference_frames,
    set_edit_list,
    set_rotation,
    write_audio,
    write_hidden_start,
    write_mpeg,
    write_video,
)

from longva_eval.errors import MediaError, SettingsError
from longva_eval.media import decode
from longva_eval.media.decode import read_frames
from longva_eval.media.files import file_digest
from longva_eval.media.frames import FramePolicy, one_per_second, sample_frames
from longva_eval.media.probe import VideoInfo, probe_video


def _torchcodec_works() -> bool:
    """Whether torchcodec can decode here: it may be installed without FFmpeg's libraries."""
    try:
        from torchcodec.decoders import VideoDecoder

        return len(VideoDecoder(str(OPEN / "inputs" / "landscape_320x180.mp4"))) > 0
    except Exception:
        return False


TORCHCODEC = _torchcodec_works()
BACKENDS = ("decord", "pyav", *(("torchcodec",) if TORCHCODEC else ()))


@pytest.fixture(autouse=True)
def _quiet_ffmpeg() -> None:
    av.logging.set_level(av.logging.PANIC)


def read(info: VideoInfo, indices: Any = None, *, backend: Any = "auto") -> npt.NDArray[np.uint8]:
    indices = range(info.num_frames) if indices is None else indices
    found = []
    for cores in (1, 3):  # parts of a video side by side, and one after the other
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decode, "own_cores", lambda cores=cores: cores)
            found.append(np.concatenate(list(read_frames(info, list(indices), backend=backend))))
    np.testing.assert_array_equal(*found)
    return found[0]


def far_apart(num_frames: int) -> list[list[int]]:
    """Choices of frames that a decoder has to seek to."""
    spread = [np.linspace(0, num_frames - 1, count, dtype=int).tolist() for count in (2, 5, 9)]
    return [[*range(1, num_frames, 7), num_frames - 1], *spread]


def assert_right_frames(path: Path, backends: tuple[str, ...] = ("auto", "pyav")) -> VideoInfo:
    """Whole and in parts that need seeking, the frames are those of a sequential pass."""
    info = probe_video(path)
    expected = reference_frames(path)
    assert info.num_frames == len(expected)
    for backend in backends:
        np.testing.assert_array_equal(read(info, backend=backend), expected, backend)
        for indices in map(sorted, far_apart(len(expected))):
            found = read(info, indices, backend=backend)
            np.testing.assert_array_equal(found, expected[indices], backend)
    return info


def assert_right_or_refused(path: Path, backend: str) -> None:
    """Another backend may be needed, but no frame is another one than asked for."""
    try:
        assert_right_frames(path, (backend,))
    except MediaError as error:
        assert path.name in str(error)  # noqa: PT017


ORDINARY = {
    "h264": Clip(),
    "vfr": Clip(times=tuple(number * number for number in range(20))),
    "ts": Clip(suffix=".ts"),
    "mkv": Clip(suffix=".mkv"),
    "mov": Clip(suffix=".mov"),
    "flv": Clip(suffix=".flv"),
    "vp9": Clip(suffix=".webm", codec="libvpx-vp9", options=VP9),
    "vp8-hidden-reference-frames": Clip(
        suffix=".webm",
        codec="libvpx",
        num_frames=40,
        options={"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8", "deadline": "good"},
    ),
    "hevc-without-b-frames": Clip(
        codec="libx265", options={"x265-params": "keyint=6:bframes=0:log-level=none:pools=none"}
    ),
    "faststart": Clip(container_options={"movflags": "faststart"}),
    "fragmented": Clip(container_options={"movflags": "frag_keyframe+empty_moov"}),
    "odd-size": Clip(width=63, height=47, pixel_format="yuv444p"),
    "one-frame": Clip(num_frames=1),
    "bt601": Clip(colorspace=BT601),
    "bt709": Clip(colorspace=BT709),
    "full-range": Clip(color_range=FULL_RANGE),
    "full-range-bt709": Clip(color_range=FULL_RANGE, colorspace=BT709),
    "grey": Clip(pixel_format="gray"),
}
"""decord, torchcodec and PyAV agree on these, bit for bit."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("h264", "vfr", "vp9") else [pytest.mark.slow])
        for name in ORDINARY
    ],
)
def test_frames_are_exactly_those_of_a_sequential_pass(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / "clip", ORDINARY[name])
    backends = BACKENDS if probe_video(path).decord_is_right else ("pyav",)
    assert_right_frames(path, ("auto", *backends))


ROUNDED_DIFFERENTLY = {
    "odd-size-vp9": Clip(
        suffix=".webm", codec="libvpx-vp9", width=63, height=47, options=VP9, num_frames=10
    ),
    "ten-bit": Clip(pixel_format="yuv420p10le"),
    "ten-bit-rgb": Clip(suffix=".mkv", codec="ffv1", pixel_format="gbrp10le"),
    "four-times-fewer-colours": Clip(suffix=".mov", codec="svq1", pixel_format="yuv410p"),
}


@pytest.mark.parametrize("name", ROUNDED_DIFFERENTLY)
def test_odd_sizes_and_deep_colour_are_read_as_the_ffmpeg_command_reads_them(
    tmp_path: Path, name: str
) -> None:
    """decord and torchcodec round their colours otherwise."""
    path = write_video(tmp_path / "clip", ROUNDED_DIFFERENTLY[name])
    info = assert_right_frames(path, ("auto", "pyav"))
    for backend in ("decord", "torchcodec"):
        with pytest.raises(MediaError, match="odd size, more than 8 bits"):
            read(info, backend=backend)


HARD_TO_SEEK = {
    "open-gop-h264": OPEN_GOP_H264,
    "open-gop-hevc": OPEN_GOP_HEVC,
    "mpeg4-with-b-frames": B_FRAMES_MPEG4,
    "avi": AVI,
    "mpeg-ps": MPEG_PS,
}


def write_hard(folder: Path, clip: Clip) -> Path:
    return write_mpeg(folder, clip) if clip is MPEG_PS else write_video(folder / "clip", clip)


@pytest.mark.parametrize("name", HARD_TO_SEEK)
def test_decord_gives_no_other_frames_than_asked_for(tmp_path: Path, name: str) -> None:
    assert_right_or_refused(write_hard(tmp_path, HARD_TO_SEEK[name]), "decord")


@pytest.mark.skipif(not TORCHCODEC, reason="torchcodec cannot be used here")
@pytest.mark.parametrize("name", HARD_TO_SEEK)
def test_torchcodec_gives_no_other_frames_than_asked_for(tmp_path: Path, name: str) -> None:
    assert_right_or_refused(write_hard(tmp_path, HARD_TO_SEEK[name]), "torchcodec")


@pytest.mark.parametrize("name", HARD_TO_SEEK)
def test_pyav_reads_what_is_hard_to_seek(tmp_path: Path, name: str) -> None:
    assert_right_frames(write_hard(tmp_path, HARD_TO_SEEK[name]), ("pyav",))


@pytest.mark.slow
@pytest.mark.parametrize(
    "clip",
    [
        pytest.param(OPEN_GOP_H264, id="open-gop-h264"),
        pytest.param(OPEN_GOP_HEVC, id="open-gop-hevc"),
        pytest.param(B_FRAMES_MPEG4, id="mpeg4-with-b-frames"),
        pytest.param(AVI, id="avi"),
        pytest.param(MPEG_PS, id="mpeg-ps"),
        pytest.param(AV1, id="av1"),
        pytest.param(GIF, id="gif"),
    ],
)
def test_auto_finds_a_backend_that_is_right(tmp_path: Path, clip: Clip) -> None:
    assert_right_frames(write_hard(tmp_path, clip))


@pytest.mark.parametrize(
    "colorspace",
    [
        pytest.param(
            BT2020,
            id="bt2020",
        ),
        pytest.param(
            SMPTE240M,
            id="smpte240m",
        ),
    ],
)
def test_rare_colour_spaces_look_the_same_to_decord_and_pyav(
    tmp_path: Path, colorspace: int
) -> None:
    info = probe_video(write_video(tmp_path / "clip", Clip(colorspace=colorspace, num_frames=4)))
    np.testing.assert_array_equal(read(info, backend="pyav"), read(info, backend="decord"))


def test_bt709_and_bt601_files_of_the_same_pictures_look_alike(tmp_path: Path) -> None:
    one = probe_video(write_video(tmp_path / "a", Clip(colorspace=BT709, num_frames=3)))
    two = probe_video(write_video(tmp_path / "b", Clip(colorspace=BT601, num_frames=3)))
    for backend in ("decord", "pyav"):
        difference = read(one, backend=backend).astype(int) - read(two, backend=backend)
        # Lossy in two ways; taking one for the other would be 30 levels off on flat colour.
        flat = np.abs(difference[:, 4 : HEIGHT // 2 - 4, 4 : WIDTH // 2 - 4])
        assert flat.max() <= 12


def test_frames_look_like_what_was_encoded(tmp_path: Path) -> None:
    clip = Clip(num_frames=6)
    frames = read(probe_video(write_video(tmp_path / "clip", clip)))
    corner = np.s_[8 : HEIGHT // 2 - 8, 8 : WIDTH // 2 - 8]
    for frame, picture in zip(frames, pictures(clip), strict=False):
        assert np.abs(frame[corner].astype(int) - picture[corner]).max() <= 16


@pytest.mark.parametrize(
    "degrees",
    [
        180,
        *(
            pytest.param(
                turn,
            )
            for turn in (90, 270)
        ),
    ],
)
def test_a_phone_video_stands_upright_whichever_backend_reads_it(
    tmp_path: Path, degrees: int
) -> None:
    upright = write_video(tmp_path / "upright", Clip(num_frames=4))
    expected = np.rot90(reference_frames(upright), -degrees // 90, axes=(1, 2))
    path = Path(shutil.copy(upright, tmp_path / "clip.mp4"))
    turned = probe_video(set_rotation(path, degrees))
    np.testing.assert_array_equal(read(turned, backend="pyav"), expected)
    np.testing.assert_array_equal(read(turned), expected)


@pytest.mark.parametrize("degrees", [90, 270])
def test_pyav_turns_a_phone_video_upright(tmp_path: Path, degrees: int) -> None:
    upright = write_video(tmp_path / "upright", Clip(num_frames=4))
    expected = np.rot90(reference_frames(upright), -degrees // 90, axes=(1, 2))
    path = Path(shutil.copy(upright, tmp_path / "clip.mp4"))
    turned = probe_video(set_rotation(path, degrees))
    np.testing.assert_array_equal(read(turned, backend="pyav"), expected)


@pytest.mark.parametrize(
    ("first_frame", "seconds", "shown"),
    [
        pytest.param(5, 1.5, range(5, 20), id="start in the first GOP"),
        pytest.param(11, 0.9, range(11, 20), id="start in a later GOP"),
        pytest.param(8, 1.2, range(8, 20), id="start at a key frame"),
        pytest.param(0, 0.6, range(6), id="end"),
        pytest.param(11, 0.3, range(11, 14), id="both"),
    ],
)
def test_a_trimmed_video_shows_what_its_edit_list_keeps(
    tmp_path: Path, first_frame: int, seconds: float, shown: range
) -> None:
    source = write_video(tmp_path / "whole", Clip())
    whole = reference_frames(source)
    path = Path(shutil.copy(source, tmp_path / "clip.mp4"))
    set_edit_list(path, first_frame=first_frame, seconds=seconds)
    info = probe_video(path)
    assert info.num_frames == len(shown)
    np.testing.assert_array_equal(read(info), whole[list(shown)])
    np.testing.assert_array_equal(read(info, [1, len(shown) - 1]), whole[[shown[1], shown[-1]]])


def test_frames_before_time_zero_are_not_shown(tmp_path: Path) -> None:
    path = write_hidden_start(tmp_path)
    info = probe_video(path)
    assert info.num_frames == 17
    source = read(probe_video(tmp_path / "source.mp4"), backend="pyav")
    np.testing.assert_array_equal(read(info), source[3:])
    np.testing.assert_array_equal(read(info, [0, 9]), source[[3, 12]])
    with pytest.raises(MediaError, match=r"clip\.mp4: it has an edit list, open GOPs"):
        read(info, backend="decord")


def test_decord_is_refused_for_mpeg_ts(tmp_path: Path) -> None:
    info = probe_video(write_video(tmp_path / "clip", Clip(suffix=".ts")))
    with pytest.raises(MediaError, match=r"decord returns other frames than asked for .*clip\.ts"):
        read(info, backend="decord")


def test_repeated_frames_come_twice_across_blocks(tmp_path: Path) -> None:
    info = probe_video(write_video(tmp_path / "clip", Clip(num_frames=20)))
    indices = sorted([*range(20), *range(20), 7, 7])
    expected = reference_frames(info.path)[indices]
    for backend in ("decord", "pyav"):
        blocks = list(read_frames(info, indices, backend=backend))
        assert [len(block) for block in blocks] == [32, 10]
        np.testing.assert_array_equal(np.concatenate(blocks), expected)


def test_no_frames_asked_give_none(tmp_path: Path) -> None:
    info = probe_video(write_video(tmp_path / "clip", Clip(num_frames=2)))
    for backend in ("decord", "pyav"):
        assert list(read_frames(info, [], backend=backend)) == []


TORCHCODEC_WITHOUT_FFMPEG = """\
class VideoDecoder:
    def __init__(self, *args, **kwargs):
        raise RuntimeError("Could not load libtorchcodec. Likely causes:\\n  1. FFmpeg ...")
"""
"""As torchcodec 0.17 behaves: it imports, and fails at the first file."""


@pytest.mark.process
@pytest.mark.parametrize(
    ("backend", "expected"),
    [("auto", "4 frames"), ("torchcodec", "SettingsError: torchcodec cannot be used")],
)
def test_torchcodec_without_ffmpeg_is_a_matter_of_settings_and_auto_does_without(
    tmp_path: Path, backend: str, expected: str
) -> None:
    path = write_video(tmp_path / "clip", Clip(num_frames=4))
    package = tmp_path / "packages" / "torchcodec"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("ffmpeg_major_version = None\n")
    (package / "decoders.py").write_text(TORCHCODEC_WITHOUT_FFMPEG)
    program = f"""
from longva_eval.media.decode import read_frames
from longva_eval.media.probe import probe_video
try:
    blocks = read_frames(probe_video({str(path)!r}), [0, 1, 2, 3], backend={backend!r})
    print(sum(len(block) for block in blocks), "frames")
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""
    paths = os.pathsep.join([str(package.parent), str(TESTS.parent)])
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith(expected), ran.stdout


# Broken files


@pytest.mark.parametrize("backend", ["auto", "pyav"])
@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (Clip(), "moov atom not found.*partial download"),
        (
            Clip(container_options={"movflags": "faststart"}),
            r"is cut off: its header promises 20 frames, the file holds \d+\. Fetch it again",
        ),
        (Clip(container_options={"movflags": "frag_keyframe+empty_moov"}), "cannot be decoded"),
        (Clip(suffix=".avi", codec="mpeg4"), "is cut off: its header promises 20 frames"),
    ],
    ids=["moov at the end", "faststart", "fragmented", "avi"],
)
def test_a_partial_download_is_no_video(
    tmp_path: Path, clip: Clip, message: str, backend: str
) -> None:
    path = cut(write_video(tmp_path / "clip", clip))
    with pytest.raises(MediaError, match=rf"(?s){re.escape(str(path))}.*{message}"):
        read(probe_video(path), backend=backend)


@pytest.mark.parametrize(
    "clip",
    [
        Clip(suffix=".mkv", num_frames=60),
        Clip(suffix=".webm", codec="libvpx-vp9", options=VP9, num_frames=60),
    ],
    ids=["mkv", "webm"],
)
def test_a_partial_matroska_download_is_no_video(tmp_path: Path, clip: Clip) -> None:
    path = cut(write_video(tmp_path / "clip", clip))
    with pytest.raises(MediaError, match=r"is cut off: its header promises 6\.0 s"):
        probe_video(path)


def test_a_file_damaged_in_the_middle_is_an_error_whoever_reads_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip", Clip())
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat")
    size = struct.unpack_from(">I", data, start - 4)[0]
    data[start + size // 3 : start + size * 2 // 3] = bytes(
        start + size * 2 // 3 - start - size // 3
    )
    path.write_bytes(data)
    for backend in ("decord", "pyav"):
        with pytest.raises(MediaError, match=r"clip\.mp4 cannot be decoded"):
            read(probe_video(path), backend=backend)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "sound.mp4")
    with pytest.raises(MediaError, match=r"sound\.mp4 has no video stream \(streams: audio\)"):
        probe_video(path)


def test_what_is_no_file_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"absent\.mp4 cannot be opened: No such file"):
        probe_video(tmp_path / "absent.mp4")
    with pytest.raises(MediaError, match="is a folder"):
        probe_video(tmp_path)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with pytest.raises(MediaError, match=r"empty\.mp4 is empty \(0 bytes\)"):
        probe_video(empty)
    text = tmp_path / "page.mp4"
    text.write_text("<html>404 Not Found</html>\n" * 40)
    with pytest.raises(MediaError, match=r"page\.mp4 cannot be read as a video"):
        probe_video(text)


def test_a_path_with_a_zero_byte_is_a_media_error() -> None:
    with pytest.raises(MediaError, match="cannot be opened"):
        probe_video("a\0b.mp4")


def test_an_unknown_codec_is_a_media_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip", Clip(num_frames=3))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match=r"clip\.mp4"):
        probe_video(path)


@pytest.mark.parametrize("name", ["clip%03d", "a b é", "x#y?", "-v"])
def test_odd_file_names_are_only_names(tmp_path: Path, name: str) -> None:
    assert_right_frames(write_video(tmp_path / name, Clip(num_frames=4)))


def test_a_colon_in_a_relative_path_is_only_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_video(tmp_path / "clip", Clip(num_frames=4)).rename(tmp_path / "q:1.mp4")
    assert probe_video(path).num_frames == 4
    assert probe_video("q:1.mp4").num_frames == 4


def test_a_picture_size_that_changes_is_a_media_error_or_resized(tmp_path: Path) -> None:
    one = write_video(tmp_path / "a", Clip(suffix=".ts", num_frames=5))
    two = write_video(tmp_path / "b", Clip(suffix=".ts", num_frames=5, width=96, height=64))
    path = tmp_path / "clip.ts"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    info = probe_video(path)
    try:
        assert read(info).shape == (10, HEIGHT, WIDTH, 3)
    except MediaError as error:
        assert "clip.ts" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(
            "decord",
        ),
        pytest.param(
            "torchcodec",
            marks=pytest.mark.skipif(not TORCHCODEC, reason="torchcodec cannot be used here"),
        ),
    ],
)
def test_with_two_video_streams_all_backends_read_the_same_one(
    tmp_path: Path, backend: str
) -> None:
    path = tmp_path / "clip.mp4"
    small, large = Clip(num_frames=6), Clip(num_frames=6, width=128, height=96)
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("libx264", rate=RATE) for _ in range(2)]
        for stream, clip in zip(streams, (small, large), strict=False):
            stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        for pair in zip(pictures(small), pictures(large), strict=False):
            for stream, picture in zip(streams, pair, strict=False):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        for stream in streams:
            container.mux(stream.encode())
    info = probe_video(path)
    try:
        found = read(info, backend=backend)
    except MediaError as error:
        assert "clip.mp4" in str(error)  # noqa: PT017
        return
    assert found.shape[1:3] == (info.height_pixels, info.width_pixels)
    np.testing.assert_array_equal(found, read(info, backend="pyav"))


# What a probe tells


def test_a_probe_tells_size_rate_codec_and_times(tmp_path: Path) -> None:
    times = tuple(number * number for number in range(20))
    info = probe_video(write_video(tmp_path / "clip", Clip(times=times)))
    assert (info.width_pixels, info.height_pixels, info.codec) == (WIDTH, HEIGHT, "h264")
    assert "mp4" in info.container
    assert info.num_frames == 20
    np.testing.assert_allclose(info.presentation_seconds, np.array(times) / RATE, atol=1e-3)
    constant = probe_video(write_video(tmp_path / "even", Clip()))
    assert constant.average_fps == RATE
    assert constant.duration_seconds == pytest.approx(2.0)


def test_a_frame_rate_that_begins_to_vary_late_is_noticed(tmp_path: Path) -> None:
    # Two frames of three come late, and the mean rate is that of the even beginning.
    times = tuple(10 * number + (number % 3) * 3 * (60 < number < 118) for number in range(120))
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=100)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for time, picture in zip(times, pictures(Clip(num_frames=120)), strict=False):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    info = probe_video(path)
    np.testing.assert_allclose(info.presentation_seconds, np.array(times) / 100, atol=1e-3)


def test_a_file_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip", Clip(num_frames=5))
    first = probe_video(path)
    assert probe_video(str(path)) is first
    write_video(tmp_path / "clip", Clip(num_frames=9))
    second = probe_video(path)
    assert (first.num_frames, second.num_frames) == (5, 9)
    assert first.digest != second.digest
    os.truncate(path, 100)
    with pytest.raises(MediaError, match=r"clip\.mp4"):
        probe_video(path)


def test_a_copy_has_the_same_digest_and_a_changed_byte_another(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    data = bytes(range(256)) * 40
    one.write_bytes(data)
    two.write_bytes(data)
    assert file_digest(one) == file_digest(two)
    assert re.fullmatch(r"[0-9a-f]{24}", file_digest(one))
    for place in (0, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        two.write_bytes(changed)
        assert file_digest(one) != file_digest(two)


def test_a_huge_file_is_known_by_its_size_and_blocks_up_to_the_last_byte(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    size = (64 << 20) + 12345

    def digest(size: int, last: bytes) -> str:
        with path.open("wb") as file:  # sparse: takes no room
            file.truncate(size)
            file.seek(size - 1)
            file.write(last)
        return file_digest(path)

    plain = digest(size, b"\0")
    assert digest(size, b"\1") != plain
    assert digest(size + 1, b"\0") != plain
    assert digest(size, b"\0") == plain


# Which frames


def info_of(num_frames: int, fps: float = 30.0) -> VideoInfo:
    return VideoInfo(
        path=Path("video.mp4"),
        num_frames=num_frames,
        average_fps=fps,
        width_pixels=WIDTH,
        height_pixels=HEIGHT,
        codec="h264",
        container="mov",
        digest="0",
        presentation_seconds=np.arange(num_frames) / fps,
    )


rates = st.floats(0.1, 240, allow_nan=False)


@given(total=st.integers(1, 5000), asked=st.integers(1, 600))
def test_repeat_takes_exactly_as_many_frames_as_asked(total: int, asked: int) -> None:
    sample = sample_frames(info_of(total), FramePolicy(max_frames=asked))
    # LongVA repository, commit f4c8781: np.linspace(0, total_frame_num - 1, max_frames, dtype=int)
    assert list(sample.indices) == np.linspace(0, total - 1, asked, dtype=int).tolist()
    assert list(sample.indices) == sorted(sample.indices)
    assert 0 <= sample.indices[0] <= sample.indices[-1] < total
    assert sample.num_frames_asked == asked
    assert sample.num_frames_total == total


@given(total=st.integers(1, 500), asked=st.integers(1, 600))
def test_each_once_takes_no_frame_twice(total: int, asked: int) -> None:
    sample = sample_frames(info_of(total), FramePolicy(max_frames=asked, short_video="each_once"))
    assert len(set(sample.indices)) == len(sample.indices) == min(total, asked)
    assert list(sample.indices) == sorted(sample.indices)
    assert sample.num_frames_asked == asked


@given(total=st.integers(1, 500), asked=st.integers(1, 600))
def test_error_refuses_short_videos_and_no_others(total: int, asked: int) -> None:
    policy = FramePolicy(max_frames=asked, short_video="error")
    if asked > total:
        with pytest.raises(
            MediaError,
            match=rf"video.mp4 has {total} frames, but max_frames_num={asked} .*short_video=repeat",
        ):
            sample_frames(info_of(total), policy)
    else:
        assert len(sample_frames(info_of(total), policy).indices) == asked


@given(
    total=st.integers(1, 5000),
    cap=st.integers(1, 600),
    rate=rates,
    fps=rates,
    short=st.sampled_from(["repeat", "each_once", "error"]),
)
def test_frames_by_rate_are_evenly_spaced_up_to_the_cap(
    total: int, cap: int, rate: float, fps: float, short: Any
) -> None:
    policy = FramePolicy(max_frames=cap, fps=fps, short_video=short)
    sample = sample_frames(info_of(total, rate), policy)
    step = max(1, round(rate / fps))
    if -(-total // step) <= cap:
        assert sample.indices == tuple(range(0, total, step))
    else:
        assert list(sample.indices) == np.linspace(0, total - 1, cap, dtype=int).tolist()
        assert len(set(sample.indices)) == cap
    assert sample.num_frames_asked == len(sample.indices)


@given(total=st.integers(1, 300), asked=st.integers(1, 300), rate=rates)
@settings(max_examples=50)
def test_timestamps_are_when_the_chosen_frames_are_shown(
    total: int, asked: int, rate: float
) -> None:
    sample = sample_frames(info_of(total, rate), FramePolicy(max_frames=asked))
    assert sample.timestamps_seconds == pytest.approx(
        [index / rate for index in sample.indices], abs=6e-4
    )


def test_three_frames_of_two_are_the_originals() -> None:
    assert sample_frames(info_of(2), FramePolicy(max_frames=3)).indices == (0, 0, 1)


@given(total=st.integers(1, 5000), rate=rates)
def test_a_haystack_takes_a_frame_a_second(total: int, rate: float) -> None:
    chosen = one_per_second(info_of(total, rate))
    assert list(chosen) == list(range(0, total, max(1, round(rate))))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_frames": 0}, "max_frames_num=0 must be at least 1"),
        ({"fps": 0}, "fps=0 must be above 0"),
        ({"fps": float("nan")}, "fps=nan must be above 0"),
        ({"short_video": "loop"}, "short_video='loop' is unknown; use one of repeat, each_once, "),
    ],
)
def test_impossible_policies_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        FramePolicy(**values)


def test_a_policy_says_its_rule() -> None:
    assert FramePolicy(max_frames=8).describe()["rule"] == "np.linspace(0, total - 1, 8, dtype=int)"
    described = FramePolicy(max_frames=8, fps=0.5, short_video="error").describe()
    assert described == {
        "rule": "every round(average_fps / 0.5)-th frame, at most 8",
        "max_frames": 8,
        "fps": 0.5,
        "short_video": "error",
    }


@pytest.mark.parametrize(
    ("indices", "backend", "message"),
    [
        ([1, 0], "auto", "must ascend"),
        ([0, 5], "auto", r"Frames 0 to 5 were asked of .*clip\.mp4, which has 5"),
        ([-1], "auto", "Frames -1 to -1 were asked"),
        ([0], "opencv", "video_decode_backend='opencv' is unknown; use auto, decord, torchcodec, "),
    ],
)
def test_impossible_reads_are_refused(
    tmp_path: Path, indices: list[int], backend: Any, message: str
) -> None:
    info = probe_video(write_video(tmp_path / "clip", Clip(num_frames=5)))
    with pytest.raises(SettingsError, match=message):
        list(read_frames(info, indices, backend=backend))


def test_a_decoder_that_finds_other_frames_than_the_container_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    info = probe_video(write_video(tmp_path / "clip", Clip(num_frames=5)))
    more = replace(info, num_frames=6, presentation_seconds=np.arange(6) / RATE)
    with pytest.raises(MediaError, match="decord finds 5 frames, the container holds 6"):
        read(more, [0], backend="decord")
    with pytest.raises(MediaError, match="has changed since it was looked at"):
        read(more, [0], backend="pyav")
