"""The pixels of frames.

The packets of a file are known (`longva_eval.media.packets`), and with them which of them have to
be decoded for the frames that are wanted; PyAV decodes these in one pass, parts that need nothing
of each other side by side on the cores that the process has. That gives what the `ffmpeg` command
shows, in every container.

decord and torchcodec may be asked for by name. On ordinary files they give the same bytes. On
others they do not, and do not say so: wrong frames for MPEG-TS, AVI, edit lists, open GOPs (x265's
default) and MPEG-4 with B-frames, other colours where sizes are odd or samples have more than 8
bits (the `ffmpeg` command scales them by `bicubic`, as is done here). They are refused where that
is known (`tests/media/test_video.py` has one file of every kind).

Imports no torch: the process that decodes (`longva_eval.media.decode_worker`) starts in a moment.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt

from longva_eval.errors import MediaError, SettingsError
from longva_eval.media.ahead import Ahead
from longva_eval.media.files import check_unchanged, printable
from longva_eval.media.packets import decode_row, decoder_of, needed_rows, open_video
from longva_eval.media.probe import DisplayMatrix, VideoInfo, display_matrix, probe_video

__all__ = ["DecodeBackend", "Frames", "one_row_at_a_time", "own_cores", "read_frames"]

Frames = npt.NDArray[np.uint8]
"""(num_frames, height, width, 3), uint8 RGB."""
DecodeBackend = Literal["auto", "decord", "torchcodec", "pyav"]
_BLOCK_FRAMES = 32
_BLOCK_BYTES = 32 << 20
"""Of larger frames (beyond 640 x 480) fewer are in a block."""
_most_threads = 8
_LONGEST_ROW = 1000
"""Packets. Rows that are decoded side by side are held in memory."""
_WAITING_BYTES = 16 << 20
"""For each thread, of pictures that wait for their turn."""


def read_frames(
    info: VideoInfo, indices: Sequence[int], *, backend: DecodeBackend = "auto"
) -> Iterator[Frames]:
    """Decode frames in blocks of at most 32.

    Args:
        info: From `probe_video`.
        indices: Frames wanted, ascending; repeats are decoded once each.
        backend: `auto` is PyAV, which is right for every file.

    Yields:
        (num_frames, height, width, 3), uint8 RGB, in the order of `indices`.

    Raises:
        MediaError: If a frame cannot be decoded, the decoder disagrees about their number, or the
            file is not the one that was looked at.
        SettingsError: If the backend is unknown or not installed.
    """
    if list(indices) != sorted(indices):
        raise SettingsError("Frame indices must ascend.")
    if indices and not 0 <= indices[0] <= indices[-1] < info.num_frames:
        raise SettingsError(
            f"Frames {indices[0]} to {indices[-1]} were asked of {info.path}, which has "
            f"{info.num_frames}."
        )
    if backend not in _BACKENDS:
        raise SettingsError(
            f"video_decode_backend={backend!r} is unknown; use {', '.join(_BACKENDS)}."
        )
    if backend in ("decord", "torchcodec") and not info.decord_is_right:
        raise MediaError(
            f"{backend} returns other frames than asked for {info.path}: it has an edit list, open "
            "GOPs, several video streams, no index, an odd size, more than 8 bits, or is turned. "
            "Use video_decode_backend=auto."
        )
    if info.identity is not None:
        check_unchanged(info.path, info.identity)
    produced = 0
    for block in _BACKENDS[backend](info, list(indices)):
        produced += len(block)
        if info.identity is not None:
            check_unchanged(info.path, info.identity)
        yield block
    if produced != len(indices):
        raise MediaError(f"{info.path} gave {produced} of the {len(indices)} frames asked for.")


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
    try:
        decoder = decoder_type(str(info.path), dimension_order="NHWC", num_ffmpeg_threads=1)
        _check_count(info, len(decoder), "torchcodec")
        clock = decoder.get_frame_at(0).pts_seconds - info.presentation_seconds[0]
        for block in _blocks(info, indices):
            batch = decoder.get_frames_at(block)
            late = batch.pts_seconds.numpy() - clock - info.presentation_seconds[block]
            if np.abs(late).max() > 0.5 / info.average_fps:
                raise MediaError(f"{info.path}: torchcodec found other frames than asked for.")
            yield batch.data.numpy()
    except (RuntimeError, ValueError, IndexError) as error:
        raise MediaError(f"{info.path} cannot be decoded: {_first_line(error)}") from error


def _read_with_pyav(info: VideoInfo, indices: list[int]) -> Iterator[Frames]:
    """One pass over the packets, of which those are decoded that the frames need."""
    looked = info if info.packets is not None else probe_video(info.path)
    index, identity = looked.packets, looked.identity
    assert index is not None
    assert identity is not None
    if len(index.shown) != info.num_frames:
        raise MediaError(f"{printable(info.path)} has changed since it was looked at.")
    counts = Counter(indices)
    order = deque(sorted(counts))
    rows = index.rows(order)
    awaited = {int(index.shown[i]): i for i in order}
    # A packet without a frame of its own may be the second field of one that is wanted.
    others = np.setdiff1d(np.arange(index.num_packets), index.shown)
    targets = frozenset(awaited)
    wanted = targets.union(others.tolist())
    pictures: dict[int, npt.NDArray[np.uint8]] = {}
    size, given, filled = _block_frames(info), 0, 0
    block: Frames | None = None
    shape = None
    try:
        with contextlib.ExitStack() as stack:
            lengths = np.unique(rows[rows >= 0], return_counts=True)[1]
            threads = min(_most_threads, own_cores(), len(lengths))
            if not len(lengths) or lengths.max() > _LONGEST_ROW:
                threads = 1
            opened = [stack.enter_context(open_video(info.path, identity)) for _ in range(threads)]
            streams = [container.streams[info.stream_index] for container in opened]
            decoders = [decoder_of(stream) for stream in streams]
            for decoder in decoders[1:] and decoders:  # FFmpeg's own threads would come on top
                decoder.thread_count = 1
            found = _decoded(
                needed_rows(opened[0], streams[0], rows),
                decoders,
                lambda decoder, row: (
                    (number, _to_rgb(frame, display_matrix(frame) or info.display_matrix))
                    for number, frame in decode_row(decoder, row, wanted)
                    if number in targets
                ),
            )
            for number, picture in stack.enter_context(contextlib.closing(found)):
                shape = shape or picture.shape
                if picture.shape != shape:
                    raise MediaError(
                        f"{info.path} changes its picture size at frame {awaited[number]}, from "
                        f"{shape[1::-1]} to {picture.shape[1::-1]}. Re-encode it."
                    )
                pictures[awaited.pop(number)] = picture
                while order and order[0] in pictures:
                    picture = pictures.pop(order[0])
                    for _ in range(counts[order.popleft()]):
                        if block is None:
                            block = np.empty((min(size, len(indices) - given), *shape), np.uint8)
                        block[filled] = picture
                        filled += 1
                        if filled == len(block):
                            given += filled
                            yield block
                            block, filled = None, 0
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{info.path} cannot be decoded: {error}") from error
    if order:
        raise MediaError(
            f"{info.path} cannot be decoded: its decoder leaves out frame {order[0]}. Re-encode "
            "it: ffmpeg -i IN OUT.mp4"
        )


def _decoded(
    rows: Iterable[Iterable[Any]],
    decoders: Sequence[Any],
    decode: Callable[[Any, Iterable[Any]], Iterator[tuple[int, npt.NDArray[np.uint8]]]],
) -> Generator[tuple[int, npt.NDArray[np.uint8]], None, None]:
    """What `decode` gives for each row, in order; several rows at once if there are decoders."""
    if len(decoders) == 1:
        for row in rows:
            yield from decode(decoders[0], row)
        return
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for decoder in decoders:
        free.put(decoder)

    def work(row: list[Any]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        decoder = free.get()
        try:
            yield from decode(decoder, row)
        finally:
            free.put(decoder)

    ahead = Ahead(
        map(list, rows),
        work,
        threads=len(decoders),
        room=len(decoders) * _WAITING_BYTES,
        size=lambda found: found[1].nbytes,
        name="decode",
    )
    try:
        while (given := ahead.next()) is not None:
            if given.error is not None:
                raise given.error
            if given.result is not None:
                yield given.result
    finally:
        ahead.stop()


@contextlib.contextmanager
def one_row_at_a_time() -> Iterator[None]:
    """Within it nothing is decoded side by side: what comes first is no matter of luck."""
    global _most_threads
    before, _most_threads = _most_threads, 1
    try:
        yield
    finally:
        _most_threads = before


def own_cores() -> int:
    """Cores that this process may use, where others of the same run share a machine with it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def _to_rgb(frame: Any, matrix: DisplayMatrix | None) -> npt.NDArray[np.uint8]:
    """RGB as the `ffmpeg` command gives it, turned and mirrored as the file asks.

    PyAV's own conversion ignores the tagged matrix unless source and destination differ, and knows
    no matrix for samples that are RGB already.
    """
    turn = _turn(matrix)
    if turn == 1 or math.isnan(turn):  # FFmpeg turns by more than that, and mirrors at less
        matrix, turn = None, 0.0
    if turn not in (0.0, 90.0, 180.0, 270.0):
        frame = _rotated(frame, turn)
    # Numbers of swscale's matrices: 1 BT.709, 4 FCC, 5 BT.601, 7 SMPTE 240M, 9 BT.2020.
    colours = {1: 1, 4: 4, 7: 7, 9: 9}.get(int(frame.colorspace), 5)
    matrices = {"src_colorspace": colours, "dst_colorspace": 1 if colours == 5 else 5}
    picture: npt.NDArray[np.uint8] = frame.reformat(
        format="rgb24",
        interpolation="BICUBIC",
        src_color_range=frame.color_range,
        **({} if frame.format.is_rgb else matrices),
    ).to_ndarray()
    return picture if matrix is None else _upright(picture, matrix, turn)


def _turn(matrix: DisplayMatrix | None) -> float:
    """By how many degrees clockwise a picture is turned for display, in [0, 360).

    Within one degree of a right angle it is that one, and within one degree of 0 nothing. NaN for
    a matrix that shows nothing.

    Source: FFmpeg, fftools/cmdutils.c (get_rotation) and libavutil/display.c.
    """
    if matrix is None:
        return 0.0
    a, b, _, c, d, *_ = (number / (1 << 16) for number in matrix)
    scale_x, scale_y = math.hypot(a, c), math.hypot(b, d)
    if not (scale_x and scale_y):
        return math.nan
    turn = float(round(math.degrees(math.atan2(b / scale_y, a / scale_x)))) % 360
    for right in (0.0, 90.0, 180.0, 270.0, 360.0):
        if abs(turn - right) < 1.0:
            return right % 360
    return turn


def _upright(
    picture: npt.NDArray[np.uint8], matrix: DisplayMatrix, turn: float
) -> npt.NDArray[np.uint8]:
    """A stored picture as it is displayed.

    Source: FFmpeg, fftools/ffmpeg_filter.c (configure_input_video_filter).
    """
    if turn == 90:
        return picture.transpose(1, 0, 2) if matrix[3] > 0 else np.rot90(picture, -1)
    if turn == 270:
        flipped = picture[::-1, ::-1].transpose(1, 0, 2)
        return flipped if matrix[3] < 0 else np.rot90(picture)
    if turn == 180:
        picture = picture[:, ::-1] if matrix[0] < 0 else picture
        return picture[::-1] if matrix[4] < 0 else picture
    return picture[::-1] if turn == 0 and matrix[4] < 0 else picture


def _rotated(frame: Any, degrees: float) -> Any:
    """A picture turned by an odd angle, in a frame of its size, as FFmpeg's `rotate` does."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    turn = graph.add("rotate", f"{degrees:f}*PI/180")
    sink = graph.add("buffersink")
    source.link_to(turn)
    turn.link_to(sink)
    graph.configure()
    graph.push(frame)
    turned: Any = graph.pull()
    turned.colorspace, turned.color_range = frame.colorspace, frame.color_range
    return turned


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


_BACKENDS: dict[str, Callable[[VideoInfo, list[int]], Iterator[Frames]]] = {
    "auto": _read_with_pyav,
    "decord": _read_with_decord,
    "torchcodec": _read_with_torchcodec,
    "pyav": _read_with_pyav,
}
