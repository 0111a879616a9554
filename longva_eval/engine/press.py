"""Presses: after a video is read, only a part of its keys and values is kept.

A press is lossy, and so never on without its name. Text is always kept, and so are positions: a
token that is kept stays where it stood. Each layer, and but for the controls each key-value head,
keeps its own tokens; all keep equally many.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from longva_eval.engine.kv_buffer import BufferLayer
from longva_eval.errors import SettingsError

__all__ = ["PRESSES", "Press", "kept_places", "read_press"]

PRESSES = {
    "knorm": "keys of the smallest norm (arXiv:2406.11430)",
    "vnorm": "values of the largest norm, a score of QuickVideo (arXiv:2505.16175)",
    "snapkv": "what the last tokens attend to, pooled over 5 (SnapKV, arXiv:2404.14469)",
    "random": "any tokens, the same in all layers and heads: a control",
    "uniform": "whole frames, evenly spread: a control",
    "recent": "the last tokens: a control",
}
"""What is kept of the visual tokens. `snapkv:F` watches the last 32 tokens of the video, which are
kept (question-agnostic: questions share what is pressed); `snapkv:F:question` the question
(question-aware: the video is pressed anew for each)."""
_WINDOW = 32
_POOL = 5


@dataclass(frozen=True)
class Press:
    """Which visual tokens are kept."""

    name: str
    fraction: float
    """Of the visual tokens, above 0 and at most 1."""
    reads_question: bool = False

    @property
    def watches(self) -> bool:
        """Whether it needs to know what is attended to."""
        return self.name == "snapkv"

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.name}:{self.fraction:g}" + (":question" if self.reads_question else "")

    def window(self, press_at: int, first_read: int) -> tuple[int, int]:
        """From which token to which its attention is watched, of a prompt pressed at `press_at`.

        `first_read` is the last token of the question: what follows is the answer.
        """
        if self.reads_question:
            return max(press_at, first_read + 1 - _WINDOW), first_read + 1
        return max(0, press_at - _WINDOW), press_at


def read_press(text: str) -> Press | None:
    """`none`, or a name, a fraction and perhaps `question`, with colons between.

    Raises:
        SettingsError: If it is none of these.
    """
    if text == "none":
        return None
    name, _, rest = text.partition(":")
    number, _, aware = rest.partition(":")
    try:
        fraction = float(number)
    except ValueError:
        fraction = 0.0
    if name not in PRESSES or not 0 < fraction <= 1 or aware not in ("", "question"):
        raise SettingsError(
            f"kv_press={text!r} must be none, or a press and the part of the visual tokens that is "
            f"kept, above 0 and at most 1, as snapkv:0.5. Presses: {', '.join(PRESSES)}; "
            "snapkv:0.5:question looks at the question."
        )
    if aware and name != "snapkv":
        raise SettingsError(f"kv_press={text}: {name} does not look at the question.")
    return Press(name, fraction, bool(aware))


def kept_places(
    press: Press,
    layer: BufferLayer,
    frame_of: torch.Tensor,
    *,
    attention: torch.Tensor | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Which tokens of a layer are kept.

    Args:
        press: What is kept.
        layer: Holds the prompt up to its last visual token.
        frame_of: (tokens,) which visual piece each token belongs to; -1 for text.
        attention: (heads, tokens or more) how much each was attended to, where a press watches.
        seed: For `random`.

    Returns:
        (num_kv_heads, kept) places, ascending, on the layer's device.
    """
    heads, device = layer.keys.shape[1], layer.keys.device
    visual = (frame_of >= 0).nonzero()[:, 0]
    number = max(1, round(press.fraction * len(visual)))
    if press.name == "uniform":
        frames = int(frame_of.max()) + 1
        taken = max(1, round(press.fraction * frames))
        chosen = ((torch.arange(taken) + 0.5) * frames / taken).long()
        best = torch.isin(frame_of[visual], chosen).nonzero()[:, 0].expand(heads, -1)
    else:
        scores = _scores(press, layer, visual, attention, seed, number)
        # Of equal scores the earlier is kept, on every device.
        best = scores.argsort(dim=-1, descending=True, stable=True)[:, :number]
    text = (frame_of < 0).nonzero()[:, 0].expand(heads, -1)
    kept = torch.cat([text.to(device), visual.to(device)[best.to(device)]], dim=1)
    return kept.sort(dim=-1).values


def _scores(
    press: Press,
    layer: BufferLayer,
    visual: torch.Tensor,
    attention: torch.Tensor | None,
    seed: int,
    number: int,
) -> torch.Tensor:
    """(num_kv_heads, visual tokens) float32: what is high is kept."""
    heads = layer.keys.shape[1]
    here = visual.to(layer.keys.device)
    if press.name == "knorm":
        scores: torch.Tensor = -layer.keys[0, :, here].float().norm(dim=-1)
        return scores
    if press.name == "vnorm":
        scores = layer.values[0, :, here].float().norm(dim=-1)
        return scores
    if press.name == "recent":
        return visual.float().expand(heads, -1)
    if press.name == "random":
        drawn = torch.rand(len(visual), generator=torch.Generator().manual_seed(seed))
        return drawn.expand(heads, -1)
    assert attention is not None, "snapkv watches"
    seen = attention.view(heads, -1, attention.shape[1]).mean(1)[:, here]
    pooled = functional.avg_pool1d(seen, _POOL, stride=1, padding=_POOL // 2)
    if not press.reads_question:  # the window itself is kept, of few tokens as half of them
        pooled[:, len(visual) - min(_WINDOW, number // 2) :] = torch.inf
    return pooled
