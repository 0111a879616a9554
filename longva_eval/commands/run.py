"""`longva-eval run`: lmms-eval's own evaluation, and an exit status that can be relied on.

All arguments are lmms-eval's. It prints an exception and ends with status 0, it drops tasks and
files it could not make with a line in the log; here each of these is status 1 with its reason, and
what was made is read back and counted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from longva_eval.host.evaluation import Finished, is_unreached, problems_of, reason_of, run_host
from longva_eval.questions.outcomes import FAILED, record_of

__all__ = ["failure_text", "main", "summary_lines"]


def main(arguments: Sequence[str]) -> int:
    """Run lmms-eval. Returns 0 only if all that was asked for is there."""
    parser = _parser()
    options, given = parser.parse_known_args(arguments)
    if not given:
        parser.print_usage(sys.stderr)
        return 2
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
    lines = ["", "Task, score, failed, no answer"]
    for task in run.results.get("configs") or {}:
        score = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {str(value)[:60]}"
            for name, value in run.metrics(task).items()
        )
        failed, silent = _unanswered(run, task)
        lines.append(f"  {task}: {score or 'no result'}; {failed} failed, {silent} no answer")
    return lines + [f"  {path}" for path in run.files]


def _unanswered(run: Finished, task: str) -> tuple[int, int]:
    """Failed questions, and questions without an answer."""
    lines = (run.samples or {}).get(task, ())
    outcomes = [record["outcome"] for record in map(record_of, lines) if record is not None]
    if outcomes:
        return outcomes.count("failed"), outcomes.count("no answer")
    counts = ((run.results or {}).get("longva_eval") or {}).get("outcomes", {}).get(task)
    if counts:
        return counts.get("failed", 0), counts.get("empty", 0)
    texts = [line.get("filtered_resps") for line in lines]
    return sum(FAILED in (text if isinstance(text, list) else [text]) for text in texts), 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longva-eval run",
        usage="longva-eval run [--fresh] LMMS-EVAL'S ARGUMENTS",
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
    return parser
