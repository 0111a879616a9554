"""What a run costs before it is started: tokens, FLOPs, bytes, time.

Pure arithmetic over the shape of a model; imports no torch. A FLOP is one multiplication or one
addition, so that a matrix product costs two per parameter and token. Norms, softmax, activations
and rotary embeddings are left out, and the output layer too: it runs at the few positions that
are read. Sizes are decimal (1 GB = 1e9 bytes).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, get_args

from longva_eval.embedded import RATES
from longva_eval.errors import SettingsError
from longva_eval.model.backends import (
    CHUNK_ON_GPU,
    chunk_numbers_per_token,
    resolve_chunk_tokens,
)
from longva_eval.studies.shape import ModelShape

__all__ = [
    "ATTENTION",
    "DECODE_SECONDS",
    "GPUS",
    "Gpu",
    "MemoryPlan",
    "PlanDType",
    "SharedCost",
    "TaskCost",
    "activation_bytes",
    "attention_flops",
    "estimate_seconds",
    "kv_bytes",
    "linear_flops",
    "logits_bytes",
    "max_frames",
    "measured_share",
    "plan_memory",
    "prefill_flops",
    "task_cost",
    "weight_bytes",
]

PlanDType = Literal["bfloat16", "float16", "float32"]

PREFIX_TOKENS = 14
"""Text before the frames: `<|im_start|>system ... <|im_start|>user` and its newline (ChatML)."""

QUESTION_TOKENS = 60
"""Question, end of turn and answer of a V-NIAH cell, about."""

TASK_TEXT_TOKENS = 110
"""All text of a Video-MME prompt, about: instruction, question and four options."""

RESERVE_BYTES = 1_000_000_000
"""CUDA context, kernel workspaces, allocator rounding and a batch of frames in the tower.

An allowance, not a derivation."""

_RATES = json.loads(RATES.read_text(encoding="utf-8"))

DECODE_SECONDS: dict[str, float] = {
    policy: rate["cpu_seconds_per_frame"] for policy, rate in _RATES["decoding"].items()
}
"""CPU seconds of one frame, by how frames are chosen. Measured; `data/rates.json` says on what.
Another size, codec or distance of key frames takes another time."""

ATTENTION: dict[str, list[str]] = {
    name: rate["runs_on"] for name, rate in _RATES["attention"].items()
}
"""Attention back ends whose rate was measured, and the GPUs that have them."""

_BYTES_PER_NUMBER: dict[PlanDType, int] = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU by its data sheet."""

    memory_bytes: int
    """As named on the data sheet, decimal: a little less than the driver reports."""
    bfloat16_tflops: float
    """Peak of dense bfloat16 or float16 matrix products with float32 sums, TFLOP/s."""
    float32_tflops: float
    """Peak of float32 without tensor cores, TFLOP/s."""

    def tflops(self, dtype: PlanDType) -> float:
        """Peak in this precision, TFLOP/s."""
        return self.float32_tflops if dtype == "float32" else self.bfloat16_tflops


GPUS: dict[str, Gpu] = {
    # NVIDIA H100 data sheet, SXM: 1,979 TFLOPS bfloat16 "with sparsity", half of it dense.
    "h100": Gpu(memory_bytes=80 * 10**9, bfloat16_tflops=989.4, float32_tflops=67.0),
    # NVIDIA H200 data sheet, SXM: the same chip with more memory.
    "h200": Gpu(memory_bytes=141 * 10**9, bfloat16_tflops=989.4, float32_tflops=67.0),
    # NVIDIA A100 data sheet, 80 GB (a 40 GB card: --gpu 40GB --gpu-name a100).
    "a100": Gpu(memory_bytes=80 * 10**9, bfloat16_tflops=312.0, float32_tflops=19.5),
    # NVIDIA L40S data sheet: 362.05 TFLOPS bfloat16, 733 with sparsity.
    "l40s": Gpu(memory_bytes=48 * 10**9, bfloat16_tflops=362.05, float32_tflops=91.6),
    # NVIDIA Ada architecture white paper, GeForce RTX 4090: 165.2 TFLOPS bfloat16, dense.
    "rtx4090": Gpu(memory_bytes=24 * 10**9, bfloat16_tflops=165.2, float32_tflops=82.6),
}
"""Known GPUs by the name that `--gpu-name` takes."""


def weight_bytes(shape: ModelShape, *, dtype: PlanDType = "bfloat16") -> int:
    """Bytes of all weights: decoder (15.23 GB for Qwen2-7B in bfloat16), tower and projector."""
    return (shape.language_parameters + shape.vision_parameters) * _bytes_per_number(dtype)


def kv_bytes(shape: ModelShape, num_tokens: int, *, dtype: PlanDType = "bfloat16") -> int:
    """Bytes of the KV cache of a prompt.

    Keys and values of `num_kv_heads * head_dim` numbers in each layer: for Qwen2-7B
    2 x 28 x 4 x 128 x 2 bytes = 57,344 bytes (56 KiB) a token, 8.26 MB a frame.
    """
    per_token = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim
    return num_tokens * per_token * _bytes_per_number(dtype)


def logits_bytes(shape: ModelShape, num_positions: int) -> int:
    """Bytes of float32 logits: one number a position and row of the output layer."""
    return num_positions * shape.vocab_size * 4


def activation_bytes(shape: ModelShape, chunk_tokens: int, *, dtype: PlanDType = "bfloat16") -> int:
    """Bytes of what lives beside the cache while a chunk goes through a layer."""
    width = chunk_numbers_per_token(
        intermediate_size=shape.intermediate_size, hidden_size=shape.hidden_size
    )
    return chunk_tokens * width * _bytes_per_number(dtype)


def chunk_tokens_of(
    asked: str | int, shape: ModelShape, gpu_bytes: int | None, *, dtype: PlanDType
) -> int:
    """Tokens of a chunk of prefill, by the rule of a run on such a GPU (None: one large enough)."""
    return resolve_chunk_tokens(
        asked,
        memory_bytes=(gpu_bytes or 1 << 60) - weight_bytes(shape, dtype=dtype),
        bytes_per_token=activation_bytes(shape, 1, dtype=dtype),
    )


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What one prompt needs on one GPU, in bytes."""

    weights: int
    kv_cache: int
    activations: int
    """Of one chunk."""
    visual_tokens: int
    """Of all frames; the encoder keeps them on the GPU while a prompt needs them."""
    logits: int
    """At the one position that is read."""
    reserve: int = RESERVE_BYTES

    @property
    def peak(self) -> int:
        """All of it together."""
        parts = (self.weights, self.kv_cache, self.activations, self.visual_tokens, self.logits)
        return sum(parts) + self.reserve


def plan_memory(
    shape: ModelShape,
    num_tokens: int,
    *,
    dtype: PlanDType = "bfloat16",
    chunk_tokens: int = CHUNK_ON_GPU,
) -> MemoryPlan:
    """The memory of one prompt, prefilled in chunks, with logits only where they are read.

    Nearly all tokens of a long prompt are visual; all are counted as such.

    Raises:
        SettingsError: If a number is below 1, or the dtype unknown.
    """
    _at_least_one(num_tokens=num_tokens, chunk_tokens=chunk_tokens)
    return MemoryPlan(
        weights=weight_bytes(shape, dtype=dtype),
        kv_cache=kv_bytes(shape, num_tokens, dtype=dtype),
        activations=activation_bytes(shape, min(chunk_tokens, num_tokens), dtype=dtype),
        visual_tokens=num_tokens * shape.hidden_size * _bytes_per_number(dtype),
        logits=logits_bytes(shape, 1),
    )


def max_frames(
    shape: ModelShape,
    gpu_bytes: int,
    *,
    most: int = 1 << 16,
    text_tokens: int = PREFIX_TOKENS + QUESTION_TOKENS,
    dtype: PlanDType = "bfloat16",
    chunk_tokens: int = CHUNK_ON_GPU,
) -> int:
    """The most frames whose prompt fits this memory; 0 if not even one does, `most` at most.

    `plan_memory` solved for the length of the cache.
    """
    _at_least_one(chunk_tokens=chunk_tokens)

    def fits(num_frames: int) -> bool:
        num_tokens = text_tokens + shape.video_tokens(num_frames)
        plan = plan_memory(shape, num_tokens, dtype=dtype, chunk_tokens=chunk_tokens)
        return plan.peak <= gpu_bytes

    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def linear_flops(shape: ModelShape, num_tokens: int) -> int:
    """FLOPs of the decoder's matrix products with weights.

    Two per parameter and token: 2 x 6.525 G = 13.05 GFLOP a token for Qwen2-7B.
    """
    return 2 * shape.matrix_parameters * num_tokens


def attention_flops(shape: ModelShape, num_tokens: int) -> int:
    """FLOPs of causal attention over a prompt of this length.

    Scores and weighted values cost 2 `head_dim` each per head, query and key, and N^2 / 2 pairs
    are visible: 2 `num_layers` `num_heads` `head_dim` N^2 = 200,704 N^2 for Qwen2-7B.
    """
    return 2 * shape.num_layers * shape.num_heads * shape.head_dim * num_tokens**2


def prefill_flops(shape: ModelShape, num_tokens: int, *, cached_tokens: int = 0) -> int:
    """FLOPs of bringing the cache from `cached_tokens` to `num_tokens`."""
    added = linear_flops(shape, num_tokens - cached_tokens)
    return added + attention_flops(shape, num_tokens) - attention_flops(shape, cached_tokens)


def measured_share(attention: str, num_tokens: int) -> tuple[str, float]:
    """The GPU on which a back end was measured, and the share of its peak that a prefill reached.

    Args:
        attention: One of `ATTENTION`.
        num_tokens: Length of the prompt; the nearest measured length counts.
    """
    rate = _RATES["attention"][attention]
    _, tflops = min(rate["tflops"], key=lambda row: abs(row[0] - num_tokens))
    return rate["gpu"], tflops / GPUS[rate["gpu"]].bfloat16_tflops


def estimate_seconds(
    flops: float, gpu: Gpu, *, utilization: float = 0.5, dtype: PlanDType = "bfloat16"
) -> float:
    """Seconds that so many FLOPs take at this share of the GPU's peak.

    Raises:
        SettingsError: If the utilization is not above 0 and at most 1.
    """
    if not 0 < utilization <= 1:
        raise SettingsError(
            f"utilization={utilization} must be above 0 and at most 1: the share of the peak that "
            "is reached."
        )
    _bytes_per_number(dtype)
    return flops / (gpu.tflops(dtype) * 1e12 * utilization)


@dataclass(frozen=True, kw_only=True)
class SharedCost:
    """Prompts, each alone and with what they share done once."""

    naive_tokens: int
    """One prefill a prompt."""
    shared_tokens: int
    naive_flops: int
    """One prefill a prompt, logits where they are read."""
    shared_flops: int

    @property
    def factor(self) -> float:
        """How many times less sharing costs."""
        return self.naive_flops / self.shared_flops


@dataclass(frozen=True, kw_only=True)
class TaskCost(SharedCost):
    """Several questions on each video, each alone or video by video; vision included."""

    naive_videos: int
    """Videos decoded if each question decodes its own."""
    shared_videos: int


def task_cost(
    shape: ModelShape,
    *,
    num_videos: int,
    questions_per_video: int,
    num_frames: int,
    prefix_tokens: int = 0,
    question_tokens: int = TASK_TEXT_TOKENS,
) -> TaskCost:
    """Questions on videos: everything once a question against everything once a video.

    Args:
        shape: The model.
        num_videos: Videos in the task; Video-MME has 900.
        questions_per_video: Video-MME has 3.
        num_frames: Frames of a prompt.
        prefix_tokens: Text before the frames, shared like them. The default counts all text to
            the questions: a little too much for the shared way.
        question_tokens: Text after them.

    Raises:
        SettingsError: If a number is below 1.
    """
    _at_least_one(videos=num_videos, questions=questions_per_video, frames=num_frames)
    video_end = prefix_tokens + shape.video_tokens(num_frames)
    end = video_end + question_tokens
    once = shape.vision_flops(num_frames) + prefill_flops(shape, video_end)
    question = prefill_flops(shape, end, cached_tokens=video_end)
    num_questions = num_videos * questions_per_video
    return TaskCost(
        naive_videos=num_questions,
        shared_videos=num_videos,
        naive_tokens=num_questions * end,
        shared_tokens=num_videos * video_end + num_questions * question_tokens,
        naive_flops=num_questions * (once + question),
        shared_flops=num_videos * once + num_questions * question,
    )


def _bytes_per_number(dtype: PlanDType) -> int:
    if dtype not in _BYTES_PER_NUMBER:
        raise SettingsError(f"dtype={dtype!r} is unknown; use {', '.join(get_args(PlanDType))}.")
    return _BYTES_PER_NUMBER[dtype]


def _at_least_one(**numbers: int) -> None:
    wrong = [f"{name}={value}" for name, value in numbers.items() if value < 1]
    if wrong:
        raise SettingsError(f"{', '.join(wrong)} must be at least 1.")
