"""A look at a video before anything is decoded: what it shows, and whether all of it is there.

An ordinary MP4 tells all that by its index. Of other files every packet is counted, 0.3 s for an
hour of video. What is found decides which decoder may be trusted (`longva_eval.media.decode`).

A file that cannot be read, has no video, or holds fewer frames than it says is a `MediaError` that
names it.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import stat
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt

from longva_eval.errors import MediaError

__all__ = ["VideoInfo", "file_digest", "probe_video"]

_WHOLE_FILE_BYTES = 64 << 20
_SAMPLED_BLOCKS = 64
_SAMPLED_BLOCK_BYTES = 1 << 16
_EDIT_LIST_PACKETS = 64
"""Packets at the start that are looked at for an edit list; it hides those before a key frame."""
_SAMPLED_KEYFRAMES = 16
"""Places in an indexed file where a key frame is looked at."""
_IDR_NAL_TYPE = 5
_INDEXED_CONTAINERS = {"mp4", "mov", "matroska", "webm", "flv"}
_PLAIN_PIXEL_FORMATS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"}
_LARGEST_PICTURE_PIXELS = 1 << 26
"""8192 x 8192. A file of some kilobytes can announce more than any memory holds."""
_SHORTFALL_SECONDS = 1.0
"""How much earlier than announced a stream may end: containers round, and drop a last frame."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a look at the packets of a file tells, before any decoding."""

    path: Path
    num_frames: int
    """Frames that are shown; packets that an edit list hides are not counted."""
    average_fps: float
    width_pixels: int
    height_pixels: int
    codec: str
    container: str
    digest: str
    """Identity of the file's content, see `file_digest`."""
    needs_sequential_read: bool
    """Whether only one pass from the start gives the right frames: edit list, MPEG-TS and other
    containers without an index, several video streams."""
    is_plainly_ordered: bool
    """Whether frames can be found by seeking to key frames: closed GOPs, as far as was looked."""
    is_evenly_timed: bool
    """Whether frame n is shown at n / average_fps: a constant rate, told by an index."""
    is_plain_8_bit: bool
    """Whether sizes are even and samples have 8 bits, so that all decoders agree on colours."""
    presentation_seconds: npt.NDArray[np.float64] = field(repr=False, compare=False)
    """(num_frames,) when each frame is shown, ascending, the first at 0."""

    @property
    def duration_seconds(self) -> float:
        return self.num_frames / self.average_fps


def probe_video(path: str | Path) -> VideoInfo:
    """Look at a video's packets without decoding; cached until the file changes.

    Raises:
        MediaError: If it does not exist, is not a video, or ends before its header says.
    """
    try:
        # Absolute, since FFmpeg takes the start of `a:b.mp4` for a protocol.
        path = Path(path).absolute()
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"The video {_name(path)} cannot be opened: {reason}.") from error
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"The video {_name(path)} is a folder.")
    if not stat.S_ISREG(status.st_mode):  # a pipe or device could be read from for ever
        raise MediaError(f"The video {_name(path)} is no ordinary file.")
    if status.st_size == 0:
        raise MediaError(f"The video {_name(path)} is empty (0 bytes).")
    return _probe(path, status.st_size, status.st_mtime_ns)


def _name(path: str | Path) -> str:
    """A path as a message shows it: what cannot be printed is escaped."""
    return str(path) if str(path).isprintable() else repr(str(path))


@lru_cache(maxsize=4096)
def _probe(path: Path, size: int, modified: int) -> VideoInfo:
    del modified  # part of the cache's key only
    try:
        _refuse_text(path)
        with av.open(str(path)) as container:
            if not container.streams.video:
                kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
                raise MediaError(f"{path} has no video stream (streams: {kinds}).")
            stream = container.streams.video[0]
            context = stream.codec_context
            if context is None:
                raise MediaError(f"{path} is encoded in a way that FFmpeg does not know.")
            if context.width * context.height > _LARGEST_PICTURE_PIXELS:
                raise MediaError(
                    f"{path} is refused as too large: it announces pictures of {context.width} x "
                    f"{context.height}; at most {_LARGEST_PICTURE_PIXELS:,} pixels are decoded. "
                    "Scale it: ffmpeg -i IN -vf scale=1280:-2 OUT.mp4"
                )
            rate = stream.average_rate or stream.base_rate or Fraction(0)
            indexed = _read_index(container, stream, rate)
            if indexed is None:
                container.seek(0)
            found = indexed or _count_packets(container, stream, rate, path)
            containers = set(container.format.name.split(","))
            several = len(container.streams.video) > 1
            codec, pixels = context.name, context.pix_fmt or ""
            width, height = context.width, context.height
    except MediaError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"{path} cannot be read as a video: {error}. "
            "If it is a partial download, fetch it again."
        ) from error
    if found.num_frames == 0 or rate <= 0:
        raise MediaError(f"{path} has a video stream without frames.")
    return VideoInfo(
        path=path,
        num_frames=found.num_frames,
        average_fps=float(rate),
        width_pixels=width,
        height_pixels=height,
        codec=codec,
        container=",".join(sorted(containers)),
        digest=file_digest(path, size),
        needs_sequential_read=bool(
            found.num_hidden or several or not containers & _INDEXED_CONTAINERS
        ),
        is_plainly_ordered=found.is_plainly_ordered,
        is_evenly_timed=indexed is not None,
        is_plain_8_bit=width % 2 == height % 2 == 0 and pixels in _PLAIN_PIXEL_FORMATS,
        presentation_seconds=found.presentation_seconds,
    )


def _refuse_text(path: Path) -> None:
    """No video is a text; but play lists are, and would make FFmpeg open what they name.

    FFmpeg's own `format_whitelist` would be the better guard; PyAV 15 crashes with it on FLV.

    Raises:
        MediaError: With the beginning of the text.
    """
    with path.open("rb") as file:
        head = file.read(1024)
    if any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head):
        return
    try:
        text = head.decode(errors="strict" if len(head) < 1024 else "ignore")
    except UnicodeDecodeError:
        return
    raise MediaError(
        f"{path} cannot be read as a video: it is a text that begins with {text[:40]!r}. A saved "
        "error page, a Git LFS pointer or a play list? Fetch the video itself."
    )


class _Packets(NamedTuple):
    """What the packets of a stream tell."""

    num_frames: int
    num_hidden: int
    """Packets that an edit list hides."""
    is_plainly_ordered: bool
    """See `VideoInfo`."""
    presentation_seconds: npt.NDArray[np.float64]


class _OrderCheck:
    """Whether every key frame seen starts a GOP that needs nothing before it.

    An H.264 key frame that is no IDR picture may be followed by frames that refer to the GOP before
    it. Of other codecs only those that never reorder frames are taken for plain, as VP8 and VP9.
    """

    def __init__(self, stream: Any) -> None:
        self._codec = stream.codec_context.name
        extra = stream.codec_context.extradata or b""
        # avcC: the fifth byte says in how many bytes a NAL unit's length is written.
        self._length_bytes = (extra[4] & 3) + 1 if len(extra) > 4 and extra[0] == 1 else 0
        self._last_pts: int | None = None
        self.is_plain = self._codec != "h264" or bool(self._length_bytes)

    def see(self, packet: Any) -> None:
        """Take one more packet, in the file's order, into account."""
        if self._codec == "h264":
            if packet.is_keyframe and not self._has_idr(bytes(packet)):
                self.is_plain = False
        elif self._codec not in ("vp8", "vp9") and packet.pts is not None:
            if self._last_pts is not None and packet.pts < self._last_pts:
                self.is_plain = False
            self._last_pts = packet.pts

    def jumped(self) -> None:
        """The next packet does not follow the last one."""
        self._last_pts = None

    def _has_idr(self, data: bytes) -> bool:
        place, step = 0, self._length_bytes
        while step and place + step < len(data):
            if data[place + step] & 31 == _IDR_NAL_TYPE:
                return True
            place += step + int.from_bytes(data[place : place + step], "big")
        return False


def _read_index(container: Any, stream: Any, rate: Fraction) -> _Packets | None:
    """The number of frames from the index of an ordinary MP4 or MOV file, without reading it all.

    Returns:
        None for every file where the index alone could mislead: another container, no index,
        hidden packets at the start, a varying frame rate, or a last frame that is not where the
        index says (a file that is cut off).
    """
    names = container.format.name.split(",")
    count, duration, base = stream.frames, stream.duration, stream.time_base
    if not {"mp4", "mov"} & set(names) or not (count and duration and base and rate):
        return None
    if stream.base_rate != rate or stream.start_time:
        return None
    if abs(duration * base * rate - count) > Fraction(1, 2):
        return None  # an edit list shows fewer frames than there are
    order = _OrderCheck(stream)
    for number, packet in enumerate(container.demux(stream)):
        if packet.size and (packet.is_discard or packet.pts is None or packet.pts < 0):
            return None
        if packet.size:
            order.see(packet)
        if number >= _EDIT_LIST_PACKETS:
            break
    for part in range(1, _SAMPLED_KEYFRAMES):
        container.seek(duration * part // _SAMPLED_KEYFRAMES, stream=stream)
        order.jumped()
        for packet in itertools.islice(container.demux(stream), 4):
            if packet.size:
                order.see(packet)
    container.seek(max(0, duration - 1), stream=stream)
    ends = [
        packet.pts + (packet.duration or 0)
        for packet in container.demux(stream)
        if packet.size and packet.pts is not None
    ]
    if not ends or (duration - max(ends)) * base * rate > 1:
        return None
    return _Packets(count, 0, order.is_plain, np.arange(count) / float(rate))


def _count_packets(container: Any, stream: Any, rate: Fraction, path: Path) -> _Packets:
    """Read every packet of a stream, without decoding: 0.3 s for an hour of video.

    Raises:
        MediaError: If there are fewer than the header says, or the last one ends too early.
    """
    times: list[int] = []
    last_end, hidden, undated = 0, 0, 0
    order = _OrderCheck(stream)
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        order.see(packet)
        if packet.is_discard or (packet.pts is not None and packet.pts < 0):
            hidden += 1
        elif packet.pts is None:
            undated += 1
        else:
            times.append(packet.pts)
            last_end = max(last_end, packet.pts + (packet.duration or 0))
    base = stream.time_base or Fraction(1, 1)
    count = len(times) + undated
    # `frames` counts what an edit list leaves out too; then the duration tells that all is there.
    covered = last_end - (stream.start_time or 0)
    is_trimmed = bool(stream.duration) and (stream.duration - covered) * base * (rate or 1) <= 1
    if stream.frames > count + hidden and not is_trimmed:
        raise MediaError(
            f"{path} is cut off: its header promises {stream.frames} frames, the file holds "
            f"{count + hidden}. Fetch it again."
        )
    promised = float(stream.duration * base) if stream.duration else _matroska_seconds(stream)
    if promised and times and not undated:
        missing = promised - float(covered * base)
        if missing > max(_SHORTFALL_SECONDS, 0.02 * promised):
            raise MediaError(
                f"{path} is cut off: its header promises {promised:.1f} s of video, the last "
                f"frame ends {missing:.1f} s earlier. Fetch it again."
            )
    if undated or not times:
        return _Packets(count, hidden, False, np.arange(count) / float(rate or 1))
    shown = np.sort(np.asarray(times, dtype=np.float64)) * float(base)
    return _Packets(count, hidden, order.is_plain, shown - shown[0])


def _matroska_seconds(stream: Any) -> float | None:
    """The duration that Matroska and WebM write as a tag of the stream: `00:00:04.000000000`."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if found is None:
        return None
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


def file_digest(path: Path, size: int | None = None) -> str:
    """Identity of a file's content: SHA-256, first 24 hex digits.

    Files up to 64 MiB are hashed whole; of larger ones the size and 64 blocks of 64 KiB spread
    evenly from the first byte to the last, so that an hour of video costs no extra pass.
    """
    size = path.stat().st_size if size is None else size
    digest = hashlib.sha256(f"{size}\0".encode())
    with path.open("rb") as file:
        if size <= _WHOLE_FILE_BYTES:
            while block := file.read(1 << 20):
                digest.update(block)
        else:
            for offset in np.linspace(0, size - _SAMPLED_BLOCK_BYTES, _SAMPLED_BLOCKS, dtype=int):
                file.seek(int(offset))
                digest.update(file.read(_SAMPLED_BLOCK_BYTES))
    return digest.hexdigest()[:24]
