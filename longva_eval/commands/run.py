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

from longva_eval.host.evaluation import problems_of, reason_of, run_host, summary_lines

__all__ = ["main"]


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
            problems.append(reason_of(run))
        elif is_leader:
            problems.extend(problems_of(run))
            print("\n".join(summary_lines(run)))
    for problem in problems:
        print(f"longva-eval run: {problem}", file=sys.stderr)
    if not problems and is_leader and status == 0:
        print("Everything that was asked for is there.")
    return 1 if problems else status


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
