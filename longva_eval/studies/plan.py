"""What a run costs and whether it fits a GPU, as text: `longva_eval.studies.cost` in tables.

No torch, unless drawn needle tests are planned.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from longva_eval.embedded import CHECKPOINTS, embedded_checkpoint
from longva_eval.errors import SettingsError
from longva_eval.needle.controls import circular_items
from longva_eval.needle.grid import LatticeGrid, NeedleGrid
from longva_eval.needle.items import Item, ItemSettings, Shown
from longva_eval.studies.cost import (
    ATTENTION,
    DECODE_SECONDS,
    GPUS,
    PREFIX_TOKENS,
    QUESTION_TOKENS,
    MemoryPlan,
    PlanDType,
    attention_flops,
    chunk_tokens_of,
    estimate_seconds,
    kv_bytes,
    linear_flops,
    logits_bytes,
    max_frames,
    measured_share,
    plan_memory,
    prefill_flops,
    task_cost,
)
from longva_eval.studies.needle_cost import GridCost, needle_cost
from longva_eval.studies.shape import (
    DEFAULT_FRAME_SIZE,
    LONGVA_7B,
    ModelShape,
    read_model_shape,
)
from longva_eval.text import parse_range, parse_whole_range

__all__ = [
    "DEFAULT_DEPTHS",
    "DEFAULT_NEEDLES",
    "HUB_ID",
    "TASKS",
    "PlanSettings",
    "model_shape",
    "plan_text",
]

TASKS = {
    "videomme": (900, 3),
    "longva_videomme": (900, 3),
    **{f"longva_videomme_{duration}": (300, 3) for duration in ("short", "medium", "long")},
}
"""Videos, and questions on each, of known tasks. Video-MME: arXiv:2405.21075.

Tasks with subtitles are left out: their prompts have text that is not counted here.
"""

HUB_ID = "lmms-lab/LongVA-7B"

DEFAULT_DEPTHS = "0:1:0.2"
DEFAULT_NEEDLES = 5
_GIGA, _TERA = 1e9, 1e12
_FLOP_UNITS = {"EFLOP": 1e18, "PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9}


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What is planned, as the options of `longva-eval plan` say it."""

    model: str = "7b"
    """7b, its hub id, an embedded checkpoint, or a folder with a `config.json`."""
    frames: int | None = None
    """Of a prompt; the grid's longest if None."""
    frame_size: tuple[int, int] = DEFAULT_FRAME_SIZE
    """Width and height of videos, for models whose frames keep it."""
    gpu: str | None = None
    """Its memory: `48GB`, `44.7GiB`."""
    gpu_name: str | None = None
    """Of `GPUS`, for its peak and its memory."""
    attention: str = "sdpa"
    """Back end whose measured rate counts: of `ATTENTION`."""
    utilization: float | None = None
    """Share of the peak that is reached, instead of the measured one."""
    decode_seconds: float | None = None
    """CPU seconds that a frame takes to decode; those of each of `DECODE_SECONDS` if None."""
    dtype: PlanDType = "bfloat16"
    chunk_tokens: str | int = "auto"
    """As of a run."""
    grid: str | None = None
    """Haystack lengths: a range or a list."""
    depths: str | None = None
    needles: int | None = None
    """Of V-NIAH; items of a test."""
    lattice: int | None = None
    """Needles at multiples of so many frames, instead of depths."""
    test: str | None = None
    """Names of needle tests, with commas between."""
    items: Mapping[str, Any] = field(default_factory=dict)
    """What is set of a test's `ItemSettings`."""
    circular: bool = False
    """Whether letters are asked for, with every rotation of the options."""
    spread: str | None = None
    at: str | None = None
    task: str | None = None
    """Questions on videos: of `TASKS`, or any with `videos` and `questions`."""
    videos: int | None = None
    questions: int | None = None
    """On each video."""

    def __post_init__(self) -> None:
        needles_wanted = self.grid is not None or self.lattice is not None
        if self.depths is not None and (self.grid is None or self.lattice is not None):
            raise SettingsError("--depths has no effect without --grid, nor with --lattice.")
        if self.needles is not None and not needles_wanted:
            raise SettingsError("--needles has no effect without --grid or --lattice.")
        if self.test is not None and (self.grid is None or self.lattice is not None):
            raise SettingsError("--test needs --grid, and no --lattice.")
        if self.test is None and self.circular:
            raise SettingsError("--circular has no effect without --test.")
        if self.at is not None and self.spread is not None:
            raise SettingsError("--at states where pictures stand; leave --spread out.")
        if self.task is None:
            for name in ("videos", "questions"):
                if getattr(self, name) is not None:
                    raise SettingsError(f"--{name} has no effect without --task.")
        elif self.task not in TASKS and None in (self.videos, self.questions):
            raise SettingsError(
                f"--task {self.task!r} is unknown; use {', '.join(TASKS)}. For any other task give "
                "both --videos, how many it has, and --questions, those on each video."
            )
        elif self.frames is None:
            raise SettingsError("--task needs --frames, the frames of each video.")
        if self.frames is not None and self.frames < 1:
            raise SettingsError(f"--frames {self.frames} must be at least 1.")
        if self.decode_seconds is not None and not 0 <= self.decode_seconds < math.inf:
            raise SettingsError(f"--decode-seconds {self.decode_seconds} must be at least 0.")
        if self.gpu is not None:
            _parse_memory(self.gpu)
        if self.gpu_name is not None and self.gpu_name not in GPUS:
            raise SettingsError(f"--gpu-name {self.gpu_name!r} is unknown; use {', '.join(GPUS)}.")

    @property
    def gpu_bytes(self) -> int | None:
        """Memory of the GPU that is asked about, if one is."""
        if self.gpu is not None:
            return _parse_memory(self.gpu)
        return None if self.gpu_name is None else GPUS[self.gpu_name].memory_bytes


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Rows of a label and numbers, under a title."""

    title: str
    columns: tuple[str, ...] = ("",)
    rows: Sequence[tuple[str, ...]]


Times = Callable[..., list[tuple[str, ...]]]
"""For each peak a row with its time for each number of FLOPs."""


def _times_of(settings: PlanSettings, num_tokens: int) -> Times:
    """By the GPUs that are asked for, and what was measured of prompts about as long."""
    name, dtype, share = settings.gpu_name, settings.dtype, settings.utilization
    gpus = {name: GPUS[name]} if name else GPUS
    said = measured_on = ""
    if share is None and dtype == "float32":
        share, said = 0.4, ", assumed"
    elif share is None:
        runs_on = ATTENTION[settings.attention]
        if name is not None and name not in runs_on:
            raise SettingsError(
                f"--attention {settings.attention} runs on {', '.join(runs_on)}, not on {name}; "
                "pass --attention sdpa."
            )
        gpus = {name: gpu for name, gpu in gpus.items() if name in runs_on}
        measured_on, share = measured_share(settings.attention, num_tokens)
        said = f", {settings.attention}"
    names: dict[tuple[float, str], list[str]] = {}
    for name, gpu in gpus.items():
        how = " measured" if name == measured_on else " computed"
        names.setdefault((gpu.tflops(dtype), how if measured_on else ""), []).append(name)
    rate = share

    def rows(*flops: float) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for (peak, how), same in names.items():
            gpu = gpus[same[0]]
            seconds = [estimate_seconds(n, gpu, utilization=rate, dtype=dtype) for n in flops]
            label = f"time at {rate:.0%} of {_digits(peak)} TFLOP/s{said}{how}"
            found.append((f"{label} ({', '.join(same)})", *_times(seconds)))
        return found

    return rows


def plan_text(settings: PlanSettings) -> str:
    """What a prompt, a needle grid, a test or a task costs, and whether it fits, as tables.

    Raises:
        SettingsError: If a setting is impossible, contradicts another, or has no effect.
        CheckpointError: If the model's configuration cannot be read.
    """
    shape = model_shape(settings.model, frame_size=settings.frame_size)
    grid = _grid(shape, settings)
    if settings.frames is None and grid is None:
        raise SettingsError("Pass --frames, the frames of a prompt, or --grid.")
    text_tokens = PREFIX_TOKENS + QUESTION_TOKENS
    num_frames = settings.frames or 0
    num_tokens = text_tokens + shape.video_tokens(num_frames)
    of_grid = grid is not None and grid.longest_tokens >= num_tokens
    if grid is not None and of_grid:
        num_frames, num_tokens = grid.longest_frames, grid.longest_tokens
    gpu_bytes = settings.gpu_bytes
    chunk_tokens = chunk_tokens_of(settings.chunk_tokens, shape, gpu_bytes, dtype=settings.dtype)
    memory = plan_memory(shape, num_tokens, dtype=settings.dtype, chunk_tokens=chunk_tokens)
    frames = shape.frames_text(num_frames, composed=of_grid)
    needle = " (the needle counted)" if of_grid else ""
    headline = (
        f"{shape.name}, {settings.dtype}: {num_tokens:,} tokens = {frames} + {text_tokens} of text"
        f"{needle}"
    )
    times = _times_of(settings, num_tokens)
    vision = shape.vision_flops(num_frames, composed=of_grid)
    tables = [
        _memory_table(shape, memory, num_tokens, chunk_tokens, settings),
        _prefill_table(shape, num_frames, num_tokens, vision, times, settings.decode_seconds),
    ]
    if settings.test is not None:
        tables += _test_tables(shape, times, settings)
    elif grid is not None:
        kind = f"lattice of {settings.lattice}" if settings.lattice else "stock"
        title = (
            f"V-NIAH grid ({kind}): {grid.num_cells:,} cells, {grid.num_indices} insertion indices"
        )
        tables.append(_grid_table(title, grid, times))
    if settings.task is not None:
        tables.append(_task_table(shape, times, settings))
    if gpu_bytes is None:
        verdict = _room(memory)
    else:
        how = (num_frames, num_tokens, chunk_tokens, settings.dtype)
        verdict = _verdict(shape, memory, gpu_bytes, *how)
    return f"{headline}\n{_render(tables)}\n\n{verdict}"


def _memory_table(
    shape: ModelShape,
    memory: MemoryPlan,
    num_tokens: int,
    chunk_tokens: int,
    settings: PlanSettings,
) -> _Table:
    per_token = kv_bytes(shape, 1, dtype=settings.dtype)
    chunk = min(chunk_tokens, num_tokens)
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
    shape: ModelShape,
    num_frames: int,
    num_tokens: int,
    vision: int,
    times: Times,
    decode_seconds: float | None,
) -> _Table:
    prefill = prefill_flops(shape, num_tokens)
    linear, attention = linear_flops(shape, num_tokens), attention_flops(shape, num_tokens)
    parts = [
        (f"linear layers, {linear_flops(shape, 1) / _GIGA:.4g} GFLOP a token", linear),
        (f"causal attention, {attention_flops(shape, 1):,} FLOP x tokens^2", attention),
        ("prefill", prefill),
        (f"vision, {vision / num_frames / _TERA:.3g} TFLOP a frame", vision),
    ]
    unit, scale = _flop_unit(prefill)
    rows: list[tuple[str, ...]] = [(label, _digits(value / scale)) for label, value in parts]
    decoding = _decoding_rows(decode_seconds, num_frames)
    return _Table(
        title="One such prompt",
        columns=(unit,),
        rows=[*rows, *times(prefill + vision), *decoding],
    )


def _decoding_rows(seconds: float | None, *num_frames: int) -> list[tuple[str, ...]]:
    """CPU time for numbers of frames; ahead of the GPU, in a process of its own."""
    rates = {f", {how}": rate for how, rate in DECODE_SECONDS.items()}
    return [
        (f"decoding beside it, {rate:g} CPU s a frame{how}",
         *_times([rate * count for count in num_frames]))
        for how, rate in (rates if seconds is None else {"": seconds}).items()
    ]  # fmt: skip


def _grid_table(title: str, cost: GridCost, times: Times) -> _Table:
    unit, scale = _flop_unit(cost.naive_flops)
    return _Table(
        title=title,
        columns=("each alone", "shared", "less"),
        rows=[
            _compare("tokens, M", cost.naive_tokens / 1e6, cost.shared_tokens / 1e6),
            _compare(
                f"language model, {unit}", cost.naive_flops / scale, cost.shared_flops / scale
            ),
            *times(cost.naive_flops, cost.shared_flops),
        ],
    )


def _grid(shape: ModelShape, settings: PlanSettings) -> GridCost | None:
    """V-NIAH on the grid that is asked for, if any."""
    if settings.grid is None and settings.lattice is None:
        return None
    num_needles = DEFAULT_NEEDLES if settings.needles is None else settings.needles
    if num_needles < 1:
        raise SettingsError(f"needles={num_needles} must be at least 1.")
    grid: NeedleGrid | LatticeGrid
    if settings.lattice is None:
        grid = NeedleGrid(
            frame_counts=parse_whole_range(settings.grid or "", name="grid"),
            depths=tuple(parse_range(settings.depths or DEFAULT_DEPTHS, name="depths")),
        )
    else:
        grid = LatticeGrid(frame_counts=_lattice_lengths(settings), step=settings.lattice)
    item = Item(name="a needle", needles=(Shown(),), question="", answer="")
    return needle_cost(shape, [item] * num_needles, grid, controls=False)


def _lattice_lengths(settings: PlanSettings) -> tuple[int, ...]:
    step = settings.lattice
    if step is None or step < 1:
        raise SettingsError(f"--lattice {step} must be at least 1.")
    if settings.grid is not None:
        return parse_whole_range(settings.grid, name="grid")
    if settings.frames is None:
        raise SettingsError("--lattice needs --frames, the longest haystack, or --grid.")
    if step > settings.frames:
        raise SettingsError(
            f"--lattice {step} is more than --frames {settings.frames}: no haystack length is a "
            "multiple of it."
        )
    return tuple(range(step, settings.frames + 1, step))


def _test_tables(shape: ModelShape, times: Times, settings: PlanSettings) -> Iterator[_Table]:
    """A table for each needle test that is asked for."""
    from longva_eval.needle.tests import make_tests  # imports torch

    asked_for: dict[str, Any] = dict(settings.items)
    if settings.needles is not None:
        asked_for["items"] = settings.needles
    if settings.circular:
        asked_for["answer"] = "letters"
    tests = make_tests(
        (settings.test or "").split(","),
        frame_counts=parse_whole_range(settings.grid or "", name="grid"),
        depths=None
        if settings.depths is None
        else tuple(parse_range(settings.depths, name="depths")),
        spreads=tuple(parse_range(settings.spread or "0.5", name="spread")),
        at=() if settings.at is None else parse_whole_range(settings.at, name="at"),
        settings=ItemSettings(**asked_for),
    )
    for test in tests:
        items = test.items[: settings.needles]
        asked = circular_items(items) if settings.circular else items
        cost = needle_cost(shape, asked, test.grid)
        title = (
            f"Needle test {test.name}: {cost.num_cells:,} cells and controls, {len(items)} items"
        )
        if settings.circular:
            title += f", {len(asked) - len(items)} rotations"
        yield _grid_table(title, cost, times)


def _task_table(shape: ModelShape, times: Times, settings: PlanSettings) -> _Table:
    assert settings.task is not None
    assert settings.frames is not None, "checked before"
    videos, questions = TASKS.get(settings.task, (0, 0))  # of others both are given
    task = task_cost(
        shape,
        num_videos=videos if settings.videos is None else settings.videos,
        questions_per_video=questions if settings.questions is None else settings.questions,
        num_frames=settings.frames,
    )
    unit, scale = _flop_unit(task.naive_flops)
    rows = [
        _compare("videos decoded", task.naive_videos, task.shared_videos),
        _compare("tokens, M", task.naive_tokens / 1e6, task.shared_tokens / 1e6),
        _compare(
            f"language model and vision, {unit}",
            task.naive_flops / scale,
            task.shared_flops / scale,
        ),
        *times(task.naive_flops, task.shared_flops),
        *_decoding_rows(
            settings.decode_seconds,
            task.naive_videos * settings.frames,
            task.shared_videos * settings.frames,
        ),
    ]
    return _Table(
        title=f"{settings.task}: {task.shared_videos:,} videos, {task.naive_videos:,} questions, "
        f"{settings.frames:,} frames",
        columns=("each alone", "shared", "less"),
        rows=rows,
    )


def _compare(label: str, naive: float, shared: float) -> tuple[str, ...]:
    return label, _digits(naive), _digits(shared), f"{naive / shared:.2f}x"


def _room(memory: MemoryPlan) -> str:
    """Which GPUs have room for it."""
    room = ", ".join(name for name, gpu in GPUS.items() if memory.peak <= gpu.memory_bytes)
    fits = f"it fits {room}" if room else "no GPU known here has that"
    peak = f"{_gigabytes(memory.peak)} GB"
    return f"Needs {peak} of GPU memory; {fits}. Pass --gpu to judge another."


def _verdict(
    shape: ModelShape,
    memory: MemoryPlan,
    gpu_bytes: int,
    num_frames: int,
    num_tokens: int,
    chunk_tokens: int,
    dtype: PlanDType,
) -> str:
    """One plain sentence, and what to change if it does not fit."""
    peak = f"{_gigabytes(memory.peak)} GB"
    whole = f"{gpu_bytes / _GIGA:,.4g} GB"
    if memory.peak <= gpu_bytes:
        return (
            f"Fits: the peak of {peak} leaves {_gigabytes(gpu_bytes - memory.peak)} GB of {whole}."
        )
    return (
        f"Does not fit: the peak of {peak} is {_gigabytes(memory.peak - gpu_bytes)} GB more than "
        f"{whole}. Change one of these:\n"
        + "\n".join(
            f"  - {change}"
            for change in _changes(shape, gpu_bytes, num_frames, num_tokens, chunk_tokens, dtype)
        )
    )


def _changes(
    shape: ModelShape,
    gpu_bytes: int,
    num_frames: int,
    num_tokens: int,
    chunk_tokens: int,
    dtype: PlanDType,
) -> list[str]:
    """What would make it fit, cheapest first."""

    def peak(dtype: PlanDType, chunk_tokens: int) -> int:
        return plan_memory(shape, num_tokens, dtype=dtype, chunk_tokens=chunk_tokens).peak

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
        shape,
        gpu_bytes,
        most=num_frames,
        text_tokens=text_tokens,
        dtype=dtype,
        chunk_tokens=chunk_tokens,
    )
    if frames:
        changes.append(f"at most {frames:,} frames a prompt")
    needed = peak(dtype, chunk_tokens)
    room = [name for name, gpu in GPUS.items() if needed <= gpu.memory_bytes]
    known = f" ({', '.join(room)})" if room else ""
    changes.append(f"a GPU with at least {math.ceil(needed / _GIGA)} GB{known}")
    changes.append("several GPUs: device_map=auto spreads the layers and their cache")
    return changes


def model_shape(model: str, *, frame_size: tuple[int, int] = DEFAULT_FRAME_SIZE) -> ModelShape:
    """The sizes of 7b, an embedded checkpoint, a folder with a `config.json`, or a hub id.

    Of a hub id the small files are asked for.

    Raises:
        SettingsError: If it is none of these.
        CheckpointError: If the hub cannot give it.
    """
    if model.lower() == "7b" or (model == HUB_ID and not Path(model).is_dir()):
        return LONGVA_7B
    folder = embedded_checkpoint(model) or Path(model)
    if folder.is_dir():
        return read_model_shape(folder, frame_size=frame_size)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise SettingsError(
            f"--model {model!r} is neither 7b ({HUB_ID}), nor an embedded checkpoint "
            f"({', '.join(CHECKPOINTS)}), nor the folder of one, nor a hub id."
        )
    from longva_eval.families.loading import find_checkpoint  # imports torch

    folder, _ = find_checkpoint(model, weights=False)
    return replace(read_model_shape(folder, frame_size=frame_size), name=model)


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
