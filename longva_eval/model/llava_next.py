"""LLaVA-NeXT and LLaVA-NeXT-Video in transformers' layout (`llava-hf/...` on the hub).

The weights are loaded by transformers' own class, which stays what it is; `LlavaNext` is a thin
shell around it that shows the suite the same face as LongVA: the language model for the engine,
the vision tower for the encoder. What differs from LongVA:

* the language model is Llama (Vicuna), Mistral or Qwen2;
* LLaVA-NeXT-Video pools the frames of a video *before* the projector, LongVA after it (and
  LongVA's needle test pooled after it whatever the model: `pool_after_projection`);
* pictures are AnyRes: base tile, then the stitched tiles with a newline after each row;
* `config.json` nests the language model's and the tower's settings, and the canvases of
  `image_grid_pinpoints` are (height, width) there, (width, height) in LongVA's files.

LLaVA-NeXT (without Video) has no rule for videos. Its frames are encoded as LongVA's: one tile,
projected, pooled 2 x 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
)

from longva_eval.errors import CheckpointError
from longva_eval.media.images import parse_grid_pinpoints
from longva_eval.model.files import (
    check_shapes,
    kept_tower_layers,
    read_json,
    read_processor_settings,
    read_tensor_names,
    rope_parameters_of,
    some,
)
from longva_eval.model.modeling import PoolMode, execution_device, own_parameter, pool_visual_tokens

__all__ = [
    "ARCHITECTURES",
    "LlavaNext",
    "is_llava_next",
    "llava_next_config",
    "llava_next_processor_settings",
    "load_llava_next",
]

_VIDEO = "LlavaNextVideoForConditionalGeneration"
_PICTURES = "LlavaNextForConditionalGeneration"
ARCHITECTURES = (_VIDEO, _PICTURES)
"""Values of `architectures` in `config.json` that are loaded here."""

_LANGUAGE_MODELS = ("llama", "mistral", "qwen2")
_VIDEO_POOL_STRIDE = 2
"""LLaVA-NeXT says nothing of videos; LongVA's stride."""


def is_llava_next(raw: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is of this layout."""
    named = raw.get("architectures") or []
    return any(name in ARCHITECTURES for name in named) or raw.get("model_type") in (
        "llava_next",
        "llava_next_video",
    )


class LlavaNext(nn.Module):
    """transformers' LLaVA-NeXT or LLaVA-NeXT-Video, as the suite needs it.

    Args:
        inner: The model with its weights; its tower is cut at the layer that is read.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
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
        """Whether frames of a video are pooled before the projector instead of after it."""

    @property
    def config(self) -> Any:
        """The language model's configuration, with LongVA's `mm_*` keys beside it."""
        return self.inner.config.text_config

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

    @property
    def vision_config(self) -> Any:
        return self.inner.config.vision_config

    @property
    def patches_per_side(self) -> int:
        return int(self.vision_config.image_size // self.vision_config.patch_size)

    @property
    def image_newline(self) -> torch.Tensor | None:
        return own_parameter(self.inner.model, "image_newline")

    def vision_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All that visual tokens depend on, by name; the tower's up to the selected layer."""
        parts = ("vision_tower.", "multi_modal_projector.", "image_newline")
        for name, weight in self.inner.model.named_parameters():
            if name.startswith(parts):
                yield name, weight

    @torch.inference_mode()
    def encode_pixels(
        self,
        pixel_values: torch.Tensor,
        *,
        pool_stride: int | None = None,
        pool_mode: PoolMode = "average",
    ) -> torch.Tensor:
        """Projected patch features of frames or tiles.

        Args:
            pixel_values: (num_frames, 3, image_size, image_size), normalised floats.
            pool_stride: Pool by this before the projector; for frames of a video.
            pool_mode: Kind of that pooling.

        Returns:
            (num_frames, patches, hidden_size) in the model's dtype, row-major.
        """
        tower = self.inner.model.vision_tower
        first = tower.embeddings.patch_embedding
        pixel_values = pixel_values.to(execution_device(first), first.weight.dtype)
        hidden = tower(pixel_values).last_hidden_state[:, 1:]  # without the class token
        if pool_stride is not None:
            hidden = pool_visual_tokens(hidden, pool_stride=pool_stride, pool_mode=pool_mode)
        projector = self.inner.model.multi_modal_projector
        device = execution_device(projector.linear_1)
        return projector(hidden.to(device))  # type: ignore[no-any-return]


def llava_next_config(raw: Mapping[str, Any], folder: Path) -> Any:
    """The checked configuration, with LongVA's `mm_*` keys in its `text_config`.

    Raises:
        CheckpointError: If the checkpoint is of a variant that is not computed here.
    """
    path = folder / "config.json"
    named = [name for name in raw.get("architectures") or [] if name in ARCHITECTURES]
    if len(named) != 1:
        raise CheckpointError(
            f"{path} has model_type={raw.get('model_type')!r} and "
            f"architectures={raw.get('architectures')}; one of {', '.join(ARCHITECTURES)} is known."
        )
    text, vision = raw.get("text_config"), raw.get("vision_config")
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise CheckpointError(
            f"{path} lacks text_config or vision_config, the settings of the language model and "
            "of the vision tower."
        )
    _refuse_variants(raw, text, vision, path)
    kind = str(text["model_type"])
    text = dict(text)
    theta = float(CONFIG_MAPPING[kind].default_theta)
    text["rope_parameters"] = rope_parameters_of(text, default_theta=theta)
    text.pop("rope_theta", None)
    text.pop("rope_scaling", None)
    # Files written before transformers 4.44 call LLaVA-NeXT-Video `llava_next`.
    kept = {key: raw[key] for key in raw if key not in ("model_type", "architectures")}
    is_video = named[0] == _VIDEO
    config_class = LlavaNextVideoConfig if is_video else LlavaNextConfig
    config = config_class.from_dict({**kept, "text_config": text, "vision_config": dict(vision)})
    _check_window(config.text_config, path)
    tile = int(config.vision_config.image_size)
    pinpoints = parse_grid_pinpoints(config.image_grid_pinpoints, tile_size=tile)
    language = config.text_config
    language.mm_patch_merge_type = "spatial_unpad"
    language.image_aspect_ratio = "anyres"
    language.image_grid_pinpoints = [[width, height] for height, width in pinpoints]
    language.anyres_max_tiles = None  # the list says it all
    language.has_image_newline = True
    language.mm_spatial_pool_stride = (
        int(config.spatial_pool_stride) if is_video else _VIDEO_POOL_STRIDE
    )
    language.mm_spatial_pool_mode = config.spatial_pool_mode if is_video else "average"
    language.tokenizer_model_max_length = None
    return config


def _refuse_variants(
    raw: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any], path: Path
) -> None:
    found_and_known: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "text_config.model_type": (text.get("model_type", "llama"), _LANGUAGE_MODELS),
        "vision_config.model_type": (
            vision.get("model_type", "clip_vision_model"),
            ("clip_vision_model",),
        ),
        "vision_feature_select_strategy": (
            raw.get("vision_feature_select_strategy", "default"),
            ("default",),
        ),
        "spatial_pool_mode": (raw.get("spatial_pool_mode", "average"), ("average", "max")),
        "use_image_newline_parameter": (raw.get("use_image_newline_parameter", True), (True,)),
    }
    wrong = {name: found for name, (found, known) in found_and_known.items() if found not in known}
    if wrong:
        raise CheckpointError(
            f"{path} asks for parts that are not computed here: {wrong}. "
            f"Known: { {name: found_and_known[name][1] for name in wrong} }."
        )
    layer = raw.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        raise CheckpointError(
            f"{path} has vision_feature_layer={layer}: features of several layers are not "
            "computed here; one number is known."
        )
    if "model_type" not in text:
        raise CheckpointError(
            f"{path} does not say which language model it has; set text_config.model_type to one "
            f"of {', '.join(_LANGUAGE_MODELS)}."
        )


def _check_window(text: Any, path: Path) -> None:
    """Refuse a sliding window: the engine attends to everything."""
    window = getattr(text, "sliding_window", None)
    if window is not None and window < text.max_position_embeddings:
        raise CheckpointError(
            f"{path} has a sliding window of {window} tokens, and attention over all of a long "
            "video would not be this model. Mistral-7B-Instruct-v0.2 and Qwen2 have none: "
            'text_config with "sliding_window": null.'
        )


def llava_next_processor_settings(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Arguments of the CLIP processor; the same for pictures and videos.

    Raises:
        CheckpointError: If files are missing, or pictures and videos are prepared in two ways.
    """
    nested: dict[str, Any] = {}
    if (folder / "processor_config.json").is_file():
        nested = read_json(folder / "processor_config.json")
    found: dict[str, dict[str, Any]] = {}
    for kind, file in (
        ("image_processor", "preprocessor_config.json"),
        ("video_processor", "video_preprocessor_config.json"),
    ):
        path = folder / file
        if isinstance(nested.get(kind), dict):
            values, path = nested[kind], folder / "processor_config.json"
        elif path.is_file():
            values = read_json(path)
        else:
            continue
        switched_off = [
            name
            for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
            if values.get(name) is False
        ]
        if switched_off:
            raise CheckpointError(
                f"{path} switches off {some(switched_off)}, which are part of CLIP's preparation."
            )
        found[kind] = read_processor_settings(values, path)
    if not found:
        raise CheckpointError(
            f"{folder} has neither preprocessor_config.json nor processor_config.json, which say "
            "how pictures are prepared."
        )
    first, *others = found.values()
    if any(other != first for other in others):
        raise CheckpointError(
            f"{folder} prepares pictures and videos in two ways, which is not done here: {found}."
        )
    side = raw["vision_config"].get("image_size", first["crop_size"]["height"])
    if first["crop_size"] != {"height": side, "width": side}:
        raise CheckpointError(
            f"{folder} prepares pictures of {first['crop_size']} pixels for a tower of {side}."
        )
    return first


def load_llava_next(folder: Path, config: Any, options: Mapping[str, Any]) -> LlavaNext:
    """The model, loaded by transformers' own class.

    Args:
        folder: Of the checkpoint.
        config: From `llava_next_config`.
        options: Of `from_pretrained`: dtype, attention, placement.

    Raises:
        CheckpointError: If weights are missing, of another shape, or belong to another model.
    """
    is_video = isinstance(config, LlavaNextVideoConfig)
    model_class = (
        LlavaNextVideoForConditionalGeneration if is_video else LlavaNextForConditionalGeneration
    )
    read_tensor_names(folder)  # names a missing or broken file
    model, report = model_class.from_pretrained(folder, config=config, **options)
    check_shapes(report, folder)
    if report["missing_keys"] or report["unexpected_keys"]:
        raise CheckpointError(
            f"{folder} does not hold the weights of a {model_class.__name__}. Missing: "
            f"{some(report['missing_keys'])}. Not part of it: {some(report['unexpected_keys'])}."
        )
    return LlavaNext(model)
