"""LVBench for lmms-eval: rows become documents, answers become records."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from longva_eval.questions.documents import (
    answer_letter,
    choice_document,
    choice_documents,
    choice_prompt,
    choice_result,
    split_options,
    video_paths,
)
from longva_eval.questions.outcomes import mean_score

FOLDER = "lvbench"
_COLUMNS = ("uid", "video_path", "question", "question_type", "answer")
# As scripts/test_acc.py abbreviates them, in the board's order.
_CAPABILITIES = {
    "entity recognition": "ER",
    "event understanding": "EU",
    "key information retrieval": "KIR",
    "temporal grounding": "TG",
    "reasoning": "Rea",
    "summarization": "Sum",
}


def process_docs(dataset: Any) -> Any:
    """Checked documents."""
    return choice_documents(dataset, _read, task="LVBench", columns=_COLUMNS)


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The video's path."""
    return video_paths(doc, FOLDER, entry="lvbench")


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The question and its options, as the data set writes them, and what to answer."""
    return choice_prompt(
        doc,
        question="{question}",
        option="({letter}) {text}",
        instruction="Answer with the option's letter from the given choices directly.",
    )


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record."""
    return {"accuracy": choice_result(doc, results[0], folder=FOLDER)}


def accuracy(items: Sequence[Mapping[str, Any]]) -> float:
    """Share of right answers; silence is wrong."""
    return mean_score(items)


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    question, options = split_options(str(row["question"] or ""))
    options = options or [str(option) for option in row.get("options") or []]
    types = _types(row["question_type"])
    unknown = sorted(set(types) - set(_CAPABILITIES))
    if unknown or not types:
        raise ValueError(f"the question types are {types}, known are {list(_CAPABILITIES)}")
    return choice_document(
        question_id=row["uid"],
        video=row["video_path"],
        question=question,
        options=options,
        answer=answer_letter(row["answer"], options),
        # A question may have several types, and counts in each of them, as officially.
        categories={short: name if name in types else None for name, short in _CAPABILITIES.items()}
        | {"video_type": row.get("type")},
        time_reference=str(row.get("time_reference") or ""),
    )


def _types(value: Any) -> list[str]:
    """A list; in some copies of the data it is written out as a text."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value) if value.startswith("[") else [value]
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"the question type {value!r} cannot be read") from error
    return [str(name).strip() for name in value or []]
