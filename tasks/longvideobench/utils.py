"""LongVideoBench for lmms-eval: how a row is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from longva_eval.questions.choice_task import ChoiceTask
from longva_eval.questions.documents import answer_letter, make_choice_doc

_NO_OPTION = "N/A"

# The paper's two levels, by question category (section 3.2): perception asks about one moment,
# relation about several. The parquet files have no column for it; the json files do (`level`).
_PERCEPTION = {"S2E", "S2O", "S2A", "E2O", "O2E", "T2E", "T2O", "T2A"}
_RELATION = {"E3E", "O3O", "SSS", "SOS", "SAA", "T3E", "T3O", "TOS", "TAA"}


def _read(row: Mapping[str, Any], *, with_answer: bool) -> dict[str, Any]:
    options = _options(row)
    category = str(row["question_category"])
    level = "L1-Perception" if category in _PERCEPTION else None
    level = "L2-Relation" if category in _RELATION else level
    return make_choice_doc(
        question_id=row["id"],
        video=row["video_path"],
        question=row["question"],
        options=options,
        answer=answer_letter(row["correct_choice"], options) if with_answer else "",
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


def _options(row: Mapping[str, Any]) -> list[str]:
    """Up to five; the rest of the columns hold "N/A"."""
    texts = [row[f"option{number}"] for number in range(5)]
    while texts and texts[-1] in (None, "", _NO_OPTION):
        texts.pop()
    if _NO_OPTION in texts:
        raise ValueError(f"an option is missing between others: {texts}")
    return [str(text) for text in texts]


TEST = ChoiceTask(
    name="LongVideoBench test",
    folder="datasets/longvideobench/videos",
    entry="longvideobench_test",
    columns=(
        "id", "video_id", "video_path", "subtitle_path", "question", "duration", "duration_group",
        "question_category", "topic_category", "starting_timestamp_for_subtitles",
        "option0", "option1", "option2", "option3", "option4",
    ),
    read=partial(_read, with_answer=False),
    question="Question: {question}",  # the official loader's text behind the frames
    hides_answers=True,
)  # fmt: skip
VAL = replace(
    TEST,
    name="LongVideoBench val",
    entry="longvideobench_val",
    columns=(*TEST.columns, "correct_choice"),
    read=partial(_read, with_answer=True),
    hides_answers=False,
)
process_docs_test, doc_to_visual_test, doc_to_text, process_results_test = TEST.functions
process_docs_val, doc_to_visual_val = VAL.process_docs, VAL.doc_to_visual
process_results_val = VAL.process_results
