"""LongVA on transformers' own parts: a Qwen2 decoder, a CLIP vision tower, a two-layer projector.

What differs from `LlavaForConditionalGeneration`:

* The parameter names are those of the published checkpoint (`LlavaQwenForCausalLM`), so that it
  loads without a conversion: `model.vision_tower.vision_tower.*`, `model.mm_projector.{0,2}`.
* The vision tower is built only up to the layer whose output is read (`mm_vision_select_layer`):
  the output of the last layer that is kept *is* the selected hidden state.
* Visual tokens are pooled after projection, 2 x 2 patches to one (UniRes), and there is no token
  before, after or between them.
* Pictures and frames become embeddings outside of `forward`, since one frame serves many prompts.

Reference: "Long Context Transfer from Language to Vision", arXiv:2406.16852.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
)

from longva_eval.errors import CheckpointError, SettingsError
from longva_eval.model.positions import PositionPolicy

__all__ = [
    "ClipFeatures",
    "LongVAConfig",
    "LongVAForCausalLM",
    "PlainDecoder",
    "PoolMode",
    "Shell",
    "execution_device",
    "own_parameter",
    "pool_visual_tokens",
]

PoolMode = Literal["average", "max"]


@functools.cache
def cache_name(model_class: type) -> str:
    """What `forward` of a model of transformers calls the cache: 5.24 renamed `past_key_values`."""
    names = inspect.signature(model_class.forward).parameters  # type: ignore[attr-defined]
    return "past_key_values" if "past_key_values" in names else "cache"


class PlainDecoder:
    """What the engine asks of a language model whose positions count."""

    placing: tuple[PositionPolicy, Any] | None = None
    """What places pairs of query and key, and the model's own rotary embedding, which it turns by
    instead (`longva_eval.model.checkpoint.change_positions`)."""

    def positions(self, prompt: object) -> None:
        """They count."""
        del prompt

    def run_layers(
        self, rows: torch.Tensor, positions: torch.Tensor, cache: Any, is_visual: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states (tokens, hidden_size) of new rows; the cache grows by them.

        Args:
            rows: (tokens, hidden_size).
            positions: (1, tokens).
            cache: Of what comes before.
            is_visual: Not needed here.
        """
        del is_visual
        model = self.model  # type: ignore[attr-defined]
        placing = self.placing and (*self.placing, positions[0], cache)
        output = model(
            inputs_embeds=rows[None],
            position_ids=positions,
            use_cache=True,
            **({} if placing is None else {"placing": placing}),
            **{cache_name(type(model)): cache},  # type: ignore[arg-type]  # classes are hashable
        )
        return output.last_hidden_state[0]  # type: ignore[no-any-return]


class ClipFeatures:
    """Visual tokens of a CLIP tower that ends at the selected layer, and a projector of MLPs."""

    vision_config: Any

    pools_before_projection: bool
    """Whether frames of a video are pooled before the projector instead of after it."""

    @property
    def vision_parts(self) -> tuple[Any, Any]:
        """The tower and the projector."""
        raise NotImplementedError

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of a frame; 24 for the 336-pixel tower."""
        return int(self.vision_config.image_size // self.vision_config.patch_size)

    @torch.inference_mode()
    def encode_pixels(
        self,
        pixel_values: torch.Tensor,
        *,
        pool_stride: int | None = None,
        pool_mode: PoolMode = "average",
    ) -> torch.Tensor:
        """Projected patch features of frames or tiles, before any pooling.

        Args:
            pixel_values: (num_frames, 3, image_size, image_size), normalised floats; any device
                and floating dtype.
            pool_stride: Pool by this before the projector, as LLaVA-NeXT-Video does with frames.
            pool_mode: Kind of that pooling.

        Returns:
            (num_frames, patches_per_side**2, hidden_size) in the model's dtype, row-major.
        """
        tower, projector = self.vision_parts
        first = tower.embeddings.patch_embedding
        pixel_values = pixel_values.to(execution_device(first), first.weight.dtype)
        # The tower has no layer after the selected one, so its last hidden state is the feature.
        hidden = tower(pixel_values).last_hidden_state[:, 1:]  # without the class token
        if pool_stride is not None:
            hidden = pool_visual_tokens(hidden, pool_stride=pool_stride, pool_mode=pool_mode)
        linear = next(part for part in projector.modules() if isinstance(part, nn.Linear))
        return projector(hidden.to(execution_device(linear)))  # type: ignore[no-any-return]


class Shell(nn.Module):
    """Around a model of transformers with vision: what the engine asks of its language model."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    @property
    def config(self) -> Any:
        """The language model's configuration."""
        return self.inner.config.get_text_config()

    @property
    def model(self) -> Any:
        """The language model."""
        return self.inner.model.language_model

    @property
    def lm_head(self) -> Any:
        return self.inner.lm_head

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype  # type: ignore[no-any-return]  # transformers is untyped

    @property
    def device(self) -> torch.device:
        return self.inner.device  # type: ignore[no-any-return]


class LongVAConfig(Qwen2Config):  # type: ignore[misc]  # transformers is untyped
    """Qwen2's configuration with the vision tower's beside it; `mm_*` keys become attributes."""

    model_type = "llava_qwen"
    sub_configs = {"vision_config": CLIPVisionConfig}

    vision_config: dict[str, Any] | CLIPVisionConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.vision_config, dict):
            self.vision_config = CLIPVisionConfig(**self.vision_config)
        super().__post_init__(**kwargs)


class _VisionTower(nn.Module):
    """The level of names between LongVA and its CLIP tower."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.vision_tower = CLIPVisionModel(config)


class LongVAModel(Qwen2Model):  # type: ignore[misc]  # transformers is untyped
    """Qwen2 with `vision_tower` and `mm_projector` beside the decoder layers."""

    config_class = LongVAConfig
    _no_split_modules = ["Qwen2DecoderLayer", "CLIPEncoderLayer"]

    def __init__(self, config: LongVAConfig) -> None:
        super().__init__(config)
        vision_config = config.vision_config
        if not isinstance(vision_config, CLIPVisionConfig):
            raise CheckpointError(
                "LongVAConfig has no vision_config; load it with load_checkpoint."
            )
        self.vision_tower = _VisionTower(vision_config)
        self.mm_projector = nn.Sequential(
            nn.Linear(vision_config.hidden_size, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )
        if getattr(config, "has_image_newline", False):
            self.image_newline = nn.Parameter(torch.zeros(config.hidden_size))
        self.post_init()


class LongVAForCausalLM(PlainDecoder, ClipFeatures, Qwen2ForCausalLM):  # type: ignore[misc]  # transformers is untyped
    """LongVA: `model.embed_tokens`, `model.layers`, `model.vision_tower`, `lm_head`."""

    config_class = LongVAConfig
    pools_before_projection = False
    _no_split_modules = ["Qwen2DecoderLayer", "CLIPEncoderLayer"]
    # The tower ends at the selected layer; what comes after it in the shards is never used.
    _keys_to_ignore_on_load_unexpected = [
        r"vision_tower\.(vision_model\.)?post_layernorm\.",
        r"vision_tower\.(vision_model\.)?encoder\.layers\.\d+\.",
    ]

    def __init__(self, config: LongVAConfig) -> None:
        super(Qwen2ForCausalLM, self).__init__(config)
        self.model = LongVAModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def vision_config(self) -> CLIPVisionConfig:
        """Configuration of the CLIP tower, its layers cut at the selected one."""
        return self.config.vision_config

    @property
    def image_newline(self) -> torch.Tensor | None:
        """What AnyRes puts after each row of a picture; None if the checkpoint has none."""
        return own_parameter(self.model, "image_newline")

    def vision_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All that visual tokens depend on, by name."""
        for name, weight in self.model.named_parameters():
            if name.startswith(("vision_tower.", "mm_projector.", "image_newline")):
                yield name, weight

    @property
    def vision_parts(self) -> tuple[Any, Any]:
        return self.model.vision_tower.vision_tower, self.model.mm_projector


def execution_device(module: Any) -> torch.device:
    """Where a module with a `weight` computes.

    That is where its weight lies; but with `device_map`, what does not fit lies elsewhere (on
    `meta`, as far as PyTorch knows) and is brought when it is needed.
    """
    hook = getattr(module, "_hf_hook", None)
    for part in getattr(hook, "hooks", (hook,)):
        device = getattr(part, "execution_device", None)
        if device is not None:
            return torch.device(device)
    return module.weight.device  # type: ignore[no-any-return]


def own_parameter(module: Any, name: str) -> torch.Tensor | None:
    """A parameter of a module itself, wherever `device_map` put it; None if there is none."""
    found: torch.Tensor | None = getattr(module, name, None)
    if found is None or not found.is_meta:
        return found
    from accelerate.utils import align_module_device  # type: ignore[import-untyped]

    with align_module_device(module):
        return getattr(module, name).detach().clone()  # type: ignore[no-any-return]


def pool_visual_tokens(
    tokens: torch.Tensor, *, pool_stride: int, pool_mode: PoolMode = "average"
) -> torch.Tensor:
    """Pool the visual tokens of each frame over square windows.

    Args:
        tokens: (num_frames, patches_per_side**2, hidden_size), floating point.
        pool_stride: Window side and step, in patches. LongVA uses 2: a 336-pixel frame goes from
            24 x 24 = 576 to 12 x 12 = 144 tokens. Patches that fill no whole window are dropped.
        pool_mode: `average` or `max`.

    Returns:
        (num_frames, (patches_per_side // pool_stride)**2, hidden_size), with the dtype and device
        of `tokens`, row-major.

    Raises:
        SettingsError: If pool_stride is below 1 or above the side, or the mode is unknown.

    Source: LongVA, arXiv:2406.16852 (UniRes).
    """
    num_frames, num_patches, hidden_size = tokens.shape
    side = round(num_patches**0.5)
    if side * side != num_patches:
        raise SettingsError(f"{num_patches} visual tokens per frame do not form a square.")
    if not 1 <= pool_stride <= side:
        raise SettingsError(f"mm_spatial_pool_stride={pool_stride} must be between 1 and {side}.")
    grid = tokens.view(num_frames, side, side, hidden_size).permute(0, 3, 1, 2)
    if pool_mode == "average":
        pooled = nn.functional.avg_pool2d(grid, pool_stride)
    elif pool_mode == "max":
        pooled = nn.functional.max_pool2d(grid, pool_stride)
    else:
        raise SettingsError(f"mm_spatial_pool_mode={pool_mode!r} must be average or max.")
    return pooled.permute(0, 2, 3, 1).reshape(num_frames, -1, hidden_size)
