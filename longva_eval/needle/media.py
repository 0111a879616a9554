"""What a needle test is made of: items from files, a haystack of video frames, and their clips.

A haystack is one or several videos at one frame a second, one after the other. Nothing is decoded
until frames are asked for.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from longva_eval import embedded
from longva_eval.engine.conversation import ClipPart, ComposedClip
from longva_eval.errors import MediaError, SettingsError
from longva_eval.files import write_atomically
from longva_eval.media.decode_worker import shared_workers
from longva_eval.media.frames import one_per_second
from longva_eval.media.images import open_image, pad_to_square
from longva_eval.media.probe import probe_video
from longva_eval.needle.grid import Cell, arrange
from longva_eval.needle.items import OPTION, Item, Shown
from longva_eval.needle.scenes import caption_sentence, haystack_scenes

__all__ = [
    "HUB_NEEDLES",
    "Haystack",
    "check_captioned",
    "clip_pictures",
    "composed_clip",
    "load_needles",
    "open_haystack",
    "read_captions",
    "read_text",
    "twin_captions",
    "write_clip",
]

HUB_NEEDLES = "lmms-lab/v_niah_needles"
"""The published needles: five pictures with questions."""


@dataclass(frozen=True, kw_only=True)
class Haystack:
    """Frames of one or several videos, one a second, one after the other."""

    frames: tuple[tuple[Path, int], ...]
    """File and frame index of each."""
    sources: tuple[dict[str, Any], ...]
    """For each video: file, digest, and how many frames it gives."""
    side_pixels: int
    """The smaller side of its smallest video: the size for pictures that are drawn into it."""

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


def load_needles(source: str | Path) -> list[Item]:
    """Items of one needle each, from a folder with `dataset.json`, or from the hub.

    `dataset.json` is a list of `{"path", "prompt", "answer"}`, paths relative to it; `"caption"`
    says in words what the picture shows, `"object"` names it (for `longva_eval.needle.kinds.own`),
    `"choices"` lists all answers that are asked for, where these are a closed set.

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
    needles: list[Item] = []
    problems: list[str] = []
    for number, entry in enumerate(entries):
        try:
            needles.append(_read_needle(entry, folder))
        except MediaError as error:
            problems.append(f"  needle {number}: {error}")
    if problems:
        raise MediaError(f"{listing} cannot be used:\n" + "\n".join(problems))
    return needles


def _read_needle(entry: Any, folder: Path) -> Item:
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
    caption, named = entry.get("caption", ""), entry.get("object", "")
    choices = entry.get("choices", [])
    for key, text in (("caption", caption), ("object", named)):
        if not isinstance(text, str) or (text and not _is_text(text)):
            raise MediaError(f"{key} must be text.")
    if not isinstance(choices, list) or not all(map(_is_text, choices)):
        raise MediaError("choices must be a list of texts.")
    if choices and values["answer"] not in choices:
        raise MediaError(f"its answer {values['answer']!r} is none of its choices.")
    return _one_needle(
        str(values["path"]),
        open_image(path),
        str(values["prompt"]),
        str(values["answer"]),
        caption=caption,
        named=named,
        choices=choices,
    )


def _one_needle(
    name: str,
    image: Image.Image,
    question: str,
    answer: str,
    *,
    caption: str = "",
    named: str = "",
    choices: Sequence[str] = (),
) -> Item:
    letters = [letter for letter, _ in OPTION.findall(question)]
    return Item(
        name=name,
        needles=(Shown(picture=image, told=caption, object=named),),
        question=question,
        answer=answer,
        choices=tuple(choices) or (tuple(letters) if answer.strip() in letters else ()),
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


def _needles_from_hub() -> list[Item]:
    from datasets import load_dataset

    try:
        rows = load_dataset(HUB_NEEDLES, split="test")
    except Exception as error:  # datasets raises many types for a missing network
        raise MediaError(
            f"The needles {HUB_NEEDLES} could not be loaded ({type(error).__name__}: {error}). "
            "Without a network, pass a folder with dataset.json and its pictures as --needles."
        ) from error
    return [
        _one_needle(str(number), open_image(row["image"]), row["question"], row["answer"])
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
    sides: list[int] = []
    for path in videos:
        info = probe_video(path)
        sides.append(min(info.width_pixels, info.height_pixels))
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
    return Haystack(frames=tuple(frames), sources=tuple(sources), side_pixels=min(sides))


def read_captions(path: Path | None, *, num_frames: int) -> list[str]:
    """What each haystack frame shows, in words: for the text twin of a test.

    Args:
        path: Lines of JSON in the haystack's order, `{"caption": "A dog runs."}`, one a frame; None
            for the embedded haystack's.
        num_frames: How many are wanted.

    Raises:
        MediaError: If the file cannot be read, or has fewer.
    """
    if path is None:
        words = json.loads(embedded.CAPTIONS.read_text(encoding="utf-8"))["haystack"]
        return [" ".join(each) for each in words[:num_frames]]
    captions: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        for line in lines[:num_frames]:
            caption = json.loads(line)["caption"]
            if not _is_text(caption):
                raise ValueError("caption must be text that is not empty")
            captions.append(str(caption))
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MediaError(
            f"{path}, line {len(captions) + 1}, is no caption ({type(error).__name__}: {error}). "
            'A line reads {"caption": "A dog runs."}, one for each frame, one frame a second.'
        ) from error
    if len(captions) < num_frames:
        raise MediaError(f"{path} has {len(captions)} captions; {num_frames} frames are asked for.")
    return captions


def read_text(path: Path | None, *, num_frames: int) -> list[str]:
    """A text in place of the haystack, a sentence for each frame: for a twin without captions.

    Args:
        path: Plain text, whose sentences end with `.`, `!` or `?`; None for sentences about drawn
            frames, always the same.
        num_frames: How many are wanted.

    Raises:
        MediaError: If the file cannot be read, or has fewer sentences.
    """
    if path is None:
        scenes = haystack_scenes(random.Random("text haystack"))
        return [caption_sentence(scene) for scene in itertools.islice(scenes, num_frames)]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{path} cannot be read as text: {error}") from error
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
    sentences = [sentence for sentence in sentences if sentence]
    if len(sentences) < num_frames:
        raise MediaError(
            f"{path} has {len(sentences)} sentences; {num_frames} frames are asked for."
        )
    return sentences[:num_frames]


def check_captioned(items: Sequence[Item]) -> None:
    """Make sure that every picture of a text twin has a caption.

    Raises:
        SettingsError: If one has none.
    """
    for item in items:
        if not all(shown.caption() for shown in (*item.needles, *item.distractors)):
            raise SettingsError(
                f"The picture of {item.name} has no caption for the text twin: give it a "
                '"caption" in dataset.json.'
            )


def twin_captions(*, text: Path | None, captions: Path | None, num_frames: int) -> list[str]:
    """What each frame of a text twin says.

    Args:
        text: As in `read_text`, `drawn` for drawn sentences; None for captions.
        captions: As in `read_captions`.
        num_frames: How many are wanted.

    Raises:
        MediaError: If a file cannot be read, or says too little.
    """
    if text is not None:
        return read_text(None if str(text) == "drawn" else text, num_frames=num_frames)
    return read_captions(captions, num_frames=num_frames)


def composed_clip(haystack: Haystack, cell: Cell, item: Item) -> ComposedClip:
    """The video of one cell: haystack frames with the item's pictures among them.

    Raises:
        MediaError: If the haystack has fewer frames.
    """
    haystack.check_length(cell.num_frames)
    frames: list[tuple[Path, int] | Image.Image] = arrange(
        cell,
        item,
        haystack.frames,
        [shown.image for shown in item.needles],
        [shown.image for shown in item.distractors],
    )
    return ComposedClip(parts=tuple(_parts(frames)), aspect="pad")


def _parts(frames: Sequence[tuple[Path, int] | Image.Image]) -> list[ClipPart]:
    """Neighbouring frames of one file as one part."""
    parts: list[ClipPart] = []
    for file, run in itertools.groupby(frames, lambda f: f[0] if isinstance(f, tuple) else None):
        if file is None:
            parts += [picture for picture in run if isinstance(picture, Image.Image)]
        else:
            parts.append((file, tuple(frame[1] for frame in run if isinstance(frame, tuple))))
    return parts


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
        workers = shared_workers()
        for block in workers.read_frames(workers.probe_video(path), indices):
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
    with write_atomically(path) as partial, av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12", "preset": "veryfast"}
        for picture in pictures:
            # A small needle must not shrink to a dot beside large frames.
            square = pad_to_square(picture, (0.5, 0.5, 0.5)).resize((side, side))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(square))))
        container.mux(stream.encode())
