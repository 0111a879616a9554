"""Train LongVA-tiny and its short-context baseline from nothing.

    python -m training.train --seed 0 --out runs/seed0

The order is the paper's: a language model with a short context, its context extended on text
alone, a vision tower, and an alignment on single pictures. Each step leaves a checkpoint in the
folder; a killed run continues with the next step when the same command is given again.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch

from training.alignment import align, alignment_stages
from training.export import TinyLongVa, export_model
from training.images import Pictures, make_pictures
from training.model import (
    Projector,
    TextConfig,
    TextModel,
    VisionConfig,
    VisionTower,
)
from training.textstage import (
    Stage,
    chat_stages,
    choice_stages,
    long_stages,
    pair_stages,
    run_stage,
    short_stages,
    text_accuracy,
)
from training.vision import cached_features, caption_accuracy, train_captions, train_clip
from training.vocabulary import vocabulary

__all__ = ["LONG_CONTEXT", "SHORT_CONTEXT", "main"]

SHORT_CONTEXT: Final = 320
"""Longest text of the short model, in tokens: 64 frames of 4 tokens and a question."""
LONG_CONTEXT: Final = 2176
"""Longest text of the long model, in tokens: 512 frames and a question."""
SHORT_THETA: Final = 1e4
LONG_THETA: Final = 1e6
NUM_PICTURES: Final = 30_000
CLIP_STEPS: Final = 700
CAPTION_STEPS: Final = 4000


class Run:
    """One training run: a seed, a folder, and the steps already done."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, folder
        self.checkpoints = folder / "checkpoints"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.seconds_path = folder / "seconds.json"

    def step(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a step, from its checkpoint if there is one."""
        path = self.checkpoints / f"{name}.pt"
        if not path.exists():
            started = time.perf_counter()
            state = compute()
            # Renamed into place, so that a killed run never leaves half a checkpoint.
            partial = path.with_suffix(".partial")
            torch.save(state, partial)
            partial.replace(path)
            self._note_seconds(name, time.perf_counter() - started)
        loaded: dict[str, Any] = torch.load(path, weights_only=True)
        return loaded

    def _note_seconds(self, name: str, seconds: float) -> None:
        known = json.loads(self.seconds_path.read_text()) if self.seconds_path.exists() else {}
        known[name] = round(seconds, 1)
        self.seconds_path.write_text(json.dumps(known, indent=1) + "\n")

    @cached_property
    def pictures(self) -> Pictures:
        """The training pictures; drawn again by a run that continues."""
        size = VisionConfig().image_size
        return make_pictures(NUM_PICTURES, seed=str(self.seed), image_size=size)


def _text_model(state: dict[str, Any]) -> TextModel:
    config = TextConfig(
        vocab_size=len(vocabulary()),
        num_hidden_layers=state["num_layers"],
        rope_theta=state["rope_theta"],
    )
    model = TextModel(config)
    model.load_state_dict(state["model"])
    return model


def _text_state(model: TextModel) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "num_layers": model.config.num_hidden_layers,
        "rope_theta": model.rope_theta,
    }


def _new_text_model(seed: int) -> TextModel:
    """Two layers: one binds neighbours, one looks up."""
    config = TextConfig(vocab_size=len(vocabulary()), num_hidden_layers=2, rope_theta=SHORT_THETA)
    model = TextModel(config)
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


def _report_text(model: TextModel, name: str) -> None:
    lengths = [SHORT_CONTEXT * 2**k for k in range(3)] + [LONG_CONTEXT, 2 * LONG_CONTEXT]
    for choices in (False, True):
        values = [
            text_accuracy(model, length=n, seed=0, choices=choices, documents=max(4, 8000 // n))
            for n in lengths
        ]
        kind = "choices" if choices else "words"
        print(f"{name}: {kind} at {lengths} tokens: {[round(v, 3) for v in values]}", flush=True)


def train_text(run: Run) -> tuple[TextModel, TextModel]:
    """The short and the long language model."""
    state = _text_state(_new_text_model(run.seed))

    def continue_with(stage: Stage) -> dict[str, Any]:
        model = _text_model(state)
        if stage.name.startswith("long-"):
            model.rope_theta = LONG_THETA
            # Both models keep the same word embeddings, and so can share the first alignment.
            model.embed_tokens.requires_grad_(False)
        run_stage(model, stage, seed=run.seed)
        return _text_state(model)

    def third_layer() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(run.seed + 77)
        return _text_state(_text_model(state).with_extra_layer(generator))

    for stage in [*pair_stages(), *short_stages()]:
        state = run.step(f"text-{stage.name}", lambda stage=stage: continue_with(stage))  # type: ignore[misc]
    state = run.step("text-third-layer", third_layer)
    for stage in chat_stages():
        state = run.step(f"text-{stage.name}", lambda stage=stage: continue_with(stage))  # type: ignore[misc]
    for stage in choice_stages(SHORT_CONTEXT):
        state = run.step(f"text-{stage.name}", lambda stage=stage: continue_with(stage))  # type: ignore[misc]
    short = _text_model(state)
    _report_text(short, "text short")
    for stage in long_stages(SHORT_CONTEXT, LONG_CONTEXT):
        state = run.step(f"text-{stage.name}", lambda stage=stage: continue_with(stage))  # type: ignore[misc]
    long = _text_model(state)
    _report_text(long, "text long")
    return short, long


def train_vision(run: Run, short: TextModel) -> tuple[VisionTower, Projector]:
    """The vision tower and the projector's first alignment, shared by both models."""
    generator = torch.Generator().manual_seed(run.seed + 1)
    tower = VisionTower(VisionConfig())
    tower.init_weights(generator)
    projector = Projector(tower.config.hidden_size, short.config.hidden_size)
    for parameter in projector.parameters():
        if parameter.ndim == 2:
            std = parameter.shape[1] ** -0.5
            torch.nn.init.normal_(parameter, std=std, generator=generator)
        else:
            torch.nn.init.zeros_(parameter)

    def clip() -> dict[str, Any]:
        train_clip(
            tower, run.pictures, vocab_size=len(vocabulary()), steps=CLIP_STEPS, seed=run.seed
        )
        return tower.state_dict()

    tower.load_state_dict(run.step("vision-clip", clip))
    embeddings = short.embed_tokens.weight.detach()

    def captions() -> dict[str, Any]:
        train_captions(
            tower, projector, embeddings, run.pictures, steps=CAPTION_STEPS, seed=run.seed + 2
        )
        return {"tower": tower.state_dict(), "projector": projector.state_dict()}

    state = run.step("vision-captions", captions)
    tower.load_state_dict(state["tower"])
    projector.load_state_dict(state["projector"])
    new = make_pictures(2000, seed=f"{run.seed}-held-out", image_size=tower.config.image_size)
    print(f"captions of new pictures: {caption_accuracy(tower, projector, embeddings, new)}")
    return tower, projector


def train_alignment(
    run: Run, name: str, model: TextModel, tower: VisionTower, projector: Projector
) -> TinyLongVa:
    """Questions about single pictures of up to 49 grids; the same recipe for both models."""

    def compute() -> dict[str, Any]:
        features = cached_features(tower, run.pictures)
        align(
            model,
            projector,
            features,
            run.pictures,
            alignment_stages(),
            name=f"align {name}",
            max_tokens=SHORT_CONTEXT,
            seed=run.seed + 3,
        )
        return {"text": _text_state(model), "projector": projector.state_dict()}

    state = run.step(f"align-{name}", compute)
    aligned = Projector(tower.config.hidden_size, model.config.hidden_size)
    aligned.load_state_dict(state["projector"])
    return TinyLongVa(_text_model(state["text"]), tower, aligned)


def main() -> None:
    """Train one seed and export both models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of this run")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; 1 is often fastest")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.perf_counter()
    run = Run(arguments.seed, arguments.out)
    short, long = train_text(run)
    tower, projector = train_vision(run, short)
    first = projector.state_dict()
    for name, model, context in (("short", short, SHORT_CONTEXT), ("long", long, LONG_CONTEXT)):
        own = Projector(tower.config.hidden_size, model.config.hidden_size)
        own.load_state_dict(first)
        aligned = train_alignment(run, name, model, tower, own)
        _report_text(aligned.text, f"text {name} after alignment")
        folder = "longva-tiny" if name == "long" else "longva-tiny-short"
        export_model(aligned, run.folder / folder, name=folder, context_length=context)
    print(f"seed {arguments.seed} done in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
