"""Videos of the kinds that were read wrong once: their frames and times, or the true reason.

`tests/faults` compares the same files with the `ffmpeg` command.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import hard_videos as hard
import numpy as np
import numpy.typing as npt
import pytest
from hard_videos import FILM
from video_files import RATE, Clip, pictures, write_video

from longva_eval.errors import MediaError
from longva_eval.media.decode_worker import DecodeWorker, shared_workers
from longva_eval.media.files import file_digest
from longva_eval.media.frames import FramePolicy, one_per_second, read_frames, sample_frames
from longva_eval.media.probe import probe_video

Make = Callable[[Path], Path]
ALL = FramePolicy(max_frames=1000, short_video="each_once")


def numbers_of(pixels: npt.NDArray[np.uint8], clip: Clip) -> list[int]:
    """Which pictures of a clip these are: the nearest ones."""
    known = np.stack(list(pictures(clip))).astype(np.int16)
    found = []
    for frame in pixels:
        distance = np.abs(known - frame).mean(axis=(1, 2, 3))
        assert distance.min() < 25
        found.append(int(distance.argmin()))
    return found


def seconds_of(numbers: Sequence[int], start: float = 0.0, rate: float = RATE) -> list[float]:
    return [round(start + number / rate, 3) for number in numbers]


WHOLE = range(60)
READ: dict[str, tuple[Make, Sequence[int], list[float]]] = {
    "the picture starts later than the sound, Matroska": (
        lambda folder: hard.write_with_sound(folder / "clip.mkv", picture_from=2, sound_seconds=8),
        WHOLE,
        seconds_of(WHOLE, 2.0),
    ),
    "the picture starts later than the sound, MP4": (
        lambda folder: hard.write_with_sound(folder / "clip.mp4", picture_from=2, sound_seconds=8),
        WHOLE,
        seconds_of(WHOLE, 2.0),
    ),
    **{
        f"the sound lasts longer than the picture, {suffix}": (
            lambda folder, suffix=suffix: hard.write_with_sound(
                folder / f"clip{suffix}", sound_seconds=12
            ),
            WHOLE,
            seconds_of(WHOLE),
        )
        for suffix in (".mkv", ".mp4", ".flv")
    },
    "the sound lasts longer than the picture, WMV": (
        lambda folder: hard.write_with_sound(
            folder / "clip.wmv", sound_seconds=12, codecs=("wmv2", "wmav2")
        ),
        WHOLE,
        seconds_of(WHOLE),
    ),
    "the picture starts later than the sound, WMV": (
        lambda folder: hard.write_with_sound(
            folder / "clip.wmv", picture_from=4, sound_seconds=5, codecs=("wmv2", "wmav2")
        ),
        WHOLE,
        seconds_of(WHOLE, 4.0),
    ),
    "the sound lasts longer than the picture, AVI": (
        lambda folder: hard.write_with_sound(folder / "clip.avi", sound_seconds=12),
        WHOLE,
        seconds_of(WHOLE, 0.1),  # as the decoder delays them
    ),
    "the picture starts later than the sound, AVI": (
        lambda folder: hard.write_with_sound(folder / "clip.avi", picture_from=2, sound_seconds=12),
        WHOLE,
        seconds_of(WHOLE, 2.0),
    ),
    "JPEGs in a row": (
        lambda folder: hard.raw_stream(folder, "mjpeg", ".mjpeg"),
        WHOLE,
        seconds_of(WHOLE, rate=25),
    ),
    "H.264 without a container": (hard.raw_stream, WHOLE, seconds_of(WHOLE)),
    "HEVC without a container": (
        lambda folder: hard.raw_stream(folder, "libx265", ".hevc"),
        WHOLE,
        seconds_of(WHOLE),
    ),
    "MPEG-2 without a container": (
        lambda folder: hard.write_mpeg2(folder, ".m2v"),
        range(200),
        seconds_of(range(200), rate=25),
    ),
    "a still before the film that is the default": (
        hard.still_before_film,
        WHOLE,
        seconds_of(WHOLE),
    ),
    "frames before zero": (hard.negative_times, WHOLE, seconds_of(WHOLE)),
    "a clock that runs over": (hard.wrapped_clock, range(200), seconds_of(range(200), rate=25)),
    "joined recordings": (hard.joined, [*range(30), *range(60)], seconds_of(range(90))),
    "begins between key frames, transport stream": (
        hard.from_between_key_frames(".ts"),
        range(16, 60),
        [],
    ),
    "begins between key frames, Matroska": (
        hard.from_between_key_frames(".mkv"),
        range(16, 60),
        [],
    ),
    "begins between key frames, VP8": (
        hard.from_between_key_frames(".webm", "libvpx"),
        range(16, 60),
        [],
    ),
    "begins between key frames, MPEG-2": (
        hard.from_between_key_frames(".ts", "mpeg2video"),
        range(12, 200),
        [],
    ),
}


@pytest.mark.process
@pytest.mark.parametrize("name", READ)
def test_an_unusual_video_shows_its_frames_at_their_times(tmp_path: Path, name: str) -> None:
    make, numbers, seconds = READ[name]
    path = make(tmp_path)
    found = read_frames(path, ALL)
    clip = replace(FILM, num_frames=max(numbers) + 1)
    assert numbers_of(found.pixels, clip) == list(numbers)
    assert found.indices == tuple(range(len(numbers)))
    if seconds:
        # Transport streams and AAC in MP4 start some milliseconds after zero.
        np.testing.assert_allclose(found.seconds, seconds, atol=0.07)
    steps = np.diff(found.seconds)
    np.testing.assert_allclose(steps, np.median(steps), atol=0.002)
    some = [1, len(numbers) // 2, len(numbers) - 1]
    info = probe_video(path)
    blocks = list(shared_workers().read_frames(info, some))
    np.testing.assert_array_equal(np.concatenate(blocks), found.pixels[some])


@pytest.mark.process
@pytest.mark.parametrize("name", hard.ORIENTATIONS)
def test_a_video_is_turned_and_mirrored_as_its_display_matrix_says(
    tmp_path: Path, name: str
) -> None:
    upright = read_frames(write_video(tmp_path / "upright", FILM), FramePolicy(max_frames=4))
    path = hard.oriented(name)(tmp_path)
    found = read_frames(path, FramePolicy(max_frames=4))
    expected = [hard.SHOWN[name](picture) for picture in upright.pixels]
    np.testing.assert_array_equal(found.pixels, expected)
    for backend in ("decord", "torchcodec"):
        with pytest.raises(MediaError, match="is turned"):
            list(shared_workers().read_frames(probe_video(path), [0], backend=backend))


REFUSED: dict[str, tuple[Make, str]] = {
    "a cover picture": (hard.sound_with_cover, "has no film in it: a cover picture"),
    "a song named .mp4": (hard.song, "has no video stream"),
    "a photograph named .mp4": (hard.photograph, r"is no video but a picture \(JPEG\)"),
    **{
        f"an animation in {kind}": (
            hard.animation(kind),
            rf"is no video but 4 pictures in one file \({kind}\).*make it a GIF",
        )
        for kind in ("WEBP", "AVIF")
    },
    "a missing fragment": (hard.without_fragment, r"lacks pictures.*0\.80 s, after 2\.30 s"),
    **{
        f"lost packets {list(lost)}, {codec} in {suffix}": (
            hard.without_packets(suffix, codec, lost),
            "lacks pictures in",
        )
        for suffix, codec in (
            (".ts", "libx264"),
            (".mkv", "libx264"),
            (".webm", "libvpx"),
            (".webm", "libvpx-vp9"),
            (".mkv", "mpeg4"),
            (".flv", "libx264"),
        )
        for lost in (range(24, 32), range(27, 28))
    },
    "lost transport packets": (hard.without_transport_packets, "lacks pictures in|is damaged"),
    "a play list behind a comment": (
        hard.hidden_play_list,
        "container is none of those that are read",
    ),
    "begins between key frames, HEVC": (
        hard.from_between_key_frames(".mkv", "libx265"),
        r"begins between key frames.*ffmpeg -ss 1\.\d+ -i IN OUT\.mp4",
    ),
    "begins between key frames, MPEG-4": (
        hard.from_between_key_frames(".mkv", "mpeg4"),
        r"begins between key frames.*ffmpeg -ss 1\.\d+ -i IN OUT\.mp4",
    ),
}


@pytest.mark.process
@pytest.mark.parametrize("name", REFUSED)
def test_a_video_that_lacks_pictures_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    make, reason = REFUSED[name]
    path = make(tmp_path)
    with pytest.raises(MediaError, match=f"(?s){path.name}.*({reason})"):
        read_frames(path, ALL)


@pytest.mark.process
@pytest.mark.process
def test_a_flipped_bit_is_noticed_in_hevc_that_holds_hashes_of_its_pictures(tmp_path: Path) -> None:
    options = {"x265-params": "keyint=8:bframes=2:hash=1:log-level=none:pools=none"}
    path = write_video(tmp_path / "clip", replace(FILM, codec="libx265", options=options))
    data, intact = path.read_bytes(), read_frames(path, ALL).pixels
    refused = 0
    for place in range(len(data) // 4, len(data) * 3 // 4, len(data) // 20):
        damaged = bytearray(data)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_frames(path, ALL).pixels, intact)
        except MediaError as error:
            assert "is damaged" in str(error) or "cannot be decoded" in str(error)  # noqa: PT017
            refused += 1
    assert refused >= 8


@pytest.mark.process
def test_gaps_are_counted_where_that_is_asked_for(tmp_path: Path) -> None:
    path = hard.without_packets(".mkv", "libx264", range(24, 32))(tmp_path)
    info = probe_video(path)
    sample = sample_frames(info, replace(ALL, gaps="count"))
    assert (sample.num_gaps, len(sample.indices)) == (1, 52)
    assert [tuple(gap) for gap in info.gaps] == [pytest.approx((2.3, 0.8))]
    found = read_frames(path, replace(ALL, gaps="count"))
    assert numbers_of(found.pixels, FILM) == [*range(24), *range(32, 60)]
    assert found.seconds[24] == pytest.approx(3.2)
    assert replace(ALL, gaps="count").describe()["gaps"] == "count"
    assert len(one_per_second(info, gaps="count")) == 6
    with pytest.raises(MediaError, match="lacks pictures"):
        one_per_second(info)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".webm", "libvpx"), (".mkv", "libx264"), (".mp4", "libx264"), (".ts", "libx264")],
)
def test_frames_are_sampled_over_time_where_the_rate_varies(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    info = probe_video(hard.screen_recording(tmp_path, suffix, codec))
    assert info.duration_seconds == pytest.approx(20.1, abs=0.11)
    assert not info.has_constant_rate
    # 0.0, 0.1, ... 0.5 s, then every two seconds: the frame at 0.5 s is still there at 1 s.
    on_screen = [0, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15]
    assert list(one_per_second(info)) == on_screen
    assert sample_frames(info, FramePolicy(fps=1)).indices == tuple(on_screen)
    assert sample_frames(info, FramePolicy(fps=0.5)).indices == (0, *range(6, 16))
    once = sample_frames(info, FramePolicy(fps=1, short_video="each_once"))
    assert once.indices == (0, *range(5, 16))
    capped = sample_frames(info, FramePolicy(fps=1, max_frames=5))
    assert capped.timestamps_seconds == pytest.approx([0, 4, 10, 14, 20], abs=1.1)


def test_the_right_times_are_those_of_the_frames_and_not_of_the_header(tmp_path: Path) -> None:
    times = tuple(range(0, 300, 10))  # one a second, in a header that says ten
    info = probe_video(write_video(tmp_path / "clip", Clip(num_frames=30, times=times)))
    assert info.average_fps == pytest.approx(1.0, rel=0.05)
    assert list(one_per_second(info)) == list(range(30))


# A file stays the one that was looked at


@pytest.fixture
def worker() -> Iterator[DecodeWorker]:
    worker = DecodeWorker()
    yield worker
    worker.close()


@pytest.mark.process
@pytest.mark.parametrize("backend", ["auto", "decord"])
def test_a_video_that_was_replaced_since_it_was_looked_at_is_refused(
    tmp_path: Path, worker: DecodeWorker, backend: str
) -> None:
    path = write_video(tmp_path / "clip", FILM)
    other = write_video(tmp_path / "other", replace(FILM, options={"g": "8", "bf": "1"}))
    info = worker.probe_video(path)
    list(worker.read_frames(info, [0], backend=backend))  # type: ignore[arg-type]
    other.replace(path)
    with pytest.raises(MediaError, match=r"clip\.mp4 has changed since it was looked at"):
        list(worker.read_frames(info, [0], backend=backend))  # type: ignore[arg-type]
    again = worker.probe_video(path)
    assert again.digest != info.digest
    assert len(list(worker.read_frames(again, [0]))) == 1


@pytest.mark.process
def test_a_video_that_is_written_to_while_it_is_read_is_refused(
    tmp_path: Path, worker: DecodeWorker
) -> None:
    path = write_video(tmp_path / "clip", replace(FILM, num_frames=120))
    info = worker.probe_video(path)
    blocks = worker.read_frames(info, range(120))
    next(blocks)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(MediaError, match="has changed since it was looked at"):
        list(worker.read_frames(info, range(120)))


def test_a_large_file_is_known_by_all_of_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "large"
    size = (64 << 20) + 12345
    with path.open("wb") as file:  # sparse: takes no room
        file.truncate(size)
    seen = {file_digest(path)}
    for place in (0, 1_000_003, size // 2 + 7, size - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"\1")
        os.utime(path, ns=(place, place))  # a time stamp of its own
        seen.add(file_digest(path))
    assert len(seen) == 5
    assert len((tmp_path / "cache/longva-eval/digests.txt").read_text().split("\n")) == 6
    copy = Path(shutil.copy(path, tmp_path / "copy"))
    assert file_digest(copy) == file_digest(path)


@pytest.mark.process
def test_a_file_name_that_is_no_utf8_is_only_a_name(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip", FILM)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xff.mp4"))
    path.rename(odd)
    assert len(read_frames(odd, FramePolicy(max_frames=3)).indices) == 3
    odd.write_bytes(odd.read_bytes()[:-200])
    with pytest.raises(MediaError, match=r"caf\\udce9 \\udcff\.mp4.* cannot be read as a video"):
        read_frames(odd, FramePolicy(max_frames=3))


@pytest.mark.process
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg command is not installed")
@pytest.mark.parametrize("codec", ["libx265", "mpeg4"])
def test_the_remedy_for_a_recording_that_begins_between_key_frames_works(
    tmp_path: Path, codec: str
) -> None:
    path = hard.from_between_key_frames(".mkv", codec)(tmp_path)
    with pytest.raises(MediaError) as refused:
        read_frames(path, ALL)
    command = str(refused.value).rsplit(": ", 1)[1]
    command = command.replace("IN", str(path)).replace("OUT", str(tmp_path / "mended"))
    subprocess.run([*command.split(), "-v", "error"], check=True, stdin=subprocess.DEVNULL)
    found = read_frames(tmp_path / "mended.mp4", ALL)
    numbers = numbers_of(found.pixels, FILM)
    assert 16 <= numbers[0] <= 18
    assert numbers == list(range(numbers[0], 60))
