"""`longva-eval plan`: whether a run fits a GPU and how long it takes, before it is started."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from longva_eval.embedded import CHECKPOINTS, embedded_checkpoint
from longva_eval.errors import SettingsError
from longva_eval.studies.cost import (
    DECODE_SECONDS_PER_FRAME,
    GPUS,
    PREFIX_TOKENS,
    QUESTION_TOKENS,
    TASK_TEXT_TOKENS,
    Gpu,
    GridCost,
    MemoryPlan,
    PlanDType,
    TaskCost,
    attention_flops,
    estimate_seconds,
    kv_bytes,
    lattice_indices,
    linear_flops,
    logits_bytes,
    max_frames,
    needle_grid_cost,
    plan_memory,
    prefill_flops,
    stock_indices,
    task_cost,
    vision_flops,
)
from longva_eval.studies.shape import LONGVA_7B, ModelShape, read_model_shape
from longva_eval.text import parse_range, parse_whole_range

__all__ = ["main"]

TASKS = {
    "videomme": (900, 3),
    "longva_videomme": (900, 3),
    **{f"longva_videomme_{duration}": (300, 3) for duration in ("short", "medium", "long")},
}
"""Videos, and questions on each, of known tasks. Video-MME: arXiv:2405.21075.

Tasks with subtitles are left out: their prompts have text that is not counted here.
"""

_HUB_ID = "lmms-lab/LongVA-7B"

_DEFAULT_DEPTHS = "0:1:0.2"
_DEFAULT_NEEDLES = 5
_DEFAULT_SPREAD = "0.5"
_GIGA, _TERA = 1e9, 1e12
_FLOP_UNITS = {"EFLOP": 1e18, "PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9}


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Rows of a label and numbers, under a title."""

    title: str
    columns: tuple[str, ...] = ("",)
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class _Speed:
    """How fast FLOPs are done: the GPUs asked for and the share of their peak."""

    gpus: dict[str, Gpu]
    utilization: float
    dtype: PlanDType

    def rows(self, *flops: float) -> list[tuple[str, ...]]:
        """A row for each peak: its time for each number of FLOPs."""
        names: dict[float, list[str]] = {}
        for name, gpu in self.gpus.items():
            names.setdefault(gpu.tflops(self.dtype), []).append(name)
        rows: list[tuple[str, ...]] = []
        for peak, found in names.items():
            gpu = self.gpus[found[0]]
            seconds = [
                estimate_seconds(count, gpu, utilization=self.utilization, dtype=self.dtype)
                for count in flops
            ]
            label = f"time at {self.utilization:.0%} of {_digits(peak)} TFLOP/s"
            rows.append((f"{label} ({', '.join(found)})", *_times(seconds)))
        return rows


def main(arguments: Sequence[str]) -> int:
    """Print what a prompt, a needle grid or a task costs, and whether it fits."""
    options = _parser().parse_args(arguments)
    _refuse_contradictions(options)
    shape = _shape(options.model)
    if options.gpu_name is not None and options.gpu_name not in GPUS:
        raise SettingsError(f"--gpu-name {options.gpu_name!r} is unknown; use {', '.join(GPUS)}.")
    speed = _Speed(
        gpus={options.gpu_name: GPUS[options.gpu_name]} if options.gpu_name else GPUS,
        utilization=options.utilization,
        dtype=options.dtype,
    )
    grid = _grid(shape, options)
    if options.frames is None and grid is None:
        raise SettingsError("Pass --frames, the frames of a prompt, or --grid.")
    text_tokens = PREFIX_TOKENS + QUESTION_TOKENS
    num_tokens = text_tokens + (options.frames or 0) * shape.tokens_per_frame
    if grid is not None:
        num_tokens = max(num_tokens, grid.longest_tokens)
    num_frames = (num_tokens - text_tokens) // shape.tokens_per_frame
    memory = plan_memory(shape, num_tokens, dtype=options.dtype, chunk_tokens=options.chunk_tokens)

    needle = " (the needle counted)" if grid and num_tokens == grid.longest_tokens else ""
    headline = (
        f"{shape.name}, {options.dtype}: {num_tokens:,} tokens = {num_frames:,} frames{needle} x "
        f"{shape.tokens_per_frame} + {text_tokens} of text"
    )
    tables = [
        _memory_table(shape, memory, num_tokens, options),
        _prefill_table(shape, num_frames, num_tokens, speed, options.decode_seconds),
    ]
    if grid is not None and not options.test:
        tables.append(_grid_table(grid, speed, options))
    tables += _test_tables(shape, speed, options)
    if options.task is not None:
        tables.append(_task_table(_task(shape, options), speed, options))
    print(headline)  # not before: a setting that cannot be shows itself in the tables
    print(_render(tables))
    print()
    print(_verdict(shape, memory, num_tokens, options))
    return 0


def _memory_table(
    shape: ModelShape,
    memory: MemoryPlan,
    num_tokens: int,
    options: argparse.Namespace,
) -> _Table:
    per_token = kv_bytes(shape, 1, dtype=options.dtype)
    chunk = min(options.chunk_tokens, num_tokens)
    parts = [
        ("weights: language model, vision tower, projector", memory.weights),
        (f"KV cache: {num_tokens:,} tokens x {per_token:,} bytes", memory.kv_cache),
        (f"activations of a chunk of {chunk:,} tokens", memory.activations),
        ("visual tokens of all frames", memory.visual_tokens),
        ("logits at the position that is read", memory.logits),
        ("reserve: CUDA context, workspaces, frames being encoded", memory.reserve),
        ("peak", memory.peak),
        ("not in it: float32 logits at all positions", logits_bytes(shape, num_tokens)),
    ]
    rows = [(label, _gigabytes(value)) for label, value in parts]
    return _Table(title="Memory of the longest prompt", columns=("GB",), rows=rows)


def _prefill_table(
    shape: ModelShape, num_frames: int, num_tokens: int, speed: _Speed, decode_seconds: float
) -> _Table:
    vision, prefill = vision_flops(shape, num_frames), prefill_flops(shape, num_tokens)
    linear, attention = linear_flops(shape, num_tokens), attention_flops(shape, num_tokens)
    parts = [
        (f"linear layers, {linear_flops(shape, 1) / _GIGA:.4g} GFLOP a token", linear),
        (f"causal attention, {attention_flops(shape, 1):,} FLOP x tokens^2", attention),
        ("prefill", prefill),
        (f"vision, {vision_flops(shape, 1) / _TERA:.3g} TFLOP a frame", vision),
    ]
    unit, scale = _flop_unit(prefill)
    rows: list[tuple[str, ...]] = [(label, _digits(value / scale)) for label, value in parts]
    decoding = _decoding_row(decode_seconds, num_frames)
    return _Table(
        title="One such prompt",
        columns=(unit,),
        rows=[*rows, *speed.rows(prefill + vision), decoding],
    )


def _decoding_row(seconds: float, *num_frames: int) -> tuple[str, ...]:
    """CPU time for numbers of frames; ahead of the GPU, in a process of its own."""
    label = f"decoding beside it, {seconds:g} CPU s a frame"
    return (label, *_times([seconds * count for count in num_frames]))


def _grid_table(grid: GridCost, speed: _Speed, options: argparse.Namespace) -> _Table:
    kind = f"lattice of {options.lattice}" if options.lattice else "stock"
    unit, scale = _flop_unit(grid.naive_flops)
    rows = [
        _compare("tokens, M", grid.naive_tokens / 1e6, grid.shared_tokens / 1e6),
        _compare(f"language model, {unit}", grid.naive_flops / scale, grid.shared_flops / scale),
        *speed.rows(grid.naive_flops, grid.shared_flops),
    ]
    return _Table(
        title=f"V-NIAH grid ({kind}): {grid.num_cells:,} cells, "
        f"{grid.num_indices} insertion indices",
        columns=("each alone", "shared", "less"),
        rows=rows,
    )


def _test_tables(shape: ModelShape, speed: _Speed, options: argparse.Namespace) -> Iterator[_Table]:
    """A table for each needle test that is asked for."""
    if not options.test:
        return
    from longva_eval.embedded import NEEDLES
    from longva_eval.needle.items import ItemSettings
    from longva_eval.needle.tests import make_tests
    from longva_eval.studies.needle_cost import needle_test_cost

    tests = make_tests(
        options.test.split(","),
        frame_counts=parse_whole_range(options.grid, name="grid"),
        depths=None
        if options.depths is None
        else tuple(parse_range(options.depths, name="depths")),
        spreads=tuple(parse_range(options.spread, name="spread")),
        at=() if options.at is None else parse_whole_range(options.at, name="at"),
        lattice=None,
        needles=str(NEEDLES),
        settings=ItemSettings(items=24 if options.needles is None else options.needles),
    )
    for test in tests:
        items = test.items[: options.needles]
        cost = needle_test_cost(shape, items, test.grid)
        unit, scale = _flop_unit(cost.naive_flops)
        yield _Table(
            title=f"Needle test {test.name}: {cost.num_cells:,} cells and controls, "
            f"{len(items)} items",
            columns=("each alone", "shared", "less"),
            rows=[
                _compare("tokens, M", cost.naive_tokens / 1e6, cost.shared_tokens / 1e6),
                _compare(
                    f"language model, {unit}", cost.naive_flops / scale, cost.shared_flops / scale
                ),
                *speed.rows(cost.naive_flops, cost.shared_flops),
            ],
        )


def _task_table(task: TaskCost, speed: _Speed, options: argparse.Namespace) -> _Table:
    unit, scale = _flop_unit(task.naive_flops)
    rows = [
        _compare("videos decoded", task.naive_videos, task.shared_videos),
        _compare("tokens, M", task.naive_tokens / 1e6, task.shared_tokens / 1e6),
        _compare(
            f"language model and vision, {unit}",
            task.naive_flops / scale,
            task.shared_flops / scale,
        ),
        *speed.rows(task.naive_flops, task.shared_flops),
        _decoding_row(
            options.decode_seconds,
            task.naive_videos * options.frames,
            task.shared_videos * options.frames,
        ),
    ]
    return _Table(
        title=f"{options.task}: {task.shared_videos:,} videos, {task.naive_videos:,} questions, "
        f"{options.frames:,} frames",
        columns=("each alone", "shared", "less"),
        rows=rows,
    )


def _compare(label: str, naive: float, shared: float) -> tuple[str, ...]:
    return label, _digits(naive), _digits(shared), f"{naive / shared:.2f}x"


def _verdict(
    shape: ModelShape, memory: MemoryPlan, num_tokens: int, options: argparse.Namespace
) -> str:
    """One plain sentence, and what to change if it does not fit."""
    peak = f"{_gigabytes(memory.peak)} GB"
    if options.gpu is not None:
        gpu_bytes = _parse_memory(options.gpu)
    elif options.gpu_name is not None:
        gpu_bytes = GPUS[options.gpu_name].memory_bytes
    else:
        room = ", ".join(name for name, gpu in GPUS.items() if memory.peak <= gpu.memory_bytes)
        fits = f"it fits {room}" if room else "no GPU known here has that"
        return f"Needs {peak} of GPU memory; {fits}. Pass --gpu to judge another."
    whole = f"{gpu_bytes / _GIGA:,.4g} GB"
    if memory.peak <= gpu_bytes:
        return (
            f"Fits: the peak of {peak} leaves {_gigabytes(gpu_bytes - memory.peak)} GB of {whole}."
        )
    return (
        f"Does not fit: the peak of {peak} is {_gigabytes(memory.peak - gpu_bytes)} GB more than "
        f"{whole}. Change one of these:\n"
        + "\n".join(f"  - {change}" for change in _changes(shape, gpu_bytes, num_tokens, options))
    )


def _changes(
    shape: ModelShape, gpu_bytes: int, num_tokens: int, options: argparse.Namespace
) -> list[str]:
    """What would make it fit, cheapest first."""

    def peak(dtype: PlanDType, chunk_tokens: int) -> int:
        return plan_memory(shape, num_tokens, dtype=dtype, chunk_tokens=chunk_tokens).peak

    dtype, chunk_tokens = options.dtype, options.chunk_tokens
    changes = []
    smaller = chunk_tokens
    while smaller > 256 and peak(dtype, smaller) > gpu_bytes:
        smaller //= 2
    if peak(dtype, smaller) <= gpu_bytes:
        changes.append(f"--chunk-tokens {smaller}")
    if dtype == "float32" and peak("bfloat16", chunk_tokens) <= gpu_bytes:
        changes.append("--dtype bfloat16")
    text_tokens = PREFIX_TOKENS + QUESTION_TOKENS
    frames = max_frames(
        shape, gpu_bytes, text_tokens=text_tokens, dtype=dtype, chunk_tokens=chunk_tokens
    )
    if frames:
        changes.append(f"at most {frames:,} frames a prompt")
    needed = peak(dtype, chunk_tokens)
    room = [name for name, gpu in GPUS.items() if needed <= gpu.memory_bytes]
    known = f" ({', '.join(room)})" if room else ""
    changes.append(f"a GPU with at least {math.ceil(needed / _GIGA)} GB{known}")
    changes.append("several GPUs: device_map=auto spreads the layers and their cache")
    return changes


def _grid(shape: ModelShape, options: argparse.Namespace) -> GridCost | None:
    """The needle grid that is asked for, if any."""
    if options.grid is None and options.lattice is None:
        return None
    num_needles = _DEFAULT_NEEDLES if options.needles is None else options.needles
    if options.lattice is None:
        return needle_grid_cost(
            shape,
            frame_counts=parse_whole_range(options.grid, name="grid"),
            indices=stock_indices(parse_range(options.depths or _DEFAULT_DEPTHS, name="depths")),
            num_needles=num_needles,
        )
    if options.lattice < 1:
        raise SettingsError(f"--lattice {options.lattice} must be at least 1.")
    if options.grid is not None:
        lengths: Sequence[int] = parse_whole_range(options.grid, name="grid")
    elif options.frames is not None:
        lengths = range(options.lattice, options.frames + 1, options.lattice)
    else:
        raise SettingsError("--lattice needs --frames, the longest haystack, or --grid.")
    if not lengths:
        raise SettingsError(
            f"--lattice {options.lattice} is more than --frames {options.frames}: no haystack "
            "length is a multiple of it."
        )
    return needle_grid_cost(
        shape,
        frame_counts=lengths,
        indices=lattice_indices(options.lattice),
        num_needles=num_needles,
    )


def _task(shape: ModelShape, options: argparse.Namespace) -> TaskCost:
    videos, questions = TASKS.get(options.task, (0, 0))  # of others both are given
    return task_cost(
        shape,
        num_videos=videos if options.videos is None else options.videos,
        questions_per_video=questions if options.questions is None else options.questions,
        num_frames=options.frames,
    )


def _shape(model: str) -> ModelShape:
    if model.lower() == "7b" or (model == _HUB_ID and not Path(model).is_dir()):
        return LONGVA_7B
    folder = embedded_checkpoint(model) or Path(model)
    if not folder.is_dir():
        raise SettingsError(
            f"--model {model!r} is neither 7b ({_HUB_ID}), nor an embedded checkpoint "
            f"({', '.join(CHECKPOINTS)}), nor the folder of one. Its config.json is enough: hf "
            f"download {model} config.json --local-dir <folder>."
        )
    return read_model_shape(folder)


def _refuse_contradictions(options: argparse.Namespace) -> None:
    """Options that would have no effect are an error."""
    needles_wanted = options.grid is not None or options.lattice is not None
    if options.depths is not None and (options.grid is None or options.lattice is not None):
        raise SettingsError("--depths has no effect without --grid, nor with --lattice.")
    if options.needles is not None and not needles_wanted:
        raise SettingsError("--needles has no effect without --grid or --lattice.")
    if options.test is not None and (options.grid is None or options.lattice is not None):
        raise SettingsError("--test needs --grid, and no --lattice.")
    if options.test is None and (options.at is not None or options.spread != _DEFAULT_SPREAD):
        raise SettingsError("--at and --spread have no effect without --test.")
    if options.task is None:
        for name in ("videos", "questions"):
            if getattr(options, name) is not None:
                raise SettingsError(f"--{name} has no effect without --task.")
    elif options.task not in TASKS and None in (options.videos, options.questions):
        raise SettingsError(
            f"--task {options.task!r} is unknown; use {', '.join(TASKS)}. For any other task give "
            "both --videos, how many it has, and --questions, those on each video."
        )
    elif options.frames is None:
        raise SettingsError("--task needs --frames, the frames of each video.")
    if options.frames is not None and options.frames < 1:
        raise SettingsError(f"--frames {options.frames} must be at least 1.")
    if not 0 <= options.decode_seconds < math.inf:
        raise SettingsError(f"--decode-seconds {options.decode_seconds} must be at least 0.")
    if options.gpu is not None:
        _parse_memory(options.gpu)


def _parse_memory(text: str) -> int:
    """`48GB` (decimal, as on data sheets), `44.7GiB` or a bare number of GB, in bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GB|GiB)?", text.strip(), re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise SettingsError(f"--gpu {text!r} is not an amount of memory such as 48GB or 44.7GiB.")
    unit = 2**30 if (found[2] or "").lower() == "gib" else 10**9
    return int(float(found[1]) * unit)


def _render(tables: Sequence[_Table]) -> str:
    """The tables one under the other, their columns aligned."""
    labels = [table.title for table in tables]
    labels += [f"  {row[0]}" for table in tables for row in table.rows]
    width = max(map(len, labels))
    cells = [cell for table in tables for cell in table.columns]
    cells += [cell for table in tables for row in table.rows for cell in row[1:]]
    cell_width = max(map(len, cells)) + 2

    def line(label: str, values: Sequence[str]) -> str:
        return (label.ljust(width) + "".join(v.rjust(cell_width) for v in values)).rstrip()

    lines: list[str] = []
    for table in tables:
        lines += ["", line(table.title, table.columns)]
        lines += [line(f"  {label}", values) for label, *values in table.rows]
    return "\n".join(lines)


def _digits(value: float) -> str:
    """Three significant digits, more where they stand before the point."""
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 6)}f}"


def _gigabytes(value: float) -> str:
    return f"{value / _GIGA:,.2f}"


def _flop_unit(flops: float) -> tuple[str, float]:
    """The largest unit that leaves a number above one, and its size."""
    return next(
        (unit for unit in _FLOP_UNITS.items() if flops >= unit[1]), list(_FLOP_UNITS.items())[-1]
    )


def _times(seconds: Sequence[float]) -> tuple[str, ...]:
    """In one unit: seconds up to two minutes, minutes up to two hours, then hours."""
    longest = max(seconds)
    name, scale = ("s", 1) if longest < 120 else ("min", 60) if longest < 7200 else ("h", 3600)
    return tuple(f"{_digits(value / scale)} {name}" for value in seconds)


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
        help=f"7b or {_HUB_ID} (default), an embedded one ({', '.join(CHECKPOINTS)}), or a folder "
        "with a config.json",
    )
    add("--frames", type=int, help="frames of a prompt (default: the grid's longest)")
    add("--gpu", metavar="MEMORY", help="memory of the GPU: 48GB, 44.7GiB (default: --gpu-name's)")
    add("--gpu-name", help=f"for its peak: {', '.join(GPUS)} (default: all of them)")
    add("--utilization", type=float, default=0.4, help="share of the peak that is reached (0.4)")
    add(
        "--decode-seconds",
        type=float,
        default=DECODE_SECONDS_PER_FRAME,
        metavar="S",
        help=f"CPU seconds that a frame takes to decode ({DECODE_SECONDS_PER_FRAME}, of an hour of "
        "640x360)",
    )
    add("--dtype", default="bfloat16", choices=get_args(PlanDType), help="bfloat16 (default)")
    add("--chunk-tokens", type=int, default=2048, help="prefill chunk (2048)")
    add("--grid", metavar="FRAMES", help="V-NIAH haystack lengths: 200:3000:200 or 6,12,24")
    add("--depths", help=f"V-NIAH needle depths ({_DEFAULT_DEPTHS})")
    add("--needles", "--num-needles", type=int, help=f"V-NIAH needles ({_DEFAULT_NEEDLES})")
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
    add("--spread", default=_DEFAULT_SPREAD, help=f"of --test ({_DEFAULT_SPREAD})")
    add("--at", help="of --test: frames that the pictures stand before, instead of depths")
    add(
        "--task",
        help=f"questions on videos: {', '.join(TASKS)}; any other with --videos and --questions",
    )
    add("--videos", type=int, help="videos of the task (the task's)")
    add("--questions", type=int, help="questions on each video (the task's)")
    return parser
