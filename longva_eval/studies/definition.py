"""A study: one model at several numbers of frames and RoPE settings. No torch.

A *point* is one place of the grid. Each point is an ordinary run of lmms-eval in a folder of its
own; `study.json` beside them says which there are and what became of them. What a study was is
written as YAML, so that the same command without options can repeat it.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, get_args

import yaml

from longva_eval.errors import MediaError, SettingsError
from longva_eval.files import write_atomically
from longva_eval.model.rope import RopeSettings, RopeType
from longva_eval.running.journal import settings_difference
from longva_eval.text import parse_whole_range

__all__ = [
    "AXES",
    "LEAST_KNOWN",
    "NEEDLES_NAME",
    "PICTURES_ALONE_NAME",
    "RECORD_NAME",
    "SETTINGS_NAME",
    "WITHOUT_FRAMES",
    "Method",
    "Point",
    "Study",
    "check_same_study",
    "read_record",
    "read_study_file",
    "rope_label",
    "study_from",
    "study_text",
    "write_json",
]

SETTINGS_NAME: Final = "study.yaml"
"""What was asked, in a study's folder."""
RECORD_NAME: Final = "study.json"
NEEDLES_NAME: Final = "needles.json"
"""The tables of a study of needle tests."""
PICTURES_ALONE_NAME: Final = "pictures_alone.json"
"""What share of each needle test the model answers on the pictures alone."""
LEAST_KNOWN: Final = 0.8
"""Of that share, for methods to be compared on the test."""
"""What became of it."""

_LARGEST_FILE_BYTES: Final = 1 << 20
OWN: Final = "own"
"""Instead of a RoPE base or type: the checkpoint's own."""
AXES: Final = {
    "frame_policy": "uniform", "positions": "own", "kv_press": "none", "control": "none",
}  # fmt: skip
"""Axes of method: arguments of the model that a study may give several values, and their
defaults."""
CONTROLS: Final = ("none", "blind", "shuffle", "single-frame", "circular")
"""As in `longva_eval.engine.control`."""
WITHOUT_FRAMES: Final = ("blind", "single-frame")
"""Controls that do not depend on the number of frames: asked at the largest one alone."""
_GRID: Final = ("frames", "rope_theta", "rope_type", "rope_factor", *AXES)
_LISTS: Final = ("tasks", "tests", *_GRID)
_SET_BY_STUDY: Final = {
    "pretrained": "give it as --pretrained",
    "max_frames_num": "give all numbers of frames with --frames",
    "rope_theta": "give all of them with --rope-theta",
    "rope_type": "give all of them with --rope-type",
    "rope_factor": "give all of them with --rope-factor",
    **{name: f"give all of them with --{name.replace('_', '-')}" for name in AXES},
    "journal": "each point has one of its own",
    "fresh": "use longva-eval sweep --fresh",
}
"""Arguments of the model that a study sets itself."""
_CHANGES_NO_NUMBER: Final = frozenset(
    ["on_error", "max_failed", "device", "device_map", "feature_cache", "reuse", "batch_size"]
)
"""Arguments of the model that may be others when a study is resumed."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A place on the axes of method, each a named policy (docs/axes.md)."""

    frame_policy: str = AXES["frame_policy"]
    positions: str = AXES["positions"]
    kv_press: str = AXES["kv_press"]
    control: str = AXES["control"]

    def changed(self) -> dict[str, str]:
        """The axes on which it is not the default."""
        return {name: value for name, value in vars(self).items() if value != AXES[name]}

    @property
    def label(self) -> str:
        """In words; empty for the defaults."""
        return ", ".join(self.changed().values())


@dataclass(frozen=True, kw_only=True)
class Point:
    """One place of a study's grid."""

    name: str
    """Of its folder."""
    frames: int
    rope: RopeSettings
    method: Method = Method()
    arguments: str
    """`--model_args` of the same run by itself."""

    @property
    def rope_label(self) -> str:
        """The RoPE settings in words, and with them every policy that is not the default."""
        return ", ".join(filter(None, (rope_label(self.rope), self.method.label)))


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is asked: a model, tasks, and a grid of frames and RoPE settings."""

    pretrained: str
    """As of the model: a folder, a hub id or the name of an embedded checkpoint."""
    tasks: tuple[str, ...] = ()
    frames: tuple[int, ...] = ()
    tests: tuple[str, ...] = ()
    """Needle tests instead of tasks (`longva_eval.studies.needles`); frames are their lengths."""
    show: int | None = None
    """Frames that are shown of each of their videos; all if None."""
    items: int | None = None
    """Questions of each of them."""
    depths: str | None = None
    """Where their needles stand, as of `longva-eval niah`."""
    rope_theta: tuple[float | None, ...] = (None,)
    """Bases; None is the checkpoint's own, `own` in a file."""
    rope_type: tuple[str | None, ...] = (None,)
    rope_factor: tuple[float | None, ...] = (None,)
    """For the types that need one."""
    frame_policy: tuple[str, ...] = (AXES["frame_policy"],)
    """Which frames are chosen; as the others below, the first value is what others are compared
    with."""
    positions: tuple[str, ...] = (AXES["positions"],)
    """Where tokens stand."""
    kv_press: tuple[str, ...] = (AXES["kv_press"],)
    """What is kept of a video."""
    control: tuple[str, ...] = (AXES["control"],)
    """What is taken away, for a floor; `none` is always asked, too."""
    model: str = "longva"
    """As `--model` of lmms-eval."""
    limit: float | None = None
    model_args: Mapping[str, str] = field(default_factory=dict)
    """Further arguments of the model, the same for all points."""
    include_path: str | None = None
    """Folder of tasks that lmms-eval does not have."""

    def __post_init__(self) -> None:
        self.points()  # says what is wrong with the grid

    def ropes(self) -> list[RopeSettings]:
        """The RoPE settings of the grid."""
        extra = {
            name.removeprefix("rope_"): _rope_value(name, value)
            for name, value in self.model_args.items()
            if name.startswith("rope_")
        }
        needs_factor = [_needs_factor(kind) for kind in self.rope_type]
        found: dict[RopeSettings, None] = {}
        for kind, theta in itertools.product(self.rope_type, self.rope_theta):
            # Where some types need a factor, it is not meant for the others.
            factors = self.rope_factor
            if not _needs_factor(kind) and any(needs_factor):
                factors = (None,)
            for factor in factors:
                more: Any = extra if kind not in (None, "default") else {}
                kind_here: Any = kind
                settings = RopeSettings(theta=theta, rope_type=kind_here, factor=factor, **more)
                found[settings] = None
        if extra and all(kind in (None, "default") for kind in self.rope_type):
            raise SettingsError(
                f"rope_{next(iter(extra))} has no effect without --rope-type; "
                f"use one of {', '.join(get_args(RopeType))}."
            )
        return list(found)

    def points(self) -> list[Point]:
        """The grid, RoPE settings outside, then methods, frames inside, ascending."""
        ropes = self.ropes()
        plain = len(ropes) == 1 and ropes[0].is_unchanged
        common = {name: v for name, v in self.model_args.items() if not name.startswith("rope_")}
        points = []
        for rope, method, frames in itertools.product(ropes, self.methods(), self.frames):
            if method.control in WITHOUT_FRAMES and frames != max(self.frames):
                continue
            arguments = {"pretrained": self.pretrained, **common, "max_frames_num": str(frames)}
            arguments |= _rope_arguments(rope) | method.changed()
            named = "".join(
                f"-{re.sub(r'[^A-Za-z0-9.]+', '-', text)}" for text in method.changed().values()
            )
            points.append(
                Point(
                    name=f"frames-{frames}" + ("" if plain else f"-{_rope_name(rope)}") + named,
                    frames=frames,
                    rope=rope,
                    method=method,
                    arguments=",".join(f"{name}={value}" for name, value in arguments.items()),
                )
            )
        names = [point.name for point in points]
        if len(set(names)) < len(names):
            raise SettingsError(
                f"Two points would be called {max(names, key=names.count)}: rename the files that "
                "frame_policy=file: names."
            )
        return points

    def needle_points(self) -> list[Point]:
        """Of needle tests: a point for each combination but of lengths, which are part of each."""
        return replace(self, frames=(self.show or max(self.frames),)).points()

    def methods(self) -> list[Method]:
        """All combinations of the axes of method."""
        values: Any = (getattr(self, name) for name in AXES)
        return [
            Method(**dict(zip(AXES, chosen, strict=True))) for chosen in itertools.product(*values)
        ]

    def describe(self) -> dict[str, Any]:
        """As in a file; what was left out is left out."""
        values: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, tuple):
                value = [OWN if part is None else part for part in value]
                if value == [AXES.get(each.name, OWN)] and each.name not in ("tasks", "frames"):
                    continue
            elif isinstance(value, Mapping):
                value = dict(value)
            if value is None or value in ({}, []):
                continue
            values[each.name] = value
        return values


# From options and files ---------------------------------------------------------------------------


def study_from(values: Mapping[str, Any], *, where: str) -> Study:
    """A study from names and values, as a file or a command line gives them.

    Args:
        values: Lists may be given as lists, as one value, or as text with commas.
        where: How the user calls the place they come from, for errors.

    Raises:
        SettingsError: If a name is unknown, something is missing, or a value is impossible.
    """
    known = [each.name for each in fields(Study)]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise SettingsError(f"{where}: unknown key {name!r}.{hint} Known: {', '.join(known)}.")
    given = {name: value for name, value in values.items() if value is not None}
    what = "tests" if given.get("tests") else "tasks"
    if given.get("tests") and given.get("tasks"):
        raise SettingsError(f"{where}: a study asks tasks or needle tests, not both.")
    missing = [name for name in ("pretrained", what, "frames") if not given.get(name)]
    if missing:
        raise SettingsError(f"{where}: a study needs {' and '.join(missing)}.")
    made: dict[str, Any] = {}
    if isinstance(given["frames"], str) and ":" in given["frames"]:
        given["frames"] = parse_whole_range(given["frames"], name="frames")
    for name, value in given.items():
        made[name] = _list(name, value, where) if name in _LISTS else value
    for name in ("pretrained", "model", "include_path"):
        if name in made and (not isinstance(made[name], str) or not made[name].strip()):
            raise SettingsError(f"{where}: {name} must be a text, not {made[name]!r:.60}.")
    for name in ("show", "items"):
        if name in made:
            made[name] = _frames(made[name], where)
    for name in ("tasks", "tests"):
        made[name] = tuple(str(each) for each in made.get(name, ()))
    if "depths" in made:
        made["depths"] = str(made["depths"])
    made["frames"] = tuple(sorted({_frames(value, where) for value in made["frames"]}))
    for name in ("rope_theta", "rope_factor"):
        if name in made:
            made[name] = tuple(_number_or_own(name, value, where) for value in made[name])
    if "rope_type" in made:
        made["rope_type"] = tuple(
            None if value in (None, OWN) else str(value) for value in made["rope_type"]
        )
    for name in AXES:
        if name in made:
            made[name] = tuple(str(value) for value in made[name])
    made["control"] = tuple(dict.fromkeys((AXES["control"], *made.get("control", ()))))
    for each in made["control"]:
        if each not in CONTROLS:
            raise SettingsError(
                f"{where}: control: {each!r:.60} is unknown; use {', '.join(CONTROLS[1:])}."
            )
    if "limit" in made:
        made["limit"] = _limit(made["limit"], where)
    if "model_args" in made:
        made["model_args"] = _model_args(made["model_args"], where)
    return Study(**made)


class Loader(yaml.SafeLoader):
    """YAML without references, ten lines of which can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node that stands where it is written."""
        if self.check_event(yaml.AliasEvent):
            alias = self.get_event()  # type: ignore[no-untyped-call]  # PyYAML's parser
            raise yaml.YAMLError(f"line {alias.start_mark.line + 1}: references are not read")
        return super().compose_node(parent, index)


def read_study_file(path: Path) -> dict[str, Any]:
    """The names and values of a study's YAML.

    Args:
        path: The file, or the folder of a study.

    Raises:
        SettingsError: If the file cannot be read or is no mapping.
    """
    path = path / SETTINGS_NAME if path.is_dir() else path
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise yaml.YAMLError("it has more than 1 MB")
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)
        str(values)  # a ValueError if there is a number of more than 4,300 digits
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no such date, too
        raise SettingsError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(
            f"{path} must be a mapping with pretrained, tasks and frames, not "
            f"{type(values).__name__}."
        )
    return {str(name): value for name, value in values.items()}


def study_text(study: Study) -> str:
    """The study as YAML."""
    text: str = yaml.safe_dump(study.describe(), sort_keys=False, allow_unicode=True)
    return f"# longva-eval sweep {SETTINGS_NAME} --out DIR repeats this study.\n{text}"


def check_same_study(study: Study, folder: Path) -> None:
    """Make sure that a folder holds nothing, or this study, perhaps with another grid.

    A study that ended before it answered anything (its task was misspelt) holds nothing.
    Points of a grid do not depend on each other: more or fewer of them are the same study. Nor do
    numbers depend on what happens when a video cannot be read, or on which device computes.

    Raises:
        SettingsError: If it holds another study; the difference is named.
    """
    path = folder / SETTINGS_NAME
    has_begun = any(path.is_file() for path in (folder / "points").rglob("*"))
    if not path.is_file() or not has_begun:
        return
    there = study_from(read_study_file(path), where=str(path))
    old, new = _fixed(there), _fixed(study)
    if old != new:
        raise SettingsError(
            f"{folder} holds another study: {settings_difference(old, new)}. Choose another "
            "folder, or start over with --fresh, which sets aside what is there."
        )


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file that is complete or as it was."""
    with write_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def read_record(path: Path) -> dict[str, Any]:
    """The record of a study.

    Args:
        path: Its folder, or the file itself.

    Raises:
        MediaError: If there is none, or it cannot be read.
    """
    path = path / RECORD_NAME if path.is_dir() else path
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise MediaError(f"{path} is not valid JSON ({error}); run the sweep again.") from error
    if not isinstance(record, dict) or not isinstance(record.get("points"), list):
        raise MediaError(f"{path} is no record of a study: it has no list under 'points'.")
    return record


def rope_label(rope: RopeSettings) -> str:
    """RoPE settings in words, as `theta 1e+06, yarn x 4`."""
    if rope.is_unchanged:
        return "own RoPE"
    parts = [] if rope.theta is None else [f"theta {_short_number(rope.theta)}"]
    if rope.rope_type is not None:
        parts.append(rope.rope_type + ("" if rope.factor is None else f" x {rope.factor:g}"))
    return ", ".join(parts)


# Parts --------------------------------------------------------------------------------------------


def _fixed(study: Study) -> dict[str, Any]:
    """What must be the same when a study is resumed."""
    values = {name: value for name, value in study.describe().items() if name not in _GRID}
    values["tasks"] = ",".join(sorted(study.tasks or study.tests))
    values["model_args"] = {
        name: value for name, value in study.model_args.items() if name not in _CHANGES_NO_NUMBER
    }
    values["limit"] = study.limit
    return values


def _list(name: str, value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str):
        parts: Iterable[Any] = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, Sequence):
        parts = value
    elif isinstance(value, Mapping):
        raise SettingsError(f"{where}: {name} must be a list, not a mapping.")
    else:
        parts = [value]
    parts = list(parts)
    if any(isinstance(part, (Mapping, list)) for part in parts):
        raise SettingsError(f"{where}: {name} must be a list of single values.")
    found = tuple(dict.fromkeys(parts))
    if not found:
        raise SettingsError(f"{where}: {name} is empty.")
    return found


def _frames(value: Any, where: str) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not 1 <= number < math.inf or number != int(number):
        raise SettingsError(f"{where}: frames: {value!r:.60} is no whole number of at least 1.")
    return int(number)


def _number_or_own(name: str, value: Any, where: str) -> float | None:
    if value is None or value == OWN:
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        # YAML reads 1e6, without a point, as a text.
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise SettingsError(f"{where}: {name}: {value!r:.60} is no number.") from error


def _limit(value: Any, where: str) -> float | None:
    number = _number_or_own("limit", value, where)
    if number is None or number == -1:
        return None
    if not 0 < number < math.inf or (number > 1 and number != int(number)):
        raise SettingsError(
            f"{where}: limit: {value!r:.60} must be a number of questions, or a share below 1."
        )
    return int(number) if number >= 1 else number


def _model_args(value: Any, where: str) -> dict[str, str]:
    if isinstance(value, str):
        parts = [part for part in value.split(",") if part.strip()]
        if any("=" not in part for part in parts):
            raise SettingsError(f"{where}: model_args: {value!r} must read name=value,name=value.")
        value = {name.strip(): text for name, text in (part.split("=", 1) for part in parts)}
    if not isinstance(value, Mapping):
        raise SettingsError(f"{where}: model_args must be a mapping, not {value!r:.60}.")
    for name in value:
        if name in _SET_BY_STUDY:
            raise SettingsError(f"{where}: model_args: {name}: {_SET_BY_STUDY[name]}.")
        if isinstance(value[name], (Mapping, list, tuple, set)):
            raise SettingsError(f"{where}: model_args: {name} must be a single value.")
    return {
        str(name): str(part).lower() if isinstance(part, bool) else str(part).strip()
        for name, part in value.items()
    }


def _needs_factor(kind: str | None) -> bool:
    return kind not in (None, "default")


def _rope_value(name: str, value: str) -> Any:
    try:
        if name in ("rope_short_factor", "rope_long_factor"):
            return tuple(float(part) for part in value.split("/"))
        number = float(value)
        return int(number) if name.endswith("_length") else number
    except ValueError as error:
        raise SettingsError(f"model_args: {name}={value!r} must be a number.") from error


def _rope_arguments(rope: RopeSettings) -> dict[str, str]:
    arguments = {}
    for name, value in rope.describe().items():
        text = "/".join(f"{part:g}" for part in value) if isinstance(value, tuple) else value
        arguments[name if name == "rope_type" else f"rope_{name}"] = str(text)
    return arguments


def _rope_name(rope: RopeSettings) -> str:
    """For a folder: the whole base, so that two never share one."""
    parts = []
    if rope.theta is not None:
        whole = rope.theta == int(rope.theta)
        parts.append(f"theta-{int(rope.theta) if whole else rope.theta}")
    if rope.rope_type is not None:
        parts.append(rope.rope_type + ("" if rope.factor is None else f"-{rope.factor:g}"))
    return "-".join(parts) or "own-rope"


def _short_number(value: float) -> str:
    if value >= 1e5:
        mantissa, exponent = f"{value:.6e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,g}"
