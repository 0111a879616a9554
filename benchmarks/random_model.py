"""LongVA with random weights at any shape: costs do not depend on the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPVisionConfig, GenerationConfig

from longva_eval.engine.encoder import VisualEncoder
from longva_eval.engine.prefix import PrefixEngine
from longva_eval.engine.session import Session
from longva_eval.engine.vision import ClipVision
from longva_eval.model.attention import SPLIT_SDPA, registered_name
from longva_eval.model.checkpoint import ClipCheckpoint, Origin
from longva_eval.model.config_files import KNOWN_TOWERS
from longva_eval.model.modeling import LongVAConfig, LongVAForCausalLM
from longva_eval.prompts.pieces import QWEN_1_5

__all__ = [
    "BODY_30M",
    "BODY_106M",
    "BODY_TINY",
    "LONGVA_7B",
    "TOWER_336",
    "TOWER_TINY",
    "random_session",
]

TOKENIZER = Path(__file__).parent.parent / "tests" / "data" / "golden_open" / "longva_tiny"

LONGVA_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
}  # fmt: skip
BODY_106M = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 7,
    "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 1024,
}  # fmt: skip
BODY_30M = {
    "hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 5,
    "num_attention_heads": 10, "num_key_value_heads": 2, "vocab_size": 1024,
}  # fmt: skip
BODY_TINY = {
    "hidden_size": 448, "intermediate_size": 1024, "num_hidden_layers": 2,
    "num_attention_heads": 7, "num_key_value_heads": 1, "vocab_size": 2048,
}  # fmt: skip
"""LongVA-7B's head size and groups."""
TOWER_336 = KNOWN_TOWERS["openai/clip-vit-large-patch14-336"]
TOWER_TINY = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
    "image_size": 336, "patch_size": 14, "hidden_act": "quick_gelu", "projection_dim": 24,
}  # fmt: skip


def random_session(
    body: dict[str, Any],
    *,
    tower: dict[str, Any] = TOWER_TINY,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    chunk_tokens: int = 2048,
    reuse: bool = True,
    attention: str = SPLIT_SDPA,
    seed: int = 0,
) -> Session:
    """A session whose model has this shape and random weights.

    Args:
        body: Qwen2's sizes.
        tower: CLIP's sizes.
        device: Where.
        dtype: Of the weights.
        chunk_tokens: As in `open_session`.
        reuse: As in `open_session`.
        attention: Name that transformers knows.
        seed: Of the weights.
    """
    registered_name("sdpa")
    tower_config = CLIPVisionConfig(**tower)
    tower_config.num_hidden_layers -= 1  # hidden_states[-2]
    config = LongVAConfig(
        **body,
        max_position_embeddings=2_000_000,
        rope_parameters={"rope_type": "default", "rope_theta": 1e9},
        mm_patch_merge_type="unires",
        mm_spatial_pool_mode="average",
        mm_spatial_pool_stride=2,
        image_aspect_ratio="anyres",
        image_grid_pinpoints=[[336, 672], [672, 336], [672, 672]],
        vision_config=tower_config,
    )
    config._attn_implementation = attention
    assert isinstance(config.vision_config, CLIPVisionConfig)
    config.vision_config._attn_implementation = "sdpa"
    torch.manual_seed(seed)
    with torch.device("meta"):
        model = LongVAForCausalLM._from_config(config, dtype=dtype)
    model.to_empty(device=device)
    model.init_weights()  # also restores inv_freq and the position ids of the tower
    model.eval().requires_grad_(False)
    size = tower["image_size"]
    checkpoint = ClipCheckpoint(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(TOKENIZER, config=config, local_files_only=True),
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        ),
        generation_config=GenerationConfig(),
        origin=Origin(folder=TOKENIZER, source="random", revision=None, fingerprint="random"),
        own_rope_parameters=dict(config.rope_parameters),
    )
    vision = ClipVision(model=model, image_processor=checkpoint.image_processor)
    encoder = VisualEncoder(vision, device=checkpoint.device)
    return Session(
        checkpoint=checkpoint,
        template=QWEN_1_5,
        vision=vision,
        context_length=2_000_000,
        encoder=encoder,
        engine=PrefixEngine(model, encoder, chunk_tokens=chunk_tokens, reuse=reuse),
    )
