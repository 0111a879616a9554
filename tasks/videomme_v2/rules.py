"""Video-MME-v2: how a row is read, and the scores of groups. No torch.

Source: Video-MME-v2 repository, commit b24176a (README, evaluation/test_video_mme_v2.py).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from longva_eval.questions.documents import answer_letter, make_choice_doc
from longva_eval.stats import clustered_standard_error
from longva_eval.tasks.videomme.videomme import lettered_options

__all__ = ["COLUMNS", "group_rows", "group_score", "group_scores", "read_row"]

COLUMNS: Final = (
    "video_id", "question_id", "question", "options", "answer", "group_type", "group_structure",
    "level", "second_head", "third_head",
)  # fmt: skip
_MOST_OPTIONS: Final = 8
_GROUP_SIZE: Final = 4


def read_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of Video-MME-v2's as a document; its options are lines of one text there.

    Raises:
        ValueError: If it is not eight options, one of them right, in a group of a known kind.
    """
    given = row["options"]
    lines = given.split("\n") if isinstance(given, str) else given
    options = lettered_options([line for line in lines or [] if str(line).strip()])
    if len(options) > _MOST_OPTIONS:
        raise ValueError(f"the question has {len(options)} options, the prompt speaks of A to H")
    structure = row["group_structure"]
    group_score([False] * _GROUP_SIZE, row["group_type"], structure)
    if not re.search(r"-\d+$", str(row["question_id"])):
        raise ValueError(f"the question id {row['question_id']!r} does not end in -1 to -4")
    return make_choice_doc(
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


def _text(value: Any) -> str | None:
    if isinstance(value, float):  # a column of whole numbers with gaps
        return None if math.isnan(value) else f"{value:g}"
    return None if value is None else str(value)
