"""Attention without a mask equals attention with one, for every kernel it calls."""

from __future__ import annotations

import pytest
import torch

from longva_eval.model.attention import split_sdpa

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
