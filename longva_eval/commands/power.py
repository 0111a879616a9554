"""`longva-eval power`."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from longva_eval.errors import SettingsError
from longva_eval.reports.reading.pairs import pair_samples
from longva_eval.reports.reading.run import Run, TaskRun
from longva_eval.reports.reading.runs import read_run
from longva_eval.stats import PairedDesign, correlation, pilot_design, stated_design
from longva_eval.text import plain

__all__ = ["main"]

_STATED = ("score", "icc", "disagree", "difference_icc")


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What is known of two runs before the real ones."""

    name: str
    facts: str
    design: PairedDesign
    num_videos: int | None
    """Of the pilot."""


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
    rows = [
        _row(case, points, options) for case in _cases(options) for points in options.difference
    ]
    if options.format == "json":
        print(json.dumps([row for row, _ in rows], indent=1))
    else:
        print(plain("\n".join(_lines(rows, options))))
    return 0


@contextlib.contextmanager
def _about(name: str) -> Iterator[None]:
    """Say what a number that cannot be is of."""
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from error


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


def _cases(options: argparse.Namespace) -> list[_Case]:
    spread = options.difference_icc or 0.0
    share = 0.0 if options.disagree is None else options.disagree / 100
    if not options.runs:
        with _about("stated"):
            design = stated_design(
                score=options.score / 100,
                disagreement=share,
                icc=options.icc,
                difference_icc=spread,
                sizes=[options.questions],
            )
        facts = (
            f"score {options.score:g} %, ICC {options.icc:g}, {options.disagree:g} % disagreement "
            f"(ICC {spread:g}), {options.questions} questions a video"
        )
        return [_Case(name="stated", facts=facts, design=design, num_videos=None)]
    runs = [read_run(path) for path in options.runs]
    cases = []
    for task in runs[0].tasks.values():
        with _about(task.name):
            found = _of_pilot(task, runs, share, spread) if task.samples else None
        cases += [] if found is None else [found]
    if not cases:
        paths = " and ".join(map(str, options.runs))
        raise SettingsError(f"{paths}: no task with scored samples from 0 to 1 that both have.")
    return cases


def _of_pilot(task: TaskRun, runs: Sequence[Run], share: float, spread: float) -> _Case | None:
    if len(runs) == 1:
        samples = [sample for sample in task.samples if sample.is_scored]
        if not samples or not task.is_share:
            return None
        scores, clusters = [s.score for s in samples], [s.cluster for s in samples]
        icc, mean = correlation(scores, clusters), sum(scores) / len(scores)
        sizes = [clusters.count(cluster) for cluster in dict.fromkeys(clusters)]
        design = stated_design(
            score=mean, disagreement=share, icc=icc, difference_icc=spread, sizes=sizes
        )
        more = f"{100 * share:g} % disagreement (stated, ICC {spread:g})"
    else:
        other = runs[1].tasks.get(task.name)
        if other is None or not (task.is_share and other.is_share):
            return None
        pairing = pair_samples(task, other, names=("the first pilot", "the second"))
        if pairing.refusal:
            raise SettingsError(f"{task.name}: {pairing.refusal.rstrip('.')}.")
        pairs = list(zip(pairing.first, pairing.second, strict=True))
        scores, clusters = [one.score for one, _ in pairs], [one.cluster for one, _ in pairs]
        second = [two.score for _, two in pairs]
        design = pilot_design(scores, second, clusters)
        icc, mean = correlation(scores, clusters), sum(scores) / len(scores)
        differences = [a - b for a, b in zip(scores, second, strict=True)]
        apart = sum(each != 0 for each in differences) / len(differences)
        more = (
            f"{100 * apart:.1f} % disagreement (ICC {correlation(differences, clusters):.2f}), "
            f"measured difference {100 * sum(differences) / len(differences):+.1f}"
        )
    videos = len(set(clusters))
    facts = (
        f"{len(scores):,} questions of {videos:,} videos, score {100 * mean:.1f} %, ICC {icc:.2f}, "
        f"{more}"
    )
    return _Case(name=task.name, facts=facts, design=design, num_videos=videos)


def _row(
    case: _Case, points: float, options: argparse.Namespace
) -> tuple[dict[str, str | float | int | None], str]:
    design, power, level = case.design, options.power / 100, options.level
    videos = options.videos or case.num_videos
    with _about(case.name):
        needed = design.videos_needed(points / 100, power=power, level=level)
        known = None if videos is None else design.power(points / 100, videos, level=level)
    smallest = (
        None if videos is None else design.smallest_detectable(videos, power=power, level=level)
    )
    row: dict[str, str | float | int | None] = {
        "task": case.name,
        "difference_points": points,
        "power_percent": options.power,
        "videos_needed": needed,
        "questions_needed": round(needed * design.questions_per_video),
        "videos": videos,
        "power_at_videos_percent": None if known is None else round(100 * known, 1),
        "smallest_points_at_videos": None
        if smallest is None or smallest == float("inf")
        else round(100 * smallest, 2),
    }
    return row, case.facts


def _lines(
    rows: Sequence[tuple[dict[str, str | float | int | None], str]], options: argparse.Namespace
) -> list[str]:
    lines: list[str] = []
    last = None
    for row, facts in rows:
        if row["task"] != last:
            last = row["task"]
            lines += [""] * bool(lines) + [f"{last}: {facts}", ""]
            header = f"  {'points':>7}  {'videos':>8}  {'questions':>9}"
            if row["videos"] is not None:
                header += f"  {'power at ' + format(row['videos'], ',') + ' videos':>22}"
            lines.append(header)
        line = (
            f"  {row['difference_points']:>7g}  {row['videos_needed']:>8,}  "
            f"{row['questions_needed']:>9,}"
        )
        if row["videos"] is not None:
            line += f"  {row['power_at_videos_percent']:>20.0f} %"
        lines.append(line)
        if row is rows[-1][0] or rows[rows.index((row, facts)) + 1][0]["task"] != last:
            smallest = row["smallest_points_at_videos"]
            if row["videos"] is not None:
                found = "no difference" if smallest is None else f"{smallest:.1f} points"
                lines.append(f"\n  {row['videos']:,} videos show {found} with this power.")
    lines += [
        "",
        f"Videos and questions that show a true difference of so many points (p below "
        f"{options.level:g}) in {options.power:g} of 100 cases; paired, clustered by video "
        "(docs/statistics.md).",
    ]
    return lines
