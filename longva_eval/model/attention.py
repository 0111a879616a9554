"""Causal attention over a cache, without the mask.

With keys in a cache and a chunk of new queries, transformers' `sdpa` builds a (queries x keys)
boolean mask. PyTorch then computes the whole rectangle and leaves its flash kernel. But the
rectangle has a simple shape: everything that is past is visible, and the new part is causal. So
the two are computed by the same flash kernels without a mask, and merged by their log-sum-exp:
the same sum in another order, exact up to rounding (2e-6 on a 1,500-token check).

Registered with transformers under the name `split_sdpa`; prompts are one at a time, so there is
never any padding to mask.
"""

from __future__ import annotations

from typing import Any

import torch
from packaging.version import Version
from torch.nn import functional
from transformers import AttentionInterface

__all__ = ["SPLIT_SDPA", "register_split_sdpa", "split_sdpa"]

SPLIT_SDPA = "split_sdpa"
_CPU_WANTS_EVERY_HEAD = Version(torch.__version__) < Version("2.9")


def register_split_sdpa() -> None:
    """Make `attn_implementation="split_sdpa"` known to transformers."""
    AttentionInterface.register(SPLIT_SDPA, split_sdpa)


def split_sdpa(
    module: torch.nn.Module,  # noqa: ARG001  # transformers calls by position
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of new queries to all keys before and among them.

    Args:
        module: The attention layer.
        query: (1, num_heads, new_tokens, head_dim).
        key: (1, num_kv_heads, past_tokens + new_tokens, head_dim).
        value: As `key`.
        attention_mask: None; transformers builds no mask for an implementation of this name.
        scaling: Factor on the scores; 1 / sqrt(head_dim) if None.
        **kwargs: What other implementations need.

    Returns:
        (1, new_tokens, num_heads, head_dim), and None for the attention weights.
    """
    del kwargs, attention_mask
    new = query.shape[2]
    past = key.shape[2] - new
    groups = query.shape[1] // key.shape[1]
    if new == 1 or past == 0:
        output = functional.scaled_dot_product_attention(
            query, key, value, is_causal=new > 1, scale=scaling, enable_gqa=groups > 1
        )
        return output.transpose(1, 2).contiguous(), None
    on_cpu = query.device.type == "cpu"
    if groups > 1 and (_CPU_WANTS_EVERY_HEAD if on_cpu else query.dtype == torch.float32):
        # Of the fused kernels only the efficient one wants a key for each query head; that of the
        # CPU reads beyond its input without it before PyTorch 2.9.
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    head_dim = query.shape[-1]
    if head_dim % 8:
        # Called directly, the flash kernel pads no heads: zeros change no score and no sum.
        scaling = head_dim**-0.5 if scaling is None else scaling
        query, key, value = (functional.pad(x, (0, -head_dim % 8)) for x in (query, key, value))
    seen, seen_lse = _flash(query, key[:, :, :past], value[:, :, :past], False, scaling)
    own, own_lse = _flash(query, key[:, :, past:], value[:, :, past:], True, scaling)
    share = torch.sigmoid(seen_lse - own_lse).unsqueeze(-1)
    merged = seen.float() * share + own.float() * (1 - share)
    merged = merged[..., :head_dim].to(query.dtype)
    return merged.transpose(1, 2).contiguous(), None


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    is_causal: bool,
    scaling: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One of PyTorch's fused kernels: output, and the natural log-sum-exp in float32.

    Returns:
        (1, num_heads, new_tokens, head_dim) and (1, num_heads, new_tokens).
    """
    aten = torch.ops.aten
    if query.device.type == "cpu":
        output, lse = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, is_causal, scale=scaling
        )
    elif query.dtype in (torch.float16, torch.bfloat16):
        output, lse = aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, is_causal, False, scale=scaling
        )[:2]
    else:
        output, lse = aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, is_causal, scale=scaling
        )[:2]
    # The efficient kernel pads its log-sum-exp to a multiple of 32 queries.
    return output, lse[:, :, : query.shape[2]].float()
