"""Write a trained model in LongVA's on-disk layout, and read it back for evaluation."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.images import IMAGE_MEAN, IMAGE_STD
from training.model import (
    Projector,
    TextConfig,
    TextModel,
    VisionConfig,
    VisionTower,
)
from training.vocabulary import save_tokenizer, token_id, vocabulary

__all__ = ["TinyLongVa", "export_model", "grid_pinpoints", "load_model"]

MAX_GRIDS: Final = 49
"""Grids of the largest picture, as in LongVA."""
_TOWER_PREFIX = "model.vision_tower.vision_tower.vision_model."


@dataclass
class TinyLongVa:
    """The three parts of a model."""

    text: TextModel
    tower: VisionTower
    projector: Projector


def grid_pinpoints(image_size: int) -> list[list[int]]:
    """Every canvas of 2 to 49 grids, (width, height) in pixels, in LongVA's order."""
    return [
        [image_size * columns, image_size * rows]
        for columns in range(1, MAX_GRIDS + 1)
        for rows in range(1, MAX_GRIDS + 1)
        if 2 <= columns * rows <= MAX_GRIDS
    ]


def _state(model: TinyLongVa) -> dict[str, Tensor]:
    state = {
        name if name.startswith("lm_head") else f"model.{name}": value
        for name, value in model.text.state_dict().items()
    }
    for name, value in model.projector.state_dict().items():
        state[f"model.mm_projector.{name}"] = value
    for name, value in model.tower.state_dict().items():
        state[_TOWER_PREFIX + name] = value
    return state


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


def export_model(model: TinyLongVa, folder: Path, *, name: str, context_length: int) -> None:
    """Write the checkpoint: weights in bfloat16, configs, tokenizer, vision tower folder.

    Args:
        model: What was trained.
        folder: Made if missing.
        name: Goes into `_name_or_path`.
        context_length: Longest text the language model was trained on, in tokens.
    """
    tower_folder = folder / "vision_tower"
    tower_folder.mkdir(parents=True, exist_ok=True)
    text, vision = model.text.config, model.tower.config
    state = {key: value.to(torch.bfloat16).contiguous() for key, value in _state(model).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    end = token_id("<|endoftext|>")
    ends = token_id("<|im_end|>")
    pinpoints = grid_pinpoints(vision.image_size)
    _write_json(
        folder / "config.json",
        {
            "_name_or_path": name,
            "architectures": ["LlavaQwenForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": end,
            "eos_token_id": ends,
            "hidden_act": "silu",
            "hidden_size": text.hidden_size,
            "image_aspect_ratio": "anyres",
            "image_crop_resolution": None,
            "image_grid_pinpoints": pinpoints,
            "image_split_resolution": None,
            "initializer_range": 0.02,
            "intermediate_size": text.intermediate_size,
            "max_position_embeddings": context_length,
            "max_window_layers": text.num_hidden_layers,
            "mm_hidden_size": vision.hidden_size,
            "mm_patch_merge_type": "unires",
            "mm_projector_type": "mlp2x_gelu",
            "mm_resampler_type": None,
            "mm_spatial_pool_mode": "average",
            "mm_spatial_pool_stride": 2,
            "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
            "mm_use_im_patch_token": False,
            "mm_use_im_start_end": False,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": "vision_tower",
            "model_type": "llava_qwen",
            "num_attention_heads": text.num_attention_heads,
            "num_hidden_layers": text.num_hidden_layers,
            "num_key_value_heads": text.num_key_value_heads,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_scaling": None,
            "rope_theta": model.text.rope_theta,
            "sliding_window": None,
            "tie_word_embeddings": False,
            # Long enough for every haystack of the demo: the loader cuts what is longer.
            "tokenizer_model_max_length": MAX_SEQUENCE_TOKENS,
            "tokenizer_padding_side": "right",
            "torch_dtype": "bfloat16",
            "unfreeze_mm_vision_tower": True,
            "use_cache": True,
            "use_mm_proj": True,
            "use_sliding_window": False,
            "vision_tower_pretrained": None,
            "vocab_size": text.vocab_size,
        },
    )
    _write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": end,
            "do_sample": False,
            "eos_token_id": [ends, end],
            "pad_token_id": end,
        },
    )
    _write_json(
        tower_folder / "config.json",
        {
            "architectures": ["CLIPVisionModel"],
            "attention_dropout": 0.0,
            "hidden_act": "quick_gelu",
            "hidden_size": vision.hidden_size,
            "image_size": vision.image_size,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "intermediate_size": vision.intermediate_size,
            "layer_norm_eps": vision.layer_norm_eps,
            "model_type": "clip_vision_model",
            "num_attention_heads": vision.num_attention_heads,
            "num_channels": 3,
            "num_hidden_layers": vision.num_hidden_layers,
            "patch_size": vision.patch_size,
            "projection_dim": vision.hidden_size,
            "torch_dtype": "bfloat16",
        },
    )
    _write_json(
        tower_folder / "preprocessor_config.json",
        {
            "crop_size": vision.image_size,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": list(IMAGE_MEAN),
            "image_std": list(IMAGE_STD),
            "resample": 3,
            "size": vision.image_size,
        },
    )
    save_tokenizer(
        folder,
        model_max_length=MAX_SEQUENCE_TOKENS,
        generation=1 if text.vocab_size == len(vocabulary()) else 2,
    )
    # safetensors writes files that only their owner can read.
    (folder / "model.safetensors").chmod(0o644)


MAX_SEQUENCE_TOKENS: Final = 32768


def load_model(folder: Path) -> TinyLongVa:
    """Read an exported checkpoint into the training's own modules, in float32.

    Args:
        folder: Written by `export_model`.
    """
    config = json.loads((folder / "config.json").read_text())
    vision = json.loads((folder / "vision_tower" / "config.json").read_text())
    state = {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
    text = TextModel(
        TextConfig(
            vocab_size=config["vocab_size"],
            num_hidden_layers=config["num_hidden_layers"],
            rope_theta=config["rope_theta"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_attention_heads=config["num_attention_heads"],
            num_key_value_heads=config["num_key_value_heads"],
            rms_norm_eps=config["rms_norm_eps"],
        )
    )
    tower = VisionTower(
        VisionConfig(
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            hidden_size=vision["hidden_size"],
            intermediate_size=vision["intermediate_size"],
            num_hidden_layers=vision["num_hidden_layers"],
            num_attention_heads=vision["num_attention_heads"],
            layer_norm_eps=vision["layer_norm_eps"],
        )
    )
    projector = Projector(vision["hidden_size"], config["hidden_size"])
    projector.load_state_dict(
        {key.split("mm_projector.")[1]: v for key, v in state.items() if "mm_projector" in key}
    )
    tower.load_state_dict(
        {
            key.removeprefix(_TOWER_PREFIX): value
            for key, value in state.items()
            if key.startswith(_TOWER_PREFIX)
        }
    )
    text.load_state_dict(
        {
            key.removeprefix("model."): value
            for key, value in state.items()
            if "mm_projector" not in key and "vision_tower" not in key
        }
    )
    assert config["vocab_size"] in (len(vocabulary()), len(vocabulary(2)))
    for part in (text, tower, projector):
        part.eval().requires_grad_(False)
    return TinyLongVa(text, tower, projector)
