"""`longva-eval submit`: a complete run as the file a leaderboard takes. Sends nothing."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longva_eval.files import check_output, hf_home
from longva_eval.reports.boards.submissions import submit
from longva_eval.reports.reading.runs import read_run

__all__ = ["main"]

_WIDTH = 98


def main(arguments: Sequence[str]) -> int:
    """Check the run, write the file, and print the board's number beside ours."""
    options = _parser().parse_args(arguments)
    check_output(options.out)
    run = read_run(options.run)
    submission = submit(
        options.board,
        run,
        options.out,
        task=options.task,
        hf_home=(options.hf_home or hf_home()).expanduser(),
    )
    print(_render(submission))
    return 0


def _render(submission: Any) -> str:
    board, run = submission.board, submission.run
    frames = run.frames(submission.task)
    lines = [
        f"{board.title}: {run.name}, {submission.task}" + (f", {frames} frames" if frames else ""),
        f"  run        {run.path}",
        f"  questions  {submission.num_questions:,}, all there and none failed",
    ]
    if submission.num_silent:
        silence = f"; {board.silence}" if board.silence else ""
        lines.append(f"  no answer  {submission.num_silent:,}, wrong with us{silence}")
    lines += [f"  note       {note}" for note in submission.notes]
    comparison = submission.comparison
    if comparison.rows:
        width = max(len("questions"), *(len(row.label) for row in comparison.rows))
        lines += ["", f"  {'':<{width}}  questions  board's rule    ours  (%)"]
        lines += [
            f"  {row.label:<{width}}  {row.num_questions:>9,}  {row.official_percent:>12.1f}"
            f"  {row.our_percent:>6.1f}"
            for row in comparison.rows
        ]
    total = sum(difference.num_questions for difference in comparison.differences)
    if total:
        several = "1 question is" if total == 1 else f"{total:,} questions are"
        lines += ["", f"  {several} read differently, or not at all:"]
    for difference in comparison.differences:
        text = textwrap.wrap(difference.reason, _WIDTH - 11)
        lines.append(f"  {difference.num_questions:>7,}  {text[0]}")
        lines += [" " * 11 + line for line in text[1:]]
        lines += [f"{'':>13}{example}" for example in difference.examples]
    lines += ["", f"Wrote {submission.path}, in the form of the board."]
    lines += textwrap.wrap(board.where, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longva-eval submit",
        description="Write a complete run as the file a leaderboard takes, and show the number its "
        "rule gives beside ours. A run with missing or failed questions is refused. Nothing is "
        "sent anywhere.",
        epilog="Boards: videomme, longvideobench, mlvu, mmmu, docvqa, infovqa, egoschema.",
    )
    add: Any = parser.add_argument
    add("board", metavar="BOARD", help="see below")
    add("run", type=Path, metavar="RUN_DIR", help="what lmms-eval wrote, with --log_samples")
    add("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    add("--task", help="which task of the run, if several fit")
    add("--hf-home", type=Path, metavar="DIR", help="where data was prepared (default: HF_HOME)")
    return parser
