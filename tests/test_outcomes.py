import math

import pytest

from longva_eval.outcomes import FAILED, category_rows, choice_record, mean_score, scored_record


def record(text, answer="B", cluster="v1", duration="short", question_id="1"):
    return choice_record(
        text, options=["A. red", "B. blue"], answer=answer, question_id=question_id,
        cluster=cluster, categories={"duration": duration},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "outcome", "choice"),
    [("B.", "right", "B"), ("blue", "right", "B"), ("(a)", "wrong", "A"),
     ("A man walks in", "no answer", None), ("", "no answer", None), (FAILED, "failed", None)],
)  # fmt: skip
def test_a_choice_is_right_wrong_no_answer_or_failed(text, outcome, choice):
    made = record(text)
    assert (made["outcome"], made["choice"]) == (outcome, choice)
    assert made["score"] == float(outcome == "right")


def test_the_mark_of_a_failed_question_is_nobodys_answer():
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

    assert not any(letter.isupper() for letter in FAILED)
    assert extract_mcq_answer(FAILED, choices=list("ABCDEF")) not in set("ABCDEF")


def test_an_answer_that_is_no_option_is_an_error_of_the_data():
    with pytest.raises(ValueError, match="'E' is none of"):
        record("A", answer="E")


def test_partial_credit_is_kept_and_a_failure_never_scores():
    given = {"answer": ["cat"], "question_id": "1", "cluster": "p"}
    assert scored_record("a cat", score=0.5, **given)["score"] == 0.5
    assert scored_record("a cat", score=0.5, **given)["outcome"] == "wrong"
    assert scored_record(FAILED, score=1.0, **given)["score"] == 0.0
    assert scored_record(" ", score=1.0, **given)["outcome"] == "no answer"
    with pytest.raises(ValueError, match="within 0 and 1"):
        scored_record("x", score=math.nan, **given)


def test_rows_count_every_question_under_its_outcome():
    records = [
        record("B", question_id="1"),
        record(FAILED, question_id="2"),
        record("hm", cluster="v2", duration="long", question_id="3"),
        record("A", cluster="v2", duration="long", question_id="4"),
    ]
    overall, short, long = category_rows(records)
    assert overall["num_questions"] == 4
    assert overall["score"] == mean_score(records) == 0.25
    assert [overall[f"num_{o}"] for o in ("right", "wrong", "no_answer", "failed")] == [1, 1, 1, 1]
    assert (short["value"], short["num_failed"], short["score"]) == ("short", 1, 0.5)
    assert (long["value"], long["standard_error"]) == ("long", 0.0)
    assert category_rows([]) == []
