"""Evaluation of many sequences that begin alike: the beginning is computed once.

Attention over the shared prefix and over a sequence's own rest are computed apart and joined by
their log-sum-exp, which is the same sum in another order.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from training.model import Layer, TextModel

__all__ = ["Prefix", "last_logits", "read_prefix"]


@dataclass(frozen=True)
class Prefix:
    """Keys (rotated) and values of a beginning, for every layer."""

    keys: list[Tensor]
    """Each (num_kv_heads, length, head_dim)."""
    values: list[Tensor]
    """As `keys`."""


def _heads(x: Tensor, count: int) -> Tensor:
    """(batch, length, size) to (batch, count, length, head_dim)."""
    return x.view(*x.shape[:2], count, -1).transpose(1, 2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def _layers(model: TextModel) -> list[Layer]:
    return cast("list[Layer]", list(model.layers))


def read_prefix(model: TextModel, embeddings: Tensor) -> Prefix:
    """Keys and values of a beginning, whose own beginnings can be used as well.

    Args:
        model: The language model.
        embeddings: (length, hidden_size).
    """
    keys, values = [], []
    with torch.no_grad():
        cos, sin = model.rope(len(embeddings))
        x = embeddings[None]
        for layer in _layers(model):
            normed = layer.input_layernorm(x)
            attention = layer.self_attn
            count = model.config.num_key_value_heads
            keys.append(_rotate(_heads(attention.k_proj(normed), count), cos, sin)[0])
            values.append(_heads(attention.v_proj(normed), count)[0])
            if layer is not model.layers[-1]:
                x = layer(x, cos, sin)
    return Prefix(keys, values)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor, *, last_only: bool
) -> Tensor:
    """Attention of (batch, heads, queries, head_dim) over a shared past and own keys."""
    batch, heads, queries, size = q.shape
    kv_heads = past_k.shape[0]
    groups = heads // kv_heads
    scale = size**-0.5
    if last_only:
        folded = q.reshape(batch, kv_heads, groups * queries, size)
        past_scores = torch.einsum("bhqd,hkd->bhqk", folded, past_k)
        scores = torch.cat((past_scores, folded @ k.transpose(2, 3)), dim=-1) * scale
        weights = scores.softmax(-1)
        length = past_k.shape[1]
        out = torch.einsum("bhqk,hkd->bhqd", weights[..., :length], past_v)
        out = out + weights[..., length:] @ v
        joined: Tensor = out.reshape(batch, heads, queries, size)
        return joined
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    own, own_lse = flash(q, k, v, 0.0, True, scale=scale)
    # All sequences' queries that share a key head in one row: the past is read once.
    folded = q.reshape(batch, kv_heads, groups, queries, size).permute(1, 0, 2, 3, 4)
    folded = folded.reshape(1, kv_heads, batch * groups * queries, size)
    past, past_lse = flash(folded, past_k[None], past_v[None], 0.0, False, scale=scale)
    past = past.view(kv_heads, batch, groups, queries, size).permute(1, 0, 2, 3, 4)
    past_lse = past_lse.view(kv_heads, batch, groups, queries).permute(1, 0, 2, 3)
    weight = torch.sigmoid(past_lse.reshape(own_lse.shape) - own_lse).unsqueeze(-1)
    result: Tensor = own + (past.reshape(own.shape) - own) * weight
    return result


def last_logits(model: TextModel, prefix: Prefix, length: int, rest: Tensor) -> Tensor:
    """Next-token logits after some sequences that share their first tokens.

    Args:
        model: The language model.
        prefix: From `read_prefix`.
        length: How much of the prefix the sequences begin with, in tokens; at least 1.
        rest: (batch, rest_length, hidden_size), what follows.

    Returns:
        (batch, vocab_size).
    """
    config = model.config
    with torch.no_grad():
        cos, sin = model.rope(length + rest.shape[1])
        cos, sin = cos[length:], sin[length:]
        x = rest
        for layer, past_keys, past_values in zip(
            _layers(model), prefix.keys, prefix.values, strict=True
        ):
            is_last = layer is model.layers[-1]
            attention = layer.self_attn
            normed = layer.input_layernorm(x)
            k = _rotate(_heads(attention.k_proj(normed), config.num_key_value_heads), cos, sin)
            v = _heads(attention.v_proj(normed), config.num_key_value_heads)
            kept = slice(-1, None) if is_last else slice(None)
            q = _heads(attention.q_proj(normed[:, kept]), config.num_attention_heads)
            q = _rotate(q, cos[kept], sin[kept])
            past_k, past_v = past_keys[:, :length], past_values[:, :length]
            out = _attend(q, k, v, past_k, past_v, last_only=is_last)
            x = x[:, kept] + attention.o_proj(out.transpose(1, 2).flatten(2))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        logits: Tensor = model.lm_head(model.norm(x[:, -1]))
    return logits
