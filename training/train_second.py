"""Train longva-tiny-2: longva-tiny with a fourth layer that knows letters, hops, order and counts.

    python -m training.train_second --seed 0 --out runs/second0

Text and single pictures alone, as for longva-tiny: micro tasks that grow from two items, chat about
notes, long documents last, then captions of pictures that name another object, and an alignment on
single pictures of up to 40 grids. Budgets are steps, so that a busy machine changes nothing but the
wait; a killed run continues where it was, or with the step of pictures it was in.

What is known of this recipe: docs/tiny.md.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the name everybody uses
from torch import Tensor, nn

from longva_eval.embedded import CHECKPOINTS
from longva_eval.needle.scenes import LOCATORS, pointer_scene, render_scene
from training.export import TinyLongVa, export_model, load_model
from training.images import Pictures, degrade, make_pictures, prepare
from training.model import Projector, TextConfig, TextModel
from training.muon import Muon
from training.second_data import Lesson, Scene, document, draw_scene, micro_lesson
from training.textdata import make_document
from training.textstage import collate
from training.train import LONG_CONTEXT, Run
from training.vision import cached_features, caption_accuracy, train_captions, visual_tokens
from training.vocabulary import CHATML_START, SECOND_WORDS, encode, token_id, vocabulary

__all__ = ["STAGES", "TextStage", "grow", "main", "run_text_stage"]

_TOKENS_PER_STEP: Final = 3000
_LARGEST_SIZE: Final = 8
_COOLING: Final = 60
_MUON_RATE: Final = 5.0
_OLD_WORDS: Final = len(vocabulary())
_START: Final = len(encode(CHATML_START))


@dataclass(frozen=True, kw_only=True)
class TextStage:
    """One step of the curriculum on text."""

    name: str
    steps: int
    """At most."""
    learning_rate: float
    """AdamW's, of embeddings, head and norms; Muon's is `_MUON_RATE` times that."""
    micro: tuple[str, ...] = ()
    """Micro tasks, in the steps that are neither chat nor old documents."""
    chat: float = 0.0
    """Share of steps on chat about notes."""
    skills: tuple[str, ...] = ()
    """What these ask."""
    frames: tuple[int, int] = (4, 12)
    options: tuple[int, int] = (4, 4)
    """Of a letter question."""
    decoys: float = 0.0
    """Share of chain questions beside which other objects name something, too."""
    plain: float = 0.0
    """Share of objects without a number."""
    old: float = 0.06
    """Share of steps on documents of the first generation, without which it forgets."""
    old_length: int = 320
    """Tokens of those, at most."""
    until: Mapping[str, float] = field(default_factory=dict)
    """Accuracies, of micro tasks at their largest size, with which the stage ends: the rate falls
    in `_COOLING` steps."""
    decay: float = 0.3
    """Last part of the steps, in which the rate falls to a twentieth."""


_OPTIONS: Final = ("option", "hop", "option number", "hop number", "chain")
_ALL: Final = ("order", "order", "count", "count", "letter", "chain", "chain", "word")
_DECOYS: Final = 0.5
_PLAIN: Final = 0.5
STAGES: Final = (
    # One new thing at a time: with numbers among the options from the beginning, letters came by
    # luck; beside each other, counts and order came slowly.
    TextStage(name="pointers", steps=420, learning_rate=3e-3, micro=("pointer", "chain"),
              chat=0.15, skills=("word",)),
    TextStage(name="colors", steps=360, learning_rate=3e-3, micro=("option", "hop", "chain"),
              chat=0.2, skills=("word", "chain")),
    TextStage(name="numbers", steps=420, learning_rate=3e-3,
              micro=("option number", "hop number", "hop"), chat=0.2, skills=("word", "chain")),
    TextStage(name="letters", steps=700, learning_rate=2e-3, micro=_OPTIONS, chat=0.65,
              skills=("letter", "letter", "letter", "word", "chain"), options=(2, 4),
              decoys=_DECOYS, until={"letter": 0.97}),
    TextStage(name="count", steps=400, learning_rate=3e-3, micro=("count",), chat=0.4,
              skills=("word", "letter", "letter", "chain"), decoys=_DECOYS),
    TextStage(name="order", steps=400, learning_rate=3e-3, micro=("order",), chat=0.4,
              skills=("word", "letter", "letter", "chain", "count"), decoys=_DECOYS),
    TextStage(name="joint", steps=900, learning_rate=2.5e-3, micro=("count", "order"), chat=0.7,
              skills=_ALL, decoys=_DECOYS, plain=_PLAIN, frames=(4, 16), old=0.08, decay=0.6),
    TextStage(name="long", steps=800, learning_rate=1.5e-3, chat=1.0, frames=(6, 100),
              skills=_ALL, decoys=_DECOYS, plain=_PLAIN, old=0.3, old_length=2176, decay=0.7),
    TextStage(name="longer", steps=800, learning_rate=1.5e-3, chat=1.0, frames=(12, 290),
              skills=_ALL, decoys=_DECOYS, plain=_PLAIN, old=0.25, old_length=2176, decay=0.7),
)  # fmt: skip
_CAPTION_STEPS: Final = 2200
_POINTERS: Final = 7000
_PICTURES: Final = 20_000
_ALIGNMENT: Final = ((9, 80), (16, 120), (40, 450))
"""Grids of a picture at most, and steps."""


def grow(base: TextModel, *, seed: int) -> TextModel:
    """The first generation's text model with the new words and a fourth layer that does little."""
    generator = torch.Generator().manual_seed(seed)
    deeper = base.with_extra_layer(generator)
    config = TextConfig(**{**vars(deeper.config), "vocab_size": len(vocabulary(2))})
    model = TextModel(config)
    model.init_weights(generator)
    own = model.state_dict()
    for name, value in deeper.state_dict().items():
        if name in ("embed_tokens.weight", "lm_head.weight"):
            own[name][:_OLD_WORDS] = value
        else:
            own[name] = value.clone()
    for new, known in SECOND_WORDS.items():
        noise = 0.1 * torch.randn(config.hidden_size, generator=generator)
        own["embed_tokens.weight"][token_id(new, 2)] = (
            own["embed_tokens.weight"][token_id(known)] + noise
        )
    model.load_state_dict(own)
    model.rope_theta = base.rope_theta
    return model


def _freeze_old_words(model: TextModel) -> None:
    """The projector was made for the old embeddings, which must stay."""

    def keep(gradient: Tensor) -> Tensor:
        kept = gradient.clone()
        kept[:_OLD_WORDS] = 0
        return kept

    model.requires_grad_(True)
    model.embed_tokens.weight.register_hook(keep)  # type: ignore[no-untyped-call]  # torch's


def _loss(
    model: TextModel, embeddings: Tensor, lessons: Sequence[Lesson]
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and (batch, n) whether each answer is right and whether there is one.

    Answers, and half as much the words that the last layer but one reads with the model's own norm
    and head.
    """
    batch = collate([lesson.document for lesson in lessons])
    cos, sin = model.rope(embeddings.shape[1])
    hidden = embeddings
    for layer in model.layers[:-1]:
        hidden = layer(hidden, cos, sin)
    logits = model.lm_head(model.norm(model.layers[-1](hidden, cos, sin, batch.positions)))
    kept = batch.targets >= 0
    loss = F.cross_entropy(logits[kept], batch.targets[kept])
    rows = [row for row, lesson in enumerate(lessons) for _ in lesson.readings]
    if rows:
        places, words = zip(*(r for lesson in lessons for r in lesson.readings), strict=True)
        read = model.lm_head(model.norm(hidden[torch.tensor(rows), torch.tensor(places)]))
        loss = loss + 0.5 * F.cross_entropy(read, torch.tensor(words))
    return loss, logits.argmax(-1) == batch.targets, kept


def _old_lessons(rng: random.Random, length: int) -> list[Lesson]:
    made = [
        make_document(
            rng,
            length=rng.randint(120, length),
            num_questions=5 if length < 400 else 9,
            num_needles=7 if length < 400 else 16,
            chat=True,
        )
        for _ in range(max(2, 2560 // length))
    ]
    return [Lesson(each, [], ["old", "end"] * len(each.positions)) for each in made]


def _asked(rng: random.Random, skills: Sequence[str]) -> list[str]:
    """Up to three skills; a letter question at most once."""
    chosen = [rng.choice(skills) for _ in range(rng.randint(1, 3))]
    return [s for n, s in enumerate(chosen) if s != "letter" or s not in chosen[:n]]


def run_text_stage(
    model: TextModel, stage: TextStage, *, seed: int, partial: Path | None = None
) -> dict[str, float]:
    """Train on text, in place.

    Args:
        model: Trained.
        stage: What to train on, and for how long.
        seed: Of the documents.
        partial: File written every 400 steps, from which a killed stage continues.

    Returns:
        Moving averages of accuracy by skill and micro task.
    """
    rng = random.Random(f"{stage.name}-{seed}")
    generator = torch.Generator().manual_seed(seed)
    _freeze_old_words(model)
    inner: list[nn.Parameter] = []
    outer: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (inner if name.startswith("layers") and parameter.ndim == 2 else outer).append(parameter)
    optimizers = {
        _MUON_RATE * stage.learning_rate: Muon(inner, lr=0.0),
        stage.learning_rate: torch.optim.AdamW(outer, betas=(0.9, 0.98), weight_decay=0.0),
    }
    sizes, seen = dict.fromkeys(stage.micro, 2), dict.fromkeys(stage.micro, 0.0)
    rounds = dict.fromkeys(stage.micro, 0)
    average: dict[str, float] = {}
    step, end = 0, stage.steps
    if partial and partial.exists():
        saved = torch.load(partial, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers.values(), saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        rng.setstate(saved["random"])
        generator.set_state(saved["noise"])
        sizes, seen, rounds, average, step, end = saved["progress"]
    while step < end:
        if stage.until and end > step + _COOLING and _knows(stage, average, sizes):
            end = step + _COOLING
        tail = stage.decay * stage.steps if end == stage.steps else _COOLING
        rate = min(1, (step + 1) / 30, max(0.05, (end - step) / tail))
        for peak, optimizer in optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
        task, size = "", 0
        if rng.random() < stage.old:
            lessons = _old_lessons(rng, stage.old_length)
        elif not stage.micro or rng.random() < stage.chat:
            # As many short ones as long ones, by their logarithm.
            count = round(math.exp(rng.uniform(*map(math.log, stage.frames))))
            lessons = [
                document(
                    draw_scene(
                        rng,
                        num_frames=count,
                        skills=_asked(rng, stage.skills),
                        num_facts=rng.randint(0, 5),
                        num_options=rng.randint(*stage.options),
                        decoys=stage.decoys,
                        plain=stage.plain,
                    )
                )
                for _ in range(max(4, int(1.3 * _TOKENS_PER_STEP) // (4 * count + 80)))
            ]
        else:
            # What is known well is practised less.
            weights = [0.25 if sizes[t] >= _LARGEST_SIZE else 1.0 for t in stage.micro]
            (task,) = rng.choices(stage.micro, weights)
            size = sizes[task] if rng.random() < 0.7 else rng.randint(2, sizes[task])
            first = micro_lesson(rng, task, size)
            count = min(128, _TOKENS_PER_STEP // len(first.document.ids))
            lessons = [first, *(micro_lesson(rng, task, size) for _ in range(count - 1))]
        ids = collate([lesson.document for lesson in lessons]).ids
        embeddings = model.embed_tokens(ids)
        scale = 0.05 * torch.rand(len(ids), 1, 1, generator=generator)
        embeddings = embeddings + scale * torch.randn(embeddings.shape, generator=generator)
        loss, right, kept = _loss(model, embeddings, lessons)
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # not typed by torch
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
        step += 1
        _note(average, lessons, right)
        if task and size == sizes[task]:
            rounds[task] += 1
            seen[task] = 0.95 * seen[task] + 0.05 * float(right[kept].float().mean())
            known = seen[task] / (1 - 0.95 ** rounds[task])
            if rounds[task] > 12 and known > 0.92 and sizes[task] < _LARGEST_SIZE:
                sizes[task] += 1 if sizes[task] < 4 else 2
                seen[task], rounds[task] = 0.0, 0
        if step % 60 == 0 or step == end:
            _print(stage.name, step, average, sizes)
        if partial and step % 400 == 0:
            state = {"model": model.state_dict(),
                     "optimizers": [optimizer.state_dict() for optimizer in optimizers.values()],
                     "random": rng.getstate(), "noise": generator.get_state(),
                     "progress": (sizes, seen, rounds, average, step, end)}  # fmt: skip
            torch.save(state, partial.with_suffix(".new"))
            partial.with_suffix(".new").replace(partial)
    return average


def _knows(stage: TextStage, average: Mapping[str, float], sizes: Mapping[str, int]) -> bool:
    return all(
        average.get(skill, 0.0) >= share and sizes.get(skill, _LARGEST_SIZE) >= _LARGEST_SIZE
        for skill, share in stage.until.items()
    )


def _note(average: dict[str, float], lessons: Sequence[Lesson], right: Tensor) -> None:
    found: dict[str, list[float]] = {}
    for row, lesson in enumerate(lessons):
        for place, skill in enumerate(lesson.skills[: len(lesson.document.positions)]):
            found.setdefault(skill, []).append(float(right[row, place]))
    for skill, values in found.items():
        now = sum(values) / len(values)
        average[skill] = now if skill not in average else 0.96 * average[skill] + 0.04 * now


def _print(name: str, step: int, average: dict[str, float], sizes: dict[str, int]) -> None:
    shown = " ".join(f"{skill}={share:.3f}" for skill, share in sorted(average.items()))
    grown = " ".join(f"{task}:{size}" for task, size in sizes.items())
    seconds = time.process_time()
    print(f"{name}: step {step}, {seconds:.0f} CPU s {shown} {grown}", flush=True)


# Pictures -----------------------------------------------------------------------------------------


def _pool(seed: int, image_size: int, *, scale: float) -> Pictures:
    """The first generation's kind of pictures, and such as name another object."""
    plain_count, count = (max(400, round(n * scale)) for n in (_PICTURES, _POINTERS))
    plain = make_pictures(plain_count, seed=f"second-{seed}", image_size=image_size)
    rng = random.Random(f"second-pointers-{seed}")
    pixels = np.empty((count, image_size, image_size, 3), dtype=np.uint8)
    captions = np.empty((count, 4), dtype=np.int64)
    for number in range(count):
        shape, names = rng.sample(LOCATORS, 2)
        scene = pointer_scene(rng, shape=shape, names=names)
        drawn = render_scene(scene, side=rng.choice((64, 96)))
        pixels[number] = prepare(degrade(rng, drawn), image_size)
        captions[number] = [token_id(word) for word in (shape, "none", names, ".")]
    return Pictures(
        np.concatenate((plain.pixels, pixels)),
        np.concatenate((plain.captions, captions)),
        np.concatenate((plain.is_locator, np.ones(count, dtype=np.bool_))),
    )


class _Grids:
    """Puts pictures of many grids together from the pool."""

    def __init__(self, pictures: Pictures, rng: random.Random) -> None:
        self._rng = rng
        self._others = np.flatnonzero(~pictures.is_locator).tolist()
        self._by_caption: dict[tuple[int, ...], list[int]] = {}
        for index, caption in enumerate(pictures.captions.tolist()):
            self._by_caption.setdefault(tuple(caption[:3]), []).append(index)
        self._locators = {token_id(word) for word in LOCATORS}

    def scene(self, count: int, skills: Sequence[str]) -> tuple[list[int], Scene]:
        """Pool indices of the grids, and the scene; drawn again until the pool has all of it."""
        while True:
            scene = draw_scene(
                self._rng,
                num_frames=count,
                skills=_asked(self._rng, skills),
                num_facts=self._rng.randint(0, 4),
                decoys=_DECOYS,
                plain=_PLAIN,
            )
            chosen = []
            for note in scene.notes:
                of = self._by_caption.get(tuple(note[:3]), [])
                of = of if note[0] in self._locators else self._others
                if not of:
                    break
                chosen.append(self._rng.choice(of))
            if len(chosen) == len(scene.notes) == count:
                return chosen, scene


def align(
    model: TextModel,
    projector: Projector,
    features: Tensor,
    pictures: Pictures,
    *,
    seed: int,
    stages: Sequence[tuple[int, int]] = _ALIGNMENT,
) -> None:
    """Teach projector and language model to answer from single pictures of many grids, in place."""
    rng = random.Random(f"second-alignment-{seed}")
    grids = _Grids(pictures, rng)
    _freeze_old_words(model)
    projector.requires_grad_(True)
    learned = [p for n, p in model.named_parameters() if not n.startswith("embed")]
    optimizer = torch.optim.AdamW(
        [
            {"params": list(projector.parameters()), "peak": 7e-4},
            {"params": learned, "peak": 3e-4},
        ],
        lr=1e-4,
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    skills = ("word", "letter", "chain", "chain", "order", "order", "count")
    for num_grids, steps in stages:
        average: dict[str, float] = {}
        for step in range(steps):
            is_last = num_grids == stages[-1][0]
            fall = min(1.0, max(0.02, (steps - step) / (0.6 * steps))) if is_last else 1.0
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * min(1, (step + 1) / 20) * fall
            count = rng.randint(max(9, num_grids // 2), max(9, num_grids))
            drawn = [grids.scene(count, skills) for _ in range(max(4, 3600 // (4 * count + 110)))]
            lessons = [document(scene) for _, scene in drawn]
            words = model.embed_tokens(collate([lesson.document for lesson in lessons]).ids)
            if rng.random() >= 0.25:  # else as text, so that text is not forgotten
                index = torch.tensor([chosen for chosen, _ in drawn])
                unique, inverse = torch.unique(index, return_inverse=True)
                visual = visual_tokens(projector, features[unique])[inverse].flatten(1, 2)
                end = _START + visual.shape[1]
                words = torch.cat((words[:, :_START], visual, words[:, end:]), dim=1)
            loss, right, _ = _loss(model, words, lessons)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # not typed by torch
            nn.utils.clip_grad_norm_([*model.parameters(), *projector.parameters()], 1.0)
            optimizer.step()
            _note(average, lessons, right)
            if (step + 1) % 60 == 0 or step + 1 == steps:
                _print(f"align-{num_grids}", step + 1, average, {})


# All of it ----------------------------------------------------------------------------------------


def _restored(base: TextModel, state: dict[str, Any]) -> TextModel:
    model = grow(base, seed=0)
    model.load_state_dict(state)
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one seed and export it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of this run")
    parser.add_argument("--scale", type=float, default=1.0, help="of all budgets, to try it out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    run = Run(options.seed, options.out)
    base = load_model(CHECKPOINTS["longva-tiny"])
    model = grow(base.text, seed=options.seed + 11)
    for stage in STAGES:
        budget = replace(stage, steps=max(2, round(stage.steps * options.scale)))

        def train(stage: TextStage = budget, model: TextModel = model) -> dict[str, Any]:
            partial = run.checkpoints / f"second-{stage.name}.partly"
            run_text_stage(model, stage, seed=options.seed, partial=partial)
            return model.state_dict()

        model = _restored(base.text, run.step(f"second-{stage.name}", train))
    image_size = base.tower.config.image_size
    tower, projector = base.tower, base.projector
    pool = _pool(options.seed, image_size, scale=min(1.0, options.scale))

    def captions() -> dict[str, Any]:
        for part in (tower, projector):
            part.requires_grad_(True)
        steps = max(2, round(_CAPTION_STEPS * options.scale))
        words = model.embed_tokens.weight.detach()[:_OLD_WORDS]
        train_captions(tower, projector, words, pool, steps=steps, seed=options.seed)
        return {"tower": tower.state_dict(), "projector": projector.state_dict()}

    state = run.step("second-captions", captions)
    tower.load_state_dict(state["tower"])
    projector.load_state_dict(state["projector"])
    for part in (tower, projector):
        part.requires_grad_(False)
    words = model.embed_tokens.weight.detach()[:_OLD_WORDS]
    print(f"captions of the pool: {caption_accuracy(tower, projector, words, pool)}", flush=True)

    def aligned() -> dict[str, Any]:
        stages = [(count, max(2, round(steps * options.scale))) for count, steps in _ALIGNMENT]
        features = cached_features(tower, pool)
        align(model, projector, features, pool, seed=options.seed, stages=stages)
        return {"text": model.state_dict(), "projector": projector.state_dict()}

    state = run.step("second-aligned", aligned)
    model.load_state_dict(state["text"])
    projector.load_state_dict(state["projector"])
    export_model(
        TinyLongVa(model, tower, projector),
        options.out / "longva-tiny-2",
        name="longva-tiny-2",
        context_length=LONG_CONTEXT,
    )
    print(f"seed {options.seed}: {time.process_time():.0f} CPU s in this process", flush=True)


if __name__ == "__main__":
    main()
