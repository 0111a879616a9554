"""Tiny random checkpoints of today's families, saved by transformers' own classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

__all__ = ["KINDS", "family_maker", "make_family"]

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>", "<image>", "<video>", "<img>", "</img>", "<IMG_CONTEXT>",
    "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|image|>", "<|video|>",
    "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
]  # fmt: skip
PLAIN = ["<think>", "</think>"]
"""Added to the vocabulary, as in the published tokenizers, but no special tokens."""

_PARTS = (
    "{%% for part in message.content %%}{%% if part.type == 'video' %%}%s"
    "{%% elif part.type == 'image' %%}%s{%% else %%}{{ part.text }}{%% endif %%}{%% endfor %%}"
)
_CHATML = (
    "{%% for message in messages %%}{{ '<|im_start|>' + message.role + '\n' }}%s"
    "{{ '<|im_end|>\n' }}{%% endfor %%}"
    "{%% if add_generation_prompt %%}{{ '<|im_start|>assistant\n' }}%s{%% endif %%}"
)
_QWEN_PARTS = _PARTS % (
    "<|vision_start|><|video_pad|><|vision_end|>", "<|vision_start|><|image_pad|><|vision_end|>",
)  # fmt: skip
QWEN = _CHATML % (_QWEN_PARTS, "")
QWEN_THINKING = _CHATML % (_QWEN_PARTS, "{{ '<think>\n' }}")
INTERN = _CHATML % (_PARTS % ("<video>\n", "<IMG_CONTEXT>\n"), "")
ONEVISION = (
    # Media first, whatever order they are given in, as in the published template.
    "{% for message in messages %}{{ '<|im_start|>' + message.role + ' ' }}"
    "{% for part in message.content if part.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message.content if part.type == 'video' %}{{ '<video>\n' }}{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GLM = (
    "{{ '[gMASK]<sop>' }}{% for message in messages %}{{ '<|' + message.role + '|>\n' }}"
    + _PARTS % (
        "<|begin_of_video|><|video|><|end_of_video|>",
        "<|begin_of_image|><|image|><|end_of_image|>",
    )
    + "{% if message.role == 'user' and not enable_thinking %}{{ '/nothink' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% if not enable_thinking %}{{ '<think></think>\n' }}{% endif %}{% endif %}"
)  # fmt: skip

PATCH, MERGE = 4, 2
BUDGET = {"shortest_edge": 16 * 16, "longest_edge": 24 * 24 * 6}
SIDE = 16


@dataclass
class Kind:
    """How to make a small one."""

    model_type: str
    config: Callable[[Callable[[str], int], int], dict[str, Any]]
    processor: Callable[[Any], Any]
    extra_tokens: dict[str, str] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the language model's settings."""


def _language(vocab: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocab, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192,
        "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None,
        "pad_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, **more.pop("rope", {})},
        **more,
    }  # fmt: skip


_SECTIONS = {"mrope_section": [2, 3, 3]}
_GRID = {
    "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": PATCH,
    "spatial_merge_size": MERGE, "temporal_patch_size": 2,
}  # fmt: skip


def _qwen(token: Callable[[str], int], text: dict[str, Any], vision: dict[str, Any]) -> Any:
    return {
        "text_config": text, "vision_config": vision, "tie_word_embeddings": False,
        "image_token_id": token("<|image_pad|>"), "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
    }  # fmt: skip


def _qwen2_vl(token: Callable[[str], int], vocab: int) -> Any:
    vision = {key: _GRID[key] for key in ("depth", "num_heads", "patch_size")}
    vision |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2, "spatial_merge_size": MERGE,
               "temporal_patch_size": 2}  # fmt: skip
    return _qwen(token, _language(vocab, rope=_SECTIONS), vision)


def _qwen2_5_vl(token: Callable[[str], int], vocab: int) -> Any:
    vision = _GRID | {"window_size": 16, "out_hidden_size": 64, "fullatt_block_indexes": [1],
                      "tokens_per_second": 2}  # fmt: skip
    return _qwen(token, _language(vocab, rope=_SECTIONS), vision)


def _qwen3_vl(token: Callable[[str], int], vocab: int) -> Any:
    vision = _GRID | {"out_hidden_size": 64, "num_position_embeddings": 64,
                      "deepstack_visual_indexes": [0, 1]}  # fmt: skip
    text = _language(vocab, head_dim=16, rope=_SECTIONS | {"mrope_interleaved": True})
    return _qwen(token, text, vision)


def _qwen3_vl_moe(token: Callable[[str], int], vocab: int) -> Any:
    config = _qwen3_vl(token, vocab)
    config["text_config"] |= {"num_experts": 4, "num_experts_per_tok": 2,
                              "moe_intermediate_size": 32, "decoder_sparse_step": 1}  # fmt: skip
    return config


def _glm4v(token: Callable[[str], int], vocab: int) -> Any:
    text = _language(vocab, rope=_SECTIONS | {"partial_rotary_factor": 1.0})
    return {
        "text_config": text, "vision_config": _GRID | {"image_size": 32, "out_hidden_size": 64},
        "tie_word_embeddings": False,
        "image_token_id": token("<|image|>"), "video_token_id": token("<|video|>"),
        "image_start_token_id": token("<|begin_of_image|>"),
        "image_end_token_id": token("<|end_of_image|>"),
        "video_start_token_id": token("<|begin_of_video|>"),
        "video_end_token_id": token("<|end_of_video|>"),
    }  # fmt: skip


def _glm4v_moe(token: Callable[[str], int], vocab: int) -> Any:
    config = _glm4v(token, vocab)
    config["text_config"] |= {
        "head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
        "moe_intermediate_size": 32, "n_shared_experts": 1, "first_k_dense_replace": 1,
        "topk_group": 1,
    }  # fmt: skip
    return config


def _internvl(token: Callable[[str], int], vocab: int) -> Any:
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
              "intermediate_size": 64, "image_size": (SIDE, SIDE),
              "patch_size": (PATCH, PATCH)}  # fmt: skip
    return {
        "text_config": {"model_type": "qwen3", **_language(vocab, head_dim=16)},
        "vision_config": vision, "image_token_id": token("<IMG_CONTEXT>"), "image_seq_length": 4,
        "tie_word_embeddings": False,
    }  # fmt: skip


def _llava_onevision(token: Callable[[str], int], vocab: int) -> Any:
    side = 20
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 4, "intermediate_size": 64, "image_size": side,
              "patch_size": PATCH, "vision_use_head": False}  # fmt: skip
    return {
        "text_config": {"model_type": "qwen2", **_language(vocab)}, "vision_config": vision,
        "image_token_index": token("<image>"), "video_token_index": token("<video>"),
        "image_token_id": token("<image>"), "video_token_id": token("<video>"),
        "image_grid_pinpoints": _PINPOINTS, "tie_word_embeddings": False,
    }  # fmt: skip


_PINPOINTS = [[20, 20], [20, 40], [40, 20], [40, 40]]


def _grids(name: str, images: str, videos: str, template: str, **more: Any) -> Callable[[Any], Any]:
    def build(tokenizer: Any) -> Any:
        sizes = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": MERGE}
        return getattr(transformers, name)(
            getattr(transformers, images)(size=BUDGET, **sizes),
            tokenizer,
            getattr(transformers, videos)(size=BUDGET, **sizes, **more),
            chat_template=template,
        )

    return build


def _intern_processor(tokenizer: Any) -> Any:
    size = {"height": SIDE, "width": SIDE}
    return transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(size=size, max_patches=4),
        tokenizer,
        transformers.InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=INTERN,
    )


def _onevision_processor(tokenizer: Any) -> Any:
    size = {"height": 20, "width": 20}
    return transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=_PINPOINTS),
        tokenizer,
        transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=25,
        vision_feature_select_strategy="full",
        chat_template=ONEVISION,
    )


_UNCAPPED = {"cap_pixels_per_frame": False}
_QWEN2 = ("Qwen2VLImageProcessor", "Qwen2VLVideoProcessor", QWEN)
_QWEN3 = ("Qwen3VLProcessor", "Qwen2VLImageProcessor", "Qwen3VLVideoProcessor")
KINDS: dict[str, Kind] = {
    "qwen2_vl": Kind("qwen2_vl", _qwen2_vl, _grids("Qwen2VLProcessor", *_QWEN2, **_UNCAPPED)),
    "qwen2_5_vl": Kind(
        "qwen2_5_vl", _qwen2_5_vl, _grids("Qwen2_5_VLProcessor", *_QWEN2, **_UNCAPPED)
    ),
    "qwen3_vl": Kind("qwen3_vl", _qwen3_vl, _grids(*_QWEN3, QWEN, **_UNCAPPED)),
    "qwen3_vl_thinking": Kind("qwen3_vl", _qwen3_vl, _grids(*_QWEN3, QWEN_THINKING, **_UNCAPPED)),
    "qwen3_vl_moe": Kind("qwen3_vl_moe", _qwen3_vl_moe, _grids(*_QWEN3, QWEN, **_UNCAPPED)),
    "glm4v": Kind(
        "glm4v", _glm4v, _grids("Glm4vProcessor", "Glm4vImageProcessor", "Glm4vVideoProcessor", GLM)
    ),
    "glm4v_moe": Kind(
        "glm4v_moe",
        _glm4v_moe,
        _grids("Glm4vProcessor", "Glm4vImageProcessor", "Glm4vVideoProcessor", GLM),
    ),
    "glm46v": Kind(
        "glm46v",
        _glm4v,
        _grids("Glm46VProcessor", "Glm46VImageProcessor", "Glm46VVideoProcessor", GLM),
    ),
    "internvl": Kind(
        "internvl",
        _internvl,
        _intern_processor,
        {
            "start_image_token": "<img>", "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
        },
    ),
    "llava_onevision": Kind("llava_onevision", _llava_onevision, _onevision_processor),
}  # fmt: skip


def make_family(folder: Path, name: str, *, changes: dict[str, Any] | None = None) -> Path:
    """Save a checkpoint of a family, with its processor.

    Args:
        folder: Where.
        name: One of `KINDS`.
        changes: Settings of the language model that differ.
    """
    kind = KINDS[name]
    tokenizer = _tokenizer(kind.extra_tokens)
    vocab = -(-len(tokenizer) // 64) * 64
    settings = kind.config(tokenizer.convert_tokens_to_ids, vocab)
    settings["text_config"] |= changes or {}
    if "out_hidden_size" in settings["vision_config"]:
        settings["vision_config"]["out_hidden_size"] = settings["text_config"]["hidden_size"]
    config = AutoConfig.for_model(kind.model_type, **settings)
    torch.manual_seed(7)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # small random networks are nearly linear; now answers depend on all
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4.0)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.save_pretrained(folder)
    kind.processor(tokenizer).save_pretrained(folder)
    return folder


def _tokenizer(extra: dict[str, str]) -> PreTrainedTokenizerFast:
    """Bytes, and the special tokens of all families."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=extra,
    )
    tokenizer.add_tokens(SPECIAL, special_tokens=True)
    tokenizer.add_tokens(PLAIN)
    return tokenizer


def family_maker(folder: Path) -> Callable[[str], Path]:
    """Makes each kind once, below a folder."""

    def make(name: str) -> Path:
        if not (folder / name).exists():
            make_family(folder / name, name)
        return folder / name

    return make
