"""How often 95 % intervals hold what they should, on drawn data of realistic sizes.

    python benchmarks/coverage.py [--runs 2000] [--seed 0]

Each row draws the answers of `runs` evaluations from a known truth and counts the intervals that
contain it. Within a video the chance to be right varies as a beta distribution with the given
correlation between questions (ICC); two models, and the points of a curve, share the video's
difficulty. The Monte Carlo error of 2,000 runs is 0.5 points.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longva_eval.stats import (
    Interval,
    bootstrap_interval,
    compare_pairs,
    estimate_mean,
    simultaneous_bands,
    wilson_interval,
)

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Design:
    """Sizes of a benchmark."""

    name: str
    sizes: tuple[int, ...]
    """Questions of each video."""
    accuracy: float
    icc: float

    def clusters(self) -> list[int]:
        return [video for video, size in enumerate(self.sizes) for _ in range(size)]


def draw(design: Design, rng: np.random.Generator, num_models: int = 1, gain: float = 0.0) -> Array:
    """(models, questions) right or wrong; model k is `k * gain` better in expectation.

    Each video has a chance to be right; models look at the same chance, and half of the questions'
    luck is common to them too, so that they agree more often than independent ones.
    """
    a = design.accuracy * (1 - design.icc) / design.icc
    b = (1 - design.accuracy) * (1 - design.icc) / design.icc
    sizes = np.array(design.sizes)
    chance = np.repeat(rng.beta(a, b, size=len(sizes)), sizes)
    common = rng.random(len(chance))
    own = rng.random((num_models, len(chance)))
    luck = np.where(rng.random((num_models, len(chance))) < 0.5, common, own)
    # `gain` of the questions that were wrong turn right, whatever the video.
    turned = rng.random((num_models, len(chance))) < gain * np.arange(num_models)[:, None]
    return ((luck < chance) | turned).astype(float)


def skewed(num_videos: int, most: int) -> tuple[int, ...]:
    """Many videos with few questions and few with many."""
    ranks = np.arange(1, num_videos + 1)
    return tuple(int(size) for size in np.maximum(1, np.round(most / ranks**0.5)))


DESIGNS = [
    Design(name="Video-MME, 900 x 3", sizes=(3,) * 900, accuracy=0.53, icc=0.2),
    Design(name="one duration, 300 x 3", sizes=(3,) * 300, accuracy=0.46, icc=0.2),
    Design(name="a --limit, 100 x 3", sizes=(3,) * 100, accuracy=0.53, icc=0.2),
    Design(name="a category, 30 x 3", sizes=(3,) * 30, accuracy=0.53, icc=0.2),
    Design(name="small category, 10 x 3", sizes=(3,) * 10, accuracy=0.53, icc=0.2),
    Design(name="strong ICC, 100 x 10", sizes=(10,) * 100, accuracy=0.6, icc=0.5),
    Design(name="1 to 30 questions, 60 videos", sizes=skewed(60, 30), accuracy=0.6, icc=0.2),
    Design(name="nearly all right, 100 x 3", sizes=(3,) * 100, accuracy=0.95, icc=0.2),
    Design(name="V-NIAH, 26 needles x 25", sizes=(25,) * 26, accuracy=0.8, icc=0.3),
    Design(name="V-NIAH, 5 needles x 90", sizes=(90,) * 5, accuracy=0.8, icc=0.1),
]


def covers(interval: Interval, truth: float) -> bool:
    """Whether the truth lies in it."""
    return interval.low <= truth <= interval.high


def of_mean(design: Design, rng: np.random.Generator) -> tuple[bool, float]:
    """The interval of one score."""
    (scores,) = draw(design, rng)
    found = estimate_mean(list(scores), design.clusters())
    return covers(found.interval, design.accuracy), found.interval.high - found.interval.low


def of_bootstrap(design: Design, rng: np.random.Generator) -> tuple[bool, float]:
    """The same by bootstrap."""
    (scores,) = draw(design, rng)
    found = bootstrap_interval(scores.tolist(), design.clusters(), num_resamples=999)
    return covers(found, design.accuracy), found.high - found.low


def as_if_independent(design: Design, rng: np.random.Generator) -> tuple[bool, float]:
    """Wilson over questions, as if each had a video of its own."""
    (scores,) = draw(design, rng)
    low, high = wilson_interval(int(scores.sum()), len(scores))
    return low <= design.accuracy <= high, high - low


GAIN = 0.04


def of_pairs(design: Design, rng: np.random.Generator) -> tuple[bool, float]:
    """The interval of a difference between two runs."""
    first, second = draw(design, rng, 2, GAIN)
    found = compare_pairs(second.tolist(), first.tolist(), design.clusters())
    truth = GAIN * (1 - design.accuracy)
    return covers(found.interval, truth), found.interval.high - found.interval.low


def of_unpaired(design: Design, rng: np.random.Generator) -> tuple[bool, float]:
    """Two separate standard errors, as tables without pairing are read."""
    first, second = draw(design, rng, 2, GAIN)
    one, two = (estimate_mean(list(s), design.clusters()) for s in (first, second))
    half = 1.96 * math.hypot(one.standard_error, two.standard_error)
    difference = two.mean - one.mean
    truth = GAIN * (1 - design.accuracy)
    return abs(difference - truth) <= half, 2 * half


def of_bands(design: Design, rng: np.random.Generator) -> tuple[bool, float]:
    """Seven points of a curve, held all at once."""
    curves = draw(design, rng, 7, GAIN / 2)
    found = simultaneous_bands(curves.tolist(), design.clusters(), num_draws=4000)
    truths = [design.accuracy + GAIN / 2 * k * (1 - design.accuracy) for k in range(7)]
    held = all(covers(i, t) for i, t in zip(found.intervals, truths, strict=True))
    return held, float(np.mean([i.high - i.low for i in found.intervals]))


def of_cell(number: int) -> Callable[[Design, np.random.Generator], tuple[bool, float]]:
    """Wilson for a cell or column of a needle grid."""

    def measure(_: Design, rng: np.random.Generator) -> tuple[bool, float]:
        # At one share the coverage of any interval of a count jumps with the share; the mean over
        # shares is what can be 95 %.
        share = rng.random()
        low, high = wilson_interval(int(rng.binomial(number, share)), number)
        return low <= share <= high, high - low

    return measure


def repeat(
    measure: Callable[[Design, np.random.Generator], tuple[bool, float]],
    design: Design,
    runs: int,
    seed: Sequence[int],
) -> tuple[float, float]:
    """Share of runs that hold, and mean width, both in percent."""
    rng = np.random.default_rng(list(seed))
    found = [measure(design, rng) for _ in range(runs)]
    return 100 * float(np.mean([held for held, _ in found])), 100 * float(
        np.mean([width for _, width in found])
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.time()
    kinds = [
        ("mean", of_mean, DESIGNS),
        ("difference, paired", of_pairs, DESIGNS),
        ("mean, bootstrap", of_bootstrap, DESIGNS[1:9]),
        ("7 points at once", of_bands, [DESIGNS[k] for k in (1, 2, 3, 4, 6, 8)]),
        ("for contrast: mean, videos ignored", as_if_independent, [DESIGNS[k] for k in (0, 5, 8)]),
        ("for contrast: difference, unpaired", of_unpaired, DESIGNS[:1]),
    ]
    print(f"95 % intervals, {options.runs:,} runs a row, seed {options.seed}")
    print()
    print("| interval | data | holds, % | mean width, points |")
    print("|---|---|---|---|")
    for kind, (name, measure, designs) in enumerate(kinds):
        for place, design in enumerate(designs):
            held, width = repeat(measure, design, options.runs, (options.seed, kind, place))
            print(f"| {name} | {design.name} | {held:.1f} | {width:.1f} |", flush=True)
    for number in (5, 30, 150):
        held, width = repeat(of_cell(number), DESIGNS[0], options.runs, (options.seed, 99, number))
        print(f"| Wilson, any share | {number} needles | {held:.1f} | {width:.1f} |", flush=True)
    print(f"\n{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
