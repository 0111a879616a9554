"""Sizes of a family of transformers: of its own class without weights, and of its own processor.

Parameters are counted in the class as its `config.json` builds it (on no device), tokens in a
prompt that its chat template and processor write. Nothing is written down twice.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from longva_eval.errors import SettingsError
from longva_eval.families.family import Family, Shape
from longva_eval.families.layout import sketch_family
from longva_eval.families.template import FamilyTemplate
from longva_eval.families.vision import FamilyVision
from longva_eval.prompts.pieces import VisualPiece
from longva_eval.studies.shape import ModelShape

__all__ = ["FamilyShape", "read_family_shape"]


@dataclass(frozen=True, kw_only=True)
class FamilyShape(ModelShape):
    """Sizes of a family. Videos are counted with a frame a second, written as its times."""

    family: Family
    """Without weights."""
    template: FamilyTemplate = field(compare=False)
    frame_size: tuple[int, int]
    """Width and height of videos."""

    @property
    def frames_per_unit(self) -> int:
        return self.family.frames_per_unit

    @property
    def matrix_parameters(self) -> int:
        text = self.family.model.config.get_text_config()
        used = 0.0
        for weight in self.family.model.model.language_model.layers.parameters():
            if weight.ndim > 1:  # with three dimensions: of all experts, of which few are asked
                share = text.num_experts_per_tok / len(weight) if weight.ndim == 3 else 1
                used += weight.numel() * share
        return round(used)

    @property
    def language_parameters(self) -> int:
        inner = self.family.model
        head = 0 if inner.config.tie_word_embeddings else int(inner.lm_head.weight.numel())
        numbers: int = sum(each.numel() for each in inner.model.language_model.parameters())
        return head + numbers

    @property
    def vision_parameters(self) -> int:
        named = self.family.model.model.named_parameters()
        return sum(each.numel() for name, each in named if not name.startswith("language_model."))

    @functools.cache  # noqa: B019  # there are few shapes in a process
    def video_tokens(self, num_frames: int, *, composed: bool = False) -> int:
        if num_frames == 0:
            return 0
        shape = self._shape(num_frames, composed=composed)
        unit = VisualPiece("frame", shape.num_tokens, SimpleNamespace(how=shape))
        video = FamilyVision(family=self.family).video(
            [unit] * self._units(num_frames), composed=True
        )
        tokenizer = self.family.processor.tokenizer
        prompt, without = (self.template.clip(tokenizer, "?", pieces) for pieces in (video, []))
        return prompt.num_tokens - without.num_tokens

    def vision_flops(self, num_frames: int, *, composed: bool = False) -> int:
        shape = self._shape(num_frames, composed=composed)
        return self._units(num_frames) * self.family.unit_flops(shape)

    @property
    def picture_frames(self) -> int:
        tokens = self.family.picture_shape(*self.frame_size, alone=True).num_tokens
        return -(-tokens // self.video_tokens(1))

    def frames_text(self, num_frames: int, *, composed: bool = False) -> str:
        shape = self._shape(num_frames, composed=composed)
        of = "" if composed else " of {}x{}".format(*self.frame_size)
        total = self.video_tokens(num_frames, composed=composed)
        units = f"{self._units(num_frames):,} x {shape.num_tokens}"
        return f"{total:,} ({num_frames:,} frames{of}: {units}, and what is written about them)"

    def _units(self, num_frames: int) -> int:
        return -(-num_frames // self.frames_per_unit)

    def _shape(self, num_frames: int, *, composed: bool) -> Shape:
        if composed:
            return self.family.square_shape()
        return self.family.video_shape(num_frames, *self.frame_size)


def read_family_shape(
    folder: Path, raw: Mapping[str, Any], frame_size: tuple[int, int]
) -> FamilyShape:
    """The shape of a checkpoint of transformers, from its configuration and processor.

    Raises:
        CheckpointError: If it is of none of the families, or a file of its processor is missing.
    """
    family = sketch_family(raw, folder)
    text = family.model.config.get_text_config()
    try:
        template = FamilyTemplate(family=family)
    except SettingsError:  # it always thinks
        template = FamilyTemplate(family=family, thinking="on")
    return FamilyShape(
        name=folder.name or str(folder),
        hidden_size=text.hidden_size,
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        num_kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        intermediate_size=text.intermediate_size,
        vocab_size=text.vocab_size,
        family=family,
        template=template,
        frame_size=frame_size,
    )
