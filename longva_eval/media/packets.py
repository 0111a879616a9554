"""The packets of a video file: the stream that is shown, and where its frames lie.

One pass over the packets (0.3 s for an hour, nothing decoded) tells when each frame is shown, at
which packets decoding may start, and whether something is missing. The plan that follows
(`PacketIndex.needed`) names the packets that have to be decoded for the frames that are wanted;
nothing depends on a container's own way of seeking.

Packets are numbered in the order of the file. That number is written over a packet's time stamp
before it is decoded, and read back from the frame: so each frame is known for the packet it came
from, whatever its clock does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition

from longva_eval.errors import MediaError
from longva_eval.media.files import FileIdentity, check_unchanged, printable

__all__ = [
    "CHECKING_DECODERS",
    "WHEN_OPENED",
    "Gap",
    "Numbers",
    "PacketIndex",
    "Packets",
    "decode_row",
    "decoder_of",
    "needed_rows",
    "open_video",
    "read_packets",
    "shown_stream",
]

Numbers = npt.NDArray[np.int64]

_DEMUXERS = (
    "mov,matroska,avi,flv,asf,mpegts,mpeg,mpegvideo,m4v,h264,hevc,obu,av1,ivf,ogg,gif,apng,mxf,rm,"
    "nut,dv,gxf,wtv,mjpeg,yuv4mpegpipe,h261,h263,vc1,swf,nsv,mp3,flac,wav,aac,ac3,eac3"
)
"""Containers that hold what is in them, pictures or sound. Play lists and the like, which make
FFmpeg open what they name, are left out."""
_NAMED = {".mjpeg": "mjpeg", ".mjpg": "mjpeg"}
"""JPEGs in a row look like one picture: their name tells."""
_IO_BYTES = 1 << 17
_DEFAULT_STREAM_SCORE = 5_000_000
"""In pixels: what the `ffmpeg` command gives a stream flagged as default (fftools/ffmpeg_opt.c)."""
_IDR_NAL_TYPE = 5
CHECKING_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that notice what FFmpeg's own ones show as if nothing were wrong, at the same speed."""
_NONE = np.iinfo(np.int64).min
_RESTART_SECONDS = 0.1
"""A clock that goes back by more was started afresh (joined recordings), as for `ffmpeg`."""
_MOST_REORDERED = 16
"""A frame is shown before at most so many that precede it in the file (H.264, HEVC)."""
_CORRUPT_REACH = 8
"""A demuxer marks a packet shortly before the place where the clock starts afresh."""


WHEN_OPENED: list[Callable[[], None]] = []
"""Called when a file is open. Until then FFmpeg has tried decoders on whatever comes first, which
may be no key frame; what they complained of is no damage (`longva_eval.media.decode_worker`)."""


class Gap(NamedTuple):
    """A place where pictures are missing."""

    at_seconds: float
    """When the last frame before it is shown."""
    missing_seconds: float
    """0 where packets are known to be lost, but not for how long."""


@contextmanager
def open_video(path: Path, identity: FileIdentity) -> Iterator[Any]:
    """A video file as PyAV's container, demuxed by one of the allowed demuxers.

    Args:
        path: The file.
        identity: What it was at the first look.

    Raises:
        MediaError: If the file has changed, before or while it was read.
    """
    with path.open("rb", buffering=0) as file:
        check_unchanged(path, identity, file)
        with av.open(
            file,
            format=_NAMED.get(path.suffix.lower()),
            container_options={"format_whitelist": _DEMUXERS},
            buffer_size=_IO_BYTES,
            metadata_errors="replace",
        ) as container:
            for told in WHEN_OPENED:
                told()
            yield container
        check_unchanged(path, identity, file)


def shown_stream(container: Any, path: Path) -> int:
    """The index of the stream that the `ffmpeg` command picks: the default one, or the largest.

    Raises:
        MediaError: If there is no film.
    """
    films = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not films:
        if container.streams.video:
            raise MediaError(
                f"{printable(path)} has no film in it: a cover picture, and sound. If the picture "
                "is wanted: ffmpeg -i IN -map 0:v -frames:v 1 OUT.png"
            )
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise MediaError(f"{printable(path)} has no video stream (streams: {kinds}).")
    if any(stream.codec_context is None for stream in films):
        raise MediaError(f"{printable(path)} is encoded in a way that FFmpeg does not know.")
    if len(films) > 1:
        filled = {packet.stream_index for packet in container.demux(films) if packet.size}
        films = [stream for stream in films if stream.index in filled] or films

    def score(stream: Any) -> int:
        is_default = bool(stream.disposition & Disposition.default)
        return int(stream.width * stream.height + _DEFAULT_STREAM_SCORE * is_default)

    return int(max(films, key=score).index)


@dataclass(frozen=True)
class Packets:
    """What the packets of one stream say, in the order of the file."""

    pts: Numbers
    """In ticks on one clock; `_NONE` where the file says nothing."""
    duration: Numbers
    is_key: npt.NDArray[np.bool_]
    is_hidden: npt.NDArray[np.bool_]
    """Whether an edit list hides the frame."""
    is_start: npt.NDArray[np.bool_]
    """Whether what follows needs nothing before it, but for frames shown earlier."""
    lost_before: tuple[int, ...]
    """Packets shortly before which some are missing, by a transport stream's own counters."""
    is_chained: bool
    """Whether each packet begins when the one before it ends, by the duration it has."""
    is_ordered: bool
    """Whether frames are shown in the order of the file."""
    time_base: Fraction

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def is_dated(self) -> npt.NDArray[np.bool_]:
        dated: npt.NDArray[np.bool_] = self.pts != _NONE
        return dated


def read_packets(container: Any, stream: Any) -> Packets:
    """Look at every packet of a stream; nothing is decoded."""
    pts: list[int | None] = []
    dts: list[int | None] = []
    durations: list[int] = []
    keys: list[bool] = []
    hidden: list[bool] = []
    starts: list[bool] = []
    corrupt: list[int] = []
    is_start = _StartCheck(stream)
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.is_corrupt:
            corrupt.append(len(pts))
        pts.append(packet.pts)
        dts.append(packet.dts)
        durations.append(packet.duration or 0)
        keys.append(packet.is_keyframe)
        starts.append(packet.is_keyframe and is_start(packet))
        hidden.append(packet.is_discard)
    base = stream.time_base or Fraction(1, 1)
    shown, decoded, length = _array(pts), _array(dts), np.array(durations, dtype=np.int64)
    is_key = np.array(keys, dtype=bool)
    restarts = _continue_clock(shown, decoded, length, is_key, base)
    ends = decoded[:-1] + length[:-1]
    dated = shown[shown != _NONE]
    return Packets(
        pts=shown,
        duration=length,
        is_key=is_key,
        is_hidden=np.array(hidden, dtype=bool),
        is_start=np.array(starts, dtype=bool),
        lost_before=tuple(
            number
            for number in corrupt
            if not any(number <= restart <= number + _CORRUPT_REACH for restart in restarts)
        ),
        is_chained=bool(np.all(decoded[1:] <= ends + length[:-1] // 2)),
        is_ordered=bool(np.all(dated[1:] >= dated[:-1])),
        time_base=base,
    )


def _array(values: Sequence[int | None]) -> Numbers:
    return np.array([_NONE if value is None else value for value in values], dtype=np.int64)


def _continue_clock(
    pts: Numbers, dts: Numbers, duration: Numbers, is_key: npt.NDArray[np.bool_], base: Fraction
) -> list[int]:
    """Put the time stamps of joined recordings on one clock, in place.

    Returns:
        The packets at which the clock was started afresh.
    """
    restarts = []
    dated = np.flatnonzero(dts != _NONE)
    back = np.diff(dts[dated]) * float(base) < -_RESTART_SECONDS
    for place in np.flatnonzero(back):
        last, first = dated[place], dated[place + 1]
        # Matroska has no decoding times: FFmpeg guesses them, and may take a guess back.
        overtaken = np.count_nonzero(pts[:first] >= pts[first])
        if pts[first] != _NONE and overtaken <= (0 if is_key[first] else _MOST_REORDERED):
            continue
        shift = dts[last] + duration[last] - dts[first]
        for times in (pts, dts):
            times[first:][times[first:] != _NONE] += shift
        restarts.append(int(first))
    return restarts


class _StartCheck:
    """Whether a key frame needs nothing before it.

    An H.264 key frame that is no IDR picture may be followed by frames, shown after it, that refer
    to the GOP before it. In other codecs only frames that are shown before it may.
    """

    def __init__(self, stream: Any) -> None:
        self._is_h264 = stream.codec_context.name == "h264"
        extra = stream.codec_context.extradata or b""
        # avcC: the fifth byte says in how many bytes a NAL unit's length is written.
        self._length_bytes = (extra[4] & 3) + 1 if len(extra) > 4 and extra[0] == 1 else 0

    def __call__(self, packet: Any) -> bool:
        return not self._is_h264 or any(
            kind & 31 == _IDR_NAL_TYPE for kind in self._first_bytes(bytes(packet))
        )

    def _first_bytes(self, data: bytes) -> Iterator[int]:
        """Of each NAL unit, the byte that says its type."""
        if not self._length_bytes:
            place = data.find(b"\0\0\1")
            while 0 <= place < len(data) - 3:
                yield data[place + 3]
                place = data.find(b"\0\0\1", place + 3)
            return
        place = 0
        while place + self._length_bytes < len(data):
            first = place + self._length_bytes
            yield data[first]
            place = first + int.from_bytes(data[place:first], "big")


@dataclass(frozen=True)
class PacketIndex:
    """Which packet each frame comes from, and what must be decoded for it."""

    num_packets: int
    shown: Numbers
    """(num_frames,) the packet of each frame, in the order in which they are shown."""
    starts: Numbers
    """Packets at which decoding may start, ascending; the first one has to be decoded from."""

    def rows(self, indices: Sequence[int]) -> Numbers:
        """Which packets have to be decoded for some frames, in rows that begin at a start.

        Args:
            indices: Frames that are wanted, in any order.

        Returns:
            (num_packets,) the packet at which its row begins, or -1 where it is not needed. Rows
            can be decoded apart.
        """
        rank = np.full(self.num_packets, -1, dtype=np.int64)
        rank[self.shown] = np.arange(len(self.shown))
        wanted = np.unique(np.asarray(indices, dtype=np.int64))
        packets = self.shown[wanted]
        # From the last start that is not shown after the frame: such a frame may refer to what is
        # before that start (open GOPs).
        place = np.maximum(np.searchsorted(self.starts, packets, side="right") - 1, 0)
        while np.any(late := (place > 0) & (rank[self.starts[place]] > wanted)):
            place[late] -= 1
        # Up to the next frame's packet: what lies between may be this frame's second field.
        in_file_order = np.append(np.sort(self.shown), self.num_packets)
        ends = in_file_order[np.searchsorted(in_file_order, packets, side="right")]
        steps = np.zeros(self.num_packets + 1, dtype=np.int64)
        np.add.at(steps, self.starts[place], 1)
        np.add.at(steps, ends, -1)
        needed = np.cumsum(steps[:-1]) > 0
        begins = np.flatnonzero(needed & ~np.append(False, needed[:-1]))
        # All before such a start is shown before it, all after it after it: a row of its own. (Of
        # frames shown before a start that follow it in the file, an open GOP's, some need both.)
        after = np.minimum.accumulate(np.where(rank < 0, len(rank), rank)[::-1])[::-1]
        before = np.append(-1, np.maximum.accumulate(rank)[:-1])
        apart = self.starts[((before < rank) & (after == rank))[self.starts]]
        begins = np.union1d(begins, apart[needed[apart]])
        row = np.searchsorted(begins, np.arange(self.num_packets), side="right") - 1
        row = np.where(needed, np.append(begins, -1)[row], -1)
        # Where a row begins, frames shown before its key frame lack what they refer to.
        return np.where((rank >= 0) & (rank < rank[row]), -1, row)


def needed_rows(container: Any, stream: Any, rows: Numbers) -> Iterator[Iterator[tuple[int, Any]]]:
    """The packets that have to be decoded, with their numbers, row by row.

    Args:
        container: From `open_video`, at its beginning.
        stream: The same.
        rows: From `PacketIndex.rows`.

    Yields:
        The packets of a row, valid until the next row is asked for.
    """
    needed = np.flatnonzero(rows >= 0)
    end = int(needed[-1]) + 1 if len(needed) else 0
    packets = enumerate(packet for packet in container.demux(stream) if packet.size)
    wanted = (found for found in itertools.islice(packets, end) if rows[found[0]] >= 0)
    for _, row in itertools.groupby(wanted, lambda found: int(rows[found[0]])):
        yield row


def decode_row(
    decoder: Any, row: Iterable[tuple[int, Any]], wanted: Container[int]
) -> Iterator[tuple[int, Any]]:
    """Decode a row of packets, and tell of each frame which packet it came from.

    Args:
        decoder: From `decoder_of`.
        row: From `needed_rows`.
        wanted: Packets whose frames are asked for; of others, those that no frame refers to are
            left out.

    Yields:
        The number of the packet and PyAV's frame, in the order in which the decoder gives them.
    """
    can_skip = decoder.name == "h264"
    for number, packet in row:
        if can_skip:
            decoder.skip_frame = "DEFAULT" if number in wanted else "NONREF"
        packet.pts = packet.dts = number
        yield from ((frame.pts, frame) for frame in decoder.decode(packet))
    yield from ((frame.pts, frame) for frame in decoder.decode(None))
    decoder.flush_buffers()


def decoder_of(stream: Any) -> Any:
    """The stream's decoder, or one that checks more (`benchmarks/bit_flips.py`)."""
    context = stream.codec_context
    if context.name == "hevc":  # compares pictures with the hashes that a stream may hold
        context.options = {"err_detect": "crccheck"}
    is_deep = context.format is not None and context.format.components[0].bits > 8
    if is_deep:  # PyAV's libvpx reads 8 bits alone
        return context
    try:
        decoder = av.CodecContext.create(CHECKING_DECODERS.get(context.name, ""), "r")
    except av.codec.codec.UnknownCodecError:
        return context
    decoder.extradata = context.extradata
    return decoder
