import math

import pytest

from longva_eval.questions.outcomes import (
    FAILED,
    category_rows,
    choice_record,
    mean_score,
    scored_record,
    share_answered,
)


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


@pytest.mark.parametrize(
    ("text", "outcome"),
    [("B.", "not scored"), ("A man", "no answer"), ("", "no answer"), (FAILED, "failed")],
)
def test_what_is_said_to_a_hidden_answer_is_not_scored(text, outcome):
    choice = record(text, answer="")
    assert (choice["outcome"], choice["score"], choice["hidden_answer"]) == (outcome, 0.0, True)
    given = {"score": 1.0, "question_id": "1", "cluster": "p"}
    for answer in ("", []):
        made = scored_record("x" if text == "A man" else text, answer=answer, **given)
        assert made["outcome"] == ("not scored" if text == "A man" else outcome)
        assert (made["score"], made["hidden_answer"]) == (0.0, True)


def test_an_answer_that_is_no_option_counts_and_is_never_right():
    made = choice_record(
        "A", options=["red", "blue"], answer="", question_id="1", cluster="v", never_right=True
    )
    assert (made["outcome"], mean_score([made])) == ("wrong", 0.0)
    assert "hidden_answer" not in made


def test_hidden_answers_are_in_no_mean_and_their_number_is_told():
    hidden = [record(text, answer="", question_id=text) for text in ("A", "B", "hm", FAILED)]
    assert math.isnan(mean_score(hidden))
    assert share_answered(hidden) == 0.5
    assert math.isnan(share_answered([]))
    (row, _) = category_rows(hidden)
    assert (row["num_questions"], row["num_not_scored"], row["num_no_answer"]) == (4, 2, 1)
    assert (row["score"], row["standard_error"]) == (None, None)
    both = [*hidden, record("B", question_id="5"), record("A", question_id="6")]
    assert mean_score(both) == 0.5
    (row, _) = category_rows(both)
    assert (row["num_questions"], row["num_right"], row["score"]) == (6, 1, 0.5)


@pytest.mark.parametrize("said", ["A", "C", "red", "C. red"])
def test_options_with_the_same_text_are_the_same_option(said: str) -> None:
    for options in (["red", "blue", "red"], ["A. red", "B. blue", "C. red"]):
        for answer in "AC":
            record = choice_record(
                said, options=options, answer=answer, question_id="1", cluster="v"
            )
            assert (record["outcome"], record["score"]) == ("right", 1.0)
        wrong = choice_record(said, options=options, answer="B", question_id="1", cluster="v")
        assert wrong["outcome"] == "wrong"
