"""LongVA for lmms-eval: `lmms-eval --model longva --model_args pretrained=...`.

A thin layer over `longva_eval.session`: requests become prompts, prompts become answers, answers
go back in the order the host wants. What differs from the adapter built into lmms-eval, which
this one replaces (docs/differences.md lists it all):

* needs no `longva` package, no CUDA, no flash-attn; runs in bfloat16, float32 or float16;
* all requests of a call are seen together, so that questions on one video share its frames;
* a video that cannot be read ends the run with its name, it is never answered blind;
* likelihoods are those of the answer's own tokens, for pictures and videos too;
* the template is the tokenizer's own, not Vicuna's.
"""

from __future__ import annotations

import difflib
import inspect
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from PIL import Image

from longva_eval.errors import EvaluationError, MediaError, PromptError, SettingsError
from longva_eval.generation import Generation, GenerationSettings, parse_gen_kwargs
from longva_eval.plugin import record_recipes
from longva_eval.progress import progress_bar
from longva_eval.prompt import tokenize
from longva_eval.rope import RopeSettings
from longva_eval.session import Conversation, Media, open_session
from longva_eval.video import FramePolicy

__all__ = ["LongVA"]

_PENDING_PICTURE_BYTES = 1 << 30
"""Pictures held at once while prompts are gathered; videos are held by name only."""

_NO_LONGER_NEEDED = {
    "model_name": "the architecture is read from the checkpoint's config.json",
    "truncation": "use long_prompt=error, keep_question or original",
    "customized_config": "edit the checkpoint's config.json",
    "token_strategy": "visual tokens always stand where the prompt says <image>",
}
"""Arguments of the built-in adapter, and what takes their place."""


class LongVA(lmms):  # type: ignore[misc]  # lmms-eval is untyped
    """LongVA as an lmms-eval model; every argument can be given in `--model_args`.

    Args:
        pretrained: A folder, a hub id such as `lmms-lab/LongVA-7B`, or the name of an embedded
            checkpoint such as `longva-tiny`.
        revision: Branch, tag or commit of the hub repository.
        device: `cpu`, `cuda`, `cuda:1`, or `auto`: a GPU if there is one, each process its own.
        device_map: `auto` spreads one model over all devices.
        dtype: `auto` (bfloat16 on CUDA, float32 elsewhere), `float32`, `bfloat16`, `float16`.
        attn_implementation: `sdpa`, `flash_attention_2` if installed, `eager`, or `sdpa_masked`,
            which is transformers' own `sdpa` with its explicit mask.
        conv_template: `auto` reads it from the tokenizer; or `qwen_1_5`.
        max_frames_num: Frames of a video; with `fps`, at most.
        fps: Frames a second, instead of a fixed number.
        short_video: Videos shorter than that: `repeat` (the original), `each_once`, `error`.
        mm_spatial_pool_stride: Pooling window of video frames; the checkpoint's if left out.
        mm_spatial_pool_mode: `average` or `max`; the checkpoint's if left out.
        video_decode_backend: `auto`, `decord`, `torchcodec` or `pyav`.
        image_aspect_ratio: `anyres`, `pad` or `crop`; the checkpoint's if left out.
        max_context_tokens: Longest prompt; the checkpoint's `max_position_embeddings`.
        long_prompt: Prompts beyond that: `error`, `keep_question` or `original`.
        chunk_tokens: Prefill goes in chunks of this many tokens.
        reuse: Whether prompts share what they have in common (same numbers, less work).
        vision_batch_size: Frames that go through the vision tower at once.
        feature_cache: Folder where visual tokens are kept for later runs (50 GiB at most).
        seed: For tasks that sample.
        batch_size: Accepted as the host passes it; prompts are answered one at a time.
        max_batch_size: As `batch_size`.
        **rope: `rope_theta`, `rope_type`, `rope_factor` and the other fields of `RopeSettings`
            with `rope_` before them (`rope_type` without doubling); lists joined by `/`.

    Raises:
        SettingsError: If an argument is unknown or impossible.
        CheckpointError: If the checkpoint cannot be loaded.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "lmms-lab/LongVA-7B",
        revision: str | None = None,
        device: str = "auto",
        device_map: str | None = None,
        dtype: str = "auto",
        attn_implementation: str = "sdpa",
        conv_template: str = "auto",
        max_frames_num: int = 128,
        fps: float | None = None,
        short_video: str = "repeat",
        mm_spatial_pool_stride: int | None = None,
        mm_spatial_pool_mode: str | None = None,
        video_decode_backend: str = "auto",
        image_aspect_ratio: str | None = None,
        max_context_tokens: int | None = None,
        long_prompt: str = "error",
        chunk_tokens: int = 2048,
        reuse: bool = True,
        vision_batch_size: int = 16,
        feature_cache: str | None = None,
        seed: int = 0,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
        **rope: Any,
    ) -> None:
        super().__init__()
        del batch_size, max_batch_size
        record_recipes()
        frames = FramePolicy(
            max_frames=_whole_number("max_frames_num", max_frames_num),
            fps=None if fps is None else float(fps),
            short_video=short_video,  # type: ignore[arg-type]  # checked by FramePolicy
        )
        self._session = open_session(
            pretrained,
            revision=revision,
            device=_own_device(device),
            device_map=device_map or None,
            dtype=dtype,  # type: ignore[arg-type]  # checked when the checkpoint is loaded
            attn_implementation=attn_implementation,  # type: ignore[arg-type]  # checked there
            conv_template=conv_template,
            frames=frames,
            backend=video_decode_backend,  # type: ignore[arg-type]  # checked there
            aspect=image_aspect_ratio,  # type: ignore[arg-type]  # checked there
            pool_stride=mm_spatial_pool_stride,
            pool_mode=mm_spatial_pool_mode,  # type: ignore[arg-type]  # checked there
            rope=_rope_settings(rope),
            context_length=max_context_tokens,
            long_prompt=long_prompt,  # type: ignore[arg-type]  # checked there
            chunk_tokens=_whole_number("chunk_tokens", chunk_tokens),
            reuse=_truth("reuse", reuse),
            vision_batch_size=_whole_number("vision_batch_size", vision_batch_size),
            feature_cache=feature_cache,
            seed=int(seed),
        )
        self.device = self._session.checkpoint.model.device
        self._ignored_settings: set[str] = set()
        self._prompts: dict[str, dict[str, Any]] = {}

    @property
    def rank(self) -> int:
        """This process among those that share the work."""
        return int(self._rank)

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        return self._session.checkpoint.tokenizer

    def recipe(self) -> dict[str, Any]:
        """How the scores were made; the plugin writes it into the results file."""
        counts = self._session.engine.counts
        return {
            "model": "longva",
            **self._session.describe(),
            "engine": {
                "tokens_asked": counts.tokens_asked,
                "tokens_computed": counts.tokens_computed,
                "frames_encoded": self._session.encoder.num_encoded,
                "media_read": self._session.encoder.num_passes,
            },
            "ignored_generation_settings": sorted(self._ignored_settings),
            "prompts": self._prompts,
        }

    def clean(self) -> None:
        """Let go of the model; lmms-eval calls this when all requests are answered."""
        recipe = self.recipe()
        self.recipe = lambda: recipe  # type: ignore[method-assign]  # the session goes, this stays
        del self._session
        super().clean()

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answer the requests; see `longva_eval.session.Session.generate`.

        A task that sets `score_column` in its generation settings gets, instead of plain text, a
        JSON object: the answer in that column of the document, scored as input token by token,
        and what the model says by itself (`longva_eval.session.Session.force`).

        Raises:
            MediaError: If a picture or video of a request cannot be read.
        """
        forced = [number for number, request in enumerate(requests) if _score_column(request)]
        plain = [number for number in range(len(requests)) if number not in set(forced)]
        answers: dict[int, GenerationResult] = {}
        with self._progress(len(requests), "Answering") as bar:
            for batch in self._batches(requests, plain):
                self._generate(requests, batch, answers, bar)
            for batch in self._batches(requests, forced):
                self._force(requests, batch, answers, bar)
        return [answers[number] for number in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Mean loss of each continuation (lower is better), and whether greedy decoding says it.

        lmms-eval 0.7.3 compares losses by argmin, whatever its docstring says, and turns a plain
        `(float, bool)` into a string; inside a `GenerationResult` the pair arrives unharmed. Its
        `--use_cache` cannot store such a pair.
        """
        results: dict[int, GenerationResult] = {}
        with self._progress(len(requests), "Scoring") as bar:
            for batch in self._batches(requests, range(len(requests))):
                texts = []
                for number, _ in batch:
                    continuation, request = requests[number].args[1], requests[number]
                    if callable(continuation):
                        continuation = continuation(self._document(request))
                    texts.append(str(continuation))
                scored = self._session.score([conversation for _, conversation in batch], texts)
                for (number, _), score in zip(batch, scored, strict=True):
                    if isinstance(score, MediaError):
                        raise _about(requests[number], score)
                    pair = (score.mean_loss, score.continuation.is_greedy)
                    results[number] = GenerationResult(text=pair)
                bar.update(len(batch))
        return [results[number] for number in range(len(requests))]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[list[str]]:
        """Answer tasks that ask again: each round's question comes from the task's own code."""
        answers: list[list[str]] = []
        with self._progress(len(requests), "Answering in rounds") as bar:
            for request in requests:
                context, gen_kwargs, to_visual, to_text, doc_id, task, split = request.args
                document = self.task_dict[task][split][doc_id]
                settings = self._settings(gen_kwargs)
                media = self._media(request, to_visual, document)
                said: list[str] = []
                info: Any = None
                while True:
                    conversation = self._conversation(request, context, media)
                    answer = self._session.generate([conversation], settings)[0]
                    if isinstance(answer, MediaError):
                        raise _about(request, answer)
                    said.append(answer.text)
                    media, context, is_last, said, info = to_text(
                        document,
                        previous_output=said,
                        round_idx=len(said),
                        previous_round_info=info,
                    )
                    said = list(said)
                    if is_last:
                        break
                    media = list(media or [])
                answers.append(said)
                bar.update(1)
        return answers

    def _generate(
        self,
        requests: Sequence[Instance],
        batch: Sequence[tuple[int, Conversation]],
        answers: dict[int, GenerationResult],
        bar: Any,
    ) -> None:
        settings = [self._settings(requests[number].args[1]) for number, _ in batch]

        def keep(place: int, answer: Generation | MediaError) -> None:
            number = batch[place][0]
            if isinstance(answer, MediaError):
                raise _about(requests[number], answer)
            tokens = TokenCounts(
                input_tokens=answer.num_prompt_tokens, output_tokens=len(answer.token_ids)
            )
            answers[number] = GenerationResult(text=answer.text, token_counts=tokens)
            bar.update(1)

        self._session.generate(
            [conversation for _, conversation in batch], settings, on_answer=keep
        )

    def _force(
        self,
        requests: Sequence[Instance],
        batch: Sequence[tuple[int, Conversation]],
        answers: dict[int, GenerationResult],
        bar: Any,
    ) -> None:
        prompts, expected = [], []
        for number, conversation in batch:
            request = requests[number]
            column = _score_column(request)
            answer = self._document(request).get(column)
            if not isinstance(answer, str) or not answer:
                raise SettingsError(
                    f"{_place(request)}: the task scores its column {column!r}, which holds "
                    f"{answer!r} instead of a text."
                )
            prompts.append(conversation.prompt)
            expected.append(tokenize(self.tokenizer, answer))
        limit = max(int(requests[number].args[1].get("max_new_tokens") or 0) for number, _ in batch)
        forced = self._session.force(
            prompts, expected, max_new_tokens=limit, on_answer=lambda *_: bar.update(1)
        )
        for (number, conversation), result in zip(batch, forced, strict=True):
            report = {
                "generated": result.generated,
                "correct": result.scores.is_greedy,
                "logprob": result.scores.log_prob,
                "answer_ids": result.scores.token_ids,
                "pred_ids": result.scores.argmax_ids,
                "min_margin": result.scores.min_margin,
            }
            tokens = TokenCounts(input_tokens=conversation.prompt.num_tokens, output_tokens=None)
            answers[number] = GenerationResult(text=json.dumps(report), token_counts=tokens)

    def _batches(
        self, requests: Sequence[Instance], numbers: Iterable[int]
    ) -> Iterable[list[tuple[int, Conversation]]]:
        """Prompts of the requests, as many at once as pictures fit in memory."""
        batch: list[tuple[int, Conversation]] = []
        held = 0
        for number in numbers:
            request = requests[number]
            media = self._media(request, request.args[2], self._document(request))
            batch.append((number, self._conversation(request, request.args[0], media)))
            held += sum(_picture_bytes(item) for item in media)
            if held > _PENDING_PICTURE_BYTES:
                yield batch
                batch, held = [], 0
        if batch:
            yield batch

    def _conversation(
        self, request: Instance, context: str, media: Sequence[Media]
    ) -> Conversation:
        try:
            # A needle test goes beyond the context on purpose: see _score_column.
            conversation = self._session.prompt(context, media, fit=not _score_column(request))
        except (MediaError, PromptError) as error:
            raise _about(request, error) from error
        task, doc_id = request.args[-2], request.args[-3]
        self._prompts.setdefault(str(task), {})[str(doc_id)] = conversation.describe()
        return conversation

    def _media(
        self, request: Instance, to_visual: Callable[[Any], Any], document: Any
    ) -> list[Media]:
        try:
            found = to_visual(document)
        except SystemExit as error:
            # Tasks end the whole process where a video is missing; the reason is worth keeping.
            raise MediaError(f"{_place(request)}: the task gave up: {error.code}") from error
        if found is None:
            return []
        if not isinstance(found, (list, tuple)):
            found = [found]
        if any(item is None for item in found):
            raise MediaError(f"{_place(request)}: the document has no picture or video.")
        pictures = [item for item in found if isinstance(item, Image.Image)]
        # The host's own convention for tasks that hand over the frames of a video as pictures.
        if request.metadata.get("task_type") == "video" and len(pictures) == len(found) > 0:
            return [pictures]
        return list(found)

    def _document(self, request: Instance) -> Any:
        *_, doc_id, task, split = request.args
        return self.task_dict[task][split][doc_id]

    def _settings(self, gen_kwargs: Mapping[str, Any]) -> GenerationSettings:
        settings, ignored = parse_gen_kwargs(
            gen_kwargs, self._session.checkpoint.generation_config, seed=self._session.seed
        )
        for name in set(ignored) - self._ignored_settings:
            logger.warning("The task sets {}, which has no meaning for longva.", name)
            self._ignored_settings.add(name)
        return settings

    def _progress(self, total: int, what: str) -> Any:
        return progress_bar(total, what, unit="question", disable=self.rank != 0)


def _score_column(request: Instance) -> str | None:
    """The column whose text is scored as input, if the task asks for that.

    Such prompts may be longer than the context, which is what a needle test is about.
    """
    gen_kwargs = request.args[1]
    return gen_kwargs.get("score_column") if isinstance(gen_kwargs, Mapping) else None


def _place(request: Instance) -> str:
    *_, doc_id, task, _ = request.args
    return f"Task {task}, document {doc_id}"


def _about(request: Instance, error: EvaluationError) -> EvaluationError:
    return type(error)(f"{_place(request)}: {error}")


def _picture_bytes(item: Media) -> int:
    if isinstance(item, Image.Image):
        return item.width * item.height * 3
    if isinstance(item, (list, tuple)):
        return sum(_picture_bytes(part) for part in item)
    return 0


def _own_device(device: str) -> str:
    """`auto` and plain `cuda` as this process's own GPU, when several share the work."""
    local = os.environ.get("LOCAL_RANK")
    if device in ("auto", "cuda") and local is not None and torch.cuda.is_available():
        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return device


def _whole_number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SettingsError(f"{name}={value!r} must be a whole number.")
    if value != int(value):
        raise SettingsError(f"{name}={value} must be a whole number.")
    return int(value)


def _truth(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "on": True, "yes": True, "1": True,
             "false": False, "off": False, "no": False, "0": False}  # fmt: skip
    if str(value).lower() not in known:
        raise SettingsError(f"{name}={value!r} must be true or false.")
    return known[str(value).lower()]


def _rope_settings(given: Mapping[str, Any]) -> RopeSettings:
    """RoPE settings from flat arguments; everything else that was given is unknown."""
    fields = {
        name if name == "rope_type" else f"rope_{name}": name
        for name in RopeSettings.__dataclass_fields__
    }
    values: dict[str, Any] = {}
    for argument, value in given.items():
        if argument not in fields:
            raise SettingsError(_unknown_argument(argument, fields))
        name = fields[argument]
        if name in ("short_factor", "long_factor"):
            value = tuple(_number(argument, part) for part in str(value).split("/"))
        elif name in ("original_length", "pinned_length"):
            value = _whole_number(argument, value)
        elif name != "rope_type":
            value = _number(argument, value)
        values[name] = value
    return RopeSettings(**values)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{name}={value!r} must be a number.") from error


def _unknown_argument(name: str, rope_names: Iterable[str]) -> str:
    if name in _NO_LONGER_NEEDED:
        return f"{name} is not an argument of this adapter: {_NO_LONGER_NEEDED[name]}."
    known = [*inspect.signature(LongVA.__init__).parameters, *rope_names]
    known = [other for other in known if other not in ("self", "rope")]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return f"Unknown argument {name!r}.{hint} Known: {', '.join(known)}."
