"""How many questions show a difference between two runs: from pilots, or from stated numbers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from longva_eval.errors import SettingsError
from longva_eval.reports.reading.pairs import pair_samples
from longva_eval.reports.reading.run import Run, TaskRun
from longva_eval.stats import PairedDesign, correlation, pilot_design, stated_design

__all__ = ["PowerCase", "pilot_cases", "power_rows", "power_text", "stated_case"]


@dataclass(frozen=True, kw_only=True)
class PowerCase:
    """What is known of two runs before the real ones."""

    name: str
    facts: str
    """In words."""
    design: PairedDesign
    num_videos: int | None
    """Of the pilot."""


def stated_case(
    *, score: float, icc: float, disagree: float, difference_icc: float, questions: int
) -> PowerCase:
    """A case from numbers alone; score and disagreement in percent, `questions` a video.

    Raises:
        SettingsError: If such runs cannot be.
    """
    with _about("stated"):
        design = stated_design(
            score=score / 100,
            disagreement=disagree / 100,
            icc=icc,
            difference_icc=difference_icc,
            sizes=[questions],
        )
    facts = (
        f"score {score:g} %, ICC {icc:g}, {disagree:g} % disagreement (ICC {difference_icc:g}), "
        f"{questions} questions a video"
    )
    return PowerCase(name="stated", facts=facts, design=design, num_videos=None)


def pilot_cases(
    runs: Sequence[Run], *, disagree: float = 0.0, difference_icc: float = 0.0
) -> list[PowerCase]:
    """A case for each task of one or two pilots with samples scored from 0 to 1.

    Args:
        runs: One, or two of the same tasks.
        disagree: With one: percent of questions that only one of two equal runs has right.
        difference_icc: With one: correlation between differences on one video.

    Raises:
        SettingsError: If there is no such task, or two pilots cannot be paired.
    """
    cases = []
    for task in runs[0].tasks.values():
        with _about(task.name):
            if len(runs) == 1:
                found = _of_one(task, disagree, difference_icc)
            else:
                found = _of_two(task, runs[1].tasks.get(task.name))
        cases += [] if found is None else [found]
    if not cases:
        paths = " and ".join(str(run.path) for run in runs)
        raise SettingsError(f"{paths}: no task with scored samples from 0 to 1 that both have.")
    return cases


def _of_one(task: TaskRun, disagree: float, difference_icc: float) -> PowerCase | None:
    samples = [sample for sample in task.samples if sample.is_scored]
    if not samples or not task.is_share:
        return None
    scores, clusters = [s.score for s in samples], [s.cluster for s in samples]
    design = stated_design(
        score=sum(scores) / len(scores),
        disagreement=disagree / 100,
        icc=correlation(scores, clusters),
        difference_icc=difference_icc,
        sizes=[clusters.count(cluster) for cluster in dict.fromkeys(clusters)],
    )
    more = f"{disagree:g} % disagreement (stated, ICC {difference_icc:g})"
    return _pilot_case(task.name, scores, clusters, design, more)


def _of_two(task: TaskRun, other: TaskRun | None) -> PowerCase | None:
    if other is None or not task.samples or not (task.is_share and other.is_share):
        return None
    pairing = pair_samples(task, other, names=("the first pilot", "the second"))
    if pairing.refusal:
        raise SettingsError(f"{task.name}: {pairing.refusal.rstrip('.')}.")
    scores, clusters = [s.score for s in pairing.first], [s.cluster for s in pairing.first]
    second = [s.score for s in pairing.second]
    design = pilot_design(scores, second, clusters)
    differences = [a - b for a, b in zip(scores, second, strict=True)]
    apart = sum(each != 0 for each in differences) / len(differences)
    more = (
        f"{100 * apart:.1f} % disagreement (ICC {correlation(differences, clusters):.2f}), "
        f"measured difference {100 * sum(differences) / len(differences):+.1f}"
    )
    return _pilot_case(task.name, scores, clusters, design, more)


def _pilot_case(
    name: str, scores: Sequence[float], clusters: Sequence[str], design: PairedDesign, more: str
) -> PowerCase:
    videos, mean = len(set(clusters)), sum(scores) / len(scores)
    facts = (
        f"{len(scores):,} questions of {videos:,} videos, score {100 * mean:.1f} %, "
        f"ICC {correlation(scores, clusters):.2f}, {more}"
    )
    return PowerCase(name=name, facts=facts, design=design, num_videos=videos)


def power_rows(
    case: PowerCase, differences: Sequence[float], *, videos: int | None, power: float, level: float
) -> list[dict[str, Any]]:
    """What shows each of some differences.

    Args:
        case: From `stated_case` or `pilot_cases`.
        differences: In points of 100.
        videos: Also what these show; those of the pilot if None.
        power: Percent of cases.
        level: p below it counts as shown.

    Raises:
        SettingsError: If there can be no such difference.
    """
    design, videos = case.design, videos or case.num_videos
    rows = []
    for points in differences:
        known, smallest = None, math.inf
        with _about(case.name):
            needed = design.videos_needed(points / 100, power=power / 100, level=level)
            if videos is not None:
                known = round(100 * design.power(points / 100, videos, level=level), 1)
                smallest = design.smallest_detectable(videos, power=power / 100, level=level)
        rows.append(
            {
                "task": case.name,
                "difference_points": points,
                "power_percent": power,
                "videos_needed": needed,
                "questions_needed": round(needed * design.questions_per_video),
                "videos": videos,
                "power_at_videos_percent": known,
                "smallest_points_at_videos": None
                if smallest == math.inf
                else round(100 * smallest, 2),
            }
        )
    return rows


def power_text(case: PowerCase, rows: Sequence[dict[str, Any]]) -> str:
    """The rows of a case for a terminal."""
    videos = rows[0]["videos"]
    header = f"  {'points':>7}  {'videos':>8}  {'questions':>9}"
    if videos is not None:
        header += f"  {f'power at {videos:,} videos':>22}"
    lines = [f"{case.name}: {case.facts}", "", header]
    for row in rows:
        line = f"  {row['difference_points']:>7g}  {row['videos_needed']:>8,}  "
        line += f"{row['questions_needed']:>9,}"
        if videos is not None:
            line += f"  {row['power_at_videos_percent']:>20.0f} %"
        lines.append(line)
    if videos is not None:
        smallest = rows[0]["smallest_points_at_videos"]
        found = "no difference" if smallest is None else f"{smallest:.1f} points"
        lines.append(f"\n  {videos:,} videos show {found} with this power.")
    return "\n".join(lines)


@contextlib.contextmanager
def _about(name: str) -> Iterator[None]:
    """Say what a number that cannot be is of."""
    try:
        yield
    except SettingsError:  # it is a ValueError, too
        raise
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from error
