"""Controls: the same question where something is taken away, so that a score has a floor.

* `blind`: the prompt without its video or pictures.
* `shuffle`: the frames in another order, drawn from the seed and the video; times that a prompt
  states stay where they stand.
* `single-frame`: of the chosen frames the one in the middle.
* `circular`: every rotation of the options (CircularEval of MMBench, arXiv:2307.06281); asked by
  the adapter, as it changes the question and not what is seen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from longva_eval.media.frames import FrameSample
from longva_eval.prompts.pieces import VisualPiece

__all__ = ["Control", "middle_frame", "shuffled"]

Control = Literal["none", "blind", "shuffle", "single-frame", "circular"]


def middle_frame(sample: FrameSample) -> FrameSample:
    """Of the chosen frames the one in the middle, alone; of an even number the later one."""
    place = len(sample.indices) // 2
    here = slice(place, place + 1)
    return replace(
        sample, indices=sample.indices[here], scores=sample.scores[here],
        timestamps_seconds=sample.timestamps_seconds[here],
    )  # fmt: skip


def shuffled(units: Sequence[VisualPiece], seed: int) -> tuple[list[VisualPiece], tuple[int, ...]]:
    """The pieces of a video in another order, which depends on the seed and on the pieces.

    Returns:
        The pieces, each shown at the time that belongs to its new place, and the order: which of
        the given ones stands at each place.
    """
    order = list(range(len(units)))
    keys = "/".join(unit.key for unit in units)
    random.Random(f"{seed}/{keys}").shuffle(order)
    shown = [replace(units[n], seconds=units[k].seconds) for k, n in enumerate(order)]
    return shown, tuple(order)
