"""How often intervals, tests and claims hold what they should, on drawn data of realistic sizes.

    python benchmarks/coverage.py [TABLE ...] [--runs 2000] [--seed 0]

TABLE is one of `score`, `pairs`, `power`, `curve`, `frames`; without any all are printed. Each
number counts `runs` drawn evaluations with a known truth. Within a video the chance to be right
varies as a beta distribution with the given correlation between questions (ICC); two models, and
the points of a curve, share the video's difficulty. The Monte Carlo error of 2,000 runs is 0.5
points, of a power 0.9.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from longva_eval.stats import (
    FEW,
    compare_pairs,
    effective_frames,
    estimate_mean,
    mcnemar,
    plateau,
    simultaneous_bands,
    stated_design,
)

Array = npt.NDArray[np.float64]

ACCURACIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
ICCS = (0.2, 0.4, 0.6)
GAIN = 0.04
"""Share of the wrong questions that a better model gets right."""


def sizes_of(num_videos: int, size: int) -> list[int]:
    """Questions of each video; 0 stands for 1 to 20, drawn once."""
    if size:
        return [size] * num_videos
    return [int(n) for n in np.random.default_rng(num_videos).integers(1, 21, num_videos)]


def draw(
    sizes: Sequence[int],
    accuracy: float,
    icc: float,
    rng: np.random.Generator,
    gains: Sequence[float] = (0.0,),
) -> list[list[float]]:
    """Right or wrong of several models; each turns its share of wrong questions right.

    Models look at the same chance of a video, and half of the questions' luck is common to them
    too, so that they agree more often than independent ones.
    """
    a, b = accuracy * (1 - icc) / icc, (1 - accuracy) * (1 - icc) / icc
    chance = np.repeat(rng.beta(a, b, size=len(sizes)), sizes)
    common = rng.random(len(chance))
    runs = []
    for gain in gains:
        luck = np.where(rng.random(len(chance)) < 0.5, common, rng.random(len(chance)))
        right = (luck < chance) | (rng.random(len(chance)) < gain)
        runs.append(right.astype(float).tolist())
    return runs


def clusters_of(sizes: Sequence[int]) -> list[int]:
    """The video of each question."""
    return [video for video, size in enumerate(sizes) for _ in range(size)]


def score_table(runs: int, seed: int) -> None:
    """The interval of one score, by size, ICC and accuracy."""
    print("| videos x questions | ICC | " + " | ".join(map(str, ACCURACIES)) + " |")
    print("|---|---|" + "---|" * len(ACCURACIES))
    enough: list[float] = []
    few: list[float] = []
    for size in (3, 10, 0):
        for num_videos in (5, 10, 20, 30, 60, 100, 300):
            sizes = sizes_of(num_videos, size)
            clusters = clusters_of(sizes)
            for icc in ICCS:
                cells = []
                for accuracy in ACCURACIES:
                    rng = np.random.default_rng([seed, num_videos, size, int(1000 * accuracy)])
                    held, counts = 0, []
                    for _ in range(runs):
                        (scores,) = draw(sizes, accuracy, icc, rng)
                        found = estimate_mean(scores, clusters)
                        held += found.interval.low <= accuracy <= found.interval.high
                        counts.append(min(found.num_with_miss, found.num_with_hit))
                    is_few = np.median(counts) < FEW
                    (few if is_few else enough).append(100 * held / runs)
                    cells.append("few" if is_few else f"{100 * held / runs:.1f}")
                name = f"{num_videos} x {size or '1 to 20'}"
                print(f"| {name} | {icc} | " + " | ".join(cells) + " |", flush=True)
    for name, shares in (("At least", enough), ("Fewer than", few)):
        print(
            f"{name} {FEW} videos hold a miss and a hit, in the middle draw: {min(shares):.1f} to "
            f"{max(shares):.1f} % ({len(shares)} cells)."
        )


DESIGNS = (
    ("15 x 3", [3] * 15, 0.6, 0.3),
    ("30 x 3", [3] * 30, 0.53, 0.2),
    ("100 x 3", [3] * 100, 0.53, 0.2),
    ("300 x 3", [3] * 300, 0.46, 0.2),
    ("900 x 3", [3] * 900, 0.53, 0.2),
    ("100 x 10", [10] * 100, 0.6, 0.5),
    ("100 x 3, nearly all right", [3] * 100, 0.95, 0.2),
    ("60 x 1 to 20", sizes_of(60, 0), 0.6, 0.4),
)


def pairs_table(runs: int, seed: int) -> None:
    """Two runs on the same questions."""
    print(
        "| data | interval holds, % | width, points | equal runs called different, % "
        "| by McNemar, % | shown at the MDE, % | two separate errors: width |"
    )
    print("|---|---|---|---|---|---|---|")
    for place, (name, sizes, accuracy, icc) in enumerate(DESIGNS):
        rng = np.random.default_rng([seed, 1, place])
        clusters = clusters_of(sizes)
        rows = []
        for _ in range(runs):
            better, worse = draw(sizes, accuracy, icc, rng, (GAIN, 0.0))
            found = compare_pairs(better, worse, clusters)
            holds = found.interval.low <= GAIN * (1 - accuracy) <= found.interval.high
            errors = [estimate_mean(s, clusters).standard_error for s in (better, worse)]
            first, second = draw(sizes, accuracy, icc, rng, (0.0, 0.0))
            equal = compare_pairs(first, second, clusters)
            exact = mcnemar(equal.num_only_first, equal.num_only_second)
            gain = min(1.0, equal.smallest_detectable / (1 - accuracy))
            first, second = draw(sizes, accuracy, icc, rng, (gain, 0.0))
            shown = compare_pairs(first, second, clusters)
            rows.append(
                (
                    holds,
                    found.interval.high - found.interval.low,
                    equal.p_value < 0.05,
                    exact < 0.05,
                    shown.p_value < 0.05,
                    2 * 1.96 * math.hypot(*errors),
                )
            )
        means = 100 * np.mean(np.array(rows, dtype=float), axis=0)
        print(f"| {name} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |", flush=True)


def power_table(runs: int, seed: int) -> None:
    """How often the smallest difference is shown that a design promises to show in 80 of 100."""
    print("| videos x questions | " + " | ".join(f"score {s}" for s in (0.5, 0.6, 0.7)) + " |")
    print("|---|---|---|---|")
    for size in (3, 10):
        for num_videos in (15, 30, 60, 100, 300):
            clusters = clusters_of([size] * num_videos)
            cells = []
            for score in (0.5, 0.6, 0.7):
                rng = np.random.default_rng([seed, 4, num_videos, size, int(10 * score)])
                # Of `draw`: luck is common to both models for a quarter of the questions.
                apart = 1.5 * score * (1 - score) * (1 - 0.3)
                design = stated_design(score=score, disagreement=apart, icc=0.3, sizes=[size])
                points = design.smallest_detectable(num_videos)
                shown = 0
                for _ in range(runs):
                    better, worse = draw(
                        [size] * num_videos, score, 0.3, rng, (points / (1 - score), 0.0)
                    )
                    shown += compare_pairs(better, worse, clusters).p_value < 0.05
                cells.append(f"{100 * shown / runs:.1f} ({100 * points:.1f} points)")
            print(f"| {num_videos} x {size} | " + " | ".join(cells) + " |", flush=True)


def curve_table(runs: int, seed: int) -> None:
    """Seven points of a curve."""
    print(
        "| data | bands hold at once, % | width, points | a flat curve is called rising, % "
        "| a rise is called flat before its end, % |"
    )
    print("|---|---|---|---|---|")
    for place, (name, sizes, accuracy, icc) in enumerate(DESIGNS[1:4] + DESIGNS[5:]):
        rng = np.random.default_rng([seed, 2, place])
        clusters = clusters_of(sizes)
        gains = [GAIN / 2 * k for k in range(7)]
        truths = [accuracy + gain * (1 - accuracy) for gain in gains]
        rows = []
        for _ in range(max(1, runs // 4)):
            curves = draw(sizes, accuracy, icc, rng, gains)
            bands = simultaneous_bands(curves, clusters, num_draws=4000).intervals
            pairs = list(zip(bands, truths, strict=True))
            flat = plateau(draw(sizes, accuracy, icc, rng, [0.0] * 7), clusters, num_draws=4000)
            rising = plateau(
                draw(sizes, accuracy, icc, rng, [0.0, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3]),
                clusters,
                num_draws=4000,
            )
            rows.append(
                (
                    all(band.low <= truth <= band.high for band, truth in pairs),
                    np.mean([band.high - band.low for band in bands]),
                    flat.place > 0,
                    rising.flat_from is not None and rising.flat_from < 3,
                )
            )
        means = 100 * np.mean(np.array(rows, dtype=float), axis=0)
        print(f"| {name} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |", flush=True)


def frames_table(runs: int, seed: int) -> None:
    """How often a needle length is claimed whose true score is the threshold, 85 %, or is 100 %."""
    print("| needles x depths | " + " | ".join(f"ICC {icc}" for icc in (0.1, 0.3, 0.6)) + " |")
    print("|---|---|---|---|")
    for needles in (5, 10, 26, 60):
        for depths in (5, 6):
            cells = []
            for icc in (0.1, 0.3, 0.6):
                rng = np.random.default_rng([seed, 3, needles, depths, int(10 * icc)])
                claimed = 0
                for _ in range(runs):
                    (scores,) = draw([depths] * needles, 0.85, icc, rng)
                    answers = list(zip(clusters_of([depths] * needles), scores, strict=True))
                    found = effective_frames({200: answers})
                    claimed += found.frames is not None
                cells.append(f"{100 * claimed / runs:.1f}")
            told = "" if found.can_be_told else " (too few to tell)"
            print(f"| {needles} x {depths}{told} | " + " | ".join(cells) + " |", flush=True)


TABLES: dict[str, Callable[[int, int], None]] = {
    "score": score_table,
    "pairs": pairs_table,
    "power": power_table,
    "curve": curve_table,
    "frames": frames_table,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], default=[], metavar="TABLE")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.tables or TABLES:
        began = time.time()
        print(f"{TABLES[name].__doc__} {options.runs:,} runs a number, seed {options.seed}.\n")
        TABLES[name](options.runs, options.seed)
        print(f"\n{time.time() - began:.0f} s\n")


if __name__ == "__main__":
    main()
