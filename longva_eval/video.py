"""Which frames of a video, and their pixels.

The original's rule is `np.linspace(0, total - 1, n, dtype=int)`; another is one frame per interval
with a cap. A file is looked at before anything is decoded (`probe_video`): how many frames it
shows, whether all that its header promises is there, and which decoder may be trusted with it.

On ordinary files decord, torchcodec and PyAV give the same bytes. On others they do not, and decord
does not say so: it returns *wrong frames without a word* for MPEG-TS, AVI, edit lists, open GOPs
(x265's default) and MPEG-4 with B-frames. torchcodec rounds colours otherwise where sizes are odd
or samples have more than 8 bits. `auto` uses each only where it is right, and PyAV, in one pass
from the start, everywhere else (`tests/test_video.py` has one file of every kind).

A file that cannot be read, has no video, or holds fewer frames than it says is a `MediaError`
that names it. Nothing is ever asked about a video that was not seen.

Imports no torch: the process that decodes (`longva_eval.decode_worker`) starts in a moment.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import av
import numpy as np
import numpy.typing as npt

from longva_eval.errors import MediaError, SettingsError

__all__ = [
    "DecodeBackend",
    "FramePolicy",
    "FrameSample",
    "Frames",
    "ShortVideoPolicy",
    "VideoInfo",
    "file_digest",
    "one_per_second",
    "probe_video",
    "read_frames",
    "sample_frames",
]

Frames = npt.NDArray[np.uint8]
"""(num_frames, height, width, 3), uint8 RGB."""

DecodeBackend = Literal["auto", "decord", "torchcodec", "pyav"]
ShortVideoPolicy = Literal["repeat", "each_once", "error"]

_BLOCK_FRAMES = 32
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


@dataclass(frozen=True, kw_only=True)
class FramePolicy:
    """How many frames to take, and where."""

    max_frames: int = 128
    """Frames to spread evenly over the video; with `fps`, the most that may be taken."""
    fps: float | None = None
    """Take a frame every round(average_fps / fps) frames instead, from the first one on."""
    short_video: ShortVideoPolicy = "repeat"
    """A video with fewer frames than asked: `repeat` shows some twice (the original: 3 frames of
    2 are 0, 0, 1), `each_once` shows fewer, `error` refuses."""

    def __post_init__(self) -> None:
        if self.max_frames < 1:
            raise SettingsError(f"max_frames_num={self.max_frames} must be at least 1.")
        if self.fps is not None and not self.fps > 0:
            raise SettingsError(f"fps={self.fps} must be above 0.")
        if self.short_video not in get_args(ShortVideoPolicy):
            raise SettingsError(
                f"short_video={self.short_video!r} is unknown; "
                f"use one of {', '.join(get_args(ShortVideoPolicy))}."
            )

    def describe(self) -> dict[str, Any]:
        """The rule in words and numbers, for the record."""
        rule = (
            f"np.linspace(0, total - 1, {self.max_frames}, dtype=int)"
            if self.fps is None
            else f"every round(average_fps / {self.fps:g})-th frame, at most {self.max_frames}"
        )
        return {
            "rule": rule,
            "max_frames": self.max_frames,
            "fps": self.fps,
            "short_video": self.short_video,
        }


@dataclass(frozen=True, kw_only=True)
class FrameSample:
    """The frames chosen from one video."""

    indices: tuple[int, ...]
    """Ascending, repeats allowed."""
    timestamps_seconds: tuple[float, ...]
    num_frames_asked: int
    """What the policy wanted; `len(indices)` is what the model sees."""
    num_frames_total: int
    """Frames of the whole video."""


def probe_video(path: str | Path) -> VideoInfo:
    """Look at a video's packets without decoding; cached until the file changes.

    Raises:
        MediaError: If it does not exist, is not a video, or ends before its header says.
    """
    try:
        # Absolute, since FFmpeg takes the start of `a:b.mp4` for a protocol.
        path = Path(path).absolute()
        stat = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"The video {_name(path)} cannot be opened: {reason}.") from error
    if path.is_dir():
        raise MediaError(f"The video {path} is a folder.")
    if stat.st_size == 0:
        raise MediaError(f"The video {path} is empty (0 bytes).")
    return _probe(path, stat.st_size, stat.st_mtime_ns)


def _name(path: str | Path) -> str:
    """A path as a message shows it: what cannot be printed is escaped."""
    return str(path) if str(path).isprintable() else repr(str(path))


@lru_cache(maxsize=4096)
def _probe(path: Path, size: int, modified: int) -> VideoInfo:
    del modified  # part of the cache's key only
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
                raise MediaError(f"{path} has no video stream (streams: {kinds}).")
            stream = container.streams.video[0]
            context = stream.codec_context
            if context is None:
                raise MediaError(f"{path} is encoded in a way that FFmpeg does not know.")
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


def sample_frames(info: VideoInfo, policy: FramePolicy) -> FrameSample:
    """Choose the frames of a video that the model is to see.

    Raises:
        MediaError: If the video is shorter than asked and `short_video` is `error`.
    """
    total = info.num_frames
    if policy.fps is None:
        wanted = policy.max_frames
        indices = np.linspace(0, total - 1, wanted, dtype=int)
    else:
        step = max(1, round(info.average_fps / policy.fps))
        indices = np.arange(0, total, step)
        wanted = len(indices)
        if wanted > policy.max_frames:
            wanted = policy.max_frames
            indices = np.linspace(0, total - 1, wanted, dtype=int)
    if wanted > total and policy.short_video != "repeat":
        if policy.short_video == "error":
            raise MediaError(
                f"{info.path} has {total} frames, but max_frames_num={policy.max_frames} were "
                "asked for. Lower it, or set short_video=repeat or short_video=each_once."
            )
        indices = np.arange(total)
    chosen = tuple(int(index) for index in indices)
    return FrameSample(
        indices=chosen,
        timestamps_seconds=tuple(round(float(info.presentation_seconds[i]), 3) for i in chosen),
        num_frames_asked=wanted,
        num_frames_total=total,
    )


def one_per_second(info: VideoInfo) -> range:
    """The frames of a V-NIAH haystack: every round(average fps)-th, from the first.

    Source: LongVA repository, commit f4c8781, vision_niah (haystack preparation).
    """
    return range(0, info.num_frames, max(1, round(info.average_fps)))


def read_frames(
    info: VideoInfo, indices: Sequence[int], *, backend: DecodeBackend = "auto"
) -> Iterator[Frames]:
    """Decode frames in blocks of at most 32.

    Args:
        info: From `probe_video`.
        indices: Frames wanted, ascending; repeats are decoded once each.
        backend: `auto` is the fastest that is right for the file: torchcodec where it is installed
            and can be used, else decord; PyAV for files that both get wrong.

    Yields:
        (num_frames, height, width, 3), uint8 RGB, in the order of `indices`.

    Raises:
        MediaError: If a frame cannot be decoded, or the decoder disagrees about their number.
        SettingsError: If the backend is unknown or not installed.
    """
    if list(indices) != sorted(indices):
        raise SettingsError("Frame indices must ascend.")
    if indices and not 0 <= indices[0] <= indices[-1] < info.num_frames:
        raise SettingsError(
            f"Frames {indices[0]} to {indices[-1]} were asked of {info.path}, which has "
            f"{info.num_frames}."
        )
    if backend == "auto":
        yield from _read_auto(info, list(indices))
        return
    if backend not in _BACKENDS:
        raise SettingsError(
            f"video_decode_backend={backend!r} is unknown; use auto, {', '.join(_BACKENDS)}."
        )
    if backend == "decord" and not _decord_is_right(info):
        raise MediaError(
            f"decord returns other frames than asked for {info.path}: it has an edit list, open "
            "GOPs, several video streams or no index. Use video_decode_backend=auto."
        )
    yield from _read_checked(info, list(indices), _BACKENDS[backend])


def _read_checked(
    info: VideoInfo, indices: list[int], read: Callable[[VideoInfo, list[int]], Iterator[Frames]]
) -> Iterator[Frames]:
    produced = 0
    for block in read(info, indices):
        produced += len(block)
        yield block
    if produced != len(indices):
        raise MediaError(f"{info.path} gave {produced} of the {len(indices)} frames asked for.")


def _read_auto(info: VideoInfo, indices: list[int]) -> Iterator[Frames]:
    """The fastest decoder that is right for this file; PyAV for what it leaves undone."""
    if info.needs_sequential_read:
        fast = None
    elif info.is_plain_8_bit and _has_torchcodec():
        fast = _read_with_torchcodec
    else:
        fast = _read_with_decord if _decord_is_right(info) else None
    produced = 0
    if fast is not None:
        try:
            for block in fast(info, indices):
                produced += len(block)
                yield block
        except MediaError:
            pass  # AV1 and turned videos in decord, last frames of open GOPs in torchcodec
        if produced == len(indices):
            return
    for block in _read_checked(info, indices[produced:], _read_with_pyav):
        yield block


def _decord_is_right(info: VideoInfo) -> bool:
    return info.is_plainly_ordered and not info.needs_sequential_read


@lru_cache(maxsize=1)
def _has_torchcodec() -> bool:
    """Whether torchcodec is installed and finds its FFmpeg libraries."""
    try:
        _import_torchcodec()
    except SettingsError:
        return False
    return True


def _import_torchcodec() -> Any:
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder

        # It imports without FFmpeg too, and then fails at every file.
        if torchcodec.ffmpeg_major_version is None:
            raise ImportError("no FFmpeg library was found")
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise SettingsError(
            "torchcodec cannot be used: it is not installed (pip install torchcodec) or finds no "
            f"FFmpeg libraries (apt-get install ffmpeg). {_first_line(error)}"
        ) from error
    return VideoDecoder


def _check_count(info: VideoInfo, count: int, decoder: str) -> None:
    if count != info.num_frames:
        raise MediaError(
            f"{info.path}: {decoder} finds {count} frames, the container holds "
            f"{info.num_frames}. Try video_decode_backend=pyav, or remux the file: "
            "ffmpeg -i IN -c copy OUT.mp4"
        )


def _blocks(indices: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(indices), _BLOCK_FRAMES):
        yield indices[start : start + _BLOCK_FRAMES]


def _read_with_decord(info: VideoInfo, indices: list[int]) -> Iterator[Frames]:
    try:
        import decord
    except ImportError as error:
        raise SettingsError("decord is not installed: pip install decord") from error
    try:
        # One thread: decord's own threads cost processor time here and leak memory in long runs.
        reader = decord.VideoReader(str(info.path), ctx=decord.cpu(0), num_threads=1)
        _check_count(info, len(reader), "decord")
        for block in _blocks(indices):
            yield reader.get_batch(block).asnumpy()
    except decord.DECORDError as error:
        raise MediaError(f"{info.path} cannot be decoded: {_first_line(error)}") from error


def _read_with_torchcodec(info: VideoInfo, indices: list[int]) -> Iterator[Frames]:
    decoder_type = _import_torchcodec()
    # The approximate mode finds a frame by its time, without a pass over all packets (0.2 s for an
    # hour of video). That is exact for evenly timed files only, and checked for each frame.
    mode = "approximate" if info.is_evenly_timed else "exact"
    try:
        decoder = decoder_type(
            str(info.path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=mode
        )
        _check_count(info, len(decoder), "torchcodec")
        for block in _blocks(indices):
            batch = decoder.get_frames_at(block)
            if info.is_evenly_timed:
                late = batch.pts_seconds.numpy() - info.presentation_seconds[block]
                if np.abs(late).max() > 0.5 / info.average_fps:
                    raise MediaError(f"{info.path}: torchcodec found other frames than asked for.")
            yield batch.data.numpy()
    except (RuntimeError, ValueError, IndexError) as error:
        raise MediaError(f"{info.path} cannot be decoded: {_first_line(error)}") from error


def _read_with_pyav(info: VideoInfo, indices: list[int]) -> Iterator[Frames]:
    """One pass from the start: slow, and right where seeking is not."""
    wanted = Counter(indices)
    block: list[npt.NDArray[np.uint8]] = []
    position = 0
    try:
        with av.open(str(info.path)) as container:
            stream = container.streams.video[0]
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts < 0:
                    continue
                if position in wanted:
                    picture = _to_rgb(frame)
                    if block and picture.shape != block[0].shape:
                        raise MediaError(
                            f"{info.path} changes its picture size at frame {position}, from "
                            f"{block[0].shape[1::-1]} to {picture.shape[1::-1]}. Re-encode it."
                        )
                    for _ in range(wanted[position]):
                        block.append(picture)
                        if len(block) == _BLOCK_FRAMES:
                            yield np.stack(block)
                            block = []
                position += 1
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{info.path} cannot be decoded: {error}") from error
    _check_count(info, position, "PyAV")
    if block:
        yield np.stack(block)


def _to_rgb(frame: Any) -> npt.NDArray[np.uint8]:
    """RGB as decord gives it, rotated as the file asks.

    PyAV's own conversion ignores the tagged matrix unless source and destination differ.
    """
    # Numbers of swscale's matrices: 1 BT.709, 5 BT.601, 7 SMPTE 240M, 9 BT.2020.
    matrix = {1: 1, 7: 7, 9: 9}.get(int(frame.colorspace), 5)
    picture = frame.reformat(
        format="rgb24",
        src_colorspace=matrix,
        dst_colorspace=1 if matrix == 5 else 5,
        src_color_range=frame.color_range,
    ).to_ndarray()
    turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    rotated: npt.NDArray[np.uint8] = np.rot90(picture, turns)
    return rotated


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


_BACKENDS: dict[str, Callable[[VideoInfo, list[int]], Iterator[Frames]]] = {
    "decord": _read_with_decord,
    "torchcodec": _read_with_torchcodec,
    "pyav": _read_with_pyav,
}
