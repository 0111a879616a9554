"""`longva-eval run`: lmms-eval's own evaluation, and an exit status that can be relied on.

All arguments are lmms-eval's. It prints an exception and ends with status 0, it drops tasks and
files it could not make with a line in the log; here each of these is status 1 with its reason, and
what was made is read back and counted.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from longva_eval.embedded import MODEL_CLASSES
from longva_eval.errors import SettingsError
from longva_eval.host.evaluation import Finished, is_unreached, problems_of, reason_of, run_host
from longva_eval.reports.reading.building import build_run
from longva_eval.reports.reading.samples import as_mapping

__all__ = ["failure_text", "main", "summary_lines"]


def main(arguments: Sequence[str]) -> int:
    """Run lmms-eval. Returns 0 only if all that was asked for is there."""
    parser = _parser()
    options, given = parser.parse_known_args(arguments)
    if not given:
        parser.print_usage(sys.stderr)
        return 2
    if options.like:
        from longva_eval.studies.recipes import with_recipe

        given = with_recipe(options.like, given)
    if options.control:
        given = _with_control(options.control, given)
    if options.temperature is not None:
        given = _with_temperature(options.temperature, given)
    _refuse_odd_numbers(given)
    if options.fresh:
        from longva_eval.host.patches import start_over

        start_over()
    status, runs = run_host(given)
    if not runs:  # it ended before an evaluation began, or was only asked to tell something
        return status
    is_leader = int(os.environ.get("RANK", "0")) == 0
    problems = []
    for run in runs:
        if run.error is not None:
            problems.append(failure_text(run, run.error))
        elif is_leader:
            problems.extend(problems_of(run))
            print("\n".join(summary_lines(run)))
    for problem in problems:
        print(f"longva-eval run: {problem}", file=sys.stderr)
    if not problems and is_leader and status == 0:
        print("Everything that was asked for is there.")
    return 1 if problems else status


def _refuse_odd_numbers(arguments: Sequence[str]) -> None:
    """Refuse `x=\u00bc` and `x=\u00b2`: numbers to lmms-eval, and then none to Python."""
    settings = [part for text in arguments for part in text.split(",") if not text.startswith("--")]
    for name, _, value in (setting.partition("=") for setting in settings):
        if value.isnumeric() and not value.isdecimal():
            raise SettingsError(f"{name}={value} is no number that can be read: write digits.")


def _with_control(control: str, arguments: Sequence[str]) -> list[str]:
    """lmms-eval's arguments with a control among those of the model."""
    if "," in control:
        raise SettingsError(
            f"--control {control}: a run has one control; longva-eval sweep --control asks several."
        )
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", default="longva")
    parser.add_argument("--model_args", default="")
    given, rest = parser.parse_known_args(list(arguments))
    if given.model not in MODEL_CLASSES:
        raise SettingsError(
            f"--control is for our models, {', '.join(MODEL_CLASSES)}, not for {given.model}: "
            "lmms-eval's own choose frames and write prompts themselves."
        )
    text = ",".join(filter(None, (given.model_args, f"control={control}")))
    return ["--model", given.model, "--model_args", text, *rest]


def _with_temperature(temperature: float, arguments: Sequence[str]) -> list[str]:
    """lmms-eval's arguments with answers drawn at a temperature."""
    if not 0 < temperature < math.inf:
        raise SettingsError(
            f"--temperature {temperature:g} draws nothing: give a number above 0, or leave it out "
            "for the most likely answer."
        )
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--gen_kwargs", default="")
    given, rest = parser.parse_known_args(list(arguments))
    if "temperature=" in given.gen_kwargs or "do_sample=" in given.gen_kwargs:
        raise SettingsError(
            f"--temperature {temperature:g} and --gen_kwargs {given.gen_kwargs} say the same "
            "thing twice: leave one out."
        )
    drawn = f"temperature={temperature:g},do_sample=True"
    return [*rest, "--gen_kwargs", ",".join(filter(None, (given.gen_kwargs, drawn)))]


def failure_text(run: Finished, error: BaseException) -> str:
    """Why an evaluation ended with an error, and what to do about it."""
    tasks = str(run.arguments.get("tasks") or "")
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return f"lmms-eval ended{'' if tasks else ' without --tasks'} before it evaluated anything."
    if not is_unreached(error):
        return reason_of(error)
    from longva_eval.local.layouts import fetch_hint

    return f"{reason_of(error)}\n{fetch_hint(tasks.split(','))}"


def summary_lines(run: Finished) -> list[str]:
    """Tasks with their scores, how many failed or had no answer, and the files."""
    if run.results is None:
        return []
    lines, missing = ["", "Task, score, failed, no answer"], _missing(run)
    for task in run.results.get("configs") or {}:
        score = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {str(value)[:60]}"
            for name, value in run.metrics(task).items()
        )
        known = "what failed is not known (--log_samples tells it)"
        if task in missing:
            known = "{} failed, {} no answer".format(*missing[task])
        lines.append(f"  {task}: {score or 'no result'}; {known}")
    return lines + [f"  {path}" for path in run.files]


def _missing(run: Finished) -> dict[str, tuple[int, int]]:
    """By task the questions that failed and those without an answer, as `show` counts them."""
    results = dict(run.results or {})
    counts = as_mapping(as_mapping(results.get("longva_eval")).get("outcomes"))
    found = {name: (told.get("failed", 0), told.get("empty", 0)) for name, told in counts.items()}
    read = build_run(Path(), results, dict(run.samples or {}), [], date="", seeds="")
    for name, task in read.tasks.items():
        if task.samples:
            found[name] = task.counts()["failed"], task.counts()["no answer"]
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longva-eval run",
        usage="longva-eval run [--fresh] [--like RECIPE] [--control C] [--temperature T] "
        "LMMS-EVAL'S ARGUMENTS",
        description="Evaluate with lmms-eval; the status is 1 if anything asked for was not "
        "produced. A run that was interrupted is resumed by the same command.",
        epilog="Everything else is lmms-eval's: longva-eval run --model longva --model_args "
        "pretrained=lmms-lab/LongVA-7B --tasks videomme --output_path out --log_samples. "
        "Several processes: torchrun --nproc-per-node 8 -m longva_eval run ...",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start over: set aside what the journal holds"
    )
    parser.add_argument(
        "--like", metavar="RECIPE", help="arguments of the model as its makers stated them: "
        "longva-paper, qwen3-vl, qwen2.5-vl (docs/explain.md)",
    )  # fmt: skip
    parser.add_argument(
        "--control", metavar="C", help="take something away: blind (no video), shuffle (frames in "
        "another order), single-frame, or circular (every rotation of the options)",
    )  # fmt: skip
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="draw answers; with --repeats N each "
        "question is asked N times, with a seed for each (docs/controls.md)",
    )  # fmt: skip
    return parser
