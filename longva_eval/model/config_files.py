"""The settings of a checkpoint: `config.json`, and that of LongVA's vision tower. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longva_eval.errors import CheckpointError

__all__ = [
    "KNOWN_TOWERS",
    "LARGEST_SIZES",
    "check_sizes",
    "kept_tower_layers",
    "read_json",
    "read_tower",
]

_MAX_JSON_BYTES = 64 << 20
LARGEST_SIZES = {
    "vocab_size": 1 << 24, "hidden_size": 1 << 17, "intermediate_size": 1 << 19,
    "num_hidden_layers": 1 << 10, "num_attention_heads": 1 << 10, "num_key_value_heads": 1 << 10,
    "head_dim": 1 << 12, "max_position_embeddings": 1 << 32, "image_size": 1 << 13,
    "patch_size": 1 << 10,
}  # fmt: skip
_MAY_BE_NULL = ("head_dim", "num_key_value_heads")

KNOWN_TOWERS: dict[str, dict[str, Any]] = {
    # huggingface.co/openai/clip-vit-large-patch14-336, config.json and preprocessor_config.json.
    "openai/clip-vit-large-patch14-336": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
    },
}
"""Architectures that need no download; their preprocessing is CLIP's, at `image_size`."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes; no such file does.")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; a LongVA checkpoint has one.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits, too
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds {type(data).__name__}, not a JSON object.")
    return data


def check_sizes(values: Mapping[str, Any], path: Path) -> None:
    """Refuse sizes of a configuration that no model has, before anything is made of them."""
    for name, largest in LARGEST_SIZES.items():
        if name not in values or (name in _MAY_BE_NULL and values[name] is None):
            continue
        value = values[name]
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
            raise CheckpointError(
                f"{path} has {name}={value!r:.40}; it must be a whole number from 1 to {largest:,}."
            )


def kept_tower_layers(num_layers: int, select_layer: int, *, name: str) -> int:
    """How many layers of a tower are computed if hidden state `select_layer` is read.

    `hidden_states` has the embeddings first: entry k is the output of the k-th layer.
    """
    kept = select_layer if select_layer >= 0 else num_layers + 1 + select_layer
    if not 1 <= kept <= num_layers:
        raise CheckpointError(
            f"{name}={select_layer} is outside of a tower of {num_layers} layers."
        )
    return kept


def read_tower(raw: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], Path | None]:
    """The architecture of LongVA's vision tower, and its folder; None for a known one.

    Raises:
        CheckpointError: If none is named, or the named one is neither a folder nor known.
    """
    name = raw.get("mm_vision_tower") or raw.get("vision_tower")
    if not name or not isinstance(name, str):
        raise CheckpointError(f"{folder}/config.json names no mm_vision_tower.")
    for candidate in (folder / name, Path(name)):
        path = candidate / "config.json"
        if path.is_file():
            settings = read_json(path)
            settings = settings.get("vision_config", settings)
            check_sizes(settings, path)
            return settings, candidate
    if name in KNOWN_TOWERS:
        return KNOWN_TOWERS[name], None
    raise CheckpointError(
        f"{folder}/config.json names the vision tower {name!r}, which is neither a folder in the "
        f"checkpoint nor one of the known towers ({', '.join(KNOWN_TOWERS)}). Put its "
        f"config.json and preprocessor_config.json in {folder / 'vision_tower'} and set "
        '"mm_vision_tower": "vision_tower".'
    )
