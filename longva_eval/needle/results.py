"""An answer of a needle test, in memory and on disk, and files that hold answers. No torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longva_eval.errors import MediaError

__all__ = [
    "Control",
    "NeedleAnswer",
    "is_answer",
    "mean_by_place",
    "read_accuracies",
    "read_answers",
    "rows_by_depth",
    "rows_by_index",
    "to_lines",
]

Control = Literal["no needle", "blind", "needle only"]
"""What a needle test is compared with (`longva_eval.needle.controls`)."""

_KEYS = ("Num. Frame", "Frame Depth", "Score")
_SAMPLE_METRIC = "vniah_accuracy"


@dataclass(frozen=True, kw_only=True)
class NeedleAnswer:
    """One question, scored with the true answer as input: a line of `cells.jsonl` and its like.

    Teacher-forced, as in the original: it is correct if every answer token is the model's first
    choice, which is the same as greedy decoding beginning with exactly the answer.
    """

    test: str = "single"
    control: Control | None = None
    """Of which control; None for a cell of the grid."""
    num_frames: int
    """Haystack frames in the prompt."""
    depth: float | None = None
    """Where the needles stand, 0 to 1; None in a control."""
    spread: float | None = None
    """Over which part of the haystack; None for one needle."""
    insert_index: int | None = None
    """The haystack frame that the first needle stands before; None if there is none."""
    insert_indices: tuple[int, ...] = ()
    """The same for all needles, in order."""
    distractor_indices: tuple[int, ...] = ()
    """The same for all distractors."""
    times: tuple[float, ...] = ()
    """When each needle is shown in the video, in seconds, at one frame a second."""
    needle: int
    """Place of the item in the list."""
    needle_name: str = ""
    rotation: int = 0
    """By how many places its options are rotated."""
    question: str = ""
    answer: str = ""
    floor: float | None = None
    """The share of right answers of one who guesses; None if answers are no closed set."""
    answer_ids: tuple[int, ...]
    pred_ids: tuple[int, ...]
    """First choice at each answer position, with the true answer as input."""
    correct: bool
    logprob: float
    """Of the answer, natural logarithm, over the whole output layer, padding rows included: as in
    the original."""
    min_margin: float
    """Smallest gap between the best and second-best logit at the answer's positions."""
    generated: str
    """What greedy decoding says; empty if nothing was decoded."""
    num_prompt_tokens: int
    kv_tokens: int | None = None
    """Under a press, the tokens that each layer held at the end of the prompt."""
    kv_bytes: int | None = None
    shown: float | None = None
    """Where frames were selected, the share of the needles among them."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> NeedleAnswer:
        """From a line of `cells.jsonl`, also of one that an earlier version wrote.

        Raises:
            TypeError: If a field is missing or unknown.
        """
        values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**values)


def to_lines(answers: Iterable[NeedleAnswer]) -> str:
    """The answers as lines of JSON."""
    held = ("kv_tokens", "kv_bytes", "shown")
    values = [{k: v for k, v in vars(answer).items() if k not in held or v is not None}
              for answer in answers]  # fmt: skip
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def read_answers(path: Path) -> list[NeedleAnswer]:
    """The answers of `cells.jsonl`.

    Raises:
        OSError, ValueError, TypeError, AttributeError: If it is missing or holds anything else.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    return [NeedleAnswer.from_json(json.loads(line)) for line in lines if line.strip()]


def rows_by_depth(answers: Iterable[NeedleAnswer]) -> list[dict[str, float]]:
    """The rows of `all_accuracies.json`: the share of needles found at each place."""
    return mean_by_place((each.num_frames, each.depth or 0.0, each.correct) for each in answers)


def rows_by_index(answers: Iterable[NeedleAnswer]) -> list[dict[str, float]]:
    """As `rows_by_depth`, by absolute position: `Insert Index` in place of `Frame Depth`."""
    places = (((each.num_frames, each.insert_index or 0), each.correct) for each in answers)
    return [
        {"Num. Frame": count, "Insert Index": index, "Score": score}
        for (count, index), score in _means(places)
    ]


def mean_by_place(cells: Iterable[tuple[int, float, bool]]) -> list[dict[str, float]]:
    """The rows of `all_accuracies.json` from answers of any kind.

    Args:
        cells: Number of frames, depth (0 to 1) and whether the needle was found, one per needle.

    Returns:
        `Num. Frame`, `Frame Depth` (percent, to a tenth) and `Score`, in the order first seen.
        The original rounds depths to tens, which gives two depths one name when they are 25 %
        apart (docs/differences.md).
    """
    places = (((count, round(depth * 100, 1)), correct) for count, depth, correct in cells)
    return [
        {"Num. Frame": count, "Frame Depth": depth, "Score": score}
        for (count, depth), score in _means(places)
    ]


def _means(places: Iterable[tuple[tuple[int, Any], bool]]) -> list[tuple[tuple[int, Any], float]]:
    found: dict[tuple[int, Any], list[bool]] = {}
    for place, correct in places:
        found.setdefault(place, []).append(correct)
    return [(place, sum(correct) / len(correct)) for place, correct in found.items()]


def read_accuracies(path: str | Path) -> list[dict[str, float]]:
    """Rows of a needle grid from a file.

    Args:
        path: `all_accuracies.json` (ours or the original's); `cells.jsonl`; or the samples file
            that lmms-eval wrote for a vniah task.

    Raises:
        MediaError: If the file is missing or holds anything else.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MediaError(f"{path} does not exist.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{path} cannot be read: {error}") from error
    if path.suffix == ".jsonl":
        return mean_by_place(_cells(text, path))
    rows = _parse(text, str(path))
    if not isinstance(rows, list) or not rows:
        raise MediaError(f"{path} must be a list of rows with {', '.join(_KEYS)}.")
    if isinstance(rows[0], dict) and "Insert Index" in rows[0] and _KEYS[1] not in rows[0]:
        raise MediaError(
            f"{path} has the accuracies of a lattice by absolute position, not by depth. Those by "
            f"depth are in {path.with_name('all_accuracies.json')}; a heatmap by position is the "
            "heatmap.png that longva-eval niah drew beside it."
        )
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not all(_is_number(row.get(key)) for key in _KEYS):
            raise MediaError(f"{path}: row {number} must have numbers as {', '.join(_KEYS)}.")
        if not 0 <= row["Score"] <= 1:
            raise MediaError(f"{path}: row {number} has Score={row['Score']}, not within 0 and 1.")
    return [{key: float(row[key]) for key in _KEYS} for row in rows]


def _cells(text: str, path: Path) -> list[tuple[int, float, bool]]:
    cells = []
    # Not splitlines(), which also ends lines at U+2028 and others that JSON leaves as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        row = _parse(line, place)
        if isinstance(row, Mapping) and isinstance(row.get(_SAMPLE_METRIC), Mapping):
            row = row[_SAMPLE_METRIC]
        if not isinstance(row, Mapping):
            raise MediaError(f"{place}: not a needle cell.")
        correct = row.get("correct", row.get("score"))
        if not (_is_number(row.get("num_frames")) and _is_number(row.get("depth"))) or not (
            isinstance(correct, bool) or correct in (0, 1)
        ):
            raise MediaError(f"{place}: not a needle cell with num_frames, depth and correct.")
        cells.append((int(row["num_frames"]), float(row["depth"]), bool(correct)))
    if not cells:
        raise MediaError(f"{path} is empty.")
    return cells


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits, too
        raise MediaError(f"{place} is not valid JSON: {error}") from error


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond floats
        return False


def is_answer(text: str, answer: str) -> bool:
    """Whether a generated text gives the answer: for models that can only generate.

    Case and closing punctuation do not count. A letter of a choice may carry its bracket, dot or
    option text (`(B)`, `B.`, `B. San Diego`); a word or number must be all of the first line, or
    be followed by punctuation. A blank answer is given by no text.
    """
    if not text.strip() or not answer.strip():
        return False
    line = text.strip().splitlines()[0].strip()
    bare = re.escape(answer.strip())
    if re.fullmatch(r"[A-Z]", answer.strip()):
        return re.match(rf"[(\[*\"']*{bare}(?:[)\].:,*\"']|$)", line) is not None
    # Punctuation ends an answer where a blank or the end follows: `3.5` and `3:30` are not `3`.
    end = r"[\"'*]*(?:[.,;:!]+[\"'*]*(?:\s|$)|$)"
    return re.match(rf"[\"'*]*{bare}{end}", line, re.IGNORECASE) is not None
