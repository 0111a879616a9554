"""Attention back ends: which a model gets, by name, and how long the chunks of a prefill are.

All of them attend to what is past without a mask and to what is new causally; they differ in the
kernel (`longva_eval.model.attention`). docs/performance.md has the rates of the kernels alone.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version

from longva_eval.errors import SettingsError

__all__ = [
    "BACKENDS",
    "CHUNK_ON_GPU",
    "OF_TRANSFORMERS",
    "PACKAGES",
    "attention_candidates",
    "chunk_numbers_per_token",
    "installed_packages",
    "resolve_chunk_tokens",
]

BACKENDS = {
    "fa3": "FlashAttention-3 (`pip install fa3-fwd`), Hopper, bfloat16",
    "fa4": "FlashAttention-4 (`pip install longva-eval[hopper]`), Hopper and Blackwell",
    "cudnn": "cuDNN through PyTorch for long chunks, Hopper and later",
    "sdpa": "PyTorch's flash kernels, everywhere",
}
"""In the order in which `auto` takes them."""
OF_TRANSFORMERS = ("sdpa_masked", "eager", "flash_attention_2")
"""Its own ways: no branches side by side, no presses that watch, no positions of pairs."""
PACKAGES = {"fa3": "fa3-fwd", "fa4": "flash-attn-4"}
CHUNK_ON_GPU = 8192
_CHUNK_ON_CPU, _SMALLEST_CHUNK = 2048, 1024


def installed_packages() -> frozenset[str]:
    """Those of `PACKAGES` that are installed."""
    found = set()
    for name in PACKAGES.values():
        try:
            version(name)
        except PackageNotFoundError:
            continue
        found.add(name)
    return frozenset(found)


def attention_candidates(
    asked: str,
    *,
    capability: tuple[int, int] | None,
    packages: Collection[str],
    dtype: str,
    head_dim: int | None = None,
) -> list[str]:
    """The back ends that may serve, best first: all that can for `auto`, or the one asked for.

    Args:
        asked: `auto`, or a name.
        capability: Of the CUDA device; None without one.
        packages: Installed ones.
        dtype: `float32`, `bfloat16` or `float16`.
        head_dim: Of the language model; None where it is not known yet.

    Raises:
        SettingsError: If the name is unknown, or lacks something here.
    """
    if asked in OF_TRANSFORMERS:
        return [asked]
    lacks = {name: _lacks(name, capability, packages, dtype, head_dim) for name in BACKENDS}
    if asked == "auto":
        return [name for name, lack in lacks.items() if not lack]
    if asked not in BACKENDS:
        known = ("auto", *BACKENDS, *OF_TRANSFORMERS)
        raise SettingsError(f"attn_implementation={asked!r} is unknown; use {', '.join(known)}.")
    if lacks[asked]:
        raise SettingsError(
            f"attn_implementation={asked} cannot be used here: it needs {lacks[asked]}. "
            "attn_implementation=auto takes what there is."
        )
    return [asked]


def _lacks(
    name: str,
    capability: tuple[int, int] | None,
    packages: Collection[str],
    dtype: str,
    head_dim: int | None,
) -> str:
    """What a back end needs and has not."""
    if name == "sdpa":
        return ""
    if capability is None or capability[0] < 9:
        return "a GPU of compute capability 9.0 (Hopper) or more" + (
            "" if capability is None else ", this one has {}.{}".format(*capability)
        )
    package = PACKAGES.get(name)
    if package is not None and package not in packages:
        extra = " (pip install longva-eval[hopper])" if name == "fa4" else ""
        return f"the package {package}{extra}"
    if name == "fa3" and capability[0] > 9:
        return "Hopper; on Blackwell use fa4"
    if name == "fa4" and capability[0] > 11:
        return "Hopper or Blackwell of data centres"
    if dtype == "float32" or (name == "fa3" and dtype != "bfloat16"):
        return "dtype=bfloat16" + ("" if name == "fa3" else " or float16")
    most = 256 if name == "fa3" or (name == "fa4" and capability[0] == 9) else 128
    if head_dim is not None and (head_dim % 8 or head_dim > most):
        return f"heads of at most {most} numbers, a multiple of 8; this model's have {head_dim}"
    return ""


def chunk_numbers_per_token(*, intermediate_size: int, hidden_size: int) -> int:
    """Numbers that live beside the cache while a token of a chunk goes through a layer.

    The MLP is the widest place: activated gate, up, and their product (three of
    `intermediate_size`; gate and up alone are 32.7 GB for 432,000 tokens at once), with the
    residual stream, its normalised copy, the output and the chunk's embeddings (four of
    `hidden_size`). Attention is computed by kernels that keep no scores.
    """
    return 3 * intermediate_size + 4 * hidden_size


def resolve_chunk_tokens(
    asked: str | int, *, memory_bytes: int | None, bytes_per_token: int
) -> int:
    """Tokens of a chunk of prefill.

    On a GPU 8,192: every back end gains from longer chunks, cuDNN most, and none from still longer
    ones. An eighth of the memory beside the weights may go to a chunk. What else runs on the card
    does not count: a resumed run has the same chunks.

    Args:
        asked: `auto` or a number.
        memory_bytes: Of the card beside the weights; None on a CPU.
        bytes_per_token: What lives beside the cache while a token goes through a layer.

    Raises:
        SettingsError: If it is neither.
    """
    if asked != "auto":
        try:
            number = int(asked)
        except ValueError:
            number = 0
        if number < 1:
            raise SettingsError(f"chunk_tokens={asked} must be auto, or at least 1.")
        return number
    if memory_bytes is None:
        return _CHUNK_ON_CPU
    tokens = CHUNK_ON_GPU
    while tokens > _SMALLEST_CHUNK and tokens * bytes_per_token > memory_bytes // 8:
        tokens //= 2
    return tokens
