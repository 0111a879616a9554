"""What all multiple-choice benchmarks do alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from datasets import Dataset

from longva_eval.errors import DataError
from longva_eval.questions.choice_task import ChoiceTask
from longva_eval.questions.documents import answer_letter, make_choice_doc


def read(row: Any) -> dict[str, Any]:
    return make_choice_doc(
        question_id=row["id"],
        video="film",
        question=row["question"],
        options=row["options"],
        answer=answer_letter(row["answer"], row["options"]),
        categories={"kind": "x"},
    )


TASK = ChoiceTask(
    name="Films", folder="films", columns=("id", "question", "options", "answer"), read=read
)
ROW = {"id": "1", "question": "What?", "options": ["red", "", "blue"], "answer": ""}


def documents(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    return list(TASK.process_docs(Dataset.from_list(list(rows))))


def test_an_empty_option_is_asked_and_may_be_right() -> None:
    (document,) = documents(ROW)
    assert TASK.doc_to_text(document).splitlines()[1:4] == ["A. red", "B. ", "C. blue"]
    record = TASK.process_results(document, ["B"])["accuracy"]
    assert (record["outcome"], record["answer"]) == ("right", "B")
    assert TASK.process_results(document, ["blue"])["accuracy"]["outcome"] == "wrong"


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"question": ""}, "the question is empty"), ({"question": None}, "the question is empty"),
     ({"question": " \n"}, "the question is empty"),
     ({"options": ["", " "]}, "its options are all empty")],
)  # fmt: skip
def test_a_question_that_cannot_be_asked_fails_by_name(change: Any, reason: str) -> None:
    good, bad = documents({**ROW, "id": "2"}, {**ROW, **change})
    assert TASK.process_results(good, ["B"])["accuracy"]["outcome"] == "right"
    record = TASK.process_results(bad, ["B"])["accuracy"]
    assert (record["outcome"], record["score"], record["question_id"]) == ("failed", 0.0, "1")
    assert record["reason"] == f"cannot be asked: {reason}"
    with pytest.raises(DataError, match="no question can be asked"):
        documents({**ROW, **change})


def test_what_is_put_into_a_prompt_is_not_looked_at_again() -> None:
    (document,) = documents({**ROW, "question": "{subtitles} {letter}?", "options": ["{text}", ""]})
    assert TASK.doc_to_text(document).splitlines()[:2] == ["{subtitles} {letter}?", "A. {text}"]


def test_hidden_answers_have_no_score_but_say_whether_there_is_something_to_send() -> None:
    board = replace(TASK, read=lambda row: {**read(row), "answer": ""}, hides_answers=True)
    (document,) = board.process_docs(Dataset.from_list([ROW]))
    given, silent = (board.process_results(document, [said])["answered"] for said in ("A", "hm"))
    assert (given["outcome"], given["score"], silent["score"]) == ("not scored", 1.0, 0.0)
    # Without hidden answers, an answer that is none of the options makes nobody right.
    assert TASK.process_results(document, ["A"])["accuracy"]["outcome"] == "wrong"
