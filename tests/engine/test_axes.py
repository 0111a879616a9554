"""Positions and presses in the engine, each beside its formula: all scores at once, no cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from conftest import Golden
from torch.nn import functional

from longva_eval.engine.generation import Generation, GenerationSettings
from longva_eval.engine.prefix import PrefixEngine
from longva_eval.engine.session import Session
from longva_eval.engine.vision import ClipVision, read_frame_pooling
from longva_eval.errors import SettingsError
from longva_eval.media.frames import FramePolicy
from longva_eval.model.positions import PositionPolicy
from longva_eval.prompts.pieces import Prompt, TextPiece, VisualPiece
from longva_eval.prompts.visits import Query
from longva_eval.running.jobs import SCORE

SIZE = 5


class Visuals:
    """Visual tokens that depend on a piece's key alone."""

    def expect(self, upcoming: Sequence[Sequence[VisualPiece]]) -> None:
        self.asked = iter([[piece.key for piece in pieces] for pieces in upcoming])

    def encode(self, pieces: Sequence[VisualPiece]) -> list[torch.Tensor]:
        assert [piece.key for piece in pieces] == next(self.asked)
        return [visual(piece) for piece in pieces]

    def stop(self) -> None:
        pass


def visual(piece: VisualPiece) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(piece.key))
    return torch.randn(piece.num_tokens, 48, generator=generator) * 0.3


def prompt(*last: int, frames: int = 12) -> Prompt:
    video = [VisualPiece(str(number), SIZE, None) for number in range(frames)]
    return Prompt((TextPiece((1, 2, 3)), *video, TextPiece((4, 5, *last))))


QUERIES = [
    Query(prompt(6, 7, 8), read_from=65),
    Query(prompt(6)),
    Query(prompt(9, 10), read_from=66),
    Query(prompt(6, frames=7)),
]
"""The first has an answer of two tokens behind its question."""


@pytest.fixture
def session(open_golden: Golden) -> Iterator[Session]:
    frames, open_golden.session.frames = open_golden.session.frames, FramePolicy(max_frames=4)
    yield open_golden.session
    open_golden.session.frames = frames
    open_golden.session.change_positions("own")
    open_golden.session.change_press("none")


def answers(session: Session, chunk_tokens: int = 1000, reuse: bool = True) -> list[torch.Tensor]:
    engine = PrefixEngine(
        session.checkpoint.model, Visuals(), chunk_tokens=chunk_tokens, reuse=reuse
    )
    engine.positions, engine.press = session.engine.positions, session.engine.press
    found = {}
    for visit in engine.visit(QUERIES, room=2):
        found[visit.index] = torch.cat([visit.logits, visit.step(3)[None], visit.step(1)[None]])
    return [found[number] for number in range(len(QUERIES))]


# The whole model, written out: every pair of query and key has a distance of its own.

Distance = Callable[[int, int], float | None]
"""At which distance a query at one place sees a key at another; None if it does not."""
Keep = Callable[..., torch.Tensor]


def reference(
    session: Session, query: Query, distance: Distance, keep: Keep | None = None
) -> torch.Tensor:
    """Logits as of `answers`. `keep` says which of a layer's tokens of the video are kept, told
    what is attended to without it."""
    seen: list[torch.Tensor] = []
    logits = whole_model(session, query, distance, seen)
    return logits if keep is None else whole_model(session, query, distance, seen, keep)


def whole_model(
    session: Session,
    query: Query,
    distance: Distance,
    seen: list[torch.Tensor],
    keep: Keep | None = None,
    turn: Callable[[list[bool], torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> torch.Tensor:
    model = session.checkpoint.model
    embed = model.model.embed_tokens
    rows, is_visual = [], []
    for piece in (*query.prompt.pieces, TextPiece((3, 1))):
        text = isinstance(piece, TextPiece)
        rows.append(embed(torch.tensor(piece.token_ids)) if text else visual(piece))
        is_visual += [not text] * piece.num_tokens
    hidden = torch.cat(rows)
    count = len(hidden)
    press_at = max(place for place, flag in enumerate(is_visual) if flag) + 1
    far = [[distance(i, j) if j <= i else None for j in range(count)] for i in range(count)]
    inv_freq = session.checkpoint.model.model.rotary_emb.inv_freq.double()
    angles = torch.tensor([[0.0 if d is None else d for d in row] for row in far]).double()
    angles, lengths = angles[..., None] * inv_freq, torch.ones(count, dtype=torch.float64)
    if turn is not None:
        each, lengths = turn(is_visual, inv_freq)
        angles = each[:, None] - each[None]
    cos, sin = angles.cos(), angles.sin()
    hides = torch.tensor([[d is None for d in row] for row in far])
    config = session.checkpoint.config
    size = config.hidden_size // config.num_attention_heads
    for number, layer in enumerate(model.model.layers):
        attention, normed = layer.self_attn, layer.input_layernorm(hidden)
        q, k, v = (
            projection(normed).view(count, -1, size).transpose(0, 1).double()
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        groups = q.shape[0] // k.shape[0]
        scores = torch.empty(q.shape[0], count, count, dtype=torch.float64)
        for head in range(q.shape[0]):
            a, b = q[head].chunk(2, -1)
            c, d = k[head // groups].chunk(2, -1)
            # <R(i) q, R(j) k> is a rotation by i - j alone.
            same = a[:, None] * c[None] + b[:, None] * d[None]
            cross = b[:, None] * c[None] - a[:, None] * d[None]
            scores[head] = (same * cos - cross * sin).sum(-1)
        scores = scores * lengths[:, None] * lengths / math.sqrt(size)
        scores.masked_fill_(hides, -torch.inf)
        if keep is None:
            seen.append(scores.softmax(-1).unflatten(0, (-1, groups)).mean(1))
        else:
            for head in range(k.shape[0]):
                kept = keep(k[head], v[head], seen[number][head], press_at, query)
                dropped = [
                    place for place in range(press_at) if is_visual[place] and place not in kept
                ]
                scores[head * groups : (head + 1) * groups, press_at:, dropped] = -torch.inf
        mixed = scores.softmax(-1) @ v.repeat_interleave(groups, 0)
        hidden = hidden + attention.o_proj(mixed.float().transpose(0, 1).reshape(count, -1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    logits = model.lm_head(model.model.norm(hidden))
    return logits[query.first_read :]


def place_of(query: Query, place: int, step: float) -> float:
    """Text takes a whole place, a visual token `step`."""
    visuals = query.prompt.num_visual_tokens
    before = min(max(place - 3, 0), visuals)
    return place - before + before * step


def distances(policy: str, query: Query) -> Distance:
    """From each method's paper."""
    numbers = [int(number) for number in policy.split(":")[1:]]
    name, (one, two) = policy.split(":")[0], (*numbers, 0, 0)[:2]

    def dca(i: int, j: int) -> float:  # arXiv:2402.17463, equations 2 to 7: s = one, c = two
        keys = j % one
        if i // one == j // one:
            return i % one - keys
        if i // one - j // one == 1:
            window = two - one  # P_succ = [s, s + 1, ..., s + w - 1, c - 1, ..., c - 1]
            return (one + i % one if i % one < window else two - 1) - keys
        return two - 1 - keys

    table: dict[str, Distance] = {
        "own": lambda i, j: i - j,
        "stride": lambda i, j: place_of(query, i, 1 / one) - place_of(query, j, 1 / one),
        "grouped": lambda i, j: i // one - j // one,
        "recurrent": lambda i, j: i % one - j % one,
        # arXiv:2401.01325, algorithm 1: neighbours as they are, others by grouped attention.
        "self-extend": lambda i, j: (
            i - j if i - j < two else i // one + two - two // one - j // one
        ),
        "rerope": lambda i, j: min(i - j, one),
        "dca": dca,
        "lm-infinite": lambda i, j: i - j if i - j < one else one if j < two else None,
    }
    return table[name]


POLICIES = [
    "own", "stride:4", "grouped:3", "recurrent:20", "self-extend:3:10", "rerope:12", "dca:12:16",
    "lm-infinite:20:4",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@torch.no_grad()
def test_positions_are_those_of_the_paper(session: Session, policy: str) -> None:
    expected = [reference(session, query, distances(policy, query)) for query in QUERIES]
    plain = [reference(session, query, distances("own", query)) for query in QUERIES]
    session.change_positions(policy)
    found = answers(session)
    for number in range(len(QUERIES)):
        torch.testing.assert_close(found[number], expected[number], atol=2e-4, rtol=0)
    differ = max((a - b).abs().max() for a, b in zip(expected, plain, strict=True))
    assert (differ > 5e-3) == (policy != "own"), "a test that would pass without the method"


@torch.no_grad()
def test_visual_tokens_turn_by_their_own_yarn(session: Session, open_golden: Golden) -> None:
    factor, length = 4.0, 48

    def turn(is_visual: list[bool], own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How far each token is turned, and by how much it is longer (arXiv:2309.00071)."""
        size = 2 * len(own)
        base = float(own[1]) ** (-size / 2)

        def turns(times: float) -> float:  # the pair that turns so often within the length
            return size * math.log(length / (times * 2 * math.pi)) / (2 * math.log(base))

        low, high = max(0, math.floor(turns(32))), min(size - 1, math.ceil(turns(1)))
        ramp = ((torch.arange(len(own)) - low) / max(high - low, 0.001)).clamp(0, 1).double()
        yarn = own * (1 - ramp) + own / factor * ramp
        assert bool((ramp > 0).any())
        assert bool((ramp < 1).any()), "some turn as before"
        visual = torch.tensor(is_visual)
        frequencies = torch.where(visual[:, None], yarn, own)
        longer = torch.where(visual, 0.1 * math.log(factor) + 1, 1.0).double()
        return torch.arange(len(is_visual))[:, None] * frequencies, longer

    far = distances("own", QUERIES[0])
    expected = [whole_model(session, query, far, [], turn=turn) for query in QUERIES]
    plain = [reference(session, query, far) for query in QUERIES]
    session.change_positions(f"visual-yarn:{factor:g}:{length}")
    for chunk_tokens in (1000, 7):
        for found, wanted in zip(answers(session, chunk_tokens), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0)
    assert max((a - b).abs().max() for a, b in zip(expected, plain, strict=True)) > 5e-3
    described = session.describe()["rope"]
    assert described["positions"] == "visual-yarn:4:48"
    session.change_rope(replace(session.checkpoint.rope, theta=5e5))  # keeps it, over another base
    changed = answers(session)
    assert (changed[0] - expected[0]).abs().max() > 1e-3
    session.change_rope(replace(session.checkpoint.rope, theta=None))
    for found, wanted in zip(answers(session), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0)
    video = open_golden.folder / "inputs/landscape_320x180.mp4"
    asked = [session.prompt(text, [video]) for text in ("What is it?", "Where?")]
    said = []
    for branches in ("auto", 1):
        session.change_branches(branches)
        said.append(session.generate(asked, GenerationSettings(max_new_tokens=4)))
    session.change_branches("auto")
    assert [each.token_ids for each in said[0]] == [each.token_ids for each in said[1]]  # type: ignore[union-attr]


def references(press: str, number: int, kept_frames: Sequence[int]) -> Keep:
    """What a press keeps, written from its paper; `number` visual tokens."""
    name, aware = press.split(":")[0], press.endswith("question")

    def keep(
        k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor, press_at: int, query: Query
    ) -> torch.Tensor:
        at = torch.arange(3, press_at)
        if name == "recent":
            return at[-number:]
        if name == "uniform":
            return torch.cat([torch.arange(3 + SIZE * f, 3 + SIZE * f + SIZE) for f in kept_frames])
        if name == "knorm":
            scores = -(k[at] ** 2).sum(-1)
        elif name == "vnorm":
            scores = (v[at] ** 2).sum(-1)
        else:
            end = query.first_read + 1 if aware else press_at
            first = max(press_at, end - 32) if aware else end - 32
            votes = seen[first:end].sum(0)[at]
            padded = functional.pad(votes, (2, 2))
            scores = torch.stack([padded[i : i + 5].sum() for i in range(len(at))])
            if not aware:
                scores[at >= press_at - min(32, number // 2)] = torch.inf
        return at[scores.topk(number).indices]

    return keep


@pytest.mark.slow
@pytest.mark.parametrize(
    "press", ["knorm:0.4", "vnorm:0.4", "snapkv:0.8", "snapkv:0.4:question", "recent:0.4",
              "uniform:0.5"],
)  # fmt: skip
@torch.no_grad()
def test_a_press_keeps_what_its_paper_says(session: Session, press: str) -> None:
    fraction = float(press.split(":")[1])
    session.change_press(press)
    found = answers(session)
    own = distances("own", QUERIES[0])
    for number, query in enumerate(QUERIES):
        frames = query.prompt.num_visual_tokens // SIZE
        kept = {12: [1, 3, 5, 7, 9, 11], 7: [0, 2, 4, 6]}[frames]  # of 7 halves, round(3.5) is 4
        keep = references(press, round(fraction * frames * SIZE), kept)
        expected = reference(session, query, own, keep)
        torch.testing.assert_close(found[number], expected, atol=2e-4, rtol=0)
        plain = reference(session, query, own)
        assert (expected - plain).abs().max() > 1e-3, "a test that would pass without the press"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "press"),
    [
        ("stride:2", "snapkv:0.7"),
        ("grouped:2", "snapkv:0.3:question"),
        ("self-extend:3:10", "none"),
        ("visual-yarn:4:48", "snapkv:0.7"),
        ("self-extend:3:10", "random:0.5"),
        ("dca:12:16", "snapkv:0.7"),
    ],
)
def test_sharing_changes_no_bit(session: Session, policy: str, press: str) -> None:
    session.change_positions(policy)
    session.change_press(press)
    shared, alone = answers(session, 7), answers(session, 7, reuse=False)
    for one, two in zip(shared, alone, strict=True):
        assert torch.equal(one, two)
    torch.testing.assert_close(shared, answers(session), atol=2e-4, rtol=0)


@pytest.mark.slow
def test_a_press_that_keeps_all_changes_nothing_but_the_record(session: Session) -> None:
    plain = answers(session)
    session.change_press("random:1")
    torch.testing.assert_close(answers(session), plain, atol=5e-5, rtol=0)
    session.change_press("random:0.5")
    half = answers(session)
    assert (half[0] - plain[0]).abs().max() > 1e-3
    torch.testing.assert_close(answers(session), half, atol=0, rtol=0)


def test_tokens_and_bytes_held_are_those_of_the_cache(session: Session) -> None:
    session.change_press("knorm:0.25")
    engine = PrefixEngine(session.checkpoint.model, Visuals())
    engine.press = session.engine.press
    config = session.checkpoint.config
    size = config.hidden_size // config.num_attention_heads
    per_token = 2 * 4 * size * config.num_key_value_heads * config.num_hidden_layers
    for visit in engine.visit(QUERIES[1:2]):
        assert visit.kv_tokens == 3 + 15 + 3
        assert visit.kv_bytes == visit.kv_tokens * per_token
    engine.press = None
    assert [visit.kv_tokens for visit in engine.visit(QUERIES[1:2])] == [None]


def test_likelihoods_tell_what_was_held_as_answers_do(
    session: Session, open_golden: Golden
) -> None:
    video = open_golden.folder / "inputs/landscape_320x180.mp4"
    asked = [session.prompt("What is shown?", [video])] * 2
    values = {}
    for press in ("none", "knorm:0.5"):
        session.change_press(press)
        scored = session.score(asked, ["A", "A long answer of more tokens"])
        (said,) = session.generate(asked[:1], GenerationSettings(max_new_tokens=3))
        assert isinstance(said, Generation)
        (forced,) = session.force([asked[0].prompt], [(5, 6, 7)])
        values[press] = [SCORE.value(each) for each in scored]
        for held in (*(value["kv_tokens"] for value in values[press]), forced.scores.kv_tokens):  # type: ignore[union-attr]
            assert held == said.kv_tokens
        assert {value["kv_bytes"] for value in values[press]} == {said.kv_bytes}
    visual = asked[0].prompt.num_visual_tokens
    assert values["none"][0]["kv_tokens"] is None
    for value in values["knorm:0.5"]:
        assert SCORE.facts(value)["kv_tokens"] == asked[0].prompt.num_tokens - visual // 2
        assert SCORE.is_value({**value, "num_prompt_tokens": 1})


def test_of_each_group_one_frame_is_pooled_less(session: Session, open_golden: Golden) -> None:
    video = open_golden.folder / "inputs/landscape_320x180.mp4"
    vision, frames = session.vision, session.frames
    assert isinstance(vision, ClipVision)
    session.frames = FramePolicy(max_frames=7)
    tokens = {}
    try:
        plain = session.prompt("What?", [video]).prompt
        for stride in (2, 3):
            vision.pool_stride = stride
            pieces = session.prompt("What?", [video]).prompt.visual_pieces
            tokens[stride] = session.encoder.encode(pieces)
        vision.pool_stride = 2
        vision.progressive = read_frame_pooling("progressive:3:3", vision.model.patches_per_side)
        assert session.describe()["frame_pooling"] == "progressive:3:3"
        found = session.prompt("What?", [video]).prompt
        mixed = session.encoder.encode(found.visual_pieces)
    finally:
        vision.progressive, vision.pool_stride, session.frames = None, 2, frames
    for place, value in enumerate(mixed):
        torch.testing.assert_close(value, tokens[3 if place % 3 else 2][place], atol=0, rtol=0)
        assert len(value) == found.visual_pieces[place].num_tokens
    assert len(mixed[0]) > len(mixed[1])
    assert found.digest != plain.digest
    for text in ("progressive:1:3", "progressive:2", "progressive:2:99", "slow"):
        with pytest.raises(SettingsError, match="frame_pooling="):
            read_frame_pooling(text, 8)


def test_the_recipe_names_positions_and_press(session: Session) -> None:
    plain = session.describe()
    session.change_positions("self-extend:8")
    session.change_press("snapkv:0.5")
    changed = session.describe()
    assert changed["rope"]["positions"] == "self-extend:8:512"
    assert changed["rope"]["inv_freq_sha256"] != plain["rope"]["inv_freq_sha256"]
    assert changed["kv_press"] == "snapkv:0.5"
    session.change_rope(session.checkpoint.rope)  # which keeps positions
    assert session.describe() == changed
    session.change_positions("own")
    session.change_press("none")
    assert session.describe() == plain


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ("clex:4", "learns an ODE"),
        ("giraffe", "was trained with"),
        ("videorope", "before training"),
        ("stride", "is unknown; use own, stride:S"),
        ("stride:0", "at least 1"),
        ("grouped:1.5", "whole numbers"),
        ("dca:8:8", "shorter than L"),
        ("self-extend:8:2:3", "is unknown"),
        ("temporal:2", "no time axis"),
        ("visual-yarn:4", "is unknown"),
    ],
)
def test_positions_that_cannot_be_are_refused(
    session: Session, positions: str, message: str
) -> None:
    def ask() -> None:
        session.change_positions(positions)
        answers(session)

    with pytest.raises(SettingsError, match=message):
        ask()


@pytest.mark.parametrize("press", ["half", "knorm", "knorm:0", "knorm:1.1", "knorm:0.5:question",
                                   "snapkv:0.5:x"])  # fmt: skip
def test_presses_that_cannot_be_are_refused(session: Session, press: str) -> None:
    with pytest.raises(SettingsError, match=f"kv_press='?{press}"):
        session.change_press(press)


def test_the_time_axis_is_divided_and_texts_move_up() -> None:
    # Text of 2, three frames of two tokens on (time, height, width), text of 2, as Qwen2-VL.
    own = torch.tensor([[0, 1, 2, 2, 3, 3, 4, 4, 5, 6], [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
                        [0, 1, 2, 3, 2, 3, 2, 3, 5, 6]])  # fmt: skip
    is_visual = torch.tensor([False, False, *[True] * 6, False, False])
    placed = PositionPolicy("temporal:2").place(own, is_visual)
    assert placed is not None
    assert placed[0].tolist() == [0, 1, 2, 2, 2.5, 2.5, 3, 3, 4, 5]
    assert placed[1].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 4, 5]
    assert placed[2].tolist() == [0, 1, 2, 3, 2, 3, 2, 3, 4, 5]
    with pytest.raises(SettingsError, match="no effect"):
        PositionPolicy("temporal:2").place(own[1:2].expand(3, -1), is_visual)
