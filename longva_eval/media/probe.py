"""A look at a video before anything is decoded: what it shows, and whether all of it is there.

Every packet is looked at, 0.3 s for an hour of video; of pictures, only one. Files whose packets do
not tell which frames come out of them (a raw stream without time stamps) are decoded once.

A file that cannot be read, has no film, or holds fewer frames than it says is a `MediaError` that
names it. Pictures that are missing in the middle are `VideoInfo.gaps`; whoever chooses frames
refuses them or counts them (`longva_eval.media.frames`).
"""

from __future__ import annotations

import errno
import itertools
import math
import struct
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt

from longva_eval.errors import MediaError
from longva_eval.media.files import FileIdentity, file_digest, identify, printable
from longva_eval.media.packets import (
    Gap,
    Numbers,
    PacketIndex,
    Packets,
    open_video,
    read_packets,
    shown_stream,
)

__all__ = ["DisplayMatrix", "VideoInfo", "display_matrix", "probe_video"]

DisplayMatrix = tuple[int, ...]
"""The nine numbers that say how a picture is turned and mirrored, as the file has them."""

_LARGEST_PICTURE_PIXELS = 1 << 26
"""8192 x 8192. A file of some kilobytes can announce more than any memory holds."""
_PROMISING_CONTAINERS = {"mov", "matroska", "flv", "avi", "asf"}
"""Their headers say how long the file is; of others that is found out from the file itself."""
_SHORTFALL_SECONDS = 1.0
"""How much earlier than announced a file may end: containers round, and drop a last frame."""
_ORDERLY_CONTAINERS = {"mov", "matroska"}
_ORDERLY_CODECS = {"h264", "hevc", "vp9", "av1"}
"""In these containers, each packet of these codecs is a frame, from the first key frame on."""
_SEEKABLE_CONTAINERS = {"mov", "matroska", "flv"}
_PLAIN_FORMATS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"}
_HEAD_PACKETS = 48
_AS_STORED = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
_ROUNDING_SECONDS = 0.002
"""Matroska writes whole milliseconds."""
_MOST_IRREGULAR = 0.05
"""With a larger share of intervals that differ, a stream has no rate of its own."""
_GAP_INTERVALS = 1.75
"""From this many intervals on, one of an otherwise constant stream is a gap."""
_LATE_SECONDS = 3600.0
"""A picture that starts later than this after the file has another clock."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a look at the packets of a file tells."""

    path: Path
    num_frames: int
    """Frames that the `ffmpeg` command shows; what an edit list hides isn't counted."""
    average_fps: float
    """Frames per second: the file's own figure where its frames agree with it."""
    width_pixels: int
    height_pixels: int
    """Before a display matrix turns the picture."""
    codec: str
    container: str
    digest: str
    """Identity of the file's content, see `file_digest`."""
    identity: FileIdentity | None = None
    """The file that was looked at; None takes whatever has its name."""
    has_constant_rate: bool = True
    """Whether frame n is shown at n / average_fps after the first, by less than half a frame."""
    display_matrix: DisplayMatrix | None = None
    """None for a picture that is shown as it is stored."""
    gaps: tuple[Gap, ...] = ()
    """Where pictures are missing: packets lost, or an interval that the rate does not explain."""
    decord_is_right: bool = False
    """Whether decord and torchcodec find the frames that are asked for, as far as is known."""
    presentation_seconds: npt.NDArray[np.float64] = field(repr=False, compare=False)
    """(num_frames,) when each frame is shown, ascending. 0 is where the file starts, which may be
    before its first frame if its sound starts earlier: the clock of players and subtitles."""
    num_starts: int = field(default=1, repr=False)
    """Places at which decoding may start."""
    stream_index: int = field(default=0, repr=False)
    packets: PacketIndex | None = field(default=None, repr=False, compare=False)
    """None if it was looked at in another process."""

    @property
    def duration_seconds(self) -> float:
        """From the first frame to the end of the last."""
        return self.num_frames / self.average_fps


def probe_video(path: str | Path) -> VideoInfo:
    """Look at a video; cached until the file changes.

    Raises:
        MediaError: If it does not exist, is not a video, or ends before its header says.
    """
    try:
        # Absolute, since FFmpeg takes the start of `a:b.mp4` for a protocol.
        path = Path(path).absolute()
        identity = identify(path, kind="video")
    except ValueError as error:
        raise MediaError(f"The video {printable(path)} cannot be opened: {error}.") from error
    return _probe(path, identity)


@lru_cache(maxsize=4096)
def _probe(path: Path, identity: FileIdentity) -> VideoInfo:
    try:
        _refuse_text(path)
        with open_video(path, identity) as container:
            stream_index = shown_stream(container, path)
            is_only_film = len(container.streams.video) == 1
        with open_video(path, identity) as container:
            stream = container.streams[stream_index]
            _refuse_huge(stream, path)
            packets = read_packets(container, stream)
            header = _read_header(container, stream)
        _refuse_shortened(path, identity, header, packets)
        look = _look_at_frames(path, identity, stream_index, header, packets)
        digest = file_digest(path, identity)
    except MediaError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EINVAL:  # its demuxer is not allowed
            _refuse_picture(path)
            reason = (
                "its container is none of those that are read, all of which hold their pictures "
                "themselves (a play list names other files)"
            )
        else:
            reason = str(error)
        raise MediaError(
            f"{printable(path)} cannot be read as a video: {reason}. If it is a partial download, "
            "fetch it again; if another program plays it: ffmpeg -i IN -c copy OUT.mkv"
        ) from error
    if not len(look.shown):
        raise MediaError(f"{printable(path)} has a video stream without frames.")
    if len(look.shown) == 1 and "mov" in header.containers:  # AVIF, of which the rest moves
        _refuse_picture(path)
    seconds = _seconds(look.shown, packets, header)
    last_seconds = float(packets.duration[look.shown[-1]] * packets.time_base)
    if not last_seconds and len(seconds) > 1:
        last_seconds = float(np.median(np.diff(seconds)))
    average_fps, is_constant = _rate(seconds, last_seconds, header)
    return VideoInfo(
        path=path,
        num_frames=len(look.shown),
        average_fps=average_fps,
        width_pixels=header.width,
        height_pixels=header.height,
        codec=header.codec,
        container=",".join(sorted(header.containers)),
        digest=digest,
        identity=identity,
        has_constant_rate=is_constant,
        display_matrix=look.matrix,
        gaps=_find_gaps(look, packets, seconds, header),
        decord_is_right=(
            is_only_film
            and bool(header.containers & _SEEKABLE_CONTAINERS)
            and look.matrix is None
            and header.has_plain_colours
            and len(look.shown) == len(packets)
            and _is_plainly_ordered(packets, header)
        ),
        presentation_seconds=seconds,
        num_starts=len(look.starts),
        stream_index=stream_index,
        packets=PacketIndex(len(packets), look.shown, look.starts),
    )


def _refuse_text(path: Path) -> None:
    """No video is a text. Play lists are no allowed container either; this says so more clearly.

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
        f"{printable(path)} cannot be read as a video: it is a text that begins with {text[:40]!r}."
        " A saved error page, a Git LFS pointer or a play list? Fetch the video itself."
    )


def _refuse_picture(path: Path) -> None:
    """Say so if it is a still, or an animation that FFmpeg does not read.

    Raises:
        MediaError: With its kind.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            kind, count = picture.format, getattr(picture, "n_frames", 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return
    if count > 1:
        raise MediaError(
            f"{printable(path)} is no video but {count} pictures in one file ({kind}). If it is "
            'an animation, make it a GIF: python -c "from PIL import Image; '
            "Image.open('IN').save('OUT.gif', save_all=True)\""
        )
    raise MediaError(
        f"{printable(path)} is no video but a picture ({kind}). To use it as a film of one frame: "
        "ffmpeg -i IN OUT.mp4"
    )


def _refuse_huge(stream: Any, path: Path) -> None:
    if stream.width * stream.height > _LARGEST_PICTURE_PIXELS:
        raise MediaError(
            f"{printable(path)} is refused as too large: it announces pictures of {stream.width} x "
            f"{stream.height}; at most {_LARGEST_PICTURE_PIXELS:,} pixels are decoded. "
            "Scale it: ffmpeg -i IN -vf scale=1280:-2 OUT.mp4"
        )


class _Header(NamedTuple):
    """What a file says of itself."""

    codec: str
    containers: set[str]
    width: int
    height: int
    rate: Fraction
    """Frames per second; 0 if it says nothing."""
    num_frames: int
    """0 if it says nothing."""
    start_seconds: float
    end_seconds: float
    """When the whole file ends; 0 if it says nothing."""
    film_end_seconds: float
    """When its pictures end: sound may last longer. As above if the file does not say."""
    has_length_prefixes: bool
    """Whether H.264 is stored as in MP4, and not as in a transport stream."""
    has_plain_colours: bool
    """Whether every way of scaling the colours to the picture's size gives the same."""


def _read_header(container: Any, stream: Any) -> _Header:
    start = math.nan if container.start_time is None else container.start_time / av.time_base
    extra = stream.codec_context.extradata or b""
    containers = set(container.format.name.split(","))
    promises = container.duration and containers & _PROMISING_CONTAINERS
    end = ((container.start_time or 0) + container.duration) / av.time_base if promises else 0.0
    if "asf" in containers and promises and stream.duration:
        # FFmpeg adds the start of each stream to the length of the whole file.
        end = min(end, float(stream.duration * stream.time_base))
    film_end = end
    if promises and stream.duration and stream.time_base:
        film_end = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    return _Header(
        codec=stream.codec_context.name,
        containers=containers,
        width=stream.width,
        height=stream.height,
        rate=stream.average_rate or stream.base_rate or stream.guessed_rate or Fraction(0),
        num_frames=stream.frames if promises else 0,
        start_seconds=start,
        end_seconds=end,
        film_end_seconds=min(end, film_end),
        has_length_prefixes=extra[:1] == b"\1",
        has_plain_colours=(
            stream.format is not None
            and stream.format.name in _PLAIN_FORMATS
            and ("444" in stream.format.name or stream.width % 2 == stream.height % 2 == 0)
        ),
    )


def _refuse_shortened(
    path: Path, identity: FileIdentity, header: _Header, packets: Packets
) -> None:
    """Refuse a file that ends before its header says.

    Raises:
        MediaError: If frames are missing at the end, and nothing else goes on there: sound may
            last longer than pictures.
    """
    dated = packets.pts[packets.is_dated]
    last = packets.pts[packets.is_dated] + packets.duration[packets.is_dated]
    held = float(last.max() * packets.time_base) if len(dated) else header.end_seconds
    missing = header.end_seconds - held
    # AVI counts pictures that stay as frames of their own.
    is_short = header.film_end_seconds - held > 1 / (header.rate or 1)
    if header.num_frames > len(packets) and is_short:
        raise MediaError(
            f"{printable(path)} is cut off: its header promises {header.num_frames} frames, the "
            f"file holds {len(packets)}. Fetch it again."
        )
    # Not every container says how long its last picture stays.
    steps = np.diff(np.sort(dated))
    interval = float(np.median(steps)) * float(packets.time_base) if len(steps) else 0.0
    allowed = max(_SHORTFALL_SECONDS, 0.02 * header.end_seconds, 1.5 * interval)
    if missing <= allowed:
        return
    with open_video(path, identity) as container:
        ends = [
            float((packet.pts + (packet.duration or 0)) * packet.time_base)
            for packet in container.demux()
            if packet.size and packet.pts is not None
        ]
    missing = header.end_seconds - max(ends)
    if missing > allowed:
        raise MediaError(
            f"{printable(path)} is cut off: its header promises {header.end_seconds:.1f} s of "
            f"video, the last frame ends {missing:.1f} s earlier. Fetch it again."
        )


class _Look(NamedTuple):
    """What decoding tells."""

    shown: Numbers
    """See `PacketIndex`."""
    starts: Numbers
    matrix: DisplayMatrix | None


def _look_at_frames(
    path: Path, identity: FileIdentity, stream_index: int, header: _Header, packets: Packets
) -> _Look:
    """Which packets give a frame, by as little decoding as tells it.

    Raises:
        MediaError: If the first frames cannot be decoded right, and yet something is shown.
    """
    keys = np.flatnonzero(packets.is_key)
    first_key = int(keys[0]) if len(keys) else 0
    starts = np.union1d([first_key], np.flatnonzero(packets.is_start))
    visible = np.flatnonzero(~packets.is_hidden)
    shown = visible[np.argsort(packets.pts[visible], kind="stable")]
    is_told = bool(np.all(packets.is_dated) and np.all(np.diff(packets.pts[shown]) > 0))
    is_orderly = header.containers & _ORDERLY_CONTAINERS and header.codec in _ORDERLY_CODECS
    if not is_told:
        head = len(packets)
    elif is_orderly and len(visible) and first_key == visible[0] == 0:
        head = 1
    else:
        head = first_key + _HEAD_PACKETS + int(packets.is_hidden.sum())
    given, matrix = _decode_head(path, identity, stream_index, head, first_key)
    undecodable = sum(number < first_key for number in given)
    if undecodable:
        begin = float(packets.pts[first_key] * packets.time_base) - header.start_seconds
        raise MediaError(
            f"{printable(path)} begins between key frames: its first {undecodable} frames lack "
            f"what they refer to. Leave them out: ffmpeg -ss {begin:.3f} -i IN OUT.mp4"
        )
    if is_told:
        # The decoder may begin late, after frames that lack what they refer to; else it must agree.
        begin = int(np.flatnonzero(shown == given[0])[0]) if given else len(shown)
        if np.array_equal(given, shown[begin : begin + len(given)]):
            return _Look(shown[begin:], starts, matrix)
        given, matrix = _decode_head(path, identity, stream_index, len(packets), first_key)
    return _Look(np.array(given, dtype=np.int64), starts, matrix)


def _decode_head(
    path: Path, identity: FileIdentity, stream_index: int, num_packets: int, first_key: int
) -> tuple[list[int], DisplayMatrix | None]:
    """Decode the first packets; which of them gave a frame, and how the first one is turned."""
    given: list[int] = []
    matrix = None
    with open_video(path, identity) as container:
        stream = container.streams[stream_index]
        packets = (packet for packet in container.demux(stream) if packet.size)
        head = itertools.islice(packets, num_packets)
        for number, packet in enumerate(itertools.chain(head, [None])):
            if packet is not None:
                packet.pts = packet.dts = number
            try:
                frames = stream.codec_context.decode(packet)
            except av.FFmpegError:
                if number >= first_key:
                    raise
                continue
            if frames and not given:
                matrix = display_matrix(frames[0])
            given += [frame.pts for frame in frames]
    return given, matrix


def display_matrix(frame: Any) -> DisplayMatrix | None:
    """The display matrix of a decoded frame, if it has one that changes anything."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    matrix = struct.unpack("9i", bytes(data))
    return None if matrix == _AS_STORED else matrix


def _seconds(shown: Numbers, packets: Packets, header: _Header) -> npt.NDArray[np.float64]:
    """When frames are shown; those without a time lie before, between or after the others."""
    ticks = packets.pts[shown]
    known = np.flatnonzero(packets.is_dated[shown])
    steps = np.diff(ticks[known]) / np.diff(known)
    period = float(np.median(steps if len(steps) else packets.duration[shown]))
    period *= float(packets.time_base)
    period = period if period > 0 else 1 / float(header.rate or 25)
    places = np.arange(len(shown))
    if not len(known):
        return np.arange(len(shown), dtype=np.float64) * period
    times = np.interp(places, known, ticks[known] * float(packets.time_base))
    times -= period * np.maximum(known[0] - places, 0)
    times += period * np.maximum(places - known[-1], 0)
    times = np.sort(times)
    is_late = 0 <= times[0] - header.start_seconds <= _LATE_SECONDS
    seconds: npt.NDArray[np.float64] = times - (header.start_seconds if is_late else times[0])
    return seconds


def _rate(
    seconds: npt.NDArray[np.float64], last_seconds: float, header: _Header
) -> tuple[float, bool]:
    """Frames per second, and whether they are evenly spread.

    Args:
        seconds: (num_frames,) when they are shown.
        last_seconds: How long the last one is shown.
        header: Its rate is taken where the frames agree with it.
    """
    count, after_first = len(seconds), seconds - seconds[0]
    length = after_first[-1] + last_seconds
    rates = [float(header.rate), count / length if length > 0 else 0.0]
    for rate in rates:
        if rate > 0:
            late = np.abs(after_first - np.arange(count) / rate)
            if late.max() <= 0.5 / rate + _ROUNDING_SECONDS:
                return rate, True
    return rates[1] or rates[0] or 1.0, False


def _find_gaps(
    look: _Look, packets: Packets, seconds: npt.NDArray[np.float64], header: _Header
) -> tuple[Gap, ...]:
    """Where frames are missing.

    A stream whose intervals are equal but for a few has gaps where one is longer, unless the file
    itself says that a picture stays (MP4 and GIF write down how long, AVI has empty frames). One
    whose intervals vary, a screen recording, has none that could be told.
    """
    origin = packets.pts[look.shown[0]] * float(packets.time_base) - seconds[0]
    lost = [number for number in packets.lost_before if number >= look.starts[0]]
    gaps = [Gap(float(packets.pts[n] * packets.time_base) - origin, 0.0) for n in lost]
    intervals = np.diff(seconds)
    if len(intervals) < 3 or packets.is_chained or "avi" in header.containers:
        return tuple(gaps)
    usual = float(np.median(intervals))
    irregular = np.abs(intervals - usual) > usual / 4 + _ROUNDING_SECONDS
    if irregular.sum() <= max(2, _MOST_IRREGULAR * len(intervals)):
        for place in np.flatnonzero(intervals > _GAP_INTERVALS * usual + _ROUNDING_SECONDS):
            gaps.append(Gap(float(seconds[place]), float(intervals[place] - usual)))
    return tuple(sorted(gaps))


def _is_plainly_ordered(packets: Packets, header: _Header) -> bool:
    """Whether seeking to key frames finds the right frames, for decoders that do."""
    if header.codec == "h264":
        return header.has_length_prefixes and bool(np.all(packets.is_start[packets.is_key]))
    return header.codec in ("vp8", "vp9") or packets.is_ordered
