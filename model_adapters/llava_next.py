"""LLaVA-NeXT-Video and LLaVA-NeXT for lmms-eval, under the same rules as LongVA.

`lmms-eval --model longva_llava_next_video --model_args pretrained=llava-hf/LLaVA-NeXT-Video-7B-hf`
takes every argument of `--model longva`: frames, RoPE, dtype, decoding, journal. The ids begin with
`longva_` because the host has adapters of its own for these checkpoints (`llava_hf`, `llava_vid`),
with other frames, prompts and defaults; theirs stay reachable and are never meant by ours.
"""

from __future__ import annotations

# The installed name of this folder, which mypy sees by its own.
from longva_eval.model_adapters.longva import LongVA

__all__ = ["LlavaNext", "LlavaNextVideo"]


class LlavaNextVideo(LongVA):
    """LLaVA-NeXT-Video in transformers' layout: `llava-hf/LLaVA-NeXT-Video-7B-hf`, `-7B-32K-hf`.

    Takes the arguments of `LongVA`; `conv_template` is the processor's own, or `vicuna_v1`,
    `mistral_instruct`, `qwen_1_5`.
    """

    model_id = "longva_llava_next_video"
    architectures = ("LlavaNextVideoForConditionalGeneration",)
    default_checkpoint = "llava-hf/LLaVA-NeXT-Video-7B-hf"


class LlavaNext(LongVA):
    """LLaVA-NeXT (AnyRes) in transformers' layout: `llava-hf/llava-v1.6-...`, `llava-next-...`.

    Frames of videos, of which LLaVA-NeXT says nothing, are encoded as LongVA's. A checkpoint in
    the layout of the original code (`llava_qwen`) runs with `--model longva`.

    Takes the arguments of `LongVA`; `conv_template` is the processor's own, or `vicuna_v1`,
    `mistral_instruct`, `qwen_1_5`.
    """

    model_id = "longva_llava_next"
    architectures = ("LlavaNextForConditionalGeneration",)
    default_checkpoint = "llava-hf/llava-v1.6-mistral-7b-hf"
