"""Subtitles at the frames a model sees. No torch.

A benchmark that allows subtitles allows those at the sampled frames only (Video-MME's README), and
a task writes its prompt before any frame is chosen. So the prompt of such a task holds a *marker*
that names the subtitle file, and whoever chooses the frames puts the subtitles in its place:

* models of longva-eval do it in `Session.prompt`, from the timestamps of the frames they sample;
* for any other model the task itself does it, from a stated number of evenly spread frames
  (`evenly_spread_seconds`), since it can't know which frames that model takes.

A cue is shown at a frame if `start <= time < end`. Each cue is given once, in the order of time;
where no frame has one, the prompt is the one without subtitles.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import numpy as np
import pysubs2

from longva_eval.errors import DataError, PromptError

__all__ = [
    "Cue",
    "cues_at",
    "evenly_spread_seconds",
    "fill_subtitles",
    "read_subtitles",
    "subtitle_block",
    "subtitle_marker",
]

_MARKER: Final = re.compile(r"<subtitles at the frames: ([^\s>]+) ([0-9a-f]{16})>\n?")
_TIMES: Final = re.compile(r"-->")


@dataclass(frozen=True)
class Cue:
    """A text and when it is shown."""

    start_seconds: float
    end_seconds: float
    """The first moment at which it is no longer shown."""
    text: str
    """On one line, without tags."""


def read_subtitles(path: str | Path) -> tuple[Cue, ...]:
    """The cues of a subtitle file, by start and then by end; cached until the file changes.

    Args:
        path: An `.srt` file, or a `.jsonl` file of words, `{"text", "start_time", "end_time"}` in
            seconds (Video-MME-v2). UTF-8, with or without a byte order mark.

    Raises:
        DataError: If it is missing, cannot be read, or holds no text; names file and line.
    """
    path = Path(path)
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"The subtitle file {path} cannot be read: {error.strerror}.") from error
    return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2048)
def _read(path: Path, size: int, modified: int) -> tuple[Cue, ...]:
    del modified  # part of the cache's key only
    if size == 0:
        raise DataError(f"The subtitle file {path} is empty. {_MEND}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"The subtitle file {path} is not UTF-8 (byte {error.start}). Convert it, for example "
            f"with: iconv -f latin1 -t utf-8"
        ) from error
    # Old files have CR alone, and some have NUL bytes at the end.
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    cues = _jsonl_cues(path, text) if path.suffix == ".jsonl" else _srt_cues(path, text)
    cues = [cue for cue in cues if cue.text]
    if not cues:
        raise DataError(f"The subtitle file {path} holds no text. {_MEND}")
    return tuple(sorted(cues, key=lambda cue: (cue.start_seconds, cue.end_seconds)))


_MEND: Final = (
    "Get it again, or remove it: the question is then asked without subtitles, and its record says "
    "so (has_subtitles)."
)


def _srt_cues(path: Path, text: str) -> list[Cue]:
    # Lines with `-->` that the parser does not know would become part of the text before them.
    for number, line in enumerate(text.split("\n"), start=1):
        if _TIMES.search(line) and not _TIME_LINE.match(line):
            raise DataError(f"{path}, line {number}: {line.strip()!r} is no time of a subtitle.")
    parsed = pysubs2.SSAFile.from_string(text, format_="srt")
    cues = []
    for event in parsed:
        if event.end < event.start:
            raise DataError(
                f"{path}: a subtitle ends before it starts, at {event.start / 1000:.3f} s."
            )
        cues.append(Cue(event.start / 1000, event.end / 1000, _one_line(event.plaintext)))
    return cues


_TIME_LINE: Final = re.compile(
    r"^\s*\d{1,3}:\d{1,2}:\d{1,2}[.,:]\d{1,6}\s*-->\s*\d{1,3}:\d{1,2}:\d{1,2}[.,:]\d{1,6}"
)


def _jsonl_cues(path: Path, text: str) -> list[Cue]:
    cues = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            start, end = float(entry["start_time"]), float(entry["end_time"])
            if not isinstance(entry["text"], str) or not 0 <= start <= end < math.inf:
                raise ValueError("no text, or no times that follow each other")
            cues.append(Cue(start, end, _one_line(entry["text"])))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: {line.strip()[:80]!r} is not "
                '{"text": ..., "start_time": ..., "end_time": ...}.'
            ) from error
    return cues


def _one_line(text: str) -> str:
    """Without tags that were left over, and on one line."""
    return " ".join(re.sub(r"</?[A-Za-z][^<>]*>|\{\\[^{}]*\}", "", text).split())


def cues_at(cues: Iterable[Cue], seconds: Sequence[float]) -> list[Cue]:
    """The cues that are shown at one of these times, each once, in the order of time."""
    times = np.sort(np.asarray(seconds, dtype=np.float64))
    found = []
    for cue in cues:
        first = int(np.searchsorted(times, cue.start_seconds, side="left"))
        if first < len(times) and times[first] < cue.end_seconds:
            found.append(cue)
    return found


def subtitle_block(cues: Sequence[Cue]) -> str:
    """The subtitles as Video-MME's prompt has them, one a line; nothing for no cues.

    Source: Video-MME repository, commit 06c2315 (README, evaluation prompt).
    """
    if not cues:
        return ""
    return "\n".join(["This video's subtitles are listed below:", *(cue.text for cue in cues), ""])


def subtitle_marker(path: str | Path) -> str:
    """What stands in a prompt until the frames are known; with the file's digest.

    The digest is there so that an answer that was stored for the same prompt is not taken for one
    with other subtitles.
    """
    path = Path(path).resolve()
    return f"<subtitles at the frames: {quote(str(path))} {_file_digest(path)}>\n"


def _file_digest(path: Path) -> str:
    try:
        if not path.is_file():
            raise DataError(f"The subtitle file {path} is not there, or is no file.")
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise DataError(f"The subtitle file {path} cannot be read: {error.strerror}.") from error


def fill_subtitles(
    text: str, videos: Sequence[Sequence[float]]
) -> tuple[str, dict[str, Any] | None]:
    """Put the subtitles of the frames where the marker stands.

    Args:
        text: A prompt, with one marker or none.
        videos: For each video of the prompt, when its frames are shown, in seconds.

    Returns:
        The prompt, and what its record is to say: the rule, the file, and how many of its cues are
        in the prompt. None for a prompt without marker.

    Raises:
        PromptError: If there is a marker, but not exactly one video with known times.
        DataError: If the file cannot be read, or is not the one the marker was made of.
    """
    markers = list(_MARKER.finditer(text))
    if not markers:
        return text, None
    if len(markers) > 1 or len(videos) != 1 or not videos[0]:
        raise PromptError(
            f"{len(markers)} places for subtitles need one video file with known times; the prompt "
            f"has {len(videos)} videos, with {[len(times) for times in videos]} times."
        )
    path = Path(unquote(markers[0][1]))
    # Only the task that made the marker has read the file: a question's text may say anything.
    if _file_digest(path) != markers[0][2]:
        raise DataError(
            f"The subtitle file {path} is not the one that the prompt was made with. Was it "
            "changed during the run? Run again."
        )
    cues = read_subtitles(path)
    shown = cues_at(cues, videos[0])
    start, end = markers[0].span()
    report = {
        "rule": "at the frames seen",
        "file": str(path),
        "num_cues": len(cues),
        "num_cues_shown": len(shown),
    }
    return text[:start] + subtitle_block(shown) + text[end:], report


def evenly_spread_seconds(video: str | Path, num_frames: int) -> list[float]:
    """When the frames `np.linspace(0, total - 1, num_frames, dtype=int)` of a video are shown.

    Raises:
        MediaError: If the video cannot be read.
    """
    from longva_eval.media.probe import probe_video

    info = probe_video(video)
    indices = np.linspace(0, info.num_frames - 1, num_frames, dtype=int)
    return [float(second) for second in info.presentation_seconds[indices]]
