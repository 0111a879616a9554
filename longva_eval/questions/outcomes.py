"""What became of a question: right, wrong, no answer, failed, or not scored. No torch.

Every task of ours writes one *record* per question into its metric, and lmms-eval writes that into
the samples file. So a report finds the same fields for every benchmark. Nothing is dropped from a
mean: what could not be read or answered scores 0 and is counted under its own name. Only answers to
questions whose solution a board keeps to itself are in no mean: they are not scored.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from longva_eval.questions.answers import read_choice
from longva_eval.stats import clustered_standard_error

__all__ = [
    "FAILED",
    "OUTCOMES",
    "Outcome",
    "category_rows",
    "choice_record",
    "is_scored",
    "mean_score",
    "mean_with_breakdown",
    "record_of",
    "results_folder",
    "said_of",
    "scored_record",
    "share_answered",
    "write_breakdown",
]

Outcome = Literal["right", "wrong", "no answer", "failed", "not scored"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("right", "wrong", "no answer", "failed", "not scored")

FAILED: Final = "<failed>"
"""Stands where an answer would, for a question that could not be asked: an unreadable video, NaN.

No capital letter and no bare option letter, so that no task's parser takes it for a choice; the
reason stands in the sample's `longva_eval` entry.
"""


def choice_record(
    text: str,
    *,
    options: Sequence[str],
    answer: str,
    question_id: str,
    cluster: str,
    question: str = "",
    categories: Mapping[str, str] | None = None,
    media: Sequence[str] = (),
    never_right: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """The record of a multiple-choice question.

    Options with the same text are the same option: naming any of them is as right as another.

    Args:
        text: What the model said, or `FAILED`.
        options: The options in order, with or without their letters.
        answer: The right letter; empty where a board keeps it to itself.
        question_id: Unique within the task.
        cluster: What questions share that makes their errors dependent: the video, the picture.
        question: The question without the options, for people to read.
        categories: Subsets the question belongs to, such as `{"duration": "short"}`.
        media: Paths of the videos or pictures, where they are files.
        never_right: The answer is empty because it is none of the options, not because it is
            hidden: the question counts, and nobody is right.
        **more: Whatever else the task wants to keep.

    Returns:
        A mapping that JSON can hold. `choice` is the letter that was read, or None; `score` is 1.0
        for right and otherwise 0.0. A choice where the right one is hidden is "not scored", and
        `hidden_answer` says so whatever was said.

    Raises:
        ValueError: If there are no options, or the answer is not one of their letters.
    """
    letters = [chr(ord("A") + number) for number in range(len(options))]
    if answer and answer not in letters:
        raise ValueError(f"Question {question_id}: the answer {answer!r} is none of {letters}.")
    choice = None if text == FAILED else read_choice(text, options)
    outcome: Outcome
    if text == FAILED:
        outcome = "failed"
    elif choice is None:
        outcome = "no answer"
    elif not answer and not never_right:
        outcome = "not scored"
    else:
        texts = dict(zip(letters, map(_bare, letters, options), strict=True))
        is_right = bool(answer) and texts[choice] == texts[answer]
        outcome = "right" if is_right else "wrong"
    hidden = {} if answer or never_right else {"hidden_answer": True}
    return {
        "question_id": question_id,
        "cluster": cluster,
        "outcome": outcome,
        "score": float(outcome == "right"),
        "choice": choice,
        "answer": answer,
        "generated": text,
        "question": question,
        "options": list(options),
        "categories": dict(categories or {}),
        "media": list(media),
        **hidden,
        **more,
    }


def said_of(doc: Mapping[str, Any], text: str) -> tuple[str, dict[str, Any]]:
    """What was said, and more for the record: a question that cannot be asked has failed."""
    if not doc.get("unaskable"):
        return text, {}
    return FAILED, {"reason": f"cannot be asked: {doc['unaskable']}"}


def scored_record(
    text: str,
    *,
    score: float,
    answer: str | Sequence[str],
    question_id: str,
    cluster: str,
    question: str = "",
    categories: Mapping[str, str] | None = None,
    media: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """The record of an open question that a metric has scored.

    Args:
        text: What the model said, or `FAILED`.
        score: From 0 to 1; ignored (0) if the question failed, the text is empty, or the answer.
        answer: The right text, or all that are accepted; empty where a board keeps it to itself.
        question_id: As in `choice_record`, like the arguments that follow.
        cluster: As there.
        question: As there.
        categories: As there.
        media: As there.
        **more: As there.

    Returns:
        As `choice_record`, without choice and options. `outcome` is right for a full score only;
        partial credit is in `score`. What was said where the answer is hidden is "not scored".

    Raises:
        ValueError: If the score is not a number from 0 to 1.
    """
    if not (math.isfinite(score) and 0.0 <= score <= 1.0):
        raise ValueError(f"Question {question_id}: a score of {score!r} is not within 0 and 1.")
    outcome: Outcome
    if text == FAILED:
        outcome = "failed"
    elif not text.strip():
        outcome = "no answer"
    elif not answer:
        outcome = "not scored"
    else:
        outcome = "right" if score == 1.0 else "wrong"
    return {
        "question_id": question_id,
        "cluster": cluster,
        "outcome": outcome,
        "score": float(score) if outcome in ("right", "wrong") else 0.0,
        "answer": answer if isinstance(answer, str) else list(answer),
        "generated": text,
        "question": question,
        "categories": dict(categories or {}),
        "media": list(media),
        **({} if answer else {"hidden_answer": True}),
        **more,
    }


def record_of(line: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The record in a line of a samples file; None for a task that writes none.

    A task with several metrics repeats it under each.
    """
    for value in line.values():
        if isinstance(value, dict) and "outcome" in value and "score" in value:
            return value
    return None


def mean_score(records: Iterable[Mapping[str, Any]]) -> float:
    """The score of a task or of a part of it, for a YAML's `aggregation` and for every report.

    Mean score over every question that is scored (`is_scored`); NaN if none is.
    """
    scores = [float(record["score"]) for record in records if is_scored(record)]
    return math.fsum(scores) / len(scores) if scores else math.nan


def is_scored(record: Mapping[str, Any]) -> bool:
    """Whether a question counts in a mean.

    Where the right answer is hidden, neither an answer nor the lack of one says anything about a
    score. A record that is only part of one, with a score but without an outcome, counts.
    """
    return record.get("outcome") != "not scored" and record.get("hidden_answer") is not True


def share_answered(records: Iterable[Mapping[str, Any]]) -> float:
    """Share of questions with an answer that can be sent in: all there is to say of hidden ones."""
    given = [record["outcome"] not in ("no answer", "failed") for record in records]
    return sum(given) / len(given) if given else math.nan


def category_rows(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy over all questions and within each value of each category.

    Returns:
        A row for `overall`, then one for each category's values in order of appearance: category,
        value, num_questions, a count per outcome (`num_right`, `num_no_answer`, ...), score, and
        standard_error clustered by `cluster`. Both are None where no question is scored.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    names = dict.fromkeys(name for record in records for name in record["categories"])
    if records:
        groups["overall", "overall"] = list(records)
    for name in names:
        for record in records:
            if name in record["categories"]:
                groups.setdefault((name, str(record["categories"][name])), []).append(record)
    rows = []
    for (category, value), group in groups.items():
        scored = [record for record in group if is_scored(record)]
        scores = [float(record["score"]) for record in scored]
        counts = {
            f"num_{outcome.replace(' ', '_')}": sum(r["outcome"] == outcome for r in group)
            for outcome in OUTCOMES
        }
        rows.append(
            {
                "category": category,
                "value": value,
                "num_questions": len(group),
                **counts,
                "score": mean_score(scored) if scored else None,
                "standard_error": clustered_standard_error(
                    scores, [record["cluster"] for record in scored]
                )
                if scored
                else None,
            }
        )
    return rows


def _bare(letter: str, option: str) -> str:
    """An option's text without its letter."""
    return re.sub(rf"^\s*\(?{letter}\s*[.):]\s*(?=\S)", "", option).strip()


_MODEL_NAMES: Final = (
    "peft=", "delta=", "pretrained=", "model=", "model_version=", "model_name=", "model_id=",
    "path=", "engine=",
)  # fmt: skip
"""Where lmms-eval looks for the model's name among its arguments, in its order."""


def results_folder(args: Any) -> Path | None:
    """Where lmms-eval writes the results file, so that a task can write beside it.

    Args:
        args: What an aggregation gets that has a parameter of this name: the command line, or None.

    Returns:
        None if no results are written. The folder's name is made as lmms-eval 0.7.3 makes it
        (`GeneralConfigTracker`, `sanitize_model_name`).
    """
    output = getattr(args, "output_path", None)
    if not output:
        return None
    given = str(getattr(args, "model_args", "") or "")
    start = next((prefix for prefix in _MODEL_NAMES if prefix in given), None)
    name = given.split(start)[1].split(",")[0] if start else ""
    last_two = "/".join(name.split("/")[-2:])
    return Path(output) / re.sub(r"[\"<>:/\\|?*\[\]]+", "__", last_two)


def mean_with_breakdown(items: Sequence[Mapping[str, Any]], args: Any = None) -> float:
    """`mean_score` of records that name their task; writes the breakdown beside the results."""
    if items:
        write_breakdown(items[0]["task"], items, args)
    return mean_score(items)


def write_breakdown(
    task: str, records: Sequence[Mapping[str, Any]], args: Any, **more: Any
) -> Path | None:
    """Write the rows of `category_rows`, and what else there is, beside the results file.

    Returns:
        `<date>_breakdown_<task>.json` in the folder of the results, or None if there is none.
    """
    folder = results_folder(args)
    if folder is None:
        return None
    zone = ZoneInfo(getattr(args, "timezone", None) or "Asia/Singapore")  # lmms-eval's default
    date = datetime.datetime.now(zone).strftime("%Y%m%d_%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{date}_breakdown_{task}.json"
    content = {"task": task, "rows": category_rows(records), **more}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
