"""Decoding in a process of its own, so that a decoder that hangs or crashes costs one video.

`DecodeWorker` starts `python -m longva_eval.decode_worker` and asks it for frames. A file that
makes a decoder loop or end the process (damaged streams do) becomes a `MediaError` with its name;
the next video gets a fresh worker. The worker imports no torch unless torchcodec decodes.

The two talk over pipes: a request is a line of JSON; an answer is a line of JSON, followed by the
bytes of a block of frames where it announces one.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np

from longva_eval.decode import DecodeBackend, Frames, read_frames
from longva_eval.errors import EvaluationError, MediaError
from longva_eval.probe import VideoInfo, probe_video

__all__ = ["DecodeWorker"]

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

    def read_frames(
        self, info: VideoInfo, indices: Sequence[int], *, backend: DecodeBackend = "auto"
    ) -> Iterator[Frames]:
        """As `longva_eval.decode.read_frames`.

        Raises:
            MediaError: Also if the decoder crashed, or took longer than the limit.
        """
        request = {"path": str(info.path), "indices": list(indices), "backend": backend}
        finished = False
        patience = self._limit + (_START_SECONDS if self._process is None else 0)
        try:
            self._send(request, info)
            while True:
                answer = self._answer(info, patience)
                patience = self._limit
                if "error" in answer:
                    finished = True
                    raise MediaError(answer["error"])
                if "shape" not in answer:
                    finished = True
                    return
                shape = answer["shape"]
                data = self._bytes(int(np.prod(shape)), info, patience)
                yield np.frombuffer(data, dtype=np.uint8).reshape(shape)
        finally:
            if not finished:  # it is in the middle of something: the next video starts afresh
                self.close()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._end is not None:
            self._end()
        self._process = self._end = None
        self._buffer = b""

    def _send(self, request: dict[str, Any], info: VideoInfo) -> None:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "longva_eval.decode_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
            # Also when nobody closes this object, or Python ends.
            self._end = weakref.finalize(self, _end_process, self._process)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise self._crashed(info) from error

    def _answer(self, info: VideoInfo, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            self._buffer += self._receive(1 << 16, info, until)
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _bytes(self, count: int, info: VideoInfo, seconds: float) -> bytes:
        until = time.monotonic() + seconds
        data = bytearray(self._buffer[:count])
        self._buffer = self._buffer[count:]
        while len(data) < count:
            data += self._receive(min(1 << 20, count - len(data)), info, until)
        return bytes(data)

    def _receive(self, size: int, info: VideoInfo, until: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise MediaError(
                f"{info.path}: the decoder gave nothing for {self._limit:.0f} s and was ended. Is "
                "the file damaged, or the disk very slow?"
            )
        data = os.read(pipe, size)
        if not data:
            raise self._crashed(info)
        return data

    def _crashed(self, info: VideoInfo) -> MediaError:
        status = self._process.wait(timeout=10) if self._process is not None else None
        how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        return MediaError(
            f"{info.path}: the decoder crashed ({how}). The file is probably damaged; fetch it "
            "again, or try video_decode_backend=pyav."
        )


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more."""

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message).encode() + b"\n")

    for line in requests:
        request = json.loads(line)
        try:
            info = probe_video(request["path"])
            for block in read_frames(info, request["indices"], backend=request["backend"]):
                say({"shape": list(block.shape)})
                answers.write(np.ascontiguousarray(block).data)
            say({})
        except EvaluationError as error:
            say({"error": str(error)})
        answers.flush()


def main() -> None:
    """Serve the process that started this one."""
    # A decoder that prints must not end up between the frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
