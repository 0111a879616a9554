"""Video-MME and Video-MME-v2: prompts, checked rows, and v2's scores of groups. No torch.

The mini suite has Video-MME's schema and uses the same functions. Sources: Video-MME repository,
commit 06c2315 (README: prompt, rule for subtitles); Video-MME-v2 repository, commit b24176a (README
and evaluation/test_video_mme_v2.py: prompt, scores).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from longva_eval.errors import DataError
from longva_eval.media.subtitles import (
    cues_at,
    evenly_spread_seconds,
    read_subtitles,
    subtitle_block,
    subtitle_marker,
)
from longva_eval.questions.documents import answer_letter, choice_document
from longva_eval.stats import clustered_standard_error

__all__ = [
    "COLUMNS",
    "DURATIONS",
    "V2_COLUMNS",
    "group_rows",
    "group_score",
    "group_scores",
    "multiple_choice_prompt",
    "note_rule",
    "noted_rule",
    "partial_score",
    "read_row",
    "read_v2_row",
    "subtitle_text",
    "v2_prompt",
]

DURATIONS: Final = ("short", "medium", "long")
COLUMNS: Final = (
    "video_id", "duration", "domain", "sub_category", "videoID", "question_id", "task_type",
    "question", "options", "answer",
)  # fmt: skip
V2_COLUMNS: Final = (
    "video_id", "question_id", "question", "options", "answer", "group_type", "group_structure",
    "level", "second_head", "third_head",
)  # fmt: skip
_NUM_OPTIONS: Final = 4
_MOST_V2_OPTIONS: Final = 8
_GROUP_SIZE: Final = 4
_INSTRUCTION: Final = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter ({letters}) of the correct option."
)


def multiple_choice_prompt(row: Mapping[str, Any], *, subtitles: str = "") -> str:
    """Video-MME's official prompt.

    Args:
        row: A question, with its options as lines `A. ...`.
        subtitles: From `subtitle_text`, or nothing.
    """
    options = "\n".join(row["options"])
    instruction = _INSTRUCTION.format(letters="A, B, C, or D")
    return f"{subtitles}{instruction}\n{row['question']}\n{options}\nThe best answer is:"


def v2_prompt(document: Mapping[str, Any], *, subtitles: str = "") -> str:
    """Video-MME-v2's official prompt, with the parts in the order of its script.

    Args:
        document: From `read_v2_row`.
        subtitles: All words of the video, or nothing.
    """
    options = "\n".join(document["options"])
    instruction = _INSTRUCTION.format(letters="A, B, C, D, E, F, G, or H")
    listed = f" This video's subtitles are listed below:\n{subtitles}\n" if subtitles else ""
    return (
        f"These are the frames of a video.{listed}\n"
        f"Question: {document['question']}\n{options}\n{instruction}"
    )


def subtitle_text(
    subtitle_file: Path,
    video_file: Callable[[], str | Path],
    *,
    rule: str,
    num_frames: int,
) -> tuple[str, str]:
    """What a task puts before its question, and the rule's name for the record.

    Args:
        subtitle_file: May be missing: of the 900 videos, 744 have one.
        video_file: Gives the video's path; asked for only where the rule needs it.
        rule: `frames_seen` for models of longva-eval, which know their frames; `evenly_spread` for
            others; `all` for the whole file.
        num_frames: For `evenly_spread`.

    Raises:
        DataError: If the rule is unknown or the file cannot be read.
        MediaError: If the video is needed and cannot be read.
    """
    if rule not in ("frames_seen", "evenly_spread", "all"):
        raise DataError(
            f"subtitles: {rule!r} in lmms_eval_specific_kwargs is unknown; use frames_seen, "
            "evenly_spread or all."
        )
    if not subtitle_file.is_file():
        return "", "none"
    cues = read_subtitles(subtitle_file)
    if rule == "frames_seen":
        return subtitle_marker(subtitle_file), "at the frames seen"
    if rule == "all":
        return subtitle_block(cues), "all"
    shown = cues_at(cues, evenly_spread_seconds(video_file(), num_frames))
    return subtitle_block(shown), f"at {num_frames} evenly spread frames"


def read_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of Video-MME's as a document, its options as they are.

    Raises:
        ValueError: If it is not four options, one of them right, with a duration.
    """
    if row["duration"] not in DURATIONS:
        raise ValueError(f"the duration is {row['duration']!r}, not short, medium or long")
    options = _options(row["options"])
    if len(options) != _NUM_OPTIONS:
        raise ValueError(f"the question has {len(options)} options, not {_NUM_OPTIONS}: {options}")
    return choice_document(
        question_id=row["question_id"],
        video=row["videoID"],
        question=row["question"],
        options=options,
        answer=answer_letter(row["answer"], options),
        categories={
            name: row[name] for name in ("duration", "domain", "sub_category", "task_type")
        },
        video_id=str(row["video_id"]),
    )


def read_v2_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of Video-MME-v2's as a document; its options are lines of one text there.

    Raises:
        ValueError: If it is not eight options, one of them right, in a group of a known kind.
    """
    given = row["options"]
    lines = given.split("\n") if isinstance(given, str) else given
    options = _options([line for line in lines or [] if str(line).strip()])
    if len(options) > _MOST_V2_OPTIONS:
        raise ValueError(f"the question has {len(options)} options, the prompt speaks of A to H")
    structure = row["group_structure"]
    group_score([False] * _GROUP_SIZE, row["group_type"], structure)
    if not re.search(r"-\d+$", str(row["question_id"])):
        raise ValueError(f"the question id {row['question_id']!r} does not end in -1 to -4")
    return choice_document(
        question_id=row["question_id"],
        video=str(row["video_id"]),
        question=row["question"],
        options=options,
        answer=answer_letter(row["answer"], options),
        categories={
            name: _text(row[name]) for name in ("group_type", "level", "second_head", "third_head")
        },
        group_structure=str(structure),
    )


def _options(given: Any) -> list[str]:
    if given is None or isinstance(given, str) or not len(given):
        raise ValueError("the question has no options")
    options = [str(option).strip() for option in given]
    for place, option in enumerate(options):
        letter = chr(ord("A") + place)
        if not option.startswith(letter):
            raise ValueError(f"option {place + 1} does not begin with {letter}: {option!r}")
    return options


def _text(value: Any) -> str | None:
    if isinstance(value, float):  # a column of whole numbers with gaps
        return None if math.isnan(value) else f"{value:g}"
    return None if value is None else str(value)


_rules: dict[tuple[str, str], str] = {}


def note_rule(document: Mapping[str, Any], rule: str) -> None:
    """Keep by which rule a question was given its subtitles, for its record.

    lmms-eval tells a task of the model's settings when the prompt is made, and not again.
    """
    _rules[document["task"], document["question_id"]] = rule


def noted_rule(document: Mapping[str, Any]) -> str:
    """The rule that was kept; "unknown" where the prompt came from elsewhere."""
    return _rules.get((document["task"], document["question_id"]), "unknown")


def partial_score(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a metric over a part of the questions needs of a record; the host finds its cluster."""
    return {"score": record["score"], "cluster": record["cluster"]}


def group_score(right: Sequence[bool], group_type: str, structure: Any) -> float:
    """Video-MME-v2's score of a group of four questions, from 0 to 1.

    A group of relevance counts how many are right, squared; four of four are 1. A group of logic
    counts how far the chain is right from its start; of two questions that stand side by side in
    the chain, the second alone is enough for that step, but only that.

    Args:
        right: For each question, in order.
        group_type: `relevance` or `logic`.
        structure: For logic, `[1, 2, 3, 4]`, `[1, [2, 3], 4]` or `[[1, 2], 3, 4]`, or its text.

    Raises:
        ValueError: If the group is not of a known kind, or has not four questions.

    Source: cal_relevance and cal_logic of evaluation/test_video_mme_v2.py.
    """
    if len(right) != _GROUP_SIZE:
        raise ValueError(f"a group has four questions, not {len(right)}")
    if group_type == "relevance":
        steps = sum(map(bool, right))
        return (0.0, 1 / 16, 4 / 16, 9 / 16, 1.0)[steps]
    if group_type != "logic":
        raise ValueError(f"the group type {group_type!r} is neither relevance nor logic")
    try:
        chain = ast.literal_eval(structure) if isinstance(structure, str) else structure
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"the group structure {structure!r} cannot be read") from error
    steps = next((place for place, is_right in enumerate(right) if not is_right), _GROUP_SIZE)
    if chain == [1, 2, 3, 4]:
        return (0.0, 1 / 16, 4 / 16, 9 / 16, 1.0)[steps]
    if chain == [1, [2, 3], 4]:
        steps += steps == 1 and bool(right[2])
        return (0.0, 1 / 12, 4 / 12, 7 / 12, 1.0)[steps]
    if chain == [[1, 2], 3, 4]:
        steps += steps == 0 and bool(right[1])
        return (0.0, 1 / 10, 2 / 10, 5 / 10, 1.0)[steps]
    raise ValueError(
        f"the group structure {structure!r} is none of [1, 2, 3, 4], [1, [2, 3], 4], [[1, 2], 3, 4]"
    )


def group_scores(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The scores of all whole groups, in order of appearance.

    Args:
        records: Of single questions: `cluster` is the group, `question_id` ends in its place,
            `right`, `group_type`, `group_structure`, and `categories` of the question.

    Returns:
        For each group `cluster`, `score`, `group_type` and `categories`, which are those of its
        last question, as officially. Groups of which questions are missing are left out, which
        only a run with `--limit` has.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(str(record["cluster"]), []).append(record)
    found = []
    for name, group in groups.items():
        if len(group) != _GROUP_SIZE:
            continue
        ordered = sorted(group, key=lambda record: int(record["question_id"].rsplit("-", 1)[1]))
        categories = ordered[-1]["categories"]
        right = [record["outcome"] == "right" for record in ordered]
        # The type and structure of the first, like the host; they are the group's.
        kind = ordered[0]["categories"]["group_type"]
        score = group_score(right, kind, ordered[0]["group_structure"])
        found.append(
            {"cluster": name, "score": score, "group_type": kind, "categories": dict(categories)}
        )
    return found


def group_rows(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean score of groups, overall and within each value of each category.

    Args:
        groups: From `group_scores`.

    Returns:
        Rows with category, value, num_groups, score and standard_error.
    """
    if not groups:
        return []
    parts: dict[tuple[str, str], list[float]] = {("overall", "overall"): []}
    for group in groups:
        parts["overall", "overall"].append(group["score"])
        for name, value in group["categories"].items():
            parts.setdefault((name, str(value)), []).append(group["score"])
    return [
        {
            "category": name,
            "value": value,
            "num_groups": len(scores),
            "score": math.fsum(scores) / len(scores),
            "standard_error": clustered_standard_error(scores, range(len(scores))),
        }
        for (name, value), scores in parts.items()
    ]
