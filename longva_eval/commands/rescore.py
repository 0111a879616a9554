"""`longva-eval rescore`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from longva_eval.errors import SettingsError, nearest
from longva_eval.reports.explain import warnings_of
from longva_eval.reports.reading.runs import read_run
from longva_eval.reports.rules.rescore import RULES, Example, Rescored, rescore
from longva_eval.text import plain

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """One run's answers under the rules of boards and harnesses."""
    parser = argparse.ArgumentParser(
        prog="longva-eval rescore",
        description="The multiple-choice answers of a run of lmms-eval, of any of its models, or "
        "of a sheet of VLMEvalKit, read again by other rules: Video-MME, MLVU, LongVideoBench, "
        "LVBench, MMMU, NExT-QA. Shows how much of the difference to ours comes from letters, "
        "denominator and draws.",
    )
    parser.add_argument(
        "run", metavar="RUN", help="a results file, a samples file, a sheet, or a folder"
    )
    parser.add_argument(
        "--rule", default=",".join(RULES), help=f"with commas between: {', '.join(RULES)} (all)"
    )
    parser.add_argument(
        "--page", metavar="FILE", help="of longva-eval report on RUN: examples link to its samples"
    )
    parser.add_argument("--format", choices=("terminal", "json"), default="terminal")
    options = parser.parse_args(arguments)
    rules = [name.strip() for name in options.rule.split(",")]
    for name in rules:
        if name not in RULES:
            hint = nearest(name, RULES) or f" There are {', '.join(RULES)}."
            raise SettingsError(f"--rule: there is no rule {name!r}.{hint}")
    if options.page is not None and not Path(options.page).is_file():
        raise SettingsError(
            f"--page {options.page} is not there: longva-eval report {options.run} --out "
            f"{options.page}"
        )
    run = read_run(options.run)
    found = {task.name: rescore(task, rules) for task in run.tasks.values() if task.samples}
    if not any(found.values()):
        raise SettingsError(
            f"{options.run}: no rule knows {', '.join(run.tasks) or 'any task'}, or the samples do "
            "not say answers, options and what is right. Video-MME, MLVU, LongVideoBench, LVBench, "
            "MMMU and NExT-QA can be read again, from runs made with --log_samples."
        )
    if options.format == "json":
        print(json.dumps([r.row() for rows in found.values() for r in rows], indent=1))
        return 0
    for name, rows in found.items():
        notes = warnings_of(run, run.tasks[name])
        lines = _lines(name, rows, rules, notes, page=options.page)
        print(plain("\n".join(lines)), end="\n\n")
    return 0


def _lines(
    task: str,
    rows: Sequence[Rescored],
    rules: Sequence[str],
    notes: Sequence[str],
    *,
    page: str | None,
) -> list[str]:
    if not rows:
        return [f"{task}: no rule for it, or nothing that could be read again."]
    width = max(len(row.rule) for row in rows)
    lines = [
        f"{task}: {rows[0].num_questions:,} questions",
        "",
        f"  {'':{width}}   right  unread  score %  own den. %   letters  denominator    draws",
    ]
    lines += [
        f"  {row.rule:{width}}  {row.num_right:>6,}  {row.num_unread:>6,}"
        f"  {row.score_percent:>7.1f}  {row.own_denominator_percent:>10.1f}"
        f"  {row.letters:>+8.1f}  {row.denominator:>+11.1f}  {row.draws:>+7.1f}"
        for row in rows
    ]
    missing = [name for name in rules if name not in {row.rule for row in rows}]
    if missing:
        lines += ["", f"  {', '.join(missing)}: no such rule for this benchmark."]
    shown: dict[int | str, tuple[Example, list[str]]] = {}
    for row in rows:
        for cause, example in row.examples.items():
            causes = shown.setdefault(example.doc_id, (example, []))[1]
            causes.append(f"{cause} of {row.rule}")
    for example, causes in shown.values():
        text = " ".join(example.text.split())
        text = text if len(text) <= 60 else f"{text[:57]}..."
        reads = ", ".join(f"{rule} {letter or '-'}" for rule, letter in example.reads.items())
        lines += ["", f"  document {example.doc_id}, {text!r}: {reads}", f"    {'; '.join(causes)}"]
        if page is not None:
            lines.append(f"    {page}#sample={quote(f'{task}/{example.key}', safe='')}")
    return [
        *lines,
        "",
        *(f"  {note}" for note in notes),
        "  -: nothing is read, or an option is drawn. own den.: of questions that the rule counts;",
        "  right of these, minus ours, in points: letters + denominator + draws (at their expected",
        "  value). Questions count equally.",
    ]
