"""LongVideoBench for lmms-eval: rows become documents, answers become records."""

from __future__ import annotations

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

FOLDER = "datasets/longvideobench/videos"
_COLUMNS = (
    "id", "video_id", "video_path", "subtitle_path", "question", "duration", "duration_group",
    "question_category", "topic_category", "starting_timestamp_for_subtitles",
    "option0", "option1", "option2", "option3", "option4",
)  # fmt: skip
_NO_OPTION = "N/A"

# The paper's two levels, by question category (section 3.2): perception asks about one moment,
# relation about several. The parquet files have no column for it; the json files do (`level`).
_PERCEPTION = {"S2E", "S2O", "S2A", "E2O", "O2E", "T2E", "T2O", "T2A"}
_RELATION = {"E3E", "O3O", "SSS", "SOS", "SAA", "T3E", "T3O", "TOS", "TAA"}


def process_docs_val(dataset: Any) -> Any:
    """Checked documents of the validation split; every question has an answer."""
    columns = (*_COLUMNS, "correct_choice")
    return choice_documents(dataset, _read_val, task="LongVideoBench val", columns=columns)


def process_docs_test(dataset: Any) -> Any:
    """Checked documents of the test split, without answers."""
    return choice_documents(dataset, _read_test, task="LongVideoBench test", columns=_COLUMNS)


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The video's path."""
    entry = "longvideobench_val" if doc["answer"] else "longvideobench_test"
    return video_paths(doc, FOLDER, entry=entry)


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The official loader's text behind the frames."""
    return choice_prompt(
        doc,
        question="Question: {question}",
        option="{letter}. {text}",
        instruction="Answer with the option's letter from the given choices directly.",
    )


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record; on the test split its `score` says whether there is an answer to send in."""
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


def _read_val(row: Mapping[str, Any]) -> dict[str, Any]:
    options = _options(row)
    return _read(row, options, answer_letter(row["correct_choice"], options))


def _read_test(row: Mapping[str, Any]) -> dict[str, Any]:
    return _read(row, _options(row), "")


def _options(row: Mapping[str, Any]) -> list[str]:
    """Up to five; the rest of the columns hold "N/A"."""
    texts = [row[f"option{number}"] for number in range(5)]
    while texts and texts[-1] in (None, "", _NO_OPTION):
        texts.pop()
    if _NO_OPTION in texts:
        raise ValueError(f"an option is missing between others: {texts}")
    return [str(text) for text in texts]


def _read(row: Mapping[str, Any], options: Sequence[str], answer: str) -> dict[str, Any]:
    category = str(row["question_category"])
    level = "L1-Perception" if category in _PERCEPTION else None
    level = "L2-Relation" if category in _RELATION else level
    return choice_document(
        question_id=row["id"],
        video=row["video_path"],
        question=row["question"],
        options=options,
        answer=answer,
        categories={
            "duration_group": row["duration_group"],
            "question_category": category,
            "level": row.get("level") or level,
            "topic_category": row["topic_category"],
        },
        duration_seconds=float(row["duration"]),
        subtitle_path=row["subtitle_path"],
        subtitles_start_seconds=float(row["starting_timestamp_for_subtitles"] or 0.0),
    )
