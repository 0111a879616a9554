"""`longva-eval sweep`: one model at several numbers of frames and RoPE settings.

Every point of the grid is an ordinary evaluation of lmms-eval, with its results and samples in a
folder of its own. What is unusual is the order of work: the first point's requests are answered for
all points at once, video by video (`model_adapters/together.py`), and the points then find their
answers in their journals. What a run that was killed has answered is never computed again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from loguru import logger

from longva_eval.embedded import MODEL_CLASSES
from longva_eval.errors import SettingsError
from longva_eval.files import check_writable, set_aside
from longva_eval.host.evaluation import quiet_host
from longva_eval.studies.definition import (
    SETTINGS_NAME,
    Study,
    check_same_study,
    read_study_file,
    study_from,
    study_text,
)
from longva_eval.studies.points import PointRun, write_record
from longva_eval.studies.recipes import find_recipe
from longva_eval.text import parse_whole_range

__all__ = ["main", "run_study"]


def main(arguments: Sequence[str]) -> int:
    """Run a study. Returns 1 if a point is missing."""
    options = _parser().parse_args(arguments)
    study = _study(options)
    try:
        return run_study(
            study,
            options.out,
            by=options.by,
            published=options.published,
            width=options.width,
            fresh=options.fresh,
            verbose=options.verbose,
        )
    except KeyboardInterrupt:
        print("\nAnswers so far are kept; the same command goes on with them.", file=sys.stderr)
        raise


def run_study(
    study: Study,
    folder: Path,
    *,
    by: str = "",
    published: str = "",
    width: Literal["column", "page"] = "page",
    fresh: bool = False,
    verbose: bool = False,
) -> int:
    """Run what is missing of a study, then write its tables and figures.

    Args:
        study: What is asked.
        folder: Holds it; may hold a part of it already.
        by: Category of the questions to split by; a duration if there is one, if empty.
        published: A published benchmark whose curve is drawn beside; `auto` is that of the task.
        width: Of the figures, for a column or a page of a paper.
        fresh: Set aside what the folder holds.
        verbose: Show what lmms-eval says.

    Returns:
        0 if every point is complete.

    Raises:
        SettingsError: If the folder holds another study, or a setting is impossible.
        EvaluationError: If the model cannot be loaded, or memory or disk are not enough.
    """
    _check_alone()
    if study.model not in MODEL_CLASSES:
        raise SettingsError(f"model={study.model!r} is unknown; use {', '.join(MODEL_CLASSES)}.")
    if fresh:
        _set_aside(folder)
    check_same_study(study, folder)
    check_writable(folder, "output")
    (folder / SETTINGS_NAME).write_text(study_text(study), encoding="utf-8")
    began = time.monotonic()
    runs = [
        PointRun(point=point, folder=folder / "points" / point.name) for point in study.points()
    ]
    for run in runs:
        run.read()
    left = [run for run in runs if not run.is_complete]
    _say_what_is_there(runs, left)
    if left:
        with quiet_host(verbose):
            from longva_eval.model_adapters.together import run_points

            run_points(
                study,
                runs,
                lambda run: _say(run, left.index(run) + 1, len(left), time.monotonic() - began),
            )
    write_record(study, folder, runs, time.monotonic() - began)
    complete = [run for run in runs if run.is_complete]
    if complete:
        from longva_eval.reports.study import write_study

        written, shown = write_study(folder, by=by, published=published, width=width)
        print(f"\n{shown}\n")
        for path in written:
            print(f"  {path}")
    missing = [run for run in runs if not run.is_complete]
    for reason in dict.fromkeys(run.reason for run in missing):
        names = ", ".join(run.point.name for run in missing if run.reason == reason)
        print(f"longva-eval sweep: missing: {names}: {reason}", file=sys.stderr)
    if missing:
        print(
            f"longva-eval sweep: {len(missing)} of {_points(len(runs))} "
            f"{'is' if len(runs) == 1 else 'are'} missing; the same command goes on with them.",
            file=sys.stderr,
        )
    return 1 if missing else 0


# What is said -------------------------------------------------------------------------------------


def _say_what_is_there(runs: Sequence[PointRun], left: Sequence[PointRun]) -> None:
    done = len(runs) - len(left)
    begun = sum(run.journal.is_dir() for run in left)
    text = _points(len(runs))
    if done:
        text += f", {done} complete"
    if begun:
        text += f", {begun} begun (their answers are taken over)"
    print(text + ("." if left else ": nothing is left to compute."))


def _points(count: int) -> str:
    return f"{count} point{'' if count == 1 else 's'}"


def _say(run: PointRun, number: int, total: int, seconds: float) -> None:
    place = f"[{number}/{total}] {run.point.name}"
    if not run.is_complete:
        print(f"{place}: missing, {run.reason.partition('. ')[0].rstrip('.')}", flush=True)
        return
    answers = run.record["answers"]
    counts: dict[str, int] = {}
    for found in run.record["outcomes"].values():
        for outcome, count in found.items():
            counts[outcome] = counts.get(outcome, 0) + count
    told = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
    taken = f"; {answers['taken_over']:,} answers taken over" if answers["taken_over"] else ""
    print(f"{place}: {told}{taken}; {_time(seconds)} so far", flush=True)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# Settings -----------------------------------------------------------------------------------------


def _study(options: argparse.Namespace) -> Study:
    """The study of a command line; options win over the file."""
    given = {
        "pretrained": options.pretrained, "model": options.model, "tasks": options.tasks,
        "frames": options.frames, "rope_theta": options.rope_theta, "rope_type": options.rope_type,
        "rope_factor": options.rope_factor, "limit": options.limit,
        "model_args": options.model_args, "include_path": options.include_path,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if ":" in (options.frames or ""):
        given["frames"] = list(parse_whole_range(options.frames, name="frames"))
    if options.like:
        given = _like(options.like, given)
    if options.study is None:
        return study_from(given, where="command line")
    if options.study.is_dir():
        options.study = options.study / SETTINGS_NAME
    return study_from(read_study_file(options.study) | given, where=str(options.study))


def _like(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe sets, under what is given; its number of frames is a grid of one."""
    recipe = find_recipe(name)
    arguments = dict(recipe.model_args)
    frames = arguments.pop("max_frames_num", None)
    parts = [f"{key}={value}" for key, value in arguments.items()]
    own = [given["model_args"]] if given.get("model_args") else []
    found: dict[str, Any] = {"model": recipe.model, **({"frames": frames} if frames else {})}
    return found | dict(given) | {"model_args": ",".join([*parts, *own])}


def _check_alone() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError(
            "A sweep is one process. device_map=auto spreads its model over several GPUs; to use "
            "several processes, give each a part of the grid and an --out of its own."
        )


def _set_aside(folder: Path) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / SETTINGS_NAME).is_file():
        raise SettingsError(f"--fresh: {folder} holds no study; it is left alone.")
    logger.info("Starting over: the earlier study was set aside in {}{}", folder, set_aside(folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longva-eval sweep",
        usage="longva-eval sweep [STUDY.yaml] [--pretrained P --tasks T,... --frames N,...] "
        "[OPTIONS] --out DIR",
        description="Evaluate one model at several numbers of frames and RoPE settings. It is "
        "loaded once, each video decoded once, each frame encoded once. A study that was "
        "interrupted is continued by the same command.",
        epilog="Each point is a run of its own in DIR/points: `longva-eval compare`, `show` and "
        "`report` read it. DIR/study.yaml repeats the study: longva-eval sweep DIR/study.yaml "
        "--out OTHER.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "study", nargs="?", type=Path, metavar="STUDY.yaml",
        help="a file with pretrained, tasks, frames, ... as keys; options win over it",
    )  # fmt: skip
    parser.add_argument("--pretrained", help="folder, hub id or name of an embedded checkpoint")
    parser.add_argument("--model", help=f"model id: {', '.join(MODEL_CLASSES)} (longva)")
    parser.add_argument("--tasks", help="of lmms-eval, with commas between")
    parser.add_argument("--frames", metavar="N,N,...", help="numbers of frames, or START:STOP:STEP")
    parser.add_argument(
        "--rope-theta", metavar="X,X,...", help="RoPE bases; own is the checkpoint's"
    )
    parser.add_argument(
        "--rope-type", metavar="T,T,...",
        help="own, default, linear, ntk, yarn, llama3, longrope, dynamic",
    )  # fmt: skip
    parser.add_argument("--rope-factor", metavar="X,X,...", help="for the types that need one")
    parser.add_argument("--include-path", metavar="DIR", help="of tasks lmms-eval does not have")
    parser.add_argument("--limit", help="questions of each task, for tests only")
    parser.add_argument(
        "--model-args", metavar="K=V,...", help="further arguments of the model, as in lmms-eval"
    )
    parser.add_argument(
        "--like", metavar="RECIPE", help="arguments as the model's makers stated them, as of run"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the study"
    )
    parser.add_argument(
        "--by", default="", metavar="CATEGORY",
        help="split curves by this category of the questions (a duration, if there is one)",
    )  # fmt: skip
    parser.add_argument(
        "--published", nargs="?", const="auto", default="", metavar="BENCHMARK",
        help="draw LongVA's published curve beside, where its numbers of frames are published",
    )  # fmt: skip
    parser.add_argument(
        "--width", choices=("column", "page"), default="page",
        help="of the figures, drawn at true size for a two-column paper: 3.3 or 6.9 inches (page)",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="start over: set aside what DIR holds")
    parser.add_argument("--verbose", action="store_true", help="show what lmms-eval says")
    return parser
