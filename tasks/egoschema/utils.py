"""EgoSchema for lmms-eval: how a row is read. Sends nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from longva_eval.questions.choice_task import ChoiceTask
from longva_eval.questions.documents import answer_letter, make_choice_doc


def _read(row: Mapping[str, Any], *, with_answer: bool) -> dict[str, Any]:
    options = [re.sub(r"^[A-E]\.\s*", "", str(option)) for option in row["option"] or []]
    answer = row["answer"] if with_answer else None
    if isinstance(answer, str) and answer.strip().isdigit():
        answer = int(answer)
    return make_choice_doc(
        question_id=row["video_idx"],  # one question a video
        video=row["video_idx"],
        question=row["question"],
        options=options,
        answer=answer_letter(answer, options) if with_answer else "",
        categories={},
    )


SUBSET = ChoiceTask(  # the 500 questions with public answers
    name="EgoSchema subset",
    folder="egoschema/videos",
    entry="egoschema",
    columns=("video_idx", "question", "option", "answer"),
    read=partial(_read, with_answer=True),
)
WHOLE = replace(
    SUBSET,
    name="EgoSchema",
    columns=SUBSET.columns[:-1],
    read=partial(_read, with_answer=False),
    hides_answers=True,
)
process_docs_subset, doc_to_visual, doc_to_text, process_results_subset = SUBSET.functions
process_docs, process_results = WHOLE.process_docs, WHOLE.process_results
