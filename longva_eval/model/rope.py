"""RoPE at evaluation time: what was asked for, resolved to what transformers computes.

Base change, linear interpolation, NTK-aware scaling, YaRN, Llama 3, LongRoPE and a pinned dynamic
NTK, none of which needs training. Two methods depend on the length of the input (`dynamic`,
`longrope`): keys that are already cached would then have been rotated with other frequencies than
new ones, so their length has to be stated once (`pinned_length`) and stays.

The settings only say what was asked. What counts is the resulting `inv_freq`; its hash stands in
every result (`describe_rope`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from longva_eval.errors import SettingsError

if TYPE_CHECKING:
    import torch

__all__ = ["RopeSettings", "RopeType", "describe_rope", "inv_freq_hash", "resolve_rope_parameters"]

RopeType = Literal["default", "linear", "ntk", "yarn", "llama3", "longrope", "dynamic"]

_NEEDS_FACTOR = ("linear", "ntk", "yarn", "llama3", "longrope", "dynamic")
_NEEDS_PINNED_LENGTH = ("longrope", "dynamic")
_LLAMA3_FREQUENCY_FACTORS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""Wavelengths beyond L0 / 1 are divided, those below L0 / 4 kept: the values of Llama 3.1."""


@dataclass(frozen=True, kw_only=True)
class RopeSettings:
    """What to change of a checkpoint's rotary embedding; every field left out stays as it is."""

    theta: float | None = None
    """Base of the frequencies. LongVA-7B was trained with 1e9, Qwen2-7B with 1e6."""
    rope_type: RopeType | None = None
    """Method. None keeps the checkpoint's own, `default` switches scaling off."""
    factor: float | None = None
    """How many times longer than the original length the inputs are, at least 1."""
    original_length: int | None = None
    """Length in tokens that the model was trained for; the checkpoint's own if left out."""
    pinned_length: int | None = None
    """Length in tokens at which `dynamic` and `longrope` are evaluated, for every input."""
    attention_factor: float | None = None
    """`yarn`, `longrope`: factor on cos and sin, instead of the method's own."""
    beta_fast: float | None = None
    """`yarn`: frequencies that turn at least this often are kept (32)."""
    beta_slow: float | None = None
    """`yarn`: frequencies that turn at most this often are divided (1)."""
    low_freq_factor: float | None = None
    """`llama3`: see `_LLAMA3_FREQUENCY_FACTORS`."""
    high_freq_factor: float | None = None
    """`llama3`: see `_LLAMA3_FREQUENCY_FACTORS`."""
    short_factor: tuple[float, ...] | None = None
    """`longrope`: head_dim / 2 divisors, used up to the original length."""
    long_factor: tuple[float, ...] | None = None
    """`longrope`: head_dim / 2 divisors, used beyond the original length."""

    def __post_init__(self) -> None:
        if self.rope_type is not None and self.rope_type not in get_args(RopeType):
            raise SettingsError(
                f"rope_type={self.rope_type!r} is unknown; "
                f"use one of {', '.join(get_args(RopeType))}."
            )
        if self.theta is not None and not (math.isfinite(self.theta) and self.theta > 1):
            raise SettingsError(f"rope_theta={self.theta} must be a finite number above 1.")
        if self.rope_type in _NEEDS_FACTOR and self.factor is None:
            raise SettingsError(f"rope_type={self.rope_type} needs rope_factor, for example 4.")
        if self.factor is not None:
            if not (math.isfinite(self.factor) and self.factor >= 1):
                raise SettingsError(f"rope_factor={self.factor} must be a finite number >= 1.")
            if self.rope_type in (None, "default"):
                raise SettingsError(
                    f"rope_factor={self.factor} needs a rope_type that uses it: "
                    f"{', '.join(_NEEDS_FACTOR)}."
                )
        self._check_unused()

    def _check_unused(self) -> None:
        """Refuse a field that the chosen method would silently ignore."""
        used_by = {
            "pinned_length": _NEEDS_PINNED_LENGTH,
            "original_length": ("yarn", "llama3", "longrope", "dynamic"),
            "attention_factor": ("yarn", "longrope"),
            "beta_fast": ("yarn",),
            "beta_slow": ("yarn",),
            "low_freq_factor": ("llama3",),
            "high_freq_factor": ("llama3",),
            "short_factor": ("longrope",),
            "long_factor": ("longrope",),
        }
        for name, methods in used_by.items():
            if getattr(self, name) is not None and self.rope_type not in methods:
                raise SettingsError(
                    f"rope_{name} has no effect with rope_type={self.rope_type or 'unset'}; "
                    f"it belongs to {', '.join(methods)}."
                )

    @property
    def is_unchanged(self) -> bool:
        """Whether the checkpoint's own rotary embedding is used as it is."""
        return all(getattr(self, field.name) is None for field in fields(self))

    def describe(self) -> dict[str, Any]:
        """The fields that were set, for the record."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def resolve_rope_parameters(
    checkpoint_parameters: Mapping[str, Any],
    settings: RopeSettings,
    *,
    head_dim: int,
    max_position_embeddings: int,
) -> dict[str, Any]:
    """The complete `rope_parameters` dict for transformers.

    Args:
        checkpoint_parameters: The checkpoint's own `rope_parameters`, with `rope_theta`.
        settings: What to change.
        head_dim: Size of an attention head; NTK's exponent is head_dim / (head_dim - 2).
        max_position_embeddings: The checkpoint's length in tokens, used as the original length
            where none is given.

    Returns:
        A dict with `rope_type`, `rope_theta` and the keys of that type, whose effect does not
        depend on the length of an input.

    Raises:
        SettingsError: If a length-dependent method has no pinned length, or a key is missing.

    Source: linear, kaiokendev and arXiv:2306.15595; NTK-aware and dynamic NTK, bloc97 and
        arXiv:2309.00071 section 3; YaRN, arXiv:2309.00071; Llama 3, arXiv:2407.21783;
        LongRoPE, arXiv:2402.13753.
    """
    parameters = dict(checkpoint_parameters)
    if settings.theta is not None:
        parameters["rope_theta"] = float(settings.theta)
    theta = float(parameters["rope_theta"])
    method = settings.rope_type
    if method is None:
        own = parameters.get("rope_type", "default")
        if own in _NEEDS_PINNED_LENGTH:
            raise SettingsError(
                f"This checkpoint asks for rope_type={own}, whose frequencies change with the "
                f"length of the input. Give rope_type={own}, rope_factor and "
                "rope_pinned_length=<tokens>, or rope_type=default."
            )
        return parameters
    factor = settings.factor or 1.0
    if settings.original_length is not None:
        original_length = settings.original_length
    else:
        original_length = int(
            parameters.get("original_max_position_embeddings") or max_position_embeddings
        )
    plain = {"rope_type": "default", "rope_theta": theta}
    ntk_exponent = head_dim / (head_dim - 2)
    if method == "default":
        return plain
    if method == "linear":
        return plain | {"rope_type": "linear", "factor": factor}
    if method == "ntk":
        return plain | {"rope_theta": theta * factor**ntk_exponent}
    if method == "dynamic":
        pinned = _require_pinned_length(settings)
        stretch = max(1.0, factor * pinned / original_length - (factor - 1))
        return plain | {"rope_theta": theta * stretch**ntk_exponent}
    optional = {
        name: value
        for name in ("attention_factor", "beta_fast", "beta_slow")
        if (value := getattr(settings, name)) is not None
    }
    lengths = {"factor": factor, "original_max_position_embeddings": original_length}
    if method == "yarn":
        return plain | {"rope_type": "yarn"} | lengths | optional
    if method == "llama3":
        bounds = {
            name: getattr(settings, name) or default
            for name, default in _LLAMA3_FREQUENCY_FACTORS.items()
        }
        if bounds["low_freq_factor"] >= bounds["high_freq_factor"]:
            raise SettingsError(
                f"rope_low_freq_factor={bounds['low_freq_factor']} must be below "
                f"rope_high_freq_factor={bounds['high_freq_factor']}."
            )
        return plain | {"rope_type": "llama3"} | lengths | bounds
    pinned = _require_pinned_length(settings)
    name = "long_factor" if pinned > original_length else "short_factor"
    divisors = getattr(settings, name)
    if divisors is None or len(divisors) != head_dim // 2:
        raise SettingsError(
            f"rope_type=longrope at rope_pinned_length={pinned} (original length "
            f"{original_length}) needs rope_{name} with {head_dim // 2} numbers joined by '/', "
            f"got {0 if divisors is None else len(divisors)}."
        )
    # transformers picks short or long by the largest position of the call, so two chunks of one
    # prompt could disagree. The same divisors on both sides make the choice here, once.
    both = {"short_factor": list(divisors), "long_factor": list(divisors)}
    return plain | {"rope_type": "longrope"} | lengths | both | optional


def _require_pinned_length(settings: RopeSettings) -> int:
    if settings.pinned_length is None or settings.pinned_length < 1:
        raise SettingsError(
            f"rope_type={settings.rope_type} changes its frequencies with the length of the input, "
            "and keys cached earlier would no longer fit. State the length it shall be evaluated "
            "at, in tokens: rope_pinned_length=<tokens>."
        )
    return settings.pinned_length


def inv_freq_hash(inv_freq: torch.Tensor, positions: str = "") -> str:
    """First 16 hex digits of the SHA-256 of the frequencies as little-endian float32.

    Of a positions policy, too, if it is not the model's own.
    """
    values = inv_freq.detach().float().cpu().numpy().astype("<f4")
    return hashlib.sha256(values.tobytes() + positions.encode()).hexdigest()[:16]


def describe_rope(
    settings: RopeSettings,
    parameters: Mapping[str, Any],
    inv_freq: torch.Tensor,
    *,
    positions: str = "",
) -> dict[str, Any]:
    """What a result says about RoPE: asked, resolved, and the hash of the frequencies."""
    return {
        "asked": settings.describe(),
        "parameters": dict(parameters),
        "inv_freq_sha256": inv_freq_hash(inv_freq, positions),
        **({"positions": positions} if positions else {}),
    }
