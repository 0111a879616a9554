"""Training of the language model on text: the short one, then its context extended.

Retrieval appears only when the first tasks are small: two pairs, then four, then eight, then
documents that double in length. Each stage ends when a moving average of its accuracy passes a
threshold.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the name everybody uses
from torch import Tensor

from training.model import TextModel
from training.progress import Progress
from training.textdata import Document, make_document, make_pairs
from training.vocabulary import NOUNS, token_id

__all__ = [
    "Stage",
    "collate",
    "document_stage",
    "long_stages",
    "pair_stages",
    "run_stage",
    "short_stages",
    "text_accuracy",
]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a curriculum."""

    name: str
    """Shown in the log, and the name of the checkpoint."""
    make: Callable[[random.Random], Document]
    """Makes one sequence."""
    batch: int
    """Sequences per step."""
    learning_rate: float
    """Rate after the warm-up."""
    max_steps: int
    """Steps at most."""
    threshold: float = 2.0
    """Moving average of accuracy that ends the stage; above 1 runs all steps."""
    decay_from: float = 1.0
    """Fraction of the steps after which the rate falls linearly to 0."""
    warmup: int = 20
    """Steps until the full rate."""
    noise: float = 0.0
    """Largest standard deviation of the noise added to embeddings."""
    min_steps: int = 30
    """Steps at least."""


class Batch:
    """Sequences of one length with the positions to learn."""

    def __init__(self, documents: Sequence[Document]) -> None:
        length = max(len(document.ids) for document in documents)
        count = max(len(document.positions) for document in documents)
        ids = np.full((len(documents), length), token_id("<|endoftext|>"))
        positions = np.zeros((len(documents), count), dtype=np.int64)
        targets = np.full((len(documents), count), -100)
        for row, document in enumerate(documents):
            ids[row, : len(document.ids)] = document.ids
            positions[row, : len(document.positions)] = document.positions
            targets[row, : len(document.positions)] = document.targets()
        self.ids = torch.from_numpy(ids)
        """(batch, length) token ids."""
        self.positions = torch.from_numpy(positions)
        """(batch, n) where the next token is learned."""
        self.targets = torch.from_numpy(targets)
        """(batch, n) the tokens to learn; -100 where there is none."""


def collate(documents: Sequence[Document]) -> Batch:
    """Put documents of different lengths into one batch, padded at the end."""
    return Batch(documents)


def _optimizer(model: TextModel, rate: float) -> torch.optim.AdamW:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.05},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=rate,
        betas=(0.9, 0.98),
    )


def learning_rate(step: int, *, peak: float, steps: int, warmup: int, decay_from: float) -> float:
    """Warm up, hold, and fall linearly to 0."""
    rate = peak * min(1.0, (step + 1) / max(warmup, 1))
    start = decay_from * steps
    if step >= start:
        rate *= max(0.0, (steps - step) / max(steps - start, 1e-9))
    return rate


def answer_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Mean cross-entropy over the answers, and their accuracy."""
    kept = targets >= 0
    loss = F.cross_entropy(logits[kept], targets[kept])
    accuracy = (logits[kept].argmax(-1) == targets[kept]).float().mean().item()
    return loss, accuracy


def run_stage(model: TextModel, stage: Stage, *, seed: int) -> float:
    """Train through one stage, in place.

    Args:
        model: The language model.
        stage: What to do.
        seed: Seed of the data and of the noise.

    Returns:
        Moving average of the accuracy at the end.
    """
    rng = random.Random(f"{stage.name}-{seed}")
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    optimizer = _optimizer(model, stage.learning_rate)
    average = corrected = 0.0
    progress = Progress(stage.name, stage.max_steps)
    model.train()
    for step in range(stage.max_steps):
        batch = collate([stage.make(rng) for _ in range(stage.batch)])
        rate = learning_rate(
            step,
            peak=stage.learning_rate,
            steps=stage.max_steps,
            warmup=stage.warmup,
            decay_from=stage.decay_from,
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        embeddings = model.embed_tokens(batch.ids)
        if stage.noise:
            scale = stage.noise * torch.rand(len(batch.ids), 1, 1, generator=generator)
            embeddings = embeddings + scale * torch.randn(embeddings.shape, generator=generator)
        loss, accuracy = answer_loss(model(embeddings, batch.positions), batch.targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # not typed by torch
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average = 0.97 * average + 0.03 * accuracy
        corrected = average / (1 - 0.97 ** (step + 1))
        progress.update(step + 1, loss=loss.item(), accuracy=corrected)
        if step + 1 >= stage.min_steps and corrected > stage.threshold:
            break
    progress.close(accuracy=corrected)
    return corrected


def pair_stages() -> list[Stage]:
    """Key-value pairs, the seed of retrieval.

    The first keys are ten nouns, then forty, then all: with all from the start, most seeds stay
    at the accuracy of guessing.
    """
    stages = []
    for num_pairs, max_gap, num_nouns, batch in (
        (2, 0, 10, 64),
        (2, 0, 40, 64),
        (2, 0, None, 64),
        (4, 0, None, 64),
        (8, 0, None, 48),
        (2, 1, None, 64),
        (4, 1, None, 48),
        (4, 3, None, 48),
        (8, 6, None, 40),
    ):

        def make(
            rng: random.Random,
            num_pairs: int = num_pairs,
            max_gap: int = max_gap,
            num_nouns: int | None = num_nouns,
        ) -> Document:
            return make_pairs(
                rng,
                num_pairs=num_pairs,
                repeats=1 if max_gap else 4 if num_pairs < 8 else 2,
                max_gap=max_gap,
                num_nouns=num_nouns,
            )

        stages.append(
            Stage(
                name=f"pairs-{num_pairs}-gap-{max_gap}-of-{num_nouns or len(NOUNS)}",
                make=make,
                batch=batch,
                learning_rate=3e-3,
                max_steps=2000,
                threshold=0.95,
                warmup=50 if num_nouns == 10 else 10,
            )
        )
    return stages


def document_stage(
    name: str,
    *,
    length: int,
    num_questions: int,
    num_needles: int,
    batch: int,
    chat_share: float,
    choice_share: float,
    learning_rate: float,
    max_steps: int,
    threshold: float = 2.0,
    decay_from: float = 1.0,
    noise: float = 0.05,
    notes_share: float = 0.5,
    warmup: int = 10,
) -> Stage:
    """A stage of documents; half of the sequences are shorter than `length`."""

    def make(rng: random.Random) -> Document:
        chat = rng.random() < chat_share
        least = min(length, 120 if chat else 64)
        limit = rng.randint(least, length) if rng.random() < 0.35 else length
        scale = limit / length
        return make_document(
            rng,
            length=limit,
            num_questions=max(1, round(num_questions * scale)),
            num_needles=max(1, round(num_needles * scale)),
            chat=chat,
            choice_share=choice_share,
            notes_share=notes_share,
        )

    return Stage(
        name=name,
        make=make,
        batch=batch,
        learning_rate=learning_rate,
        max_steps=max_steps,
        threshold=threshold,
        decay_from=decay_from,
        noise=noise,
        warmup=warmup,
    )


def short_stages() -> list[Stage]:
    """Short documents without chat."""
    rate = 3e-3
    specs = [
        # length, questions, needles, batch, chat share
        (64, 2, 2, 48, 0.0),
        (104, 4, 4, 40, 0.0),
        (136, 5, 6, 32, 0.0),
    ]
    return [
        document_stage(
            f"documents-{length}",
            length=length,
            num_questions=questions,
            num_needles=needles,
            batch=batch,
            chat_share=chat,
            choice_share=0.0,
            learning_rate=rate,
            max_steps=2500,
            threshold=0.93,
        )
        for length, questions, needles, batch, chat in specs
    ]


def chat_stages() -> list[Stage]:
    """The same questions in ChatML, where the answer stands far from the question."""
    return [
        document_stage(
            f"chat-{length}",
            length=length,
            num_questions=questions,
            num_needles=needles,
            batch=batch,
            chat_share=0.7,
            choice_share=0.0,
            learning_rate=2e-3,
            max_steps=1500,
            threshold=0.96,
        )
        for length, questions, needles, batch in ((140, 2, 3, 32), (220, 4, 6, 20))
    ]


def choice_stages(short_context: int) -> list[Stage]:
    """Multiple choice, the whole short context, and the end of the short model's training."""
    return [
        document_stage(
            f"choices-{length}",
            length=length,
            num_questions=questions,
            num_needles=needles,
            batch=batch,
            chat_share=0.75,
            choice_share=0.4,
            learning_rate=2e-3,
            max_steps=steps,
            threshold=threshold,
            decay_from=decay,
        )
        for length, questions, needles, batch, steps, threshold, decay in (
            (240, 4, 6, 18, 1000, 0.96, 1.0),
            (short_context, 6, 9, 14, 400, 2.0, 0.3),
        )
    ]


def long_stages(short_context: int, long_context: int) -> list[Stage]:
    """The same documents, doubled in length three times."""
    specs = [
        # length, questions, needles, batch, steps, threshold, decay
        (short_context, 6, 9, 14, 80, 2.0, 1.0),
        (2 * short_context, 8, 14, 7, 500, 0.97, 1.0),
        (4 * short_context, 10, 20, 4, 500, 0.97, 1.0),
        (long_context, 12, 28, 2, 450, 2.0, 0.4),
    ]
    return [
        document_stage(
            f"long-{length}",
            length=length,
            num_questions=questions,
            num_needles=needles,
            batch=batch,
            chat_share=0.7,
            choice_share=0.3,
            learning_rate=1.5e-3,
            max_steps=steps,
            threshold=threshold,
            decay_from=decay,
            notes_share=0.6,
        )
        for length, questions, needles, batch, steps, threshold, decay in specs
    ]


def text_accuracy(
    model: TextModel, *, length: int, seed: int, choices: bool, documents: int
) -> float:
    """Share of right answers in new documents of one length.

    Args:
        model: The language model.
        length: Tokens of a document.
        seed: Seed of the documents.
        choices: Whether the questions are multiple-choice.
        documents: How many documents.
    """
    rng = random.Random(f"evaluation-{seed}-{length}-{choices}")
    right = total = 0
    model.eval()
    with torch.no_grad():
        for _ in range(documents):
            document = make_document(
                rng,
                length=length,
                num_questions=6,
                num_needles=8,
                chat=True,
                choice_share=1.0 if choices else 0.0,
                notes_share=1.0,
            )
            # The answer's closing token follows each answer and is not counted.
            document = Document(document.ids, document.positions[::2])
            batch = collate([document])
            predicted = model(model.embed_tokens(batch.ids), batch.positions).argmax(-1)
            right += int((predicted == batch.targets).sum())
            total += len(document.positions)
    return right / total
