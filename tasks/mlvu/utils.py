"""MLVU for lmms-eval: rows become documents, answers become records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from longva_eval.questions.documents import (
    answer_letter,
    choice_document,
    choice_documents,
    choice_prompt,
    choice_result,
    macro_mean,
    split_options,
    video_paths,
)
from longva_eval.questions.outcomes import mean_score

FOLDER_DEV = "mlvu"
FOLDER_TEST = "mlvu_test"
_COLUMNS = ("video_name", "question", "answer", "task_type")
_WATCH = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, "
    "select the best option that accurately addresses the question."
)
# Two questions of the dev set (needle_4, needle_5; data/2_needle.json) have an answer that is none
# of their options. The official scorer makes it the option before A, so that nobody is right.
_NO_OPTION = {"Catching a flying drone quadcopter", "@"}
_SHORT = {
    "topic_reasoning": "TR", "anomaly_reco": "AR", "needle": "NQA", "needleQA": "NQA",
    "findNeedle": "NQA", "ego": "ER", "plotQA": "PQA", "sportsQA": "SQA", "order": "AO",
    "count": "AC", "tutorialQA": "TQA",
}  # fmt: skip


def process_docs_dev(dataset: Any) -> Any:
    """Checked documents of the dev set; ids are made from type and place where there are none."""
    places: dict[str, Iterator[int]] = {}

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        place = next(places.setdefault(str(row["task_type"]), count()))
        return _read(row, row.get("question_id") or f"{row['task_type']}_{place}")

    return choice_documents(dataset, read, task="MLVU dev", columns=_COLUMNS)


def process_docs_test(dataset: Any) -> Any:
    """Checked documents of the test set, with the ids that the board wants back."""
    return choice_documents(
        dataset,
        lambda row: _read(row, row["question_id"]),
        task="MLVU test",
        columns=(*_COLUMNS, "question_id"),
    )


def doc_to_visual_dev(doc: Mapping[str, Any]) -> list[str]:
    """The video's path."""
    return video_paths(doc, FOLDER_DEV, entry="mlvu_dev")


def doc_to_visual_test(doc: Mapping[str, Any]) -> list[str]:
    """The video's path."""
    return video_paths(doc, FOLDER_TEST, entry="mlvu_test")


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The official text; its system message and the beginning of its answer stand in the turn."""
    return choice_prompt(
        doc,
        question=f"{_WATCH}\nQuestion: {{question}}\nOptions:",
        option="({letter}) {text}",
        instruction="Only give the best option.\nBest Option: (",
    )


def process_results_dev(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record, for both means."""
    return _metrics(doc, results[0], FOLDER_DEV)


def process_results_test(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record, for both means."""
    return _metrics(doc, results[0], FOLDER_TEST)


def m_avg(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean over task types of the accuracy within each."""
    return macro_mean(items, "task_type")


def accuracy(items: Sequence[Mapping[str, Any]]) -> float:
    """Share of right answers; silence is wrong."""
    return mean_score(items)


def _metrics(doc: Mapping[str, Any], text: str, folder: str) -> dict[str, Any]:
    # Only the questions of _NO_OPTION are without an answer.
    record = choice_result(doc, text, folder=folder, never_right=not doc["answer"])
    return {"m_avg": record, "accuracy": record}


def _read(row: Mapping[str, Any], question_id: Any) -> dict[str, Any]:
    question, options = split_options(str(row["question"] or ""))
    # The hub's question is the official prompt: "Question: ...", "Options:", "(A) ...".
    question = question.removeprefix("Question:").removesuffix("Options:").strip()
    candidates = [str(option) for option in row.get("candidates") or []]
    if options and candidates and len(options) != len(candidates):
        raise ValueError(f"{len(options)} options in the question, {len(candidates)} candidates")
    options = options or candidates
    no_option = str(row["answer"]).strip() in _NO_OPTION
    task_type = str(row["task_type"])
    return choice_document(
        question_id=question_id,
        video=row["video_name"],
        question=question,
        options=options,
        answer="" if no_option else answer_letter(row["answer"], options),
        categories={"task_type": task_type, "task": _SHORT.get(task_type, task_type)},
    )
