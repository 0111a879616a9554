"""Tables and figures of the LongVA paper that can be repeated: what they ask, cost and need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longva_eval.errors import EvaluationError
from longva_eval.local.layouts import Layout, find_layouts
from longva_eval.local.sources import dataset_gigabytes
from longva_eval.needle.grid import NeedleGrid
from longva_eval.needle.items import Item, Shown
from longva_eval.studies.cost import (
    DECODE_SECONDS,
    GPUS,
    TASK_TEXT_TOKENS,
    estimate_seconds,
    plan_memory,
    task_cost,
    weight_bytes,
)
from longva_eval.studies.needle_cost import needle_cost
from longva_eval.studies.plan import model_shape
from longva_eval.studies.shape import ModelShape
from longva_eval.text import parse_range, parse_whole_range

__all__ = ["TARGETS", "Target", "cost_lines", "data_lines"]

_UTILIZATION = 0.4


@dataclass(frozen=True, kw_only=True)
class Target:
    """A table or figure."""

    title: str
    benchmark: str
    """As `compare --published` names it."""
    model: str
    """As the paper's rows name it."""
    source: str
    """Beginning of their `source_table`."""
    task: str = ""
    """Of lmms-eval; empty for the needle grid."""
    frames: str
    quick_frames: str = ""
    """On what ships with the package; empty where that has no stand-in."""
    depths: str = ""
    quick_depths: str = ""

    def frame_counts(self, *, quick: bool) -> tuple[int, ...]:
        """What is asked for, `quick` on what ships with the package."""
        return parse_whole_range(self.quick_frames if quick else self.frames, name="frames")

    def layouts(self, *, quick: bool) -> list[Layout]:
        """The data it needs."""
        return [] if quick or not self.task else find_layouts(self.task)


TARGETS = {
    "table4": Target(
        title="Table 4: Video-MME without subtitles",
        benchmark="Video-MME",
        model="LongVA",
        source="LongVA Table 4",
        task="longva_videomme",
        frames="8,16,32,64,128,384",
        quick_frames="8,16",
    ),
    "table6": Target(
        title="Table 6: images",
        benchmark="images",
        model="LongVA (UniRes)",
        source="LongVA Table 6",
        task="longva_images",
        frames="1",
    ),
    "figure4": Target(
        title="Figure 4: V-NIAH",
        benchmark="V-NIAH",
        model="LongVA",
        source="repository output of the LongVA V-NIAH figure",
        frames="200:3000:200",
        depths="0:1:0.2",
        quick_frames="16,64",
        quick_depths="0,0.5,1",
    ),
}


def cost_lines(target: Target, pretrained: str, *, quick: bool) -> list[str]:
    """What a target costs, with shared prefixes; nothing is loaded."""
    try:
        shape = model_shape(pretrained)
    except EvaluationError as error:
        return [f"  cost        unknown: {error}"]
    flops, num_frames, tokens, what = _cost(shape, target, quick=quick)
    hours = ", ".join(
        f"{name} {_hours(estimate_seconds(flops, gpu, utilization=_UTILIZATION))}"
        for name, gpu in GPUS.items()
    )
    peak = plan_memory(shape, tokens).peak / 1e9
    decoding = _hours(num_frames * DECODE_SECONDS["uniform"])
    return [
        f"  asks        {what}",
        f"  GPU time    {hours} (at {_UTILIZATION:.0%} of the peak)",
        f"  GPU memory  {peak:.2f} GB in bfloat16 at {tokens:,} tokens",
        f"  decoding    at most {decoding} of one CPU core, beside the GPU"
        if num_frames
        else "  decoding    pictures, no video",
        f"  weights     {weight_bytes(shape) / 1e9:.2f} GB",
    ]


def _cost(shape: ModelShape, target: Target, *, quick: bool) -> tuple[float, int, int, str]:
    """FLOPs, frames to decode, tokens of the longest prompt, and a description."""
    frames = target.frame_counts(quick=quick)
    if not target.task:
        depths = target.quick_depths if quick else target.depths
        grid = NeedleGrid(frame_counts=frames, depths=tuple(parse_range(depths, name="depths")))
        item = Item(name="a needle", needles=(Shown(),), question="", answer="")
        cost = needle_cost(shape, [item] * 5, grid)
        seen = shape.vision_flops(max(frames) + 5 * shape.frames_per_unit, composed=True)
        flops = float(cost.shared_flops + seen)
        text = f"{cost.num_cells:,} needles and controls in up to {max(frames):,} frames"
        return flops, max(frames), cost.longest_tokens, text
    if target.benchmark == "images" and not quick:
        count = sum(layout.num_rows or 0 for layout in find_layouts(target.task))
        tiles = shape.picture_frames
        one = task_cost(shape, num_videos=count, questions_per_video=1, num_frames=tiles)
        tokens = shape.video_tokens(tiles) + TASK_TEXT_TOKENS
        text = f"{count:,} questions on a picture each, of at most {tiles} tiles"
        return float(one.shared_flops), 0, tokens, text
    videos = 6 if quick else 900
    costs = [
        task_cost(shape, num_videos=videos, questions_per_video=3, num_frames=n) for n in frames
    ]
    tokens = shape.video_tokens(max(frames)) + TASK_TEXT_TOKENS
    text = f"{3 * videos:,} questions on {videos} videos at {', '.join(map(str, frames))} frames"
    flops = float(sum(cost.shared_flops for cost in costs))
    return flops, videos * sum(frames), tokens, text


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def data_lines(
    target: Target, pretrained: str, missing: Sequence[Layout], home: Path, *, quick: bool
) -> list[str]:
    """What is not in HF_HOME, how large it is, and the commands that fetch it; empty if nothing."""
    if quick:
        return []
    if not target.task:
        return [
            "  data        a film of yours of at least 3,000 seconds, as DIR/film.mp4 (the paper's "
            "cannot be shared),",
            "              and the published needles:",
            "    hf download lmms-lab/v_niah_needles --repo-type dataset --local-dir NEEDLES",
            f"    longva-eval reproduce figure4 --pretrained {pretrained} --data DIR",
        ]
    if not missing:
        return []
    names = ", ".join(layout.name for layout in missing)
    lines = [f"  data        not all of this is in {home}: {names}"]
    fetched = dict.fromkeys(layout.dataset for layout in missing)
    for name in fetched:
        size = dataset_gigabytes(name)
        told = "size unknown: the hub is out of reach" if size is None else f"{size:.1f} GB"
        lines.append(f"    hf download {name} --repo-type dataset --local-dir DIR/{name}  # {told}")
    lines.append(f"    longva-eval prepare {target.task} --from DIR")
    return lines
