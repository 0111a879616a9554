"""LLaVA-NeXT and LLaVA-NeXT-Video: our engine against transformers' own classes.

Checkpoints are tiny and random, saved by those classes with their processors. The same folder is
opened by both sides; what is compared are logits at every position of the text, and greedy tokens.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import OPEN
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_llava_next import CHATML, INST, SIDE, VICUNA, Kind, make_checkpoint
from transformers import (
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
)
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from longva_eval.cli import main
from longva_eval.engine.conversation import Conversation, Media
from longva_eval.engine.opening import open_session
from longva_eval.engine.session import Session
from longva_eval.errors import CheckpointError, EvaluationError, PromptError, SettingsError
from longva_eval.families.loading import load_checkpoint
from longva_eval.media.frames import FramePolicy
from longva_eval.media.images import frames_to_pixel_values
from longva_eval.media.sources import Picture
from longva_eval.model.checkpoint import Checkpoint
from longva_eval.model.llava_next import LlavaNext
from longva_eval.model.modeling import pool_visual_tokens
from longva_eval.model.rope import RopeSettings
from longva_eval.model.settings import LoadSettings
from longva_eval.needle.asking import run_grid
from longva_eval.needle.grid import Cell, NeedleGrid
from longva_eval.needle.items import Item, Shown
from longva_eval.needle.media import composed_clip, open_haystack
from longva_eval.prompts.pieces import Prompt, Turn
from longva_eval.prompts.processor_template import MediaTokens, load_processor_template
from longva_eval.prompts.visits import Query
from longva_eval.studies.shape import read_model_shape

VIDEO = OPEN / "inputs/landscape_320x180.mp4"
NUM_FRAMES = 4
QUESTION = "What is the thing?"
TOLERANCE = 5e-5
"""Largest difference of a float32 logit; logits reach about 10."""


@dataclass
class Baseline:
    """One checkpoint, opened by both sides."""

    folder: Path
    session: Session
    model: Any
    """transformers' own class."""
    processor: Any


_OPENED: dict[str, Baseline] = {}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Baseline]:
    def open_one(kind: Kind) -> Baseline:
        if kind not in _OPENED:
            folder = tmp_path_factory.mktemp("baselines") / kind
            _OPENED[kind] = open_baseline(make_checkpoint(folder, kind))
        return _OPENED[kind]

    return open_one


def open_baseline(folder: Path) -> Baseline:
    config = json.loads((folder / "config.json").read_text())
    is_video = "Video" in config["architectures"][0]
    model_class: Any = (
        LlavaNextVideoForConditionalGeneration if is_video else LlavaNextForConditionalGeneration
    )
    processor: Any = (LlavaNextVideoProcessor if is_video else LlavaNextProcessor).from_pretrained(
        folder
    )
    # The default one resizes with torchvision; see test_pictures_are_prepared_alike.
    settings = processor.image_processor.to_dict()
    processor.image_processor = LlavaNextImageProcessorPil(
        **{name: settings[name] for name in ("size", "crop_size", "image_grid_pinpoints")}
    )
    model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    return Baseline(folder=folder, session=open_tiny(folder), model=model, processor=processor)


def open_tiny(folder: Path, **settings: Any) -> Session:
    defaults: dict[str, Any] = {
        "device": "cpu", "dtype": "float32", "decode_process": False, "chunk_tokens": 37,
        "frames": FramePolicy(max_frames=NUM_FRAMES),
    }  # fmt: skip
    return open_session(folder, **{**defaults, **settings})


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def their_inputs(
    baseline: Baseline, conversation: Conversation, media: Sequence[Media], text: str = QUESTION
) -> dict[str, Any]:
    """What their processor makes of the same question; frames are those that we decoded."""
    pictures = [item for item in media if isinstance(item, Image.Image)]
    videos = [item for item in media if not isinstance(item, Image.Image)]
    content: list[dict[str, str]] = [
        {"type": "image" if isinstance(item, Image.Image) else "video"} for item in media
    ]
    content.append({"type": "text", "text": text})
    prompt = baseline.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    assert prompt == conversation.context_text
    frames = [frames_of(conversation) for _ in videos]
    # The rule of `apply_chat_template(tokenize=True)`: no second beginning of sequence.
    bos = baseline.processor.tokenizer.bos_token
    inputs = baseline.processor(
        text=prompt,
        images=pictures or None,
        **({"videos": frames} if frames else {}),
        add_special_tokens=not (bos and prompt.startswith(bos)),
        return_tensors="pt",
    )
    if frames:
        inputs["pixel_values_videos"] = torch.stack(
            [
                frames_to_pixel_values(part, baseline.session.checkpoint.image_processor)
                for part in frames
            ]
        )
    return dict(inputs)


def frames_of(conversation: Conversation) -> np.ndarray[Any, Any]:
    """The frames of the first video in a prompt, as decoded."""
    pieces = [p for p in conversation.prompt.visual_pieces if not isinstance(p.source, Picture)]
    source = pieces[0].source
    items = [piece.item for piece in pieces if piece.source == source]
    return np.concatenate(list(source.read(source.info, items, backend=source.backend)))


def our_logits(session: Session, prompt: Prompt) -> torch.Tensor:
    (visit,) = session.engine.visit([Query(prompt, read_from=0)])
    return visit.logits


CONTENTS: dict[str, list[Media]] = {
    "text": [],
    "picture": [noise(130, 70)],
    "two pictures": [noise(50, 50, 1), noise(40, 200, 2)],
    "video": [VIDEO],
    "picture and video": [noise(90, 90, 3), VIDEO],
    "video before picture": [VIDEO, noise(90, 90, 3)],
}


KINDS: list[Kind] = [
    "video-llama", "video-mistral", "video-qwen2", "pictures-llama", "pictures-qwen2",
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        pytest.param(kind, content, marks=[pytest.mark.slow] if kind != "video-qwen2" else [])
        for kind in KINDS
        for content in CONTENTS
        if kind.startswith("video") or "video" not in content  # LLaVA-NeXT has no rule for videos
    ],
)
def test_logits_and_answers_are_those_of_transformers_own_class(
    opened: Callable[..., Baseline], kind: Kind, content: str
) -> None:
    baseline, media = opened(kind), CONTENTS[content]
    conversation = baseline.session.prompt(QUESTION, media)
    inputs = their_inputs(baseline, conversation, media)
    assert_same(baseline, conversation, inputs)


def assert_same(baseline: Baseline, conversation: Conversation, inputs: dict[str, Any]) -> None:
    ids = inputs["input_ids"][0]
    assert conversation.prompt.num_tokens == len(ids)
    with torch.inference_mode():
        theirs = baseline.model(**inputs).logits[0]
    ours = our_logits(baseline.session, conversation.prompt)
    assert float(theirs.std()) > 0.5  # a flat output would agree with anything
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)
    with torch.inference_mode():
        generated = baseline.model.generate(**inputs, do_sample=False, max_new_tokens=12)
    (answer,) = baseline.session.generate(
        [conversation], replace(baseline.session._settings_for(None, 1)[0], max_new_tokens=12)
    )
    assert not isinstance(answer, EvaluationError)
    assert list(answer.token_ids) == generated[0, len(ids) :].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["video-llama", "video-mistral", "pictures-qwen2"])
def test_files_of_earlier_transformers_give_the_same_logits(
    opened: Callable[..., Baseline], tmp_path: Path, kind: Kind
) -> None:
    """As on the hub: rope_theta and rope_scaling, vision_model in names, chat_template.json."""
    new = opened(kind).session
    folder = make_checkpoint(tmp_path / "old", kind, old_files=True)
    assert "rope_theta" in json.loads((folder / "config.json").read_text())["text_config"]
    old = open_tiny(folder)
    media = CONTENTS["picture"]
    one, two = new.prompt(QUESTION, media), old.prompt(QUESTION, media)
    assert one.context_text == two.context_text
    torch.testing.assert_close(
        our_logits(new, one.prompt), our_logits(old, two.prompt), atol=0, rtol=0
    )
    assert new.checkpoint.own_rope_parameters == old.checkpoint.own_rope_parameters


@pytest.mark.parametrize("size", [(56, 56), (130, 70), (70, 130), (40, 200), (500, 60), (3, 3)])
def test_pictures_are_prepared_alike(
    opened: Callable[..., Baseline], size: tuple[int, int]
) -> None:
    baseline = opened("video-llama")
    theirs = baseline.processor.image_processor(noise(*size), return_tensors="pt")
    tiles = baseline.session.vision.tiles(noise(*size), "anyres")
    torch.testing.assert_close(tiles, theirs["pixel_values"][0], atol=1e-6, rtol=0)


def test_frames_differ_from_the_torchvision_processor_by_its_resizing_alone(
    opened: Callable[..., Baseline],
) -> None:
    baseline = opened("video-llama")
    frames = frames_of(baseline.session.prompt(QUESTION, [VIDEO]))
    ours = frames_to_pixel_values(frames, baseline.session.checkpoint.image_processor)
    theirs = baseline.processor.video_processor(frames, return_tensors="pt")
    difference = (ours - theirs["pixel_values_videos"][0]).abs()
    assert 0 < float(difference.max()) < 4 / 255 / 0.26  # a few of 255 levels, normalised
    assert float(difference.mean()) < 0.5 / 255 / 0.26
    # With nothing to resize they are equal.
    square = frames[:, :SIDE, :SIDE]
    torch.testing.assert_close(
        frames_to_pixel_values(square, baseline.session.checkpoint.image_processor),
        baseline.processor.video_processor(square, return_tensors="pt")["pixel_values_videos"][0],
        atol=1e-6,
        rtol=0,
    )


def test_frames_of_a_model_without_video_are_encoded_as_longvas(
    opened: Callable[..., Baseline],
) -> None:
    baseline = opened("pictures-qwen2")
    session, inner = baseline.session, baseline.model
    conversation = session.prompt(QUESTION, [VIDEO])
    pixels = frames_to_pixel_values(frames_of(conversation), session.checkpoint.image_processor)
    with torch.inference_mode():
        hidden = inner.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
        tokens = inner.model.multi_modal_projector(hidden[:, 1:])
        grid = tokens.unflatten(1, (4, 4)).permute(0, 3, 1, 2)
        pooled = torch.nn.functional.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)
        before, after = (
            torch.tensor(piece.token_ids)
            for piece in (conversation.prompt.pieces[0], conversation.prompt.pieces[-1])
        )
        table = inner.get_input_embeddings()
        embeddings = torch.cat([table(before), pooled.flatten(0, 1), table(after)])
        theirs = inner(inputs_embeds=embeddings[None]).logits[0]
    ours = our_logits(session, conversation.prompt)
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_questions_on_one_video_share_its_frames_and_stay_exact(
    opened: Callable[..., Baseline],
) -> None:
    baseline = opened("video-mistral")
    texts = ["What is the thing?", "Who is it?", "What is the ball on?"]
    conversations = [baseline.session.prompt(text, [VIDEO]) for text in texts]
    counts = baseline.session.engine.counts
    asked, computed = counts.tokens_asked, counts.tokens_computed
    queries = [Query(conversation.prompt) for conversation in conversations]
    shared = {visit.index: visit.logits for visit in baseline.session.engine.visit(queries)}
    asked, computed = counts.tokens_asked - asked, counts.tokens_computed - computed
    frames = NUM_FRAMES * 4
    assert asked - computed >= 2 * frames
    for number, (text, conversation) in enumerate(zip(texts, conversations, strict=True)):
        inputs = their_inputs(baseline, conversation, [VIDEO], text)
        with torch.inference_mode():
            theirs = baseline.model(**inputs).logits[0, -1:]
        torch.testing.assert_close(shared[number], theirs, atol=TOLERANCE, rtol=0)
    alone = open_tiny(baseline.folder, reuse=False)
    again = [Query(alone.prompt(text, [VIDEO]).prompt) for text in texts]
    for visit in alone.engine.visit(again):
        torch.testing.assert_close(visit.logits, shared[visit.index], atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["video-llama", "video-mistral", "video-qwen2"])
def test_likelihoods_are_those_of_the_text_that_follows_the_prompt(
    opened: Callable[..., Baseline], kind: Kind
) -> None:
    baseline, media = opened(kind), CONTENTS["video"]
    conversation = baseline.session.prompt(QUESTION, media)
    inputs = their_inputs(baseline, conversation, media)
    for continuation in (" the", "A thing."):
        (scored,) = baseline.session.score([conversation], [continuation])
        assert not isinstance(scored, EvaluationError)
        whole = baseline.processor.tokenizer(
            conversation.context_text + continuation,
            add_special_tokens=kind != "video-mistral",
        )["input_ids"]
        own = whole[len(conversation.placeholder_ids()) :]
        assert list(scored.continuation.token_ids) == own
        ids = torch.cat([inputs["input_ids"], torch.tensor([own])], dim=1)
        with torch.inference_mode():
            logits = baseline.model(
                input_ids=ids, pixel_values_videos=inputs["pixel_values_videos"]
            ).logits[0, -1 - len(own) : -1]
        expected = logits.log_softmax(-1)[range(len(own)), own].sum()
        assert scored.continuation.log_prob == pytest.approx(float(expected), abs=TOLERANCE)


@pytest.mark.slow
def test_needles_are_frames_of_the_models_own_prompt(opened: Callable[..., Baseline]) -> None:
    """V-NIAH at two thetas, each cell against a forward pass of transformers' class."""
    baseline = opened("video-mistral")
    shown = Shown(picture=noise(90, 60, 5))
    needle = Item(name="n", needles=(shown,), question="What is it?", answer="the")
    haystack = open_haystack([VIDEO])
    grid = NeedleGrid(frame_counts=(2, 5), depths=(0.0, 0.5, 1.0))
    tokenizer = baseline.processor.tokenizer
    before, after = (
        tokenizer(part, add_special_tokens=False)["input_ids"]
        for part in ("<s>[INST] ", "\nWhat is it? [/INST]")
    )
    # The part after a special token is tokenised as its continuation, not as a new text.
    whole = tokenizer("<s>[INST] <video>\nWhat is it? [/INST]", add_special_tokens=False)
    place = whole["input_ids"].index(baseline.model.config.video_token_id)
    before, after = whole["input_ids"][:place], whole["input_ids"][place + 1 :]
    session = open_tiny(baseline.folder)
    answer = tokenizer("the", add_special_tokens=False)["input_ids"]
    different = []
    for theta in (1e6, 1e8):
        session.change_rope(RopeSettings(theta=theta))
        text = baseline.model.config.text_config
        model = baseline.model.model.language_model
        text.rope_parameters = {"rope_type": "default", "rope_theta": theta}
        model.rotary_emb = type(model.rotary_emb)(text)
        for cell in run_grid(session, haystack, [needle], grid, max_new_tokens=2):
            pixels = needle_pixels(
                session, haystack, needle, cell.num_frames, cell.insert_index or 0
            )
            frames = len(pixels)
            assert frames == cell.num_frames + 1
            ids = [*before, *[baseline.model.config.video_token_id] * (4 * frames), *after, *answer]
            assert cell.num_prompt_tokens == len(ids) - len(answer)
            with torch.inference_mode():
                logits = baseline.model(
                    input_ids=torch.tensor([ids]), pixel_values_videos=pixels[None]
                ).logits[0, -1 - len(answer) : -1]
            log_probs = logits.log_softmax(-1)[range(len(answer)), answer]
            assert cell.answer_ids == tuple(answer)
            assert cell.logprob == pytest.approx(float(log_probs.sum()), abs=TOLERANCE)
            assert list(cell.pred_ids) == logits.argmax(-1).tolist()
            different.append(cell.logprob)
    assert len({round(value, 3) for value in different}) > 8
    text.rope_parameters = {"rope_type": "default", "rope_theta": 1e6}
    model.rotary_emb = type(model.rotary_emb)(text)


def needle_pixels(
    session: Session, haystack: Any, needle: Item, num_frames: int, index: int
) -> torch.Tensor:
    clean = Cell(item=0, num_frames=num_frames, control="no needle")
    pieces, _ = session.visual(composed_clip(haystack, clean, needle))
    vision = session.vision
    frames = [next(vision.pixel_values(piece.source, [piece.item])) for piece in pieces]
    processor = session.checkpoint.image_processor
    hidden = frames_to_pixel_values([needle.needles[0].image], processor, aspect="pad")
    return torch.cat([*frames[:index], hidden, *frames[index:]])


# AnyRes in the layout of the original code


def as_llava_qwen(source: Path, target: Path, *, merge: str = "spatial_unpad") -> Path:
    """The same weights as `LlavaQwenForCausalLM` writes them: LLaVA-NeXT-Qwen2, LongVA-AnyRes."""
    config = json.loads((source / "config.json").read_text())
    target.mkdir()
    text, vision = config["text_config"], config["vision_config"]
    text |= {
        "model_type": "llava_qwen", "architectures": ["LlavaQwenForCausalLM"],
        "mm_vision_tower": "vision_tower", "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None, "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch", "mm_use_im_start_end": False,
        "mm_patch_merge_type": merge, "image_aspect_ratio": "anyres",
        "mm_spatial_pool_stride": None, "tokenizer_model_max_length": 4096,
        "image_grid_pinpoints": [[w, h] for h, w in config["image_grid_pinpoints"]],
    }  # fmt: skip
    (target / "config.json").write_text(json.dumps(text))
    (target / "vision_tower").mkdir()
    (target / "vision_tower/config.json").write_text(json.dumps(vision))
    (target / "vision_tower/preprocessor_config.json").write_text(
        json.dumps({"size": {"shortest_edge": SIDE}, "crop_size": SIDE})
    )
    renamed = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        for old, new in (
            ("language_model.lm_head", "lm_head"),
            ("language_model.model.", "model."),
            ("vision_tower.", "model.vision_tower.vision_tower.vision_model."),
            ("multi_modal_projector.linear_1", "model.mm_projector.0"),
            ("multi_modal_projector.linear_2", "model.mm_projector.2"),
            ("image_newline", "model.image_newline"),
        ):
            if name.startswith(old):
                renamed[new + name.removeprefix(old)] = tensor
    save_file(renamed, target / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, target / name)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("size", [(130, 70), (40, 200), (56, 56)])
def test_llava_next_qwen2_in_the_original_layout_equals_transformers_class(
    opened: Callable[..., Baseline], tmp_path: Path, size: tuple[int, int]
) -> None:
    baseline = opened("pictures-qwen2")
    session = open_tiny(as_llava_qwen(baseline.folder, tmp_path / "original"))
    assert session.describe()["mm_patch_merge_type"] == "spatial_unpad"
    picture = noise(*size)
    conversation = session.prompt(QUESTION, [picture])
    inputs = baseline.processor(text="<image>", images=[picture], return_tensors="pt")
    image_id = baseline.model.config.image_token_id
    count = int((inputs["input_ids"] == image_id).sum())
    ids: list[int] = []
    for token in conversation.placeholder_ids():
        ids += [image_id] * count if token == -200 else [token]
    assert len(ids) == conversation.prompt.num_tokens
    with torch.inference_mode():
        theirs = baseline.model(
            input_ids=torch.tensor([ids]),
            pixel_values=inputs["pixel_values"],
            image_sizes=inputs["image_sizes"],
        ).logits[0]
    ours = our_logits(session, conversation.prompt)
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_longva_with_anyres_is_an_argument(opened: Callable[..., Baseline], tmp_path: Path) -> None:
    source = opened("pictures-qwen2").folder
    unires = as_llava_qwen(source, tmp_path / "unires", merge="unires")
    anyres = as_llava_qwen(source, tmp_path / "anyres")
    asked = open_tiny(unires, patch_merge="spatial_unpad")
    logits = {}
    for name, session in (
        ("unires", open_tiny(unires)),
        ("anyres", open_tiny(anyres)),
        ("asked for", asked),
    ):
        logits[name] = our_logits(session, session.prompt(QUESTION, [noise(130, 70)]).prompt)
    torch.testing.assert_close(logits["asked for"], logits["anyres"], atol=0, rtol=0)
    assert len(logits["unires"]) < len(logits["anyres"])
    assert asked.describe()["mm_patch_merge_type"] == "spatial_unpad"
    # Frames of a video are the same in both.
    for session in (open_tiny(unires), asked):
        conversation = session.prompt(QUESTION, [VIDEO])
        assert conversation.prompt.num_visual_tokens == 4 * NUM_FRAMES
    with pytest.raises(SettingsError, match="mm_patch_merge_type='flat' is unknown; use unires"):
        open_tiny(unires, patch_merge="flat")
    with pytest.raises(SettingsError, match="unires belongs to LongVA; LlavaNextFor"):
        open_tiny(source, patch_merge="unires")


# Prompts


@pytest.mark.parametrize(
    ("name", "kinds", "expected"),
    [
        ("video-llama", ["video"], "USER: <video>\nQ ASSISTANT:"),
        ("video-llama", [], "USER: Q ASSISTANT:"),
        ("video-llama", ["picture", "picture"], "USER: <image>\n<image>\nQ ASSISTANT:"),
        ("video-mistral", ["video"], "<s>[INST] <video>\nQ [/INST]"),
        (
            "video-qwen2",
            ["picture", "picture"],
            "<|im_start|>user\n<image><image>\nQ<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("video-qwen2", [], "<|im_start|>user\n\nQ<|im_end|>\n<|im_start|>assistant\n"),
        ("pictures-llama", ["video"], "USER: <image>\nQ ASSISTANT:"),
    ],
)
def test_prompts_are_those_of_the_checkpoints_processor(
    opened: Callable[..., Baseline], name: Kind, kinds: list[Any], expected: str
) -> None:
    template = opened(name).session.template
    placed, order = template.place("Q", kinds)
    assert template.render([("user", placed)]) == expected
    assert order == list(range(len(kinds)))


@pytest.mark.parametrize("kind", ["video-llama", "video-mistral", "video-qwen2"])
def test_conversations_of_several_turns_equal_the_processors(
    opened: Callable[..., Baseline], kind: Kind
) -> None:
    baseline = opened(kind)
    turns: list[Turn] = [("user", "One."), ("assistant", "Two."), ("user", "Three?")]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    theirs = baseline.processor.apply_chat_template(messages, add_generation_prompt=True)
    assert baseline.session.template.render(turns) == theirs


@pytest.mark.slow
def test_templates_of_other_names_can_be_asked_for(opened: Callable[..., Baseline]) -> None:
    folder = opened("video-llama").folder
    session = open_tiny(folder, conv_template="vicuna_v1")
    text = session.prompt("Q", [VIDEO]).context_text
    assert text.startswith("A chat between a curious user")
    assert text.endswith(" USER: <video>\nQ ASSISTANT:")
    session = open_tiny(folder, conv_template="mistral_instruct")
    conversation = session.prompt("Q", [VIDEO])
    assert conversation.context_text == "[INST] <video>\nQ [/INST]"
    assert conversation.placeholder_ids()[0] == session.checkpoint.tokenizer.bos_token_id
    with pytest.raises(SettingsError, match="'llama_3' is unknown; use auto or vicuna_v1, mis"):
        open_tiny(folder, conv_template="llama_3")
    with pytest.raises(SettingsError, match=r"qwen_1_5 needs <\|im_start\|>"):
        open_tiny(folder, conv_template="qwen_1_5")


def test_a_question_that_names_its_places_keeps_them(opened: Callable[..., Baseline]) -> None:
    session = opened("video-llama").session
    text = session.prompt("Is <image> in <video>?", [noise(60, 60), VIDEO]).context_text
    assert text == "USER: Is <image> in <video>? ASSISTANT:"
    with pytest.raises(PromptError, match="has 1 placeholders, but 2 pictures and videos"):
        session.prompt("Is <image> there?", [noise(60, 60), VIDEO])
    with pytest.raises(PromptError, match="has 1 placeholders, but 0 pictures"):
        session.prompt("What does <video> mean?")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"no chat template \(chat_template\.jinja or chat_template\.json\); pass conv_temp"),
        ("{{ messages | length }}", "is not a plain sequence of turns; pass conv_template=vicuna"),
        ("{% for m in messages", "cannot be rendered"),
        (VICUNA.replace("<image>\n", "").replace("<video>\n", ""), "does not write <image>"),
        (VICUNA.replace("<video>\n", "<video>:"), "does not treat pictures and videos alike"),
        (VICUNA.replace("'ASSISTANT:' }}", "'BOT:' }}"), "opens an answer in two ways"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(
    opened: Callable[..., Baseline], template: str | None, message: str
) -> None:
    tokenizer = opened("pictures-llama").session.checkpoint.tokenizer
    tokenizer.chat_template = None
    media = MediaTokens(chat_template=template, picture="<image>", video="<video>")
    with pytest.raises(SettingsError, match=message):
        load_processor_template("auto", tokenizer, media)


def test_a_template_that_keeps_the_order_of_pictures_and_videos_is_followed(
    opened: Callable[..., Baseline],
) -> None:
    loop = "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    in_order = (
        "{% for message in messages %}{{ message['role'] + ':' }}"
        + loop
        + "{% else %}{{ '<' + part['type'] + '>' }}{% endif %}{% endfor %}{{ ';' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    tokenizer = opened("video-llama").session.checkpoint.tokenizer
    media = MediaTokens(chat_template=in_order, picture="<image>", video="<video>")
    template = load_processor_template("auto", tokenizer, media)
    placed, order = template.place("Q", ["video", "picture"])
    assert (placed, order) == ("<video><image>Q", [0, 1])
    for other in (VICUNA, INST, CHATML):
        media = MediaTokens(chat_template=other, picture="<image>", video="<video>")
        template = load_processor_template("auto", tokenizer, media)
        assert template.place("Q", ["video", "picture"])[1] == [1, 0]


# What a checkpoint says of itself


def test_the_context_is_counted_after_linear_scaling(opened: Callable[..., Baseline]) -> None:
    assert opened("video-llama").session.context_length == 10240
    assert opened("video-mistral").session.context_length == 32768
    assert open_tiny(opened("video-llama").folder, context_length=99).context_length == 99


def test_the_recipe_names_the_architecture(opened: Callable[..., Baseline]) -> None:
    recipe = opened("video-llama").session.describe()
    assert recipe["architecture"] == "LlavaNextVideoForConditionalGeneration"
    assert recipe["pools_before_projection"] is True
    assert recipe["conv_template"].startswith("processor (")
    assert recipe["rope"]["parameters"]["factor"] == 2.5
    assert opened("pictures-qwen2").session.describe()["pools_before_projection"] is False
    digests = {
        opened(kind).session.checkpoint.vision_digest()
        for kind in ("video-llama", "video-mistral", "pictures-qwen2")
    }
    assert len(digests) == 3


@pytest.mark.slow
def test_frames_can_be_pooled_as_in_longvas_needle_test(opened: Callable[..., Baseline]) -> None:
    baseline = opened("video-llama")
    session = open_tiny(baseline.folder, pool_after_projection=True)
    assert session.describe()["pools_before_projection"] is False
    conversation = session.prompt(QUESTION, [VIDEO])
    pixels = frames_to_pixel_values(frames_of(conversation), session.checkpoint.image_processor)
    pieces = conversation.prompt.visual_pieces
    with torch.inference_mode():
        projected = session.checkpoint.model.encode_pixels(pixels)
    expected = pool_visual_tokens(projected, pool_stride=2)
    torch.testing.assert_close(
        torch.stack(session.encoder.encode(pieces)), expected, atol=1e-5, rtol=0
    )
    own = baseline.session.encoder.encode(
        baseline.session.prompt(QUESTION, [VIDEO]).prompt.visual_pieces
    )
    assert float((torch.stack(own) - expected).abs().max()) > 0.1
    assert session.checkpoint.vision_digest() != baseline.session.checkpoint.vision_digest()
    with pytest.raises(SettingsError, match="no effect on LlavaNextForConditionalGeneration"):
        open_tiny(opened("pictures-qwen2").folder, pool_after_projection=True)


def test_the_tower_ends_at_the_layer_that_is_read(opened: Callable[..., Baseline]) -> None:
    model = opened("video-llama").session.checkpoint.model
    assert isinstance(model, LlavaNext)
    assert len(model.inner.model.vision_tower.encoder.layers) == 2
    assert model.vision_config.num_hidden_layers == 3


@pytest.mark.parametrize("kind", ["video-llama", "video-mistral", "pictures-qwen2"])
def test_the_planner_knows_its_sizes(opened: Callable[..., Baseline], kind: Kind) -> None:
    baseline = opened(kind)
    shape = read_model_shape(baseline.folder)
    language = baseline.model.model.language_model
    parameters = sum(p.numel() for p in language.parameters())
    assert shape.language_parameters == parameters + baseline.model.lm_head.weight.numel()
    text = baseline.model.config.text_config
    assert (shape.num_layers, shape.num_kv_heads) == (3, text.num_key_value_heads)
    assert shape.tokens_per_frame == 4
    assert shape.vision_layers == 2


def test_the_planner_knows_what_published_files_leave_out(tmp_path: Path) -> None:
    """`text_config` on the hub holds what differs from the class's defaults."""
    vision = {
        "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "patch_size": 14,
        "model_type": "clip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 24,
    }  # fmt: skip
    config = {
        "architectures": ["LlavaNextVideoForConditionalGeneration"],
        "model_type": "llava_next_video", "vision_config": vision, "spatial_pool_stride": 2,
        "text_config": {"model_type": "llama", "vocab_size": 32064},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    vicuna = read_model_shape(tmp_path)
    assert (vicuna.hidden_size, vicuna.num_layers, vicuna.num_kv_heads) == (4096, 32, 32)
    assert round(vicuna.language_parameters / 1e9, 3) == 6.739  # Llama 2 7B with 64 rows more
    assert vicuna.tokens_per_frame == 144
    config["text_config"] = {"model_type": "mistral", "vocab_size": 32064}
    (tmp_path / "config.json").write_text(json.dumps(config))
    mistral = read_model_shape(tmp_path)
    assert (mistral.num_kv_heads, mistral.intermediate_size) == (8, 14336)
    assert round(mistral.language_parameters / 1e9, 3) == 7.242
    config["text_config"] = {"model_type": "gemma"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="'gemma'; llama, mistral, qwen2 are known"):
        read_model_shape(tmp_path)


# Variants that are refused


@pytest.fixture(scope="module")
def hub_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "video-mistral"
    return make_checkpoint(folder, "video-mistral", old_files=True)


@pytest.fixture
def broken(hub_files: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hub_files, tmp_path / "broken"))


def change(folder: Path, file: str = "config.json", **values: Any) -> Path:
    path = folder / file
    data = json.loads(path.read_text())
    for key, value in values.items():
        part, _, name = key.partition("__")
        if name:
            data[part][name] = value
        else:
            data[key] = value
    path.write_text(json.dumps(data))
    return folder


def load(folder: Path, **options: Any) -> Checkpoint:
    return load_checkpoint(folder, LoadSettings(**{"device": "cpu", "dtype": "float32", **options}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text_config__model_type": "gemma"}, r"'text_config\.model_type': 'gemma'.*'mistral'"),
        ({"text_config__sliding_window": 4096}, "has a sliding window of 4096 tokens"),
        (
            {"vision_config__model_type": "siglip_vision_model"},
            r"'vision_config\.model_type': 'siglip_vision_model'.*'clip_vision_model'",
        ),
        ({"vision_feature_select_strategy": "full"}, "'vision_feature_select_strategy': 'full'"),
        ({"spatial_pool_mode": "conv"}, "'spatial_pool_mode': 'conv'"),
        ({"vision_feature_layer": [-2, -5]}, r"vision_feature_layer=\[-2, -5\]: features of sev"),
        ({"vision_feature_layer": -9}, "vision_feature_layer=-9 is outside of a tower of 3 layers"),
        ({"text_config": None}, "lacks text_config or vision_config"),
        (
            {"architectures": ["LlavaOnevision"]},
            r"architectures=\['LlavaOnevision'\]; one of Llava",
        ),
        ({"image_token_index": 5}, r"image_token_index=5, but the tokenizer's <image> is \d+"),
        ({"image_grid_pinpoints": [[60, 60]]}, "not made of whole tiles of 56 pixels"),
        ({"text_config__num_hidden_layers": 4}, r"does not hold the weights of a LlavaNextVideo"),
        ({"text_config__intermediate_size": 32}, "has weights of another shape"),
    ],
)
def test_unknown_variants_are_refused(broken: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(change(broken, **values))


def test_preparations_that_are_not_clips_are_refused(broken: Path) -> None:
    change(broken, "preprocessor_config.json", do_normalize=False)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json switches off do_norm"):
        load(broken)
    change(broken, "preprocessor_config.json", do_normalize=True, crop_size=28)
    with pytest.raises(CheckpointError, match="pixels for a tower of 56"):
        load(broken)
    other = json.loads((broken / "preprocessor_config.json").read_text()) | {"crop_size": 56}
    (broken / "preprocessor_config.json").write_text(json.dumps(other))
    (broken / "video_preprocessor_config.json").write_text(
        json.dumps(other | {"image_mean": [0.5, 0.5, 0.5]})
    )
    with pytest.raises(CheckpointError, match="prepares pictures and videos in two ways"):
        load(broken)
    (broken / "video_preprocessor_config.json").unlink()
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"neither preprocessor_config\.json nor process"):
        load(broken)


def test_the_name_of_earlier_files_is_understood(broken: Path) -> None:
    """Some files of LLaVA-NeXT-Video on the hub say `llava_next`."""
    assert load(change(broken, model_type="llava_next")).model.pools_before_projection


# lmms-eval


def test_each_id_takes_its_own_architecture_only(
    opened: Callable[..., Baseline], tmp_path: Path
) -> None:
    from longva_eval.model_adapters.llava_next import LlavaNext as NextAdapter
    from longva_eval.model_adapters.llava_next import LlavaNextVideo
    from longva_eval.model_adapters.longva import LongVA

    video = opened("video-llama").folder
    adapter = LlavaNextVideo(str(video), device="cpu", dtype="float32", journal="off")
    recipe = adapter.recipe()
    assert recipe["model"] == "longva_llava_next_video"
    assert recipe["architecture"] == "LlavaNextVideoForConditionalGeneration"
    with pytest.raises(CheckpointError, match=r"describes LlavaNextVideoFor.*for LlavaQwenForCau"):
        LongVA(str(video), device="cpu")
    with pytest.raises(CheckpointError, match="this model is for LlavaNextForConditionalGen"):
        NextAdapter(str(video), device="cpu")
    with pytest.raises(SettingsError, match=r"Unknown argument 'max_frame_num'\. Did you mean max"):
        LlavaNextVideo(str(video), max_frame_num=4)


def test_our_ids_hide_none_of_the_hosts() -> None:
    from lmms_eval.models import AVAILABLE_SIMPLE_MODELS

    from longva_eval.embedded import MODEL_CLASSES

    assert set(MODEL_CLASSES) & set(AVAILABLE_SIMPLE_MODELS) == {"longva"}
    assert {"longva_llava_next", "longva_llava_next_video"} < set(MODEL_CLASSES)


@pytest.mark.process
# lmms-eval leaves the file of its results open.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_evaluation_runs(
    opened: Callable[..., Baseline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = opened("video-llama").folder
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert main([
        "run", "--model", "longva_llava_next_video",
        "--model_args", f"pretrained={folder},device=cpu,dtype=float32,rope_theta=1e8",
        "--tasks", "vniah_small", "--limit", "1", "--output_path", str(tmp_path / "out"),
        "--log_samples",
    ]) == 0  # fmt: skip
    (path,) = (tmp_path / "out").rglob("*_results.json")
    recipe = json.loads(path.read_text(encoding="utf-8"))["longva_eval"]
    assert recipe["model"] == "longva_llava_next_video"
    assert recipe["architecture"] == "LlavaNextVideoForConditionalGeneration"
    parameters = recipe["rope"]["parameters"]
    assert (parameters["rope_theta"], parameters["factor"]) == (1e8, 2.5)
    (path,) = (tmp_path / "out").rglob("*_samples_vniah_small.jsonl")
    sample = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert sample["longva_eval"]["num_visual_tokens"] == 17 * 4
