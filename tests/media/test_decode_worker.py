"""Decoding in another process: the same frames, and an error where a decoder hangs or crashes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import OPEN

from longva_eval.errors import MediaError
from longva_eval.media.decode import read_frames
from longva_eval.media.decode_worker import DecodeWorker, DecodeWorkers
from longva_eval.media.probe import probe_video

pytestmark = pytest.mark.process

VIDEO = OPEN / "inputs/landscape_320x180.mp4"


@pytest.fixture
def worker() -> Iterator[DecodeWorker]:
    worker = DecodeWorker(seconds_per_block=20)
    yield worker
    worker.close()


def test_the_frames_are_the_same(worker: DecodeWorker) -> None:
    info = probe_video(VIDEO)
    indices = [0, 0, 3, *range(10, 120, 2)]
    expected = np.concatenate(list(read_frames(info, indices, backend="decord")))
    for _ in range(2):
        blocks = list(worker.read_frames(info, indices, backend="decord"))
        np.testing.assert_array_equal(np.concatenate(blocks), expected)
    assert max(map(len, blocks)) <= 32


def test_an_error_crosses_over_and_the_worker_goes_on(worker: DecodeWorker, tmp_path: Path) -> None:
    info = probe_video(VIDEO)
    copy = tmp_path / "film with spaces, ümlauts\nand a newline.mp4"
    copy.write_bytes(VIDEO.read_bytes())
    gone = probe_video(copy)
    assert len(list(worker.read_frames(gone, [5], backend="decord"))) == 1
    copy.unlink()
    with pytest.raises(MediaError, match=r"newline\.mp4' cannot be opened"):
        list(worker.read_frames(gone, [5], backend="decord"))
    first = worker._process
    assert len(list(worker.read_frames(info, [5], backend="decord"))) == 1
    assert worker._process is first


def test_a_crash_is_an_error_of_that_video_alone(worker: DecodeWorker) -> None:
    info = probe_video(VIDEO)
    list(worker.read_frames(info, [0], backend="decord"))
    assert worker._process is not None
    os.kill(worker._process.pid, signal.SIGSEGV)
    worker._process.wait()
    # The next request starts a fresh one; a crash in the middle of a request is told.
    frames = worker.read_frames(info, range(180), backend="decord")
    next(frames)
    os.kill(worker._process.pid, signal.SIGSEGV)
    with pytest.raises(
        MediaError, match=r"landscape_320x180.mp4: the decoder crashed \(signal 11\)"
    ):
        list(frames)
    assert len(list(worker.read_frames(info, [5], backend="decord"))) == 1


def test_a_hang_is_ended() -> None:
    worker = DecodeWorker(seconds_per_block=1.0)
    info = probe_video(VIDEO)
    list(worker.read_frames(info, [0], backend="decord"))
    assert worker._process is not None
    process = worker._process
    os.kill(process.pid, signal.SIGSTOP)
    # The pipe takes the request; nothing answers.
    began = time.monotonic()
    with pytest.raises(MediaError, match="gave nothing for 1 s and was ended"):
        list(worker.read_frames(info, [5], backend="decord"))
    assert time.monotonic() - began < 10
    assert process.poll() is not None
    worker.close()


def test_leaving_in_the_middle_does_not_mix_up_answers(worker: DecodeWorker) -> None:
    info = probe_video(VIDEO)
    frames = worker.read_frames(info, range(100), backend="decord")
    next(frames)
    frames.close()  # type: ignore[attr-defined]  # a generator
    (block,) = worker.read_frames(info, [42], backend="decord")
    (expected,) = read_frames(info, [42], backend="decord")
    np.testing.assert_array_equal(block, expected)


def test_no_process_outlives_its_worker() -> None:
    worker = DecodeWorker()
    list(worker.read_frames(probe_video(VIDEO), [0], backend="decord"))
    process = worker._process
    assert process is not None
    del worker
    for _ in range(100):
        if process.poll() is not None:
            break
        threading.Event().wait(0.05)
    assert process.poll() is not None


def test_a_look_from_the_other_process_is_the_same(worker: DecodeWorker, tmp_path: Path) -> None:
    seen, expected = worker.probe_video(VIDEO), probe_video(VIDEO)
    assert seen == expected
    np.testing.assert_array_equal(seen.presentation_seconds, expected.presentation_seconds)
    broken = tmp_path / "text\nwith a newline.mp4"
    broken.write_text("<html>404</html>")
    with pytest.raises(MediaError, match="cannot be read as a video"):
        worker.probe_video(broken)
    with pytest.raises(MediaError, match="cannot be opened"):
        worker.probe_video(tmp_path / "missing.mp4")


def test_several_videos_at_once_have_a_process_each() -> None:
    workers = DecodeWorkers()
    info = workers.probe_video(VIDEO)
    assert workers.probe_video(VIDEO) is info
    expected = np.concatenate(list(read_frames(info, range(0, 120, 3))))
    asked = [workers.read_frames(info, range(0, 120, 3)) for _ in range(2)]
    first = [next(each) for each in asked]  # both are in the middle of it
    assert not workers._free
    for block, rest in zip(first, asked, strict=True):
        np.testing.assert_array_equal(np.concatenate([block, *rest]), expected)
    used = list(workers._free)
    assert len({worker._process.pid for worker in used if worker._process}) == 2
    workers.close()
    assert all(worker._process is None for worker in used)


def test_a_worker_ends_when_nobody_can_ask_it_any_more() -> None:
    """As when the process that started it was killed: also in the middle of a request."""
    worker = DecodeWorker()
    frames = worker.read_frames(probe_video(VIDEO), range(180))
    next(frames)
    process = worker._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdin = None  # nothing is left to be flushed


def test_what_a_decoder_conceals_is_an_error(worker: DecodeWorker, tmp_path: Path) -> None:
    data = bytearray(VIDEO.read_bytes())
    for place in range(len(data) // 3, len(data) // 2, 997):
        data[place] ^= 0x55
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    info = probe_video(damaged)
    for backend in ("decord", "pyav", "auto"):
        with pytest.raises(MediaError, match=r"damaged|cannot be decoded"):
            list(worker.read_frames(info, range(info.num_frames), backend=backend))
        assert list(worker.read_frames(probe_video(VIDEO), [5], backend=backend))


def test_the_same_complaint_comes_first_each_time(
    worker: DecodeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(VIDEO.read_bytes())
    for place in range(len(data) // 4, len(data) * 3 // 4, 101):
        data[place] ^= 0x55
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    info = probe_video(damaged)
    every = range(0, info.num_frames, 3)
    said = set()
    for _ in range(4):
        with pytest.raises(MediaError) as error:
            list(worker.read_frames(info, every))
        said.add(str(error.value))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "999")  # a core for each process: no rows side by side
    alone = DecodeWorker()
    with pytest.raises(MediaError) as error:
        list(alone.read_frames(alone.probe_video(damaged), every))
    assert said == {str(error.value)}
