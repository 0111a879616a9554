"""Branches: prompts that share the beginning of one cache, and decode side by side.

One token at a time reads all weights and all keys for a single row. The questions on a video, its
options in every order and repeated tries share nearly all of their keys, so their next tokens go
through the model as rows of one pass: as one sequence, in which only attention tells the branches
apart (`longva_eval.model.attention.branch_attention`). What is shared is attended to once for all,
where it lies; each branch has copies of its own keys and values alone.

The numbers of a branch do not depend on the others, but on the shape of the group: a matrix product
of eight rows may round otherwise than one of a single row. So a group is planned from all prompts
of a run, whether they are asked again or not, and keeps its shape until its last branch is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from longva_eval.engine.kv_buffer import BufferLayer
from longva_eval.errors import SettingsError
from longva_eval.model.attention import attending, branch_attention

__all__ = ["MOST_BRANCHES", "Branches", "resolve_branches"]

MOST_BRANCHES = 8
"""Of a group, by default."""
_ROOM = 64
"""Own tokens that room is made for at once."""
_EAGER_STEPS = 4
"""Steps before a CUDA graph is captured: most answers are over by then."""

Run = Callable[[torch.Tensor, torch.Tensor, Cache], torch.Tensor]
"""Logits (rows, vocabulary) of token ids (rows,) at positions (axes, rows)."""


def resolve_branches(
    asked: str | int, *, is_float32: bool, attention: str, press: str, places_pairs: bool
) -> tuple[int, str]:
    """How many branches decode side by side; and why it is one, where more are asked for.

    Args:
        asked: `auto` or a number.
        is_float32: Whether the model computes in float32, where answers are equal token for token.
        attention: What transformers calls it.
        press: `none`, or what is kept of a video.
        places_pairs: Whether a key's position depends on the query.

    Raises:
        SettingsError: If it is neither.
    """
    try:
        number = MOST_BRANCHES if asked == "auto" else int(asked)
    except ValueError:
        number = 0
    if not 1 <= number <= 64:
        raise SettingsError(f"branches={asked!r} must be auto, or a number from 1 to 64.")
    if number == 1:
        return 1, ""
    if press != "none":
        return 1, f"kv_press={press} keeps other tokens of each prompt"
    if places_pairs:
        return 1, "positions are those of pairs of query and key"
    if not attention.startswith("split_"):
        return 1, f"attention {attention} is transformers' own"
    if asked == "auto" and not is_float32:
        return 1, "in half precision near ties may fall otherwise; branches=8 turns it on"
    return number, ""


class _BranchLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped
    """Keys and values of one layer: the shared ones in the engine's buffer, and each own."""

    def __init__(self, whole: BufferLayer, group: Branches) -> None:
        super().__init__()
        self.whole, self.group = whole, group
        self.own = [
            x.new_zeros((group.size, x.shape[1], group.longest + _ROOM, x.shape[3]))
            for x in (whole.keys, whole.values)
        ]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.arange(self.group.size, device=key_states.device)[:, None]
        places = self.group.seen(key_states.device) - 1
        for own, states in zip(self.own, (key_states, value_states), strict=True):
            # (1, heads, branches * new, size) to (branches, new, heads, size)
            by_branch = states[0].view(len(states[0]), *places.shape, -1)
            own[rows, :, places] = by_branch.permute(1, 2, 0, 3)
        return key_states, value_states

    def attend(self, query: torch.Tensor, scaling: float | None) -> torch.Tensor:
        """What `branch_attention` returns."""
        shared, end = self.group.shared, self.group.attended
        return branch_attention(
            query,
            (self.whole.keys[:, :, :shared], self.whole.values[:, :, :shared]),
            (self.own[0][:, :, :end], self.own[1][:, :, :end]),
            self.group.seen(query.device),
            scaling,
        )

    def make_room(self, tokens: int) -> bool:
        """Whether buffers grew so that a branch has room for so many own tokens."""
        held = self.own[0].shape[2]
        if tokens <= held:
            return False
        self.own = [functional.pad(x, (0, 0, 0, max(tokens - held, held))) for x in self.own]
        return True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        pass

    def get_seq_length(self) -> int:
        return self.group.shared + self.group.longest

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self.group.shared + int(self.own[0].shape[2])


class Branches:
    """A group of prompts that share the beginning of the engine's cache.

    Args:
        whole: The layers of that cache, which must keep the shared part while this is used.
        shared: Tokens that all have in common.
        own: How many each has besides, at the end of its prompt.
        run: The model.
        next_positions: Positions after (axes, branches) last ones of so many (branches,) tokens.
        captures: Replay a step as a CUDA graph.
    """

    def __init__(
        self,
        whole: Sequence[BufferLayer],
        *,
        shared: int,
        own: Sequence[int],
        run: Run,
        next_positions: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        captures: bool = False,
    ) -> None:
        self.size, self.shared, self.longest = len(own), shared, max(own)
        self.new = 1
        """Tokens that each branch gets in a step."""
        self._run, self._next = run, next_positions
        device = whole[0].keys.device
        self._lengths = torch.tensor(own, device=device)
        self._last: torch.Tensor | None = None
        """(axes, branches) positions of the last tokens, where they do not count."""
        self._layers = [_BranchLayer(layer, self) for layer in whole]
        self._cache = Cache(layers=self._layers)
        self._captures, self._steps = captures, 0
        self._graph: _Graph | None = None
        self._attended: int | None = None

    @property
    def attended(self) -> int:
        """Own tokens that a step attends to, beyond each branch's own under the mask."""
        return self._attended or self.longest + self.new

    def seen(self, device: torch.device) -> torch.Tensor:
        """(branches, new) own tokens that each new one sees, itself among them."""
        seen = self._lengths[:, None] + torch.arange(1, self.new + 1, device=self._lengths.device)
        return seen.to(device)

    def keep(self, row: int, positions: torch.Tensor | None) -> None:
        """Copy what the engine's cache holds behind the shared part: a branch's own."""
        for layer in self._layers:
            held = layer.whole.length
            for own, whole in zip(layer.own, (layer.whole.keys, layer.whole.values), strict=True):
                own[row, :, : held - self.shared] = whole[0, :, self.shared : held]
        if positions is not None:
            if self._last is None:
                self._last = positions.new_zeros((len(positions), self.size))
            self._last[:, row] = positions[:, -1]

    def read(
        self, token_ids: Sequence[Sequence[int]], positions: Sequence[torch.Tensor] | None
    ) -> torch.Tensor:
        """Read the own tokens of all branches in one pass, where they have none yet.

        Args:
            token_ids: Of each branch, one at least.
            positions: (axes, tokens) of each branch, where they do not count.

        Returns:
            (branches, tokens of the longest, vocabulary) float32 logits; those behind the end of a
            branch mean nothing.
        """
        self.new = max(map(len, token_ids))
        for layer in self._layers:
            layer.make_room(self.new)
        ids = torch.zeros(self.size, self.new, dtype=torch.long)
        for row, own in enumerate(token_ids):
            ids[row, : len(own)] = torch.tensor(own)
        places = torch.arange(self.shared, self.shared + self.new).repeat(self.size)[None]
        if positions is not None:
            rows = [functional.pad(p, (0, self.new - p.shape[1])) for p in positions]
            places = torch.cat(rows, dim=1)
        device = self._lengths.device
        logits = self._forward(ids.flatten().to(device), places.to(device))
        return logits.view(self.size, self.new, -1)

    def step(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Append a token to each branch; the (branches, vocabulary) float32 logits after them.

        A branch that is over, or that nobody asks for, gets any token.
        """
        grew = sum(layer.make_room(self.longest + 1) for layer in self._layers) > 0
        device = self._lengths.device
        count = self.shared + self._lengths
        if self._last is None:
            positions = count[None]
        else:
            self._last = self._next(self._last, count.to(self._last.device)).to(self._last)
            positions = self._last.to(device)
        ids = torch.tensor(token_ids, device=device)
        self._steps += 1
        if self._captures and self._steps > _EAGER_STEPS:
            if self._graph is None or grew:
                self._attended = self._layers[0].own[0].shape[2]
                self._graph = _Graph(self._forward, ids, positions)
            logits = self._graph(ids, positions)
        else:
            logits = self._forward(ids, positions)
        self._lengths += 1
        self.longest += 1
        return logits

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        with attending(self._layers):
            return self._run(ids, positions, self._cache)


class _Graph:
    """A call with these shapes as a CUDA graph. Not measured; see `tests/engine/test_branches.py`.

    Args:
        function: Reads and writes the same memory at each call.
        *inputs: On the device.
    """

    def __init__(self, function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
        self._inputs = [each.clone() for each in inputs]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels are loaded and plans made before it is captured
            function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = function(*self._inputs)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        for held, given in zip(self._inputs, inputs, strict=True):
            held.copy_(given)
        self._graph.replay()
        return self._output.clone()
