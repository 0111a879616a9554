"""`longva-eval sweep`: one model at several numbers of frames, RoPE settings and methods."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal

import yaml

from longva_eval.embedded import MODEL_CLASSES
from longva_eval.host.evaluation import quiet_host
from longva_eval.studies.definition import Study, read_study_file, study_from
from longva_eval.studies.points import missing_text, open_points, overview, write_record
from longva_eval.studies.recipes import study_like

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
) -> int:
    """Run what is missing of a study, then write its tables and figures.

    Args:
        study: What is asked.
        folder: Holds it; may hold a part of it already.
        by: Category of the questions to split by; a duration if there is one, if empty.
        published: A published benchmark whose curve is drawn beside; `auto` is that of the task.
        width: Of the figures, for a column or a page of a paper.
        fresh: Set aside what the folder holds.

    Returns:
        0 if every point is complete.

    Raises:
        SettingsError: If the folder holds another study, or a setting is impossible.
        EvaluationError: If the model cannot be loaded, or memory or disk are not enough.
    """
    if study.tests:
        return _run_tests(study, folder, fresh=fresh)
    began = time.monotonic()
    runs = open_points(study, folder, fresh=fresh)
    print(overview(runs))
    left = [run for run in runs if not run.is_complete]
    if left:
        with quiet_host():
            from longva_eval.model_adapters.together import run_points

            for number, run in enumerate(run_points(study, runs), start=1):
                minutes, seconds = divmod(round(time.monotonic() - began), 60)
                print(f"[{number}/{len(left)}] {run}; {minutes} min {seconds} s so far", flush=True)
    write_record(study, folder, runs, time.monotonic() - began)
    if any(run.is_complete for run in runs):
        from longva_eval.reports.study import write_study

        written, shown = write_study(folder, by=by, published=published, width=width)
        print(f"\n{shown}\n", *(f"  {path}" for path in written), sep="\n")
    missing = missing_text(runs)
    if missing:
        print(missing, file=sys.stderr)
    return 1 if missing else 0


def _run_tests(study: Study, folder: Path, *, fresh: bool) -> int:
    """Needle tests on the axes of a study."""
    from longva_eval.model_adapters.arguments import (
        FamilyArguments,
        LongVAArguments,
        read_arguments,
    )
    from longva_eval.needle.asking import open_needle_session
    from longva_eval.reports.methods import write_needle_study
    from longva_eval.studies.needles import run_needles

    kind = FamilyArguments if study.model == "longva_hf" else LongVAArguments
    given = {name: yaml.safe_load(value) for name, value in study.model_args.items()}
    arguments = read_arguments(kind, {"pretrained": study.pretrained, **given})
    session = open_needle_session(study.pretrained, **arguments.session_settings())
    points = run_needles(study, session, folder, fresh=fresh)
    for number, (point, test, _) in enumerate(points, start=1):
        print(f"[{number}] {test} {point.name}", flush=True)
    written, shown = write_needle_study(study, folder)
    print(f"\n{shown}\n", *(f"  {path}" for path in written), sep="\n")
    return 0


def _study(options: argparse.Namespace) -> Study:
    # Each key of a study that the command line has an option for; options win over the file.
    given = {each.name: getattr(options, each.name, None) for each in fields(Study)}
    given = {name: value for name, value in given.items() if value is not None}
    if options.like:
        given = study_like(options.like, given)
    from_file = {} if options.study is None else read_study_file(options.study)
    return study_from(from_file | given, where=str(options.study or "command line"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longva-eval sweep",
        usage="longva-eval sweep [STUDY.yaml] [--pretrained P --tasks T,... --frames N,...] "
        "[OPTIONS] --out DIR",
        description="Evaluate one model at several numbers of frames, RoPE settings and methods "
        "(which frames, which positions, what is kept); every combination is a point. It is "
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
    parser.add_argument(
        "--test", dest="tests", metavar="T,T,...",
        help="needle tests instead of tasks, as of niah; --frames are their lengths",
    )  # fmt: skip
    parser.add_argument(
        "--show", type=int, metavar="N",
        help="of --test: frames that the policy shows of each video (all)",
    )  # fmt: skip
    parser.add_argument("--items", type=int, help="of --test: questions (24)")
    parser.add_argument("--depths", help="of --test: 0:1:0.5 or 0,0.5,1 (as of niah)")
    parser.add_argument("--frames", metavar="N,N,...", help="numbers of frames, or START:STOP:STEP")
    parser.add_argument(
        "--rope-theta", metavar="X,X,...", help="RoPE bases; own is the checkpoint's"
    )
    parser.add_argument(
        "--rope-type", metavar="T,T,...",
        help="own, default, linear, ntk, yarn, llama3, longrope, dynamic",
    )  # fmt: skip
    parser.add_argument("--rope-factor", metavar="X,X,...", help="for the types that need one")
    parser.add_argument(
        "--frame-policy", metavar="P,P,...",
        help="uniform, midpoints, fps:R, budget:R:MIN, keyframes, scene, file:PATH, query:MODEL, "
        "query-bins:MODEL (docs/axes.md)",
    )  # fmt: skip
    parser.add_argument(
        "--positions", metavar="P,P,...",
        help="own, stride:S, grouped:S, recurrent:L, temporal:S, visual-yarn:S:L0, "
        "self-extend:G:W, rerope:W, dca:S:L, lm-infinite:L:N",
    )  # fmt: skip
    parser.add_argument(
        "--kv-press", metavar="P,P,...",
        help="none, or knorm, vnorm, snapkv, random, uniform, recent with the part that is kept: "
        "snapkv:0.5; snapkv:0.5:question",
    )  # fmt: skip
    parser.add_argument(
        "--control", metavar="C,C,...",
        help="the same questions again: blind (no video), shuffle (frames in another order), "
        "single-frame, circular (every rotation of the options); docs/controls.md",
    )  # fmt: skip
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
    return parser
