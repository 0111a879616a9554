"""Which frames of a video, and their pixels.

The original's rule is `np.linspace(0, total - 1, n, dtype=int)`; another is one frame per interval
with a cap. A file is looked at before anything is decoded (`probe_video`): its packets are
counted, compared with what its header promises, and tell which decoder may be trusted with it.
On ordinary files decord, torchcodec and PyAV give the same bytes. decord returns *wrong frames
without a word* for MPEG-TS and for files with an edit list, so `auto` reads those in one pass
with PyAV instead.

Imports no torch: the process that decodes (`longva_eval.decode_worker`) starts in a moment.

A file that cannot be read, has no video, or holds fewer frames than it says is a `MediaError`
that names it. Nothing is ever asked about a video that was not seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

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
    """Whether only one pass from the start gives the right frames (edit list, MPEG-TS)."""
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
    path = Path(path)
    try:
        stat = path.stat()
    except OSError as error:
        raise MediaError(f"The video {path} cannot be opened: {error.strerror}.") from error
    if path.is_dir():
        raise MediaError(f"The video {path} is a folder.")
    if stat.st_size == 0:
        raise MediaError(f"The video {path} is empty (0 bytes).")
    return _probe(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _probe(path: Path, size: int, modified: int) -> VideoInfo:
    del modified  # part of the cache's key only
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
                raise MediaError(f"{path} has no video stream (streams: {kinds}).")
            stream = container.streams.video[0]
            times: list[int] = []
            last_end, hidden, undated = 0, 0, 0
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                if packet.is_discard or (packet.pts is not None and packet.pts < 0):
                    hidden += 1
                elif packet.pts is None:
                    undated += 1
                else:
                    times.append(packet.pts)
                    last_end = max(last_end, packet.pts + (packet.duration or 0))
            announced = stream.frames
            rate = stream.average_rate or stream.base_rate or Fraction(0)
            base = stream.time_base or Fraction(1, 1)
            start = stream.start_time or 0
            promised = stream.duration
            formats = container.format.name
            codec = stream.codec_context.name
            width, height = stream.codec_context.width, stream.codec_context.height
    except MediaError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"{path} cannot be read as a video: {error}. "
            "If it is a partial download, fetch it again."
        ) from error
    count = len(times) + undated
    if count == 0 or rate <= 0:
        raise MediaError(f"{path} has a video stream without frames.")
    if announced > count + hidden:
        raise MediaError(
            f"{path} is cut off: its header promises {announced} frames, the file holds "
            f"{count + hidden}. Fetch it again."
        )
    if promised and undated == 0:
        missing = float((promised - (last_end - start)) * base)
        if missing > max(_SHORTFALL_SECONDS, 0.02 * float(promised * base)):
            raise MediaError(
                f"{path} is cut off: its header promises {float(promised * base):.1f} s of video, "
                f"the last frame ends {missing:.1f} s earlier. Fetch it again."
            )
    if undated:
        shown = np.arange(count) / float(rate)
    else:
        shown = np.sort(np.asarray(times, dtype=np.float64)) * float(base)
        shown -= shown[0]
    return VideoInfo(
        path=path,
        num_frames=count,
        average_fps=float(rate),
        width_pixels=width,
        height_pixels=height,
        codec=codec,
        container=formats,
        digest=file_digest(path, size),
        needs_sequential_read=hidden > 0 or "mpegts" in formats,
        presentation_seconds=shown,
    )


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
        if info.needs_sequential_read:
            backend = "pyav"
        else:
            backend = "torchcodec" if _has_torchcodec() else "decord"
    if backend not in _BACKENDS:
        raise SettingsError(
            f"video_decode_backend={backend!r} is unknown; use auto, {', '.join(_BACKENDS)}."
        )
    if backend == "decord" and info.needs_sequential_read:
        raise MediaError(
            f"decord returns other frames than asked for {info.path} (edit list or MPEG-TS). "
            "Use video_decode_backend=auto."
        )
    produced = 0
    for block in _BACKENDS[backend](info, list(indices)):
        produced += len(block)
        yield block
    if produced != len(indices):
        raise MediaError(f"{info.path} gave {produced} of the {len(indices)} frames asked for.")


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
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
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
    try:
        # Exact seeking: the approximate mode returns neighbouring frames on some files.
        decoder = decoder_type(
            str(info.path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
        _check_count(info, len(decoder), "torchcodec")
        for block in _blocks(indices):
            yield decoder.get_frames_at(block).data.numpy()
    except (RuntimeError, ValueError, IndexError) as error:
        raise MediaError(f"{info.path} cannot be decoded: {_first_line(error)}") from error


def _read_with_pyav(info: VideoInfo, indices: list[int]) -> Iterator[Frames]:
    """One pass from the start: slow, and right where seeking is not."""
    wanted = {index: indices.count(index) for index in set(indices)}
    block: list[npt.NDArray[np.uint8]] = []
    position = 0
    try:
        with av.open(str(info.path)) as container:
            stream = container.streams.video[0]
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts < 0:
                    continue
                for _ in range(wanted.get(position, 0)):
                    block.append(_to_rgb(frame))
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

    PyAV's own conversion ignores the BT.709 tag unless source and destination differ.
    """
    colorspace = {1: "ITU709", 9: "BT2020"}.get(int(frame.colorspace), "ITU601")
    picture = frame.reformat(
        format="rgb24",
        src_colorspace=colorspace,
        dst_colorspace="ITU601" if colorspace != "ITU601" else "ITU709",
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
