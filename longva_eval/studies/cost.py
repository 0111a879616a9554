"""What a run costs before it is started: tokens, FLOPs, bytes, time.

Pure arithmetic over the shape of a model; imports no torch. A FLOP is one multiplication or one
addition, so that a matrix product costs two per parameter and token. Norms, softmax, activations
and rotary embeddings are left out, and the output layer too: it runs at the few positions that
are read. Sizes are decimal (1 GB = 1e9 bytes).

Needle grids are counted as prefix trees, which is what `longva_eval.engine.prefix` computes:

* the haystack before a needle is the same in every cell: one *trunk*, up to the last insertion;
* one needle at one insertion index gives prompts that are prefixes of each other as the haystack
  grows: one *chain*, as long as the longest of them;
* each length of a chain has its *question*, which is appended, read and cropped off.

A cell visited at prefix length `a` and extended to `b` costs `prefill_flops(b) -
prefill_flops(a)`: causal attention makes costs of prefixes telescope.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from longva_eval.errors import CheckpointError, SettingsError

__all__ = [
    "GPUS",
    "LONGVA_7B",
    "Gpu",
    "GridCost",
    "MemoryPlan",
    "ModelShape",
    "PlanDType",
    "TaskCost",
    "activation_bytes",
    "attention_flops",
    "estimate_seconds",
    "kv_bytes",
    "lattice_grid_cost",
    "linear_flops",
    "logits_bytes",
    "max_frames",
    "needle_grid_cost",
    "plan_memory",
    "prefill_flops",
    "read_model_shape",
    "task_cost",
    "vision_flops",
    "visual_token_bytes",
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

_BYTES_PER_NUMBER: dict[PlanDType, int] = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a LongVA: Qwen2 decoder, CLIP tower up to the layer that is read, projector.

    Or of a LLaVA-NeXT, whose decoder is Llama's, Mistral's or Qwen2's.
    """

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    """Width of the MLP."""
    vocab_size: int
    """Rows of the embedding and of the output layer, padding rows included."""
    tied_embeddings: bool = False
    """Whether the output layer is the embedding."""
    attention_bias: bool = True
    """Whether query, key and value have biases: Qwen2's do, Llama's and Mistral's do not."""
    vision_hidden_size: int
    vision_intermediate_size: int
    vision_layers: int
    """Layers of the tower that are computed: up to the selected one."""
    image_size: int
    """Side of a frame, in pixels."""
    patch_size: int
    """Side of a patch, in pixels."""
    pool_stride: int = 2
    """Side of the pooling window, in patches."""

    def __post_init__(self) -> None:
        wrong = [
            f"{name}={value}"
            for name, value in vars(self).items()
            if isinstance(value, int) and not isinstance(value, bool) and value < 1
        ]
        if wrong:
            raise CheckpointError(f"{self.name}: {', '.join(wrong)} must be at least 1.")
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"{self.name}: {self.num_heads} heads cannot share {self.num_kv_heads} KV heads."
            )

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def tokens_per_frame(self) -> int:
        """Visual tokens of a frame: 336 pixels, 24 x 24 patches, pooled 2 x 2, make 144."""
        return (self.patches_per_side // self.pool_stride) ** 2

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer that stand in matrix products.

        Query and output projections, key and value projections, and three MLP matrices.
        """
        query = self.hidden_size * self.num_heads * self.head_dim
        key = self.hidden_size * self.num_kv_heads * self.head_dim
        return 2 * query + 2 * key + 3 * self.hidden_size * self.intermediate_size

    @property
    def language_parameters(self) -> int:
        """Parameters of the decoder with embeddings: 7.616 G for Qwen2-7B."""
        # Two norms a layer and one at the end.
        biases = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        biases *= self.attention_bias
        embeddings = (1 if self.tied_embeddings else 2) * self.vocab_size * self.hidden_size
        layers = self.num_layers * (self.layer_parameters + biases + 2 * self.hidden_size)
        return layers + embeddings + self.hidden_size

    @property
    def vision_parameters(self) -> int:
        """Parameters of the tower's computed layers and of the two-layer projector."""
        width, inner = self.vision_hidden_size, self.vision_intermediate_size
        # Class token, patches (no bias), positions, norms before and after (CLIP keeps both).
        embeddings = width + 3 * self.patch_size**2 * width
        embeddings += (self.patches_per_side**2 + 1) * width + 4 * width
        layer = 4 * (width**2 + width) + 2 * width * inner + inner + width + 4 * width
        projector = width * self.hidden_size + self.hidden_size**2 + 2 * self.hidden_size
        return embeddings + self.vision_layers * layer + projector


LONGVA_7B = ModelShape(
    # huggingface.co/lmms-lab/LongVA-7B, config.json (Qwen2-7B) and
    # huggingface.co/openai/clip-vit-large-patch14-336, config.json: 24 layers, of which
    # mm_vision_select_layer=-2 reads the output of the 23rd.
    name="LongVA-7B",
    hidden_size=3584,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    intermediate_size=18944,
    vocab_size=152064,
    vision_hidden_size=1024,
    vision_intermediate_size=4096,
    vision_layers=23,
    image_size=336,
    patch_size=14,
)


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


def visual_token_bytes(shape: ModelShape, num_frames: int, *, dtype: PlanDType = "bfloat16") -> int:
    """Bytes of the visual tokens of frames, `hidden_size` numbers each: 1.03 MB a frame."""
    return num_frames * shape.tokens_per_frame * shape.hidden_size * _bytes_per_number(dtype)


def logits_bytes(shape: ModelShape, num_positions: int) -> int:
    """Bytes of float32 logits: one number a position and row of the output layer."""
    return num_positions * shape.vocab_size * 4


def activation_bytes(shape: ModelShape, chunk_tokens: int, *, dtype: PlanDType = "bfloat16") -> int:
    """Bytes of what lives beside the cache while a chunk goes through a layer.

    The MLP is the widest place: activated gate, up, and their product (three of
    `intermediate_size`; gate and up alone are 32.7 GB for 432,000 tokens at once), with the
    residual stream, its normalised copy, the output and the chunk's embeddings (four of
    `hidden_size`). Attention is computed by kernels that keep no scores.
    """
    width = 3 * shape.intermediate_size + 4 * shape.hidden_size
    return chunk_tokens * width * _bytes_per_number(dtype)


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
    chunk_tokens: int = 2048,
) -> MemoryPlan:
    """The memory of one prompt, prefilled in chunks, with logits only where they are read.

    Nearly all tokens of a long prompt are visual; all are counted as such.

    Args:
        shape: The model.
        num_tokens: Length of the prompt.
        dtype: Of weights, cache and activations.
        chunk_tokens: Prefill chunk.

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
    text_tokens: int = PREFIX_TOKENS + QUESTION_TOKENS,
    dtype: PlanDType = "bfloat16",
    chunk_tokens: int = 2048,
) -> int:
    """The most frames whose prompt fits this memory; 0 if not even one does.

    `plan_memory` solved for the length of the cache.
    """
    _at_least_one(chunk_tokens=chunk_tokens)

    def fits(num_frames: int) -> bool:
        num_tokens = text_tokens + num_frames * shape.tokens_per_frame
        plan = plan_memory(shape, num_tokens, dtype=dtype, chunk_tokens=chunk_tokens)
        return plan.peak <= gpu_bytes

    low, high = 0, gpu_bytes // kv_bytes(shape, shape.tokens_per_frame, dtype=dtype) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def linear_flops(shape: ModelShape, num_tokens: int) -> int:
    """FLOPs of the decoder's matrix products with weights.

    Two per parameter and token: 2 x 6.525 G = 13.05 GFLOP a token for Qwen2-7B.
    """
    return 2 * shape.num_layers * shape.layer_parameters * num_tokens


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


def vision_flops(shape: ModelShape, num_frames: int) -> int:
    """FLOPs of encoding frames: tower up to the selected layer, and projector.

    A layer costs 2 per parameter and patch, and 4 `hidden_size` N^2 of attention that is not
    causal. LongVA-7B: 0.385 TFLOP a frame, of which the projector (before pooling) 0.019.
    """
    width, patches = shape.vision_hidden_size, shape.patches_per_side**2
    tokens = patches + 1  # the class token
    layer = 2 * tokens * (4 * width**2 + 2 * width * shape.vision_intermediate_size)
    layer += 4 * width * tokens**2
    embedding = 2 * patches * 3 * shape.patch_size**2 * width
    projector = 2 * patches * (width * shape.hidden_size + shape.hidden_size**2)
    return num_frames * (embedding + shape.vision_layers * layer + projector)


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
class GridCost:
    """A needle grid by ever more sharing; FLOPs of the language model alone.

    Frames are encoded once in all of them, as the original does.
    """

    num_cells: int
    """Needles times places."""
    num_indices: int
    """Distinct insertion indices."""
    longest_tokens: int
    """The longest prompt."""
    naive_tokens: int
    """One prefill a cell."""
    shared_tokens: int
    """Nodes of the prefix tree."""
    naive_all_logits_flops: int
    """One prefill a cell with logits at every position, as published."""
    naive_flops: int
    """One prefill a cell, logits where they are read."""
    needles_share_flops: int
    """The needles of a cell share the haystack before them."""
    trunk_flops: int
    """All cells share one trunk."""
    shared_flops: int
    """The prefix tree: lengths of a needle at an index share their chain as well."""
    last_layer_kv_only_flops: int
    """The prefix tree, the last layer computing nothing but keys and values.

    The answers' own positions, where it computes all, are too few to count."""

    @property
    def factor(self) -> float:
        """How many times less the prefix tree costs than one prefill a cell."""
        return self.naive_flops / self.shared_flops


def needle_grid_cost(
    shape: ModelShape,
    *,
    frame_counts: Sequence[int],
    depths: Sequence[float],
    num_needles: int = 5,
    prefix_tokens: int = PREFIX_TOKENS,
    question_tokens: int = QUESTION_TOKENS,
) -> GridCost:
    """The stock V-NIAH grid: every needle at every depth of every length.

    Args:
        shape: The model.
        frame_counts: Haystack lengths in frames, without the needle.
        depths: Between 0 and 1; the needle stands before frame `int(depth * num_frames)`.
        num_needles: Pictures, each with its question.
        prefix_tokens: Text before the frames.
        question_tokens: Text after them.

    Raises:
        SettingsError: If a number is out of range or a list empty.
    """
    if not frame_counts or not depths:
        raise SettingsError("A needle grid needs at least one frame count and one depth.")
    if not all(0 <= depth <= 1 for depth in depths):
        raise SettingsError(f"depths={list(depths)} must lie between 0 and 1.")
    # Truncated as in longva_eval.needle.grid.insert_index, which cannot be imported without torch.
    places = [(count, int(depth * count)) for count in frame_counts for depth in depths]
    return _grid_cost(shape, places, num_needles, prefix_tokens, question_tokens)


def lattice_grid_cost(
    shape: ModelShape,
    *,
    frame_counts: Sequence[int],
    step: int,
    num_needles: int = 5,
    prefix_tokens: int = PREFIX_TOKENS,
    question_tokens: int = QUESTION_TOKENS,
) -> GridCost:
    """The lattice grid: insertion indices at multiples of `step`, every length from there on.

    Each insertion index is then met by many lengths, whose prompts are prefixes of each other.

    Args:
        shape: The model.
        frame_counts: Haystack lengths in frames, without the needle.
        step: Distance of insertion indices, in frames; the first is 0.
        num_needles: Pictures, each with its question.
        prefix_tokens: Text before the frames.
        question_tokens: Text after them.

    Raises:
        SettingsError: If a number is out of range or the list empty.
    """
    _at_least_one(lattice=step)
    if not frame_counts:
        raise SettingsError("A needle grid needs at least one frame count.")
    places = [(count, index) for count in frame_counts for index in range(0, count + 1, step)]
    return _grid_cost(shape, places, num_needles, prefix_tokens, question_tokens)


def _grid_cost(
    shape: ModelShape,
    places: Sequence[tuple[int, int]],
    num_needles: int,
    prefix_tokens: int,
    question_tokens: int,
) -> GridCost:
    """Cost of needles at places, each (haystack length, insertion index) in frames."""
    _at_least_one(frames=min(count for count, _ in places), needles=num_needles)

    def position(num_frames: int) -> int:
        return prefix_tokens + num_frames * shape.tokens_per_frame

    def flops(start: int, end: int) -> int:
        return prefill_flops(shape, end, cached_tokens=start)

    # + 1: the needle is a frame.
    ends = [position(count + 1) + question_tokens for count, _ in places]
    starts = [position(index) for _, index in places]
    naive_tokens = num_needles * sum(ends)
    naive = num_needles * sum(flops(0, end) for end in ends)
    branches = num_needles * sum(map(flops, starts, ends))
    trunk_end = max(starts)

    lengths: dict[int, set[int]] = {}
    for count, index in places:
        lengths.setdefault(index, set()).add(count)
    shared_tokens, shared = trunk_end, flops(0, trunk_end)
    for index, counts in lengths.items():
        chain_start, chain_end = position(index), position(max(counts) + 1)
        shared_tokens += num_needles * (chain_end - chain_start + len(counts) * question_tokens)
        shared += num_needles * flops(chain_start, chain_end)
        for count in counts:
            end = position(count + 1)
            shared += num_needles * flops(end, end + question_tokens)

    # The last layer: its share of all costs goes, its key and value projections stay.
    key_value = 4 * shape.hidden_size * shape.num_kv_heads * shape.head_dim
    last_layer = shared // shape.num_layers - key_value * shared_tokens
    return GridCost(
        num_cells=num_needles * len(places),
        num_indices=len(lengths),
        longest_tokens=max(ends),
        naive_tokens=naive_tokens,
        shared_tokens=shared_tokens,
        naive_all_logits_flops=naive + 2 * shape.hidden_size * shape.vocab_size * naive_tokens,
        naive_flops=naive,
        needles_share_flops=sum(flops(0, start) for start in starts) + branches,
        trunk_flops=flops(0, trunk_end) + branches,
        shared_flops=shared,
        last_layer_kv_only_flops=shared - last_layer,
    )


@dataclass(frozen=True, kw_only=True)
class TaskCost:
    """Several questions on each video, each alone or video by video; vision included."""

    naive_videos: int
    """Videos decoded if each question decodes its own."""
    shared_videos: int
    naive_tokens: int
    shared_tokens: int
    naive_flops: int
    shared_flops: int
    """Decoded, encoded and prefilled once a video."""

    @property
    def factor(self) -> float:
        """How many times less it costs to do each video once."""
        return self.naive_flops / self.shared_flops


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
    video_end = prefix_tokens + num_frames * shape.tokens_per_frame
    end = video_end + question_tokens
    once = vision_flops(shape, num_frames) + prefill_flops(shape, video_end)
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


def read_model_shape(folder: Path) -> ModelShape:
    """The shape of a checkpoint, from its `config.json` and, for LongVA, its tower's.

    Weights are not read, and need not be there. A tower that is named and not a folder must be
    CLIP ViT-L/14-336. LLaVA-NeXT and LLaVA-NeXT-Video are read in transformers' layout.

    Raises:
        CheckpointError: If a file is missing or is not JSON, a key is missing, or the tower is
            unknown.
    """
    path = folder / "config.json"
    raw = _read_json(path)
    if raw.get("model_type") in ("llava_next", "llava_next_video"):
        return _llava_next_shape(raw, folder.name or str(folder), path)
    # A LongVA checkpoint keeps the decoder's keys at the top.
    hidden, heads = _whole(raw, "hidden_size", path), _whole(raw, "num_attention_heads", path)
    layers = _whole(raw, "num_hidden_layers", path)
    tower, tower_path = _tower(raw, folder)
    select_layer = int(raw.get("mm_vision_select_layer", -2))
    kept = _kept_layers(_whole(tower, "num_hidden_layers", tower_path), select_layer)
    return ModelShape(
        name=folder.name or str(folder),
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or hidden // heads),
        intermediate_size=_whole(raw, "intermediate_size", path),
        vocab_size=_whole(raw, "vocab_size", path),
        tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
        vision_hidden_size=_whole(tower, "hidden_size", tower_path),
        vision_intermediate_size=_whole(tower, "intermediate_size", tower_path),
        vision_layers=kept,
        image_size=_whole(tower, "image_size", tower_path),
        patch_size=_whole(tower, "patch_size", tower_path),
        pool_stride=int(raw.get("mm_spatial_pool_stride") or 2),
    )


def _kept_layers(num_layers: int, select_layer: int) -> int:
    """As in longva_eval.model.checkpoint: hidden_states has the embeddings first."""
    return select_layer if select_layer >= 0 else num_layers + 1 + select_layer


_LANGUAGE_DEFAULTS: dict[str, dict[str, int]] = {
    # transformers' configuration classes; files leave out what equals them.
    "llama": {"intermediate_size": 11008, "num_key_value_heads": 0, "vocab_size": 32000},
    "mistral": {"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 32000},
    "qwen2": {"intermediate_size": 22016, "num_key_value_heads": 32, "vocab_size": 151936},
}
_COMMON_DEFAULTS = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}


def _llava_next_shape(raw: Mapping[str, Any], name: str, path: Path) -> ModelShape:
    """The shape of a LLaVA-NeXT, whose two parts have settings of their own."""
    text, tower = raw.get("text_config"), raw.get("vision_config")
    if not isinstance(text, dict) or not isinstance(tower, dict):
        raise CheckpointError(f"{path} lacks text_config or vision_config.")
    kind = text.get("model_type")
    if kind not in _LANGUAGE_DEFAULTS:
        raise CheckpointError(
            f"{path} has the language model {kind!r}; {', '.join(_LANGUAGE_DEFAULTS)} are known."
        )
    text = {**_COMMON_DEFAULTS, **_LANGUAGE_DEFAULTS[kind], **text}
    hidden, heads = _whole(text, "hidden_size", path), _whole(text, "num_attention_heads", path)
    layers = _whole(tower, "num_hidden_layers", path)
    return ModelShape(
        name=name,
        hidden_size=hidden,
        num_layers=_whole(text, "num_hidden_layers", path),
        num_heads=heads,
        num_kv_heads=int(text["num_key_value_heads"] or heads),
        head_dim=int(text.get("head_dim") or hidden // heads),
        intermediate_size=_whole(text, "intermediate_size", path),
        vocab_size=_whole(text, "vocab_size", path),
        tied_embeddings=bool(text.get("tie_word_embeddings", False)),
        attention_bias=kind == "qwen2" or bool(text.get("attention_bias", False)),
        vision_hidden_size=_whole(tower, "hidden_size", path),
        vision_intermediate_size=_whole(tower, "intermediate_size", path),
        vision_layers=_kept_layers(layers, int(raw.get("vision_feature_layer", -2))),
        image_size=_whole(tower, "image_size", path),
        patch_size=_whole(tower, "patch_size", path),
        pool_stride=int(raw.get("spatial_pool_stride") or 2),
    )


_CLIP_LARGE = "openai/clip-vit-large-patch14-336"
_CLIP_LARGE_CONFIG = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "image_size": 336,
    "patch_size": 14,
}


def _tower(raw: Mapping[str, Any], folder: Path) -> tuple[Mapping[str, Any], Path]:
    """Architecture of the vision tower, and the file that says it."""
    name = str(raw.get("mm_vision_tower") or raw.get("vision_tower") or "")
    for candidate in (folder / name, Path(name)) if name else ():
        path = candidate / "config.json"
        if path.is_file():
            settings = _read_json(path)
            return settings.get("vision_config", settings), path
    if name == _CLIP_LARGE:
        return _CLIP_LARGE_CONFIG, folder / "config.json"
    raise CheckpointError(
        f"{folder / 'config.json'} names the vision tower {name!r}, which is neither a folder with "
        f"a config.json nor {_CLIP_LARGE}. Set mm_vision_tower to one of them."
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not settings by name.")
    return content


def _whole(settings: Mapping[str, Any], key: str, path: Path) -> int:
    value = settings.get(key)
    if not isinstance(value, int):
        raise CheckpointError(f"{path} has {key}={value!r}; a whole number is needed.")
    return value


def _bytes_per_number(dtype: PlanDType) -> int:
    if dtype not in _BYTES_PER_NUMBER:
        raise SettingsError(f"dtype={dtype!r} is unknown; use {', '.join(get_args(PlanDType))}.")
    return _BYTES_PER_NUMBER[dtype]


def _at_least_one(**numbers: int) -> None:
    wrong = [f"{name}={value}" for name, value in numbers.items() if value < 1]
    if wrong:
        raise SettingsError(f"{', '.join(wrong)} must be at least 1.")
