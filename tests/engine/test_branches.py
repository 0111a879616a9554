"""Prompts that are decoded side by side: the answers of one at a time, whatever is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import Golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longva_eval.engine.branches import resolve_branches
from longva_eval.engine.generation import (
    Decoding,
    Generation,
    GenerationSettings,
    alone,
    decode_branches,
)
from longva_eval.engine.prefix import PrefixEngine, Visit
from longva_eval.errors import MediaError, NumericalError, SettingsError
from longva_eval.model.attention import branch_attention
from longva_eval.model.positions import PositionPolicy
from longva_eval.prompts.pieces import Piece, Prompt, TextPiece, VisualPiece
from longva_eval.prompts.visits import Query, plan_branches, plan_visits

CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


class Visuals:
    def expect(self, upcoming: Sequence[Sequence[VisualPiece]]) -> None:
        pass

    def encode(self, pieces: Sequence[VisualPiece]) -> list[torch.Tensor]:
        if any(piece.key == "broken" for piece in pieces):
            raise MediaError("broken.mp4 cannot be decoded")
        return [self.tokens(piece) for piece in pieces]

    def tokens(self, piece: VisualPiece) -> torch.Tensor:
        if piece.key == "nan":
            return torch.full((piece.num_tokens, 48), torch.nan)
        generator = torch.Generator().manual_seed(int(piece.key))
        return torch.randn(piece.num_tokens, 48, generator=generator) * 0.3

    def stop(self) -> None:
        pass


def video(frames: int) -> list[Piece]:
    return [VisualPiece(str(number), 5, None) for number in range(frames)]


def asked(frames: int, *questions: tuple[int, ...]) -> list[Query]:
    return [Query(Prompt((TextPiece((1, 2)), *video(frames), TextPiece(q)))) for q in questions]


def decoded(
    golden: Golden,
    queries: Sequence[Query],
    steps: Sequence[int],
    *,
    branches: int = 8,
    only: Sequence[int] | None = None,
    positions: str = "own",
    **options: Any,
) -> dict[int, torch.Tensor | Exception]:
    """(steps + 1, vocabulary) logits before and after each token of greedy answers."""
    engine = PrefixEngine(golden.session.checkpoint.model, Visuals(), chunk_tokens=16, **options)
    engine.branches, engine.positions = branches, PositionPolicy(positions)

    def answer(visit: Visit) -> Decoding[torch.Tensor]:
        read = [visit.logits[-1]]
        for _ in range(steps[visit.index]):
            read.append((yield int(read[-1].argmax())))
        return torch.stack(read)

    found: dict[int, torch.Tensor | Exception] = {}
    waiting: dict[int, Any] = {}
    visits = engine.visit(queries, only=only, keep_going=True, decoded=range(len(queries)))
    for visit in visits:
        if visit.error is not None:
            found[visit.index] = visit.error
        elif visit.group is None:
            found[visit.index] = alone(visit, answer(visit))
        else:
            waiting[visit.index] = answer(visit)
        if visit.group is not None and not visit.group.num_to_come:
            found |= dict(decode_branches(visit.group, waiting))
            waiting = {}
    assert not waiting
    return found


def test_attention_of_branches_equals_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    for heads, kv_heads, size, past, new in [
        (28, 4, 128, 50, 1),
        (6, 2, 8, 1, 3),
        (3, 3, 20, 9, 2),
    ]:
        keys, values = random(1, kv_heads, past + 7, size), random(1, kv_heads, past + 7, size)
        keys[:, :, past:] = values[:, :, past:] = torch.nan  # room that is not used
        shared = (keys[:, :, :past], values[:, :, :past])
        own = (random(4, kv_heads, 11, size), random(4, kv_heads, 11, size))
        query = random(1, heads, 4 * new, size)
        ends = torch.tensor([1, 9, 4, 5])
        seen = ends[:, None] + torch.arange(new)
        found = branch_attention(query, shared, own, seen, 0.3)
        for branch in range(4):
            for number in range(new):
                row = branch * new + number
                count = int(seen[branch, number])
                both = [
                    torch.cat([s[0], o[branch, :, :count]], 1).double()
                    .repeat_interleave(heads // kv_heads, 0)
                    for s, o in zip(shared, own, strict=True)
                ]  # fmt: skip
                scores = query[0, :, row, None].double() @ both[0].transpose(1, 2) * 0.3
                wanted = (scores.softmax(-1) @ both[1])[:, 0]
                torch.testing.assert_close(found[0, row].double(), wanted, atol=2e-6, rtol=1e-5)


questions = st.lists(st.integers(3, 5), min_size=1, max_size=6).map(tuple)


@pytest.mark.slow
@given(
    drawn=st.lists(st.tuples(st.integers(0, 3), questions), min_size=1, max_size=7),
    branches=st.integers(2, 4),
    positions=st.sampled_from(["own", "stride:2", "grouped:3"]),
    data=st.data(),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_batch_decodes_as_one_at_a_time(
    open_golden: Golden,
    drawn: list[tuple[int, tuple[int, ...]]],
    branches: int,
    positions: str,
    data: st.DataObject,
) -> None:
    queries = [asked(frames, question)[0] for frames, question in drawn]
    steps = [data.draw(st.integers(0, 5)) for _ in queries]
    only = sorted(data.draw(st.sets(st.integers(0, len(queries) - 1))))
    apart = decoded(open_golden, queries, steps, branches=1, positions=positions)
    how: dict[str, Any] = {"branches": branches, "positions": positions}
    together = decoded(open_golden, queries, steps, **how)
    left = decoded(open_golden, queries, steps, only=only, **how)
    without = decoded(open_golden, queries, steps, reuse=False, **how)
    assert left.keys() == set(only)
    for index in range(len(queries)):
        one, side, again = apart[index], together[index], without[index]
        assert isinstance(one, torch.Tensor)
        assert isinstance(side, torch.Tensor)
        torch.testing.assert_close(side, one, atol=5e-5, rtol=0)
        assert side.argmax(-1).tolist() == one.argmax(-1).tolist()
        # To the last bit, whichever prompts are asked and however they were read.
        assert torch.equal(side[1:], torch.as_tensor(again)[1:])
        if index in left:
            assert torch.equal(side, torch.as_tensor(left[index]))


@pytest.mark.slow
@given(
    drawn=st.lists(st.tuples(st.integers(0, 2), questions, questions), min_size=1, max_size=7),
    branches=st.integers(2, 4),
    chunk_tokens=st.integers(3, 40),
    positions=st.sampled_from(["own", "stride:2"]),
    data=st.data(),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_batch_of_options_is_scored_as_one_at_a_time(
    open_golden: Golden,
    drawn: list[tuple[int, tuple[int, ...], tuple[int, ...]]],
    branches: int,
    chunk_tokens: int,
    positions: str,
    data: st.DataObject,
) -> None:
    queries = []
    for frames, question, option in drawn:
        context = asked(frames, question)[0].prompt
        queries.append(Query(context.with_tokens(option), read_from=context.num_tokens - 1))
    only = sorted(data.draw(st.sets(st.integers(0, len(queries) - 1))))

    def logits(most: int, reuse: bool = True, visited: Any = None) -> dict[int, torch.Tensor]:
        engine = PrefixEngine(
            open_golden.session.checkpoint.model, Visuals(), chunk_tokens=chunk_tokens, reuse=reuse
        )
        engine.branches, engine.positions = most, PositionPolicy(positions)
        visits = engine.visit(queries, only=visited, scored=range(len(queries)))
        return {visit.index: visit.logits.clone() for visit in visits}

    apart, together = logits(1), logits(branches)
    left, without = logits(branches, visited=only), logits(branches, reuse=False)
    assert left.keys() == set(only)
    for index, one in apart.items():
        torch.testing.assert_close(together[index], one, atol=5e-5, rtol=0)
        assert torch.equal(together[index], without[index])
        assert index not in left or torch.equal(together[index], left[index])


def test_the_prompt_before_may_share_more_than_a_group(open_golden: Golden) -> None:
    drawn = [
        (2, (4, 4, 3), (3, 4)),
        (1, (3, 4, 4, 5, 5, 4), (3, 3, 3, 4, 5, 5)),
        (0, (4, 5), (4, 5, 3, 3, 4)),
        (1, (4, 4, 3, 3), (3, 3, 4, 3, 5)),
        (0, (5, 5, 5, 5, 4, 5), (3, 3, 4)),
        (0, (4, 5, 5, 4, 5), (3,)),
    ]
    queries = []
    for frames, question, option in drawn:
        context = asked(frames, question)[0].prompt
        queries.append(Query(context.with_tokens(option), read_from=context.num_tokens - 1))
    found = []
    for most in (1, 4):
        engine = PrefixEngine(open_golden.session.checkpoint.model, Visuals(), chunk_tokens=21)
        engine.branches, engine.positions = most, PositionPolicy("stride:2")
        visits = engine.visit(queries, scored=range(len(queries)))
        found.append({visit.index: visit.logits.clone() for visit in visits})
    torch.testing.assert_close(found[1], found[0], atol=5e-5, rtol=0)


def test_options_are_read_in_one_pass(open_golden: Golden) -> None:
    context = asked(4, (7, 8, 9))[0].prompt
    queries = [
        Query(context.with_tokens(option), read_from=context.num_tokens - 1)
        for option in ((5,), (6, 4), (8, 3, 3))
    ]
    engine = PrefixEngine(open_golden.session.checkpoint.model, Visuals())
    engine.branches = 8
    calls: list[int] = []
    hook = open_golden.session.checkpoint.model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: calls.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    try:
        found = {v.index: v.logits.shape[0] for v in engine.visit(queries, scored=range(3))}
    finally:
        hook.remove()
    # All but the context's last token, and then this with each option, padded to the longest.
    assert calls == [context.num_tokens - 1, 3 * 4]
    assert found == {0: 2, 1: 3, 2: 4}
    assert engine.counts.tokens_asked == sum(query.prompt.num_tokens for query in queries)


def test_a_group_decodes_all_its_branches_in_one_pass(open_golden: Golden) -> None:
    queries = asked(4, (7,), (7, 8), (9, 3, 4), (7,))
    calls: list[int] = []
    model = open_golden.session.checkpoint.model.model
    hook = model.register_forward_pre_hook(
        lambda _module, _args, kwargs: calls.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    try:
        found = decoded(open_golden, queries, [100, 100, 100, 2])  # beyond the room made at first
    finally:
        hook.remove()
    assert calls[-100:] == [4] * 100
    apart = decoded(open_golden, queries, [100, 100, 100, 2], branches=1)
    for index, one in apart.items():
        torch.testing.assert_close(found[index], one, atol=5e-5, rtol=0)


def test_a_broken_branch_costs_nobody_else(open_golden: Golden) -> None:
    broken = [
        Query(Prompt((TextPiece((1, 2)), *video(2), VisualPiece(key, 5, None), TextPiece((4,)))))
        for key in ("broken", "nan")
    ]
    queries = [*broken, *asked(2, (7,), (8,))]
    found = decoded(open_golden, queries, [3] * 4)
    assert isinstance(found[0], MediaError)
    assert isinstance(found[1], NumericalError)
    whole = decoded(open_golden, queries[2:], [3] * 2)
    for index in (2, 3):
        torch.testing.assert_close(found[index], whole[index - 2], atol=5e-5, rtol=0)


def test_numbers_that_become_none_cost_their_own_branch(open_golden: Golden) -> None:
    # Embeddings of one token that overflow: the branch that says it is lost, the others are not.
    queries = asked(4, (7,), (8,), (9,))
    before = decoded(open_golden, queries, [4] * 3)
    first = [int(torch.as_tensor(before[index])[0].argmax()) for index in range(3)]
    table = open_golden.session.checkpoint.model.model.embed_tokens
    weight = table.weight[first[0]].clone()
    assert first.count(first[0]) == 1, "another question is needed"
    table.weight[first[0]] = torch.nan
    try:
        found = decoded(open_golden, queries, [4] * 3)
    finally:
        table.weight[first[0]] = weight
    assert isinstance(found[0], NumericalError)
    for index in (1, 2):
        assert torch.equal(torch.as_tensor(found[index]), torch.as_tensor(before[index]))


def test_groups_keep_what_is_shared_long() -> None:
    """The questions on a video are a group; another video, or another beginning, is none of it."""

    def groups(queries: Sequence[Query], most: int = 8) -> list[tuple[tuple[int, ...], int]]:
        plan = plan_visits(queries, chunk_tokens=1000)
        found = plan_branches(queries, plan, range(len(queries)), most=most)
        return [(group.members, group.shared) for group in found]

    three = asked(20, (7, 8), (9, 3), (9, 4))
    other = [Query(Prompt((TextPiece((1, 2)), VisualPiece("x", 300, None), TextPiece((7, n)))))
             for n in (1, 2)]  # fmt: skip
    assert groups([*three, *other]) == [((0, 1, 2), 102), ((3, 4), 303)]
    assert groups(three, most=2) == [((0, 1), 102)]
    assert groups([three[0]] * 3) == [((0, 1, 2), 103)]
    alone_ = Query(Prompt((TextPiece((9,)),)))
    assert groups([alone_, Query(Prompt((TextPiece((8,)),)))]) == []
    long = [Query(Prompt((*video(2), VisualPiece(str(n), 5000, None)))) for n in range(2)]
    assert groups(long) == []


@pytest.mark.parametrize(
    ("changes", "number", "reason"),
    [
        ({}, 8, ""),
        ({"asked": "3"}, 3, ""),
        ({"asked": 1}, 1, ""),
        ({"is_float32": False}, 1, "half precision"),
        ({"is_float32": False, "asked": 4}, 4, ""),
        ({"press": "snapkv:0.5"}, 1, "kv_press=snapkv:0.5"),
        ({"places_pairs": True}, 1, "pairs"),
        ({"attention": "eager", "asked": 8}, 1, "attention eager"),
    ],
)
def test_why_prompts_are_decoded_one_at_a_time(
    changes: dict[str, Any], number: int, reason: str
) -> None:
    usual: dict[str, Any] = {
        "asked": "auto", "is_float32": True, "attention": "split_sdpa", "press": "none",
        "places_pairs": False,
    }  # fmt: skip
    found, why = resolve_branches(**usual | changes)
    assert found == number
    assert reason in why
    assert bool(reason) == bool(why)


@pytest.mark.parametrize("asked", ["many", 0, 65, "1.5"])
def test_a_number_of_branches_is_whole(asked: str | int) -> None:
    with pytest.raises(SettingsError, match=f"branches={asked!r} must be auto, or a number"):
        resolve_branches(
            asked, is_float32=True, attention="split_sdpa", press="none", places_pairs=False
        )


def test_a_session_answers_the_same_and_says_how(open_golden: Golden) -> None:
    session = open_golden.session
    greedy = GenerationSettings(max_new_tokens=12, end_token_ids=(1002,), repetition_penalty=1.2)
    drawn = GenerationSettings(max_new_tokens=5, do_sample=True, temperature=0.9, seed=3)
    texts = ["What is shown?", "What is the colour of it?", "Why?", "What is shown?"]
    prompts = [session.prompt(text) for text in texts]
    assert session.describe()["branches"] == 8
    together = session.generate(prompts, [greedy, greedy, greedy, drawn], letters=["AB"] * 4)
    try:
        session.change_branches(1)
        assert session.describe()["branches"] == 1
        apart = session.generate(prompts, [greedy, greedy, greedy, drawn], letters=["AB"] * 4)
    finally:
        session.change_branches("auto")
    for one, side in zip(apart, together, strict=True):
        assert isinstance(one, Generation)
        assert isinstance(side, Generation)
        assert side.token_ids == one.token_ids
        assert side.finish_reason == one.finish_reason
        assert side.min_margin == pytest.approx(one.min_margin, abs=1e-4)
        assert side.option_log_probs == one.option_log_probs  # prompts are read as ever


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
def test_a_captured_step_equals_a_step(open_golden: Golden, device: str) -> None:
    model = open_golden.session.checkpoint.model.to(device)
    try:
        queries = asked(4, (7,), (7, 8), (9, 3, 4), (7,))
        captured = decoded(open_golden, queries, [100] * 4)
        one = decoded(open_golden, queries, [100] * 4, branches=1)
    finally:
        model.to("cpu")
    for index, logits in captured.items():
        torch.testing.assert_close(logits, one[index], atol=5e-4, rtol=0)
