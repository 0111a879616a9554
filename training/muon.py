"""Muon, in float32 and for all matrices of a shape at once.

`torch.optim.Muon` computes the same in bfloat16, matrix by matrix: on a CPU without bfloat16 a step
takes 0.8 s, more than the model's forward and backward pass (0.2 to 0.5 s); here 0.05 s.
Source: Keller Jordan and others, "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor

__all__ = ["Muon"]

_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each matrix has singular values of about one.

    Args:
        matrices: Two-dimensional parameters.
        lr: Length of a step; of a tall matrix, times the root of rows by columns.
        momentum: Share of the last direction that is kept (Nesterov's).
        weight_decay: Times `lr`, the share a step takes from the weights.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(list(matrices), defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # no loss comes back
        """Change the matrices by their gradients."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                directions = []
                for matrix in matrices:
                    kept = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                    kept.mul_(group["momentum"]).add_(matrix.grad)
                    directions.append(matrix.grad + group["momentum"] * kept)
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for matrix, update in zip(
                    matrices, _orthogonal(torch.stack(directions)), strict=True
                ):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)


def _orthogonal(matrices: Tensor) -> Tensor:
    """(n, rows, columns) with singular values between about 0.7 and 1.2, by Newton and Schulz."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x
