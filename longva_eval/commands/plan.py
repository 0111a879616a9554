"""`longva-eval plan`: whether a run fits a GPU and how long it takes, before it is started."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, get_args

from longva_eval.commands.needle_options import add_item_options, check_used
from longva_eval.embedded import CHECKPOINTS
from longva_eval.needle.items import TESTS_OF
from longva_eval.studies.cost import (
    ATTENTION,
    DECODE_SECONDS,
    GPUS,
    PREFIX_TOKENS,
    QUESTION_TOKENS,
    TASK_TEXT_TOKENS,
    PlanDType,
)
from longva_eval.studies.plan import (
    DEFAULT_DEPTHS,
    DEFAULT_NEEDLES,
    HUB_ID,
    TASKS,
    PlanSettings,
    plan_text,
)
from longva_eval.studies.shape import DEFAULT_FRAME_SIZE

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Print what a prompt, a needle grid or a task costs, and whether it fits."""
    options = vars(_parser().parse_args(arguments))
    given = {name for name, value in options.items() if value is not None}
    check_used(given, (options["test"] or "single").split(","))
    items = {name: value for name in TESTS_OF if (value := options.pop(name)) is not None}
    print(plan_text(PlanSettings(items=items, **options)))
    return 0


def _size(text: str) -> tuple[int, int]:
    """`1280x720` as width and height."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size in pixels such as 1280x720")
    return int(found[1]), int(found[2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longva-eval plan",
        description="Print tokens, FLOPs, memory and time of a prompt, a needle grid or a task: "
        "each prompt alone against shared prefixes. Only arithmetic; nothing is loaded.",
        epilog="Example, the paper's grid: longva-eval plan --model 7b --gpu 48GB --grid "
        f"200:3000:200 --depths 0:1:0.2 --needles 5. A grid cell counts {PREFIX_TOKENS} tokens "
        f"before the frames and {QUESTION_TOKENS} after, a task's question {TASK_TEXT_TOKENS}.",
    )
    add: Any = parser.add_argument
    add(
        "--model",
        "--pretrained",
        default="7b",
        help=f"7b or {HUB_ID} (default), an embedded one ({', '.join(CHECKPOINTS)}), a folder "
        "with a config.json, or a hub id",
    )
    add("--frames", type=int, help="frames of a prompt (default: the grid's longest)")
    add(
        "--frame-size",
        type=_size,
        default=DEFAULT_FRAME_SIZE,
        metavar="WxH",
        help="of videos, for models whose frames keep it (1280x720)",
    )
    add("--gpu", metavar="MEMORY", help="memory of the GPU: 48GB, 44.7GiB (default: --gpu-name's)")
    add("--gpu-name", help=f"for its peak: {', '.join(GPUS)} (default: all of them)")
    add("--attention", default="sdpa", choices=ATTENTION,
        help="back end whose rate, measured on an H200, counts (sdpa)")  # fmt: skip
    add("--utilization", type=float, help="share of the peak that is reached, instead of that rate")
    each = ", ".join(f"{seconds:g} {how}" for how, seconds in DECODE_SECONDS.items())
    add("--decode-seconds", type=float, metavar="S",
        help=f"CPU seconds that a frame takes to decode ({each}, of 640x360)")  # fmt: skip
    add("--dtype", default="bfloat16", choices=get_args(PlanDType), help="bfloat16 (default)")
    add("--chunk-tokens", default="auto", help="prefill chunk (auto: as chosen on such a GPU)")
    add("--grid", metavar="FRAMES", help="V-NIAH haystack lengths: 200:3000:200 or 6,12,24")
    add("--depths", help=f"V-NIAH needle depths ({DEFAULT_DEPTHS})")
    add("--needles", "--num-needles", type=int, help=f"V-NIAH needles ({DEFAULT_NEEDLES})")
    add(
        "--lattice",
        type=int,
        metavar="STEP",
        help="V-NIAH insertion indices at multiples of STEP frames instead of depths; lengths are "
        "--grid's, or the multiples of STEP up to --frames",
    )
    add(
        "--test",
        metavar="NAME[,NAME]",
        help="needle tests on --grid, with --needles items (24), as longva-eval niah --test",
    )
    add_item_options(add)
    add("--circular", action="store_true", help="of --test: letters, and every rotation of options")
    add("--spread", help="of --test (0.5)")
    add("--at", help="of --test: frames that the pictures stand before, instead of depths")
    add(
        "--task",
        help=f"questions on videos: {', '.join(TASKS)}; any other with --videos and --questions",
    )
    add("--videos", type=int, help="videos of the task (the task's)")
    add("--questions", type=int, help="questions on each video (the task's)")
    return parser
