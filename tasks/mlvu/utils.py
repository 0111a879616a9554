"""MLVU for lmms-eval: how a row is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from longva_eval.questions.choice_task import ChoiceTask
from longva_eval.questions.documents import (
    answer_letter,
    make_choice_doc,
    mean_over,
    split_options,
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
    places: Counter[str] = Counter()

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        task_type = str(row["task_type"])
        places[task_type] += 1
        made = f"{task_type}_{places[task_type] - 1}"
        return _read({**row, "question_id": row.get("question_id") or made})

    return replace(DEV, read=read).process_docs(dataset)


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    question, options = split_options(str(row["question"] or ""))
    # The hub's question is the official prompt: "Question: ...", "Options:", "(A) ...".
    question = question.removeprefix("Question:").removesuffix("Options:").strip()
    candidates = [str(option) for option in row.get("candidates") or []]
    if options and candidates and len(options) != len(candidates):
        raise ValueError(f"{len(options)} options in the question, {len(candidates)} candidates")
    options = options or candidates
    no_option = str(row["answer"]).strip() in _NO_OPTION
    task_type = str(row["task_type"])
    return make_choice_doc(
        question_id=row["question_id"],
        video=row["video_name"],
        question=question,
        options=options,
        answer="" if no_option else answer_letter(row["answer"], options),
        categories={"task_type": task_type, "task": _SHORT.get(task_type, task_type)},
    )


TEST = ChoiceTask(  # its ids are those that the board wants back
    name="MLVU test",
    folder="mlvu_test",
    entry="mlvu_test",
    columns=("video_name", "question", "answer", "task_type", "question_id"),
    read=_read,
    # The official text; its system message and the beginning of its answer stand in the turn.
    question=(
        "Carefully watch this video and pay attention to every detail. Based on your observations, "
        "select the best option that accurately addresses the question.\n"
        "Question: {question}\nOptions:"
    ),
    option="({letter}) {text}",
    instruction="Only give the best option.\nBest Option: (",
    metrics=("m_avg", "accuracy"),
)
DEV = replace(TEST, name="MLVU dev", folder="mlvu", entry="mlvu_dev", columns=TEST.columns[:-1])
process_docs_test, doc_to_visual_test, doc_to_text, process_results_test = TEST.functions
doc_to_visual_dev, process_results_dev = DEV.doc_to_visual, DEV.process_results
m_avg = mean_over("task_type")
