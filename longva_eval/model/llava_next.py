"""LLaVA-NeXT and LLaVA-NeXT-Video as the suite needs them.

The weights are loaded by transformers' own class, which stays what it is; `LlavaNext` is a thin
shell around it that shows the suite the same face as LongVA: the language model for the engine,
the vision tower for the encoder. What differs from LongVA:

* the language model is Llama (Vicuna), Mistral or Qwen2;
* LLaVA-NeXT-Video pools the frames of a video *before* the projector, LongVA after it (and
  LongVA's needle test pooled after it whatever the model: `pool_after_projection`);
* pictures are AnyRes: base tile, then the stitched tiles with a newline after each row.

LLaVA-NeXT (without Video) has no rule for videos. Its frames are encoded as LongVA's: one tile,
projected, pooled 2 x 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import LlavaNextVideoForConditionalGeneration

from longva_eval.model.config_files import kept_tower_layers
from longva_eval.model.modeling import (
    ClipFeatures,
    LongVAForCausalLM,
    PlainDecoder,
    Shell,
    own_parameter,
)

__all__ = ["ClipModel", "LlavaNext"]


class LlavaNext(PlainDecoder, ClipFeatures, Shell):
    """transformers' LLaVA-NeXT or LLaVA-NeXT-Video, as the suite needs it.

    Args:
        inner: The model with its weights; its tower is cut at the layer that is read.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        whole = inner.config
        tower = inner.model.vision_tower
        kept = kept_tower_layers(
            whole.vision_config.num_hidden_layers,
            whole.vision_feature_layer,
            name="vision_feature_layer",
        )
        # The last hidden state is then the selected one, and nothing beyond it is computed.
        tower.encoder.layers = tower.encoder.layers[:kept]
        self.pools_before_projection = isinstance(inner, LlavaNextVideoForConditionalGeneration)

    @property
    def vision_config(self) -> Any:
        return self.inner.config.vision_config

    @property
    def image_newline(self) -> torch.Tensor | None:
        return own_parameter(self.inner.model, "image_newline")

    def vision_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All that visual tokens depend on, by name; the tower's up to the selected layer."""
        parts = ("vision_tower.", "multi_modal_projector.", "image_newline")
        for name, weight in self.inner.model.named_parameters():
            if name.startswith(parts):
                yield name, weight

    @property
    def vision_parts(self) -> tuple[Any, Any]:
        return self.inner.model.vision_tower, self.inner.model.multi_modal_projector


ClipModel = LongVAForCausalLM | LlavaNext
"""A language model with a CLIP tower and a projector."""
