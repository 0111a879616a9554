"""LVBench for lmms-eval: how a row is read."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from longva_eval.questions.choice_task import ChoiceTask
from longva_eval.questions.documents import answer_letter, make_choice_doc, split_options

# As scripts/test_acc.py abbreviates them, in the board's order.
_CAPABILITIES = {
    "entity recognition": "ER",
    "event understanding": "EU",
    "key information retrieval": "KIR",
    "temporal grounding": "TG",
    "reasoning": "Rea",
    "summarization": "Sum",
}


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    question, options = split_options(str(row["question"] or ""))
    options = options or [str(option) for option in row.get("options") or []]
    types = _types(row["question_type"])
    unknown = sorted(set(types) - set(_CAPABILITIES))
    if unknown or not types:
        raise ValueError(f"the question types are {types}, known are {list(_CAPABILITIES)}")
    return make_choice_doc(
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


TASK = ChoiceTask(
    name="LVBench",
    folder="lvbench",
    entry="lvbench",
    columns=("uid", "video_path", "question", "question_type", "answer"),
    read=_read,
    option="({letter}) {text}",  # as the data set writes them
)
process_docs, doc_to_visual, doc_to_text, process_results = TASK.functions
