"""An open model with its settings: prompts in, answers out.

The one place where the parts meet: checkpoint, template, frame policy, encoder and engine. The
lmms-eval adapter and the needle test are thin layers over it, and so is a notebook:

    session = open_session("lmms-lab/LongVA-7B", frames=FramePolicy(max_frames=64))
    prompt = session.prompt("What happens in this video?", ["film.mp4"])
    answer = session.generate([prompt])[0]
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from longva_eval import __version__
from longva_eval.engine.encoder import VisualEncoder
from longva_eval.engine.feature_cache import FeatureCache
from longva_eval.engine.generation import (
    Generation,
    GenerationSettings,
    TokenScores,
    decode,
    merge_scores,
    parse_gen_kwargs,
    score_tokens,
)
from longva_eval.engine.prefix import PrefixEngine
from longva_eval.engine.sources import FrameStack, Picture, ReadFrames, VideoFrames
from longva_eval.errors import MediaError, NumericalError, PromptError, SettingsError
from longva_eval.media.decode import DecodeBackend, read_frames
from longva_eval.media.decode_worker import DecodeWorker
from longva_eval.media.frames import FramePolicy, FrameSample, sample_frames
from longva_eval.media.images import ImageAspectRatio, PatchMerge, open_image
from longva_eval.media.probe import VideoInfo, probe_video
from longva_eval.media.subtitles import fill_subtitles
from longva_eval.model.attention import SPLIT_SDPA, register_split_sdpa
from longva_eval.model.checkpoint import Checkpoint, DType, change_rope, load_checkpoint
from longva_eval.model.modeling import PoolMode
from longva_eval.model.rope import RopeSettings
from longva_eval.prompts.pieces import (
    ChatTemplate,
    Prompt,
    Turn,
    VisualPiece,
    load_template,
    placeholder_ids,
    tokenize,
)
from longva_eval.prompts.processor_template import load_processor_template
from longva_eval.prompts.visits import Query

__all__ = [
    "AttentionKind",
    "ComposedClip",
    "Conversation",
    "Failure",
    "ForcedAnswer",
    "LongPromptPolicy",
    "Media",
    "ScoredText",
    "Session",
    "open_session",
]

AttentionKind = Literal["sdpa", "sdpa_masked", "eager", "flash_attention_2"]
LongPromptPolicy = Literal["error", "keep_question", "original"]
Failure = MediaError | NumericalError
"""What can be wrong with one prompt of many."""
ClipPart = tuple[Path, tuple[int, ...]] | Image.Image
"""Frames of a video, by index; or a picture that is shown as one frame."""


@dataclass(frozen=True, kw_only=True)
class ComposedClip:
    """A video put together from frames of videos and pictures, without writing it anywhere."""

    parts: tuple[ClipPart, ...]
    aspect: ImageAspectRatio = "crop"
    """How frames and pictures are prepared; V-NIAH uses `pad`."""


Media = Image.Image | str | Path | Sequence[Image.Image] | ComposedClip
"""A picture, the path of a picture or video, pictures that are the frames of one video, or a clip
composed of several."""

PICTURE_SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".jfif",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A prompt, and what the record says about it."""

    prompt: Prompt
    context_text: str
    """The rendered conversation, up to where the assistant speaks."""
    visuals: tuple[tuple[VisualPiece, ...], ...]
    """The pieces of each picture or video, in order."""
    frames: tuple[FrameSample, ...] = ()
    """For each video, the frames that were chosen."""
    num_tokens_cut: int = 0
    """Tokens left out because the prompt was longer than the context."""
    subtitles: dict[str, Any] | None = None
    """What is said about subtitles put in at the frames (`longva_eval.media.subtitles`)."""

    def _frames_seen(self) -> list[int]:
        """Frames of each video that are in the prompt, whole or in part."""
        shown = {id(piece.whole or piece) for piece in self.prompt.visual_pieces}
        videos = [pieces for pieces in self.visuals if not isinstance(pieces[0].source, Picture)]
        return [sum(id(piece) in shown for piece in pieces) for pieces in videos]

    def placeholder_ids(self) -> list[int]:
        """Token ids of the whole prompt with -200 for each picture or video."""
        return placeholder_ids(self.prompt, self.visuals)

    def describe(self) -> dict[str, Any]:
        """Frames asked and seen, and tokens, for a sample's record."""
        return {
            "num_prompt_tokens": self.prompt.num_tokens,
            "num_visual_tokens": self.prompt.num_visual_tokens,
            "num_tokens_cut": self.num_tokens_cut,
            "videos": [
                {
                    "num_frames_asked": sample.num_frames_asked,
                    "num_frames_seen": seen,
                    "num_frames_total": sample.num_frames_total,
                    "frame_indices": list(sample.indices),
                    "timestamps_seconds": list(sample.timestamps_seconds),
                }
                for sample, seen in zip(self.frames, self._frames_seen(), strict=True)
            ],
            **({} if self.subtitles is None else {"subtitles": self.subtitles}),
        }


@dataclass(frozen=True, kw_only=True)
class ScoredText:
    """How likely a text is as the answer to a prompt."""

    all_tokens: TokenScores
    """The text and what the template closes an answer with: what the original scores."""
    continuation: TokenScores
    """The text alone."""

    @property
    def mean_loss(self) -> float:
        """Mean cross-entropy over all scored tokens, the original's measure; lower is better."""
        return -self.all_tokens.log_prob / len(self.all_tokens.token_ids)


@dataclass(frozen=True, kw_only=True)
class ForcedAnswer:
    """An answer that was scored as input, and what the model says by itself."""

    scores: TokenScores
    """Over the whole output layer, padding rows included, as in the original's needle test."""
    generated: str
    """What greedy decoding says, without penalty; empty if nothing was decoded."""

    def to_json(self) -> dict[str, Any]:
        """As it is written down: for the host, in journals and in results of needle tests."""
        return {
            "generated": self.generated,
            "correct": self.scores.is_greedy,
            "logprob": self.scores.log_prob,
            "answer_ids": list(self.scores.token_ids),
            "pred_ids": list(self.scores.argmax_ids),
            "min_margin": self.scores.min_margin,
        }


@dataclass(kw_only=True)
class Session:
    """A checkpoint with settings for prompts, frames and decoding."""

    checkpoint: Checkpoint
    template: ChatTemplate
    frames: FramePolicy = field(default_factory=FramePolicy)
    backend: DecodeBackend = "auto"
    aspect: ImageAspectRatio = "anyres"
    pool_stride: int = 2
    pool_mode: PoolMode = "average"
    context_length: int
    """Longest prompt in tokens."""
    long_prompt: LongPromptPolicy = "error"
    attention: AttentionKind = "sdpa"
    seed: int = 0
    probe: Callable[[str | Path], VideoInfo] = probe_video
    """Looks at a video; `read` decodes it. Both in a process of their own, by default."""
    read: ReadFrames = read_frames
    encoder: VisualEncoder
    engine: PrefixEngine

    def prompt(
        self,
        text: str,
        media: Sequence[Media] = (),
        *,
        history: Sequence[Turn] = (),
        aspect: ImageAspectRatio | None = None,
        fit: bool = True,
    ) -> Conversation:
        """The prompt for a question about pictures and videos.

        Args:
            text: The question; may say `<image>` where each picture or video belongs.
            media: Pictures and videos, in order.
            history: Earlier turns; pictures and videos belong to the first of them.
            aspect: How pictures are encoded, instead of the session's `aspect`.
            fit: Whether the prompt must fit the context; False for tests of what lies beyond it.

        Raises:
            MediaError: If a picture or video cannot be read.
            PromptError: If placeholders do not fit, or the prompt is longer than the context
                and `long_prompt` is `error`.
        """
        visuals: list[tuple[VisualPiece, ...]] = []
        samples: list[FrameSample] = []
        kinds: list[Literal["picture", "video"]] = []
        for item in media:
            pieces, sample = self.visual(item, aspect=aspect)
            visuals.append(tuple(pieces))
            kinds.append("picture" if sample is None else "video")
            if sample is not None:
                samples.append(sample)
        text, subtitles = fill_subtitles(text, [sample.timestamps_seconds for sample in samples])
        turns = [*history, ("user", text)]
        role, first = turns[0]
        # A template may show pictures before videos; the order among videos stays.
        placed, order = self.template.place(first, kinds)
        visuals = [visuals[number] for number in order]
        rendered = self.template.render([(role, placed), *turns[1:]])
        prompt = self.template.build(self.checkpoint.tokenizer, rendered, visuals)
        fitted, cut = self._fit(prompt) if fit else (prompt, 0)
        return Conversation(
            prompt=fitted,
            context_text=rendered,
            visuals=tuple(visuals),
            frames=tuple(samples),
            num_tokens_cut=cut,
            subtitles=subtitles,
        )

    def generate(
        self,
        conversations: Sequence[Conversation],
        settings: GenerationSettings | Sequence[GenerationSettings] | None = None,
        *,
        on_answer: Callable[[int, Generation | Failure], None] | None = None,
        only: Collection[int] | None = None,
        keep_going: bool = False,
    ) -> list[Generation | Failure]:
        """Answer prompts, sharing what they have in common.

        Args:
            conversations: From `prompt`.
            settings: For all, or one for each; greedy with the checkpoint's penalty if None.
            on_answer: Called with each index and answer as soon as it is there, in the order in
                which prompts are visited.
            only: Which prompts to answer; all if None. The others are planned with
                (`PrefixEngine.visit`).
            keep_going: Let NaN logits stand in the answer's place too, instead of raising.

        Returns:
            An answer for each prompt that was to be answered, in the order given. Where a picture
            or video cannot be decoded, the error stands in the answer's place.

        Raises:
            NumericalError: If logits are NaN or infinite, unless `keep_going`.
        """
        chosen = self._settings_for(settings, len(conversations))
        answers: dict[int, Generation | Failure] = {}
        queries = [Query(conversation.prompt) for conversation in conversations]
        room = max((setting.max_new_tokens for setting in chosen), default=0)
        for visit in self.engine.visit(
            queries, room=min(room, 4096), only=only, keep_going=keep_going
        ):
            answer: Generation | Failure
            if visit.error is not None:
                answer = visit.error
            else:
                try:
                    answer = decode(
                        visit,
                        self.checkpoint.tokenizer,
                        chosen[visit.index],
                        prompt=queries[visit.index].prompt,
                        num_entries=self.checkpoint.num_tokenizer_entries,
                    )
                except NumericalError as error:
                    if not keep_going:
                        raise
                    answer = error
            answers[visit.index] = answer
            if on_answer is not None:
                on_answer(visit.index, answer)
        return [answers[index] for index in sorted(answers)]

    def score(
        self,
        conversations: Sequence[Conversation],
        continuations: Sequence[str],
        *,
        on_answer: Callable[[int, ScoredText | Failure], None] | None = None,
        only: Collection[int] | None = None,
        keep_going: bool = False,
    ) -> list[ScoredText | Failure]:
        """How likely each continuation is as the assistant's answer.

        The text is tokenised together with its prompt and with what the template closes an
        answer with, as in the original. `on_answer`, `only` and `keep_going` are those of
        `generate`.

        Raises:
            PromptError: If a prompt was cut: its end, which the answer follows, would be missing.
            NumericalError: If logits are NaN or infinite.
        """
        queries: list[Query] = []
        texts: list[tuple[tuple[int, ...], int]] = []
        for conversation, continuation in zip(conversations, continuations, strict=True):
            if conversation.num_tokens_cut:
                raise PromptError(
                    f"A prompt was shortened by {conversation.num_tokens_cut} tokens; likelihoods "
                    "need the whole one. Ask for fewer frames, or set max_context_tokens higher."
                )
            query, scored, num_continuation = self._scoring_query(conversation, continuation)
            queries.append(query)
            texts.append((scored, num_continuation))
        results: dict[int, ScoredText | Failure] = {}
        entries = self.checkpoint.num_tokenizer_entries
        for visit in self.engine.visit(queries, only=only, keep_going=keep_going):
            result: ScoredText | Failure
            if visit.error is not None:
                result = visit.error
            else:
                scored, num_continuation = texts[visit.index]
                scores = score_tokens(visit.logits[:, :entries], scored)
                result = ScoredText(
                    all_tokens=scores, continuation=merge_scores(scores, first=num_continuation)
                )
            results[visit.index] = result
            if on_answer is not None:
                on_answer(visit.index, result)
        return [results[index] for index in sorted(results)]

    def force(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[tuple[int, ...]],
        *,
        max_new_tokens: int | Sequence[int] = 0,
        on_answer: Callable[[int, ForcedAnswer], None] | None = None,
        only: Collection[int] | None = None,
        on_failure: Callable[[int, Failure], None] | None = None,
    ) -> list[ForcedAnswer]:
        """Score answers with the true answer as input, and decode what the model says by itself.

        Args:
            prompts: What comes before each answer.
            answers: Token ids of each answer, one at least.
            max_new_tokens: Tokens to decode after each prompt, or after all; 0 for none.
            on_answer: Called with each index and answer as soon as it is there, in the order in
                which prompts are visited.
            only: Which answers to score; all if None. The others are planned with
                (`PrefixEngine.visit`).
            on_failure: Called with each index and error, whose answer is then missing among the
                results; without it they are raised.

        Raises:
            MediaError: If a picture or video cannot be decoded, unless `on_failure`.
            NumericalError: If logits are NaN or infinite, unless `on_failure`.
        """
        # Two queries each: the answer as input, and the prompt alone. They share all of the
        # prompt, so the second costs next to nothing.
        queries = [
            Query(prompt.with_tokens(answer[:-1]), read_from=prompt.num_tokens - 1)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        if isinstance(max_new_tokens, int):
            max_new_tokens = [max_new_tokens] * len(prompts)
        if any(max_new_tokens):
            queries += [Query(prompt) for prompt in prompts]
        scores: dict[int, TokenScores] = {}
        texts: dict[int, str] = {}
        results: dict[int, ForcedAnswer] = {}
        end_token_ids = self._settings_for(None, 1)[0].end_token_ids
        chosen = set(range(len(prompts))) if only is None else set(only)
        wanted = [place for place in range(len(prompts)) if place in chosen]
        wanted += [len(prompts) + place for place in wanted if max_new_tokens[place] > 0]
        failed: set[int] = set()
        for visit in self.engine.visit(
            queries,
            room=max(max_new_tokens, default=0),
            only=wanted,
            keep_going=on_failure is not None,
        ):
            place = visit.index % len(prompts)
            try:
                if visit.error is not None:
                    raise visit.error
                if visit.index < len(prompts):
                    scores[place] = score_tokens(visit.logits, answers[place])
                else:
                    texts[place] = decode(
                        visit,
                        self.checkpoint.tokenizer,
                        GenerationSettings(
                            max_new_tokens=max_new_tokens[place], end_token_ids=end_token_ids
                        ),
                        prompt=prompts[place],
                        num_entries=self.checkpoint.num_tokenizer_entries,
                    ).text
            except (MediaError, NumericalError) as error:
                if on_failure is None:
                    raise
                if place not in failed:
                    failed.add(place)
                    on_failure(place, error)
                continue
            if place in scores and (place in texts or max_new_tokens[place] == 0):
                results[place] = ForcedAnswer(scores=scores[place], generated=texts.get(place, ""))
                if on_answer is not None:
                    on_answer(place, results[place])
        return [results[place] for place in sorted(results)]

    def change_rope(self, rope: RopeSettings) -> None:
        """Answer with other RoPE settings from now on; visual tokens stay valid.

        Raises:
            SettingsError: If the settings do not fit the checkpoint.
        """
        self.checkpoint = change_rope(self.checkpoint, rope)

    def describe(self) -> dict[str, Any]:
        """How every number of this session was made."""
        return {
            **self.checkpoint.describe(),
            "attn_implementation": self.attention,
            "conv_template": self.template.name,
            "frames": self.frames.describe(),
            "video_decode_backend": self.backend,
            "image_processor": type(self.checkpoint.image_processor).__name__,
            "image_aspect_ratio": self.aspect,
            "mm_patch_merge_type": self.checkpoint.config.mm_patch_merge_type,
            "image_newline": self.checkpoint.model.image_newline is not None,
            "pools_before_projection": self.checkpoint.model.pools_before_projection,
            "mm_spatial_pool_stride": self.pool_stride,
            "mm_spatial_pool_mode": self.pool_mode,
            "seed": self.seed,
            "reuse": self.engine.reuse,
            "chunk_tokens": self.engine.chunk_tokens,
            "max_context_tokens": self.context_length,
            "long_prompt": self.long_prompt,
            "versions": package_versions(),
        }

    def visual(
        self, item: Media, *, aspect: ImageAspectRatio | None = None
    ) -> tuple[list[VisualPiece], FrameSample | None]:
        """The pieces of a picture or video, and the frames chosen if it is a video.

        Args:
            item: What to show.
            aspect: How a picture is encoded, instead of the session's `aspect`.

        Raises:
            MediaError: If it cannot be read, or is none of these.
        """
        if isinstance(item, ComposedClip):
            return self._composed_pieces(item)
        if isinstance(item, Image.Image) or _is_picture_path(item):
            picture = Picture(
                checkpoint=self.checkpoint,
                image=open_image(item),  # type: ignore[arg-type]  # narrowed by _is_picture_path
                aspect=aspect or self.aspect,
            )
            return picture.pieces(), None
        if isinstance(item, (str, Path)):
            info = self.probe(item)
            sample = sample_frames(info, self.frames)
            return self._video(info, sample, "crop").pieces(), sample
        if isinstance(item, (list, tuple)) and item and all(map(_is_picture, item)):
            stack = self._stack(item, "crop")
            return stack.pieces(), _sample_of_stack(len(item))
        raise MediaError(
            f"{str(item)[:120]!r} of type {type(item).__name__} is neither a picture, nor the path "
            "of a picture or video, nor a list of frames."
        )

    def _video(self, info: VideoInfo, sample: FrameSample, aspect: ImageAspectRatio) -> VideoFrames:
        return VideoFrames(
            checkpoint=self.checkpoint,
            info=info,
            sample=sample,
            backend=self.backend,
            aspect=aspect,
            pool_stride=self.pool_stride,
            pool_mode=self.pool_mode,
            read=self.read,
        )

    def _stack(self, pictures: Sequence[Image.Image], aspect: ImageAspectRatio) -> FrameStack:
        return FrameStack(
            checkpoint=self.checkpoint,
            pictures=tuple(open_image(picture) for picture in pictures),
            aspect=aspect,
            pool_stride=self.pool_stride,
            pool_mode=self.pool_mode,
        )

    def _composed_pieces(self, clip: ComposedClip) -> tuple[list[VisualPiece], FrameSample]:
        pieces: list[VisualPiece] = []
        for part in clip.parts:
            if isinstance(part, Image.Image):
                pieces.extend(self._stack([part], clip.aspect).pieces())
                continue
            path, indices = part
            if not indices:
                continue
            info = self.probe(path)
            if not 0 <= min(indices) <= max(indices) < info.num_frames:
                raise MediaError(
                    f"{path} has {info.num_frames} frames, frame {max(indices)} is asked for."
                )
            sample = FrameSample(
                indices=indices,
                timestamps_seconds=tuple(
                    round(float(info.presentation_seconds[index]), 3) for index in indices
                ),
                num_frames_asked=len(indices),
                num_frames_total=info.num_frames,
            )
            pieces.extend(self._video(info, sample, clip.aspect).pieces())
        return pieces, _sample_of_stack(len(pieces))

    def _fit(self, prompt: Prompt) -> tuple[Prompt, int]:
        """Apply the policy for prompts that are longer than the context."""
        excess = prompt.num_tokens - self.context_length
        if excess <= 0:
            return prompt, 0
        if self.long_prompt == "original":
            return prompt.first(self.context_length), excess
        if self.long_prompt == "keep_question":
            return _without_last_visuals(prompt, excess), excess
        raise PromptError(
            f"The prompt has {prompt.num_tokens:,} tokens ({prompt.num_visual_tokens:,} of them "
            f"visual), the context holds {self.context_length:,}. Ask for fewer frames "
            "(max_frames_num), set max_context_tokens higher, or choose what to leave out: "
            "long_prompt=keep_question drops the last visual tokens, long_prompt=original cuts "
            "the end of the prompt, question included."
        )

    def _settings_for(
        self, settings: GenerationSettings | Sequence[GenerationSettings] | None, count: int
    ) -> list[GenerationSettings]:
        if settings is None:
            settings = parse_gen_kwargs({}, self.checkpoint.generation_config, seed=self.seed)[0]
        if isinstance(settings, GenerationSettings):
            return [settings] * count
        if len(settings) != count:
            raise SettingsError(f"{len(settings)} settings were given for {count} prompts.")
        return list(settings)

    def _scoring_query(
        self, conversation: Conversation, continuation: str
    ) -> tuple[Query, tuple[int, ...], int]:
        """The query that reads a continuation's logits, its tokens, and how many are its own."""
        tokenizer = self.checkpoint.tokenizer
        context = conversation.prompt
        full_text = conversation.context_text + continuation + self.template.assistant_end
        full = self.template.build(tokenizer, full_text, conversation.visuals)
        # Both are cut at `<image>`, so only the last text can differ between them.
        context_ids = placeholder_ids(context, conversation.visuals)
        full_ids = placeholder_ids(full, conversation.visuals)
        if full_ids[: len(context_ids)] == context_ids:
            scored = tuple(full_ids[len(context_ids) :])
        else:
            # A token would span the end of the prompt and the start of the answer. The model is
            # asked with the prompt's own tokens, so the answer is tokenised by itself.
            scored = tokenize(tokenizer, continuation + self.template.assistant_end)
        closing = tokenize(tokenizer, self.template.assistant_end)
        num_continuation = len(scored) - len(closing)
        if num_continuation < 1 or scored[num_continuation:] != closing:
            num_continuation = len(tokenize(tokenizer, continuation))
        if num_continuation < 1:
            raise PromptError("An empty continuation has no likelihood.")
        # The last token predicts nothing that is read.
        query = Query(
            context.with_tokens(scored[:-1]),
            read_from=context.num_tokens - 1,
        )
        return query, scored, num_continuation


def open_session(
    pretrained: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    device_map: str | None = None,
    dtype: DType = "auto",
    attn_implementation: AttentionKind = "sdpa",
    conv_template: str = "auto",
    frames: FramePolicy | None = None,
    backend: DecodeBackend = "auto",
    aspect: ImageAspectRatio | None = None,
    patch_merge: PatchMerge | None = None,
    architectures: Sequence[str] | None = None,
    pool_after_projection: bool = False,
    pool_stride: int | None = None,
    pool_mode: PoolMode | None = None,
    rope: RopeSettings | None = None,
    context_length: int | None = None,
    long_prompt: LongPromptPolicy = "error",
    chunk_tokens: int = 2048,
    reuse: bool = True,
    vision_batch_size: int = 16,
    feature_cache: str | Path | None = None,
    feature_cache_bytes: int = 50 << 30,
    decode_process: bool = True,
    seed: int = 0,
) -> Session:
    """Load a checkpoint and make it ready for prompts.

    What is None comes from the checkpoint's `config.json`. The context length is its
    `max_position_embeddings`; with `long_prompt="original"` it is `tokenizer_model_max_length`,
    which is what the original cuts at.

    Args beyond those of `load_checkpoint` and the fields of `Session`: `feature_cache` is a folder
    where visual tokens are kept from run to run, below `feature_cache_bytes`; `patch_merge` is how
    the tiles of a picture become tokens (`mm_patch_merge_type`); `pool_after_projection` pools
    frames of LLaVA-NeXT-Video as LongVA's needle test did; `architectures` says which
    checkpoints are wanted; `decode_process` decodes in a process of its own, so that a decoder that
    hangs or crashes costs one video.

    Raises:
        CheckpointError: If the checkpoint cannot be loaded.
        SettingsError: If a setting is unknown.
    """
    for name, value, kinds in (
        ("attn_implementation", attn_implementation, AttentionKind),
        ("long_prompt", long_prompt, LongPromptPolicy),
        ("image_aspect_ratio", aspect, ImageAspectRatio),
        ("mm_patch_merge_type", patch_merge, PatchMerge),
        ("mm_spatial_pool_mode", pool_mode, PoolMode),
        ("video_decode_backend", backend, DecodeBackend),
    ):
        if value is not None and value not in get_args(kinds):
            raise SettingsError(f"{name}={value!r} is unknown; use {', '.join(get_args(kinds))}.")
    for name, number in (
        ("mm_spatial_pool_stride", pool_stride),
        ("max_context_tokens", context_length),
        ("chunk_tokens", chunk_tokens),
        ("vision_batch_size", vision_batch_size),
    ):
        if number is not None and number < 1:
            raise SettingsError(f"{name}={number} must be at least 1.")
    register_split_sdpa()
    checkpoint = load_checkpoint(
        pretrained,
        revision=revision,
        device=device,
        device_map=device_map,
        dtype=dtype,
        attn_implementation={"sdpa": SPLIT_SDPA, "sdpa_masked": "sdpa"}.get(
            attn_implementation, attn_implementation
        ),
        rope=rope,
        architectures=architectures,
    )
    config = checkpoint.config
    if patch_merge is not None:
        if checkpoint.media_tokens is not None and patch_merge != "spatial_unpad":
            raise SettingsError(
                f"mm_patch_merge_type={patch_merge} belongs to LongVA; {checkpoint.architecture} "
                "has spatial_unpad, which is AnyRes."
            )
        config.mm_patch_merge_type = patch_merge
    if pool_after_projection:
        if not checkpoint.model.pools_before_projection:
            raise SettingsError(
                f"pool_after_projection has no effect on {checkpoint.architecture}, which always "
                "does that."
            )
        checkpoint.model.pools_before_projection = False
    if context_length is None:
        own = config.tokenizer_model_max_length if long_prompt == "original" else None
        context_length = int(own or checkpoint.context_length)
    media_tokens = checkpoint.media_tokens
    template = (
        load_template(conv_template, checkpoint.tokenizer)
        if media_tokens is None
        else load_processor_template(conv_template, checkpoint.tokenizer, media_tokens)
    )
    cache = None
    if feature_cache is not None:
        device_kind = checkpoint.device.type
        identity = f"{__version__}/{checkpoint.vision_digest()}/{device_kind}/{backend}"
        cache = FeatureCache(feature_cache, identity=identity, max_bytes=feature_cache_bytes)
    encoder = VisualEncoder(checkpoint, batch_size=vision_batch_size, cache=cache)
    return Session(
        checkpoint=checkpoint,
        template=template,
        frames=frames or FramePolicy(),
        backend=backend,
        aspect=aspect or config.image_aspect_ratio,
        pool_stride=int(config.mm_spatial_pool_stride) if pool_stride is None else pool_stride,
        pool_mode=pool_mode or config.mm_spatial_pool_mode,
        context_length=context_length,
        long_prompt=long_prompt,
        attention=attn_implementation,
        seed=seed,
        probe=DecodeWorker().probe_video if decode_process else probe_video,
        read=DecodeWorker().read_frames if decode_process else read_frames,
        encoder=encoder,
        engine=PrefixEngine(checkpoint.model, encoder, chunk_tokens=chunk_tokens, reuse=reuse),
    )


def package_versions() -> dict[str, str]:
    """Versions of the packages that can move a number."""
    names = [
        "longva-eval", "lmms-eval", "transformers", "torch", "tokenizers", "pillow", "decord",
        "torchcodec", "av", "numpy",
    ]  # fmt: skip
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _is_picture(item: object) -> bool:
    return isinstance(item, Image.Image)


def _sample_of_stack(count: int) -> FrameSample:
    """The record of frames that were handed over, not chosen from a file."""
    return FrameSample(
        indices=tuple(range(count)),
        timestamps_seconds=(),
        num_frames_asked=count,
        num_frames_total=count,
    )


def _is_picture_path(item: object) -> bool:
    return isinstance(item, (str, Path)) and Path(item).suffix.lower() in PICTURE_SUFFIXES


def _without_last_visuals(prompt: Prompt, excess: int) -> Prompt:
    """Leave out visual tokens from the end, whole pieces last to first, until it fits."""
    if prompt.num_visual_tokens < excess:
        raise PromptError(
            f"The text of the prompt alone has {prompt.num_tokens - prompt.num_visual_tokens:,} "
            f"tokens; leaving out all pictures does not make room for it."
        )
    pieces = list(prompt.pieces)
    for place in range(len(pieces) - 1, -1, -1):
        piece = pieces[place]
        if excess <= 0:
            break
        if isinstance(piece, VisualPiece):
            cut = min(excess, piece.num_tokens)
            excess -= cut
            if cut == piece.num_tokens:
                del pieces[place]
            else:
                pieces[place] = piece.first(piece.num_tokens - cut)
    return Prompt(tuple(pieces))
