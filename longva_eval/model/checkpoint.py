"""A loaded model with everything that belongs to it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from transformers import CLIPImageProcessorPil, GenerationConfig

from longva_eval.errors import SettingsError
from longva_eval.model.llava_next import ClipModel
from longva_eval.model.modeling import PlainDecoder, execution_device
from longva_eval.model.positions import PositionPolicy
from longva_eval.model.rope import RopeSettings, describe_rope, resolve_rope_parameters
from longva_eval.prompts.pieces import VisualPiece
from longva_eval.prompts.processor_template import MediaTokens

__all__ = [
    "LONGVA",
    "ByType",
    "Checkpoint",
    "ClipCheckpoint",
    "Origin",
    "change_positions",
    "change_rope",
    "resolve_rope",
]

_OF_THE_MODEL = ("mrope_section", "mrope_interleaved", "partial_rotary_factor")
LONGVA = "LlavaQwenForCausalLM"
"""`architectures` in LongVA's `config.json`."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a checkpoint comes from."""

    folder: Path
    """Where the files lie."""
    source: str
    """What the user asked for: a folder or a hub id."""
    revision: str | None
    """Commit of the hub repository; None for a folder."""
    fingerprint: str
    """Hash over the weight files: names, sizes, and 256 blocks of 64 KiB spread over each."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded model with everything that belongs to it."""

    model: Any
    """In evaluation mode, on its device or devices."""
    tokenizer: Any
    generation_config: GenerationConfig
    origin: Origin
    own_rope_parameters: dict[str, Any]
    """`rope_parameters` as the checkpoint has them, before any change."""
    rope: RopeSettings = field(default_factory=RopeSettings)
    """What was changed of them."""
    positions: PositionPolicy = field(default_factory=PositionPolicy)
    """Where tokens stand."""
    architecture: str = LONGVA
    """As `architectures` in `config.json` names it."""
    penalises_prompt: ClassVar[bool] = False
    """Whether a repetition penalty counts the prompt, too, as `generate()` does given token ids."""

    @property
    def config(self) -> Any:
        """The language model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the language model begins; all of it, but for `device_map`."""
        return execution_device(self.model.model.embed_tokens)

    @property
    def context_length(self) -> int:
        """Longest prompt in tokens that the checkpoint says it was made for.

        `max_position_embeddings`; a checkpoint with linear RoPE scaling (Vicuna's, for
        LLaVA-NeXT-Video-7B) states it before scaling.
        """
        length = int(self.config.max_position_embeddings)
        if self.own_rope_parameters.get("rope_type") == "linear":
            length = int(length * float(self.own_rope_parameters["factor"]))
        return length

    @property
    def num_tokenizer_entries(self) -> int:
        """Entries the tokenizer knows; rows of the output layer beyond them are padding."""
        return min(len(self.tokenizer), int(self.config.vocab_size))

    def vision_digest(self) -> str:
        """Identity of all that visual tokens depend on: weights, architecture, preparation."""
        raise NotImplementedError

    def pad_id(self, piece: VisualPiece) -> int:
        """The token id that stands where a piece is, in a prompt of token ids."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What a result says about the model that made it."""
        return {
            "architecture": self.architecture,
            "checkpoint": self.origin.source,
            "revision": self.origin.revision,
            "weights_fingerprint": self.origin.fingerprint,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.device),
            "rope": describe_rope(
                self.rope,
                self.config.rope_parameters,
                self.model.model.rotary_emb.inv_freq,
                positions="" if self.positions.is_own else self.positions.describe(),
            ),
        }


_C = TypeVar("_C", bound=Checkpoint)


@dataclass(frozen=True, kw_only=True)
class ClipCheckpoint(Checkpoint):
    """A checkpoint of LongVA or LLaVA-NeXT."""

    model: ClipModel
    image_processor: CLIPImageProcessorPil
    """The Pillow-based CLIP processor: the one the original's numbers were made with."""
    media_tokens: MediaTokens | None = None
    """Where a processor writes the prompts; None for LongVA's own rules."""

    def vision_digest(self) -> str:
        """Identity of all that visual tokens depend on: weights, architecture, preparation."""
        digest = hashlib.sha256()
        config = self.config
        for part in (
            self.model.vision_config.to_dict(),
            self.image_processor.to_dict(),
            [config.mm_patch_merge_type, str(getattr(config, "image_grid_pinpoints", None))],
            *(
                [[self.architecture, self.model.pools_before_projection]]
                if self.architecture != LONGVA
                else []
            ),
        ):
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        for name, weight in self.model.vision_parameters():
            digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
            if weight.is_meta:  # `device_map` put it elsewhere; it is what the files say
                digest.update(self.origin.fingerprint.encode())
                continue
            flat = weight.detach().cpu().contiguous().view(torch.uint8)
            digest.update(flat.numpy().tobytes())
        return digest.hexdigest()[:24]


def change_rope(checkpoint: _C, rope: RopeSettings) -> _C:
    """The same weights with another rotary embedding, starting from the checkpoint's own.

    The model is changed in place: a rotary embedding has no weights, and a second copy of 15 GB
    would not fit beside the first.

    Raises:
        SettingsError: If the settings do not fit the checkpoint.
    """
    model = checkpoint.model
    config = model.config
    config.rope_parameters = resolve_rope(config, checkpoint.own_rope_parameters, rope)
    rotary = own = model.model.rotary_emb
    if isinstance(rotary, (_NoRotation, ByType)):
        own = rotary.own
    model.model.rotary_emb = type(own)(config).to(own.inv_freq.device)
    return change_positions(replace(checkpoint, rope=rope), checkpoint.positions)


class ByType(torch.nn.Module):
    """Visual tokens turn by other frequencies than text; told which is which before each call."""

    def __init__(self, own: Any, visual: Any) -> None:
        super().__init__()
        self.own, self.visual = own, visual
        self.inv_freq, self.attention_scaling = own.inv_freq, own.attention_scaling
        self.is_visual: torch.Tensor | None = None
        """(tokens,) bool of the next call; None if there is only text."""

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        text: tuple[torch.Tensor, ...] = self.own(x, position_ids)
        if self.is_visual is None:
            return text
        visual = self.visual(x, position_ids)
        chosen = self.is_visual[:, None].to(x.device)
        return tuple(torch.where(chosen, a, b) for a, b in zip(visual, text, strict=True))


class _NoRotation(torch.nn.Module):
    """Leaves queries and keys as they are: they are rotated when they are attended to."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own
        self.inv_freq, self.attention_scaling = own.inv_freq, own.attention_scaling

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shape = (*position_ids.shape, 2 * len(self.inv_freq))
        return x.new_ones(shape), x.new_zeros(shape)


def change_positions(checkpoint: _C, positions: PositionPolicy) -> _C:
    """The same weights with tokens at other positions; the model is changed in place.

    Raises:
        SettingsError: If the policy does not fit the model.
    """
    model, rotary = checkpoint.model, checkpoint.model.model.rotary_emb
    own = rotary.own if isinstance(rotary, (_NoRotation, ByType)) else rotary
    attention = checkpoint.config._attn_implementation
    if positions.places_pairs and not isinstance(model, PlainDecoder):
        raise SettingsError(
            f"positions={positions.text} is for models whose positions count, in one axis: LongVA "
            f"and LLaVA-NeXT, not {checkpoint.architecture}."
        )
    if not attention.startswith("split_") and (positions.places_pairs or (
        attention.startswith("flash") and not positions.is_own
    )):  # fmt: skip
        raise SettingsError(
            f"positions={positions.text} needs attn_implementation=auto: {attention} rotates or "
            "packs by itself."
        )
    if isinstance(model, PlainDecoder):
        model.placing = (positions, own) if positions.places_pairs else None
    if positions.turns_by_type:
        model.model.rotary_emb = ByType(own, _yarn(checkpoint, own, *positions.numbers))
    else:
        model.model.rotary_emb = _NoRotation(own) if positions.places_pairs else own
    return replace(checkpoint, positions=positions)


def _yarn(checkpoint: Checkpoint, own: Any, factor: float, length: float) -> Any:
    """The model's rotary embedding, scaled by YaRN for inputs `factor` times its length."""
    scaled = copy.copy(checkpoint.config)
    theta = checkpoint.config.rope_parameters["rope_theta"]  # as it may have been set
    rope = RopeSettings(theta=theta, rope_type="yarn", factor=factor, original_length=int(length))
    scaled.rope_parameters = resolve_rope(scaled, checkpoint.own_rope_parameters, rope)
    return type(own)(scaled).to(own.inv_freq.device)


def resolve_rope(
    config: Any, own_parameters: Mapping[str, Any], rope: RopeSettings
) -> dict[str, Any]:
    """The complete `rope_parameters` of a language model, from its own and what to change."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    resolved = resolve_rope_parameters(
        own_parameters,
        rope,
        head_dim=int(head_dim * own_parameters.get("partial_rotary_factor", 1.0)),
        max_position_embeddings=config.max_position_embeddings,
    )
    # Which frequencies turn by which axis, and how many there are, is no setting.
    kept = {name: own_parameters[name] for name in _OF_THE_MODEL if name in own_parameters}
    return resolved | kept
