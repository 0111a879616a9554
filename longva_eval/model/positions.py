"""Where tokens stand: named changes of positions at evaluation time, without training.

Some only give tokens other positions before keys are rotated and cached (`stride`, `grouped`,
`recurrent`, `temporal`), or other frequencies by their type (`visual-yarn`). For the others
(`self-extend`, `rerope`, `dca`, `lm-infinite`) the distance at which a key is seen depends on the
query, too: their keys are cached as they are and rotated when they are attended to
(`longva_eval.model.attention.placed_attention`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from longva_eval.errors import SettingsError

__all__ = ["POSITION_POLICIES", "PositionPolicy"]

POSITION_POLICIES = {
    "own": "the model's own",
    "stride:S": "a visual token takes 1 / S of a position (V2PE, arXiv:2412.09616)",
    "grouped:S": "floor(p / S) for every token (LongEmbed, arXiv:2404.12096)",
    "recurrent:L": "p modulo L for every token (LongEmbed)",
    "visual-yarn:S:L0": "visual tokens rotated by YaRN's frequencies for S times their trained "
    "length L0, text by the model's own (after Visual Context Window Extension, arXiv:2409.20018)",
    "temporal:S": "the time axis of visual tokens divided by S, for models with several axes",
    "self-extend:G[:W]": "distances from W (512) on in groups of G (arXiv:2401.01325)",
    "rerope:W": "distances from W on are W (ReRoPE, Su 2023)",
    "dca:S:L": "dual chunk attention, chunks of S tokens, trained length L (arXiv:2402.17463)",
    "lm-infinite:L[:N]": "the last L tokens and the first N (10), those at L (arXiv:2308.16137)",
}
"""How `positions` is written, and what it does; p is the place in the prompt."""
_NEEDS_TRAINING = {
    "clex": "CLEX (arXiv:2310.16450) learns an ODE of the frequencies",
    "abacus": "Abacus' Giraffe (arXiv:2308.10882) is a truncated basis that was trained with",
    "giraffe": "M-RoPE++ (arXiv:2412.12735) was trained with",
    "videorope": "VideoRoPE (arXiv:2502.05173) assigns frequencies to axes before training",
}
_NUMBERS: dict[str, tuple[int, tuple[float, ...]]] = {
    "own": (0, ()), "stride": (1, ()), "grouped": (1, ()), "recurrent": (1, ()),
    "temporal": (1, ()), "visual-yarn": (2, ()), "self-extend": (1, (512,)), "rerope": (1, ()),
    "dca": (2, ()), "lm-infinite": (1, (10,)),
}  # fmt: skip
"""How many numbers a policy needs, and the defaults of those it may have."""
_PLACES_PAIRS = ("self-extend", "rerope", "dca", "lm-infinite")


@dataclass(frozen=True)
class PositionPolicy:
    """One of `POSITION_POLICIES`, as it is written."""

    text: str = "own"

    def __post_init__(self) -> None:
        name, numbers = self.name, self.text.split(":")[1:]
        if name in _NEEDS_TRAINING:
            raise SettingsError(
                f"positions={self.text} is no method for a model as it is: {_NEEDS_TRAINING[name]}."
            )
        needed, defaults = _NUMBERS.get(name, (-1, ()))
        if not needed <= len(numbers) <= needed + len(defaults):
            raise SettingsError(
                f"positions={self.text!r} is unknown; use {', '.join(POSITION_POLICIES)}."
            )
        for number in numbers:
            whole = name not in ("stride", "temporal", "visual-yarn")
            try:
                value = float(number)
            except ValueError:
                value = 0.0
            if not 1 <= value < 1 << 30 or (whole and value != int(value)):
                kind = "whole numbers" if whole else "numbers"
                raise SettingsError(f"positions={self.text!r} needs {kind} of at least 1.")
        if name == "dca" and not self.numbers[0] < self.numbers[1]:
            raise SettingsError(f"positions={self.text!r}: chunks must be shorter than L.")

    @property
    def name(self) -> str:
        return self.text.partition(":")[0]

    @property
    def numbers(self) -> tuple[float, ...]:
        """What stands behind the name, defaults filled in."""
        given = tuple(float(number) for number in self.text.split(":")[1:])
        needed, defaults = _NUMBERS[self.name]
        return given + defaults[len(given) - needed :]

    @property
    def is_own(self) -> bool:
        return self.name == "own"

    @property
    def places_pairs(self) -> bool:
        """Whether a key's position depends on the query."""
        return self.name in _PLACES_PAIRS

    @property
    def turns_by_type(self) -> bool:
        """Whether visual tokens turn by other frequencies than text."""
        return self.name == "visual-yarn"

    def describe(self) -> str:
        """With all numbers."""
        return ":".join((self.name, *(f"{number:g}" for number in self.numbers)))

    # Of the kinds that give tokens other positions.

    def place(self, own: torch.Tensor | None, is_visual: torch.Tensor) -> torch.Tensor | None:
        """Positions of a whole prompt.

        Args:
            own: (axes, tokens) as the model has them; None if they count.
            is_visual: (tokens,) bool.

        Returns:
            (axes, tokens), float32 where they have fractions; None if they count.

        Raises:
            SettingsError: If the policy means nothing for this model.
        """
        if self.is_own or self.places_pairs or self.turns_by_type:
            return own
        if self.name == "temporal":
            if own is None:
                raise SettingsError(
                    f"positions={self.text}: this model has no time axis; use stride:S."
                )
            return _with_time_divided(own, is_visual, self.numbers[0])
        if own is not None:
            raise SettingsError(
                f"positions={self.text} is for models with one axis; use temporal:S."
            )
        count = torch.arange(len(is_visual))
        if self.name == "stride":
            steps = torch.where(is_visual, 1 / self.numbers[0], 1.0).double()
            # A token stands where the steps of those before it end.
            return (steps.cumsum(0) - steps)[None].float()
        return self._of_count(count)[None]

    def next(self, last: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """(axes, texts) where text tokens stand that follow on last ones, each after `count`."""
        if self.name in ("grouped", "recurrent"):
            return self._of_count(count)[None]
        # generate()'s rule: on from the last position, on all axes.
        return last + 1

    def _of_count(self, count: torch.Tensor) -> torch.Tensor:
        number = int(self.numbers[0])
        return count // number if self.name == "grouped" else count % number

    # Of the kinds that place pairs of query and key.

    def parts(
        self, query: torch.Tensor, key: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Where queries and keys stand for each other.

        Args:
            query: (queries, 1) places in the prompt.
            key: (heads, 1, keys) places; one head for all, or each its own.

        Yields:
            Positions of queries and of keys, broadcastable to these shapes, and for which pairs,
            (heads, queries, keys), they hold. A pair in no part is not attended to.
        """
        distance = query - key
        if self.name == "dca":
            size, trained = (int(number) for number in self.numbers)
            chunk = query // size - key // size
            yield query % size, key % size, (chunk == 0) & (distance >= 0)
            yield (query % size + size).clamp(max=trained - 1), key % size, chunk == 1
            yield torch.full_like(query, trained - 1), key % size, chunk > 1
            return
        if self.name == "self-extend":
            group, window = (int(number) for number in self.numbers)
            far = query // group + window - window // group, key // group, distance >= window
        else:
            window = int(self.numbers[0])
            seen = distance >= window
            if self.name == "lm-infinite":
                seen = seen & (key < int(self.numbers[1]))
            far = torch.full_like(query, window), torch.zeros_like(key), seen
        yield query, key, (distance >= 0) & (distance < window)
        yield far


def _with_time_divided(own: torch.Tensor, is_visual: torch.Tensor, by: float) -> torch.Tensor:
    """Each run of visual tokens takes less of the time axis, and what follows moves up to it."""
    placed = own.float()
    runs = torch.nn.functional.pad(is_visual.int(), (1, 1)).diff().nonzero()[:, 0].tolist()
    has_time = False
    for first, end in zip(runs[::2], runs[1::2], strict=True):
        start = placed[0, first].clone()
        before = placed[:, first:end].max()
        has_time |= bool((placed[0, first:end] != start).any())
        placed[0, first:end] = start + (placed[0, first:end] - start) / by
        placed[:, end:] += placed[:, first:end].max() - before
    if bool(is_visual.any()) and not has_time:
        raise SettingsError(
            f"positions=temporal:{by:g} has no effect: frames of this model stand between texts, "
            "not on a time axis."
        )
    return placed
