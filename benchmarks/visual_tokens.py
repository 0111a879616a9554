"""Visual tokens without a vision tower: for benchmarks of the language model alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from longva_eval.prompts.pieces import VisualPiece

__all__ = ["RandomTokens", "frame"]


def frame(name: str, num_tokens: int) -> VisualPiece:
    """A frame of this many tokens."""
    return VisualPiece(name, num_tokens, None)


class RandomTokens:
    """Gives each frame random tokens that depend on its name alone."""

    def __init__(self, hidden_size: int, *, device: str, dtype: torch.dtype) -> None:
        self._shape = hidden_size
        self._device, self._dtype = device, dtype
        self._made: dict[str, torch.Tensor] = {}

    def expect(self, upcoming: Sequence[Sequence[VisualPiece]]) -> None:
        """Nothing to prepare."""

    def stop(self) -> None:
        """Nothing to end."""

    def encode(self, pieces: Sequence[VisualPiece]) -> list[torch.Tensor]:
        """(num_tokens, hidden_size) for each piece."""
        for piece in pieces:
            if piece.key not in self._made:
                number = sum(ord(letter) * 31**place for place, letter in enumerate(piece.key))
                generator = torch.Generator().manual_seed(number % (1 << 62))
                tokens = torch.randn(piece.num_tokens, self._shape, generator=generator) * 0.02
                self._made[piece.key] = tokens.to(self._device, self._dtype)
        return [self._made[piece.key] for piece in pieces]
