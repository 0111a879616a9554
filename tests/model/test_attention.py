"""Attention without a mask equals attention with one, for every kernel it calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import OPEN, Golden

from longva_eval.engine.opening import open_session
from longva_eval.engine.verify import summary_of, verify_attention
from longva_eval.errors import SettingsError
from longva_eval.media.frames import FramePolicy
from longva_eval.model import attention
from longva_eval.model.attention import cudnn_blocks, split_sdpa, try_backend
from longva_eval.model.backends import (
    PACKAGES,
    attention_candidates,
    installed_packages,
    resolve_chunk_tokens,
)

VIDEO = OPEN / "inputs" / "landscape_320x180.mp4"
WORST_ERROR = {torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
        ],
    ),
]


def masked_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> torch.Tensor:
    """The definition, in float64."""
    groups = query.shape[1] // key.shape[1]
    key = key.double().repeat_interleave(groups, dim=1)
    value = value.double().repeat_interleave(groups, dim=1)
    scores = query.double() @ key.transpose(2, 3) * scaling
    seen = torch.ones_like(scores, dtype=torch.bool).tril(key.shape[2] - query.shape[2])
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(WORST_ERROR), ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(28, 4, 128), (6, 2, 8), (3, 3, 20)])
def test_split_attention_equals_masked_attention(
    device: str, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int
) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(tokens: int, num_heads: int) -> torch.Tensor:
        values = torch.randn(1, tokens, num_heads, head_dim, generator=generator)
        return values.to(device, dtype).transpose(1, 2)

    for past, new in [(0, 1), (0, 37), (1, 1), (50, 1), (1, 2), (1, 37), (70, 33), (33, 70)]:
        # As in the engine's cache: more room than is held, and nothing but noise in it.
        keys, values = random(past + new + 9, kv_heads), random(past + new + 9, kv_heads)
        keys[:, :, past + new :] = values[:, :, past + new :] = torch.nan
        key, value = keys[:, :, : past + new], values[:, :, : past + new]
        query = random(new, heads)
        for scaling in (None, 0.05):
            found, weights = split_sdpa(
                torch.nn.Identity(), query, key, value, None, scaling=scaling
            )
            wanted = masked_attention(query, key, value, scaling or head_dim**-0.5)
            assert weights is None
            assert found.shape == (1, new, heads, head_dim)
            assert found.dtype == dtype
            error = (found.double() - wanted).norm() / wanted.norm()
            assert error < WORST_ERROR[dtype], (past, new, scaling)


@pytest.mark.parametrize("past", [3, 100, 128])
def test_keys_in_blocks_are_attended_to_as_one(monkeypatch: pytest.MonkeyPatch, past: int) -> None:
    monkeypatch.setattr(attention, "_CUDNN_BLOCKS", (64, 16))
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 6, 1024, 8, generator=generator)
    key, value = (torch.randn(1, 2, past + 1024, 8, generator=generator) for _ in range(2))
    found, _ = split_sdpa(torch.nn.Identity(), query, key, value, None, kernel="cudnn")
    wanted = masked_attention(query, key, value, 8**-0.5)
    assert (found.double() - wanted).norm() / wanted.norm() < 5e-6


def test_cudnn_sees_few_lengths() -> None:
    assert cudnn_blocks(8192, 147_456) == (65_536, 65_536, 16_384)
    assert cudnn_blocks(1024, 70_001) == (65_536, 4096, 369)
    assert cudnn_blocks(60, 147_456) == (147_456,)  # a question: no plan would be used again
    for past in range(0, 300_000, 777):
        assert sum(cudnn_blocks(8192, past)) == past


HOPPER, BLACKWELL, AMPERE = (9, 0), (10, 0), (8, 0)
BOTH = frozenset(PACKAGES.values())


@pytest.mark.parametrize(
    ("capability", "packages", "dtype", "head_dim", "found"),
    [
        (None, BOTH, "float32", 128, ["sdpa"]),
        (AMPERE, BOTH, "bfloat16", 128, ["sdpa"]),
        (HOPPER, (), "bfloat16", 128, ["cudnn", "sdpa"]),
        (HOPPER, BOTH, "bfloat16", None, ["fa3", "fa4", "cudnn", "sdpa"]),
        (HOPPER, {"flash-attn-4"}, "bfloat16", 128, ["fa4", "cudnn", "sdpa"]),
        (HOPPER, BOTH, "float16", 128, ["fa4", "cudnn", "sdpa"]),
        (HOPPER, BOTH, "float32", 128, ["sdpa"]),
        (HOPPER, BOTH, "bfloat16", 256, ["fa3", "fa4", "sdpa"]),
        (HOPPER, BOTH, "bfloat16", 20, ["sdpa"]),
        (BLACKWELL, BOTH, "bfloat16", 128, ["fa4", "cudnn", "sdpa"]),
        (BLACKWELL, BOTH, "bfloat16", 192, ["sdpa"]),
        ((12, 0), BOTH, "bfloat16", 128, ["cudnn", "sdpa"]),
    ],
)
def test_auto_takes_the_best_back_end_that_is_there(
    capability: tuple[int, int] | None,
    packages: frozenset[str],
    dtype: str,
    head_dim: int | None,
    found: list[str],
) -> None:
    here: dict[str, Any] = {
        "capability": capability, "packages": packages, "dtype": dtype, "head_dim": head_dim
    }  # fmt: skip
    assert attention_candidates("auto", **here) == found
    for name in ("fa3", "fa4", "cudnn", "sdpa"):
        if name in found:
            assert attention_candidates(name, **here) == [name]
        else:
            with pytest.raises(SettingsError, match=f"attn_implementation={name} cannot be used"):
                attention_candidates(name, **here)


def test_a_back_end_that_is_not_there_is_refused_before_weights_are_read() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match=r"fa4 cannot be used here: it needs a GPU of"):
            open_session("no/such/folder", attn_implementation="fa4")
    with pytest.raises(SettingsError, match=r"flash-attn-4 \(pip install longva-eval"):
        attention_candidates("fa4", capability=HOPPER, packages=(), dtype="bfloat16")
    with pytest.raises(SettingsError, match="'magic' is unknown; use auto, fa3, fa4, cudnn"):
        open_session("no/such/folder", attn_implementation="magic")


@pytest.mark.parametrize(
    ("asked", "memory", "tokens"),
    [
        ("auto", None, 2048),
        ("auto", 120 << 30, 8192),
        ("auto", 8 << 30, 4096),
        ("auto", 1 << 20, 1024),
        ("300", 1 << 20, 300),
        (7, None, 7),
    ],
)
def test_chunks_follow_the_memory_of_the_card(
    asked: str | int, memory: int | None, tokens: int
) -> None:
    per_token = (3 * 18_944 + 4 * 3584) * 2  # LongVA-7B in bfloat16
    found = resolve_chunk_tokens(asked, memory_bytes=memory, bytes_per_token=per_token)
    assert found == tokens


def test_back_ends_are_compared_by_flips_and_margins(
    open_golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_golden.session
    monkeypatch.setattr(session, "frames", FramePolicy(max_frames=2))
    found = verify_attention(session, VIDEO, "eager", max_new_tokens=2)
    assert session.attention == "sdpa"
    assert len(found) == 6
    summary = summary_of(found)
    assert summary["flips"] == 0
    assert 0 < summary["largest_logit_difference"] < 1e-4
    assert all(each.margin > 0 for each in found)


def test_a_back_end_is_tried_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert try_backend("cudnn", cpu, torch.float32, 8) == ""

    def other_scale(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        query, key, value, is_causal, _ = given
        return attention._flash(query, key, value, is_causal, 1.0)

    monkeypatch.setattr(attention, "_cudnn", other_scale)
    assert "its outputs are off by" in try_backend("cudnn", cpu, torch.float32, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", ["fa3", "fa4", "cudnn"])
def test_a_back_end_of_this_gpu_equals_the_formula(name: str) -> None:
    capability = torch.cuda.get_device_capability()
    found = attention_candidates(
        "auto", capability=capability, packages=installed_packages(), dtype="bfloat16", head_dim=128
    )
    if name not in found:
        pytest.skip(f"{name} is not here")
    assert try_backend(name, torch.device("cuda"), torch.bfloat16, 128) == ""
