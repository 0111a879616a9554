"""The engine: shared prefixes give the same numbers as one prefill each, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import Golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longva_eval.engine.prefix import PrefixEngine
from longva_eval.errors import MediaError, NumericalError, ResourceError, SettingsError
from longva_eval.prompts.pieces import Prompt, TextPiece, VisualPiece
from longva_eval.prompts.visits import Query, plan_visits

NUM_TOKENS_OF_PIECE = 5


class Visuals:
    """Visual tokens that depend on a piece's key alone."""

    def expect(self, upcoming: Sequence[Sequence[VisualPiece]]) -> None:
        self.asked = iter([[piece.key for piece in pieces] for pieces in upcoming])

    def encode(self, pieces: Sequence[VisualPiece]) -> list[torch.Tensor]:
        if any(piece.key == "broken" for piece in pieces):
            raise MediaError("broken.mp4 cannot be decoded")
        return [self.tokens(piece) for piece in pieces]

    def tokens(self, piece: VisualPiece) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(piece.key))
        return torch.randn(piece.num_tokens, 48, generator=generator) * 0.3

    def stop(self) -> None:
        pass


class ExpectedVisuals(Visuals):
    """Insists that the engine asks for exactly what it said."""

    def encode(self, pieces: Sequence[VisualPiece]) -> list[torch.Tensor]:
        assert [piece.key for piece in pieces] == next(self.asked)
        return super().encode(pieces)


class OverflowingVisuals(Visuals):
    def __init__(self, value: float) -> None:
        self.value = value

    def tokens(self, piece: VisualPiece) -> torch.Tensor:
        return torch.full((piece.num_tokens, 48), self.value)


def frame(number: int | str) -> VisualPiece:
    return VisualPiece(str(number), NUM_TOKENS_OF_PIECE, None)


def text(*token_ids: int) -> TextPiece:
    return TextPiece(tuple(token_ids))


def engine_of(
    golden: Golden, *, chunk_tokens: int, reuse: bool = True, strict: bool = True
) -> PrefixEngine:
    return PrefixEngine(
        golden.session.checkpoint.model,
        ExpectedVisuals() if strict else Visuals(),
        chunk_tokens=chunk_tokens,
        reuse=reuse,
    )


def logits_of(engine: PrefixEngine, queries: Sequence[Query]) -> dict[int, torch.Tensor]:
    return {visit.index: visit.logits.clone() for visit in engine.visit(queries)}


# Few distinct frames and tokens, so that prefixes are shared at every kind of boundary.
pieces = st.one_of(
    st.builds(frame, st.integers(0, 2)),
    st.lists(st.integers(0, 2), min_size=1, max_size=4).map(lambda ids: text(*ids)),
)
prompts = st.lists(pieces, min_size=1, max_size=6).map(lambda parts: Prompt(tuple(parts)))


@st.composite
def batches(draw: st.DrawFn) -> list[Query]:
    drawn = draw(st.lists(prompts, min_size=1, max_size=6))
    return [
        Query(prompt, read_from=draw(st.integers(0, prompt.num_tokens - 1))) for prompt in drawn
    ]


@pytest.mark.slow
@given(queries=batches(), chunk_tokens=st.integers(1, 40))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_batch_equals_one_prefill_each(
    open_golden: Golden, queries: list[Query], chunk_tokens: int
) -> None:
    together = logits_of(engine_of(open_golden, chunk_tokens=chunk_tokens), queries)
    apart = logits_of(engine_of(open_golden, chunk_tokens=chunk_tokens, reuse=False), queries)
    for index, query in enumerate(queries):
        assert together[index].shape[0] == query.prompt.num_tokens - query.first_read
        # The same chunks in both: the same kernels on the same shapes.
        torch.testing.assert_close(together[index], apart[index], atol=1e-5, rtol=0)
        alone = logits_of(engine_of(open_golden, chunk_tokens=10_000), [query])[0]
        torch.testing.assert_close(together[index], alone, atol=5e-5, rtol=0)


@pytest.mark.slow
@given(queries=batches(), chunk_tokens=st.integers(1, 40), seed=st.randoms())
@settings(max_examples=100, deadline=None)
def test_a_plan_cuts_every_prompt_where_its_prefix_is_taken_over(
    queries: list[Query], chunk_tokens: int, seed: object
) -> None:
    plan = plan_visits(queries, chunk_tokens=chunk_tokens)
    assert sorted(plan.order) == list(range(len(queries)))
    before: int | None = None
    for index in plan.order:
        cuts, kept = plan.cuts[index], plan.kept[index]
        assert list(cuts) == sorted(set(cuts))
        assert cuts[-1] == queries[index].prompt.num_tokens
        assert kept <= queries[index].first_read
        if before is None:
            assert kept == 0
        else:
            # Up to what is taken over, both were cut at the same places.
            assert [cut for cut in cuts if cut <= kept] == [
                cut for cut in plan.cuts[before] if cut <= kept
            ]
            assert kept == 0 or kept in cuts
        before = index


def test_three_questions_on_one_video_read_it_once(open_golden: Golden) -> None:
    video = [frame(number) for number in range(20)]
    queries = [Query(Prompt((text(1, 2), *video, text(3, number)))) for number in range(3)]
    engine = engine_of(open_golden, chunk_tokens=64)
    logits_of(engine, queries)
    assert engine.counts.tokens_asked == 3 * 104
    assert engine.counts.tokens_computed == 104 + 2


def test_decoded_tokens_do_not_leak_into_the_next_prompt(open_golden: Golden) -> None:
    queries = [Query(Prompt((text(1, 2, 3), frame(1), text(4, 5)))) for _ in range(2)]
    engine = engine_of(open_golden, chunk_tokens=8)
    seen = []
    for visit in engine.visit(queries, room=2):
        seen.append(visit.logits)
        visit.step(7)
        visit.step(8)
        visit.step(9)  # one more than was reserved
    torch.testing.assert_close(seen[0], seen[1], atol=1e-5, rtol=0)


def test_decoding_equals_reading(open_golden: Golden) -> None:
    prompt = Prompt((text(1, 2, 3), frame(1), text(4, 5)))
    engine = engine_of(open_golden, chunk_tokens=8)
    for visit in engine.visit([Query(prompt)], room=2):
        decoded = [visit.logits[-1], visit.step(7), visit.step(8)]
    read = logits_of(engine, [Query(prompt.with_tokens([7, 8]), read_from=prompt.num_tokens - 1)])
    torch.testing.assert_close(torch.stack(decoded), read[0], atol=2e-5, rtol=0)


def test_a_broken_video_costs_its_own_question_only(open_golden: Golden) -> None:
    good = Query(Prompt((text(1, 2), frame(1), text(3))))
    queries = [good, Query(Prompt((text(1, 2), frame("broken"), text(3)))), good]
    engine = engine_of(open_golden, chunk_tokens=4, strict=False)
    results = {visit.index: visit for visit in engine.visit(queries)}
    assert results[1].error is not None
    assert "broken.mp4" in str(results[1].error)
    assert results[0].error is None
    alone = logits_of(engine_of(open_golden, chunk_tokens=4), [good])[0]
    torch.testing.assert_close(results[2].logits, alone, atol=5e-5, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_stop_the_run(open_golden: Golden, value: float) -> None:
    engine = PrefixEngine(open_golden.session.checkpoint.model, OverflowingVisuals(value))
    with pytest.raises(NumericalError, match=r"NaN or infinite logits in float32.*!!!!"):
        list(engine.visit([Query(Prompt((text(1), frame(1), text(2))))]))


def test_no_prompts_give_no_visits(open_golden: Golden) -> None:
    assert list(engine_of(open_golden, chunk_tokens=8).visit([])) == []


def test_a_chunk_of_nothing_is_refused(open_golden: Golden) -> None:
    with pytest.raises(SettingsError, match="chunk_tokens=0"):
        engine_of(open_golden, chunk_tokens=0)


@pytest.mark.slow
@given(queries=batches(), chunk_tokens=st.integers(1, 40), data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_leaving_prompts_out_changes_no_bit(
    open_golden: Golden, queries: list[Query], chunk_tokens: int, data: st.DataObject
) -> None:
    only = data.draw(st.sets(st.integers(0, len(queries) - 1)))
    whole = logits_of(engine_of(open_golden, chunk_tokens=chunk_tokens), queries)
    engine = engine_of(open_golden, chunk_tokens=chunk_tokens)
    part = {visit.index: visit.logits.clone() for visit in engine.visit(queries, only=only)}
    assert part.keys() == only
    for index, logits in part.items():
        assert torch.equal(logits, whole[index])


class OverflowingAt(Visuals):
    """One frame that overflows."""

    def tokens(self, piece: VisualPiece) -> torch.Tensor:
        tokens = super().tokens(piece)
        return tokens * float("nan") if piece.key == "1" else tokens


def test_numbers_that_are_none_can_cost_their_own_question_only(open_golden: Golden) -> None:
    queries = [Query(Prompt((text(1, 2), frame(n), text(3)))) for n in (0, 1, 2)]
    engine = PrefixEngine(open_golden.session.checkpoint.model, OverflowingAt(), chunk_tokens=4)
    visits = {v.index: (v.error, v.logits) for v in engine.visit(queries, keep_going=True)}
    assert isinstance(visits[1][0], NumericalError)
    alone = logits_of(engine_of(open_golden, chunk_tokens=4), queries)
    for index in (0, 2):
        assert torch.equal(visits[index][1], alone[index])


class SmallMemory:
    """Lets a model fail as a full GPU does: beyond so many new tokens at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __call__(self, module: torch.nn.Module, args: object, kwargs: dict[str, Any]) -> None:
        if kwargs["inputs_embeds"].shape[1] > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_smaller_chunks_are_tried_where_memory_is_not_enough(open_golden: Golden) -> None:
    queries = [
        Query(Prompt((text(1, 2), *map(frame, range(30)), text(3, number))), read_from=20)
        for number in range(2)
    ]
    whole = logits_of(engine_of(open_golden, chunk_tokens=64), queries)
    engine = engine_of(open_golden, chunk_tokens=1000)
    model = open_golden.session.checkpoint.model.model
    hook = model.register_forward_pre_hook(SmallMemory(70), with_kwargs=True)
    try:
        found = logits_of(engine, queries)
    finally:
        hook.remove()
    assert engine.counts.smallest_chunk is not None
    assert engine.counts.smallest_chunk <= 70
    for index, logits in found.items():
        torch.testing.assert_close(logits, whole[index], atol=5e-5, rtol=0)


def test_too_little_memory_is_said_with_what_helps(open_golden: Golden) -> None:
    query = Query(Prompt((text(1, 2), *map(frame, range(30)), text(3))))
    engine = engine_of(open_golden, chunk_tokens=1000)
    model = open_golden.session.checkpoint.model.model
    hook = model.register_forward_pre_hook(SmallMemory(2), with_kwargs=True)
    try:
        with pytest.raises(
            ResourceError, match=r"153 tokens, even in chunks of .*longva-eval plan"
        ):
            logits_of(engine, [query])
    finally:
        hook.remove()
