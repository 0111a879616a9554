"""The language model and the vision tower, with the names of transformers' modules.

Both compute what `Qwen2ForCausalLM` and `CLIPVisionModel` compute (a test compares the logits),
with two differences that make training on a CPU affordable: the language model evaluates its last
layer only at the positions whose next token is wanted, and the vision tower stops at the layer
whose output LongVA reads.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  the name everybody uses
from torch import Tensor, nn

__all__ = [
    "Layer",
    "Projector",
    "TextConfig",
    "TextModel",
    "VisionConfig",
    "VisionTower",
    "pool_patches",
]


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Shape of the language model; the fields are named as in transformers' `Qwen2Config`."""

    vocab_size: int
    num_hidden_layers: int
    rope_theta: float
    hidden_size: int = 128
    intermediate_size: int = 256
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    rms_norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.num_attention_heads


class RMSNorm(nn.Module):
    """Root mean square norm."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Scale `x` to unit root mean square along its last axis."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


class _Attention(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        size, head = config.hidden_size, config.head_dim
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = head
        self.q_proj = nn.Linear(size, self.num_heads * head)
        self.k_proj = nn.Linear(size, self.num_kv_heads * head)
        self.v_proj = nn.Linear(size, self.num_kv_heads * head)
        self.o_proj = nn.Linear(self.num_heads * head, size, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, x_query: Tensor, positions: Tensor | None
    ) -> Tensor:
        batch, length, _ = x.shape
        queries = x_query.shape[1]
        q = self.q_proj(x_query).view(batch, queries, self.num_heads, self.head_dim)
        k = self.k_proj(x).view(batch, length, self.num_kv_heads, self.head_dim)
        v = self.v_proj(x).view(batch, length, self.num_kv_heads, self.head_dim)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        k = _rotate(k, cos, sin)
        groups = self.num_heads // self.num_kv_heads
        if positions is None:
            q = _rotate(q, cos, sin)
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            q = _rotate(q, cos[positions].unsqueeze(1), sin[positions].unsqueeze(1))
            visible = torch.arange(length)[None, None, :] <= positions[:, :, None]
            # Query heads that share a key head are folded into the query axis: no copies of K, V.
            q = q.reshape(batch, self.num_kv_heads, groups * queries, self.head_dim)
            scores = q @ k.transpose(2, 3) / self.head_dim**0.5
            mask = visible.repeat(1, groups, 1).unsqueeze(1)
            out = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v
            out = out.reshape(batch, self.num_heads, queries, self.head_dim)
        result: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, queries, -1))
        return result


class _Mlp(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """A decoder layer of Qwen2."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = _Mlp(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        normed = self.input_layernorm(x)
        if positions is None:
            kept, query = x, normed
        else:
            index = positions.unsqueeze(-1).expand(-1, -1, x.shape[-1])
            kept, query = x.gather(1, index), normed.gather(1, index)
        kept = kept + self.self_attn(normed, cos, sin, query, positions)
        out: Tensor = kept + self.mlp(self.post_attention_layernorm(kept))
        return out


class TextModel(nn.Module):
    """Qwen2 for sequences that start at position 0."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.rope_theta = config.rope_theta

    def init_weights(self, generator: torch.Generator) -> None:
        """Normal weights; embeddings large enough to stay visible beside attention's output."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = 0.4 if name.startswith("embed_tokens") else 0.04
                nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def rope(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the first positions, each (length, head_dim)."""
        head = self.config.head_dim
        powers = torch.arange(0, head, 2, dtype=torch.int64).float() / head
        angles = torch.arange(length).float()[:, None] * (1.0 / self.rope_theta**powers)[None, :]
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    def forward(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """Next-token logits where they are wanted.

        Args:
            embeddings: (batch, length, hidden_size) word embeddings or visual tokens.
            positions: (batch, n) int64, the positions to evaluate.

        Returns:
            (batch, n, vocab_size) logits.
        """
        cos, sin = self.rope(embeddings.shape[1])
        x = embeddings
        for layer in self.layers[:-1]:
            x = layer(x, cos, sin)
        logits: Tensor = self.lm_head(self.norm(self.layers[-1](x, cos, sin, positions)))
        return logits

    def with_extra_layer(self, generator: torch.Generator) -> "TextModel":
        """The same model with one more layer on top, which at first adds little."""
        values = {**vars(self.config), "num_hidden_layers": self.config.num_hidden_layers + 1}
        model = TextModel(TextConfig(**values))
        model.init_weights(generator)
        model.load_state_dict(self.state_dict(), strict=False)
        model.rope_theta = self.rope_theta
        layer = model.layers[-1]
        assert isinstance(layer, Layer)
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            nn.init.normal_(weight, std=0.01, generator=generator)
        return model


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Shape of the vision tower; the fields are named as in transformers' `CLIPVisionConfig`."""

    image_size: int = 48
    patch_size: int = 12
    hidden_size: int = 64
    intermediate_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    layer_norm_eps: float = 1e-5

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of a picture."""
        return self.image_size // self.patch_size


class _VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj, self.k_proj = nn.Linear(size, size), nn.Linear(size, size)
        self.v_proj, self.out_proj = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, size = x.shape
        q, k, v = (
            projection(x).view(batch, length, self.heads, -1).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.out_proj(out.transpose(1, 2).reshape(batch, length, size))
        return result


class _VisionMlp(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        result: Tensor = self.fc2(hidden * torch.sigmoid(1.702 * hidden))  # quick_gelu
        return result


class _VisionLayer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = _VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = _VisionMlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class _Embeddings(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(size))
        self.patch_embedding = nn.Conv2d(3, size, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding(config.patches_per_side**2 + 1, size)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        out: Tensor = torch.cat((first, patches), dim=1) + self.position_embedding.weight
        return out


class _Encoder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_VisionLayer(config) for _ in range(config.num_hidden_layers))


class VisionTower(nn.Module):
    """CLIP's vision transformer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        # transformers spells it this way.
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.encoder = _Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def init_weights(self, generator: torch.Generator) -> None:
        """Normal weights, scaled by fan-in."""
        for parameter in self.parameters():
            if parameter.ndim >= 2:
                std = (
                    0.02
                    if parameter.shape[0] == self.config.patches_per_side**2 + 1
                    else (parameter[0].numel() ** -0.5)
                )
                nn.init.normal_(parameter, std=std, generator=generator)
        nn.init.normal_(self.embeddings.class_embedding, std=0.02, generator=generator)

    def patch_features(self, pixels: Tensor) -> Tensor:
        """LongVA's features: second last layer, without the class token.

        Args:
            pixels: (batch, 3, image_size, image_size), normalised.

        Returns:
            (batch, patches_per_side**2, hidden_size).
        """
        x = self.pre_layrnorm(self.embeddings(pixels))
        for layer in self.encoder.layers[:-1]:
            x = layer(x)
        out: Tensor = x[:, 1:]
        return out

    def pooled(self, pixels: Tensor) -> Tensor:
        """CLIP's picture embedding: the class token after the last layer."""
        x = self.pre_layrnorm(self.embeddings(pixels))
        for layer in self.encoder.layers:
            x = layer(x)
        out: Tensor = self.post_layernorm(x[:, 0])
        return out


class Projector(nn.Sequential):
    """LongVA's `mlp2x_gelu`, from vision features to word embeddings."""

    def __init__(self, vision_size: int, text_size: int) -> None:
        super().__init__(
            nn.Linear(vision_size, text_size), nn.GELU(), nn.Linear(text_size, text_size)
        )


def pool_patches(tokens: Tensor, *, pool_stride: int = 2) -> Tensor:
    """Average-pool the patches of each picture over square windows.

    Args:
        tokens: (batch, patches_per_side**2, size).
        pool_stride: Window side, in patches.

    Returns:
        (batch, (patches_per_side // pool_stride)**2, size), row by row.
    """
    batch, count, size = tokens.shape
    side = round(count**0.5)
    grid = tokens.transpose(1, 2).reshape(batch, size, side, side)
    return F.avg_pool2d(grid, pool_stride).flatten(2).transpose(1, 2)
