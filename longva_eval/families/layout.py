"""Checkpoints of transformers' own classes: which families there are, and how they are loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from longva_eval.errors import CheckpointError, SettingsError
from longva_eval.families.family import Family
from longva_eval.families.grids import Glm, Qwen2, Qwen3, Qwen25
from longva_eval.families.tiles import InternVL, LlavaOnevision
from longva_eval.model.attention import SPLIT_SDPA
from longva_eval.model.checkpoint import Checkpoint, Origin, change_rope
from longva_eval.model.files import (
    check_weights,
    no_bar_if_small,
    read_generation_config,
    read_tensor_names,
)
from longva_eval.model.modeling import Shell, cache_name
from longva_eval.model.settings import LoadSettings
from longva_eval.prompts.pieces import Prompt, VisualPiece

__all__ = [
    "FAMILIES",
    "FamilyCheckpoint",
    "FamilyModel",
    "family_kind",
    "is_family",
    "load_family",
    "sketch_family",
]

FAMILIES: tuple[type[Family], ...] = (Qwen2, Qwen25, Qwen3, Glm, InternVL, LlavaOnevision)

REFUSED = {
    "molmo2": "all visual tokens of a prompt see each other, so nothing but whole videos is shared",
    "gemma3": "it takes no videos, and tokens of a picture see each other under a mask of its own",
    "gemma3n": "it has a mask and a cache of its own",
    "gemma4": "it has a mask and a cache of its own",
    "smolvlm": "its processor replaces the checkpoint's chat template where there is a video",
    "qwen3_5": "it has linear-attention layers, whose state cannot be cut back to a shared prefix",
    "qwen3_5_moe": "it has linear-attention layers, whose state cannot be cut back",
    "video_llama_3": "which tokens of a frame stay depends on the frame before",
}
"""Values of `model_type` that are not run, and why."""


@dataclass(frozen=True, kw_only=True)
class FamilyCheckpoint(Checkpoint):
    """A checkpoint of transformers with its processor."""

    family: Family
    penalises_prompt: ClassVar[bool] = True

    @property
    def num_tokenizer_entries(self) -> int:
        """All rows of the output layer, as in `generate()`."""
        return int(self.config.vocab_size)

    def pad_id(self, piece: VisualPiece) -> int:
        """The token id that stands where a piece is."""
        pads = self.family.pads
        is_video = piece.source.how.kind == "video"
        return int(self.tokenizer.convert_tokens_to_ids(pads[-1] if is_video else pads[0]))

    def vision_digest(self) -> str:
        """Identity of all that visual tokens depend on: weights, preparation, transformers."""
        digest = hashlib.sha256()
        whole = self.family.model
        parts = [transformers.__version__, self.architecture, whole.config.vision_config.to_dict()]
        parts += [self.family.image_processor.to_dict(), self.family.video_processor.to_dict()]
        digest.update(json.dumps(parts, sort_keys=True, default=str).encode())
        digest.update(self.origin.fingerprint.encode())
        digest.update(str(self.model.dtype).encode())
        return digest.hexdigest()[:24]


class FamilyModel(Shell):
    """transformers' own class as the engine needs it."""

    def __init__(self, family: Family) -> None:
        super().__init__(family.model)
        self._family = (family,)  # in a tuple: it is no part of the module

    def positions(self, prompt: Prompt) -> torch.Tensor | None:
        """(axes, tokens) int64 positions of a prompt; None if they count."""
        return self._family[0].positions(prompt)

    def run_layers(
        self,
        rows: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
        is_visual: torch.Tensor,
    ) -> torch.Tensor:
        """Hidden states (tokens, hidden_size) of new rows; the cache grows by them.

        Args:
            rows: (tokens, hidden_size * (1 + deepstack levels)).
            positions: (axes, tokens).
            cache: Of what comes before.
            is_visual: (tokens,) bool.
        """
        size = int(self.config.hidden_size)
        more: dict[str, Any] = {}
        if self._family[0].deepstack_levels and bool(is_visual.any()):
            added = rows[is_visual, size:]
            more = {
                "visual_pos_masks": is_visual[None],
                "deepstack_visual_embeds": list(torch.split(added, size, dim=-1)),
            }
        output = self.model(
            inputs_embeds=rows[None, :, :size],
            # Three rows for three axes: of four, the first would be read as packed sequences.
            position_ids=positions if len(positions) == 1 else positions[:, None],
            use_cache=True,
            **{cache_name(type(self.model)): cache},  # type: ignore[arg-type]  # as in modeling
            **more,
        )
        return output.last_hidden_state[0]  # type: ignore[no-any-return]


def is_family(raw: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is of a class of transformers, known here or refused by name."""
    named = raw.get("architectures") or []
    return _family_of(named) is not None or raw.get("model_type") in REFUSED


def _family_of(architectures: Any) -> type[Family] | None:
    for family in FAMILIES:
        if any(name in family.architectures for name in architectures):
            return family
    return None


def sketch_family(raw: Mapping[str, Any], folder: Path) -> Family:
    """A family without weights: it knows sizes, tokens and texts, and computes nothing.

    Raises:
        CheckpointError: If it is of none of the families, or its processor cannot be read.
    """
    kind = family_kind(raw, folder)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    return kind(model, _read_processor(folder))


def load_family(raw: dict[str, Any], origin: Origin, settings: LoadSettings) -> FamilyCheckpoint:
    """Load a checkpoint of one of the families.

    Raises:
        CheckpointError: If it is of none of them, with the reason; or files are missing.
        SettingsError: If its attention would not be its own under this setting.
    """
    folder = origin.folder
    kind = family_kind(raw, folder)
    read_tensor_names(folder)  # names a missing or broken file
    processor = _read_processor(folder)
    options = settings.options()
    attention = options.pop("attn_implementation")
    with no_bar_if_small(folder):
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            attn_implementation={"": attention["vision_config"], "text_config": attention[""]},
            trust_remote_code=False,
            **options,
        )
    check_weights(report, folder, type(model).__name__)
    model.eval().requires_grad_(False)
    text = model.config.get_text_config()
    _check_language_model(text, settings.attn_implementation, folder)
    tokenizer = processor.tokenizer
    family = kind(model, processor)
    checkpoint = FamilyCheckpoint(
        model=FamilyModel(family).eval(),
        tokenizer=tokenizer,
        generation_config=read_generation_config(folder, text, tokenizer),
        origin=origin,
        own_rope_parameters=dict(text.rope_parameters),
        architecture=type(model).__name__,
        family=family,
    )
    return checkpoint if settings.rope.is_unchanged else change_rope(checkpoint, settings.rope)


def family_kind(raw: Mapping[str, Any], folder: Path) -> type[Family]:
    """The family of a `config.json`.

    Raises:
        CheckpointError: If it is of none, with the reason.
    """
    architectures = raw.get("architectures") or []
    kind = _family_of(architectures)
    if kind is None:
        model_type = str(raw.get("model_type"))
        known = ", ".join(name for family in FAMILIES for name in family.architectures)
        reason = REFUSED.get(model_type, f"known are {known}")
        raise CheckpointError(
            f"{folder}/config.json describes {model_type} ({', '.join(architectures)}), which is "
            f"not run here: {reason}. docs/models.md has the list."
        )
    return kind


def _read_processor(folder: Any) -> Any:
    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise many types
        raise CheckpointError(
            f"The processor files in {folder} cannot be used ({type(error).__name__}: "
            f"{str(error)[:300]}). Download them again."
        ) from error


def _check_language_model(text: Any, attention: str, folder: Any) -> None:
    """Refuse what the engine's cache and mask would silently change."""
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise CheckpointError(
            f"{folder} has layers of {', '.join(sorted(kinds))}, and its own masks and states "
            "would be lost here. Only full attention can share prefixes exactly."
        )
    if getattr(text, "final_logit_softcapping", None):
        raise CheckpointError(f"{folder} bounds its logits, which is not computed here.")
    if attention == SPLIT_SDPA and getattr(text, "attn_logit_softcapping", None):
        raise SettingsError(f"{folder} bounds its attention scores; use attn_implementation=eager.")
