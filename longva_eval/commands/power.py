"""`longva-eval power`: how many questions show a difference."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from longva_eval.errors import SettingsError
from longva_eval.reports.power import pilot_cases, power_rows, power_text, stated_case
from longva_eval.reports.reading.runs import read_run
from longva_eval.text import plain

__all__ = ["main"]

_STATED = ("score", "icc", "disagree", "difference_icc")


def main(arguments: Sequence[str]) -> int:
    """How many questions show a difference, or what a number of videos can show."""
    parser = argparse.ArgumentParser(
        prog="longva-eval power",
        description="How many questions, of how many videos, show that one run is better than "
        "another, in a paired comparison clustered by video (compare --baseline). From two pilot "
        "runs; or from one and --disagree; or from --score, --icc and --disagree.",
    )
    parser.add_argument("runs", nargs="*", metavar="PILOT", help="a run, or two, of the same tasks")
    parser.add_argument(
        "--difference",
        type=_numbers,
        default=(1.0, 2.0, 5.0),
        metavar="D,...",
        help="true differences in points of 100 (1,2,5)",
    )
    parser.add_argument("--videos", type=int, help="also what this many videos show (the pilot's)")
    parser.add_argument("--score", type=float, help="of both runs, in percent")
    parser.add_argument(
        "--icc", type=float, help="correlation between questions on one video, 0 to 1"
    )
    parser.add_argument(
        "--disagree",
        type=float,
        help="percent of questions that only one of two equal runs has right",
    )
    parser.add_argument(
        "--difference-icc",
        type=float,
        help="correlation between the two runs' differences on one video (0: they part ways "
        "question by question)",
    )
    parser.add_argument("--questions", type=int, default=3, help="of a video, without a pilot (3)")
    parser.add_argument("--power", type=float, default=80, help="in percent of cases (80)")
    parser.add_argument(
        "--level", type=float, default=0.05, help="p that counts as shown, two-sided (0.05)"
    )
    parser.add_argument("--format", choices=("terminal", "json"), default="terminal")
    options = parser.parse_args(arguments)
    _check(options)
    spread = options.difference_icc or 0.0
    if options.runs:
        runs = [read_run(path) for path in options.runs]
        cases = pilot_cases(runs, disagree=options.disagree or 0.0, difference_icc=spread)
    else:
        cases = [
            stated_case(
                score=options.score,
                icc=options.icc,
                disagree=options.disagree,
                difference_icc=spread,
                questions=options.questions,
            )
        ]
    how = {"videos": options.videos, "power": options.power, "level": options.level}
    found = [(case, power_rows(case, options.difference, **how)) for case in cases]
    if options.format == "json":
        print(json.dumps([row for _, rows in found for row in rows], indent=1))
        return 0
    print(plain("\n\n".join(power_text(case, rows) for case, rows in found)))
    print(
        f"\nVideos and questions that show a true difference of so many points (p below "
        f"{options.level:g}) in {options.power:g} of 100 cases; paired, clustered by video "
        "(docs/statistics.md)."
    )
    return 0


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _check(options: argparse.Namespace) -> None:
    if not 0 < options.power < 100 or not 0 < options.level < 1:
        raise SettingsError("--power is within 0 and 100, --level within 0 and 1.")
    if options.videos is not None and options.videos < 2:
        raise SettingsError(f"--videos {options.videos}: one video says nothing about videos.")
    if options.questions < 1 or min(options.difference) <= 0:
        raise SettingsError("--questions and --difference are above 0.")
    given = [name for name in _STATED if getattr(options, name) is not None]
    needed = {0: ["score", "icc", "disagree"], 1: ["disagree"], 2: []}.get(len(options.runs))
    if needed is None:
        raise SettingsError(f"{len(options.runs)} pilots were given; power takes none, one or two.")
    missing = [f"--{name}" for name in needed if name not in given]
    known = [name for name in given if name not in needed and name != "difference_icc"]
    if len(options.runs) == 2:
        known = given
    if missing:
        raise SettingsError(
            f"{['Without a pilot', 'With one pilot'][len(options.runs)]}, {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} needed. Two pilot runs say it all."
        )
    if known:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in known)
        raise SettingsError(f"{names}: the pilot says that. Leave it out.")
