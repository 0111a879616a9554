"""`longva-eval reproduce`: a table or figure of the LongVA paper, with what runs it and a verdict.

It composes other commands: `plan`, `prepare`, `sweep` or `niah`, and published scores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longva_eval import embedded
from longva_eval.commands import niah, sweep
from longva_eval.errors import DataError, SettingsError
from longva_eval.files import check_writable, hf_home
from longva_eval.local.prepare import data_status, prepare
from longva_eval.studies.definition import study_from
from longva_eval.studies.targets import TARGETS, Target, cost_lines, data_lines

__all__ = ["main"]

_STAND_IN = "longva_mini_small"
_VIDEOS = frozenset([".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v"])


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
    home = hf_home().expanduser().absolute()
    layouts = target.layouts(quick=options.quick)
    enough = ("found", "partly") if options.allow_missing else ("found",)
    missing = [each for each in layouts if data_status(each, home).state not in enough]
    print(f"{target.title}, with {options.pretrained}\n")
    print("\n".join(cost_lines(target, options.pretrained, quick=options.quick)))
    needs = []
    if not options.data:
        needs = data_lines(target, options.pretrained, missing, home, quick=options.quick)
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
    frames = target.frame_counts(quick=options.quick)
    status = _run(target, options, frames)
    if status == 0:
        _show(target, options, frames)
    return status


def _run(target: Target, options: argparse.Namespace, frames: Sequence[int]) -> int:
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


def _show(target: Target, options: argparse.Namespace, frames: Sequence[int]) -> None:
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
