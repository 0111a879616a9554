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

import codecs
import hashlib
import html
import json
import math
import re
import stat
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import numpy as np
import pysubs2
from loguru import logger

from longva_eval.errors import DataError, PromptError

__all__ = [
    "Cue",
    "Subtitles",
    "cues_at",
    "evenly_spread_seconds",
    "fill_subtitles",
    "read_subtitles",
    "subtitle_block",
    "subtitle_marker",
]

_MARKER: Final = re.compile(r"<subtitles at the frames: ([^\s>]+) ([0-9a-f]{16})>\n?")


@dataclass(frozen=True)
class Cue:
    """A text and when it is shown."""

    start_seconds: float
    end_seconds: float
    """The first moment at which it is no longer shown."""
    text: str
    """On one line, without tags."""


class Subtitles(tuple[Cue, ...]):
    """The cues of a file, by start and then by end."""

    left_out: tuple[str, ...] = ()
    """Cues that could not be read: line and reason."""


def read_subtitles(path: str | Path) -> Subtitles:
    """The cues of a subtitle file; cached until the file changes.

    The content tells what it is, not the name: SubRip or WebVTT, SubStation Alpha, or a line of
    JSON for each word, `{"text", "start_time", "end_time"}` in seconds (Video-MME-v2). UTF-8, or
    UTF-16 and UTF-32 that can be told from their bytes. A cue that cannot be read is left out,
    named in `left_out` and in the log.

    Raises:
        DataError: If it is missing, cannot be read, or holds no text; names file and line.
    """
    path = Path(path)
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"The subtitle file {path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"The subtitle file {path} is no ordinary file.")
    return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2048)
def _read(path: Path, size: int, modified: int) -> Subtitles:
    del modified  # part of the cache's key only
    if size == 0:
        raise DataError(f"The subtitle file {path} is empty. {_MEND}")
    text = _decoded(path, path.read_bytes())
    # Old files have CR alone, some have NUL bytes at the end, joined ones a mark in their middle.
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").replace("\ufeff", "")
    begin = text.lstrip()[:100]
    left_out: list[str] = []
    if begin.startswith("[Script Info]"):
        cues, left_out = _script_cues(path, text)
    elif path.suffix == ".jsonl" or begin.startswith('{"'):
        cues = _jsonl_cues(path, text)
    else:
        cues, left_out = _timed_cues(text, is_vtt=begin.startswith("WEBVTT"))
    cues = [cue for cue in cues if cue.text]
    if not cues:
        reason = f" ({left_out[0]})" if left_out else ""
        raise DataError(
            f"The subtitle file {path} holds no text of SubRip, WebVTT, SubStation or "
            f"JSON lines{reason}. {_MEND}"
        )
    found = Subtitles(sorted(cues, key=lambda cue: (cue.start_seconds, cue.end_seconds)))
    found.left_out = tuple(left_out)
    if left_out:
        logger.warning(
            "{} cues of {} are left out, the first: {}", len(left_out), path, left_out[0]
        )
    return found


_MEND: Final = (
    "Get it again, or remove it: the question is then asked without subtitles, and its record says "
    "so (has_subtitles)."
)
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


_LATIN: Final = ("cp1252", "cp1250", "cp1254")
_OTHER_LETTERS: Final = ("cp1251", "cp1253", "cp1255", "cp1256", "koi8_r")
_FEW_BYTES: Final = 16
"""Beyond ASCII, which do not tell an encoding for certain."""
_EASTERN: Final = {
    "shift_jis": r"[\u3041-\u30ff]",  # kana
    "euc_kr": r"[\uac00-\ud7a3]",
    "gb18030": r"[\xa1-\xa3\xb0-\xd7].",  # first bytes of the common characters
    "big5": r"[\xa1-\xc6].",
}
_USUAL_SHARE: Final = {"shift_jis": 0.4, "euc_kr": 0.95, "gb18030": 0.9, "big5": 0.95}


def _is_usual(data: bytes, encoding: str, usual: str) -> bool:
    """Whether a text has the characters that one in this encoding mostly has."""
    try:
        strange = re.sub(r"[\x00-\x7f]", "", data.decode(encoding))
    except UnicodeDecodeError:
        return False
    parts: Iterable[str] = strange
    if "\\x" in usual:
        parts = (c.encode(encoding).decode("latin-1") for c in strange)
    return sum(bool(re.match(usual, part, re.S)) for part in parts) >= (
        _USUAL_SHARE[encoding] * len(strange)
    )


def _is_latin(data: bytes) -> bool:
    """Whether words with letters beyond ASCII consist of others for the most part."""
    words = b"".join(re.findall(rb"[A-Za-z]*[\xc0-\xff][A-Za-z\x80-\xff]*", data))
    return len(re.findall(rb"[\x80-\xff]", words)) <= len(words) / 2


def _decoded(path: Path, data: bytes) -> str:
    """The text of a file, whose encoding is certain.

    Raises:
        DataError: If it is none of Unicode's; with the one it looks like.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    half = len(data) // 2
    if encoding == "utf-8" and data[1::2].count(0) > 0.4 * half > data[::2].count(0):
        encoding = "utf-16-le"
    elif encoding == "utf-8" and data[::2].count(0) > 0.4 * half > data[1::2].count(0):
        encoding = "utf-16-be"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        import charset_normalizer  # takes a while

        # Several fit a short text equally well: then the first of the list.
        fitting = [name for name, usual in _EASTERN.items() if _is_usual(data, name, usual)]
        of_these = fitting[:1] or list(_LATIN if _is_latin(data) else _OTHER_LETTERS)
        guesses = charset_normalizer.from_bytes(data, cp_isolation=of_these)
        order = {name: place for place, name in enumerate(of_these)}
        best = min(
            (guess for guess in guesses if guess.encoding in order),
            key=lambda guess: (round(guess.chaos, 2), -guess.coherence, order[guess.encoding]),
            default=None,
        )
        looks = best.encoding if best is not None else of_these[0]
        few = len(re.findall(rb"[\x80-\xff]", data)) < _FEW_BYTES
        unsure = " (so few letters do not tell for certain: look at what comes out)" if few else ""
        raise DataError(
            f"The subtitle file {path} is not {encoding.upper()} (byte {error.start}); it looks "
            f"like {looks}. If it is: iconv -f {looks} -t UTF-8 IN > OUT{unsure}"
        ) from error


# 1:02:03,4 and 1:02:03:400 and 1:02:03; 02:03.4 without hours. What 1:02:03:12 counts is frames.
_TIME: Final = (
    r"(?:(\d+):(\d{1,2}):(\d{1,2})(?:(?!:\d\d?(?!\d))[.,:](\d{1,6}))?|"
    r"(\d{1,2}):(\d{1,2})[.,](\d{1,6}))"
)
_ARROW: Final = r"(?:[-\u2013\u2014]+>|\u2192)"
_TIME_LINE: Final = re.compile(rf"\s*{_TIME}\s*{_ARROW}\s*{_TIME}(?:\s.*)?")
_BROKEN_TIME_LINE: Final = re.compile(rf"[\s\d:.,;-]*-->.*|[\s\d.,;-]*\d\s*:[\s\d:.,;-]*{_ARROW}.*")
"""With nothing but times before the arrow; other text may hold one."""
_TIME_BLANKS: Final = re.compile(r"(?<=\d)\s*([:.,])\s*(?=\d)")  # of translated files
_COUNTER: Final = re.compile(r"(?:^|\n)[ \t]*\d+[ \t]*$")
_LAST_COUNTER: Final = re.compile(r"\n[ \t]*\n[ \t]*\d+[ \t]*$")
_DRAWING: Final = re.compile(r"\{[^{}\n]*\\p[1-9][^{}\n]*\}.*?(?=\{[^{}\n]*\\p0|$)", re.M)


def _script_cues(path: Path, text: str) -> tuple[list[Cue], list[str]]:
    kind = "ass" if "[V4 Styles]" not in text else "ssa"
    text = _DRAWING.sub("", text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of cells that nobody asks for
            events = pysubs2.SSAFile.from_string(text, format_=kind)
    except (pysubs2.exceptions.Pysubs2Error, ValueError, KeyError) as error:
        raise DataError(f"The subtitle file {path} cannot be read: {error}. {_MEND}") from error
    said = [event for event in events if not event.is_comment]
    return [
        Cue(event.start / 1000, event.end / 1000, _one_line(event.plaintext))
        for event in said
        if event.end >= event.start
    ], [
        f"{event.plaintext[:40]!r}: it ends before it starts, at {event.start / 1000:.3f} s"
        for event in said
        if event.end < event.start
    ]


def _timed_cues(text: str, *, is_vtt: bool) -> tuple[list[Cue], list[str]]:
    """The cues of SubRip or WebVTT, and which could not be read.

    In WebVTT a blank line ends a cue, and what stands outside of cues is notes and styles. In
    SubRip a cue may hold blank lines; the number before the next one is not part of it.
    """
    cues: list[Cue] = []
    left_out: list[str] = []
    times: tuple[float, float] | None = None
    lines: list[str] = []

    def close(counter: re.Pattern[str] = _COUNTER) -> None:
        if times is not None:
            said = "\n".join(lines).strip()
            said = said if is_vtt else counter.sub("", said)
            cues.append(Cue(*times, _one_line(said, is_vtt=is_vtt)))

    for number, line in enumerate(text.split("\n"), start=1):
        is_time = _BROKEN_TIME_LINE.fullmatch(line)
        found = _TIME_LINE.fullmatch(_TIME_BLANKS.sub(r"\1", line)) if is_time else None
        if not is_time:
            if is_vtt and not line.strip():
                close()
                times = None
            lines.append(line)
            continue
        close()
        times, lines = None, []
        if found is None:
            left_out.append(f"line {number}: {line.strip()[:80]!r} is no time of a subtitle")
            continue
        start, end = _seconds(*found.groups()[:7]), _seconds(*found.groups()[7:])
        if end < start:
            left_out.append(f"line {number}: it ends before it starts, at {start:.3f} s")
        else:
            times = (start, end)
    close(_LAST_COUNTER)
    return cues, left_out


def _seconds(*parts: str | None) -> float:
    """Of the groups of `_TIME`."""
    hours, minutes, seconds, fraction = parts[:4] if parts[0] else ("0", *parts[4:])
    whole = (int(hours or 0) * 60 + int(minutes or 0)) * 60 + int(seconds or 0)
    return float(round(whole + float(f"0.{fraction or 0}"), 3))


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


_TAG: Final = re.compile(
    r"</?(?:i|b|u|s|em|strong|font|span|c|v|lang|ruby|rt)(?:\.[^\s<>]*)?\s*/?>"
    r"|<(?:font|span)\s[^<>]*=[^<>]*>"
    r"|<\d+:[\d:.]+>"  # when a word is spoken
    r"|\{\\[^{}]*\}",
    re.IGNORECASE,
)
_VTT_TAG: Final = re.compile(r"</?(?:i|b|u|c|v|lang|ruby|rt)(?:[.\s][^<>]*)?>")
"""Here every one of them may have an annotation: `<v Ann>`."""


def _one_line(text: str, *, is_vtt: bool = False) -> str:
    """Without the tags that subtitles have; anything else between angle brackets is text."""
    text = _TAG.sub("", re.sub(r"<br\s*/?>|\\N|\\h", " ", text))
    return " ".join((html.unescape(_VTT_TAG.sub("", text)) if is_vtt else text).split())


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
    text: str,
    videos: Sequence[Sequence[float]],
    *,
    written: Callable[[str], str] = str,
) -> tuple[str, dict[str, Any] | None]:
    """Put the subtitles of the frames where the marker stands.

    Args:
        text: A prompt, with one marker or none.
        videos: For each video of the prompt, when its frames are shown, in seconds.
        written: How the subtitles' text is put into the prompt.

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
        **({"cues_left_out": list(cues.left_out)} if cues.left_out else {}),
    }
    return text[:start] + written(subtitle_block(shown)) + text[end:], report


def evenly_spread_seconds(video: str | Path, num_frames: int) -> list[float]:
    """When the frames `np.linspace(0, total - 1, num_frames, dtype=int)` of a video are shown.

    Raises:
        MediaError: If the video cannot be read.
    """
    from longva_eval.media.probe import probe_video

    info = probe_video(video)
    indices = np.linspace(0, info.num_frames - 1, num_frames, dtype=int)
    return [float(second) for second in info.presentation_seconds[indices]]
