"""Film strips: small pictures of the frames that a model saw, read again from the media files.

A samples file says which frames were chosen, never what was in them. Here they are decoded once
more, at the recorded indices, and packed into one small picture a strip. A strip is made only of
what was surely seen: a file that is gone, has another number of frames than recorded, or another
digest, gives a reason in words in place of a picture. No torch.

All strips together stay below a number of bytes: each has an equal share, and is packed in the
first of a few fixed sizes that its share holds.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from longva_eval.errors import MediaError
from longva_eval.media.decode_worker import DecodeWorkers
from longva_eval.media.files import image_digest
from longva_eval.media.frames import one_per_second
from longva_eval.media.probe import VideoInfo
from longva_eval.running.run_log import progress_bar

__all__ = [
    "MOST_FRAMES",
    "SeenFrame",
    "Strip",
    "StripPlan",
    "is_picture",
    "make_strips",
    "picture_file_digest",
    "plan_needle",
    "plan_pictures",
    "plan_videos",
    "strip_json",
]

MOST_FRAMES: Final = 16
"""Frames in a strip."""
_SIZES: Final = (
    (16, 240, 70), (16, 160, 62), (16, 96, 50), (12, 96, 40), (8, 96, 40), (4, 96, 35), (4, 64, 30),
)  # fmt: skip
"""Frames in a strip, longest side of each in pixels, and quality, from the best to the smallest."""
_LARGEST_SIDE: Final = _SIZES[0][1]
_LEAST_STRIP_BYTES: Final = 3_000
"""What a strip needs to show anything; with less, some questions get none."""
_FEWEST_BYTES_PER_PIXEL: Final = 0.015
"""Films take more, so that sizes far above a share need not be tried."""
_PICTURE_SUFFIXES: Final = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif"])
_SECONDS_PER_BLOCK: Final = 120.0


class SeenFrame(NamedTuple):
    """A frame of a video, or a picture."""

    path: Path
    number: int | None
    """Of the frame; None for a picture file."""


@dataclass(frozen=True, kw_only=True)
class StripPlan:
    """What a strip is to show, before anything is decoded."""

    frames: tuple[SeenFrame, ...]
    """Those that are drawn, at most `MOST_FRAMES`, in the order in which they were seen."""
    labels: tuple[str, ...]
    """A short text for each."""
    num_seen: int
    """Frames that the model saw; those drawn are chosen evenly among them."""
    needle: int | None = None
    """Place of the needle among the drawn frames."""
    expected: tuple[tuple[Path, int], ...] = ()
    """Files, and how many frames each must have to be the one that was seen."""

    def key(self) -> str:
        """Equal for strips that show the same."""
        parts = [f"{path}\0{index}\0" for path, index in self.frames]
        text = "".join([*parts, *self.labels, str(self.num_seen), str(self.needle)])
        return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()[:20]


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One picture with the frames side by side."""

    data: bytes
    """WebP."""
    labels: tuple[str, ...]
    needle: int | None
    num_seen: int
    frame_width_pixels: int
    frame_height_pixels: int


def strip_json(strip: Strip) -> dict[str, Any]:
    """A strip as the page's script reads it."""
    return {
        "mime": "image/webp",
        "labels": strip.labels,
        "needle": strip.needle,
        "seen": strip.num_seen,
        "width": strip.frame_width_pixels,
        "height": strip.frame_height_pixels,
        "data": base64.b64encode(strip.data).decode("ascii"),
    }


# What to show -------------------------------------------------------------------------------------


def plan_videos(files: Sequence[Path], videos: Sequence[Mapping[str, Any]]) -> StripPlan | str:
    """The strip of a question about one or several videos.

    Args:
        files: The videos, in the order of the prompt.
        videos: What the run recorded of each: `frame_indices`, `timestamps_seconds`,
            `num_frames_total`.

    Returns:
        The plan, or why there is none.
    """
    if len(files) != len(videos):
        return (
            f"The run recorded the frames of {len(videos)} videos, but the question names "
            f"{len(files)} files."
        )
    seen: list[tuple[SeenFrame, str]] = []
    expected = []
    for number, (file, video) in enumerate(zip(files, videos, strict=True), start=1):
        indices = video.get("frame_indices")
        if not isinstance(indices, Sequence) or not all(_is_index(index) for index in indices):
            return "The run did not record which frames the model saw."
        times = video.get("timestamps_seconds")
        timed = isinstance(times, Sequence) and len(times) == len(indices)
        total = video.get("num_frames_total")
        if isinstance(total, int):
            expected.append((file, total))
        which = f"video {number}, " if len(files) > 1 else ""
        for place, index in enumerate(indices):
            label = _clock(times[place]) if timed and times is not None else f"frame {index}"
            seen.append((SeenFrame(file, int(index)), which + label))
    return _plan(seen, expected=tuple(expected))


def plan_pictures(files: Sequence[Path]) -> StripPlan | str:
    """The strip of a question about pictures."""
    seen = [
        (SeenFrame(file, None), f"picture {number}" if len(files) > 1 else "picture")
        for number, file in enumerate(files, start=1)
    ]
    return _plan(seen)


def plan_needle(
    haystack: Sequence[VideoInfo],
    needle: Path | None,
    *,
    num_frames: int,
    insert_index: int,
    seen: Sequence[int] | None = None,
) -> StripPlan | str:
    """The strip of a needle cell: one frame a second, with the needle before `insert_index`.

    Args:
        haystack: Its videos, one after the other.
        needle: Its picture; None for a clean haystack.
        num_frames: Of the haystack.
        insert_index: Where the needle stands.
        seen: Places of the composed video that the model saw; all of them if left out.
    """
    composed: list[tuple[SeenFrame, str]] = []
    for info in haystack:
        composed += [(SeenFrame(info.path, index), "") for index in one_per_second(info)]
    if num_frames > len(composed):
        return (
            f"The haystack at hand has {len(composed)} frames at one a second, the run used "
            f"{num_frames}: it is another video."
        )
    composed = [(frame, f"frame {place}") for place, (frame, _) in enumerate(composed[:num_frames])]
    if needle is not None:
        composed.insert(insert_index, (SeenFrame(needle, None), "needle"))
    if seen is not None:
        if any(not 0 <= place < len(composed) for place in seen):
            return "The recorded frames do not fit the grid's clip."
        composed = [composed[place] for place in seen]
    place = next((n for n, (_, label) in enumerate(composed) if label == "needle"), None)
    return _plan(composed, keep=place)


def is_picture(path: str | Path) -> bool:
    """Whether a file is a picture, by its name."""
    return Path(path).suffix.lower() in _PICTURE_SUFFIXES


def picture_file_digest(path: Path) -> str:
    """Identity of a picture, as `longva_eval.media.files.image_digest` of `open_image` has it."""
    try:
        with Image.open(path) as opened:
            if opened.mode.startswith("I;16"):
                values = (np.asarray(opened) >> 8).astype(np.uint8)
                picture = Image.fromarray(values).convert("RGB")
            else:
                picture = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"The picture {path} cannot be read: {error}") from error
    return image_digest(picture)


def _plan(
    seen: Sequence[tuple[SeenFrame, str]],
    *,
    expected: tuple[tuple[Path, int], ...] = (),
    keep: int | None = None,
) -> StripPlan | str:
    if not seen:
        return "The model was shown no frame."
    places = _evenly(len(seen), MOST_FRAMES, keep)
    return StripPlan(
        frames=tuple(seen[place][0] for place in places),
        labels=tuple(seen[place][1] for place in places),
        num_seen=len(seen),
        needle=None if keep is None else places.index(keep),
        expected=expected,
    )


def _evenly(number: int, at_most: int, keep: int | None = None) -> list[int]:
    """Places spread evenly from first to last; `keep` takes the place of the one nearest to it."""
    if number <= at_most:
        return list(range(number))
    places = sorted({round(float(place)) for place in np.linspace(0, number - 1, at_most)})
    if keep is not None and keep not in places:
        nearest = min(range(len(places)), key=lambda n: abs(places[n] - keep))
        places[nearest] = keep
    return places


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _clock(seconds: Any) -> str:
    """`0:07`, `12:30`, `1:02:03`; tenths below ten seconds."""
    if not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        return ""
    if seconds < 10 and seconds != int(seconds):
        return f"0:0{seconds:.1f}" if seconds < 9.95 else "0:10"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# Their pixels -------------------------------------------------------------------------------------


def make_strips(
    plans: Sequence[StripPlan], *, budget_bytes: int, num_workers: int | None = None
) -> dict[str, Strip | str]:
    """Decode what the plans show, each file once, and pack it.

    Args:
        plans: Several may show the same.
        budget_bytes: For all strips together, as they are packed.
        num_workers: Files that are decoded at the same time, in a process each.

    Returns:
        By `StripPlan.key`: the strip, or why there is none.
    """
    unique = {plan.key(): plan for plan in plans}
    allowed = budget_bytes // _LEAST_STRIP_BYTES
    kept = set(_evenly(len(unique), allowed)) if allowed else set()
    left_out = (
        f"Left out to keep the page small: it has strips for {len(kept):,} of {len(unique):,}."
    )
    made: dict[str, Strip | str] = dict.fromkeys(unique, left_out)
    together: dict[frozenset[Path], list[str]] = {}
    for number, (key, plan) in enumerate(unique.items()):
        if number in kept:
            together.setdefault(frozenset(frame.path for frame in plan.frames), []).append(key)
    share = budget_bytes // max(1, len(kept))
    workers = DecodeWorkers(seconds_per_block=_SECONDS_PER_BLOCK)

    def strips_of(keys: Sequence[str]) -> dict[str, Strip | str]:
        """Of plans that show the same files."""
        wanted: dict[Path, set[int | None]] = {}
        for key in keys:
            for path, index in unique[key].frames:
                wanted.setdefault(path, set()).add(index)
        files = {path: _read(workers, path, indices) for path, indices in wanted.items()}
        return {key: _pack(unique[key], files, share) for key in keys}

    # A process costs a second to start: no more of them than there are jobs.
    number = min(num_workers or min(4, os.cpu_count() or 1), max(1, len(together)))
    try:
        with (
            ThreadPoolExecutor(number) as pool,
            progress_bar(len(kept), "Film strips", unit="strip") as bar,
        ):
            for job in as_completed([pool.submit(strips_of, keys) for keys in together.values()]):
                made |= job.result()
                bar.update(len(job.result()))
    finally:
        workers.close()
    return made


class _File(NamedTuple):
    """What was read of a file: small pictures by frame."""

    pictures: dict[int | None, Image.Image]
    num_frames: int


def _read(workers: DecodeWorkers, path: Path, indices: set[int | None]) -> _File | str:
    """Small pictures of a file's frames, or of the picture that it is; or what is wrong."""
    try:
        if indices == {None}:
            return _File({None: _open_small(path)}, 1)
        info = workers.probe_video(path)
        chosen = sorted(i for i in indices if i is not None and i < info.num_frames)
        frames = (frame for block in workers.read_frames(info, chosen) for frame in block)
        pictures = [_small(Image.fromarray(frame)) for frame in frames]
    except MediaError as error:
        return str(error)
    return _File(dict(zip(chosen, pictures, strict=True)), info.num_frames)


def _open_small(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (_LARGEST_SIDE * 2, _LARGEST_SIDE * 2))
            return _small(opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"The picture {path} cannot be read: {error}") from error


def _small(picture: Image.Image) -> Image.Image:
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.BICUBIC)
    return picture


def _pack(plan: StripPlan, files: Mapping[Path, _File | str], share: int) -> Strip | str:
    """A picture of a plan's frames in the first size that its share holds, or why there is none."""
    pictures = _pictures(plan, files)
    if isinstance(pictures, str):
        return pictures
    for most, side, quality in _SIZES:
        places = _evenly(len(pictures), most, plan.needle)
        if _FEWEST_BYTES_PER_PIXEL * len(places) * side**2 > share and side > _SIZES[-1][1]:
            continue
        strip = _encode(plan, pictures, places, side, quality)
        if len(strip.data) <= share:
            return strip
    return "Left out to keep the page small."


def _pictures(plan: StripPlan, files: Mapping[Path, _File | str]) -> list[Image.Image] | str:
    expected = dict(plan.expected)
    read: dict[Path, _File] = {}
    for path in dict.fromkeys(frame.path for frame in plan.frames):
        file = files[path]
        if isinstance(file, str):
            return file
        if file.num_frames != expected.get(path, file.num_frames):
            return (
                f"{path} has {file.num_frames:,} frames, the run saw one of {expected[path]:,}: it "
                "is not the same file any more."
            )
        read[path] = file
    pictures = []
    for path, index in plan.frames:
        picture = read[path].pictures.get(index)
        if picture is None:
            return (
                f"{path} has {read[path].num_frames:,} frames; the run saw frame {index}: it is "
                "not the same file any more."
            )
        pictures.append(picture)
    return pictures


def _encode(
    plan: StripPlan, pictures: Sequence[Image.Image], places: Sequence[int], side: int, quality: int
) -> Strip:
    # The shape of most frames; a needle of another shape is fitted in.
    width, height = statistics.mode(picture.size for picture in pictures)
    scale = min(1.0, side / max(width, height))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (width * len(places), height), (24, 26, 29))
    for column, place in enumerate(places):
        picture = pictures[place].copy()
        picture.thumbnail((width, height), Image.Resampling.BICUBIC)
        left = column * width + (width - picture.width) // 2
        sheet.paste(picture, (left, (height - picture.height) // 2))
    out = io.BytesIO()
    sheet.save(out, "WEBP", quality=quality, method=4)
    return Strip(
        data=out.getvalue(),
        labels=tuple(plan.labels[place] for place in places),
        needle=None if plan.needle is None else list(places).index(plan.needle),
        num_seen=plan.num_seen,
        frame_width_pixels=width,
        frame_height_pixels=height,
    )
