"""Causal attention over a cache, without the mask.

With keys in a cache and a chunk of new queries, transformers' `sdpa` builds a (queries x keys)
boolean mask. PyTorch then computes the whole rectangle and leaves its flash kernel. But the
rectangle has a simple shape: everything that is past is visible, and the new part is causal. So
the two are computed by the same flash kernels without a mask, and merged by their log-sum-exp:
the same sum in another order, exact up to rounding (2e-6 on a 1,500-token check).

Registered with transformers under the name `split_sdpa`; prompts are one at a time, so there is
never any padding to mask. The back ends of `longva_eval.model.backends` are the same with other
kernels: `split_cudnn` reads what is past by cuDNN, in blocks of few lengths, since it makes a plan
for each new one (.5 s the first, .06 s a further one); `split_fa3` and `split_fa4` do all in one
causal call. The kernels of CUDA beside PyTorch's own were tried alone; through the engine they are
not measured.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from packaging.version import Version
from torch.nn import functional
from transformers import AttentionInterface

from longva_eval.model.positions import PositionPolicy

__all__ = [
    "SPLIT_SDPA",
    "WatchedAttention",
    "attending",
    "branch_attention",
    "cudnn_blocks",
    "placed_attention",
    "registered_name",
    "split_sdpa",
    "try_backend",
]

SPLIT_SDPA = "split_sdpa"
_RUNS = 32
_MOST_SCORES = 1 << 25
"""Scores that `placed_attention` holds at once: 128 MiB."""
_CPU_WANTS_EVERY_HEAD = Version(torch.__version__) < Version("2.9")


_CUDNN_BLOCKS = (65_536, 16_384, 4096)
"""Lengths of keys that cuDNN has plans for."""


def registered_name(backend: str) -> str:
    """What transformers calls a back end of ours, from now on."""
    name = f"split_{backend}"
    AttentionInterface.register(name, functools.partial(split_sdpa, kernel=backend))
    return name


def try_backend(backend: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why a back end does not give what `sdpa` does on a device; nothing if it does."""
    new, past = 1024, 4096
    generator = torch.Generator(device).manual_seed(0)
    query, key, value = (
        torch.randn((1, heads, tokens, head_dim), generator=generator, device=device, dtype=dtype)
        for heads, tokens in ((4, new), (2, past + new), (2, past + new))
    )
    layer = torch.nn.Identity()
    try:
        found, wanted = (
            split_sdpa(layer, query, key, value, None, kernel=kernel)[0].float()
            for kernel in (backend, "sdpa")
        )
        error = float((found - wanted).norm() / wanted.norm())
    except Exception as problem:  # of a foreign package, of many types
        return f"{type(problem).__name__}: {str(problem)[:200]}"
    return "" if error < 0.01 else f"its outputs are off by {error:.1e}"


class Attends(Protocol):
    """The part of a layer's cache that knows by itself what new queries see."""

    def attend(self, query: torch.Tensor, scaling: float | None) -> torch.Tensor: ...


_attending: Sequence[Attends] | None = None


@contextlib.contextmanager
def attending(layers: Sequence[Attends]) -> Iterator[None]:
    """Let the layers of a cache say what is attended to, one for each layer of the model."""
    global _attending
    _attending = layers
    try:
        yield
    finally:
        _attending = None


class WatchedAttention:
    """Adds up how much the keys of each layer are attended to, while it watches."""

    _active: WatchedAttention | None = None

    def __init__(self) -> None:
        self.seen: dict[int, torch.Tensor] = {}
        """By layer: (heads, keys) float32, summed over queries."""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        WatchedAttention._active = self
        try:
            yield
        finally:
            WatchedAttention._active = None

    def add(self, layer: int, probabilities: torch.Tensor) -> None:
        """Count (heads, queries, keys) probabilities."""
        found = probabilities.sum(1)
        if layer in self.seen:
            before = self.seen[layer]
            found[:, : before.shape[1]] += before
        self.seen[layer] = found


def split_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    kernel: str = "sdpa",
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
        kernel: Of `longva_eval.model.backends.BACKENDS`.
        **kwargs: What other implementations need.

    Returns:
        (1, new_tokens, num_heads, head_dim), and None for the attention weights.
    """
    del attention_mask
    if _attending is not None:
        layer: int = module.layer_idx  # type: ignore[assignment]  # torch's attributes are modules
        return _attending[layer].attend(query, scaling), None
    watcher = WatchedAttention._active
    if kwargs.get("placing") is not None:
        output = placed_attention(module, query, key, value, scaling, watcher, *kwargs["placing"])
        return output, None
    if watcher is not None:
        _watch(watcher, module, query, key, scaling)
    del kwargs
    new = query.shape[2]
    past = key.shape[2] - new
    groups = query.shape[1] // key.shape[1]
    if kernel in ("fa3", "fa4") and new > 1:
        return _flash_attention(kernel)(query, key, value, scaling), None
    assert kernel in ("sdpa", "cudnn", "fa3", "fa4"), f"{kernel} has no branch here"
    on_cpu = query.device.type == "cpu"
    if new == 1 or past == 0:
        if on_cpu or query.dtype == torch.float32 or query.shape[-1] % 8:
            output = functional.scaled_dot_product_attention(
                query, key, value, is_causal=new > 1, scale=scaling, enable_gqa=groups > 1
            )
        else:  # PyTorch would take cuDNN, which makes a plan for each new length
            output = _flash(query, key, value, new > 1, scaling)[0]
        return output.transpose(1, 2).contiguous(), None
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
    merged, lse = _flash(query, key[:, :, past:], value[:, :, past:], True, scaling)
    first = 0
    for block in cudnn_blocks(new, past) if kernel == "cudnn" else (past,):
        run = slice(first, first + block)
        first += block
        attend = _cudnn if kernel == "cudnn" and block in _CUDNN_BLOCKS else _flash
        seen, seen_lse = attend(query, key[:, :, run], value[:, :, run], False, scaling)
        share = torch.sigmoid(seen_lse - lse).unsqueeze(-1)
        merged = seen.float() * share + merged.float() * (1 - share)
        lse = torch.logaddexp(lse, seen_lse)
    merged = merged[..., :head_dim].to(query.dtype)
    return merged.transpose(1, 2).contiguous(), None


def cudnn_blocks(new: int, past: int) -> tuple[int, ...]:
    """Lengths of the runs that past keys are read in, so that few plans serve all of them.

    Plans are for a number of queries too: chunks that begin or end at a branch point, of lengths
    that hardly come again, leave cuDNN alone, and so does the rest below the shortest block.
    """
    blocks, rest = [], past
    for block in _CUDNN_BLOCKS if new % 1024 == 0 else ():
        blocks += [block] * (rest // block)
        rest %= block
    return (*blocks, rest) if rest else tuple(blocks)


def branch_attention(
    query: torch.Tensor,
    shared: tuple[torch.Tensor, torch.Tensor],
    own: tuple[torch.Tensor, torch.Tensor],
    seen: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of branches that share the beginning of their prompts.

    The shared part is read once for all of them, each own part under a mask; the parts are merged
    by their log-sum-exp.

    Args:
        query: (1, num_heads, branches * new_tokens, head_dim), branch by branch.
        shared: Keys and values, (1, num_kv_heads, shared_tokens, head_dim) each.
        own: Keys and values, (branches, num_kv_heads, own_tokens, head_dim) each, padded behind.
        seen: (branches, new_tokens) how many of its own tokens a query sees.
        scaling: Factor on the scores; 1 / sqrt(head_dim) if None.

    Returns:
        (1, branches * new_tokens, num_heads, head_dim).
    """
    branches, new = seen.shape
    size, kv_heads = query.shape[-1], own[0].shape[1]
    scaling = size**-0.5 if scaling is None else scaling
    # The heads of a group ask as if they were further tokens: no key is repeated for them.
    groups = query.shape[1] // kv_heads
    asked = query.reshape(1, kv_heads, groups * branches * new, size)
    parts = _shared_parts(asked, *shared, scaling)
    by_branch = asked.view(kv_heads, groups, branches, new, size).permute(2, 0, 1, 3, 4)
    scores = by_branch.float() @ own[0][:, :, None].float().transpose(-1, -2) * scaling
    hidden = torch.arange(own[0].shape[2], device=query.device) >= seen[:, None, None, :, None]
    scores = scores.masked_fill(hidden, -torch.inf)
    apart = scores.softmax(-1) @ own[1][:, :, None].float()
    parts.append((
        apart.permute(1, 2, 0, 3, 4).reshape(kv_heads, -1, size),
        scores.logsumexp(-1).permute(1, 2, 0, 3).reshape(kv_heads, -1),
    ))  # fmt: skip
    shares = torch.stack([lse for _, lse in parts]).softmax(0).unsqueeze(-1)
    merged = (torch.stack([output for output, _ in parts]) * shares).sum(0)
    return merged.view(1, query.shape[1], -1, size).transpose(1, 2).to(query.dtype).contiguous()


def _shared_parts(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Outputs (num_kv_heads, queries, head_dim) and log-sum-exps of runs of the keys, float32.

    A GPU is filled only if many blocks run at once, and the flash kernel makes one of all keys of
    a head; so there the keys go as a batch of `_RUNS` runs, by strides alone.
    """
    tokens, size = key.shape[2:]
    runs = _RUNS if query.device.type == "cuda" and tokens >= _RUNS * 128 else 1
    length = tokens // runs
    parts = []
    for first, number, count in ((0, runs, length), (runs * length, 1, tokens - runs * length)):
        if count:
            run = slice(first, first + number * count)
            held = [
                x[0, :, run].view(x.shape[1], number, count, size).transpose(0, 1)
                for x in (key, value)
            ]
            asked = query.expand(number, -1, -1, -1)
            padded = [functional.pad(x, (0, -size % 8)) if size % 8 else x for x in (asked, *held)]
            output, lse = _flash(padded[0], padded[1], padded[2], False, scaling)
            parts += list(zip(output[..., :size].float(), lse, strict=True))
    return parts


def placed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    watcher: WatchedAttention | None,
    policy: PositionPolicy,
    rotary: Any,
    places: torch.Tensor,
    cache: Any,
) -> torch.Tensor:
    """Attention whose positions depend on query and key, over keys that are not rotated.

    Every part of the policy is a matrix of scores, in float32; blocks of queries bound what is held
    of them. Two to three times the work of `split_sdpa`, without its fused kernels.

    Args:
        module: The attention layer.
        query: (1, num_heads, new_tokens, head_dim), not rotated.
        key: (1, num_kv_heads, tokens, head_dim), not rotated.
        value: As `key`.
        scaling: Factor on the scores.
        watcher: Told the probabilities.
        policy: What places pairs.
        rotary: The model's own rotary embedding.
        places: (new_tokens,) places of the queries in the prompt.
        cache: Knows the places of the keys.

    Returns:
        (1, new_tokens, num_heads, head_dim).
    """
    heads, new, size = query.shape[1:]
    groups = heads // key.shape[1]
    scaling = size**-0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]  # torch's attributes are modules
    keys_at = cache.layers[layer].places()[:, None].to(query.device)
    keys, values = key[0].float(), value[0].float().repeat_interleave(groups, 0)
    rows = max(1, _MOST_SCORES // (heads * key.shape[2]))
    outputs = []
    for first in range(0, new, rows):
        asked = query[0, :, first : first + rows].float()
        here = places[first : first + rows, None].to(query.device)
        scores = asked.new_full((heads, asked.shape[1], key.shape[2]), -torch.inf)
        for query_at, key_at, holds in policy.parts(here, keys_at):
            if bool(holds.any()):
                turned = _turn(keys, key_at[:, 0], rotary)
                found = _turn(asked, query_at[:, 0][None], rotary)
                found = found @ turned.repeat_interleave(groups, 0).transpose(-1, -2) * scaling
                holds = holds.expand(key.shape[1], -1, -1).repeat_interleave(groups, 0)
                scores = torch.where(holds, found, scores)
        probabilities = scores.softmax(-1)
        if watcher is not None:
            watcher.add(layer, probabilities)
        outputs.append(probabilities @ values)
    return torch.cat(outputs, 1).to(query.dtype).transpose(0, 1)[None].contiguous()


def _turn(vectors: torch.Tensor, positions: torch.Tensor, rotary: Any) -> torch.Tensor:
    """(heads, tokens, head_dim) rotated to (heads or 1, tokens) positions."""
    angles = positions.float()[..., None] * rotary.inv_freq.float().to(vectors.device)
    angles = torch.cat([angles, angles], dim=-1)
    half = vectors.shape[-1] // 2
    other = torch.cat([-vectors[..., half:], vectors[..., :half]], dim=-1)
    return (vectors * angles.cos() + other * angles.sin()) * float(rotary.attention_scaling)


def _watch(
    watcher: WatchedAttention,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    scaling: float | None,
) -> None:
    """Tell what new queries attend to, the last of them to the last key."""
    heads, new, size = query.shape[1:]
    keys = key[0].float().repeat_interleave(heads // key.shape[1], 0)
    scores = query[0].float() @ keys.transpose(-1, -2)
    scores *= size**-0.5 if scaling is None else scaling
    later = torch.ones(new, key.shape[2], dtype=torch.bool, device=key.device)
    scores.masked_fill_(later.triu(key.shape[2] - new + 1), -torch.inf)
    watcher.add(module.layer_idx, scores.softmax(-1))  # type: ignore[arg-type]  # it is an int


def _cudnn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    is_causal: bool,
    scaling: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_flash`, without a mask; the heads of a group ask as if they were further tokens."""
    assert not is_causal
    asked = query.reshape(1, key.shape[1], -1, query.shape[-1])
    if query.device.type == "cpu":
        output, lse = _flash(asked, key, value, False, scaling)
    else:
        output, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(
            asked, key, value, None, True, 0.0, False, False, scale=scaling
        )[:2]
    return output.reshape(query.shape), lse.reshape(query.shape[:-1]).float()


@functools.cache
def _flash_attention(kernel: str) -> Callable[..., torch.Tensor]:
    """FlashAttention-3 or -4: (1, new_tokens, num_heads, head_dim) of causal attention."""
    if kernel == "fa3":
        from fa3_fwd_interface import flash_attn_func  # type: ignore[import-not-found]
    else:
        from flash_attn.cute import flash_attn_func  # type: ignore[import-not-found]

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        # Both align the causal mask at the last query and the last key.
        by_token = [each.transpose(1, 2) for each in (query, key, value)]
        found = flash_attn_func(*by_token, softmax_scale=scaling, causal=True)
        output: torch.Tensor = found[0] if isinstance(found, tuple) else found
        return output.contiguous()

    return attend


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
