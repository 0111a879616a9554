"""A letter, or no answer."""

from __future__ import annotations

import pytest
from answer_table import FOUR, TABLE
from hypothesis import example, given, settings
from hypothesis import strategies as st

from longva_eval.questions.answers import read_choice

# What the host's reader (lmms_eval.tasks._task_utils.mcq_extract, 0.7.3) makes of answers that ours
# reads otherwise; an empty text is its "none".
HOST_DIFFERS = [
    ("A man walks in", None, "A"),
    ("Cannot determine", None, "C"),
    ("Vitamin C", None, "C"),
    ("A or B", None, "A"),
    ("The answer is B or C.", None, "C"),
    ("The answer is not A", None, "A"),
    ("Option A is wrong.", None, "A"),
    ("I don't think the answer is B", None, "B"),
    ("A. A red car\nB. A blue boat\nC. Nothing\nD. Both of them", None, "A"),
    ("The answer is B because A is wrong.", "B", "A"),
    ("The answer is B, not C.", "B", "C"),
    ("A. red car: no\nB. blue boat: yes\nTherefore, the answer is B.", "B", "A"),
    ('{"reason": "A and C are wrong", "final_answer": "D"}', "D", "C"),
    ("A blue boat", "B", "A"),
    ("b", "B", ""),
    ("(b)", "B", ""),
    ("a) a red car", "A", ""),
    ("nothing.", "C", ""),
]


def test_the_table_is_large_and_says_each_thing_once() -> None:
    assert len(TABLE) == len({(text, options) for text, options, _ in TABLE}) > 600
    assert {len(options) for _, options, _ in TABLE} >= {2, 3, 4, 5, 6, 8, 10}
    assert sum(choice is None for _, _, choice in TABLE) > 100


def test_answers_are_read_as_a_person_would() -> None:
    read = [(*row, read_choice(row[0], row[1])) for row in TABLE]
    assert [row for row in read if row[2] != row[3]] == []  # text, options, choice, what was read


@pytest.mark.parametrize(("text", "ours", "host"), HOST_DIFFERS)
def test_where_the_host_reads_otherwise(text: str, ours: str | None, host: str) -> None:
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

    assert read_choice(text, FOUR) == ours
    assert extract_mcq_answer(text, choices=list("ABCD")) == host


@pytest.mark.parametrize("options", [[], ["x"] * 27])
def test_a_choice_has_options(options: list[str]) -> None:
    with pytest.raises(ValueError, match="1 to 26 options"):
        read_choice("A", options)


def test_equal_options_are_named_by_the_first_or_their_letter() -> None:
    assert read_choice("red", ["red", "red", "blue"]) == "A"
    assert read_choice("B. red", ["red", "red", "blue"]) == "B"


def test_options_may_be_a_mapping_from_letter_to_text() -> None:
    options = {"A": "red", "B": "blue", "D": "green"}
    assert read_choice("The answer is green.", options) == "D"
    assert read_choice("C", options) is None
    with pytest.raises(ValueError, match="capital letters"):
        read_choice("1", {"1": "red"})


PIECES = st.sampled_from(
    [
        "A", "b", "C.", "(D)", "E)", "**B**", "the answer is", "Answer:", "option", "not", "or",
        "and", "so", "if", "because", "is correct", "is wrong", "\n", " ", "\\boxed{", "}", "{",
        "[", '"answer": "C"', "<think>", "</think>", "<answer>", "</answer>", "red", "blue boat",
        "1", "\u7b54\u6848\u662f", "\uff22", "I think", "A man", "\u0000", "```json", "<|im_end|>",
    ]
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=25).map(" ".join)),
    options=st.lists(st.text(max_size=20), min_size=1, max_size=10),
)
@example(text="<answer>" * 3000, options=["x", "y"])
@example(text="\\boxed{\\a{" * 3000, options=["x", "y"])
@example(text="[" * 5000, options=["x", "y"])
def test_any_text_is_an_option_or_no_answer(text: str, options: list[str]) -> None:
    letters = "ABCDEFGHIJ"[: len(options)]
    assert read_choice(text, options) in (*letters, None)


@given(number=st.integers(0, 3), before=st.sampled_from(["", "(", "**", " ", "\n"]))
def test_a_lone_letter_is_always_read(number: int, before: str) -> None:
    letter = "ABCD"[number]
    closing = {"(": ")", "**": "**"}.get(before, "")
    assert read_choice(f"{before}{letter}{closing}", FOUR) == letter


SAYINGS = st.sampled_from(
    [
        "{0}", "({0})", "{0}.", "The answer is {0}.", "Best answer: {0}", "Option {0}",
        '{{"answer": "{0}"}}', "\\boxed{{{0}}}", "<think>A or B?</think>{0}", "**{0}**",
    ]
)  # fmt: skip


@given(saying=SAYINGS, count=st.integers(2, 10), data=st.data())
def test_every_letter_is_read_in_every_saying(saying: str, count: int, data: st.DataObject) -> None:
    letter = data.draw(st.sampled_from("ABCDEFGHIJ"[:count]))
    assert read_choice(saying.format(letter), [f"thing {n}" for n in range(count)]) == letter


@given(saying=SAYINGS, count=st.integers(2, 9))
def test_a_letter_beyond_the_options_is_no_answer(saying: str, count: int) -> None:
    beyond = "ABCDEFGHIJ"[count]
    assert read_choice(saying.format(beyond), [f"thing {n}" for n in range(count)]) is None
