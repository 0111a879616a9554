"""Sizes of a model, read from its configuration; weights are not read.

No torch, unless it is of a family of transformers: then its own class and processor are asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longva_eval.errors import CheckpointError
from longva_eval.model.config_files import kept_tower_layers, read_json, read_tower

__all__ = ["DEFAULT_FRAME_SIZE", "LONGVA_7B", "LlavaShape", "ModelShape", "read_model_shape"]

DEFAULT_FRAME_SIZE = (1280, 720)
"""Of a video that is not known, width and height in pixels."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What the cost of a model follows from."""

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
    def frames_per_unit(self) -> int:
        """Frames that are encoded together."""
        return 1

    @property
    def matrix_parameters(self) -> int:
        """Parameters of the decoder's layers that a token is multiplied with."""
        raise NotImplementedError

    @property
    def language_parameters(self) -> int:
        """Parameters of the decoder with embeddings."""
        raise NotImplementedError

    @property
    def vision_parameters(self) -> int:
        """Parameters of what makes visual tokens."""
        raise NotImplementedError

    def video_tokens(self, num_frames: int, *, composed: bool = False) -> int:
        """Tokens of a video in a prompt, with what is written about its frames.

        Args:
            num_frames: Of the prompt.
            composed: Whether it is a needle test's, whose frames are squares.
        """
        raise NotImplementedError

    def vision_flops(self, num_frames: int, *, composed: bool = False) -> int:
        """FLOPs of encoding these frames."""
        raise NotImplementedError

    @property
    def picture_frames(self) -> int:
        """How many frames a large picture costs as much as."""
        raise NotImplementedError

    def frames_text(self, num_frames: int, *, composed: bool = False) -> str:
        """So many frames and their tokens, in words."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LlavaShape(ModelShape):
    """Sizes of a LongVA: Qwen2 decoder, CLIP tower up to the layer that is read, projector.

    Or of a LLaVA-NeXT, whose decoder is Llama's, Mistral's or Qwen2's.
    """

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
    def matrix_parameters(self) -> int:
        return self.num_layers * self.layer_parameters

    @property
    def language_parameters(self) -> int:
        """7.616 G for Qwen2-7B."""
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

    def video_tokens(self, num_frames: int, *, composed: bool = False) -> int:
        del composed
        return num_frames * self.tokens_per_frame

    def vision_flops(self, num_frames: int, *, composed: bool = False) -> int:
        """FLOPs of the tower up to the selected layer, and of the projector.

        A layer costs 2 per parameter and patch, and 4 `hidden_size` N^2 of attention that is not
        causal. LongVA-7B: 0.385 TFLOP a frame, of which the projector (before pooling) 0.019.
        """
        del composed
        width, patches = self.vision_hidden_size, self.patches_per_side**2
        tokens = patches + 1  # the class token
        layer = 2 * tokens * (4 * width**2 + 2 * width * self.vision_intermediate_size)
        layer += 4 * width * tokens**2
        embedding = 2 * patches * 3 * self.patch_size**2 * width
        projector = 2 * patches * (width * self.hidden_size + self.hidden_size**2)
        return num_frames * (embedding + self.vision_layers * layer + projector)

    @property
    def picture_frames(self) -> int:
        """Tiles at most: LongVA-7B's `image_grid_pinpoints` allow the whole and 6 x 6 parts."""
        return 37

    def frames_text(self, num_frames: int, *, composed: bool = False) -> str:
        del composed
        return f"{num_frames:,} frames x {self.tokens_per_frame}"


LONGVA_7B = LlavaShape(
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


def read_model_shape(
    folder: Path, *, frame_size: tuple[int, int] = DEFAULT_FRAME_SIZE
) -> ModelShape:
    """The shape of a checkpoint, from its `config.json` and, for LongVA, its tower's.

    Weights are not read, and need not be there. A tower that is named and not a folder must be
    CLIP ViT-L/14-336. LLaVA-NeXT and LLaVA-NeXT-Video are read in transformers' layout. Families
    of transformers need their processor's files too.

    Args:
        folder: Of the checkpoint.
        frame_size: Width and height of videos, for families whose frames keep it.

    Raises:
        CheckpointError: If a file is missing or is not JSON, a key is missing, or the tower is
            unknown.
    """
    path = folder / "config.json"
    raw = read_json(path)
    if "vision_config" in raw and raw.get("model_type") not in _LLAVA_NEXT:
        from longva_eval.studies.family_shape import read_family_shape  # imports torch

        return read_family_shape(folder, raw, frame_size)
    if raw.get("model_type") in _LLAVA_NEXT:
        return _llava_next_shape(raw, folder.name or str(folder), path)
    # A LongVA checkpoint keeps the decoder's keys at the top.
    hidden, heads = _whole(raw, "hidden_size", path), _whole(raw, "num_attention_heads", path)
    layers = _whole(raw, "num_hidden_layers", path)
    tower, tower_folder = read_tower(raw, folder)
    tower_path = (tower_folder or folder) / "config.json"
    return LlavaShape(
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
        vision_layers=kept_tower_layers(
            _whole(tower, "num_hidden_layers", tower_path),
            int(raw.get("mm_vision_select_layer", -2)),
            name="mm_vision_select_layer",
        ),
        image_size=_whole(tower, "image_size", tower_path),
        patch_size=_whole(tower, "patch_size", tower_path),
        pool_stride=int(raw.get("mm_spatial_pool_stride") or 2),
    )


_LLAVA_NEXT = ("llava_next", "llava_next_video")
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
    return LlavaShape(
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
        vision_layers=kept_tower_layers(
            _whole(tower, "num_hidden_layers", path),
            int(raw.get("vision_feature_layer", -2)),
            name="vision_feature_layer",
        ),
        image_size=_whole(tower, "image_size", path),
        patch_size=_whole(tower, "patch_size", path),
        pool_stride=int(raw.get("spatial_pool_stride") or 2),
    )


def _whole(settings: Mapping[str, Any], key: str, path: Path) -> int:
    value = settings.get(key)
    if not isinstance(value, int):
        raise CheckpointError(f"{path} has {key}={value!r}; a whole number is needed.")
    return value
