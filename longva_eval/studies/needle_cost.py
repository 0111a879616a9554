"""What a needle test costs: each cell alone, and through the prefix tree. No torch.

The cells are those that `longva-eval niah` asks, with frames of the model's size and texts of an
average length, planned by the engine's own `plan_visits`. A cell that takes over `a` tokens of its
`b` costs `prefill_flops(b) - prefill_flops(a)`, since causal attention makes costs of prefixes
telescope.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from longva_eval.needle.grid import LatticeGrid, NeedleGrid, TestGrid, arrange, controls_of
from longva_eval.needle.items import Item
from longva_eval.prompts.pieces import Prompt, TextPiece, VisualPiece
from longva_eval.prompts.visits import Query, plan_visits
from longva_eval.studies.cost import PREFIX_TOKENS, QUESTION_TOKENS, SharedCost, prefill_flops
from longva_eval.studies.shape import ModelShape

__all__ = ["GridCost", "needle_cost"]


@dataclass(frozen=True, kw_only=True)
class GridCost(SharedCost):
    """The prompts of a grid, each alone and through the prefix tree; of the language model alone.

    Frames are encoded once in both, as the original does.
    """

    num_cells: int
    """Prompts."""
    num_indices: int = 0
    """Distinct insertion indices."""
    longest_tokens: int
    """The longest prompt."""
    longest_frames: int


def needle_cost(
    shape: ModelShape,
    items: Sequence[Item],
    grid: NeedleGrid | LatticeGrid | TestGrid,
    *,
    controls: bool = True,
    prefix_tokens: int = PREFIX_TOKENS,
    question_tokens: int = QUESTION_TOKENS,
) -> GridCost:
    """The cost of a test on a grid.

    Args:
        shape: The model.
        items: What is asked; only the number and order of their pictures count.
        grid: Where.
        controls: Count the same questions blind, on their pictures alone, and without them.
        prefix_tokens: Text before the frames.
        question_tokens: Text after them.

    Raises:
        SettingsError: If no cell of the grid can hold the test.
    """
    unit = shape.frames_per_unit
    cells = grid.lay_out(items).in_whole_units(unit).cells
    indices = {(*cell.insert_indices, *cell.distractor_indices) for cell in cells}
    if controls:
        cells += controls_of(cells, len(items))
    # Frames between two places stand for each other: one piece, however many they are.
    marks = sorted({0, *itertools.chain(*indices), *(cell.num_frames for cell in cells)})
    number_of = {mark: number for number, mark in enumerate(marks)}

    def tokens(start: int, end: int) -> int:
        return shape.video_tokens(end, composed=True) - shape.video_tokens(start, composed=True)

    haystack = [
        VisualPiece(f"haystack {start}", tokens(start, end), None)
        for start, end in itertools.pairwise(marks)
    ]
    size = tokens(marks[-1], marks[-1] + unit)
    before = TextPiece(tuple(range(prefix_tokens)))
    needles, distractors, after = [], [], []
    for number, item in enumerate(items):
        count, whose = len(item.needles), number - item.rotation  # rotations show the same pictures
        shown = [
            VisualPiece(f"{whose} {n}", size, None) for n in range(count + len(item.distractors))
        ]
        needles.append(shown[:count])
        distractors.append(shown[count:])
        first = (number + 1) * question_tokens  # questions differ from their first token on
        after.append(TextPiece(tuple(range(first, first + question_tokens))))
    prompts = []
    for cell in cells:
        n = cell.item
        placed = replace(
            cell,
            num_frames=number_of[cell.num_frames],
            insert_indices=tuple(number_of[index] for index in cell.insert_indices),
            distractor_indices=tuple(number_of[index] for index in cell.distractor_indices),
        )
        frames = arrange(placed, items[n], haystack, needles[n], distractors[n])
        prompts.append(Prompt((before, *frames, after[n])))
    lengths = [prompt.num_tokens for prompt in prompts]
    distinct = list(dict.fromkeys(prompts))
    kept = plan_visits([Query(prompt) for prompt in distinct], chunk_tokens=max(lengths)).kept
    computed = [(prompt.num_tokens, taken) for prompt, taken in zip(distinct, kept, strict=True)]
    return GridCost(
        num_cells=len(prompts),
        num_indices=len(indices),
        longest_tokens=max(lengths),
        longest_frames=max(
            cell.num_frames + unit * len((*cell.insert_indices, *cell.distractor_indices))
            for cell in cells
        ),
        naive_tokens=sum(lengths),
        shared_tokens=sum(length - taken for length, taken in computed),
        naive_flops=sum(prefill_flops(shape, length) for length in lengths),
        shared_flops=sum(
            prefill_flops(shape, length, cached_tokens=taken) for length, taken in computed
        ),
    )
