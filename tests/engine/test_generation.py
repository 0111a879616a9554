"""Answers: settings from a task, decoding equal to transformers', and scores of given tokens."""

from __future__ import annotations

import copy
import math
import re
import warnings
from typing import Any

import pytest
import torch
from conftest import OPEN, Golden
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from longva_eval.engine.conversation import Conversation
from longva_eval.engine.generation import (
    Generation,
    GenerationSettings,
    Thought,
    decode,
    letter_token_ids,
    merge_scores,
    parse_gen_kwargs,
    score_tokens,
)
from longva_eval.engine.opening import open_session
from longva_eval.errors import SettingsError
from longva_eval.model.modeling import cache_name
from longva_eval.prompts.pieces import Piece, Prompt, TextPiece, VisualPiece, tokenize
from longva_eval.prompts.visits import Query

DEFAULTS = GenerationConfig(eos_token_id=[1002, 1000], repetition_penalty=1.05)


def parse(**gen_kwargs: Any) -> GenerationSettings:
    return parse_gen_kwargs(gen_kwargs, DEFAULTS)[0]


# Settings


def test_a_tasks_settings_are_left_as_they_are() -> None:
    gen_kwargs = {
        "until": ["\n\n"],
        "max_new_tokens": 16,
        "temperature": 0,
        "image_aspect_ratio": "original",
        "modalities": ["video"],
    }
    before = copy.deepcopy(gen_kwargs)
    settings, unknown = parse_gen_kwargs(gen_kwargs, DEFAULTS)
    assert gen_kwargs == before
    assert settings == GenerationSettings(
        max_new_tokens=16,
        until=("\n\n",),
        repetition_penalty=1.05,
        end_token_ids=(1002, 1000),
    )
    assert unknown == ("image_aspect_ratio", "modalities")


def test_nothing_given_is_greedy_with_the_checkpoints_end_tokens() -> None:
    settings, unknown = parse_gen_kwargs({}, DEFAULTS)
    assert settings == GenerationSettings(
        max_new_tokens=1024, repetition_penalty=1.05, end_token_ids=(1002, 1000)
    )
    assert unknown == ()


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (None, ()),
        ("", ()),
        ([], ()),
        ("\n", ("\n",)),
        (["a", "", "b"], ("a", "b")),
        (("x",), ("x",)),
    ],
)
def test_until_is_a_string_a_list_or_nothing(until: Any, expected: tuple[str, ...]) -> None:
    assert parse(until=until).until == expected


@pytest.mark.parametrize(("end", "expected"), [(None, ()), (7, (7,)), ([7, 8], (7, 8))])
def test_end_tokens_come_from_the_checkpoint(end: Any, expected: tuple[int, ...]) -> None:
    settings, _ = parse_gen_kwargs({}, GenerationConfig(eos_token_id=end))
    assert settings.end_token_ids == expected
    assert settings.repetition_penalty == 1.0


def test_max_gen_toks_is_the_older_name() -> None:
    assert parse(max_gen_toks=7).max_new_tokens == 7
    assert parse(max_gen_toks=7, max_new_tokens=9).max_new_tokens == 9


def test_sampling_settings_count_only_when_sampling() -> None:
    greedy = parse(temperature=0, top_p=0.5, top_k=3)
    assert (greedy.do_sample, greedy.temperature) == (False, 1.0)
    assert (greedy.top_p, greedy.top_k) == (None, None)
    sampled = parse(temperature=0.5, top_p=0.5, top_k=3, seed=4)
    assert (sampled.do_sample, sampled.temperature, sampled.seed) == (True, 0.5, 4)
    assert (sampled.top_p, sampled.top_k) == (0.5, 3)
    assert parse(do_sample=False, temperature=0.5).do_sample is False


def test_unknown_names_are_returned_for_the_caller_to_judge() -> None:
    _, unknown = parse_gen_kwargs({"zzz": 1, "num_beams": 1, "a": 2, "top_p": None}, DEFAULTS)
    assert unknown == ("a", "zzz")


@pytest.mark.parametrize(
    ("gen_kwargs", "message"),
    [
        ({"num_beams": 3}, "num_beams=3: beam search is not supported; use num_beams=1"),
        ({"until": [1]}, r"until=\[1\] must be a string or a list of strings"),
        ({"max_new_tokens": -5}, "max_new_tokens=-5 must be at least 1"),
        ({"repetition_penalty": -1}, "repetition_penalty=-1.0 must be above 0"),
        ({"do_sample": True, "temperature": 0}, "temperature=0.0 must be above 0 to sample"),
        ({"do_sample": True, "temperature": -1}, "temperature=-1.0 must be above 0"),
    ],
)
def test_impossible_settings_are_refused(gen_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse(**gen_kwargs)


@pytest.mark.parametrize(
    "gen_kwargs",
    [
        {"max_new_tokens": 0},
        {"max_gen_toks": 0},
        {"repetition_penalty": 0},
        {"num_beams": 0},
    ],
    ids=str,
)
def test_a_zero_is_a_value_and_not_the_default(gen_kwargs: dict[str, Any]) -> None:
    (name,) = gen_kwargs
    with pytest.raises(SettingsError, match=f"{name}=0|max_new_tokens=0"):
        parse(**gen_kwargs)


@pytest.mark.parametrize(
    "gen_kwargs",
    [
        {"max_new_tokens": "many"},
        {"temperature": "hot"},
        {"num_beams": "two"},
        {"until": 5},
        {"seed": None},
        {"temperature": 1, "top_p": "most"},
        {"repetition_penalty": []},
    ],
    ids=str,
)
def test_a_value_of_the_wrong_kind_is_named(gen_kwargs: dict[str, Any]) -> None:
    name = list(gen_kwargs)[-1]
    with pytest.raises(SettingsError, match=f"{name}="):
        parse(**gen_kwargs)


@pytest.mark.parametrize("value", [1.5, True, math.inf, math.nan, "2.5"], ids=repr)
def test_a_number_of_tokens_is_whole(value: Any) -> None:
    with pytest.raises(SettingsError, match=f"max_new_tokens={value!r} must be a whole number"):
        parse(max_new_tokens=value)


def test_numbers_may_be_spelt() -> None:
    # YAML reads 1e-3, without a dot, as text.
    assert parse(temperature="1e-3", max_new_tokens="7", num_beams=1.0).temperature == 1e-3


def test_zeros_that_mean_off_or_greedy_stay() -> None:
    # Both stand in tasks of lmms-eval.
    assert parse(temperature=0, top_p=0, top_k=0).do_sample is False
    assert parse(temperature=1, top_k=0, top_p=1).top_k == 0


@pytest.mark.parametrize(
    "gen_kwargs",
    [{"top_p": 1.5}, {"top_p": -0.1}, {"top_k": -1}, {"top_k": -5}, {"temperature": math.inf}],
    ids=str,
)
def test_impossible_sampling_settings_are_refused_before_a_run(gen_kwargs: dict[str, Any]) -> None:
    (name,) = gen_kwargs
    with pytest.raises(SettingsError, match=f"{name}="):
        parse(**{"temperature": 1.0, **gen_kwargs})


# Decoding


def text_prompt(golden: Golden, text: str) -> Prompt:
    ids = tokenize(golden.session.checkpoint.tokenizer, text)
    return Prompt((TextPiece(ids),))


def answer(golden: Golden, prompts: list[Prompt], settings: GenerationSettings) -> list[Generation]:
    checkpoint = golden.session.checkpoint
    found: dict[int, Generation] = {}
    for visit in golden.session.engine.visit(
        [Query(prompt) for prompt in prompts], room=settings.max_new_tokens
    ):
        found[visit.index] = decode(
            visit,
            checkpoint.tokenizer,
            settings,
            prompt=prompts[visit.index],
            num_entries=checkpoint.num_tokenizer_entries,
        )
    return [found[index] for index in range(len(prompts))]


def transformers_answer(
    golden: Golden, prompt: Prompt, settings: GenerationSettings
) -> tuple[int, ...]:
    """What `generate(inputs_embeds=...)`, which the original calls, makes of a text."""
    checkpoint = golden.session.checkpoint
    (piece,) = prompt.pieces
    assert isinstance(piece, TextPiece)
    embeddings = checkpoint.model.model.embed_tokens(torch.tensor([piece.token_ids]))
    entries = checkpoint.num_tokenizer_entries
    with warnings.catch_warnings():
        # That the penalty counts new tokens only is what is wanted.
        warnings.filterwarnings("ignore", message="Passing `repetition_penalty`")
        ids = checkpoint.model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=settings.max_new_tokens,
                repetition_penalty=settings.repetition_penalty,
                eos_token_id=list(settings.end_token_ids),
                pad_token_id=1000,
                suppress_tokens=list(range(entries, checkpoint.config.vocab_size)),
            ),
        )
    return tuple(ids[0].tolist())


QUESTIONS = ["What is shown?", "A", "Describe the video in detail, please.", "1 2 3 4 5 6 7 8"]


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [1.0, 1.05, 1.5, 0.7])
def test_greedy_answers_equal_transformers(open_golden: Golden, penalty: float) -> None:
    settings = GenerationSettings(
        max_new_tokens=24, repetition_penalty=penalty, end_token_ids=(1002, 1000)
    )
    prompts = [text_prompt(open_golden, question) for question in QUESTIONS]
    answers = answer(open_golden, prompts, settings)
    for prompt, found in zip(prompts, answers, strict=True):
        assert found.token_ids == transformers_answer(open_golden, prompt, settings)
        ended = found.token_ids[-1] in settings.end_token_ids
        assert found.finish_reason == ("end_token" if ended else "length")
        assert found.num_prompt_tokens == prompt.num_tokens
        assert found.min_margin >= 0


def test_the_penalty_changes_an_answer_that_repeats_itself(open_golden: Golden) -> None:
    prompt = text_prompt(open_golden, "A")
    free, penalised = (
        answer(open_golden, [prompt], GenerationSettings(max_new_tokens=24, repetition_penalty=p))[
            0
        ]
        for p in (1.0, 5.0)
    )
    assert len(set(penalised.token_ids)) > len(set(free.token_ids))


def test_an_end_token_ends_the_answer(open_golden: Golden) -> None:
    prompt = text_prompt(open_golden, "What is shown?")
    free = answer(open_golden, [prompt], GenerationSettings(max_new_tokens=10))[0]
    end = free.token_ids[4]
    place = free.token_ids.index(end)
    settings = GenerationSettings(max_new_tokens=10, end_token_ids=(end,))
    ended = answer(open_golden, [prompt], settings)[0]
    assert ended.finish_reason == "end_token"
    assert ended.token_ids == free.token_ids[: place + 1]
    assert ended.token_ids == transformers_answer(open_golden, prompt, settings)


def test_one_token_is_decoded_without_a_step(open_golden: Golden) -> None:
    prompt = text_prompt(open_golden, "What is shown?")
    settings = GenerationSettings(max_new_tokens=1)
    assert len(answer(open_golden, [prompt], settings)[0].token_ids) == 1


class Script:
    """A visit whose logits spell given tokens."""

    def __init__(self, token_ids: list[int], size: int) -> None:
        self._size = size
        self._token_ids = iter(token_ids)
        self.logits = self._next()[None]
        self.index, self.error = 0, None
        self.kv_tokens = self.kv_bytes = 0

    def _next(self) -> torch.Tensor:
        logits = torch.zeros(self._size)
        logits[next(self._token_ids)] = 9.0
        return logits

    def step(self, token_id: int) -> torch.Tensor:
        return self._next()


def spell(golden: Golden, text: str, **settings: Any) -> Generation:
    tokenizer = golden.session.checkpoint.tokenizer
    token_ids = [*tokenize(tokenizer, text), 1002]
    visit: Any = Script(token_ids, 1024)
    return decode(
        visit,
        tokenizer,
        GenerationSettings(**{"end_token_ids": (1002,), **settings}),
        prompt=Prompt(()),
        num_entries=1003,
    )


def test_an_answer_is_stripped_and_without_special_tokens(open_golden: Golden) -> None:
    found = spell(open_golden, "  yes \n")
    assert (found.text, found.finish_reason) == ("yes", "end_token")
    assert found.token_ids[-1] == 1002
    assert found.min_margin == 9.0


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (("\n",), "one"),
        (("three", "\n"), "one"),
        (("\n", "three"), "one"),
        (("wo",), "one\nt"),
        (("absent",), "one\ntwo three"),
        (("one",), ""),
    ],
)
def test_an_answer_ends_before_the_first_stop_string(
    open_golden: Golden, until: tuple[str, ...], expected: str
) -> None:
    found = spell(open_golden, "one\ntwo three", until=until)
    assert found.text == expected
    assert found.finish_reason == ("end_token" if until == ("absent",) else "stop_string")


def test_stop_strings_that_overlap_cut_at_the_earliest() -> None:
    class OneToken:
        """A token that completes both stop strings at once."""

        def decode(self, token_ids: Any, **options: Any) -> str:
            return "x</s>\n"

    for until in (("</s>", "s>\n"), ("s>\n", "</s>")):
        visit: Any = Script([5], 1024)
        settings = GenerationSettings(until=until)
        found = decode(visit, OneToken(), settings, prompt=Prompt(()), num_entries=1003)
        assert found.text == "x"


def test_padding_rows_of_the_output_layer_are_never_said(open_golden: Golden) -> None:
    visit: Any = Script([1010], 1024)
    found = decode(
        visit,
        open_golden.session.checkpoint.tokenizer,
        GenerationSettings(max_new_tokens=1),
        prompt=Prompt(()),
        num_entries=1003,
    )
    assert found.token_ids[0] < 1003


# Sampling

SAMPLED = GenerationSettings(max_new_tokens=8, do_sample=True, temperature=3.0, seed=1)


@pytest.mark.slow
def test_samples_do_not_depend_on_the_order_of_the_prompts(open_golden: Golden) -> None:
    prompts = [text_prompt(open_golden, question) for question in QUESTIONS]
    forward = answer(open_golden, prompts, SAMPLED)
    backward = answer(open_golden, prompts[::-1], SAMPLED)[::-1]
    assert [found.token_ids for found in forward] == [found.token_ids for found in backward]


def test_another_seed_gives_another_sample(open_golden: Golden) -> None:
    from dataclasses import replace

    prompt = text_prompt(open_golden, "What is shown?")
    samples = {
        answer(open_golden, [prompt], replace(SAMPLED, seed=seed))[0].token_ids for seed in range(4)
    }
    assert len(samples) == 4


def test_samples_do_not_depend_on_the_last_bits_of_the_logits() -> None:
    logits = torch.randn(150_000, generator=torch.Generator().manual_seed(0)) * 3
    tokens = []
    for noise in (0.0, 1e-6):  # what another matrix shape in float32 makes of them
        visit: Any = Fixed(logits + noise * torch.randn(logits.shape).sign())
        tokens.append(
            decode(visit, Letters(), SAMPLED, prompt=Prompt(()), num_entries=len(logits)).token_ids
        )
    assert tokens[0] == tokens[1]


def test_other_prompts_draw_other_samples() -> None:
    logits = torch.zeros(1000)
    settings = GenerationSettings(max_new_tokens=4, do_sample=True)

    def draw(*pieces: Piece) -> tuple[int, ...]:
        visit: Any = Fixed(logits)
        return decode(visit, Letters(), settings, prompt=Prompt(pieces), num_entries=1000).token_ids

    one, two = VisualPiece("a#1", 144, None), VisualPiece("a#2", 144, None)
    drawn = [
        draw(TextPiece((1, 23))),
        draw(TextPiece((12, 3))),
        draw(TextPiece((1,)), one),
        draw(TextPiece((1,)), two),
        draw(one, TextPiece((1,))),
    ]
    assert len(set(drawn)) == len(drawn)
    # How the text is divided into pieces is no part of what the model reads.
    assert draw(TextPiece((1,)), TextPiece((23,))) == drawn[0]


class Letters:
    def decode(self, token_ids: Any, **options: Any) -> str:
        return ""


class Fixed:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits[None]
        self.kv_tokens = self.kv_bytes = 0
        self.index, self.error = 0, None

    def step(self, token_id: int) -> torch.Tensor:
        return self.logits[0]


def test_top_k_of_one_is_greedy(open_golden: Golden) -> None:
    from dataclasses import replace

    prompt = text_prompt(open_golden, "What is shown?")
    greedy = answer(open_golden, [prompt], GenerationSettings(max_new_tokens=8))[0]
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        sampled = answer(open_golden, [prompt], replace(SAMPLED, **narrow))[0]
        assert sampled.token_ids == greedy.token_ids


@pytest.mark.slow
def test_samples_follow_the_probabilities() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    counts = torch.zeros(4)
    for seed in range(400):
        visit: Any = Fixed(logits)
        settings = GenerationSettings(max_new_tokens=5, do_sample=True, temperature=2.0, seed=seed)
        found = decode(visit, Letters(), settings, prompt=Prompt(()), num_entries=4)
        for token in found.token_ids:
            counts[token] += 1
    expected = (logits / 2).softmax(0)
    deviation = (expected * (1 - expected) / 2000).sqrt()
    assert ((counts / 2000 - expected).abs() < 4.5 * deviation).all()


# Scores


@pytest.mark.slow
@given(
    rows=st.lists(
        st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5), min_size=1, max_size=6
    ),
    data=st.data(),
)
def test_scores_are_log_softmax(rows: list[list[float]], data: st.DataObject) -> None:
    logits = torch.tensor(rows)
    token_ids = data.draw(
        st.lists(st.integers(0, 4), min_size=len(rows), max_size=len(rows)), label="tokens"
    )
    extra = torch.zeros(1, 5)
    scores = score_tokens(torch.cat([logits, extra]), token_ids)
    for place, token in enumerate(token_ids):
        row = [math.exp(value - max(rows[place])) for value in rows[place]]
        expected = rows[place][token] - max(rows[place]) - math.log(math.fsum(row))
        assert scores.log_probs[place] == pytest.approx(expected, abs=2e-5)
        assert rows[place][scores.argmax_ids[place]] == max(rows[place])
    assert scores.is_greedy == (list(scores.argmax_ids) == token_ids)
    assert scores.log_prob == pytest.approx(math.fsum(scores.log_probs))
    best = [sorted(row)[-1] - sorted(row)[-2] for row in logits.tolist()]
    assert scores.min_margin == pytest.approx(min(best), abs=1e-5)


def test_the_beginning_of_a_score_is_the_score_of_the_beginning() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    scores = score_tokens(logits, [1, 2, 3, 4])
    first = merge_scores(scores, first=2)
    expected = score_tokens(logits[:2], [1, 2])
    assert (first.token_ids, first.argmax_ids) == (expected.token_ids, expected.argmax_ids)
    assert first.log_probs == pytest.approx(expected.log_probs)


def test_scoring_what_was_decoded_finds_it_greedy(open_golden: Golden) -> None:
    prompt = text_prompt(open_golden, "What is shown?")
    found = answer(open_golden, [prompt], GenerationSettings(max_new_tokens=6))[0]
    checkpoint = open_golden.session.checkpoint
    query = Query(prompt.with_tokens(found.token_ids), read_from=prompt.num_tokens - 1)
    (visit,) = open_golden.session.engine.visit([query])
    scores = score_tokens(visit.logits[:, : checkpoint.num_tokenizer_entries], found.token_ids)
    assert scores.is_greedy
    assert scores.min_margin == pytest.approx(found.min_margin, abs=1e-4)


def test_settings_describe_themselves() -> None:
    described = SAMPLED.describe()
    assert described["seed"] == 1
    assert described["do_sample"] is True
    assert set(described) == set(GenerationSettings.__dataclass_fields__)


# Ahead of transformers


@pytest.mark.slow
@pytest.mark.filterwarnings("error::FutureWarning")
def test_a_question_uses_nothing_that_transformers_will_remove() -> None:
    session = open_session("longva-tiny", device="cpu", dtype="float32", decode_process=False)
    video = OPEN / "inputs/landscape_320x180.mp4"
    prompt = session.prompt("What is shown?", [video])
    (answer,) = session.generate([prompt], GenerationSettings(max_new_tokens=3))
    assert isinstance(answer, Generation)


def test_a_model_is_given_its_cache_under_the_name_that_it_knows() -> None:
    class Older:
        def forward(self, inputs_embeds: Any, past_key_values: Any = None, **more: Any) -> None: ...

    class Newer:
        def forward(self, inputs_embeds: Any, cache: Any = None, **more: Any) -> None: ...

    assert cache_name(Older) == "past_key_values"
    assert cache_name(Newer) == "cache"


# Options


def test_option_probabilities_are_those_of_a_plain_forward(open_golden: Golden) -> None:
    checkpoint = open_golden.session.checkpoint
    tokenizer, entries = checkpoint.tokenizer, checkpoint.num_tokenizer_entries
    prompt = text_prompt(open_golden, "Which one?\nA. red\nB. blue\nC. green\nAnswer: ")
    (piece,) = prompt.pieces
    assert isinstance(piece, TextPiece)
    embeddings = checkpoint.model.model.embed_tokens(torch.tensor([piece.token_ids]))
    logits = checkpoint.model(inputs_embeds=embeddings).logits[0, -1, :entries].double()
    wanted = [
        sum(logits.softmax(-1)[i].item() for i in range(entries) if tokenizer.decode([i]) in both)
        for both in (("A", " A"), ("B", " B"), ("C", " C"))
    ]
    conversation = Conversation(prompt=prompt, context_text="", visuals=())
    for settings in (
        GenerationSettings(max_new_tokens=4, repetition_penalty=1.5),
        GenerationSettings(max_new_tokens=4, do_sample=True, temperature=3.0, top_k=2),
    ):
        (found,) = open_golden.session.generate([conversation], settings, letters=["ABC"])
        assert isinstance(found, Generation)
        assert [math.exp(each) for each in found.option_log_probs] == pytest.approx(wanted, 1e-4)
    (without,) = open_golden.session.generate([conversation], settings)
    assert isinstance(without, Generation)
    assert without.option_log_probs == ()


def test_a_letter_is_the_token_that_an_answer_in_the_template_begins_with(
    open_golden: Golden,
) -> None:
    session = open_golden.session
    tokenizer = session.checkpoint.tokenizer
    start = session.template.render([("user", "Which one?")])
    for letters in ("ABCDEFGHIJ", "abcd"):
        for letter, ids in zip(letters, letter_token_ids(tokenizer, letters), strict=True):
            for space in ("", " "):
                said = tokenize(tokenizer, start + space + letter)[-1]
                assert said in ids or space  # a vocabulary may have no letter behind a space
            assert {tokenizer.decode([one]).strip() for one in ids} == {letter}
    assert letter_token_ids(tokenizer, "A\N{SNOWMAN}") == ()


@pytest.mark.parametrize("text", ["B", "\n \nB", "<think>A</think>\nB"])
def test_the_first_token_of_an_answer_is_not_blank_and_behind_the_thought(text: str) -> None:
    words = ["<think>", "</think>", "\n", " ", "A", "B", "<end>"]

    class Words:
        def decode(self, token_ids: Any, **options: Any) -> str:
            return "".join(words[number] for number in token_ids if number not in (0, 1, 6))

    said = [words.index(part) for part in re.findall("</?think>|.|\n", text)] + [6]
    visit: Any = Script(said, len(words))
    found = decode(
        visit,
        Words(),
        GenerationSettings(end_token_ids=(6,)),
        prompt=Prompt(()),
        num_entries=len(words),
        thought=Thought(start_id=0, end_id=1, is_open=False),
        letters=[[4], [5]],
    )
    assert found.text == "B"
    first, second = map(math.exp, found.option_log_probs)
    assert (first, second) == pytest.approx(
        (1 / (6 + math.exp(9)), math.exp(9) / (6 + math.exp(9)))
    )
