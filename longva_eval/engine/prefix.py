"""One KV cache, many prompts: extend it, read logits, crop it, go on.

Three questions on one video share its frames; the cells of a needle grid share most of their
haystack. Prefilling each from nothing repeats all of that. Here the prompts of a batch are sorted
so that neighbours share the longest prefix (the order of a depth-first walk through their prefix
tree), one cache is cropped to what the next prompt shares and extended by what it adds. Every
distinct prefix is computed once: no approximation, only no repetition.

*Exact in mathematics is not exact in kernels*: a matrix product may round otherwise when it has
other rows beside it. So the prompts are cut into chunks at fixed absolute positions (multiples of
`chunk_tokens`) and at the points where prompts branch, and `reuse=False` prefills each prompt
alone *through the same cuts*. Both ways then run the same kernels on the same shapes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from loguru import logger
from torch.nn import functional
from transformers import Cache

from longva_eval.engine.branches import Branches
from longva_eval.engine.kv_buffer import BufferLayer
from longva_eval.engine.press import Press, kept_places
from longva_eval.errors import (
    EvaluationError,
    MediaError,
    NumericalError,
    ResourceError,
    SettingsError,
)
from longva_eval.families.layout import FamilyModel
from longva_eval.model.attention import WatchedAttention
from longva_eval.model.checkpoint import ByType
from longva_eval.model.llava_next import ClipModel
from longva_eval.model.modeling import execution_device
from longva_eval.model.positions import PositionPolicy
from longva_eval.prompts.pieces import Piece, Prompt, TextPiece, VisualPiece
from longva_eval.prompts.visits import (
    BranchGroup,
    Query,
    VisitPlan,
    pieces_from,
    plan_branches,
    plan_visits,
    read_beside,
)

__all__ = [
    "EngineCounts",
    "PrefixEngine",
    "Visit",
    "VisitGroup",
    "VisualTokens",
    "is_out_of_memory",
]


_SMALLEST_CHUNK = 32
"""Chunks are not made smaller than that when memory is not enough."""
_MEMORY_ADVICE = (
    "`longva-eval plan` says what a run needs: ask for fewer frames (max_frames_num), a smaller "
    "dtype, or spread the model over several devices (device_map=auto)."
)


LanguageModel = ClipModel | FamilyModel


class VisualTokens(Protocol):
    """Gives the visual tokens of pieces, as `longva_eval.engine.encoder.VisualEncoder` does."""

    def expect(self, upcoming: Sequence[Sequence[VisualPiece]]) -> None:
        """Hear what will be asked for, call by call."""
        ...

    def encode(self, pieces: Sequence[VisualPiece]) -> list[torch.Tensor]:
        """One (num_tokens, hidden_size) tensor per piece."""
        ...

    def stop(self) -> None:
        """Nothing more will be asked for."""
        ...


@dataclass
class EngineCounts:
    """What the engine did so far; reports and benchmarks read it."""

    tokens_asked: int = 0
    """Length of all prompts together: what one prefill each would compute."""
    tokens_computed: int = 0
    """What was computed, decoded tokens included."""
    smallest_chunk: int | None = None
    """Tokens of the chunks that memory was enough for, where it was not for `chunk_tokens`."""


@dataclass
class VisitGroup:
    """Visits that are decoded side by side, once the last of them is there."""

    members: tuple[int, ...]
    """Their queries; those that are not visited keep their place."""
    shared: int
    """Tokens they have in common."""
    num_to_come: int
    """Visits of it that are not there yet."""
    _engine: PrefixEngine = field(repr=False)
    _branches: Branches | None = None

    def step(self, token_ids: Sequence[int]) -> dict[int, torch.Tensor | NumericalError]:
        """Append a token to each. Returns the (vocabulary,) float32 logits after it, by query."""
        assert self._branches is not None
        assert not self.num_to_come
        return self._engine._decode_group(self.members, self._branches, token_ids)


@dataclass
class Visit:
    """The cache stands at the end of one prompt: its logits, and further tokens to decode."""

    index: int
    """Which query, counted as they were given."""
    logits: torch.Tensor
    """(positions from `read_from` to the end, vocabulary), float32."""
    _engine: PrefixEngine = field(repr=False)
    error: MediaError | NumericalError | None = None
    """Why there are no logits: a picture or video that cannot be read; or, where the caller wants
    to go on, NaN."""

    kv_tokens: int | None = None
    """Tokens whose keys and values each layer held at the end of the prompt, under a press."""
    kv_bytes: int | None = None
    group: VisitGroup | None = None
    """With which others it is decoded side by side."""

    def step(self, token_id: int) -> torch.Tensor:
        """Append one token. Returns the (vocabulary,) float32 logits after it."""
        return self._engine._decode(token_id)


class PrefixEngine:
    """Runs prompts through one model and one cache.

    Args:
        model: In evaluation mode.
        visuals: Gives the visual tokens of pieces (`VisualEncoder`).
        chunk_tokens: Prefill goes in chunks that end at multiples of this; bounds the memory of
            activations.
        reuse: Keep what neighbouring prompts share. False prefills each alone, through the same
            chunks.
    """

    def __init__(
        self,
        model: LanguageModel,
        visuals: VisualTokens,
        *,
        chunk_tokens: int = 2048,
        reuse: bool = True,
    ) -> None:
        if chunk_tokens < 1:
            raise SettingsError(f"chunk_tokens={chunk_tokens} must be at least 1.")
        self._model = model
        self._visuals = visuals
        self.chunk_tokens = chunk_tokens
        self.reuse = reuse
        self._layers = [BufferLayer(0) for _ in range(model.config.num_hidden_layers)]
        self._cache = Cache(layers=self._layers)
        self._positions: torch.Tensor | None = None
        """(axes, tokens) of the prompt in the cache, where positions do not count."""
        self.press: Press | None = None
        """What is kept of a video once it is read; all if None."""
        self.positions = PositionPolicy()
        """Where tokens stand; set by `longva_eval.engine.session.Session.change_positions`."""
        self.seed = 0
        """For presses that draw."""
        self.branches = 1
        """Prompts that are decoded side by side at most."""
        self._pressed: Cache | None = None
        """What is left of the cache, which stays for the next prompt."""
        self.counts = EngineCounts()

    @property
    def length(self) -> int:
        """Tokens read so far, whether they are held or not."""
        layer = (self._pressed or self._cache).layers[0]
        return int(layer.length + layer.num_dropped)

    @torch.inference_mode()
    def visit(
        self,
        queries: Sequence[Query],
        *,
        room: int = 0,
        only: Collection[int] | None = None,
        keep_going: bool = False,
        decoded: Collection[int] = (),
        scored: Collection[int] = (),
    ) -> Iterator[Visit]:
        """Prefill each prompt, in the order that shares most.

        Args:
            queries: Prompts; the same one may come twice.
            room: Tokens that may be decoded after a prompt.
            only: Which queries to visit; all if None. The others are planned with: what is cut
                where, and so every last bit of a result, does not depend on what is left out (a
                run that is resumed leaves out what was answered before).
            keep_going: Yield NaN and infinite logits as a visit's `error` instead of raising.
            decoded: Queries that may be decoded side by side.
            scored: Queries whose last tokens may be read side by side.

        Yields:
            A visit per query, in visiting order; `error` is set where a picture or video cannot
            be read. It is valid until the next one is asked for; one with a `group`, until the one
            behind the last of its group is.

        Raises:
            NumericalError: If logits are NaN or infinite, unless `keep_going`.
            ResourceError: If memory is not enough even for small chunks.
        """
        queries = [self._with_press(query) for query in queries]
        plan = whole = plan_visits(queries, chunk_tokens=self.chunk_tokens)
        planned = plan_branches(queries, plan, decoded, most=self.branches)
        if only is not None:
            plan = plan.only(only)
        groups: dict[int, VisitGroup] = {}
        for each in planned:
            visited = len(set(each.members) & set(plan.order))
            group = VisitGroup(each.members, each.shared, visited, self)
            groups |= dict.fromkeys(each.members, group)
        together: dict[int, BranchGroup] = {}
        for each in plan_branches(queries, whole, scored, most=self.branches):
            if each.own_ids(queries) is not None:
                together |= dict.fromkeys(each.members, each)
        longest = max((queries[index].prompt.num_tokens for index in plan.order), default=0)
        self._reserve(longest + room)
        self._crop(0)
        asked = []
        read: set[int] = set()
        for index in plan.order:
            if index not in read:
                asked.append(self._needed(queries[index], plan.kept[index] if self.reuse else 0))
            if index in together:
                read.update(together[index].members)
        self._visuals.expect([*asked, *read_beside(queries, plan.order)])
        try:
            for visit in self._visit_all(queries, plan, keep_going, together):
                if visit.index in groups:
                    self._join_group(visit, groups[visit.index], queries)
                yield visit
        finally:
            self._visuals.stop()

    def _visit_all(
        self,
        queries: Sequence[Query],
        plan: VisitPlan,
        keep_going: bool,
        together: Mapping[int, BranchGroup],
    ) -> Iterator[Visit]:
        read: dict[int, torch.Tensor] = {}
        for index in plan.order:
            # This also drops what was decoded after the prompt before.
            kept = plan.kept[index] if self.reuse else 0
            if not self._is_pressed_for(queries[index], kept):
                self._pressed = None
            self._crop(kept)
            try:
                if index in together:
                    if index not in read:
                        read |= self._read_together(index, together[index], queries, plan)
                    logits = _require_finite(read.pop(index), self._model)
                else:
                    logits = self._prefill(queries[index], plan.cuts[index])
            except MediaError as error:  # raised before the cache was extended
                yield Visit(index, torch.empty(0), self, error)
            except NumericalError as error:
                if not keep_going:
                    raise
                yield Visit(index, torch.empty(0), self, error)
            else:
                visit = Visit(index, logits, self)
                if self._pressed is not None:
                    layers = self._pressed.layers
                    visit.kv_tokens = layers[0].length
                    visit.kv_bytes = sum(layer.bytes_held for layer in layers)
                yield visit

    def _join_group(self, visit: Visit, group: VisitGroup, queries: Sequence[Query]) -> None:
        """Keep what a prompt has of its own: its group is decoded later."""
        visit.group = group
        group.num_to_come -= 1
        if visit.error is not None:
            return
        with _memory_for("the keys and values of branches (branches=1 needs none)"):
            if group._branches is None:
                devices = {layer.keys.device for layer in self._layers}
                group._branches = Branches(
                    self._layers,
                    shared=group.shared,
                    own=[queries[each].prompt.num_tokens - group.shared for each in group.members],
                    run=self._run_branches,
                    next_positions=self.positions.next,
                    captures=len(devices) == 1 and devices.pop().type == "cuda",
                )
            group._branches.keep(group.members.index(visit.index), self._positions)

    def _is_pressed_for(self, query: Query, kept: int) -> bool:
        """Whether what a press kept for the prompt before serves this one, which asks otherwise."""
        if self._pressed is None or self.press is None or self.press.reads_question:
            return False
        first = self._pressed.layers[0]
        return bool(kept == query.press_at == first.kept.shape[1] + first.num_dropped)

    def _with_press(self, query: Query) -> Query:
        """A query that says where it is pressed and watched."""
        if self.press is None or not query.prompt.visual_pieces:
            return query
        press_at, position = 0, 0
        for piece in query.prompt.pieces:
            position += piece.num_tokens
            if isinstance(piece, VisualPiece):
                press_at = position
        if query.first_read < press_at:
            raise SettingsError(
                f"kv_press={self.press.text}: a prompt ends with its video, and nothing is left to "
                "read what a press keeps of it."
            )
        cut_at = self.press.window(press_at, query.first_read)[0] if self.press.watches else None
        return replace(query, press_at=press_at, cut_at=cut_at)

    def _needed(self, query: Query, start: int) -> list[VisualPiece]:
        """The pieces that are read of a prompt whose first `start` tokens are in the cache."""
        if query.cut_at is not None and query.press_at is not None:
            start = min(start, query.cut_at)  # they are read once more, to see what they attend to
        return pieces_from(query.prompt.pieces, start)

    def _prefill(self, query: Query, cuts: Sequence[int]) -> torch.Tensor:
        start, total = self.length, query.prompt.num_tokens
        self._place(query.prompt)
        # Pieces that come with tokens of their own, by reference: only a chunk at a time is put
        # together, since the embeddings of 432,000 tokens would be 3 GB more.
        wanted = self._needed(query, start)
        with _memory_for("encoding frames (a smaller vision_batch_size needs less)"):
            tokens = dict(zip((p.key for p in wanted), self._visuals.encode(wanted), strict=True))
        read: list[torch.Tensor] = []
        position = start
        if position == query.press_at and self._pressed is None:
            self._keep_part(query, tokens, cuts)
        for end in [cut for cut in cuts if cut > start]:
            read.extend(self._extend(query, tokens, position, end))
            position = end
            if position == query.press_at:
                self._keep_part(query, tokens, cuts)
        assert position == total, "the last cut is the end of the prompt"
        self.counts.tokens_asked += total
        self.counts.tokens_computed += total - start
        return _require_finite(torch.cat(read), self._model) if read else torch.empty(0)

    def _read_together(
        self, index: int, group: BranchGroup, queries: Sequence[Query], plan: VisitPlan
    ) -> dict[int, torch.Tensor]:
        """Logits of prompts with few own tokens, which are read in one pass behind the shared."""
        shared, asked = group.shared, [queries[each] for each in group.members]
        prompt = queries[index].prompt.first(shared)
        self._crop(min(self.length, shared))  # the prompt before may share more with this one
        self._prefill(
            Query(prompt, read_from=shared), [cut for cut in plan.cuts[index] if cut <= shared]
        )
        own = group.own_ids(queries) or []
        places: list[torch.Tensor] = []
        for query in asked:
            self._place(query.prompt)
            if self._positions is not None:
                places.append(self._positions[:, shared:])
        with _memory_for("reading answers side by side (branches=1 needs less)"):
            logits = Branches(
                self._layers,
                shared=shared,
                own=[0] * len(own),
                run=self._run_branches,
                next_positions=self.positions.next,
            ).read(own, places or None)
        self.counts.tokens_asked -= shared
        for each, query in zip(group.members, asked, strict=True):
            self.counts.tokens_asked += query.prompt.num_tokens if each in plan.order else 0
        self.counts.tokens_computed += sum(map(len, own))
        return {
            each: logits[row, query.first_read - shared : len(own[row])]
            for row, (each, query) in enumerate(zip(group.members, asked, strict=True))
        }

    def _keep_part(
        self, query: Query, tokens: Mapping[str, torch.Tensor], cuts: Sequence[int]
    ) -> None:
        """Go on with what the press keeps; the whole cache stays for the next prompt."""
        assert self.press is not None
        press_at = self.length
        watcher = WatchedAttention()
        if self.press.watches:
            first, end = self.press.window(press_at, query.first_read)
            position = min(first, press_at)
            self._crop(position)
            unread = replace(query, read_from=query.prompt.num_tokens)
            for cut in sorted({*(cut for cut in cuts if position < cut < end), end}):
                with watcher.watching() if position >= first else contextlib.nullcontext():
                    self._extend(unread, tokens, position, cut)
                self.counts.tokens_computed += cut - position
                position = cut
            self._crop(press_at)
        frame_of = [
            -1 if isinstance(piece, TextPiece) else number
            for number, piece in enumerate(query.prompt.pieces)
            for _ in range(piece.num_tokens)
        ][:press_at]
        _, frames = torch.unique(torch.tensor(frame_of), return_inverse=True)
        frames = frames - int(-1 in frame_of)  # text stays -1, pieces are counted from 0
        seed = int(query.prompt.first(press_at).digest[:12], 16) + self.seed
        room = self._layers[0].capacity
        with _memory_for("the keys and values that a press keeps"):
            layers = [
                layer.pressed(
                    kept_places(
                        self.press, layer, frames, attention=watcher.seen.get(number), seed=seed
                    ),
                    room,
                )
                for number, layer in enumerate(self._layers)
            ]
        self._pressed = Cache(layers=layers)

    def _extend(
        self, query: Query, tokens: Mapping[str, torch.Tensor], start: int, end: int
    ) -> list[torch.Tensor]:
        """Read a prompt from `start` to `end`; the logits that are wanted of it.

        Where memory is not enough, it goes in halves from then on. That rounds otherwise in the
        last bits, which `counts.smallest_chunk` tells.
        """
        read: list[torch.Tensor] = []
        position = start
        while position < end:
            stop = min(end, position + (self.counts.smallest_chunk or end - position))
            try:
                hidden = self._forward(*self._embed(query.prompt.pieces, tokens, position, stop))
                if stop > query.first_read:
                    rows = hidden[max(0, query.first_read - position) :]
                    read.append(self._model.lm_head(rows).float())
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not is_out_of_memory(error):
                    raise
                smaller = (stop - position) // 2
                if smaller < _SMALLEST_CHUNK:
                    raise _too_little_memory(
                        f"a prompt of {query.prompt.num_tokens:,} tokens, even in chunks of "
                        f"{stop - position}",
                        error,
                    ) from error
            else:
                position = stop
                continue
            # Outside of the handler, whose traceback holds on to tensors.
            self._crop(position)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.counts.smallest_chunk = smaller
            logger.warning(
                "Memory is not enough for chunks of {} tokens; going on with {}. Numbers can "
                "differ in their last digits.", stop - position, smaller,
            )  # fmt: skip
        return read

    def _decode(self, token_id: int) -> torch.Tensor:
        with torch.inference_mode(), _memory_for("decoding an answer"):
            self._reserve(self.length + 1)
            if self._positions is not None:
                count = torch.tensor([self._positions.shape[1]])
                after = self.positions.next(self._positions[:, -1:], count).to(self._positions)
                self._positions = torch.cat([self._positions, after], dim=1)
            embedding = self._model.model.embed_tokens(self._ids([token_id]))
            hidden = self._forward(embedding, torch.zeros(1, dtype=torch.bool))
            self.counts.tokens_computed += 1
            return _require_finite(self._model.lm_head(hidden).float(), self._model)[0]

    def _decode_group(
        self, members: Sequence[int], branches: Branches, token_ids: Sequence[int]
    ) -> dict[int, torch.Tensor | NumericalError]:
        with torch.inference_mode(), _memory_for("decoding answers (branches=1 needs less)"):
            self.counts.tokens_computed += len(members)
            logits = branches.step(token_ids)
            finite = torch.isfinite(logits).all(1).tolist()
        return {
            index: logits[row] if finite[row] else _not_finite(self._model)
            for row, index in enumerate(members)
        }

    def _run_branches(
        self, ids: torch.Tensor, positions: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        table = self._model.model.embed_tokens
        rows = table(ids.to(execution_device(table)))
        no_visual = torch.zeros(len(rows), dtype=torch.bool)  # not on a GPU: it is looked at
        self._tell_types(no_visual)
        hidden = self._model.run_layers(rows, positions.to(rows.device), cache, no_visual)
        logits: torch.Tensor = self._model.lm_head(hidden).float()
        return logits

    def _place(self, prompt: Prompt) -> None:
        """The positions of a prompt whose beginning may be in the cache."""
        is_visual = [isinstance(p, VisualPiece) for p in prompt.pieces for _ in range(p.num_tokens)]
        before = self._positions
        found = self.positions.place(self._model.positions(prompt), torch.tensor(is_visual))
        kept = self.length
        if before is None or found is None:
            kept = 0
        # Equal pieces must have equal positions; otherwise keys would be rotated wrongly.
        if kept and not torch.equal(before[:, :kept], found[:, :kept]):  # type: ignore[index]
            raise EvaluationError(
                "Two prompts share a beginning but not its positions. Please report this; "
                "reuse=false answers without sharing."
            )
        self._positions = found

    def _forward(self, rows: torch.Tensor, is_visual: torch.Tensor) -> torch.Tensor:
        """Hidden states (new_tokens, hidden_size) of new rows; the cache grows by them."""
        start, end = self.length, self.length + len(rows)
        if self._positions is None:
            positions = torch.arange(start, end)[None]
        else:
            positions = self._positions[:, start:end]
        self._tell_types(is_visual)
        return self._model.run_layers(
            rows,
            positions.to(rows.device),
            self._pressed or self._cache,
            is_visual.to(rows.device),
        )

    def _tell_types(self, is_visual: torch.Tensor) -> None:
        rotary = self._model.model.rotary_emb
        if isinstance(rotary, ByType):
            rotary.is_visual = is_visual if bool(is_visual.any()) else None

    def _embed(
        self,
        pieces: Sequence[Piece],
        visual_tokens: Mapping[str, torch.Tensor],
        start: int,
        end: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the tokens from `start` to `end`, and which of them are visual.

        A visual token may have more to it than its embedding (deepstack); texts then have zeros.
        """
        table = self._model.model.embed_tokens
        device = execution_device(table)
        parts: list[torch.Tensor] = []
        is_visual: list[bool] = []
        position = 0
        for piece in pieces:
            first, last = max(0, start - position), min(piece.num_tokens, end - position)
            position += piece.num_tokens
            if first < last:
                if isinstance(piece, TextPiece):
                    part = table(self._ids(piece.token_ids[first:last]))
                else:
                    part = visual_tokens[piece.key][first:last]
                parts.append(part.to(device, table.weight.dtype))
                is_visual += [not isinstance(piece, TextPiece)] * (last - first)
            if position >= end:
                break
        width = max(part.shape[1] for part in parts)
        rows = [functional.pad(part, (0, width - part.shape[1])) for part in parts]
        return torch.cat(rows), torch.tensor(is_visual)

    def _ids(self, token_ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor(token_ids, device=execution_device(self._model.model.embed_tokens))

    def _crop(self, length: int) -> None:
        if self._pressed is not None:
            pressed = self._pressed.layers
            if length >= pressed[0].kept.shape[1] + pressed[0].num_dropped:
                for layer in pressed:
                    layer.length = min(layer.length, length - layer.num_dropped)
                return
            self._pressed = None
        for layer in self._layers:
            layer.length = min(layer.length, length)

    def _reserve(self, capacity: int) -> None:
        # Whole chunks, so that a slightly longer next batch needs no new buffer.
        rounded = -(-capacity // self.chunk_tokens) * self.chunk_tokens
        with _memory_for(f"the keys and values of {rounded:,} tokens"):
            for layer in (*self._layers, *(self._pressed.layers if self._pressed else ())):
                if capacity > layer.capacity + layer.num_dropped:
                    layer.reserve(rounded - layer.num_dropped)


def _require_finite(logits: torch.Tensor, model: LanguageModel) -> torch.Tensor:
    if bool(torch.isfinite(logits).all()):
        return logits
    raise _not_finite(model)


def _not_finite(model: LanguageModel) -> NumericalError:
    dtype = str(model.dtype).removeprefix("torch.")
    advice = (
        "float16 overflows on models trained in bfloat16; run with dtype=bfloat16 or dtype=float32"
        if dtype == "float16"
        else "check the weights (a broken download?) and the RoPE settings, or run in dtype=float32"
    )
    return NumericalError(
        f"The model produced NaN or infinite logits in {dtype}: {advice}. No answer is made of "
        "them: under greedy decoding they would read '!!!!' and be scored as wrong answers."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is not enough, on a GPU or off it."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )


@contextlib.contextmanager
def _memory_for(what: str) -> Iterator[None]:
    """Say what memory was not enough for."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise _too_little_memory(what, error) from error


def _too_little_memory(what: str, error: BaseException) -> ResourceError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return ResourceError(f"Memory is not enough for {what}: {first}. {_MEMORY_ADVICE}")
