"""The second stage of training: what it teaches is what the needle tests ask."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from longva_eval.embedded import CHECKPOINTS
from longva_eval.needle.items import AnswerForm, ItemSettings
from longva_eval.needle.kinds import drawn_items
from training.evaluate_second import TARGETS, render, verdicts
from training.export import TinyLongVa, export_model, load_model
from training.muon import Muon
from training.second_data import MICRO_TASKS, SKILLS, document, draw_scene, micro_lesson
from training.train_second import TextStage, grow, run_text_stage
from training.vocabulary import encode, vocabulary

WORDS = {number: word for word, number in vocabulary(2).items()}


def words(ids: list[int]) -> list[str]:
    return [WORDS[token] for token in ids]


def notes_of(ids: list[int]) -> list[list[str]]:
    """The lines of four words in a micro task."""
    told = words(ids)
    ends = [at for at, word in enumerate(told) if word == "." and at >= 3 and told[at - 2] != "\n"]
    return [told[at - 3 : at + 1] for at in ends if told[at - 1] not in "ABCD"]


@pytest.mark.parametrize(
    ("test", "answer"),
    [("chain", "words"), ("chain", "letters"), ("order", "words"), ("count", "words"),
     ("count", "letters"), ("keys", "words"), ("keys", "letters")],
)  # fmt: skip
def test_it_knows_every_word_of_the_needle_tests(test: str, answer: AnswerForm) -> None:
    for item in drawn_items(test, ItemSettings(items=24, answer=answer)):
        assert encode(item.question + item.answer, 2)


def test_old_words_keep_their_places() -> None:
    old = vocabulary()
    assert list(vocabulary(2))[: len(old)] == list(old)
    with pytest.raises(KeyError):
        encode("names")


@pytest.mark.parametrize("task", MICRO_TASKS)
@pytest.mark.parametrize("size", [2, 3, 8])
def test_micro_tasks_are_answered_by_their_notes(task: str, size: int) -> None:
    rng = random.Random(size)
    for _ in range(30):
        ids, positions = micro_lesson(rng, task, size).document
        lines = notes_of(ids[: positions[0] + 1])
        notes = {note[0]: note for note in lines}
        block = " ".join(words(ids[: positions[0] + 1]))
        options = dict(re.findall(r"\n ([A-D]) \. (\w+)", block))
        assert positions
        for at in positions:
            told, answer = words(ids[: at + 1]), WORDS[ids[at + 1]]
            if task == "pointer":
                assert notes[told[-2]][2] == answer
            elif task == "chain":
                named = notes[notes[told[-3]][2]]
                assert named[1 if told[-1] == "color" else 2] == answer
            elif task.startswith("option"):
                assert options[answer] == told[-1]
            elif task.startswith("hop"):
                assert options[answer] == notes[told[-2]][1 if task == "hop" else 2]
            elif task == "count":
                assert [note[0] for note in lines].count(told[-1]) == int(answer)
            else:
                shown = [note[0] for note in lines]
                assert min(told[-3:-1], key=shown.index) == answer


@pytest.mark.parametrize("skill", SKILLS)
def test_documents_are_answered_by_their_notes(skill: str) -> None:
    rng = random.Random(skill)
    for _ in range(30):
        scene = draw_scene(rng, num_frames=12, skills=[skill], num_facts=rng.randint(0, 3),
                           decoys=0.5, plain=0.5)  # fmt: skip
        lesson = document(scene)
        notes = [words(note) for note in scene.notes]
        by_noun = {note[0]: note for note in notes}
        shown = [note[0] for note in notes]
        (question,) = scene.questions
        text, answer = " ".join(words(question.prompt)), WORDS[question.answer]
        assert lesson.skills == [skill, "end"]
        assert answer != "none"
        assert lesson.document.ids[lesson.document.positions[0] + 1] == question.answer
        reading = [WORDS[token] for _, token in lesson.readings]
        nouns = [word for word in re.findall(r"\w+", text) if word in by_noun]
        if skill == "order":
            assert answer == min(nouns, key=shown.index)
        elif skill == "count":
            (noun,) = re.findall(r"show the (\w+)", text)
            assert shown.count(noun) == int(answer)
        elif skill == "chain":
            named = by_noun[by_noun[nouns[0]][2]]
            assert answer == named[1 if "color is the" in text else 2]
            assert reading == [named[0]]
        elif skill == "letter":
            options = dict(re.findall(r"\n ([A-D]) \. (\w+)", text))
            assert options[answer] in by_noun[nouns[0]][1:3]
            assert reading == [options[answer]]
        else:
            assert answer == by_noun[nouns[0]][1 if "color" in text else 2]


def test_each_target_is_missed_by_the_number_it_is_about() -> None:
    def numbers() -> dict[str, Any]:
        return {
            "grids": {name: list(least) for name, least in TARGETS.items()},
            "single": {"longva-tiny-2": [0.98, 0.98, 0.94, 0.9], "longva-tiny": [1, 1, 0.96, 0.92]},
            "no_needle": {"count": 0.3}, "floors": {"count": 0.25},
            "mini": {"letters": 0.99, "right by letter": 0.95, "right": 0.97},
        }  # fmt: skip

    assert all(verdicts(numbers()).values())
    places: list[tuple[Any, ...]] = [("grids", name, 2) for name in TARGETS]
    places += [("single", "longva-tiny-2", 1), ("single", "longva-tiny-2", 3), ("floors", "count"),
               ("mini", "right by letter"), ("mini", "letters")]  # fmt: skip
    for *way, last in places:
        found = numbers()
        at: Any = found
        for step in way:
            at = at[step]
        at[last] -= 0.01
        missed = [name for name, reached in verdicts(found).items() if not reached]
        assert missed, way
        assert "yes" in render({"second1": found})
        assert "**no**" in render({"second1": found})


@pytest.mark.slow
def test_the_grown_model_begins_as_the_first_and_old_words_stay(tmp_path: Path) -> None:
    base = load_model(CHECKPOINTS["longva-tiny"])
    model = grow(base.text, seed=1)
    ids = torch.tensor([encode("star red 7 . key blue 2 .\nWhat color is the star?")])
    at = torch.tensor([[ids.shape[1] - 1]])
    with torch.no_grad():
        old = base.text(base.text.embed_tokens(ids), at)
        new = model(model.embed_tokens(ids), at)[..., : old.shape[-1]]
    assert float((old - new).abs().mean()) < 0.5 * float(old.std())
    before = model.embed_tokens.weight.detach().clone()
    stage = TextStage(name="try", steps=6, learning_rate=1e-3, micro=("chain", "count"),
                      chat=0.5, skills=SKILLS, frames=(4, 6), old=0.2)  # fmt: skip
    assert run_text_stage(model, stage, seed=0)
    after = model.embed_tokens.weight.detach()
    old_words = len(vocabulary())
    assert torch.equal(before[:old_words], after[:old_words])
    assert not torch.equal(before[old_words:], after[old_words:])
    export_model(TinyLongVa(model, base.tower, base.projector), tmp_path, name="t",
                 context_length=2176)  # fmt: skip
    assert load_model(tmp_path).text.config.vocab_size == len(vocabulary(2))


def test_muon_makes_a_direction_orthogonal_as_torch_does() -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((24, 12), (24, 12), (12, 30))]
    start = [each.detach().clone() for each in ours]
    theirs = [torch.nn.Parameter(each.clone()) for each in start]
    optimizers = Muon(ours, lr=0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.05)
    for _ in range(3):
        for each, other in zip(ours, theirs, strict=True):
            each.grad = torch.randn(each.shape)
            other.grad = each.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for before, each, other in zip(start, ours, theirs, strict=True):
        moved, difference = (other - before).detach(), (each - other).detach()
        assert float(difference.norm()) < 0.03 * float(moved.norm())  # torch's is bfloat16
