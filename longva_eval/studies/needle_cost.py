"""What a needle test costs: each cell alone, and through the prefix tree. No torch is run.

The cells are those that `longva-eval niah` asks, controls included, with frames of the model's size
and texts of an average length, planned by the engine's own `plan_visits`.
"""

from __future__ import annotations

from collections.abc import Sequence

from longva_eval.needle.grid import LatticeGrid, NeedleGrid, TestGrid, arrange, controls_of
from longva_eval.needle.items import Item
from longva_eval.prompts.pieces import Prompt, TextPiece, VisualPiece
from longva_eval.studies.cost import PREFIX_TOKENS, QUESTION_TOKENS, GridCost, prompts_cost
from longva_eval.studies.shape import ModelShape

__all__ = ["needle_test_cost"]


def needle_test_cost(
    shape: ModelShape,
    items: Sequence[Item],
    grid: NeedleGrid | LatticeGrid | TestGrid,
) -> GridCost:
    """The cost of a test on a grid.

    Raises:
        SettingsError: If no cell of the grid can hold the test.
    """

    def frame(key: str) -> VisualPiece:
        return VisualPiece(key, shape.tokens_per_frame, None)

    haystack = [frame(f"haystack {number}") for number in range(max(grid.frame_counts))]
    before = TextPiece(tuple(range(PREFIX_TOKENS)))
    needles, distractors, after = [], [], []
    for number, item in enumerate(items):
        needles.append([frame(f"needle {number} {n}") for n in range(len(item.needles))])
        distractors.append([frame(f"other {number} {n}") for n in range(len(item.distractors))])
        first = (number + 1) * QUESTION_TOKENS  # questions differ from their first token on
        after.append(TextPiece(tuple(range(first, first + QUESTION_TOKENS))))
    prompts = []
    for cell in [*grid.lay_out(items).cells, *controls_of(grid.frame_counts, len(items))]:
        n = cell.item
        frames = arrange(cell, items[n], haystack, needles[n], distractors[n])
        prompts.append(Prompt((before, *frames, after[n])))
    return prompts_cost(shape, prompts)
