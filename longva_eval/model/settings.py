"""How a checkpoint is loaded, and what that is for `from_pretrained`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available

from longva_eval.errors import SettingsError
from longva_eval.model.rope import RopeSettings

__all__ = ["DType", "LoadSettings", "check_attention", "resolve_device", "resolve_dtype"]

DType = Literal["auto", "float32", "bfloat16", "float16"]
_SPREADING_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """How a checkpoint is loaded."""

    revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, ..., or `auto`: the first GPU if there is one."""
    device_map: str | None = None
    """`auto` spreads the layers over all devices; overrides `device`."""
    dtype: DType = "auto"
    """`auto` is bfloat16 on CUDA and float32 elsewhere."""
    attn_implementation: str = "sdpa"
    """Of the language model: a name that transformers knows. The vision tower, which is not causal,
    uses `sdpa` unless this is `eager`."""
    rope: RopeSettings = field(default_factory=RopeSettings)
    """What to change of the rotary embedding."""
    architectures: tuple[str, ...] | None = None
    """Which of the known ones are wanted; all if None."""

    def options(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` beside folder and configuration.

        Raises:
            SettingsError: If a setting is unknown or not possible here.
        """
        device, placement = _resolve_placement(self.device, self.device_map)
        check_attention(self.attn_implementation)
        tower_attention = "eager" if self.attn_implementation == "eager" else "sdpa"
        return {
            "dtype": resolve_dtype(self.dtype, device),
            "attn_implementation": {
                "": self.attn_implementation,
                "vision_config": tower_attention,
            },
            "use_safetensors": True,
            "local_files_only": True,
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,  # they are reported, with the checkpoint's name
            "device_map": placement,
        }


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch dtype for a setting; `auto` is bfloat16 on CUDA and float32 elsewhere."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in known:
        raise SettingsError(f"dtype={dtype!r} is unknown; use auto, {', '.join(known)}.")
    return known[dtype]


def resolve_device(device: str) -> torch.device:
    """The device for a setting; `auto` is the first GPU if there is one."""
    if device in ("auto", "", "None"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise SettingsError(f"device={device!r} is unknown; use auto, cpu or cuda:0.") from error
    if resolved.type not in ("cpu", "cuda"):
        raise SettingsError(f"device={device!r} is not supported; use auto, cpu or cuda:0.")
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device={device} but PyTorch sees no GPU here; use device=cpu.")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"device={device} but PyTorch sees {torch.cuda.device_count()} GPUs here, the first "
            "being cuda:0."
        )
    return resolved


def _resolve_placement(
    device: str, device_map: str | None
) -> tuple[torch.device, str | dict[str, torch.device]]:
    """The device that decides on the dtype, and transformers' `device_map`."""
    if device_map in _SPREADING_MAPS:
        return resolve_device(device), device_map
    if device_map:
        try:
            device = str(torch.device(device_map))
        except (RuntimeError, TypeError) as error:
            raise SettingsError(
                f"device_map={device_map!r} is unknown; use {', '.join(_SPREADING_MAPS)}, or "
                "leave it out and set device."
            ) from error
    resolved = resolve_device(device)
    return resolved, {"": resolved}


def check_attention(name: str) -> None:
    """Refuse an attention that transformers does not know, or lacks the package of."""
    known = ["eager", *sorted(ALL_ATTENTION_FUNCTIONS.valid_keys())]
    if name not in known:
        raise SettingsError(f"attn_implementation={name!r} is unknown; use {', '.join(known)}.")
    # Asked for without the package, transformers would fetch code from the hub in its place.
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        raise SettingsError(
            f"attn_implementation={name} needs a GPU and the package flash-attn, and one of them "
            "is missing. pip install flash-attn, or use attn_implementation=sdpa."
        )
