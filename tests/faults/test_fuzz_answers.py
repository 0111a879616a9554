"""A conclusion stays what it is, whatever marks, reasoning and control tokens stand around it."""

from __future__ import annotations

import pytest
from fuzzing import fuzz
from hypothesis import example, given
from hypothesis import strategies as st

from longva_eval.questions.answers import read_choice

_OPTIONS = ("a red car", "a blue boat", "a green tree", "none of these")
_LETTERS = st.sampled_from("ABCD")
_MARKS = st.sampled_from(
    ["{}", "**{}**", "*{}*", "__{}__", "`{}`", "({})", "[{}]", "{}.", "({}).", "'{}'", '"{}"',
     "\\boxed{{{}}}", "$\\boxed{{{}}}$", "\\(\\boxed{{\\text{{{}}}}}\\)", "<answer>{}</answer>",
     "<answer>\n{}\n</answer>", "<|begin_of_box|>{}<|end_of_box|>", "「{}」", "【{}】", "“{}”",
     "{} ✅", "✅ {}", "👉 {}", "→ {}", "\u200b{}\u200b", "{}\ufeff", "**({})**", "**{}.**",
     "\\text{{{}}}", "\\mathrm{{{}}}", "<b>{}</b>", "<strong>{}</strong>", "$\\mathbf{{{}}}$"]
)  # fmt: skip
_CUES = st.sampled_from(
    ["{}", "Answer: {}", "The answer is {}", "The correct answer is {}.", "Final answer: {}",
     "Therefore, the answer is {}.", "So the correct option is {}.", "ANSWER: {}", "answer is {}",
     "### Answer\n{}", "The best answer is: {}", "My answer is {}", "I choose {}.", "Option {}",
     "答案是{}", "答案: {}", "正解は{}です。", "정답은 {}입니다", "La respuesta es {}.",
     "La réponse est {}.", "Die Antwort ist {}.", "Ответ: {}", "So it must be {}."]
)  # fmt: skip
_REASONING = st.sampled_from(
    ["", "<think>{}</think>", "<think>\n{}\n</think>\n\n", "<thinking>{}</thinking>\n",
     "<reasoning>{}</reasoning>", "<seed:think>{}</seed:think>", "[THINK]{}[/THINK]",
     "◁think▷{}◁/think▷", "{}</think>\n", "<unused94>thought\n{}<unused95>",
     "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
     "<Think>{}</Think>", "<THOUGHT>{}</THOUGHT>\n", "<analysis>{}</analysis>\n"]
)  # fmt: skip
_THOUGHTS = st.lists(
    st.sampled_from(
        ["The answer is A.", "Maybe B.", "Is it C?", "Not D.", "Wait, no.", "It shows a blue boat.",
         "So the answer could be A or B.", "Let me look again.", "\n",
         "A. a red car\nB. a blue boat"]
    ),
    max_size=5,
).map(" ".join)  # fmt: skip
_BEFORE = st.sampled_from(
    ["", "<s> ", "<|im_start|>assistant\n", "assistant\n", "\n\n", "  ", "\ufeff"]
)
_AFTER = st.sampled_from(
    ["", "\n", " </s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "  ", "<eos>"]
)


@pytest.mark.slow
@fuzz(400)
@given(letter=_LETTERS, mark=_MARKS, cue=_CUES, reasoning=_REASONING, thoughts=_THOUGHTS,
       before=_BEFORE, after=_AFTER, with_text=st.booleans())  # fmt: skip
@example(letter="C", mark="{}", cue="{}", reasoning="", thoughts="", before="", after="",
         with_text=True)  # fmt: skip
def test_a_conclusion_is_read_inside_of_marks_and_behind_reasoning(
    letter: str, mark: str, cue: str, reasoning: str, thoughts: str, before: str, after: str,
    with_text: bool,
) -> None:  # fmt: skip
    said = f"{letter}. {_OPTIONS[ord(letter) - 65]}" if with_text else letter
    text = before + reasoning.replace("{}", thoughts) + cue.format(mark.format(said)) + after
    assert read_choice(text, _OPTIONS) == letter, text


@pytest.mark.slow
@fuzz(200)
@given(first=_LETTERS, second=_LETTERS, mark=_MARKS,
       cue=_CUES.filter(lambda cue: cue not in ("{}", "Option {}")),
       turn=st.sampled_from(["Wait, ", "Actually, ", "No, ", "Hmm, on second thought, ",
                             "Correction: ", "\n\n", "But looking again, "]))  # fmt: skip
def test_the_last_conclusion_wins(first: str, second: str, mark: str, cue: str, turn: str) -> None:
    text = f"{cue.format(mark.format(first))} {turn}{cue.format(mark.format(second))}"
    assert read_choice(text, _OPTIONS) == second, text


@fuzz(200)
@given(
    first=_LETTERS,
    second=_LETTERS,
    cue=_CUES,
    mark=_MARKS.filter(lambda mark: "answer" not in mark and "box" not in mark),
    joint=st.sampled_from([" or ", " and ", " / ", ", ", " & ", " as well as ", "或", "和",
                           " oder ", " または ", " или "]),
)  # fmt: skip
def test_two_options_named_jointly_are_no_answer(
    first: str, second: str, cue: str, mark: str, joint: str
) -> None:
    if first == second:
        return
    text = cue.format(mark.format(first) + joint + mark.format(second))
    assert read_choice(text, _OPTIONS) is None, text


@fuzz(100)
@given(letter=_LETTERS, mark=_MARKS, opening=st.sampled_from(
    ["<think>", "<thinking>", "[THINK]", "◁think▷", "<|channel|>analysis<|message|>",
     "<seed:think>"]
), thoughts=_THOUGHTS)  # fmt: skip
def test_reasoning_that_breaks_off_is_no_answer(
    letter: str, mark: str, opening: str, thoughts: str
) -> None:
    if "answer" in mark:
        return  # an answer that ends what is said is one
    text = f"{opening}{thoughts} So it could be {mark.format(letter)}, let me see"
    assert read_choice(text, _OPTIONS) is None, text
