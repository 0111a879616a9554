"""`longva-eval doctor`: what this environment can run, and how to mend what it cannot."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longva_eval.local.doctor import AREAS, Diagnosis, Finding, examine

__all__ = ["main"]

_MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}
_COLORS = {"ok": "32", "note": "33", "problem": "31;1"}


def main(arguments: Sequence[str]) -> int:
    """Look, print, and return 1 if something that was asked for cannot run."""
    options = _parser().parse_args(arguments)
    tasks = [name.strip() for name in (options.tasks or "").split(",") if name.strip()]
    diagnosis = examine(
        tasks,
        pretrained=options.pretrained,
        home=options.hf_home,
        quick=options.quick,
    )
    if options.json:
        print(json.dumps({**asdict(diagnosis), "can_run": diagnosis.can_run}, indent=1))
    else:
        colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = min(110, shutil.get_terminal_size((100, 24)).columns)
        print(render(diagnosis, width=width, colored=colored))
    return 0 if diagnosis.can_run else 1


def render(diagnosis: Diagnosis, *, width: int = 100, colored: bool = False) -> str:
    """The findings by area, each problem with how to mend it, and a verdict for every task."""
    lines: list[str] = []
    by_area = {area: _fold([f for f in diagnosis.findings if f.area == area]) for area in AREAS}
    shown = [finding for findings in by_area.values() for finding in findings]
    name_width = max((len(finding.name) for finding in shown), default=4)
    for area, findings in by_area.items():
        if findings:
            lines += ["", AREAS[area]]
        for finding in findings:
            lines += _finding_lines(finding, name_width, width, colored)
    if diagnosis.tasks:
        lines += ["", "Tasks"]
        task_width = max(len(task.name) for task in diagnosis.tasks)
        for task in diagnosis.tasks:
            mark = _mark("ok" if task.can_run else "problem", colored)
            text = "can run" if task.can_run else "cannot run"
            lines.append(f"  {mark} {task.name:<{task_width}}  {text}")
            for reason in task.reasons:
                lines += _wrapped(reason, indent=12 + task_width, width=width)
    problems = sum(finding.status == "problem" for finding in shown)
    problems += sum(not task.can_run for task in diagnosis.tasks)
    notes = sum(finding.status == "note" for finding in shown)
    counted = [
        f"{count} {word}{'' if count == 1 else 's'}"
        for count, word in ((problems, "problem"), (notes, "note"))
        if count
    ]
    lines += ["", f"{' and '.join(counted) or 'No problems'}, in {diagnosis.seconds:.0f} s."]
    return "\n".join(lines[1:])


def _fold(findings: Sequence[Finding]) -> list[Finding]:
    """Data sets that are not here, in one line."""
    absent = [f for f in findings if f.area == "data" and f.text == "not laid out"]
    if len(absent) < 2:
        return list(findings)
    together = Finding(
        area="data",
        name="not laid out",
        status="note",
        text=", ".join(f.name for f in absent),
        mend="longva-eval prepare NAME --from DIR (longva-eval prepare --list: where to get them)",
    )
    return [f for f in findings if f not in absent] + [together]


def _finding_lines(finding: Finding, name_width: int, width: int, colored: bool) -> list[str]:
    head = f"  {_mark(finding.status, colored)} {finding.name:<{name_width}}  "
    indent = 2 + max(map(len, _MARKS.values())) + 1 + name_width + 2
    text = textwrap.wrap(finding.text, max(20, width - indent)) or [""]
    lines = [head + text[0], *(" " * indent + line for line in text[1:])]
    if finding.mend and finding.status != "ok":
        lines += _wrapped(f"-> {finding.mend}", indent=indent, width=width)
    return [line.rstrip() for line in lines]


def _wrapped(text: str, *, indent: int, width: int) -> list[str]:
    pieces = textwrap.wrap(
        text, max(20, width - indent), break_long_words=False, break_on_hyphens=False
    )
    return [" " * indent + piece for piece in pieces]


def _mark(status: str, colored: bool) -> str:
    text = _MARKS[status].ljust(max(map(len, _MARKS.values())))
    return f"\033[{_COLORS[status]}m{text}\033[0m" if colored else text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longva-eval doctor",
        description="Try what an evaluation needs, and say how to mend what does not work: "
        "package bounds, decoders, lmms-eval from its start to one answer of the embedded model, "
        "local data and the judge. Hardware: python -m torch.utils.collect_env. Exit status 1 if "
        "something is broken, or a task of --tasks cannot run.",
    )
    add: Any = parser.add_argument
    add("--tasks", metavar="A,B", help="tasks and groups whose documents must be here and right")
    add("--hf-home", type=Path, metavar="DIR", help="where data lies (default: HF_HOME)")
    add("--pretrained", default="", metavar="NAME", help="a checkpoint that must load here")
    add("--quick", action="store_true", help="leave out the evaluation, which takes the longest")
    add("--json", action="store_true", help="for programs")
    return parser
