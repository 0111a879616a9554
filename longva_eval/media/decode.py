"""The pixels of frames: three decoders, and which of them is right for which file.

On ordinary files decord, torchcodec and PyAV give the same bytes. On others they do not, and decord
does not say so: it returns *wrong frames without a word* for MPEG-TS, AVI, edit lists, open GOPs
(x265's default) and MPEG-4 with B-frames. torchcodec rounds colours otherwise where sizes are odd
or samples have more than 8 bits. `auto` uses each only where it is right, and PyAV, in one pass
from the start, everywhere else (`tests/media/test_video.py` has one file of every kind).

Imports no torch: the process that decodes (`longva_eval.media.decode_worker`) starts in a moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt

from longva_eval.errors import MediaError, SettingsError
from longva_eval.media.probe import VideoInfo

__all__ = ["DecodeBackend", "Frames", "read_frames"]

Frames = npt.NDArray[np.uint8]
"""(num_frames, height, width, 3), uint8 RGB."""
DecodeBackend = Literal["auto", "decord", "torchcodec", "pyav"]
_BLOCK_FRAMES = 32
_BLOCK_BYTES = 256 << 20
"""Of larger frames (beyond 1080p) fewer are in a block."""


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


def _block_frames(info: VideoInfo) -> int:
    frame_bytes = 3 * info.width_pixels * info.height_pixels
    return min(_BLOCK_FRAMES, max(1, _BLOCK_BYTES // max(1, frame_bytes)))


def _blocks(info: VideoInfo, indices: list[int]) -> Iterator[list[int]]:
    size = _block_frames(info)
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _read_with_decord(info: VideoInfo, indices: list[int]) -> Iterator[Frames]:
    try:
        import decord
    except ImportError as error:
        raise SettingsError("decord is not installed: pip install decord") from error
    try:
        # One thread: decord's own threads cost processor time here and leak memory in long runs.
        reader = decord.VideoReader(str(info.path), ctx=decord.cpu(0), num_threads=1)
        _check_count(info, len(reader), "decord")
        for block in _blocks(info, indices):
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
        for block in _blocks(info, indices):
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
    position, size = 0, _block_frames(info)
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
                        if len(block) == size:
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
