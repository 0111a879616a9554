"""From a name and settings to a model that can be asked."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import torch
from loguru import logger

from longva_eval import __version__
from longva_eval.engine.control import Control
from longva_eval.engine.encoder import VisualEncoder
from longva_eval.engine.feature_cache import FeatureCache
from longva_eval.engine.generation import Thought
from longva_eval.engine.prefix import PrefixEngine
from longva_eval.engine.session import LongPromptPolicy, Session
from longva_eval.engine.vision import ClipVision, read_frame_pooling
from longva_eval.errors import SettingsError
from longva_eval.families.loading import load_checkpoint
from longva_eval.families.template import FamilyTemplate, Thinking
from longva_eval.families.vision import FamilyVision
from longva_eval.media.decode import DecodeBackend, read_frames
from longva_eval.media.decode_worker import DecodeWorkers
from longva_eval.media.frames import FramePolicy, Looks
from longva_eval.media.images import ImageAspectRatio, PatchMerge
from longva_eval.media.probe import probe_video
from longva_eval.model.attention import registered_name, try_backend
from longva_eval.model.backends import (
    OF_TRANSFORMERS,
    attention_candidates,
    chunk_numbers_per_token,
    installed_packages,
    resolve_chunk_tokens,
)
from longva_eval.model.checkpoint import Checkpoint, ClipCheckpoint
from longva_eval.model.modeling import PoolMode
from longva_eval.model.settings import LoadSettings, resolve_device, resolve_dtype
from longva_eval.prompts.pieces import load_template
from longva_eval.prompts.processor_template import load_processor_template

__all__ = ["SessionSettings", "attention_on", "open_session"]


@dataclass(frozen=True, kw_only=True)
class SessionSettings(LoadSettings):
    """How a checkpoint is loaded and asked; what is None comes from its `config.json`."""

    attn_implementation: str = "auto"
    """Of the language model: `auto`, one of `longva_eval.model.backends.BACKENDS`, or
    transformers' own `eager`, `flash_attention_2`, and `sdpa_masked`: its `sdpa` with its mask."""
    conv_template: str = "auto"
    """`auto` reads it from the tokenizer or processor; or a name."""
    frames: FramePolicy = field(default_factory=FramePolicy)
    """Which frames of a video."""
    backend: DecodeBackend = "auto"
    """What decodes videos."""
    positions: str = "own"
    """Where tokens stand: one of `longva_eval.model.positions.POSITION_POLICIES`."""
    kv_press: str = "none"
    """What is kept of a video: one of `longva_eval.engine.press.PRESSES`, and a fraction."""
    aspect: ImageAspectRatio | None = None
    """How pictures are encoded."""
    patch_merge: PatchMerge | None = None
    """How the tiles of a picture become tokens (`mm_patch_merge_type`)."""
    pool_stride: int | None = None
    """Pooling window of video frames, in patches."""
    pool_mode: PoolMode | None = None
    """How a window becomes one token."""
    frame_pooling: str = "same"
    """`same`, or `progressive:K:S` (`longva_eval.engine.vision.read_frame_pooling`)."""
    pool_after_projection: bool = False
    """Pool frames of LLaVA-NeXT-Video as LongVA's needle test did."""
    context_length: int | None = None
    """Longest prompt in tokens; `max_position_embeddings`, or with `long_prompt="original"`
    `tokenizer_model_max_length`, which is what the original cuts at."""
    long_prompt: LongPromptPolicy = "error"
    """What becomes of a prompt beyond that."""
    chunk_tokens: int | str = "auto"
    """Prefill goes in chunks of this many tokens; `auto` is 2,048 on a CPU, 8,192 on a GPU, and
    less where its memory is small."""
    reuse: bool = True
    """Whether prompts share what they have in common (same numbers, less work)."""
    branches: str | int = "auto"
    """Prompts of one beginning that are decoded side by side at most; `auto` is 8 in float32, where
    answers are those of one at a time, else 1."""
    vision_batch_size: int = 16
    """Frames that go through the vision tower at once."""
    feature_cache: str | Path | None = None
    """Folder where visual tokens are kept from run to run."""
    feature_cache_bytes: int = 50 << 30
    """Size that folder is kept below."""
    decode_process: bool = True
    """Decode in a process of its own, so that a decoder that hangs or crashes costs one video."""
    seed: int = 0
    """For tasks that sample, and for `control=shuffle`."""
    control: Control = "none"
    """What is taken away, for a floor (docs/controls.md)."""
    thinking: Thinking = "off"
    """Whether a model that can think before it answers does."""
    max_thinking_tokens: int = 16384
    """Tokens after which an unfinished thought is given up: there is no answer then."""
    own_frames: bool = False
    """Choose frames as the checkpoint's own processor would, instead of by `frames`."""
    size_for_frames: int | None = None
    """Make frames as large as the model's rule does for so many; for studies over their number."""

    def __post_init__(self) -> None:
        for name, value, kinds in (
            ("long_prompt", self.long_prompt, LongPromptPolicy),
            ("image_aspect_ratio", self.aspect, ImageAspectRatio),
            ("mm_patch_merge_type", self.patch_merge, PatchMerge),
            ("mm_spatial_pool_mode", self.pool_mode, PoolMode),
            ("video_decode_backend", self.backend, DecodeBackend),
            ("control", self.control, Control),
            ("thinking", self.thinking, Thinking),
        ):
            known = get_args(kinds)
            if value is not None and value not in known:
                raise SettingsError(f"{name}={value!r} is unknown; use {', '.join(known)}.")
        resolve_chunk_tokens(self.chunk_tokens, memory_bytes=None, bytes_per_token=0)
        for name, number in (
            ("mm_spatial_pool_stride", self.pool_stride),
            ("max_context_tokens", self.context_length),
            ("vision_batch_size", self.vision_batch_size),
            ("max_thinking_tokens", self.max_thinking_tokens),
            ("size_for_frames", self.size_for_frames),
        ):
            if number is not None and number < 1:
                raise SettingsError(f"{name}={number} must be at least 1.")

    def loading(self) -> LoadSettings:
        """The part that is about loading, with transformers' names."""
        values = {each.name: getattr(self, each.name) for each in fields(LoadSettings)}
        attention = self.attn_implementation
        if attention not in OF_TRANSFORMERS:
            attention = registered_name("sdpa")
        elif attention == "sdpa_masked":
            attention = "sdpa"
        return replace(LoadSettings(**values), attn_implementation=attention)

    def candidates(self, head_dim: int | None = None) -> list[str]:
        """Attention back ends that may serve on this machine, best first.

        Raises:
            SettingsError: If the one asked for is unknown or lacks something here.
        """
        device = resolve_device(self.device)
        dtype = resolve_dtype(self.dtype, device)
        return attention_on(device, self.attn_implementation, dtype, head_dim)


def attention_on(
    device: torch.device, asked: str, dtype: torch.dtype, head_dim: int | None = None
) -> list[str]:
    """`attention_candidates` of a device."""
    return attention_candidates(
        asked,
        capability=torch.cuda.get_device_capability(device) if device.type == "cuda" else None,
        packages=installed_packages(),
        dtype=str(dtype).removeprefix("torch."),
        head_dim=head_dim,
    )


def open_session(pretrained: str | Path, **settings: Any) -> Session:
    """Load a checkpoint and make it ready for prompts.

    Args:
        pretrained: A folder, a hub id such as `lmms-lab/LongVA-7B`, or an embedded checkpoint
            such as `longva-tiny`.
        **settings: Fields of `SessionSettings`.

    Raises:
        CheckpointError: If the checkpoint cannot be loaded.
        SettingsError: If a setting is unknown.
    """
    asked = SessionSettings(**settings)
    asked.candidates()  # before weights are read
    checkpoint = load_checkpoint(pretrained, asked.loading())
    attention = _choose_attention(checkpoint, asked)
    context_length = asked.context_length
    if context_length is None:
        own = None
        if asked.long_prompt == "original":
            own = getattr(checkpoint.config, "tokenizer_model_max_length", None)
        context_length = int(own or checkpoint.context_length)
    parts = (_clip_parts if isinstance(checkpoint, ClipCheckpoint) else _family_parts)(
        checkpoint, asked
    )
    vision = parts["vision"]
    cache, looks = None, Looks()
    if asked.feature_cache is not None:
        keep = functools.partial(
            FeatureCache, asked.feature_cache, max_bytes=asked.feature_cache_bytes
        )
        looks = Looks(keep(identity=f"{__version__}/looks/{asked.backend}").keep)
        identity = f"{__version__}/{checkpoint.vision_digest()}/{checkpoint.device.type}"
        cache = keep(identity=f"{identity}/{asked.backend}")
    encoder = VisualEncoder(
        vision, batch_size=asked.vision_batch_size, cache=cache, device=checkpoint.device
    )
    workers = DecodeWorkers()
    session = Session(
        checkpoint=checkpoint,
        **parts,
        frames=asked.frames,
        backend=asked.backend,
        context_length=context_length,
        long_prompt=asked.long_prompt,
        attention=attention,
        seed=asked.seed,
        branches=asked.branches,
        control=asked.control,
        probe=workers.probe_video if asked.decode_process else probe_video,
        read=workers.read_frames if asked.decode_process else read_frames,
        looks=looks,
        encoder=encoder,
        engine=PrefixEngine(
            checkpoint.model,
            encoder,
            chunk_tokens=_chunk_tokens(checkpoint, asked),
            reuse=asked.reuse,
        ),
    )
    session.change_attention(attention)
    session.change_positions(asked.positions)
    session.change_press(asked.kv_press)
    _ = session.selector  # one that cannot be loaded ends a run before it begins
    return session


def _choose_attention(checkpoint: Checkpoint, asked: SessionSettings) -> str:
    """The best back end that works on the model's device."""
    config, device = checkpoint.config, checkpoint.device
    if asked.attn_implementation in OF_TRANSFORMERS:
        return asked.attn_implementation
    head_dim = int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    for name in asked.candidates(head_dim):
        problem = ""
        if name != "sdpa":
            problem = try_backend(name, device, checkpoint.model.dtype, head_dim)
        if not problem:
            return name
        if asked.attn_implementation == name:
            raise SettingsError(f"attn_implementation={name} does not work here: {problem}.")
        logger.warning("The attention back end {} is left out: {}.", name, problem)
    raise AssertionError("sdpa is everywhere")


def _chunk_tokens(checkpoint: Checkpoint, asked: SessionSettings) -> int:
    config, device, memory = checkpoint.config, checkpoint.device, None
    weights = list(checkpoint.model.parameters())
    if device.type == "cuda":
        held = sum(each.numel() * each.element_size() for each in weights if each.device == device)
        memory = torch.cuda.get_device_properties(device).total_memory - held
    width = chunk_numbers_per_token(
        intermediate_size=int(config.intermediate_size), hidden_size=int(config.hidden_size)
    )
    return resolve_chunk_tokens(
        asked.chunk_tokens, memory_bytes=memory, bytes_per_token=width * weights[0].element_size()
    )


def _clip_parts(checkpoint: Any, asked: SessionSettings) -> dict[str, Any]:
    """How LongVA and LLaVA-NeXT see, and are asked: fields of `Session`."""
    _change_model(checkpoint, asked)
    for name in ("thinking", "own_frames", "size_for_frames"):
        if getattr(asked, name) != getattr(SessionSettings, name):
            raise SettingsError(f"{name} has no meaning for {checkpoint.architecture}.")
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    media_tokens = checkpoint.media_tokens
    return {
        "vision": ClipVision(
            model=checkpoint.model,
            image_processor=checkpoint.image_processor,
            aspect=asked.aspect or config.image_aspect_ratio,
            pool_stride=asked.pool_stride or int(config.mm_spatial_pool_stride),
            pool_mode=asked.pool_mode or config.mm_spatial_pool_mode,
            progressive=read_frame_pooling(asked.frame_pooling, checkpoint.model.patches_per_side),
        ),
        "template": load_template(asked.conv_template, tokenizer)
        if media_tokens is None
        else load_processor_template(asked.conv_template, tokenizer, media_tokens),
    }


def _family_parts(checkpoint: Any, asked: SessionSettings) -> dict[str, Any]:
    """How a family of transformers sees, and is asked: fields of `Session`."""
    for name, argument in (
        ("conv_template", "conv_template"),
        ("aspect", "image_aspect_ratio"),
        ("patch_merge", "mm_patch_merge_type"),
        ("pool_stride", "mm_spatial_pool_stride"),
        ("pool_mode", "mm_spatial_pool_mode"),
        ("frame_pooling", "frame_pooling"),
        ("pool_after_projection", "pool_after_projection"),
        ("long_prompt", "long_prompt"),
    ):
        value = getattr(asked, name)
        if value != getattr(SessionSettings, name):
            raise SettingsError(
                f"{argument}={value} has no meaning for {checkpoint.architecture}: its own "
                "processor prepares pictures and writes the prompt, whole."
            )
    family = checkpoint.family
    template = FamilyTemplate(family=family, thinking=asked.thinking)
    thought = None
    if asked.thinking == "on":
        start_id, end_id = checkpoint.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
        thought = Thought(
            start_id=start_id,
            end_id=end_id,
            is_open=template.is_open,
            max_tokens=asked.max_thinking_tokens,
        )
    choose = functools.partial(family.own_frames, policy=asked.frames)
    return {
        "vision": FamilyVision(
            family=family, size_for_frames=asked.size_for_frames, own_frames=asked.own_frames
        ),
        "template": template,
        "thought": thought,
        "model_frames": choose if asked.own_frames else None,
    }


def _change_model(checkpoint: ClipCheckpoint, asked: SessionSettings) -> None:
    """Settings of the model that differ from its `config.json`."""
    if asked.patch_merge is not None:
        if checkpoint.media_tokens is not None and asked.patch_merge != "spatial_unpad":
            raise SettingsError(
                f"mm_patch_merge_type={asked.patch_merge} belongs to LongVA; "
                f"{checkpoint.architecture} has spatial_unpad, which is AnyRes."
            )
        checkpoint.config.mm_patch_merge_type = asked.patch_merge
    if asked.pool_after_projection:
        if not checkpoint.model.pools_before_projection:
            raise SettingsError(
                f"pool_after_projection has no effect on {checkpoint.architecture}, which always "
                "does that."
            )
        checkpoint.model.pools_before_projection = False
