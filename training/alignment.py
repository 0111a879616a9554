"""Alignment on single UniRes pictures: questions about the grids of one big still picture.

As in LongVA, no video is used. A picture of G grids gives 4 G visual tokens; a few of its grids
show a locator and are asked about. The vision tower is frozen here, the projector and the
language model learn.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from training.images import Pictures
from training.model import Projector, TextModel
from training.progress import Progress
from training.textdata import (
    Document,
    Fact,
    append_questions,
    make_questions,
)
from training.textstage import answer_loss, collate, learning_rate
from training.vision import visual_tokens
from training.vocabulary import CHATML_START, encode, token_id

__all__ = ["AlignmentStage", "align", "alignment_stages"]

TOKENS_PER_GRID = 4
_SYSTEM = encode(CHATML_START)
_PLACEHOLDER = token_id("<unk>")


@dataclass(frozen=True, kw_only=True)
class AlignmentStage:
    """One step of the alignment."""

    num_grids: int
    """Grids of a picture, at most; a picture has at least half as many."""
    num_questions: int
    """Locators, each asked about once."""
    batch: int
    """Pictures per step."""
    max_steps: int
    """Steps at most."""
    threshold: float = 2.0
    """Moving average of accuracy that ends the stage."""
    decay_from: float = 1.0
    """Fraction of the steps after which the rates fall linearly to 0."""


def alignment_stages() -> list[AlignmentStage]:
    """From four grids to LongVA's largest picture, 49."""
    return [
        AlignmentStage(num_grids=4, num_questions=3, batch=24, max_steps=300, threshold=0.95),
        AlignmentStage(num_grids=14, num_questions=4, batch=14, max_steps=300, threshold=0.95),
        AlignmentStage(num_grids=49, num_questions=4, batch=12, max_steps=150, decay_from=0.3),
    ]


class _Sampler:
    """Puts together pictures of many grids from the pool."""

    def __init__(self, pictures: Pictures, rng: random.Random) -> None:
        self.rng = rng
        self.captions = pictures.captions
        self.others = np.flatnonzero(~pictures.is_locator).tolist()
        nouns = pictures.captions[:, 0]
        self.by_noun = {
            int(noun): np.flatnonzero(nouns == noun).tolist()
            for noun in np.unique(nouns[pictures.is_locator])
        }

    def grids(self, num_grids: int, num_locators: int) -> tuple[list[int], list[Fact]]:
        """Pool indices of a picture's grids, and what its locators show."""
        rng = self.rng
        nouns = rng.sample(sorted(self.by_noun), num_locators)
        chosen = [rng.choice(self.by_noun[noun]) for noun in nouns]
        facts = [Fact(*(int(word) for word in self.captions[index][:3])) for index in chosen]
        runs = [[index] * (1 if rng.random() < 0.7 else rng.randint(2, 4)) for index in chosen]
        spare = num_grids - sum(map(len, runs))
        while spare < 0:
            longest = max(runs, key=len)
            longest.pop()
            spare += 1
        others = rng.choices(self.others, k=spare)
        grids = list(others)
        places = sorted((rng.randint(0, len(others)) for _ in runs), reverse=True)
        for place, run in zip(places, runs, strict=True):
            grids[place:place] = run
        return grids, facts


def align(
    model: TextModel,
    projector: Projector,
    features: Tensor,
    pictures: Pictures,
    stages: list[AlignmentStage],
    *,
    name: str,
    max_tokens: int,
    seed: int,
) -> None:
    """Teach the projector and the language model to answer from pictures, in place.

    Args:
        model: Language model; trained at a low rate, so that its long context survives.
        projector: From vision features to word embeddings.
        features: (count, patches, vision_size) of all pictures, from the frozen tower.
        pictures: Where the grids come from.
        stages: What to do.
        name: Shown in the log.
        max_tokens: Longest sequence; questions that do not fit are left out.
        seed: Seed of the data.
    """
    rng = random.Random(f"alignment-{seed}")
    sampler = _Sampler(pictures, rng)
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(projector.parameters()), "peak": 7e-4},
            {"params": list(model.parameters()), "peak": 1.5e-4},
        ],
        lr=1e-4,
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    for stage in stages:
        average = corrected = 0.0
        progress = Progress(f"{name}-{stage.num_grids}", stage.max_steps)
        for step in range(stage.max_steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step,
                    peak=group["peak"],
                    steps=stage.max_steps,
                    warmup=20,
                    decay_from=stage.decay_from,
                )
            num_grids = rng.randint(max(stage.num_questions, stage.num_grids // 2), stage.num_grids)
            documents: list[Document] = []
            chosen: list[list[int]] = []
            for _ in range(stage.batch):
                grids, facts = sampler.grids(num_grids, stage.num_questions)
                chosen.append(grids)
                prefix = _SYSTEM + [_PLACEHOLDER] * (TOKENS_PER_GRID * num_grids)
                questions = make_questions(rng, facts, chat=True, choice_share=0.35)
                room = max_tokens - len(prefix)
                while len(questions) > 1 and sum(len(q.prompt) + 6 for q in questions) > room:
                    questions.pop()
                documents.append(append_questions(prefix, questions, chat=True))
            batch = collate(documents)
            index = torch.tensor(chosen)
            unique, inverse = torch.unique(index, return_inverse=True)
            tokens = visual_tokens(projector, features[unique])[inverse]
            # (batch, num_grids, 4, text_size) -> (batch, 4 num_grids, text_size)
            visual = tokens.flatten(1, 2)
            words = model.embed_tokens(batch.ids)
            start = len(_SYSTEM)
            embeddings = torch.cat(
                (words[:, :start], visual, words[:, start + visual.shape[1] :]), dim=1
            )
            loss, accuracy = answer_loss(model(embeddings, batch.positions), batch.targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # not typed by torch
            nn.utils.clip_grad_norm_([*model.parameters(), *projector.parameters()], 1.0)
            optimizer.step()
            average = 0.97 * average + 0.03 * accuracy
            corrected = average / (1 - 0.97 ** (step + 1))
            progress.update(step + 1, loss=loss.item(), accuracy=corrected)
            if step >= 30 and corrected > stage.threshold:
                break
        progress.close(accuracy=corrected)
