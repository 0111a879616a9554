"""Options as prompts list them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longva_eval.questions.options import find_options


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("Which?\nA. red\nB. blue\nAnswer with the letter.", ["red", "blue"]),
        ("Q\n(A) x\n(B) y\n  y\n(C) green \nBest Option: (", ["x", "y\n  y", "green"]),
        ("Which?\na. red\nb. blue", ["red", "blue"]),
        ("Subtitles:\nA. Miller speaks.\nB. Lee answers.\nC. Z\nWhich?\nA. x\nB. y", ["x", "y"]),
        ("Which?\nA. plan\nB. x\nX. z\nC. y\nAnswer:", ["plan", "x\nX. z", "y"]),
        ("Which?\nA.\nB. \nC. x", ["", "", "x"]),
    ],
)  # fmt: skip
def test_options_are_found(prompt: str, texts: list[str]) -> None:
    found = find_options(prompt)
    assert found is not None
    assert found.texts == texts
    assert found.letters.upper() == "ABCDEF"[: len(texts)]


@pytest.mark.parametrize(
    "prompt", ["", "What is shown?", "A. one", "B. one\nC. two", "A man.\nBut"]
)
def test_what_lists_no_options_has_none(prompt: str) -> None:
    assert find_options(prompt) is None


@given(
    texts=st.lists(st.from_regex("[a-z][a-z ]{0,8}[a-z]", fullmatch=True), min_size=2, max_size=8),
    by=st.integers(0, 8),
)
def test_a_rotation_moves_every_text_by_so_many_letters(texts: list[str], by: int) -> None:
    lines = [f"{chr(ord('A') + n)}. {text}" for n, text in enumerate(texts)]
    prompt = "\n".join(["Which?", *lines, "Answer."])
    found = find_options(prompt)
    assert found is not None
    again = find_options(found.rotated(by))
    assert again is not None
    assert found.rotated(0) == found.rotated(len(texts)) == prompt
    for number, text in enumerate(texts):
        assert again.texts[(number + by) % len(texts)] == text
