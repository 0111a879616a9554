"""`longva-eval reproduce`: a table or figure of the LongVA paper, with what runs it and a verdict.

It composes other commands: `plan`, `prepare`, `sweep` or `niah`, and published scores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longva_eval import embedded
from longva_eval.commands import niah, sweep
from longva_eval.errors import DataError, EvaluationError, SettingsError
from longva_eval.files import check_writable, hf_home
from longva_eval.local.layouts import Layout, find_layouts
from longva_eval.local.prepare import data_status, prepare
from longva_eval.local.sources import dataset_gigabytes
from longva_eval.needle.grid import NeedleGrid
from longva_eval.needle.items import Item, Shown
from longva_eval.studies.cost import (
    DECODE_SECONDS_PER_FRAME,
    GPUS,
    TASK_TEXT_TOKENS,
    estimate_seconds,
    plan_memory,
    task_cost,
    weight_bytes,
)
from longva_eval.studies.definition import study_from
from longva_eval.studies.needle_cost import needle_cost
from longva_eval.studies.plan import model_shape
from longva_eval.studies.shape import ModelShape
from longva_eval.text import parse_range, parse_whole_range

__all__ = ["TARGETS", "main"]

_UTILIZATION = 0.4
_STAND_IN = "longva_mini_small"
_VIDEOS = frozenset([".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v"])


@dataclass(frozen=True, kw_only=True)
class _Target:
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


TARGETS = {
    "table4": _Target(
        title="Table 4: Video-MME without subtitles",
        benchmark="Video-MME",
        model="LongVA",
        source="LongVA Table 4",
        task="longva_videomme",
        frames="8,16,32,64,128,384",
        quick_frames="8,16",
    ),
    "table6": _Target(
        title="Table 6: images",
        benchmark="images",
        model="LongVA (UniRes)",
        source="LongVA Table 6",
        task="longva_images",
        frames="1",
    ),
    "figure4": _Target(
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


def main(arguments: Sequence[str]) -> int:
    """Plan, look for the data, run, and set the numbers beside the paper's."""
    options = _parser().parse_args(arguments)
    options.out = options.out or Path("out") / options.target
    target = TARGETS[options.target]
    if options.quick and not target.quick_frames:
        raise SettingsError(
            f"{options.target} has no --quick: no pictures with questions ship with this package. "
            "--data DIR --limit 8 is a first look."
        )
    frames = parse_whole_range(target.quick_frames if options.quick else target.frames, name="f")
    home = hf_home().expanduser().absolute()
    layouts = _layouts(target, quick=options.quick)
    enough = ("found", "partly") if options.allow_missing else ("found",)
    missing = [each for each in layouts if data_status(each, home).state not in enough]
    print(f"{target.title}, with {options.pretrained}\n")
    print("\n".join(_plan(target, options, frames)))
    needs = [] if options.data else _needs(target, options, missing, home)
    there = f"to be laid out from {options.data}" if missing else "all of it is there"
    print("\n".join(needs or [f"  data        {there}"]), flush=True)
    if options.plan:
        return 0
    if needs:
        raise DataError(f"{options.target} needs data that is not here; see above, or try --quick.")
    check_writable(options.out, "output")
    for layout in missing:
        report = prepare(layout.name, options.data, home, allow_missing=options.allow_missing)
        print(f"  {layout.name}: {report.num_rows:,} questions laid out in {home}", flush=True)
    status = _run(target, options, frames)
    if status == 0:
        _show(target, options, frames)
    return status


def _layouts(target: _Target, *, quick: bool) -> list[Layout]:
    return [] if quick or not target.task else find_layouts(target.task)


def _plan(target: _Target, options: argparse.Namespace, frames: Sequence[int]) -> list[str]:
    """What it costs, with shared prefixes; nothing is loaded."""
    try:
        shape = model_shape(options.pretrained)
    except EvaluationError as error:
        return [f"  cost        unknown: {error}"]
    flops, num_frames, tokens, what = _cost(shape, target, options, frames)
    hours = ", ".join(
        f"{name} {_hours(estimate_seconds(flops, gpu, utilization=_UTILIZATION))}"
        for name, gpu in GPUS.items()
    )
    peak = plan_memory(shape, tokens).peak / 1e9
    decoding = _hours(num_frames * DECODE_SECONDS_PER_FRAME)
    return [
        f"  asks        {what}",
        f"  GPU time    {hours} (at {_UTILIZATION:.0%} of the peak)",
        f"  GPU memory  {peak:.2f} GB in bfloat16 at {tokens:,} tokens",
        f"  decoding    at most {decoding} of one CPU core, beside the GPU"
        if num_frames
        else "  decoding    pictures, no video",
        f"  weights     {weight_bytes(shape) / 1e9:.2f} GB",
    ]


def _cost(
    shape: ModelShape, target: _Target, options: argparse.Namespace, frames: Sequence[int]
) -> tuple[float, int, int, str]:
    """FLOPs, frames to decode, tokens of the longest prompt, and a description."""
    if not target.task:
        depths = target.quick_depths if options.quick else target.depths
        grid = NeedleGrid(
            frame_counts=tuple(frames), depths=tuple(parse_range(depths, name="depths"))
        )
        item = Item(name="a needle", needles=(Shown(),), question="", answer="")
        cost = needle_cost(shape, [item] * 5, grid)
        seen = shape.vision_flops(max(frames) + 5 * shape.frames_per_unit, composed=True)
        flops = float(cost.shared_flops + seen)
        text = f"{cost.num_cells:,} needles and controls in up to {max(frames):,} frames"
        return flops, max(frames), cost.longest_tokens, text
    if target.benchmark == "images" and not options.quick:
        count = sum(layout.num_rows or 0 for layout in find_layouts(target.task))
        tiles = shape.picture_frames
        one = task_cost(shape, num_videos=count, questions_per_video=1, num_frames=tiles)
        tokens = shape.video_tokens(tiles) + TASK_TEXT_TOKENS
        text = f"{count:,} questions on a picture each, of at most {tiles} tiles"
        return float(one.shared_flops), 0, tokens, text
    videos = 6 if options.quick else 900
    costs = [
        task_cost(shape, num_videos=videos, questions_per_video=3, num_frames=n) for n in frames
    ]
    tokens = shape.video_tokens(max(frames)) + TASK_TEXT_TOKENS
    text = f"{3 * videos:,} questions on {videos} videos at {', '.join(map(str, frames))} frames"
    flops = float(sum(cost.shared_flops for cost in costs))
    return flops, videos * sum(frames), tokens, text


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _needs(
    target: _Target, options: argparse.Namespace, missing: Sequence[Layout], home: Path
) -> list[str]:
    """What is not here, how large it is, and the commands that fetch it."""
    if options.quick:
        return []
    if not target.task:
        return [
            "  data        a film of yours of at least 3,000 seconds, as DIR/film.mp4 (the paper's "
            "cannot be shared),",
            "              and the published needles:",
            "    hf download lmms-lab/v_niah_needles --repo-type dataset --local-dir NEEDLES",
            f"    longva-eval reproduce figure4 --pretrained {options.pretrained} --data DIR",
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


def _run(target: _Target, options: argparse.Namespace, frames: Sequence[int]) -> int:
    given: Any = {"pretrained": options.pretrained, "model": options.model, "frames": list(frames)}
    given |= {"limit": options.limit} if options.limit else {}
    given |= {"model_args": options.model_args} if options.model_args else {}
    study = study_from(
        {**given, "tasks": _STAND_IN if options.quick else target.task or "vniah"},
        where="command line",
    )
    if target.task:
        return sweep.run_study(study, options.out, fresh=options.fresh)
    grid = ["--frames", target.quick_frames, "--depths", target.quick_depths]
    if not options.quick:
        grid = ["--frames", target.frames, "--depths", target.depths]
        folder: Path = options.data
        films = sorted(p for p in folder.iterdir() if p.suffix.lower() in _VIDEOS)
        if not films:
            raise DataError(f"{folder} holds no video: --data of figure4 is a folder with a film.")
        grid += [part for film in films for part in ("--haystack", str(film))]
        own = folder / "needles"
        grid += ["--needles", str(own) if own.is_dir() else "lmms-lab/v_niah_needles"]
    for name, value in study.model_args.items():
        grid += [f"--{name.replace('_', '-')}", value]
    grid += ["--fresh"] if options.fresh else []
    return niah.main(["--pretrained", options.pretrained, "--out", str(options.out), *grid])


def _show(target: _Target, options: argparse.Namespace, frames: Sequence[int]) -> None:
    """The table, and the same as JSON in the folder."""
    from longva_eval.reports.reproduction import write_reproduction

    notes = []
    if options.quick and target.task:
        notes.append(f"--quick: {_STAND_IN} stands in for the benchmark.")
    elif options.quick:
        notes.append("--quick: the embedded haystack and needles stand in for the paper's.")
    elif not target.task:
        notes.append("The haystack is yours: compare shapes, not decimals.")
    points = {str(n): options.out / "points" / f"frames-{n}" for n in frames}
    runs = points if len(frames) > 1 else {"": next(iter(points.values()))}
    shown = write_reproduction(
        options.out,
        title=f"{target.title}: {options.pretrained}",
        benchmark=target.benchmark,
        model=target.model,
        source=target.source,
        runs=runs if target.task else {"": options.out},
        notes=notes,
    )
    print(shown)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longva-eval reproduce",
        description="A table or figure of the LongVA paper (arXiv 2406.16852): what it costs, what "
        "data are missing and the commands that fetch them, the runs, and each printed number "
        "beside ours with difference, interval and verdict. The same command goes on after an "
        "interruption.",
    )
    add: Any = parser.add_argument
    add("target", choices=TARGETS, help="; ".join(f"{n}: {t.title}" for n, t in TARGETS.items()))
    add("--pretrained", required=True, help="folder, hub id or name of an embedded checkpoint")
    add("--model", default="longva", choices=embedded.MODEL_CLASSES, help="longva (default)")
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="a copy of the data, laid out in HF_HOME as by prepare; of figure4 a folder with the "
        "film and, if they are not in the hub's cache, needles/",
    )
    add("--out", type=Path, help="folder of the runs (out/TARGET)")
    add("--allow-missing", action="store_true", help="run on a part of the data, as of prepare")
    add("--plan", action="store_true", help="say what it costs and needs, and run nothing")
    add("--quick", action="store_true", help="what ships with the package stands in for the data")
    add("--limit", type=float, help="questions of each task: no number is comparable then")
    add("--model-args", metavar="K=V,...", help="further arguments of the model, as in lmms-eval")
    add("--fresh", action="store_true", help="start over: set aside what --out holds")
    return parser
