"""A letter, or no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longva_eval.answers import read_choice

OPTIONS = ["A. A red car", "B. A blue boat", "C. Nothing", "D. Both of them"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("c.", "C"),
        (" B. ", "B"),
        ("(b)", "B"),
        ("**B**", "B"),
        ("`D`", "D"),
        ("B.", "B"),
        ("B)", "B"),
        ("B: A blue boat", "B"),
        ("B. A blue boat", "B"),
        ("(C) Nothing", "C"),
        ("**B.** A blue boat", "B"),
        ("A. A red car", "A"),
        ("D\n\nBecause both appear.", "D"),
        ("Best answer: C", "C"),
        ("The best answer is: C.", "C"),
        ("The answer is B because A is wrong.", "B"),
        ("The correct option is (D).", "D"),
        ("Answer: **B**", "B"),
        ("answer is b", "B"),
        ("Based on the video, the answer is C", "C"),
        ("As shown, option D", "D"),
        ("Both A and B are wrong, so the answer is C", "C"),
        ("The answer is not A. The answer is B.", "B"),
        ("I think it is C", "C"),
        ("It must be B!", "B"),
        ("A blue boat", "B"),
        ("nothing.", "C"),
        ("a red car", "A"),
        ("The answer is A because it is red", "A"),
        ("a) a red car", "A"),
        (r"$\boxed{B}$", "B"),
        ("The answer is: \\boxed{C}", "C"),
    ],
)
def test_clear_answers_are_read(text: str, letter: str) -> None:
    assert read_choice(text, OPTIONS) == letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "A man walks in",
        "A man walks in and B enters the car with C",
        "I cannot tell",
        "Cannot determine",
        "The answer is a green lorry",
        "A or B",
        "A, C",
        "A and B",
        "Answer: A and B",
        "The answer is B or C.",
        "E",
        "Z.",
        "!!!!!!!!!!!!!!!!",
        "The answer is not A",
        "Because of the rain",
        "Dog",
        "yes",
        "42",
    ],
)
def test_everything_else_is_no_answer(text: str) -> None:
    assert read_choice(text, OPTIONS) is None


def test_six_options_have_six_letters() -> None:
    assert read_choice("F", [str(number) for number in range(6)]) == "F"
    assert read_choice("F", [str(number) for number in range(5)]) is None


@pytest.mark.parametrize(("text", "letter"), [("7", "B"), ("3.", "A"), ("9", None), ("B", "B")])
def test_options_that_are_numbers_may_be_said_as_they_are(text: str, letter: str | None) -> None:
    assert read_choice(text, ["A. 3", "B. 7", "C. 1", "D. 10"]) == letter


def test_equal_options_are_not_told_apart_by_their_text() -> None:
    assert read_choice("red", ["red", "red", "blue"]) is None


@pytest.mark.parametrize("options", [[], ["x"] * 27])
def test_a_choice_has_options(options: list[str]) -> None:
    with pytest.raises(ValueError, match="1 to 26 options"):
        read_choice("A", options)


@given(text=st.text(), number=st.integers(1, 26))
def test_any_text_is_one_of_the_options_or_no_answer(text: str, number: int) -> None:
    options = [f"option {index}" for index in range(number)]
    letters = [chr(ord("A") + index) for index in range(number)]
    assert read_choice(text, options) in (*letters, None)


@given(number=st.integers(0, 3), before=st.sampled_from(["", "(", "**", " ", "\n"]))
def test_a_lone_letter_is_always_read(number: int, before: str) -> None:
    letter = "ABCD"[number]
    closing = {"(": ")", "**": "**"}.get(before, "")
    assert read_choice(f"{before}{letter}{closing}", OPTIONS) == letter
