"""Checkpoints of LLaVA-NeXT and LLaVA-NeXT-Video in transformers' layout (`llava-hf/...`).

`config.json` nests the language model's and the tower's settings, and the canvases of
`image_grid_pinpoints` are (height, width) there, (width, height) in LongVA's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    CLIPImageProcessorPil,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
)

from longva_eval.errors import CheckpointError
from longva_eval.media.images import parse_grid_pinpoints
from longva_eval.model.checkpoint import ClipCheckpoint, Origin, resolve_rope
from longva_eval.model.config_files import read_json
from longva_eval.model.files import (
    check_memory,
    check_weights,
    no_bar_if_small,
    read_chat_template,
    read_generation_config,
    read_processor_settings,
    read_tensor_names,
    read_tokenizer,
    rope_parameters_of,
    some,
)
from longva_eval.model.llava_next import LlavaNext
from longva_eval.model.settings import LoadSettings
from longva_eval.prompts.processor_template import MediaTokens

__all__ = [
    "ARCHITECTURES",
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


def load_llava_next(raw: dict[str, Any], origin: Origin, settings: LoadSettings) -> ClipCheckpoint:
    """Load a checkpoint of LLaVA-NeXT or LLaVA-NeXT-Video.

    Raises:
        CheckpointError: If files are missing, or hold another model.
    """
    folder = origin.folder
    config = llava_next_config(raw, folder)
    language = config.text_config
    read_tensor_names(folder)  # names a missing or broken file
    check_memory(folder, language, config.vision_config)
    own_rope_parameters = dict(language.rope_parameters)
    language.rope_parameters = resolve_rope(language, own_rope_parameters, settings.rope)
    processor_settings = llava_next_processor_settings(raw, folder)
    tokenizer = read_tokenizer(folder, config)
    generation_config = read_generation_config(folder, language, tokenizer)
    media_tokens = _media_tokens(config, tokenizer, folder)
    is_video = isinstance(config, LlavaNextVideoConfig)
    model_class = (
        LlavaNextVideoForConditionalGeneration if is_video else LlavaNextForConditionalGeneration
    )
    with no_bar_if_small(folder):
        model, report = model_class.from_pretrained(folder, config=config, **settings.options())
    check_weights(report, folder, model_class.__name__)
    return ClipCheckpoint(
        model=LlavaNext(model).eval().requires_grad_(False),
        tokenizer=tokenizer,
        image_processor=CLIPImageProcessorPil(**processor_settings),
        generation_config=generation_config,
        origin=origin,
        own_rope_parameters=own_rope_parameters,
        rope=settings.rope,
        architecture=_VIDEO if is_video else _PICTURES,
        media_tokens=media_tokens,
    )


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
    text["rope_parameters"] = rope_parameters_of(text, default_theta=theta, where=path)
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


def _media_tokens(config: Any, tokenizer: Any, folder: Path) -> MediaTokens:
    """The tokens that stand for pictures and videos, where tokenizer and config agree on them."""
    asked = {"image": config.image_token_index, "video": getattr(config, "video_token_index", None)}
    found: dict[str, str | None] = {"image": None, "video": None}
    for kind, token_id in asked.items():
        if token_id is None:
            continue
        token = getattr(tokenizer, f"{kind}_token", None) or f"<{kind}>"
        if tokenizer.convert_tokens_to_ids(token) != token_id:
            raise CheckpointError(
                f"{folder}/config.json has {kind}_token_index={token_id}, but the tokenizer's "
                f"{token} is {tokenizer.convert_tokens_to_ids(token)}. Are these its tokenizer "
                "files?"
            )
        found[kind] = token
    assert found["image"] is not None, "the configuration always names an image token"
    return MediaTokens(
        chat_template=read_chat_template(folder), picture=found["image"], video=found["video"]
    )
