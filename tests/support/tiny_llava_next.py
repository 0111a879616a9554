"""Tiny random checkpoints of LLaVA-NeXT, saved by transformers' own classes in the hub's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AddedToken,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    MistralConfig,
    Qwen2Config,
    Qwen2Tokenizer,
)
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

__all__ = ["CHATML", "INST", "SIDE", "VICUNA", "Kind", "make_checkpoint"]

Kind = Literal["video-llama", "video-mistral", "video-qwen2", "pictures-llama", "pictures-qwen2"]
SIDE = 56
"""Pixels of a tile: 4 x 4 patches, 4 tokens a frame."""
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE],
             [SIDE, 3 * SIDE]]  # fmt: skip
"""(height, width), in the order of the published files."""

_LOOP = "{%% for part in message['content'] | selectattr('type', 'equalto', '%s') %%}"
VICUNA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    + _LOOP % "image" + "{{ '<image>\n' }}{% endfor %}"
    + _LOOP % "video" + "{{ '<video>\n' }}{% endfor %}"
    + _LOOP % "text" + "{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)  # fmt: skip
"""`USER: <video>\\nWhat is it? ASSISTANT:`"""
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    + _LOOP % "image" + "{{ '<image>\n' }}{% endfor %}"
    + _LOOP % "video" + "{{ '<video>\n' }}{% endfor %}"
    + _LOOP % "text" + "{{ part['text'] }}{% endfor %}{{ ' [/INST]' }}"
    "{% else %}" + _LOOP % "text"
    + "{% generation %}{{ ' ' + part['text'] + '</s>' }}{% endgeneration %}{% endfor %}"
    "{% endif %}{% endfor %}"
)  # fmt: skip
"""`<s>[INST] <video>\\nWhat is it? [/INST]`, with transformers' `generation` blocks."""
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    + _LOOP % "image" + "{{ '<image>' }}{% endfor %}"
    + _LOOP % "video" + "{{ '<video>' }}{% endfor %}"
    + _LOOP % "text" + "{{ '\n' + part['text'] }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)  # fmt: skip
"""Several pictures stand side by side, and a text begins with a new line even without one."""


def make_checkpoint(folder: Path, kind: Kind, *, old_files: bool = False) -> Path:
    """Save a checkpoint and its processor.

    Args:
        folder: Where; must not exist.
        kind: Which class, and which language model.
        old_files: Write `config.json`, tensor names and processor files as those on the hub, which
            were saved by earlier versions of transformers.
    """
    is_video, language = kind.startswith("video"), kind.split("-")[1]
    tokenizer, template = _tokenizer(language, is_video=is_video)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
        image_size=SIDE, patch_size=14, projection_dim=16, initializer_range=0.2,
    )  # fmt: skip
    shape: dict[str, Any] = {
        "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(tokenizer),
        "initializer_range": 0.2, "max_position_embeddings": 4096,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    text: Any
    if language == "llama":  # LLaVA-NeXT-Video-7B: Vicuna with linear scaling
        rope = {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}
        text = LlamaConfig(**{**shape, "num_key_value_heads": 4}, rope_parameters=rope)
    elif language == "mistral":  # LLaVA-NeXT-Video-7B-32K
        rope = {"rope_type": "default", "rope_theta": 1e6}
        text = MistralConfig(
            **{**shape, "max_position_embeddings": 32768}, sliding_window=None, rope_parameters=rope
        )
    else:
        rope = {"rope_type": "default", "rope_theta": 1e6}
        text = Qwen2Config(**shape, rope_parameters=rope)
    tokens = {"image_token_index": tokenizer.convert_tokens_to_ids("<image>")}
    processor: Any
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=PINPOINTS,
    )
    common = {
        "image_processor": pictures, "tokenizer": tokenizer, "patch_size": 14,
        "vision_feature_select_strategy": "default", "chat_template": template,
        "num_additional_image_tokens": 1,
    }  # fmt: skip
    config: Any
    model: Any
    torch.manual_seed(len(kind))
    if is_video:
        tokens["video_token_index"] = tokenizer.convert_tokens_to_ids("<video>")
        config = LlavaNextVideoConfig(
            text_config=text, vision_config=vision, image_grid_pinpoints=PINPOINTS, **tokens
        )
        model = LlavaNextVideoForConditionalGeneration(config)
        videos = LlavaNextVideoVideoProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        )
        processor = LlavaNextVideoProcessor(video_processor=videos, **common)
    else:
        config = LlavaNextConfig(
            text_config=text, vision_config=vision, image_grid_pinpoints=PINPOINTS, **tokens
        )
        model = LlavaNextForConditionalGeneration(config)
        processor = LlavaNextProcessor(**common)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if old_files:
        _as_on_the_hub(folder, template)
    return folder


def _tokenizer(language: str, *, is_video: bool) -> tuple[Any, str]:
    added = ["<video>", "<image>"] if is_video else ["<image>"]
    tokenizer: Any
    if language == "qwen2":
        letters = sorted(set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:?!"))
        letters += ["\u0120", "\u010a"]  # byte-level BPE's blank and new line
        vocab = {"<|endoftext|>": 0, **{letter: n + 1 for n, letter in enumerate(letters)}}
        merges = [("t", "h"), ("th", "e"), ("\u0120", "the")]
        vocab |= {"".join(pair): len(vocab) + n for n, pair in enumerate(merges)}
        tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges)
        tokenizer.add_tokens(
            [AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")]
        )
        tokenizer.eos_token = "<|im_end|>"
        template = CHATML
    else:
        pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
        pieces += sorted("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,:?![]/")
        merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("\u2581", "U"), ("\u2581", "W")]
        pieces += ["".join(pair) for pair in merges]
        vocab = {piece: number for number, piece in enumerate(pieces)}
        tokenizer = LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)
        template = INST if language == "mistral" else VICUNA
    # Neither stripped nor normalised, as in the published tokenizers.
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    return tokenizer, template


def _as_on_the_hub(folder: Path, template: str) -> None:
    """Rewrite what earlier versions of transformers saved in other words."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    text = config["text_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope["rope_theta"]
    if rope["rope_type"] != "default":
        text["rope_scaling"] = {"type": rope["rope_type"], "factor": rope["factor"]}
    config["torch_dtype"] = config.pop("dtype")
    config |= {"ignore_index": -100, "use_image_newline_parameter": True}
    if "spatial_pool_stride" in config:
        config["spatial_pool_out_channels"] = 1024
    path.write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    tower = "vision_tower."
    renamed = {
        name.replace(tower, f"{tower}vision_model.") if name.startswith(tower) else name: tensor
        for name, tensor in tensors.items()
    }
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    processor = json.loads((folder / "processor_config.json").read_text())
    for kind, file in (("image", "preprocessor_config.json"), ("video", None)):
        settings = processor.pop(f"{kind}_processor", None)
        if settings is not None and file is not None:
            (folder / file).write_text(json.dumps(settings))
    (folder / "processor_config.json").write_text(json.dumps(processor))
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
