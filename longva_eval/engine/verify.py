"""Our engine beside transformers' own `generate()`, on the same checkpoint, asked the same things.

What cannot be tried everywhere (real weights, a GPU, another version of transformers) anybody can
try with one command, and a report of what is wrong begins with what it prints. The reference is the
checkpoint's own class, given what its own processor makes of the same frames; it shares nothing
with the engine but the weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from longva_eval.engine.conversation import Conversation, Media
from longva_eval.engine.generation import GenerationSettings
from longva_eval.engine.opening import attention_on
from longva_eval.engine.session import Session
from longva_eval.errors import SettingsError
from longva_eval.families.layout import FamilyCheckpoint
from longva_eval.families.template import FamilyTemplate
from longva_eval.media.sources import FrameStack, Picture, VideoFrames
from longva_eval.prompts.pieces import TextPiece
from longva_eval.prompts.visits import Query

__all__ = ["Comparison", "reference_inputs", "summary_of", "verify", "verify_attention"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One question, asked both ways."""

    case: str
    num_prompt_tokens: int
    prompts_equal: bool
    """Whether both prompts have the same token ids."""
    logit_difference: float
    """Largest at the last position of the prompt."""
    margin: float
    """Between the reference's best and second-best logit there."""
    flips: int
    """Tokens of the answers that differ."""
    seconds: float
    reference_seconds: float

    @property
    def is_equal(self) -> bool:
        return self.prompts_equal and self.flips == 0


def verify(
    session: Session, video: str | Path, *, max_new_tokens: int = 16, model: Any = None
) -> list[Comparison]:
    """Text, pictures, videos and questions that share a video, both ways.

    Args:
        session: Of a family of transformers.
        video: A file.
        max_new_tokens: Tokens of each answer.
        model: transformers' own class with the weights; the session's if None.

    Raises:
        SettingsError: If the session is of a model that transformers has no class for.
    """
    family = _checkpoint(session).family
    cases, texts = _cases(video, mixed=family.mixes_pictures_and_videos)
    settings = _settings(session, max_new_tokens)
    conversations = [session.prompt(*asked) for asked in zip(texts, cases.values(), strict=True)]
    thought, session.thought = session.thought, None  # a thought is compared as an answer
    answers = _ask(session, conversations, settings)
    session.thought = thought
    found = []
    for case, text, conversation, answer in zip(cases, texts, conversations, answers, strict=True):
        inputs = reference_inputs(session, conversation, text, cases[case])
        reference = _reference(family.model if model is None else model, inputs, settings)
        equal = _ids(session, conversation) == inputs["input_ids"][0].tolist()
        found.append(_comparison(case, conversation, answer, reference, prompts_equal=equal))
    return found


def verify_attention(
    session: Session, video: str | Path, against: str, *, max_new_tokens: int = 16
) -> list[Comparison]:
    """The same with the session's attention back end and with another one, which is the reference.

    Args:
        session: Of any model.
        video: A file.
        against: A back end of ours, or one of transformers' own.
        max_new_tokens: Tokens of each answer.

    Raises:
        SettingsError: If the other one is unknown or lacks something here.
    """
    checkpoint = session.checkpoint
    (against,) = attention_on(checkpoint.device, against, checkpoint.model.dtype)
    cases, texts = _cases(video, mixed=False)
    conversations = [session.prompt(*asked) for asked in zip(texts, cases.values(), strict=True)]
    settings = _settings(session, max_new_tokens)
    ours, answers = session.attention, []
    for name in (ours, against):
        session.change_attention(name)
        answers.append(_ask(session, conversations, settings))
    session.change_attention(ours)
    return list(map(_comparison, cases, conversations, *answers))


class _Asked(NamedTuple):
    """What came of a question."""

    tokens: Sequence[int]
    logits: torch.Tensor
    """(vocabulary,) after the prompt."""
    seconds: float


def _settings(session: Session, max_new_tokens: int) -> GenerationSettings:
    ends = session._settings_for(None, 1)[0].end_token_ids
    return GenerationSettings(max_new_tokens=max_new_tokens, end_token_ids=ends)


def _ask(
    session: Session, conversations: Sequence[Conversation], settings: GenerationSettings
) -> list[_Asked]:
    """Ask all questions together."""
    began = time.perf_counter()
    answers = session.generate(conversations, settings)
    seconds = (time.perf_counter() - began) / len(conversations)
    visits = session.engine.visit([Query(each.prompt) for each in conversations])
    logits = {visit.index: visit.logits[-1].clone() for visit in visits}
    found = []
    for number, answer in enumerate(answers):
        if isinstance(answer, Exception):
            raise answer
        found.append(_Asked(answer.token_ids, logits[number], seconds))
    return found


def _comparison(
    case: str,
    conversation: Conversation,
    ours: _Asked,
    reference: _Asked,
    *,
    prompts_equal: bool = True,
) -> Comparison:
    best = reference.logits.topk(2).values
    difference = ours.logits.to(reference.logits.device) - reference.logits
    return Comparison(
        case=case,
        num_prompt_tokens=conversation.prompt.num_tokens,
        prompts_equal=prompts_equal,
        logit_difference=float(difference.abs().max()),
        margin=float(best[0] - best[1]),
        flips=_differing(ours.tokens, reference.tokens),
        seconds=ours.seconds,
        reference_seconds=reference.seconds,
    )


def _cases(video: str | Path, *, mixed: bool) -> tuple[dict[str, list[Media]], list[str]]:
    """What is shown, by the case's name, and the question to each."""
    one, two = _noise(90, 50, seed=1), _noise(64, 72, seed=2)
    cases: dict[str, list[Media]] = {
        "text": [],
        "a picture": [one],
        "two pictures": [one, two],
        "a video": [video],
        "the same video, another question": [video],
        "two videos": [video, video],
    }
    questions = ("What happens first?", "Which colour is the second thing, and why?")
    texts = [questions["another" in case] for case in cases]
    if mixed:
        cases["a picture and a video"] = [one, video]
        texts.append(questions[0])
    return cases, texts


def summary_of(found: Sequence[Comparison]) -> dict[str, Any]:
    """What `longva-eval verify --format json` prints of all cases together."""
    return {
        "cases": len(found),
        "largest_logit_difference": max(each.logit_difference for each in found),
        "flips": sum(each.flips for each in found),
        "tokens_equal": all(each.is_equal for each in found),
    }


def reference_inputs(
    session: Session, conversation: Conversation, text: str, media: Sequence[Media]
) -> dict[str, Any]:
    """What the checkpoint's own processor makes of the same frames and times."""
    checkpoint = _checkpoint(session)
    processor = checkpoint.family.processor
    template = session.template
    assert isinstance(template, FamilyTemplate)
    content: list[dict[str, str]] = []
    images: list[Image.Image] = []
    videos: list[Any] = []
    metadata: list[dict[str, Any]] = []
    for pieces, _ in zip(conversation.visuals, media, strict=True):
        source = pieces[0].source
        content.append({"type": "image" if isinstance(source, Picture) else "video"})
        if isinstance(source, Picture):
            images.append(source.image)
            continue
        assert isinstance(source, (VideoFrames, FrameStack))
        distinct = sorted(set(source.items))
        frames = np.concatenate([np.asarray(block) for block in source.frames(distinct)])
        videos.append(frames[[distinct.index(item) for item in source.items]])
        units = [piece for piece in pieces if piece.seconds]
        seconds = [second for unit in units for second in unit.seconds][: len(source.items)]
        spacing = session.vision._interval_seconds(units) / session.vision.frames_per_unit  # type: ignore[union-attr]
        # One frame a second, shown at `frames_indices`; as long as the frames reach.
        metadata.append(
            {"fps": 1.0, "frames_indices": seconds, "total_num_frames": len(seconds) * spacing}
        )
    content.append({"type": "text", "text": text})
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=template.thinking == "on",
    )
    more: dict[str, Any] = {}
    if videos:
        more = {"videos": videos, "video_metadata": metadata, "do_sample_frames": False}
    bos = processor.tokenizer.bos_token
    return dict(
        processor(
            text=[prompt],
            images=[images] if images else None,
            add_special_tokens=not (bos and prompt.startswith(bos)),
            return_tensors="pt",
            **more,
        )
    )


@torch.inference_mode()
def _reference(model: Any, inputs: Mapping[str, Any], settings: GenerationSettings) -> _Asked:
    """Greedy tokens of `generate()`, and the logits after the prompt by one whole pass."""
    began = time.perf_counter()
    known = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }
    length = known["input_ids"].shape[1]
    with _own_attention(model):
        generated = model.generate(
            **known,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=list(settings.end_token_ids) or None,
        )
    with _own_attention(model):
        logits = model(**known, use_cache=False, logits_to_keep=1).logits[0, -1].float()
    return _Asked(generated[0, length:].tolist(), logits, time.perf_counter() - began)


@contextmanager
def _own_attention(model: Any) -> Iterator[None]:
    """Transformers' own attention, and no memory of an earlier prompt."""
    text = model.config.get_text_config()
    before = text._attn_implementation
    _forget(model)
    text._attn_implementation = "sdpa" if before.startswith("split") else before
    try:
        yield
    finally:
        text._attn_implementation = before
        _forget(model)


def _forget(model: Any) -> None:
    if hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None


def _ids(session: Session, conversation: Conversation) -> list[int]:
    ids: list[int] = []
    for piece in conversation.prompt.pieces:
        if isinstance(piece, TextPiece):
            ids += piece.token_ids
        else:
            ids += [session.checkpoint.pad_id(piece)] * piece.num_tokens
    return ids


def _differing(ours: Sequence[int], theirs: Sequence[int]) -> int:
    same = 0
    for one, two in zip(ours, theirs, strict=False):
        if one != two:
            break
        same += 1
    return max(len(ours), len(theirs)) - same


def _noise(width: int, height: int, *, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _checkpoint(session: Session) -> FamilyCheckpoint:
    if not isinstance(session.checkpoint, FamilyCheckpoint):
        raise SettingsError(
            f"{session.checkpoint.architecture} is no class of transformers to compare with. "
            "LongVA is compared with its original's recorded outputs in the tests, and "
            "with another attention back end by --against."
        )
    return session.checkpoint
