"""Checkpoints in LongVA's layout, which is that of the original training code.

`config.json` with `model_type: llava_qwen` and `mm_*` keys, safetensors shards that hold the
language model, the projector *and the tuned vision tower*, tokenizer files, and a `mm_vision_tower`
entry that only names an architecture (`openai/clip-vit-large-patch14-336`), which is known here
without a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from longva_eval.errors import CheckpointError
from longva_eval.media.images import parse_grid_pinpoints
from longva_eval.model.checkpoint import ClipCheckpoint, Origin, resolve_rope
from longva_eval.model.config_files import kept_tower_layers, read_json, read_tower
from longva_eval.model.files import (
    check_memory,
    check_shapes,
    check_weights,
    no_bar_if_small,
    read_generation_config,
    read_processor_settings,
    read_tensor_names,
    read_tokenizer,
    rope_parameters_of,
    some,
)
from longva_eval.model.llava_next_layout import ARCHITECTURES
from longva_eval.model.modeling import LongVAConfig, LongVAForCausalLM
from longva_eval.model.settings import LoadSettings

__all__ = ["load_longva"]


def load_longva(raw: dict[str, Any], origin: Origin, settings: LoadSettings) -> ClipCheckpoint:
    """Load a checkpoint of LongVA.

    Raises:
        CheckpointError: If files are missing, or hold another model.
    """
    folder = origin.folder
    _check_architecture(raw, folder)
    tensor_names = read_tensor_names(folder)
    tower_config, processor_settings, tower_folder = _vision_tower(raw, folder)
    rope = rope_parameters_of(raw, default_theta=settings.rope.theta, where=folder / "config.json")
    config = _build_config(raw, rope, tower_config, tensor_names)
    check_memory(folder, config, tower_config)
    own_rope_parameters = dict(config.rope_parameters)
    config.rope_parameters = resolve_rope(config, own_rope_parameters, settings.rope)
    # Small files before the large ones, so that what is wrong with them is said at once.
    tokenizer = read_tokenizer(folder, config)
    generation_config = read_generation_config(folder, config, tokenizer)
    with no_bar_if_small(folder):
        model, report = LongVAForCausalLM.from_pretrained(
            folder, config=config, **settings.options()
        )
    has_tower = any(".vision_tower." in name for name in tensor_names)
    filled = () if has_tower else _load_untuned_tower(model, raw, tower_folder)
    check_weights(report, folder, "LongVA model", filled=filled)
    return ClipCheckpoint(
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        image_processor=CLIPImageProcessorPil(**processor_settings),
        generation_config=generation_config,
        origin=origin,
        own_rope_parameters=own_rope_parameters,
        rope=settings.rope,
    )


def _check_architecture(raw: Mapping[str, Any], folder: Path) -> None:
    architectures = raw.get("architectures") or []
    if raw.get("model_type") != "llava_qwen" or "LlavaQwenForCausalLM" not in architectures:
        raise CheckpointError(
            f"{folder}/config.json describes model_type={raw.get('model_type')!r}, "
            f"architectures={architectures}; LongVA has model_type='llava_qwen' and "
            f"LlavaQwenForCausalLM; {' and '.join(ARCHITECTURES)} are known too. Use the lmms-eval "
            "model of that architecture instead."
        )
    required = {
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_resampler_type": (None,),
        "mm_vision_select_feature": ("patch",),
        "mm_use_im_start_end": (False, None),
        "use_sliding_window": (False, None),
        "mm_patch_merge_type": ("unires", "spatial_unpad", "anyres"),
        "mm_spatial_pool_mode": ("average", "max", None),
        "mm_newline_position": ("one_token", None),
        "image_aspect_ratio": ("anyres", "pad", "crop"),
    }
    wrong = {key: raw.get(key) for key, allowed in required.items() if raw.get(key) not in allowed}
    if wrong:
        raise CheckpointError(
            f"{folder}/config.json asks for parts that LongVA does not have: {wrong}. "
            f"Known: { {key: required[key] for key in wrong} }."
        )


def _vision_tower(
    raw: Mapping[str, Any], folder: Path
) -> tuple[CLIPVisionConfig, dict[str, Any], Path | None]:
    """Architecture and preprocessing of the tower, and the folder of its untuned weights."""
    settings, tower_folder = read_tower(raw, folder)
    if tower_folder is not None:
        path = tower_folder / "preprocessor_config.json"
        processor = read_processor_settings(read_json(path), path)
    else:
        processor = read_processor_settings({"size": settings["image_size"]}, folder)
    return CLIPVisionConfig(**settings), processor, tower_folder


def _build_config(
    raw: dict[str, Any], rope: dict[str, Any], tower: CLIPVisionConfig, tensor_names: set[str]
) -> LongVAConfig:
    kept = kept_tower_layers(
        tower.num_hidden_layers,
        int(raw.get("mm_vision_select_layer", -2)),
        name="mm_vision_select_layer",
    )
    tower.num_hidden_layers = kept
    values = {key: value for key, value in raw.items() if key != "architectures"}
    values["rope_parameters"] = rope
    values.pop("rope_scaling", None)
    values.pop("rope_theta", None)
    # LLaVA-NeXT's files leave these out, or have null: they pool no frames of their own.
    values["mm_spatial_pool_stride"] = values.get("mm_spatial_pool_stride") or 2
    values["mm_spatial_pool_mode"] = values.get("mm_spatial_pool_mode") or "average"
    config = LongVAConfig(**values)
    config.vision_config = tower
    config.has_image_newline = "model.image_newline" in tensor_names
    pinpoints = raw.get("image_grid_pinpoints")
    if pinpoints is not None or raw.get("image_aspect_ratio") == "anyres":
        parse_grid_pinpoints(pinpoints, tile_size=int(tower.image_size))
    return config


def _load_untuned_tower(
    model: LongVAForCausalLM, raw: Mapping[str, Any], tower_folder: Path | None
) -> set[str]:
    """Fill the tower from its own folder, for a checkpoint whose shards leave it out."""
    if tower_folder is None:
        raise CheckpointError(
            f"The shards hold no vision tower, and {raw.get('mm_vision_tower')} is not a folder. "
            "Download it and set mm_vision_tower in config.json to its path."
        )
    read_tensor_names(tower_folder)
    tower = model.model.vision_tower.vision_tower
    loaded, report = CLIPVisionModel.from_pretrained(
        tower_folder,
        config=model.vision_config,
        dtype=model.dtype,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    check_shapes(report, tower_folder)
    needed = [name for name in report["missing_keys"] if not name.startswith("post_layernorm")]
    if needed:
        raise CheckpointError(f"{tower_folder} lacks {some(needed)} of its vision tower.")
    tower.load_state_dict(loaded.state_dict())
    return {name for name, _ in model.named_parameters() if ".vision_tower." in name}
