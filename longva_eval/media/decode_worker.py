"""Decoding in processes of its own, so that a decoder that hangs or crashes costs one video.

`DecodeWorker` starts `python -m longva_eval.media.decode_worker` and asks it for a look at a file,
or for frames. A file that makes a decoder loop or end the process (damaged streams do) becomes a
`MediaError` with its name; the next video gets a fresh worker. The worker imports no torch unless
torchcodec decodes, and ends with the process that started it. `DecodeWorkers` has as many as are
asked at once.

Being a process of its own also lets it hear what FFmpeg says. Decoders conceal damage: they fill
what they cannot read from neighbouring pictures, return the frame as if nothing had been, and write
a line on standard error; demuxers do the like. Here that line is an error of the file. What none of
them notices (a flipped bit that still is a valid stream, more often than not in HEVC) cannot be
told without a checksum: docs/reliability.md.

The two talk over pipes: a request is a line of JSON; an answer is a line of JSON, followed by the
bytes of a block of frames where it announces one.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import re
import select
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import numpy.typing as npt

from longva_eval.errors import EvaluationError, MediaError
from longva_eval.media.decode import DecodeBackend, Frames, one_row_at_a_time, read_frames
from longva_eval.media.files import FileIdentity, check_unchanged, identify, printable
from longva_eval.media.packets import CHECKING_DECODERS, WHEN_OPENED, Gap
from longva_eval.media.probe import VideoInfo, probe_video

__all__ = ["DecodeWorker", "DecodeWorkers", "shared_workers"]

_MESSAGE = re.compile(r"^\[([\w,-]+) @ 0x[0-9a-f]+\] (.+)$", re.MULTILINE)
"""A line of FFmpeg's log: who speaks, and what is said."""
_HARMLESS = ("SEI type", "mmco: ", "no frame!", "Late SEI")
"""How messages begin that FFmpeg calls errors, and that leave every picture as it was."""
_TOLD = {field.name for field in fields(VideoInfo)} - {"presentation_seconds", "packets"}
"""What of a look at a video crosses over as JSON; the times follow as bytes."""
_START_SECONDS = 60.0
"""Extra patience for the first answer: imports."""


class DecodeWorker:
    """Frames from another process, with a limit on how long a block of them may take.

    Args:
        seconds_per_block: Longest wait for a block of at most 32 frames. A file that must be read
            from the start may need minutes for its first one.
    """

    def __init__(self, *, seconds_per_block: float = 600.0) -> None:
        self._limit = seconds_per_block
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., DecodeWorker] | None = None
        self._buffer = b""

    def probe_video(self, path: str | Path) -> VideoInfo:
        """As `longva_eval.media.probe.probe_video`.

        Raises:
            MediaError: Also if a demuxer crashed, or took longer than the limit.
        """
        path = Path(path).absolute()
        finished = False
        patience = self._limit + (_START_SECONDS if self._process is None else 0)
        try:
            self._send({"path": str(path)}, path)
            answer = self._answer(path, patience)
            if "error" in answer:
                finished = True
                raise MediaError(answer["error"])
            seconds = np.empty(answer["num_frames"])
            self._fill(seconds, path, self._limit)
            finished = True
        finally:
            if not finished:
                self.close()
        return _from_json(answer, path, seconds)

    def read_frames(
        self, info: VideoInfo, indices: Sequence[int], *, backend: DecodeBackend = "auto"
    ) -> Iterator[Frames]:
        """As `longva_eval.media.decode.read_frames`.

        Raises:
            MediaError: Also if the decoder crashed, or took longer than the limit.
        """
        request = {
            "path": str(info.path),
            "identity": info.identity,
            "indices": list(map(int, indices)),
            "backend": backend,
        }
        finished = False
        patience = self._limit + (_START_SECONDS if self._process is None else 0)
        try:
            self._send(request, info.path)
            while True:
                answer = self._answer(info.path, patience)
                patience = self._limit
                if "error" in answer:
                    finished = True
                    raise MediaError(answer["error"])
                if "shape" not in answer:
                    finished = True
                    return
                block = np.empty(answer["shape"], dtype=np.uint8)
                self._fill(block, info.path, patience)
                yield block
                del block  # not to be held beside the next one
        finally:
            if not finished:  # it is in the middle of something: the next video starts afresh
                self.close()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._end is not None:
            self._end()
        self._process = self._end = None
        self._buffer = b""

    def _send(self, request: dict[str, Any], path: Path) -> None:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "longva_eval.media.decode_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, "TORCHCODEC_FFMPEG_LOG_LEVEL": "ERROR"},
            )
            # Also when nobody closes this object, or Python ends.
            self._end = weakref.finalize(self, _end_process, self._process)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise self._crashed(path) from error

    def _answer(self, path: Path, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            received = bytearray(1 << 16)
            self._buffer += received[: self._receive(received, path, until)]
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _fill(self, array: npt.NDArray[Any], path: Path, seconds: float) -> None:
        """Receive an array's bytes."""
        until = time.monotonic() + seconds
        into = array.reshape(-1).view(np.uint8).data
        here = self._buffer[: len(into)]
        self._buffer = self._buffer[len(here) :]
        into[: len(here)] = here
        into = into[len(here) :]
        while len(into):
            into = into[self._receive(into, path, until) :]

    def _receive(self, into: bytearray | memoryview, path: Path, until: float) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise MediaError(
                f"{printable(path)}: the decoder gave nothing for {self._limit:.0f} s and was "
                "ended. Is the file damaged, or the disk very slow?"
            )
        count = os.readv(pipe, [into])
        if not count:
            raise self._crashed(path)
        return count

    def _crashed(self, path: Path) -> MediaError:
        status = self._process.wait(timeout=10) if self._process is not None else None
        how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        return MediaError(
            f"{printable(path)}: the decoder crashed ({how}). The file is probably damaged; fetch "
            "it again."
        )


class DecodeWorkers:
    """As `DecodeWorker`, for several threads: each request goes to a process that is free.

    Args:
        seconds_per_block: As of `DecodeWorker`.
    """

    def __init__(self, *, seconds_per_block: float = 600.0) -> None:
        self._limit = seconds_per_block
        self._free: list[DecodeWorker] = []
        self._probed: dict[tuple[Path, FileIdentity], VideoInfo] = {}

    def probe_video(self, path: str | Path) -> VideoInfo:
        """As `DecodeWorker.probe_video`; cached until the file changes."""
        path = Path(path).absolute()
        key = (path, identify(path, kind="video"))
        if key not in self._probed:
            with self._worker() as worker:
                self._probed[key] = worker.probe_video(path)
        return self._probed[key]

    def read_frames(
        self, info: VideoInfo, indices: Sequence[int], *, backend: DecodeBackend = "auto"
    ) -> Iterator[Frames]:
        """As `DecodeWorker.read_frames`."""
        with self._worker() as worker:
            yield from worker.read_frames(info, indices, backend=backend)

    def close(self) -> None:
        """End the processes that nobody is using."""
        while self._free:
            self._free.pop().close()

    @contextlib.contextmanager
    def _worker(self) -> Iterator[DecodeWorker]:
        try:
            worker = self._free.pop()  # the one used last: its process is there
        except IndexError:
            worker = DecodeWorker(seconds_per_block=self._limit)
        try:
            yield worker
        finally:
            self._free.append(worker)


@functools.cache
def shared_workers() -> DecodeWorkers:
    """The workers of this process, for those who keep none themselves."""
    return DecodeWorkers()


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _from_json(answer: dict[str, Any], path: Path, seconds: npt.NDArray[np.float64]) -> VideoInfo:
    told = dict(answer, path=path, identity=FileIdentity(*answer["identity"]))
    told["gaps"] = tuple(Gap(*gap) for gap in answer["gaps"])
    told["display_matrix"] = answer["display_matrix"] and tuple(answer["display_matrix"])
    return VideoInfo(**told, presentation_seconds=seconds)


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more."""
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.ERROR)
    messages = _Messages()
    WHEN_OPENED.append(messages.forget)

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message).encode() + b"\n")

    for line in _until_the_end(requests):
        request = json.loads(line)
        try:
            info = probe_video(request["path"])
            if "indices" not in request:
                told = {name: value for name, value in vars(info).items() if name in _TOLD}
                say({**told, "path": str(info.path)})
                answers.write(info.presentation_seconds.astype(np.float64).tobytes())
                answers.flush()
                continue
            if request["identity"]:
                check_unchanged(info.path, FileIdentity(*request["identity"]))
            try:
                for block in messages.heard(info, request):
                    say({"shape": list(block.shape)})
                    answers.write(np.ascontiguousarray(block).data)
            except EvaluationError:
                # Of rows that are read side by side, any may be the first to complain.
                with one_row_at_a_time():
                    for _block in messages.heard(info, request):
                        pass
                raise
        except EvaluationError as error:
            say({"error": str(error)})
        else:
            say({})
        answers.flush()


def _until_the_end(requests: IO[bytes]) -> Iterator[bytes]:
    """Requests; when there can be no more this process ends, whatever it is decoding."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in requests:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield lines.get()


class _Messages:
    """What is written on standard error, by anybody in this process, from now on."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # for as long as the process lives
        self._terminal = os.dup(2)
        self._place = 0
        os.dup2(self._file.fileno(), 2)

    def take(self) -> str:
        """What is new since the last look; passed on to the terminal unless FFmpeg said it."""
        sys.stderr.flush()
        self._file.seek(self._place)
        text = self._file.read().decode(errors="replace")
        self._place = self._file.tell()
        others = "".join(line for line in text.splitlines(True) if not line.startswith("["))
        os.write(self._terminal, others.encode())
        return text

    def forget(self) -> None:
        """Let what was said up to now be no complaint."""
        self.take()

    def heard(self, info: VideoInfo, request: Mapping[str, Any]) -> Iterator[Frames]:
        """The frames asked for.

        Raises:
            MediaError: If they cannot be decoded, or a decoder complains.
        """
        self.take()
        for block in read_frames(info, request["indices"], backend=request["backend"]):
            self.check(info)
            yield block
        self.check(info)

    def check(self, info: VideoInfo) -> None:
        """Raise if FFmpeg has complained about a file since it was opened.

        Raises:
            MediaError: With the first complaint of a demuxer or decoder.
        """
        speakers = {info.codec, CHECKING_DECODERS.get(info.codec, ""), *info.container.split(",")}
        for speaker, said in _MESSAGE.findall(self.take()):
            if speakers.isdisjoint(speaker.split(",")) or said.startswith(_HARMLESS):
                continue
            raise MediaError(
                f"{printable(info.path)} is damaged: FFmpeg's {speaker} says {said.strip()!r} and "
                "shows something else instead. Fetch the file again; to use it as it is, "
                "re-encode it: ffmpeg -i IN OUT.mp4"
            )


def main() -> None:
    """Serve the process that started this one."""
    # A decoder that prints must not end up between the frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
