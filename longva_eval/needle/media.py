"""What a needle test is made of: needle pictures, a haystack of video frames, and their clips.

A haystack is one or several videos at one frame a second, one after the other. Nothing is decoded
until frames are asked for.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from longva_eval.engine.conversation import ClipPart, ComposedClip
from longva_eval.errors import MediaError, SettingsError
from longva_eval.media.decode import read_frames
from longva_eval.media.frames import one_per_second
from longva_eval.media.images import image_digest, open_image, pad_to_square
from longva_eval.media.probe import probe_video

__all__ = [
    "HUB_NEEDLES",
    "Haystack",
    "Needle",
    "clip_pictures",
    "load_needles",
    "needle_clip",
    "open_haystack",
    "write_clip",
]

HUB_NEEDLES = "lmms-lab/v_niah_needles"
"""The published needles: five pictures with questions."""


@dataclass(frozen=True, kw_only=True)
class Needle:
    """A picture to find, with a question that only it answers."""

    name: str
    """File name, or place in the dataset."""
    image: Image.Image
    """RGB."""
    question: str
    """Follows the frames directly; the published ones begin with a newline."""
    answer: str
    rotation: int = 0
    """By how many places its options are rotated (`needle_controls.circular_needles`)."""

    def describe(self) -> dict[str, str | int]:
        described: dict[str, str | int] = {
            "name": self.name,
            "image_sha256": image_digest(self.image),
            "question": self.question,
            "answer": self.answer,
        }
        return described | ({"rotation": self.rotation} if self.rotation else {})


@dataclass(frozen=True, kw_only=True)
class Haystack:
    """Frames of one or several videos, one a second, one after the other."""

    frames: tuple[tuple[Path, int], ...]
    """File and frame index of each."""
    sources: tuple[dict[str, Any], ...]
    """For each video: file, digest, and how many frames it gives."""

    def describe(self) -> list[dict[str, Any]]:
        """The videos, for the record."""
        return list(self.sources)

    def check_length(self, num_frames: int) -> None:
        """Make sure that there are so many frames.

        Raises:
            MediaError: If there are fewer.
        """
        if num_frames > len(self.frames):
            files = ", ".join(source["file"] for source in self.sources)
            raise MediaError(
                f"The haystack ({files}) has {len(self.frames)} frames at one a second; "
                f"{num_frames} are asked for. Add videos to the haystack or lower the frame counts."
            )


def load_needles(source: str | Path) -> list[Needle]:
    """Needles from a folder with `dataset.json`, or from the hub.

    `dataset.json` is a list of `{"path", "prompt", "answer"}`, paths relative to it.

    Raises:
        MediaError: If the folder, the list, a picture or a field is missing or wrong; all
            problems of a folder are reported together.
    """
    if str(source) == HUB_NEEDLES:
        return _needles_from_hub()
    folder = Path(source).expanduser()
    listing = folder / "dataset.json"
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MediaError(
            f"{listing} does not exist. A needle folder holds pictures and a dataset.json: "
            '[{"path": "cat.png", "prompt": "\\nWhat animal ...?", "answer": "Cat"}, ...]; '
            f"or use --needles {HUB_NEEDLES}."
        ) from error
    except OSError as error:
        raise MediaError(
            f"{listing} cannot be read: {error}. --needles is a folder with pictures and a "
            f"dataset.json, or {HUB_NEEDLES}."
        ) from error
    except (ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits, too
        raise MediaError(f"{listing} is not valid JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise MediaError(f"{listing} must hold a list of needles, one at least.")
    needles: list[Needle] = []
    problems: list[str] = []
    for number, entry in enumerate(entries):
        try:
            needles.append(_read_needle(entry, folder))
        except MediaError as error:
            problems.append(f"  needle {number}: {error}")
    if problems:
        raise MediaError(f"{listing} cannot be used:\n" + "\n".join(problems))
    return needles


def _read_needle(entry: Any, folder: Path) -> Needle:
    if not isinstance(entry, dict):
        raise MediaError(f"it is {type(entry).__name__}, not an object.")
    values = {key: entry.get(key) for key in ("path", "prompt", "answer")}
    wrong = [key for key, value in values.items() if not _is_text(value)]
    if wrong:
        raise MediaError(f"{', '.join(wrong)} must be text that is not empty.")
    path = folder / str(values["path"])
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte, a loop of links
        raise MediaError(f"its path {values['path']!r} is none: {error}") from error
    if not is_inside:
        raise MediaError(f"its path {values['path']!r} leads out of the folder.")
    return Needle(
        name=str(values["path"]),
        image=open_image(path),
        question=str(values["prompt"]),
        answer=str(values["answer"]),
    )


def _is_text(value: object) -> bool:
    """Whether this is a text with more than blanks, and without halves of characters."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _needles_from_hub() -> list[Needle]:
    from datasets import load_dataset

    try:
        rows = load_dataset(HUB_NEEDLES, split="test")
    except Exception as error:  # datasets raises many types for a missing network
        raise MediaError(
            f"The needles {HUB_NEEDLES} could not be loaded ({type(error).__name__}: {error}). "
            "Without a network, pass a folder with dataset.json and its pictures as --needles."
        ) from error
    return [
        Needle(
            name=str(number),
            image=open_image(row["image"]),
            question=row["question"],
            answer=row["answer"],
        )
        for number, row in enumerate(rows)
    ]


def open_haystack(videos: Sequence[str | Path]) -> Haystack:
    """The frames of the videos at one a second, one video after the other; nothing is decoded.

    Raises:
        MediaError: If a video cannot be read.
    """
    if not videos:
        raise SettingsError("A haystack needs at least one video.")
    frames: list[tuple[Path, int]] = []
    sources: list[dict[str, Any]] = []
    for path in videos:
        info = probe_video(path)
        indices = one_per_second(info)
        frames.extend((info.path, index) for index in indices)
        sources.append(
            {
                "file": info.path.name,
                "digest": info.digest,
                "num_frames_used": len(indices),
                "num_frames_total": info.num_frames,
                "average_fps": info.average_fps,
            }
        )
    return Haystack(frames=tuple(frames), sources=tuple(sources))


def needle_clip(
    haystack: Haystack, needle: Image.Image | None, *, num_frames: int, insert_index: int = 0
) -> ComposedClip:
    """The video of one cell: haystack frames, with the needle before frame `insert_index`.

    Raises:
        MediaError: If the haystack has fewer frames.
        SettingsError: If `insert_index` is not one of 0 to `num_frames`.
    """
    haystack.check_length(num_frames)
    if not 0 <= insert_index <= num_frames:
        raise SettingsError(
            f"insert_index={insert_index} must lie between 0 and num_frames={num_frames}."
        )
    frames = haystack.frames[:num_frames]
    if needle is None:
        parts = _runs_of_files(frames)
    else:
        parts = (
            *_runs_of_files(frames[:insert_index]),
            needle,
            *_runs_of_files(frames[insert_index:]),
        )
    return ComposedClip(parts=parts, aspect="pad")


def _runs_of_files(frames: Sequence[tuple[Path, int]]) -> tuple[ClipPart, ...]:
    """Neighbouring frames of one file as one part."""
    return tuple(
        (path, tuple(index for _, index in run))
        for path, run in itertools.groupby(frames, key=lambda frame: frame[0])
    )


def clip_pictures(clip: ComposedClip) -> list[Image.Image]:
    """The frames of a clip as pictures, decoded now.

    Raises:
        MediaError: If a video cannot be read.
    """
    pictures: list[Image.Image] = []
    for part in clip.parts:
        if isinstance(part, Image.Image):
            pictures.append(part)
            continue
        path, indices = part
        for block in read_frames(probe_video(path), indices):
            pictures.extend(Image.fromarray(frame) for frame in block)
    return pictures


CLIP_FORMAT = 2
"""Raised when clips are written in another way, so that old ones are not taken for new ones."""


def write_clip(pictures: Sequence[Image.Image], path: Path) -> None:
    """Write pictures as an H.264 video of one frame a second, each filling a square of grey.

    The file appears complete or not at all.

    Raises:
        SettingsError: If there is no picture.
    """
    if not pictures:
        raise SettingsError(f"{path} needs at least one picture to be written.")
    side = max(max(picture.size) for picture in pictures)
    side += side % 2  # 4:2:0 needs even sides
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part.mp4")
    try:
        with av.open(str(partial), "w") as container:
            stream = container.add_stream("libx264", rate=1)
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "12", "preset": "veryfast"}
            for picture in pictures:
                # A small needle must not shrink to a dot beside large frames.
                square = pad_to_square(picture, (0.5, 0.5, 0.5)).resize((side, side))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(square))))
            container.mux(stream.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
