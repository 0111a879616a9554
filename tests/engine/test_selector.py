"""Frames chosen by a question: beside transformers' own CLIP, asked for all pairs at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Golden
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    SiglipConfig,
    SiglipModel,
)
from video_files import Clip, write_video

from longva_eval.engine.conversation import Conversation
from longva_eval.engine.feature_cache import FeatureCache
from longva_eval.engine.session import Session
from longva_eval.errors import SettingsError
from longva_eval.media.decode import read_frames
from longva_eval.media.frames import FramePolicy, Looks
from longva_eval.media.probe import probe_video
from longva_eval.needle.asking import run_grid
from longva_eval.needle.grid import NeedleGrid
from longva_eval.needle.media import open_haystack

QUESTIONS = ("Which animal runs across the field of snow?", "A red car")
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2}  # fmt: skip


def save_clip(folder: Path, *, siglip: bool = False) -> Path:
    """A tiny model with CLIP's byte-level vocabulary, without merges."""
    letters = sorted(ByteLevel.alphabet())
    names = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>",
             "<|endoftext|>"]  # fmt: skip
    tokenizer = CLIPTokenizer(vocab={name: number for number, name in enumerate(names)}, merges=[])
    text = SMALL | {
        "vocab_size": len(names), "max_position_embeddings": 24, "projection_size": 16,
        "bos_token_id": len(names) - 2, "eos_token_id": len(names) - 1,
        "pad_token_id": len(names) - 1,
    }  # fmt: skip
    vision = SMALL | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(3)
    if siglip:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    else:
        sizes = {"text_config": text, "vision_config": vision, "projection_dim": 12}
        model = CLIPModel(CLIPConfig(**sizes))
    for weight in model.parameters():  # large enough that pictures and texts differ
        weight.data.normal_(0, 0.4)
    model.save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("film") / "film", Clip(num_frames=40))


@pytest.fixture
def session(open_golden: Golden) -> Iterator[Session]:
    session = open_golden.session
    before = session.frames, session.looks
    yield session
    session.frames, session.looks = before


def ask(session: Session, film: Path, policy: str, question: str, most: int = 5) -> Conversation:
    session.frames = FramePolicy(max_frames=most, policy=policy)
    return session.prompt(question, [film], sought=question)


@torch.no_grad()
def similarities(folder: Path, film: Path, at: range) -> torch.Tensor:
    """(questions, frames) cosines, from the model's own forward pass over all of them."""
    frames = np.concatenate(list(read_frames(probe_video(film), list(at))))
    model = CLIPModel.from_pretrained(folder)
    processor = CLIPProcessor.from_pretrained(folder)
    inputs = processor(text=list(QUESTIONS), images=list(frames), padding=True, truncation=True,
                       max_length=24, return_tensors="pt")  # fmt: skip
    return model(**inputs).logits_per_text / model.logit_scale.exp()


def test_the_most_similar_frames_are_shown(session: Session, clip: Path, film: Path) -> None:
    at = range(0, 40, 2)  # 10 frames a second, 5 of them looked at
    expected = similarities(clip, film, at)
    assert (expected.max(1).values - expected.min(1).values > 0.02).all(), "frames that differ"
    chosen = []
    for question, scores in zip(QUESTIONS, expected, strict=True):
        found = ask(session, film, f"query:{clip}:5", question)
        best = sorted(scores.topk(5).indices.tolist())
        sample = found.frames[0]
        assert list(sample.indices) == [at[place] for place in best]
        np.testing.assert_allclose(sample.scores, scores[best], atol=1e-4)
        record = found.describe()
        assert record["videos"][0]["similarity"] == list(sample.scores)
        assert record["videos"][0]["timestamps_seconds"] == [at[place] / 10 for place in best]
        # 43 characters without blanks, begin and end; one letter is one token.
        cut = max(0, len(question.replace(" ", "")) + 2 - 24)
        assert record["compared_with"] == {"text": question, "tokens_cut": cut}
        chosen.append(sample.indices)
        bins = ask(session, film, f"query-bins:{clip}:5", question, most=4).frames[0].indices
        assert list(bins) == [at[5 * n + int(scores[5 * n : 5 * n + 5].argmax())] for n in range(4)]
    assert chosen[0] != chosen[1], "a policy that hears the question"
    assert len(ask(session, film, f"query:{clip}", QUESTIONS[0]).frames[0].indices) == 4
    recipe = session.describe()["frames"]
    assert recipe["policy"] == f"query:{clip}"
    assert recipe["selector"]["class"] == "CLIPModel"


def test_frames_are_looked_at_once_and_kept_on_disk(
    session: Session, clip: Path, film: Path, tmp_path: Path
) -> None:
    looked: list[int] = []

    def read(info: object, indices: list[int], **more: object) -> object:
        looked.append(len(indices))
        return read_frames(info, indices, **more)  # type: ignore[arg-type]

    def open_looks() -> Looks:
        return Looks(FeatureCache(tmp_path / "kept", identity="test").keep)

    session.looks, session.read = open_looks(), read  # type: ignore[assignment]
    try:
        first = [ask(session, film, f"query:{clip}:5", question) for question in QUESTIONS]
        scenes = ask(session, film, "scene:5", "")
        assert looked == [20, 20]
        session.looks = open_looks()  # another run
        again = [ask(session, film, f"query:{clip}:5", question) for question in QUESTIONS]
        assert [each.frames for each in again] == [each.frames for each in first]
        assert ask(session, film, "scene:5", "").frames == scenes.frames
        assert looked == [20, 20]
        # Other weights, or other candidates, are looked at anew.
        other = save_clip(tmp_path / "other", siglip=True)
        found = ask(session, film, f"query:{other}:5", QUESTIONS[1])
        ask(session, film, f"query:{clip}:2", QUESTIONS[0])
        assert looked == [20, 20, 20, 8]
    finally:
        session.read = read_frames
    assert found.frames[0].scores != first[1].frames[0].scores
    # SigLIP reads a short text filled up to its length, as it was trained.
    model = SiglipModel.from_pretrained(other)
    processor = CLIPProcessor.from_pretrained(other)
    frames = np.concatenate(list(read_frames(probe_video(film), found.frames[0].indices)))
    inputs = processor(text=[QUESTIONS[1]], images=list(frames), padding="max_length",
                       max_length=24, return_tensors="pt")  # fmt: skip
    inputs.pop("attention_mask")
    with torch.no_grad():
        output = model(**inputs)
    cosines = output.image_embeds @ output.text_embeds.T
    np.testing.assert_allclose(found.frames[0].scores, cosines[:, 0], atol=1e-4)


def test_a_model_that_compares_nothing_is_refused(
    session: Session, open_golden: Golden, film: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"query: /nowhere is no model that compares"):
        ask(session, film, "query:/nowhere", "")
    with pytest.raises(SettingsError, match=r"longva_tiny is no model that compares"):
        ask(session, film, f"query:{open_golden.folder / 'longva_tiny'}", "")
    with pytest.raises(SettingsError, match="must be above 0"):
        FramePolicy(policy="query:some/clip:0")
    with pytest.raises(SettingsError, match="is unknown"):
        FramePolicy(policy="query:")
    half = save_clip(tmp_path / "half")
    from safetensors.torch import load_file, save_file

    weights = load_file(half / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, half / "model.safetensors", {"format": "pt"})
    with pytest.raises(SettingsError, match=r"Missing: .*visual_projection"):
        ask(session, film, f"query:{half}", "")


def test_a_needle_is_shown_if_it_is_similar_to_its_question(
    session: Session, open_golden: Golden, clip: Path
) -> None:
    items = open_golden.needles()
    haystack = open_haystack(open_golden.haystack_videos())
    length = len(haystack.frames)
    grid = NeedleGrid(frame_counts=(length,), depths=(0.0, 0.5))
    frames = [next(read_frames(probe_video(path), [index]))[0] for path, index in haystack.frames]
    session.frames = FramePolicy(policy=f"query:{clip}")
    selector = session.selector
    assert selector is not None
    ranks = []  # of each needle, among all that is shown
    for item in items:
        film = [*frames, np.array(item.needles[0].image)]
        scores = selector.pictures([each] for each in film) @ selector.text(item.question)[0]
        ranks.append(int((scores > scores[-1]).sum()))
    most = sorted(ranks)[len(ranks) // 2]
    assert 0 < most < length
    chosen = FramePolicy(max_frames=most, policy=f"query:{clip}")
    answers = run_grid(session, haystack, items, grid, max_new_tokens=0, select=chosen)
    shown = [float(ranks[answer.needle] < most) for answer in answers]
    assert [answer.shown for answer in answers] == shown
    assert 0 < sum(shown) < len(shown), "needles of both kinds"
