"""Which frames of a video the model is to see, and these frames themselves.

The original's rule is `np.linspace(0, total - 1, n, dtype=int)`; others are named (`FramePolicy`).
What happens to a video with fewer frames than that, or with pictures missing in the middle, is a
named policy, too.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from longva_eval.errors import MediaError, SettingsError
from longva_eval.media.decode import Frames
from longva_eval.media.files import printable
from longva_eval.media.probe import VideoInfo, probe_video

__all__ = [
    "FRAME_POLICIES",
    "FrameBatch",
    "FramePolicy",
    "FrameSample",
    "GapPolicy",
    "Looks",
    "ShortVideoPolicy",
    "candidates",
    "colour_shares",
    "one_per_second",
    "read_frames",
    "refuse_gaps",
    "sample_frames",
    "sample_places",
]

ShortVideoPolicy = Literal["repeat", "each_once", "error"]
GapPolicy = Literal["error", "count"]
FRAME_POLICIES = {
    "uniform": "np.linspace(0, total - 1, n, dtype=int), as LongVA",
    "fps:R": "R frames a second, at most n",
    "midpoints": "frame int(i * total / (n + 1)) for i = 1 to n, as VLMEvalKit",
    "budget:R:MIN": "R frames a second by duration, at least MIN and at most n, spread evenly",
    "keyframes": "frames that the file can be decoded from, n of them spread evenly",
    "scene[:R]": "the middle of each of n scenes, cut where colours change most at R (2) a second",
    "file:PATH": "what a JSON file names for each video, or for each question on it",
    "query:MODEL[:R]": "the n frames of those at R (1) a second that are most similar to the "
    "question by a CLIP or SigLIP (TOP of AKS, arXiv:2502.21271)",
    "query-bins:MODEL[:R]": "in each of n equal parts of these frames the most similar one (BIN)",
}
"""How `frame_policy` is written, and what it does; n is `max_frames_num`."""
_FORMS = {
    form.partition(":")[0].rstrip("["): (rule, form.count(":") - form.count("[:"), form.count(":"))
    for form, rule in FRAME_POLICIES.items()
}
"""By name: the rule, and how many parts may stand behind it, at least and at most."""
_MOST_FRAMES = 1_000_000
_MOST_LOOKED_AT = 4096
"""Candidates of one video that `scene` and `query` look at."""
_MOST_KEPT = 16
"""Videos whose looks stay in memory."""
_LARGEST_FILE_BYTES = 256 << 20
_ROUNDING_SECONDS = 0.001
"""Matroska writes whole milliseconds: a frame at 1.0004 s counts as on screen at 1 s."""


@dataclass(frozen=True, kw_only=True)
class FramePolicy:
    """How many frames to take, and where."""

    max_frames: int = 128
    """Frames to spread evenly over the video; with `fps`, the most that may be taken."""
    policy: str = "uniform"
    """One of `FRAME_POLICIES`."""
    fps: float | None = None
    """Take the frames on screen every 1 / fps seconds instead, from the first one on: every
    round(average_fps / fps)-th frame at a constant rate; by their times where it varies, a frame
    that stays on screen again and again."""
    short_video: ShortVideoPolicy = "repeat"
    """A video with fewer frames than asked: `repeat` shows some twice (the original: 3 frames of
    2 are 0, 0, 1), `each_once` shows fewer, `error` refuses."""
    gaps: GapPolicy = "error"
    """A video in which pictures are missing: `error` refuses it, `count` takes what is there and
    says in the record how many gaps there are."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_frames <= _MOST_FRAMES:
            raise SettingsError(
                f"max_frames_num={self.max_frames} must be at least 1 and at most {_MOST_FRAMES:,}."
            )
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise SettingsError(f"fps={self.fps} must be above 0 and finite.")
        if self.short_video not in get_args(ShortVideoPolicy):
            raise SettingsError(
                f"short_video={self.short_video!r} is unknown; "
                f"use one of {', '.join(get_args(ShortVideoPolicy))}."
            )
        if self.gaps not in get_args(GapPolicy):
            raise SettingsError(f"video_gaps={self.gaps!r} is unknown; use error or count.")
        if self.policy == "uniform":
            return
        if self.fps is not None:
            raise SettingsError(f"fps={self.fps:g} and frame_policy={self.policy}: give one.")
        kind, rest = self.kind
        numbers = self._numbers
        if kind == "fps" and len(numbers) == 1:  # the same setting, and the same recipe
            object.__setattr__(self, "fps", numbers[0])
            object.__setattr__(self, "policy", "uniform")
        elif kind == "budget" and len(numbers) == 2 and (numbers[1] < 1 or numbers[1] % 1):
            raise SettingsError(
                f"frame_policy={self.policy}: the fewest frames must be a whole number from 1 on."
            )
        elif kind == "file" and rest:
            _selection(rest)
        elif self.selector is not None and self.selector[0]:
            if not 0 < self.selector[1] < math.inf:
                raise SettingsError(
                    f"frame_policy={self.policy}: candidates a second must be above 0."
                )
        elif not self._is_known:
            raise SettingsError(
                f"frame_policy={self.policy!r} is unknown; use one of {', '.join(FRAME_POLICIES)}."
            )

    @property
    def kind(self) -> tuple[str, str]:
        """The policy's name, and what stands behind it."""
        name, _, rest = self.policy.partition(":")
        return name, rest

    @property
    def _is_known(self) -> bool:
        _, least, most = _FORMS.get(self.kind[0], ("", 1, 0))
        return least <= len(self._numbers) <= most and not self.policy.endswith(":")

    @property
    def _numbers(self) -> tuple[float, ...]:
        kind, rest = self.kind
        try:
            named = kind == "file" or self.selector is not None
            numbers = tuple(float(part) for part in rest.split(":") if rest and not named)
        except ValueError:
            numbers = (math.nan,)
        if not all(0 < number < math.inf for number in numbers):
            raise SettingsError(
                f"frame_policy={self.policy!r}: what stands behind {kind}: must be numbers above 0."
            )
        return numbers

    @property
    def selector(self) -> tuple[str, float] | None:
        """The model that compares frames with the question, and its candidates a second."""
        kind, rest = self.kind
        if kind not in ("query", "query-bins"):
            return None
        name, _, rate = rest.rpartition(":")
        try:
            return (name, float(rate)) if name else (rest, 1.0)
        except ValueError:
            return rest, 1.0

    @property
    def is_per_question(self) -> bool:
        """Whether questions on one video may see different frames."""
        kind, rest = self.kind
        chosen = _selection(rest)[0].values() if kind == "file" else ()
        named = any("questions" in entry for entry in chosen if isinstance(entry, dict))
        return named or self.selector is not None

    def describe(self) -> dict[str, Any]:
        """The rule in words and numbers, for the record."""
        named: dict[str, Any] = {} if self.policy == "uniform" else {"policy": self.policy}
        kind, rest = self.kind
        if kind == "file":
            rule = f"those that {rest} names; {self.max_frames} of them spread evenly if more"
            named["selection_sha256"] = _selection(rest)[1]
        elif named:
            rule = f"{_FORMS[kind][0]}; n = {self.max_frames}"
        elif self.fps is None:
            rule = f"np.linspace(0, total - 1, {self.max_frames}, dtype=int)"
        else:
            rule = f"every round(average_fps / {self.fps:g})-th frame, at most {self.max_frames}"
        described = {
            "rule": rule,
            "max_frames": self.max_frames,
            "fps": self.fps,
            "short_video": self.short_video,
            **named,
        }
        return described if self.gaps == "error" else described | {"gaps": self.gaps}


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
    num_gaps: int = 0
    """Places of the video where pictures are missing (`gaps=count`)."""
    order: tuple[int, ...] = ()
    """Under `control=shuffle`, which frame (of pairs, which pair) is shown at each place."""
    scores: tuple[float, ...] = ()
    """How similar each frame is to the question, where frames were chosen by that."""

    @classmethod
    def of(
        cls,
        info: VideoInfo,
        indices: Sequence[int] | npt.NDArray[np.int64],
        *,
        asked: int | None = None,
        scores: Mapping[int, float] | None = None,
    ) -> FrameSample:
        """Frames of a video by their indices, which some rule or user has named.

        Args:
            info: The video.
            indices: Ascending, repeats allowed.
            asked: How many the rule wanted; so many if None.
            scores: By index, where frames were chosen by them.

        Raises:
            MediaError: If there are none, or the video has no such frame.
        """
        chosen = tuple(int(index) for index in indices)
        name, total = printable(info.path), info.num_frames
        if not chosen:
            raise MediaError(
                f"{name}: none of its {total} frames was chosen, so there is nothing to show. "
                "Set frame_policy=uniform (and not frames=model), which always finds some."
            )
        if outside := [index for index in chosen if not 0 <= index < total]:
            raise MediaError(f"{name} has {total} frames, frame {outside[-1]} is asked for.")
        return cls(
            indices=chosen,
            timestamps_seconds=tuple(round(float(info.presentation_seconds[i]), 3) for i in chosen),
            num_frames_asked=len(chosen) if asked is None else asked,
            num_frames_total=total,
            num_gaps=len(info.gaps),
            scores=tuple(scores[index] for index in chosen) if scores else (),
        )


@dataclass(frozen=True, kw_only=True)
class FrameBatch:
    """Frames of a video, with their pixels."""

    pixels: Frames
    """(num_frames, height, width, 3), uint8 RGB, upright."""
    indices: tuple[int, ...]
    """Of each frame among those that the `ffmpeg` command shows; ascending, repeats allowed."""
    seconds: tuple[float, ...]
    """When each is shown, from the start of the file."""


def read_frames(path: str | Path, policy: FramePolicy | None = None) -> FrameBatch:
    """The frames of a video that a model would see, decoded in a process of its own.

    Args:
        path: The video.
        policy: How many, and where; `FramePolicy()` if there is none.

    Raises:
        MediaError: If the video cannot be read, is damaged at these frames, or pictures are
            missing in it.
    """
    from longva_eval.media.decode_worker import shared_workers

    workers = shared_workers()
    info = workers.probe_video(path)
    sample = sample_frames(info, policy or FramePolicy(), read=workers.read_frames)
    blocks = list(workers.read_frames(info, sample.indices))
    return FrameBatch(
        pixels=np.concatenate(blocks), indices=sample.indices, seconds=sample.timestamps_seconds
    )


Read = Callable[[VideoInfo, Sequence[int]], Iterator[Frames]]
"""Decodes frames of a video."""
Array = npt.NDArray[Any]


class Looks:
    """What was seen of videos' candidates, so that nothing is looked at twice.

    Args:
        below: Gives what is kept elsewhere under a key, or makes and keeps it.
    """

    def __init__(
        self, below: Callable[[str, Callable[[], Array]], Array] = lambda _, make: make()
    ) -> None:
        self._below = below
        self._kept: dict[str, Array] = {}

    def __call__(self, key: str, make: Callable[[], Array]) -> Array:
        """What is kept under a key that says all it depends on; made if it is not there."""
        if key not in self._kept:
            while len(self._kept) >= _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = self._below(key, make)
        return self._kept[key]


_looks = Looks()
Alike = Callable[[VideoInfo, Sequence[int]], Array]
"""How similar frames of a video are to the question that is asked."""


def sample_frames(
    info: VideoInfo,
    policy: FramePolicy,
    *,
    read: Read | None = None,
    looks: Looks = _looks,
    question: Sequence[str] = (),
    alike: Alike | None = None,
) -> FrameSample:
    """Choose the frames of a video that the model is to see.

    Args:
        info: The video.
        policy: How many, and where.
        read: Decodes frames, for policies that look at them; in this process if None.
        looks: Keeps what was seen of them.
        question: Names of what is asked, for policies that choose by question.
        alike: Compares frames with it (`longva_eval.engine.selector.Selector`).

    Raises:
        MediaError: If the video is shorter than asked and `short_video` is `error`, pictures are
            missing in it and `gaps` is `error`, a file of selections does not name it, or the
            policy chooses none of its frames.
    """
    if policy.gaps == "error":
        refuse_gaps(info)
    total = info.num_frames
    scores: dict[int, float] = {}
    if policy.selector is not None:
        found = candidates(info, policy.selector[1])
        assert alike is not None, "a session compares frames with the question"
        similarity = alike(info, found.tolist())
        places = _most_similar(similarity, policy)
        wanted, indices = len(places), found[places]
        scores = {int(found[place]): round(float(similarity[place]), 4) for place in places}
    else:
        wanted, indices = _chosen(info, policy, read, looks, question)
    if wanted > total and policy.fps is None and policy.short_video == "error":
        raise MediaError(
            f"{info.path} has {total} frames, but max_frames_num={policy.max_frames} were "
            "asked for. Lower it, or set short_video=repeat or short_video=each_once."
        )
    if policy.short_video == "each_once":
        indices = np.unique(indices)
    return FrameSample.of(info, indices, asked=wanted, scores=scores)


def _chosen(
    info: VideoInfo,
    policy: FramePolicy,
    read: Read | None,
    looks: Looks,
    question: Sequence[str],
) -> tuple[int, npt.NDArray[np.int64]]:
    """How many frames a policy asks for, and those that it takes, ascending."""
    total, most = info.num_frames, policy.max_frames
    kind, rest = policy.kind
    numbers = policy._numbers
    if policy.fps is not None:
        indices = _by_rate(info, policy.fps, most)
        return len(indices), indices
    if kind == "uniform":
        return most, np.linspace(0, total - 1, most, dtype=np.int64)
    if kind == "midpoints":
        return most, np.array([int(i * (total / (most + 1))) for i in range(1, most + 1)])
    if kind == "budget":
        rate, least = numbers
        wanted = min(most, max(int(least), round(info.duration_seconds * rate)))
        return wanted, np.linspace(0, total - 1, wanted, dtype=np.int64)
    if kind == "keyframes":
        index = (info if info.packets is not None else probe_video(info.path)).packets
        assert index is not None
        found = np.flatnonzero(np.isin(index.shown, index.starts))
    elif kind == "scene":
        rate = (numbers or (2.0,))[0]
        looked_at = candidates(info, rate)

        def see() -> Array:
            from longva_eval.media.decode import read_frames as decode

            blocks = (read or decode)(info, looked_at.tolist())
            return _changes([colour_shares(frame) for block in blocks for frame in block])

        changes = looks(f"{info.digest}/{rate:g} a second/{len(looked_at)}/colours", see)
        found = _middles(looked_at, changes, most)
    else:
        assert kind == "file", f"{kind} has no rule"
        found = _named(info, rest, question)
    return min(most, len(found)), _spread(found, most)


def _spread(indices: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """At most so many of the indices, evenly spread."""
    if len(indices) <= most:
        return indices
    return indices[np.linspace(0, len(indices) - 1, most, dtype=np.int64)]


def candidates(info: VideoInfo, rate: float) -> npt.NDArray[np.int64]:
    """Frames that a policy looks at: so many a second, 4,096 of a video at most, ascending."""
    return np.unique(_by_rate(info, rate, _MOST_LOOKED_AT)).astype(np.int64)


def _most_similar(scores: Array, policy: FramePolicy) -> npt.NDArray[np.int64]:
    """Places of the frames chosen by their similarity, ascending; of equal ones the first."""
    most = min(policy.max_frames, len(scores))
    if policy.kind[0] == "query":
        places = np.sort(np.argsort(-scores, kind="stable")[:most])
    else:
        parts = np.array_split(np.arange(len(scores)), most)
        places = np.array([part[np.argmax(scores[part])] for part in parts])
    return places.astype(np.int64)


def colour_shares(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(512,) shares of 8 x 8 x 8 colours in (height, width, 3) pixels, every few of them."""
    step = max(1, min(frame.shape[:2]) // 64)
    colours = ((frame[::step, ::step] >> 5) @ np.array([64, 8, 1])).ravel()
    counts: npt.NDArray[np.float64] = np.bincount(colours, minlength=512) / len(colours)
    return counts


def _changes(shares: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """How much the colours of each differ from those of the one before, in [0, 1]."""
    changes: npt.NDArray[np.float64] = np.abs(np.diff(np.array(shares), axis=0)).sum(axis=1) / 2
    return changes


def sample_places(count: int, policy: FramePolicy, seen: Sequence[Any]) -> list[int]:
    """Choose frames of a composed clip, one a second.

    Args:
        count: Its frames.
        policy: `uniform`, `midpoints`, `scene`, `query` or `query-bins`; all frames if there are
            no more than it asks for.
        seen: Of each, for `scene` its `colour_shares`, for `query` its similarity to the question.

    Raises:
        SettingsError: If the policy needs a file.
    """
    kind, most = policy.kind[0], policy.max_frames
    known = ("uniform", "midpoints", "scene", "query", "query-bins")
    if policy.fps is not None or kind not in known:
        raise SettingsError(
            f"frame_policy={policy.policy} needs a video's file; needle tests have frames "
            f"alone: use {', '.join(known)}."
        )
    if count <= most:  # each of these would take them all
        return list(range(count))
    if policy.selector is not None:
        return [int(place) for place in _most_similar(np.array(seen), policy)]
    if kind == "uniform":
        return [int(place) for place in np.linspace(0, count - 1, most, dtype=int)]
    if kind == "midpoints":
        return [int(i * (count / (most + 1))) for i in range(1, most + 1)]
    assert kind == "scene", f"{kind} has no rule"
    return [int(place) for place in _middles(np.arange(count), _changes(seen), most)]


def _middles(
    frames: npt.NDArray[np.int64], changes: npt.NDArray[np.float64], most: int
) -> npt.NDArray[np.int64]:
    """The middle frame of each of `most` scenes, cut at the largest changes."""
    cuts = np.sort(np.argsort(-changes, kind="stable")[: most - 1] + 1)
    first = np.concatenate([[0], cuts])
    last = np.concatenate([cuts, [len(frames)]]) - 1
    middles: npt.NDArray[np.int64] = frames[(first + last) // 2]
    return middles


@functools.lru_cache(maxsize=4)
def _selection(path: str) -> tuple[dict[str, Any], str]:
    """A file's selections by video, and the hash of the file."""
    try:
        if Path(path).stat().st_size > _LARGEST_FILE_BYTES:
            raise ValueError("it has more than 256 MB")
        data = Path(path).read_bytes()
        found = json.loads(data)
        if not isinstance(found, dict) or not found:
            raise ValueError("it is no object of videos")
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(
            f'frame_policy=file:{path} cannot be used: {error}. It must read {{"film.mp4": [0, 40, '
            '80]}} with frame indices, {"seconds": [...]} in place of the list, or {"questions": '
            "{QUESTION_ID: [...]}}."
        ) from error
    return found, hashlib.sha256(data).hexdigest()


def _named(info: VideoInfo, path: str, question: Sequence[str]) -> npt.NDArray[np.int64]:
    """The frames that a file names for a video, or for a question on it."""
    selections, _ = _selection(path)
    video = Path(info.path)
    entry: Any = next(
        (selections[name] for name in (str(video), video.name, video.stem) if name in selections),
        None,
    )
    if isinstance(entry, Mapping) and "questions" in entry:
        chosen = entry["questions"] if isinstance(entry["questions"], Mapping) else {}
        entry = next((chosen[name] for name in question if name in chosen), None)
    what = f"{printable(video)}" + (f", question {' or '.join(question)}," if question else "")
    if entry is None:
        raise MediaError(f"{path} names no frames for {what}.")
    values = entry.get("seconds") if isinstance(entry, Mapping) else entry
    kinds = (int, float) if isinstance(entry, Mapping) else (int,)
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(each, kinds) and not isinstance(each, bool) for each in values)
    ):
        raise MediaError(f"{path}: {what} must have a list of frame indices, or of seconds.")
    if isinstance(entry, Mapping):
        times = np.sort(np.array(values, dtype=np.float64)) + _ROUNDING_SECONDS
        if (
            not 0
            <= times[0]
            <= times[-1]
            <= info.presentation_seconds[0] + info.duration_seconds + 1
        ):
            raise MediaError(f"{path}: {what} has times outside of the video.")
        return np.maximum(np.searchsorted(info.presentation_seconds, times, side="right") - 1, 0)
    if not 0 <= min(values) <= max(values) < info.num_frames:
        raise MediaError(
            f"{path} names frames {min(values)} to {max(values)} of {what} which has "
            f"{info.num_frames}."
        )
    return np.sort(np.array(values, dtype=np.int64))


def one_per_second(info: VideoInfo, *, gaps: GapPolicy = "error") -> Sequence[int]:
    """The frames of a V-NIAH haystack, one a second from the first.

    At a constant rate every round(average fps)-th; where it varies, the one on screen.

    Raises:
        MediaError: If pictures are missing in the video and `gaps` is `error`.

    Source: LongVA repository, commit f4c8781, vision_niah (haystack preparation).
    """
    if gaps == "error":
        refuse_gaps(info)
    return [int(index) for index in _by_rate(info, 1.0, _MOST_FRAMES)]


def _by_rate(info: VideoInfo, fps: float, most: int) -> npt.NDArray[np.int64]:
    """A frame every 1 / fps seconds, or `most` spread evenly if that would be more."""
    total = info.num_frames
    if info.has_constant_rate:
        step = max(1, round(min(info.average_fps / fps, total)))
        if -(-total // step) > most:
            return np.linspace(0, total - 1, most, dtype=np.int64)
        return np.arange(0, total, step)
    after_first = info.presentation_seconds - info.presentation_seconds[0]
    count = math.ceil(min(info.duration_seconds * fps, most + 1) - _ROUNDING_SECONDS)
    if count > most:
        times = np.linspace(0, after_first[-1], most)
    else:
        times = np.arange(max(1, count)) / fps
    return np.searchsorted(after_first, times + _ROUNDING_SECONDS, side="right") - 1


def refuse_gaps(info: VideoInfo) -> None:
    """Raise a MediaError that says where pictures are missing, if any are."""
    if info.gaps:
        longest = max(info.gaps, key=lambda gap: gap.missing_seconds)
        raise MediaError(
            f"{printable(info.path)} lacks pictures in {len(info.gaps)} places: the most, "
            f"{longest.missing_seconds:.2f} s, after {longest.at_seconds:.2f} s. Packets were lost "
            "or a part was cut out; its frame rate does not explain it. Fetch it again; or set "
            "video_gaps=count: what is there is used, and the record counts the gaps."
        )
