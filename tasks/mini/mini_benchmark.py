"""A small benchmark in Video-MME's schema whose videos are drawn from a seed.

A video is a haystack of drifting textures and distractors in which three *events* happen: for a
few frames a locator silhouette is shown. Each question asks for the colour or the number of one
event. An event is as long in a long video as in a short one, so sparse uniform sampling always
meets it in a short video and mostly misses it in a long one.

The videos are real H.264 files, written once into a folder of the caller's choice. Encoders differ
between builds, so what is checked against `MINI_BENCHMARK_SHA256` is the RGB frames before
encoding.

Beside them lie subtitles, in the form of Video-MME's files: while an event is shown, and a little
longer, they tell its colour and number; otherwise they name what is drawn. So they answer the
questions wherever a frame is sampled at the right time. As there, some videos have none.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from longva_eval.files import write_atomically
from longva_eval.needle.scenes import (
    COLORS,
    LOCATORS,
    Scene,
    haystack_scenes,
    random_scene,
    render_scene,
)

__all__ = [
    "MINI_BENCHMARK_SEED",
    "MINI_BENCHMARK_SHA256",
    "MiniVideo",
    "benchmark_rows",
    "encode_video",
    "ensure_mini_benchmark",
    "generate_mini_benchmark",
    "plan_videos",
    "video_frames",
    "video_subtitles",
]

MINI_BENCHMARK_SEED: Final = 90210
"""Seed of the published benchmark; training and tuning use others."""
MINI_BENCHMARK_SHA256: Final = "5909cd61392b1bf1839e2ce6b2ccfb52645db04d3d6e2f9ccd31b3e7189d81b7"
"""SHA-256 over the RGB frames of all videos of the published benchmark, in order."""

DURATION_FRAMES: Final = {"short": 32, "medium": 128, "long": 512}
"""Frames of a video of each duration."""
EVENT_FRAMES: Final = 6
"""Frames that an event lasts."""
FRAME_RATE: Final = 2
"""Frames per second."""
FRAME_SIDE: Final = 64
"""Width and height of a frame, in pixels."""
VIDEOS_PER_DURATION: Final = 20
EVENTS_PER_VIDEO: Final = 3
EVENT_SAID_SECONDS: Final = 8.0
"""For how long subtitles speak of an event, from its start, unless the next one starts."""
_SAID_SECONDS: Final = 6.0
_WITHOUT_SUBTITLES: Final = 3
"""Of five short or medium videos, the one with this number modulo 5 has no subtitles."""
_LOCK_SECONDS: Final = 900
_LETTERS = "ABCD"
_DOMAINS = {**dict.fromkeys(("waves", "clouds", "sand"), "Nature"), "stripes": "Patterns",
            "tiles": "Patterns"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MiniVideo:
    """What one video shows and what is asked about it."""

    video_id: str
    """Running number, "001" and so on."""
    name: str
    """Name of the file, without its suffix; Video-MME's `videoID`."""
    duration: str
    """"short", "medium" or "long"."""
    scenes: tuple[Scene, ...]
    """One per frame."""
    event_starts: tuple[int, ...]
    """First frame of each event."""
    questions: tuple["_Question", ...]
    """One per event."""


@dataclass(frozen=True, kw_only=True)
class _Question:
    task_type: str
    question: str
    options: tuple[str, ...]
    answer: str


def plan_videos(
    seed: int = MINI_BENCHMARK_SEED, *, videos_per_duration: int = VIDEOS_PER_DURATION
) -> list[MiniVideo]:
    """Everything about the videos except their pixels.

    Args:
        seed: Seed of the benchmark.
        videos_per_duration: How many videos of each duration.

    Returns:
        The videos, the short ones first. Answer letters are balanced over the benchmark, and the
        wrong options are drawn like the right one, so that a question alone says nothing.
    """
    rng = random.Random(f"mini-benchmark-{seed}")
    count = videos_per_duration * len(DURATION_FRAMES) * EVENTS_PER_VIDEO
    letters = [_LETTERS[index % 4] for index in range(count)]
    rng.shuffle(letters)
    letter = iter(letters)
    videos: list[MiniVideo] = []
    for duration, num_frames in DURATION_FRAMES.items():
        for _ in range(videos_per_duration):
            scenes = list(islice(haystack_scenes(rng), num_frames))
            starts = _event_starts(rng, num_frames)
            questions = []
            for start, locator in zip(starts, rng.sample(LOCATORS, len(starts)), strict=True):
                color = rng.choice(tuple(COLORS))
                digit = rng.choice("0123456789")
                event = random_scene(rng, shape=locator, color=color, digit=digit)
                for frame in range(start, start + EVENT_FRAMES):
                    drift = 0.03 * (frame - start)
                    texture = replace(event.texture, phase=event.texture.phase + drift)
                    scenes[frame] = replace(event, texture=texture)
                questions.append(_question(rng, locator, color, digit, next(letter)))
            number = len(videos) + 1
            videos.append(
                MiniVideo(
                    video_id=f"{number:03d}",
                    name=f"mini-{seed}-{number:03d}",
                    duration=duration,
                    scenes=tuple(scenes),
                    event_starts=starts,
                    questions=tuple(questions),
                )
            )
    return videos


def _event_starts(rng: random.Random, num_frames: int) -> tuple[int, ...]:
    """Places of events that do not touch one another."""
    # Choosing places in a video shortened by the events and spreading them keeps them apart.
    free = num_frames - EVENTS_PER_VIDEO * (EVENT_FRAMES + 1)
    places = sorted(rng.randint(0, free) for _ in range(EVENTS_PER_VIDEO))
    return tuple(place + index * (EVENT_FRAMES + 1) for index, place in enumerate(places))


def _question(rng: random.Random, locator: str, color: str, digit: str, letter: str) -> _Question:
    ask_color = rng.random() < 0.5
    right = color if ask_color else digit
    pool = [*COLORS] if ask_color else [*"0123456789"]
    wrong = rng.sample([value for value in pool if value != right], 3)
    place = _LETTERS.index(letter)
    values = [*wrong[:place], right, *wrong[place:]]
    if ask_color:
        task_type, text = "Attribute Perception", f"What color is the {locator}?"
    else:
        task_type, text = "OCR Problems", f"What number is shown with the {locator}?"
    options = tuple(f"{name}. {value}" for name, value in zip(_LETTERS, values, strict=True))
    return _Question(task_type=task_type, question=text, options=options, answer=letter)


def benchmark_rows(videos: Iterable[MiniVideo]) -> list[dict[str, object]]:
    """The questions as rows with Video-MME's columns.

    Args:
        videos: From `plan_videos`.

    Returns:
        One row per question; `options` is a list of "A. ..." texts and `answer` a letter.
    """
    return [
        {
            "video_id": video.video_id,
            "duration": video.duration,
            "domain": _DOMAINS[video.scenes[0].texture.name],
            "sub_category": video.scenes[0].texture.name.capitalize(),
            "url": "",
            "videoID": video.name,
            "question_id": f"{video.video_id}-{number}",
            "task_type": question.task_type,
            "question": question.question,
            "options": list(question.options),
            "answer": question.answer,
        }
        for video in videos
        for number, question in enumerate(video.questions, start=1)
    ]


def video_subtitles(video: MiniVideo) -> str | None:
    """The subtitles of a video as the text of an .srt file, or None if it has none.

    Long videos all have them, as in Video-MME; of the others, four in five.
    """
    if video.duration != "long" and int(video.video_id) % 5 == _WITHOUT_SUBTITLES:
        return None
    end = len(video.scenes) / FRAME_RATE
    starts = [start / FRAME_RATE for start in video.event_starts]
    said = []
    for start, following in zip(starts, [*starts[1:], end], strict=True):
        event = video.scenes[int(start * FRAME_RATE)]
        text = f"The {event.shape} is {event.color}, and its number is {event.digit}."
        said.append((start, min(start + EVENT_SAID_SECONDS, following), text))
    cues = []
    free_from = 0.0
    for start, until, text in [*said, (end, end, "")]:
        while start - free_from > 1.0:
            upto = min(free_from + _SAID_SECONDS, start)
            cues.append((free_from, upto, _narration(video.scenes[int(free_from * FRAME_RATE)])))
            free_from = upto
        if text:
            cues.append((start, until, text))
        free_from = until
    return "".join(
        f"{number}\n{_srt_time(start)} --> {_srt_time(until)}\n"
        f'<font color="white" size=".72c">{text}</font>\n\n'
        for number, (start, until, text) in enumerate(cues, start=1)
    )


def _narration(scene: Scene) -> str:
    """What is said while nothing happens."""
    if scene.shape is None:
        return f"We look at {scene.texture.name}."
    article = "An" if scene.color == "orange" else "A"
    return f"{article} {scene.color} {scene.shape} moves over the {scene.texture.name}."


def _srt_time(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"


def video_frames(video: MiniVideo, *, side: int = FRAME_SIDE) -> Iterator[npt.NDArray[np.uint8]]:
    """Draw the frames of a video, each (side, side, 3) uint8 RGB."""
    for scene in video.scenes:
        yield render_scene(scene, side=side)


def encode_video(
    path: Path,
    frames: Iterable[npt.NDArray[np.uint8]],
    *,
    frame_rate: int,
    quality: int = 20,
    preset: str = "veryfast",
) -> None:
    """Write frames as H.264 in MP4, 4:2:0, tagged and converted as BT.709.

    Args:
        path: The file to write.
        frames: (height, width, 3) uint8 RGB frames of one size.
        frame_rate: Frames per second.
        quality: x264's constant rate factor; smaller is better.
        preset: x264's preset.
    """
    import av
    from av.video.reformatter import Colorspace

    with av.open(str(path), "w") as container:
        stream = None
        for pixels in frames:
            if stream is None:
                # One thread, so that a build of x264 always writes the same file.
                options = {"crf": str(quality), "preset": preset, "threads": "1"}
                stream = container.add_stream("libx264", rate=Fraction(frame_rate), options=options)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
                context = stream.codec_context
                context.colorspace = 1  # the number of BT.709 in all three
                context.color_primaries = 1
                context.color_trc = 1
                context.color_range = 1  # studio range
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
            container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError(f"{path} would have no frames.")
        container.mux(stream.encode(None))


def generate_mini_benchmark(
    folder: Path,
    *,
    seed: int = MINI_BENCHMARK_SEED,
    videos_per_duration: int = VIDEOS_PER_DURATION,
    side: int = FRAME_SIDE,
) -> list[dict[str, object]]:
    """Write the videos and their questions into a folder, unless they are there already.

    Args:
        folder: Made if missing. Gets `<videoID>.mp4` for each video and `<videoID>.srt` for those
            with subtitles, `rows.json`, and last `manifest.json` with the SHA-256 of each video's
            RGB frames before encoding and of each file, which shows that all is complete.
        seed: Seed of the benchmark.
        videos_per_duration: How many videos of each duration.
        side: Width and height of the frames, in pixels.

    Returns:
        The rows, as `benchmark_rows` gives them.

    Raises:
        RuntimeError: If the frames of the published benchmark are not those of its hash, or a
            cached file is damaged.
    """
    settings = {
        "seed": seed,
        "videos_per_duration": videos_per_duration,
        "side": side,
        "frame_rate": FRAME_RATE,
    }
    videos = plan_videos(seed, videos_per_duration=videos_per_duration)
    rows = benchmark_rows(videos)
    manifest_path = folder / "manifest.json"
    _write_subtitles(folder, videos)
    if manifest_path.exists():
        manifest = json.loads(manifest_path.read_text())
        if manifest["settings"] == settings:
            _check_files(folder, manifest["videos"])
            return rows
    manifest_path.unlink(missing_ok=True)
    entries = []
    everything = hashlib.sha256()
    for video in videos:
        frames = list(video_frames(video, side=side))
        digest = hashlib.sha256(b"".join(frame.tobytes() for frame in frames)).hexdigest()
        everything.update(bytes.fromhex(digest))
        path = folder / f"{video.name}.mp4"
        encode_video(path, frames, frame_rate=FRAME_RATE)
        entries.append(
            {
                "file": path.name,
                "num_frames": len(frames),
                "frames_sha256": digest,
                "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        )
    own = (MINI_BENCHMARK_SEED, VIDEOS_PER_DURATION, FRAME_SIDE)
    is_published = (seed, videos_per_duration, side) == own
    if is_published and everything.hexdigest() != MINI_BENCHMARK_SHA256:
        raise RuntimeError(
            f"The frames drawn here hash to {everything.hexdigest()}, not to "
            f"{MINI_BENCHMARK_SHA256}: Pillow or NumPy draws differently, and on other frames it "
            "is another benchmark."
        )
    (folder / "rows.json").write_text(json.dumps(rows, indent=1))
    manifest = {"settings": settings, "frames_sha256": everything.hexdigest(), "videos": entries}
    with write_atomically(manifest_path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1))
    return rows


def ensure_mini_benchmark(
    folder: Path, *, videos_per_duration: int = VIDEOS_PER_DURATION
) -> list[dict[str, object]]:
    """As `generate_mini_benchmark`, for several processes at once: one makes it, the others wait.

    A run that is killed leaves no half of it: what has no manifest is made again.
    """
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=_LOCK_SECONDS):
        return generate_mini_benchmark(folder, videos_per_duration=videos_per_duration)


def _write_subtitles(folder: Path, videos: Iterable[MiniVideo]) -> None:
    """Write the subtitle files that are missing or differ."""
    for video in videos:
        text = video_subtitles(video)
        path = folder / f"{video.name}.srt"
        if text is None or (path.exists() and path.read_text(encoding="utf-8") == text):
            continue
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _check_files(folder: Path, entries: Iterable[dict[str, str]]) -> None:
    for entry in entries:
        path = folder / entry["file"]
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"
        if digest != entry["file_sha256"]:
            raise RuntimeError(
                f"{path} is damaged: its SHA-256 is {digest}, the manifest says "
                f"{entry['file_sha256']}. Delete {folder} to have it made again."
            )
