"""The vision tower: contrastive training with captions, then a first alignment of the projector.

The first alignment plays the part of LLaVA's projector pre-training. The four visual tokens of a
picture are trained to be the four words of its caption in the language model's own embeddings, so
that what the model can do with text it can do with pictures.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the name everybody uses
from torch import Tensor, nn

from training.images import Pictures, normalize
from training.model import Projector, VisionTower, pool_patches
from training.progress import Progress
from training.textstage import learning_rate

__all__ = [
    "CaptionAccuracy",
    "cached_features",
    "caption_accuracy",
    "train_captions",
    "train_clip",
    "visual_tokens",
]


class CaptionAccuracy(NamedTuple):
    """Share of the visual tokens whose nearest word embedding is the caption's word."""

    noun: float
    color: float
    number: float
    explained: float
    """Share of the variance of the caption's embeddings that the visual tokens explain."""


def visual_tokens(projector: nn.Module, features: Tensor) -> Tensor:
    """Project patch features, then pool them, in LongVA's order.

    Args:
        projector: From vision features to word embeddings.
        features: (count, patches, vision_size).

    Returns:
        (count, patches / 4, text_size).
    """
    return pool_patches(projector(features))


def _shifted(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move the pictures of a batch by up to two pixels, repeating their edges."""
    dx, dy = rng.integers(-2, 3, 2)
    side = pixels.shape[1]
    rows = np.clip(np.arange(side) + dy, 0, side - 1)
    columns = np.clip(np.arange(side) + dx, 0, side - 1)
    return pixels[:, rows][:, :, columns]


def train_clip(
    tower: VisionTower, pictures: Pictures, *, vocab_size: int, steps: int, seed: int
) -> None:
    """Contrastive training against bags of caption words, in place.

    In most batches the captions lose words (shape only, colour only, ...): otherwise colour and
    number alone tell the pictures of a batch apart and shapes are learned slowly.

    Args:
        tower: Vision tower.
        pictures: Training pictures.
        vocab_size: Number of words.
        steps: Training steps.
        seed: Seed of the batches and of the text side's weights.
    """
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    size = tower.config.hidden_size
    words = nn.Embedding(vocab_size, size)
    head = nn.Linear(size, size, bias=False)
    for weight in (words.weight, head.weight):
        nn.init.normal_(weight, std=size**-0.5, generator=generator)
    scale = nn.Parameter(torch.tensor(2.6))
    parameters = [*tower.parameters(), *words.parameters(), *head.parameters(), scale]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    progress = Progress("clip", steps)
    batch = 160
    for step in range(steps):
        rate = learning_rate(step, peak=2e-3, steps=steps, warmup=60, decay_from=0.3)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = rng.choice(len(pictures.pixels), batch, replace=False)
        draw = rng.random()
        kept = [0] if draw < 0.55 else [1] if draw < 0.62 else [2] if draw < 0.69 else [0, 1, 2]
        captions = pictures.captions[chosen][:, kept]
        image = F.normalize(
            head(tower.pooled(normalize(_shifted(pictures.pixels[chosen], rng)))), dim=-1
        )
        unique, inverse = np.unique(captions, axis=0, return_inverse=True)
        text = F.normalize(words(torch.from_numpy(unique)).sum(1), dim=-1)
        logits = image @ text.T * scale.exp().clamp(max=100)
        target = torch.from_numpy(inverse.reshape(-1))
        # Pictures with the same words are all positives of their caption.
        share = F.one_hot(target, len(unique)).float()
        share = share / share.sum(0, keepdim=True)
        by_text = -(share * logits.log_softmax(0)).sum(0).mean()
        loss = 0.5 * (F.cross_entropy(logits, target) + by_text)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # not typed by torch
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        accuracy = (logits.argmax(-1) == target).float().mean().item()
        progress.update(step + 1, loss=loss.item(), accuracy=accuracy)
    progress.close()


def train_captions(
    tower: VisionTower,
    projector: Projector,
    embeddings: Tensor,
    pictures: Pictures,
    *,
    steps: int,
    seed: int,
) -> None:
    """Teach the visual tokens to be the caption's word embeddings, in place.

    Args:
        tower: Vision tower, tuned as in LongVA.
        projector: From vision features to word embeddings.
        embeddings: (vocab_size, text_size) word embeddings of the language model, not changed.
        pictures: Training pictures.
        steps: Training steps.
        seed: Seed of the batches.
    """
    rng = np.random.default_rng(seed)
    embeddings = embeddings.detach()
    parameters = [*tower.parameters(), *projector.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": list(tower.parameters()), "peak": 1.5e-3},
            {"params": list(projector.parameters()), "peak": 3e-3},
        ],
        lr=1e-3,
        betas=(0.9, 0.98),
        weight_decay=0.02,
    )
    variance = embeddings[torch.from_numpy(np.unique(pictures.captions))].var().item()
    progress = Progress("captions", steps)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                step, peak=group["peak"], steps=steps, warmup=60, decay_from=0.2
            )
        chosen = rng.choice(len(pictures.pixels), 96, replace=False)
        pixels = normalize(_shifted(pictures.pixels[chosen], rng))
        tokens = visual_tokens(projector, tower.patch_features(pixels))
        words = torch.from_numpy(pictures.captions[chosen])
        error = F.mse_loss(tokens, embeddings[words]) / variance
        # The same distances as a choice among all words: it keeps pressing on the mistakes when
        # the mean error is small.
        distances = torch.cdist(tokens.flatten(0, 1), embeddings).square() / variance
        choice = F.cross_entropy(-distances / 16, words.flatten())
        loss = error + choice
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # not typed by torch
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress.update(step + 1, error=error.item(), choice=choice.item())
    progress.close()


def cached_features(tower: VisionTower, pictures: Pictures) -> Tensor:
    """Patch features of all pictures, (count, patches, vision_size)."""
    with torch.no_grad():
        return torch.cat(
            [
                tower.patch_features(normalize(pictures.pixels[start : start + 512]))
                for start in range(0, len(pictures.pixels), 512)
            ]
        )


def caption_accuracy(
    tower: VisionTower, projector: Projector, embeddings: Tensor, pictures: Pictures
) -> CaptionAccuracy:
    """How well visual tokens read as captions, on pictures with a locator."""
    with torch.no_grad():
        tokens = visual_tokens(projector, cached_features(tower, pictures))
        words = torch.from_numpy(pictures.captions)
        nearest = torch.cdist(tokens.flatten(0, 1), embeddings).argmin(-1).view(words.shape)
        right = (nearest == words).float().mean(0)
        wanted = embeddings[words]
        residual = (tokens - wanted).square().mean() / wanted.var()
    noun, color, number = (float(value) for value in right[:3])
    return CaptionAccuracy(noun, color, number, 1 - float(residual))
