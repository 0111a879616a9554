"""EgoSchema for lmms-eval: rows become documents, answers become records. Sends nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from longva_eval.questions import outcomes
from longva_eval.questions.documents import (
    answer_letter,
    choice_document,
    choice_documents,
    choice_prompt,
    choice_result,
    video_paths,
)

FOLDER = "egoschema/videos"
_COLUMNS = ("video_idx", "question", "option")


def process_docs(dataset: Any) -> Any:
    """Checked documents of the whole set, without answers."""
    return choice_documents(
        dataset, lambda row: _read(row, with_answer=False), task="EgoSchema", columns=_COLUMNS
    )


def process_docs_subset(dataset: Any) -> Any:
    """Checked documents of the 500 questions with public answers."""
    return choice_documents(
        dataset,
        lambda row: _read(row, with_answer=True),
        task="EgoSchema subset",
        columns=(*_COLUMNS, "answer"),
    )


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The video's path."""
    return video_paths(doc, FOLDER, entry="egoschema")


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The host's prompt, word for word."""
    return choice_prompt(
        doc,
        question="{question}",
        option="{letter}. {text}",
        instruction="Answer with the option's letter from the given choices directly.",
    )


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record; on the whole set its `score` says whether there is an answer to write down."""
    record = choice_result(doc, results[0], folder=FOLDER)
    if doc["answer"]:
        return {"accuracy": record}
    return {"answered": record | {"score": outcomes.share_answered([record])}}


def accuracy(items: Sequence[Mapping[str, Any]]) -> float:
    """Share of right answers; silence is wrong."""
    return outcomes.mean_score(items)


def share_answered(items: Sequence[Mapping[str, Any]]) -> float:
    """Share of questions with a readable answer."""
    return outcomes.share_answered(items)


def _read(row: Mapping[str, Any], *, with_answer: bool) -> dict[str, Any]:
    options = [re.sub(r"^[A-E]\.\s*", "", str(option)) for option in row["option"] or []]
    answer = row["answer"] if with_answer else None
    if isinstance(answer, str) and answer.strip().isdigit():
        answer = int(answer)
    return choice_document(
        question_id=row["video_idx"],  # one question a video
        video=row["video_idx"],
        question=row["question"],
        options=options,
        answer=answer_letter(answer, options) if with_answer else "",
        categories={},
    )
