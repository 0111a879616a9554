"""Prompts: where pictures stand in a text, and the text around a question."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from conftest import OPEN, Golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from longva_eval.errors import PromptError, SettingsError
from longva_eval.prompts.pieces import (
    QWEN_1_5,
    ChatTemplate,
    Prompt,
    TextPiece,
    Turn,
    VisualPiece,
    as_text,
    load_template,
    placeholder_ids,
    tokenize,
)

# AutoTokenizer reads the config too, where LongVA's files say `rope_scaling: null`.
pytestmark = pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")

IM_START, IM_END = 1001, 1002


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(OPEN / "longva_tiny", local_files_only=True)


def with_template(tokenizer: Any, template: Any) -> Any:
    changed = copy.copy(tokenizer)
    changed.chat_template = template
    return changed


def video(name: str, num_frames: int, num_tokens: int = 4) -> list[VisualPiece]:
    return [VisualPiece(f"{name}#{index}", num_tokens, None, index) for index in range(num_frames)]


# Placeholders


@pytest.mark.parametrize(
    ("text", "pictures", "videos", "expected"),
    [
        ("What?", 1, 0, "<image>\nWhat?"),
        ("What?", 0, 1, "<image>\nWhat?"),
        ("What?", 2, 1, "<image> <image> <image>\nWhat?"),
        ("What?", 0, 0, "What?"),
        ("Is <image> in <image>?", 1, 1, "Is <image> in <image>?"),
        ("", 1, 0, "<image>\n"),
    ],
)
def test_pictures_come_first_unless_the_question_places_them(
    text: str, pictures: int, videos: int, expected: str
) -> None:
    placed, _ = QWEN_1_5.place(text, [*["picture"] * pictures, *["video"] * videos])
    assert placed == expected


@pytest.mark.parametrize(
    ("text", "pictures", "videos", "message"),
    [
        ("<image>?", 2, 0, "has 1 <image> placeholders, but 2 pictures and 0 videos come with it"),
        ("<image><image>", 0, 1, "has 2 <image> placeholders, but 0 pictures and 1 videos"),
        ("say <image>", 0, 0, "has 1 <image> placeholders, but 0 pictures and 0 videos.*'say <im"),
    ],
)
def test_a_question_places_all_of_its_pictures_or_none(
    text: str, pictures: int, videos: int, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        QWEN_1_5.place(text, [*["picture"] * pictures, *["video"] * videos])


def test_parts_are_tokenised_on_their_own_with_the_pictures_between(tokenizer: Any) -> None:
    one, two = video("a", 2), video("b", 1)
    prompt = QWEN_1_5.build(tokenizer, "first <image> then <image>", [one, two])
    assert prompt.pieces == (
        TextPiece(tokenize(tokenizer, "first ")),
        *one,
        TextPiece(tokenize(tokenizer, " then ")),
        *two,
    )
    assert prompt.num_visual_tokens == 12
    assert prompt.visual_pieces == one + two
    assert prompt.num_tokens == 12 + sum(
        len(tokenize(tokenizer, part)) for part in ("first ", " then ")
    )


def test_empty_parts_have_no_piece(tokenizer: Any) -> None:
    assert QWEN_1_5.build(tokenizer, "", []).pieces == ()
    assert QWEN_1_5.build(tokenizer, "<image>", [video("a", 1)]).pieces == tuple(video("a", 1))


@pytest.mark.parametrize(("text", "count"), [("<image>", 0), ("no place", 1), ("<image>", 2)])
def test_placeholders_and_pictures_are_counted(tokenizer: Any, text: str, count: int) -> None:
    with pytest.raises(
        PromptError, match=rf"has {text.count('<image>')} <image> placeholders for {count} pictures"
    ):
        QWEN_1_5.build(tokenizer, text, [video("a", 1)] * count)


def test_placeholder_ids_have_one_for_each_video(tokenizer: Any) -> None:
    visuals = [video("a", 3), video("b", 1), video("a", 3)]
    prompt = QWEN_1_5.build(tokenizer, "x<image><image>y<image>", visuals)
    x, y = tokenize(tokenizer, "x"), tokenize(tokenizer, "y")
    assert placeholder_ids(prompt, visuals) == [*x, -200, -200, *y, -200]


def test_tokens_are_those_of_the_text_with_nothing_added(tokenizer: Any) -> None:
    assert tokenize(tokenizer, "") == ()
    ids = tokenize(tokenizer, "<|im_start|>user\nhello<|im_end|>")
    assert (ids[0], ids[-1]) == (IM_START, IM_END)
    assert tokenizer.decode(ids) == "<|im_start|>user\nhello<|im_end|>"


# Prompt.first


texts = st.lists(st.integers(0, 9), min_size=1, max_size=5).map(lambda ids: TextPiece(tuple(ids)))
visual_pieces = st.builds(
    lambda name, size: VisualPiece(f"{name}/{size}", size, None),
    st.integers(0, 3),
    st.integers(1, 6),
)
prompts = st.lists(st.one_of(texts, visual_pieces), max_size=8).map(
    lambda pieces: Prompt(tuple(pieces))
)


def spelled(prompt: Prompt) -> list[object]:
    """Each token of a prompt on its own: what must not change when it is cut."""
    tokens: list[object] = []
    for piece in prompt.pieces:
        if isinstance(piece, TextPiece):
            tokens.extend(piece.token_ids)
        else:
            whole = piece.whole or piece
            tokens.extend((whole.key, place) for place in range(piece.num_tokens))
    return tokens


@given(prompt=prompts, first=st.integers(-2, 50), second=st.integers(-2, 50))
def test_the_beginning_of_a_prompt_has_its_first_tokens(
    prompt: Prompt, first: int, second: int
) -> None:
    begun = prompt.first(first)
    assert spelled(begun) == spelled(prompt)[: max(0, first)]
    assert begun.num_tokens == min(max(0, first), prompt.num_tokens)
    assert begun.first(second) == prompt.first(min(first, second))


@pytest.mark.slow
@given(one=prompts, two=prompts)
def test_prompts_add_up(one: Prompt, two: Prompt) -> None:
    assert spelled(one + two) == spelled(one) + spelled(two)
    assert (one + two).num_tokens == one.num_tokens + two.num_tokens
    assert (one + two).first(one.num_tokens) == one


def test_a_cut_frame_is_another_piece_than_the_whole_one() -> None:
    piece = VisualPiece("a", 6, None)
    assert piece.first(4) != piece
    assert piece.first(4) == piece.first(5).first(4)
    assert piece.first(5).first(4).whole is piece


def test_tokens_are_put_after_a_prompt() -> None:
    prompt = Prompt((TextPiece((1,)),))
    assert prompt.with_tokens([]) is prompt
    assert spelled(prompt.with_tokens([2, 3])) == [1, 2, 3]


# Templates


TURNS: list[Turn] = [
    ("user", "<image>\nWhat is shown?"),
    ("assistant", "A cat."),
    ("user", "And the colour?"),
]

SNAPSHOT = """\
<|im_start|>system
You are a helpful assistant.<|im_end|>
<|im_start|>user
<image>
What is shown?<|im_end|>
<|im_start|>assistant
A cat.<|im_end|>
<|im_start|>user
And the colour?<|im_end|>
<|im_start|>assistant
"""


def reference(tokenizer: Any, turns: Sequence[Turn]) -> str:
    text: str = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns],
        tokenize=False,
        add_generation_prompt=True,
    )
    return text


def test_the_checkpoints_own_template_is_chatml(tokenizer: Any) -> None:
    template = load_template("auto", tokenizer)
    assert template is QWEN_1_5
    assert template.render(TURNS) == SNAPSHOT == reference(tokenizer, TURNS)
    before, after = template.system + template.user_start, template.user_end
    assert before + "Q" + after + template.assistant_start == template.render([("user", "Q")])


def test_the_session_takes_that_template(open_golden: Golden) -> None:
    assert open_golden.session.template is QWEN_1_5


def test_a_tokenizer_without_a_template_gets_chatml(tokenizer: Any) -> None:
    assert load_template("auto", with_template(tokenizer, None)) is QWEN_1_5
    assert load_template("qwen_1_5", tokenizer) is QWEN_1_5


@pytest.fixture(scope="module")
def plain_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer that knows nothing of ChatML."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))


@pytest.mark.parametrize("name", ["auto", "qwen_1_5"])
def test_a_tokenizer_without_chatml_tokens_is_refused(plain_tokenizer: Any, name: str) -> None:
    with pytest.raises(
        SettingsError, match=r"conv_template=qwen_1_5 needs <\|im_start\|> and <\|im_end\|>, which"
    ):
        load_template(name, plain_tokenizer)


def test_an_unknown_template_is_refused(tokenizer: Any) -> None:
    with pytest.raises(
        SettingsError, match="conv_template='vicuna' is unknown; use auto or qwen_1_5"
    ):
        load_template("vicuna", tokenizer)


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml without system": CHATML,
    "chatml with another system": "{{ '<|im_start|>system\nYou watch.<|im_end|>\n' }}" + CHATML,
    "vicuna": (
        "{{ 'A chat between a user and an assistant. ' }}{% for m in messages %}"
        "{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
        "{% else %}{{ 'ASSISTANT: ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
    ),
    "zephyr": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '</s>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "trimmed": (
        "{{ 'SYS' }}{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] | trim + ';' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_other_templates_are_taken_apart_and_put_together_again(tokenizer: Any, name: str) -> None:
    changed = with_template(tokenizer, TEMPLATES[name])
    template = load_template("auto", changed)
    assert template.name.startswith("tokenizer (")
    one: list[Turn] = [("user", "Q")]
    for turns in (one, TURNS, [*TURNS, ("assistant", "Black."), ("user", "Sure?")]):
        assert template.render(turns) == reference(changed, turns)


contents = st.text(st.characters(codec="utf-8", exclude_characters="\ufffc"), max_size=20)


@given(questions=st.lists(contents, min_size=1, max_size=4), answers=st.lists(contents, min_size=4))
@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_rendering_equals_the_tokenizers_own(
    tokenizer: Any, questions: list[str], answers: list[str]
) -> None:
    turns: list[Turn] = []
    for question, answer in zip(questions, answers, strict=False):
        turns += [("user", question), ("assistant", answer)]
    turns = turns[:-1]
    assert load_template("auto", tokenizer).render(turns) == reference(tokenizer, turns)


def test_a_template_that_ends_answers_in_another_way_is_not_taken_for_chatml(
    tokenizer: Any,
) -> None:
    other = (
        "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
        "{% for m in messages %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
        "{{ '<|im_end|>\n' if m['role'] == 'user' else '<|endoftext|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    changed = with_template(tokenizer, other)
    assert load_template("auto", changed).render(TURNS) == reference(changed, TURNS)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ messages | length }}{% for m in messages %}{{ m['content'] }}|{% endfor %}",
            "not a plain sequence of turns; pass conv_template=qwen_1_5",
        ),
        ("{{ messages[-1]['content'] }}", "not a plain sequence of turns"),
        (
            "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}<bot>{% endif %}",
            "opens an answer in two ways; pass conv_template=qwen_1_5",
        ),
        (
            "{% if add_generation_prompt %}{{ 'X' }}{% endif %}"
            "{% for m in messages %}{{ m['content'] }};{% endfor %}",
            "not a plain sequence of turns",
        ),
    ],
)
def test_templates_that_are_no_sequence_of_turns_are_refused(
    tokenizer: Any, template: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        load_template("auto", with_template(tokenizer, template))


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages",
        "{{ raise_exception('A system message is required.') }}",
        "{{ messages[0]['content'].nothing.at_all }}",
    ],
    ids=["syntax", "raises", "undefined"],
)
def test_a_template_that_cannot_be_rendered_is_a_matter_of_settings(
    tokenizer: Any, template: str
) -> None:
    with pytest.raises(SettingsError, match="conv_template=qwen_1_5"):
        load_template("auto", with_template(tokenizer, template))


def test_a_template_names_itself_by_its_text(tokenizer: Any) -> None:
    names = {
        load_template("auto", with_template(tokenizer, template)).name
        for template in TEMPLATES.values()
    }
    assert len(names) == len(TEMPLATES)


def test_turns_of_one_side_in_a_row_are_rendered_one_by_one() -> None:
    template = ChatTemplate(
        name="t", system="S", user_start="<", user_end=">", assistant_start="[", assistant_end="]"
    )
    turns: list[Turn] = [("user", "a"), ("user", "b"), ("assistant", "c")]
    assert template.render(turns) == "S<a><b>[c]["


CONTROL = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")


def test_control_tokens_in_a_question_are_letters(open_golden: Golden) -> None:
    session = open_golden.session
    tokenizer = session.checkpoint.tokenizer
    control = set(tokenizer.convert_tokens_to_ids(list(CONTROL)))
    plain = session.prompt("What does it say?").prompt
    asked = session.prompt(f"What does {CONTROL[0]} say?{CONTROL[2]}").prompt
    ids = [token for piece in asked.pieces for token in piece.token_ids]  # type: ignore[union-attr]
    usual = [token for piece in plain.pieces for token in piece.token_ids]  # type: ignore[union-attr]
    assert sum(token in control for token in ids) == sum(token in control for token in usual)
    assert CONTROL[0] in tokenizer.decode(
        [token for token in ids if token not in control], skip_special_tokens=False
    )
    turns = session.prompt("And now?", history=[("user", CONTROL[0]), ("assistant", CONTROL[1])])
    said = [token for piece in turns.prompt.pieces for token in piece.token_ids]  # type: ignore[union-attr]
    assert said.count(tokenizer.convert_tokens_to_ids(CONTROL[0])) == 4  # system and three turns


def test_an_image_that_nobody_placed_is_text(open_golden: Golden) -> None:
    session = open_golden.session
    video = open_golden.haystack_videos()[0]
    question = "What does <image> mean in HTML?"
    moved = session.prompt(question, [video]).prompt
    prompt = session.prompt(question, [video], placed=False).prompt
    usual = session.prompt("What does it mean?", [video]).prompt
    first = [isinstance(piece, VisualPiece) for piece in prompt.pieces].index(True)
    assert prompt.pieces[:first] == usual.pieces[:first]
    assert moved.pieces[:first] != prompt.pieces[:first]
    text = session.checkpoint.tokenizer.decode(prompt.pieces[-1].token_ids)  # type: ignore[union-attr]
    assert question in text


def test_text_without_control_tokens_is_not_touched() -> None:
    assert as_text("A < B, <b>bold</b>", CONTROL) == "A < B, <b>bold</b>"
