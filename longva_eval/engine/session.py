"""A model with its settings: prompts in, answers out.

The one place where the parts meet: checkpoint, template, frame policy, encoder and engine. The
lmms-eval adapter and the needle test are thin layers over it, and so is a notebook:

    session = open_session("lmms-lab/LongVA-7B", frames=FramePolicy(max_frames=64))
    prompt = session.prompt("What happens in this video?", ["film.mp4"])
    answer = session.generate([prompt])[0]
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from longva_eval.engine.branches import resolve_branches
from longva_eval.engine.control import Control, middle_frame, shuffled
from longva_eval.engine.conversation import (
    ComposedClip,
    Conversation,
    Failure,
    ForcedAnswer,
    Media,
    ScoredText,
)
from longva_eval.engine.encoder import VisualEncoder
from longva_eval.engine.generation import (
    Decoding,
    Generation,
    GenerationSettings,
    Thought,
    TokenScores,
    alone,
    decode_branches,
    decoding,
    letter_token_ids,
    merge_scores,
    parse_gen_kwargs,
    score_tokens,
)
from longva_eval.engine.prefix import PrefixEngine, Visit
from longva_eval.engine.press import read_press
from longva_eval.engine.recipe import package_versions
from longva_eval.engine.selector import Selector, load_selector
from longva_eval.engine.vision import Vision
from longva_eval.errors import MediaError, NumericalError, PromptError, SettingsError
from longva_eval.families.template import FamilyTemplate
from longva_eval.media.decode import DecodeBackend, read_frames
from longva_eval.media.frames import FramePolicy, FrameSample, Looks, sample_frames
from longva_eval.media.images import ImageAspectRatio, open_image
from longva_eval.media.probe import VideoInfo, probe_video
from longva_eval.media.sources import FrameStack, Picture, ReadFrames, VideoFrames
from longva_eval.media.subtitles import fill_subtitles
from longva_eval.model.attention import registered_name
from longva_eval.model.backends import OF_TRANSFORMERS
from longva_eval.model.checkpoint import Checkpoint, change_positions, change_rope
from longva_eval.model.positions import PositionPolicy
from longva_eval.model.rope import RopeSettings
from longva_eval.model.settings import check_attention
from longva_eval.prompts.pieces import (
    ChatTemplate,
    Kind,
    Piece,
    Prompt,
    TextPiece,
    Turn,
    VisualPiece,
    as_text,
    placeholder_ids,
    tokenize,
)
from longva_eval.prompts.visits import Query

__all__ = ["LongPromptPolicy", "Session"]

LongPromptPolicy = Literal["error", "keep_question", "original"]
PICTURE_SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".jfif",
}  # fmt: skip
_MOST_ROOM = 4096
"""Tokens that room is made for before an answer begins; longer ones make more as they come."""
Template = ChatTemplate | FamilyTemplate
"""How a conversation becomes a prompt."""


@dataclass(kw_only=True)
class Session:
    """A checkpoint with settings for prompts, frames and decoding."""

    checkpoint: Checkpoint
    template: Template
    vision: Vision
    frames: FramePolicy = field(default_factory=FramePolicy)
    backend: DecodeBackend = "auto"
    context_length: int
    """Longest prompt in tokens."""
    long_prompt: LongPromptPolicy = "error"
    attention: str = "sdpa"
    seed: int = 0
    control: Control = "none"
    """What is taken away of what is seen; `circular` changes nothing here."""
    branches: str | int = "auto"
    """Prompts that are decoded side by side at most (`longva_eval.engine.branches`)."""
    thought: Thought | None = None
    """How the model thinks before it answers, where it does."""
    model_frames: Callable[[VideoInfo], FrameSample] | None = None
    """The model's own rule for frames, instead of `frames`."""
    probe: Callable[[str | Path], VideoInfo] = probe_video
    """Looks at a video; `read` decodes it. Both in a process of their own, by default."""
    read: ReadFrames = read_frames
    looks: Looks = field(default_factory=Looks)
    """What frame policies saw of videos."""
    encoder: VisualEncoder
    engine: PrefixEngine
    _latest: tuple[VideoInfo, tuple[Any, ...], tuple[list[VisualPiece], FrameSample]] | None = (
        field(default=None, init=False, repr=False)
    )
    """The last video that was looked at, how, and what came of it."""

    @functools.cached_property
    def _control_tokens(self) -> frozenset[str]:
        tokenizer = self.checkpoint.tokenizer
        known = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        return frozenset(known - {*self.template.placeholders})

    @property
    def selector(self) -> Selector | None:
        """What compares frames with questions, where the frame policy does; loaded at first use.

        Raises:
            SettingsError: If it cannot be loaded.
        """
        found = self.frames.selector
        return None if found is None else load_selector(found[0], self.checkpoint.device)

    @functools.cached_property
    def _letter_tokens(self) -> Callable[[str], tuple[tuple[int, ...], ...]]:
        return functools.cache(functools.partial(letter_token_ids, self.checkpoint.tokenizer))

    def prompt(
        self,
        text: str,
        media: Sequence[Media] = (),
        *,
        history: Sequence[Turn] = (),
        aspect: ImageAspectRatio | None = None,
        fit: bool = True,
        placed: bool = True,
        question: Sequence[str] = (),
        sought: str = "",
    ) -> Conversation:
        """The prompt for a question about pictures and videos.

        Control tokens of the tokenizer in the text, in earlier turns and in subtitles are plain
        text.

        Args:
            text: The question; may say `<image>` where each picture or video belongs.
            media: Pictures and videos, in order.
            history: Earlier turns; pictures and videos belong to the first of them.
            aspect: How pictures are encoded, instead of the session's own way.
            fit: Whether the prompt must fit the context; False for tests of what lies beyond it.
            placed: Whether an `<image>` in the text is a place; False if it is only somebody's
                words, and what is shown stands before the question.
            question: Names of the question, for frame policies that choose by question.
            sought: What `frame_policy=query:` compares frames with; the text if empty.

        Raises:
            MediaError: If a picture or video cannot be read.
            PromptError: If placeholders do not fit, or the prompt is longer than the context
                and `long_prompt` is `error`.
        """
        visuals: list[tuple[VisualPiece, ...]] = []
        samples: list[FrameSample] = []
        kinds: list[Kind] = []
        num_pictures = sum(map(is_picture, media))
        sought = sought or text
        for item in media:
            pieces, sample = self.visual(
                item, aspect=aspect, num_pictures=num_pictures, question=question, sought=sought
            )
            visuals.append(tuple(pieces))
            kinds.append("picture" if sample is None else "video")
            if sample is not None:
                samples.append(sample)
        if self.control in ("shuffle", "single-frame") and not samples:
            raise SettingsError(
                f"control={self.control} is for questions on videos; this one shows "
                f"{num_pictures} pictures and no video. Use control=blind or circular."
            )
        if not placed:
            text = as_text(text, self.template.placeholders)
        text, subtitles = fill_subtitles(
            text,
            [sample.timestamps_seconds for sample in samples],
            written=lambda shown: as_text(shown, self.template.placeholders),
        )
        turns: list[Turn] = [
            (role, as_text(said, self._control_tokens)) for role, said in (*history, ("user", text))
        ]
        role, first = turns[0]
        if self.control == "blind":
            visuals, kinds, samples = [], [], []
            for token in self.template.placeholders:
                first = first.replace(token, "")
        # A template may show pictures before videos; the order among videos stays.
        first, order = self.template.place(first, kinds)
        visuals = [visuals[number] for number in order]
        rendered = self.template.render([(role, first), *turns[1:]])
        prompt = self.template.build(self.checkpoint.tokenizer, rendered, visuals)
        fitted, cut = self._fit(prompt) if fit else (prompt, 0)
        return Conversation(
            prompt=fitted,
            context_text=rendered,
            visuals=tuple(visuals),
            frames=tuple(samples),
            num_tokens_cut=cut,
            subtitles=subtitles,
            compared={"text": sought, "tokens_cut": self.selector.text(sought)[1]}
            if self.selector is not None and any(each.scores for each in samples)
            else None,
        )

    def generate(
        self,
        conversations: Sequence[Conversation],
        settings: GenerationSettings | Sequence[GenerationSettings] | None = None,
        *,
        on_answer: Callable[[int, Generation | Failure], None] = lambda *_: None,
        only: Collection[int] | None = None,
        keep_going: bool = False,
        letters: Sequence[str] = (),
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
            letters: Of each prompt's options, such as `ABCD`; their probabilities are kept
                (`Generation.option_log_probs`).

        Returns:
            An answer for each prompt that was to be answered, in the order given. Where a picture
            or video cannot be decoded, the error stands in the answer's place.

        Raises:
            NumericalError: If logits are NaN or infinite, unless `keep_going`.
        """
        chosen = self._settings_for(settings, len(conversations))
        queries = [Query(conversation.prompt) for conversation in conversations]
        room = max((setting.max_new_tokens for setting in chosen), default=0)

        def read(visit: Visit) -> Decoding[Generation]:
            place = visit.index
            asked = letters[place] if letters else ""
            return self._decoding(visit, queries[place].prompt, chosen[place], asked)

        decoded = range(len(queries))
        found = self._visit(queries, read, room, only, keep_going, decoded)
        return _collected(found, on_answer)

    def score(
        self,
        conversations: Sequence[Conversation],
        continuations: Sequence[str],
        *,
        on_answer: Callable[[int, ScoredText | Failure], None] = lambda *_: None,
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
        asked = [
            self._scoring_query(conversation, continuation)
            for conversation, continuation in zip(conversations, continuations, strict=True)
        ]
        entries = self.checkpoint.num_tokenizer_entries

        def read(visit: Visit) -> ScoredText:
            _, scored, num_continuation = asked[visit.index]
            scores = _scored(visit, visit.logits[:, :entries], scored)
            return ScoredText(
                all_tokens=scores, continuation=merge_scores(scores, first=num_continuation)
            )

        queries = [query for query, *_ in asked]
        found = self._visit(queries, read, 0, only, keep_going, scored=range(len(queries)))
        return _collected(found, on_answer)

    def force(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[tuple[int, ...]],
        *,
        max_new_tokens: int | Sequence[int] = 0,
        on_answer: Callable[[int, ForcedAnswer | Failure], None] = lambda *_: None,
        only: Collection[int] | None = None,
        keep_going: bool = False,
    ) -> list[ForcedAnswer | Failure]:
        """Score answers with the true answer as input, and decode what the model says by itself.

        `on_answer` and `only` are those of `generate`.

        Args:
            prompts: What comes before each answer.
            answers: Token ids of each answer, one at least.
            max_new_tokens: Tokens to decode after each prompt, or after all; 0 for none.
            on_answer: As in `generate`.
            only: As in `generate`.
            keep_going: Let errors stand in the answer's place, instead of raising them.

        Raises:
            MediaError: If a picture or video cannot be decoded, unless `keep_going`.
            NumericalError: If logits are NaN or infinite, unless `keep_going`.
        """
        count = len(prompts)
        if isinstance(max_new_tokens, int):
            max_new_tokens = [max_new_tokens] * count
        # Two queries each: the answer as input, and the prompt alone. They share all of the
        # prompt, so the second costs next to nothing.
        queries = [
            Query(prompt.with_tokens(answer[:-1]), read_from=prompt.num_tokens - 1)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        if any(max_new_tokens):
            queries += [Query(prompt) for prompt in prompts]
        wanted = sorted(range(count) if only is None else set(only))
        visited = wanted + [count + place for place in wanted if max_new_tokens[place] > 0]
        end_token_ids = self._settings_for(None, 1)[0].end_token_ids

        def read(visit: Visit) -> TokenScores | Decoding[Generation]:
            if visit.index < count:
                return _scored(visit, visit.logits, answers[visit.index])
            place = visit.index - count
            settings = GenerationSettings(
                max_new_tokens=max_new_tokens[place], end_token_ids=end_token_ids
            )
            return self._decoding(visit, prompts[place], settings)

        scores: dict[int, TokenScores] = {}
        texts = {place: "" for place in range(count) if max_new_tokens[place] == 0}
        results: dict[int, ForcedAnswer | Failure] = {}
        room = max(max_new_tokens, default=0)
        decoded = range(count, len(queries))
        for index, found in self._visit(queries, read, room, visited, keep_going, decoded):
            place = index % count
            if place in results:
                continue  # it failed before
            if isinstance(found, TokenScores):
                scores[place] = found
            elif isinstance(found, Generation):
                texts[place] = found.text
            elif keep_going:
                results[place] = found
            else:
                raise found
            if place in scores and place in texts:
                results[place] = ForcedAnswer(scores=scores[place], generated=texts[place])
            if place in results:
                on_answer(place, results[place])
        return [results[place] for place in sorted(results)]

    def change_rope(self, rope: RopeSettings) -> None:
        """Answer with other RoPE settings from now on; visual tokens stay valid.

        Raises:
            SettingsError: If the settings do not fit the checkpoint.
        """
        self.checkpoint = change_rope(self.checkpoint, rope)

    def change_positions(self, positions: str) -> None:
        """Let tokens stand elsewhere from now on (`POSITION_POLICIES`); visual tokens stay valid.

        Raises:
            SettingsError: If there is no such policy, or it does not fit the checkpoint.
        """
        policy = PositionPolicy(positions)
        self.checkpoint = change_positions(self.checkpoint, policy)
        self.engine.positions = policy
        self._resolve_branches()

    def change_press(self, press: str) -> None:
        """Keep only a part of what is read of a video from now on.

        Args:
            press: `none`, or one of `longva_eval.engine.press.PRESSES` with a fraction.

        Raises:
            SettingsError: If there is no such press, or this attention cannot be watched.
        """
        found = read_press(press)
        if found is not None and found.watches and self.attention in OF_TRANSFORMERS:
            raise SettingsError(
                f"kv_press={press} watches attention: use attn_implementation=auto, not "
                f"{self.attention}."
            )
        self.engine.press, self.engine.seed = found, self.seed
        self._resolve_branches()

    def change_attention(self, attention: str) -> None:
        """Attend by another back end from now on, one that `attention_candidates` gave.

        Raises:
            SettingsError: If a package of transformers' own is missing.
        """
        name = "sdpa" if attention == "sdpa_masked" else attention
        if attention not in OF_TRANSFORMERS:
            name = registered_name(attention)
        check_attention(name)
        self.checkpoint.config._attn_implementation = {"": name}
        self.attention = attention
        self._resolve_branches()

    def change_branches(self, branches: str | int) -> None:
        """Decode so many prompts side by side from now on, where that is possible.

        Raises:
            SettingsError: If it is neither `auto` nor a number.
        """
        self.branches = branches
        self._resolve_branches()

    def _resolve_branches(self) -> str:
        """Set how many prompts are decoded side by side; why it is one."""
        press = self.engine.press
        self.engine.branches, reason = resolve_branches(
            self.branches,
            is_float32=self.checkpoint.model.dtype == torch.float32,
            attention=self.checkpoint.config._attn_implementation,
            press="none" if press is None else press.text,
            places_pairs=self.engine.positions.places_pairs,
        )
        return reason

    def describe(self) -> dict[str, Any]:
        """How every number of this session was made."""
        frames = self.frames.describe()
        if self.selector is not None:
            frames["selector"] = self.selector.describe()
        if self.model_frames is not None:
            frames["rule"] = "the processor's own sample_frames"
        return {
            **self.checkpoint.describe(),
            "attn_implementation": self.attention,
            "conv_template": self.template.name,
            "frames": frames,
            "video_decode_backend": self.backend,
            **self.vision.describe(),
            "seed": self.seed,
            **({} if self.control == "none" else {"control": self.control}),
            **({} if self.engine.press is None else {"kv_press": self.engine.press.text}),
            "reuse": self.engine.reuse,
            "chunk_tokens": self.engine.chunk_tokens,
            "branches": self.engine.branches,
            **({"one_at_a_time": reason} if (reason := self._resolve_branches()) else {}),
            "max_context_tokens": self.context_length,
            "long_prompt": self.long_prompt,
            "versions": package_versions(),
        }

    def visual(
        self,
        item: Media,
        *,
        aspect: ImageAspectRatio | None = None,
        num_pictures: int = 1,
        question: Sequence[str] = (),
        sought: str = "",
    ) -> tuple[list[VisualPiece], FrameSample | None]:
        """The pieces of a picture or video, and the frames chosen if it is a video.

        Args:
            item: What to show.
            aspect: How a picture is encoded, instead of the session's own way.
            num_pictures: How many pictures stand in the prompt.
            question: As of `prompt`.
            sought: As of `prompt`.

        Raises:
            MediaError: If it cannot be read, or is none of these.
        """
        if isinstance(item, ComposedClip):
            units, count = self.units(item)
            return self.vision.video(units, composed=True), _sample_of_stack(count)
        if is_picture(item):
            source = Picture(image=open_image(item), how=aspect)  # type: ignore[arg-type]  # narrowed by is_picture
            return self.vision.pieces(source, num_pictures=num_pictures), None
        if isinstance(item, (str, Path)):
            info = self.probe(item)
            choose = self.model_frames
            if choose is not None:
                sample = choose(info)
            else:
                read = functools.partial(self.read, backend=self.backend)
                selector = self.selector

                def alike(info: VideoInfo, indices: Sequence[int]) -> Any:
                    assert selector is not None
                    seen = selector.frames(info, indices, read, self.looks)
                    return seen @ selector.text(sought)[0]

                sample = sample_frames(
                    info, self.frames, read=read, looks=self.looks, question=question, alike=alike
                )
            if self.control == "single-frame":
                sample = middle_frame(sample)
            # Questions on one video share its pieces: a prompt holds thousands.
            asked = (sample, self.control, self.seed, self.backend, self.read)
            how = (*asked, self.vision.describe())
            if self._latest is None or self._latest[0] is not info or self._latest[1] != how:
                frames = VideoFrames(info=info, sample=sample, backend=self.backend, read=self.read)
                made = self._in_order(self.vision.pieces(frames), sample)
                self._latest = (info, how, made)
            pieces, sample = self._latest[2]
            return list(pieces), sample
        if (
            isinstance(item, (list, tuple))
            and item
            and all(isinstance(each, Image.Image) for each in item)
        ):
            stack = FrameStack(pictures=tuple(map(open_image, item)))
            sample = _sample_of_stack(len(item))
            if self.control == "single-frame":
                sample = middle_frame(sample)
                stack = FrameStack(pictures=tuple(stack.pictures[n] for n in sample.indices))
            return self._in_order(self.vision.pieces(stack), sample, composed=True)
        raise MediaError(
            f"{str(item)[:120]!r} of type {type(item).__name__} is neither a picture, nor the path "
            "of a picture or video, nor a list of frames."
        )

    def _in_order(
        self, units: Sequence[VisualPiece], sample: FrameSample, *, composed: bool = False
    ) -> tuple[list[VisualPiece], FrameSample]:
        if self.control == "shuffle":
            units, order = shuffled(units, self.seed)
            sample = replace(sample, order=order)
        return self.vision.video(units, composed=composed), sample

    def units(self, clip: ComposedClip) -> tuple[list[VisualPiece], int]:
        """The pieces of a clip's frames, and how many frames it has.

        Where frames are encoded in pairs, a picture fills one, and so does the last frame before
        one.
        """
        pieces: list[VisualPiece] = []
        for part in clip.parts:
            if isinstance(part, Image.Image):
                stack = FrameStack(pictures=(open_image(part),), how=clip.aspect)
                pieces.extend(self.vision.pieces(stack))
                continue
            path, indices = part
            if not indices:
                continue
            info = self.probe(path)
            source = VideoFrames(
                info=info, sample=FrameSample.of(info, indices), backend=self.backend,
                read=self.read, how=clip.aspect,
            )  # fmt: skip
            pieces.extend(self.vision.pieces(source))
        return pieces, len(pieces) * self.vision.frames_per_unit

    def clip_prompt(self, question: str, pieces: Sequence[Piece]) -> Prompt:
        """The prompt for a question about a video that is put together.

        Args:
            question: What is asked.
            pieces: Frames from `units`, in the order in which they are shown; or texts.
        """
        units = [piece for piece in pieces if isinstance(piece, VisualPiece)]
        if len(units) == len(pieces):
            pieces = self.vision.video(units, composed=True)
        return self.template.clip(self.checkpoint.tokenizer, question, pieces)

    def _visit(
        self,
        queries: Sequence[Query],
        read: Callable[[Visit], Any],
        room: int,
        only: Collection[int] | None,
        keep_going: bool,
        decoded: Collection[int] = (),
        scored: Collection[int] = (),
    ) -> Iterator[tuple[int, Any]]:
        """What is read at the end of each prompt, or the error, in visiting order.

        `read` returns it, or a `Decoding` of it. Prompts that are `decoded` or `scored` may be
        in groups.
        """
        waiting: dict[int, Decoding[Any]] = {}
        for visit in self.engine.visit(
            queries,
            room=min(room, _MOST_ROOM),
            only=only,
            keep_going=keep_going,
            decoded=decoded,
            scored=scored,
        ):
            found = read(visit) if visit.error is None else visit.error
            answers: Iterable[tuple[int, Any]] = ()
            if not isinstance(found, Generator):
                answers = [(visit.index, found)]
            elif visit.group is None:
                try:
                    answers = [(visit.index, alone(visit, found))]
                except NumericalError as error:
                    answers = [(visit.index, error)]
            else:
                waiting[visit.index] = found
            if visit.group is not None and not visit.group.num_to_come:
                answers = itertools.chain(answers, decode_branches(visit.group, waiting))
                waiting = {}
            for index, answer in answers:
                if isinstance(answer, NumericalError) and not keep_going:
                    raise answer
                yield index, answer

    def _decoding(
        self, visit: Visit, prompt: Prompt, settings: GenerationSettings, letters: str = ""
    ) -> Decoding[Generation]:
        return decoding(
            visit,
            self.checkpoint.tokenizer,
            settings,
            prompt=prompt,
            num_entries=self.checkpoint.num_tokenizer_entries,
            history=self._penalised(prompt) if settings.repetition_penalty != 1.0 else (),
            thought=self.thought,
            letters=self._letter_tokens(letters) if letters else (),
        )

    def _penalised(self, prompt: Prompt) -> list[int]:
        """Tokens of the prompt that a repetition penalty counts."""
        if not self.checkpoint.penalises_prompt:
            return []
        ids: list[int] = []
        for piece in prompt.pieces:
            if isinstance(piece, TextPiece):
                ids += piece.token_ids
            else:
                ids.append(self.checkpoint.pad_id(piece))
        return ids

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
        if conversation.num_tokens_cut:
            raise PromptError(
                f"A prompt was shortened by {conversation.num_tokens_cut} tokens; likelihoods "
                "need the whole one. Ask for fewer frames, or set max_context_tokens higher."
            )
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


def _scored(visit: Visit, logits: Any, token_ids: Sequence[int]) -> TokenScores:
    scores = score_tokens(logits, token_ids)
    if visit.kv_tokens is None or visit.kv_bytes is None:
        return scores
    # At the end of the prompt, as of answers that are said: without the one that was its input.
    held = visit.kv_tokens - (len(token_ids) - 1)
    return replace(scores, kv_tokens=held, kv_bytes=visit.kv_bytes * held // visit.kv_tokens)


def _collected(
    found: Iterable[tuple[int, Any]], on_answer: Callable[[int, Any], None]
) -> list[Any]:
    """Answers in the order of their prompts; `on_answer` hears of each as it comes."""
    answers = {}
    for index, answer in found:
        answers[index] = answer
        on_answer(index, answer)
    return [answers[index] for index in sorted(answers)]


def _sample_of_stack(count: int) -> FrameSample:
    """The record of frames that were handed over, not chosen from a file."""
    return FrameSample(
        indices=tuple(range(count)),
        timestamps_seconds=(),
        num_frames_asked=count,
        num_frames_total=count,
    )


def is_picture(item: object) -> bool:
    """Whether an item is a picture, or names one."""
    is_path = isinstance(item, (str, Path)) and Path(item).suffix.lower() in PICTURE_SUFFIXES
    return is_path or isinstance(item, Image.Image)


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
