"""Scores with honest uncertainty: one run, two runs, many runs, and needle grids. No torch.

Questions on one video are not independent. Everything here takes a *cluster* for each question (its
video or picture) and lets only clusters count as drawn from a population:

* One score: `estimate_mean`. Standard error by CR2, degrees of freedom by Satterthwaite, and for
  shares a Wilson interval at the effective number of questions.
* Two runs on the same questions: `compare_pairs`, on the differences within questions. Much sharper
  than two separate intervals, since hard questions are hard for both.
* Several comparisons: `holm`. A whole curve: `simultaneous_bands`.
* Cells of a needle grid: `wilson_interval`, `effective_frames`, `compare_grids`.

Sources: "Adding Error Bars to Evals", arXiv:2411.00640 (clusters, section 2.2; pairs, 4.2; power,
5); Bell and McCaffrey, Survey Methodology 28(2), 2002 (CR2 and its degrees of freedom); Imbens and
Kolesar, Review of Economics and Statistics 98(4), 2016 (the same with correlated questions); Korn
and Graubard, Survey Methodology 24(2), 1998 (the effective number of questions); NoLiMa,
arXiv:2502.05167 (effective length). That 95 % intervals hold in 95 % of cases is shown by
`benchmarks/coverage.py`; its table is in docs/statistics.md.

numpy and scipy are imported where they are used: a report that only reads files starts at once.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "FEWEST_CLUSTERS",
    "Bands",
    "EffectiveFrames",
    "Estimate",
    "GridComparison",
    "Interval",
    "PairedComparison",
    "Plateau",
    "bootstrap_interval",
    "clustered_standard_error",
    "compare_grids",
    "compare_pairs",
    "effective_frames",
    "estimate_mean",
    "holm",
    "mcnemar",
    "plateau",
    "simultaneous_bands",
    "wilson_interval",
]

FEWEST_CLUSTERS: Final = 10
"""Below this many clusters an interval leans on what is assumed of the population of clusters, and
reports mark it; docs/statistics.md shows what holds with fewer."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A range with its two ends."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean score with its uncertainty."""

    mean: float
    standard_error: float
    """CR2, clustered; 0.0 if all clusters agree."""
    interval: Interval
    degrees_of_freedom: float
    """Of the t distribution in the interval; number of clusters - 1 if they are of one size."""
    num_questions: int
    num_clusters: int


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """How much better the first of two runs is on the questions that both were asked."""

    difference: float
    """Mean of first minus second."""
    standard_error: float
    interval: Interval
    p_value: float
    """Two-sided, clustered, of no difference."""
    degrees_of_freedom: float
    num_questions: int
    num_clusters: int
    num_only_first: int
    """Questions where the first scores higher."""
    num_only_second: int
    mcnemar_p_value: float
    """Exact test on those two numbers, as if questions were independent."""
    smallest_detectable: float
    """The difference that data like these would have shown (p < 0.05) in 80 of 100 cases."""


@dataclass(frozen=True, kw_only=True)
class Bands:
    """Intervals around the points of a curve that hold all at once."""

    means: tuple[float, ...]
    intervals: tuple[Interval, ...]
    critical_value: float
    """In standard errors; 1.96 would be for a single point."""


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """Where a curve stops rising."""

    place: int
    """Index of the first point that is within the tolerance of the best."""
    low: int
    high: int
    """Indices that hold 95 % of the resampled places between them."""
    shares: tuple[float, ...]
    """How often each point was the place, over resamples of the clusters."""


@dataclass(frozen=True, kw_only=True)
class EffectiveFrames:
    """How long a haystack may be."""

    frames: int | None
    """The longest length up to which every lower bound stays above the threshold; None if the
    shortest does not."""
    threshold: float
    is_at_least: bool
    """True if the longest length of the grid still holds: the limit lies beyond."""


@dataclass(frozen=True, kw_only=True)
class GridComparison:
    """Two needle grids on the places and needles that both have."""

    overall: PairedComparison
    by_frames: Mapping[int, PairedComparison]
    p_values: Mapping[int, float]
    """McNemar's for each length, corrected by Holm for their number."""
    paired_by: str
    """`needle` or `cell`."""


# One run ------------------------------------------------------------------------------------------


def clustered_standard_error(scores: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Standard error of the mean score, with questions grouped by cluster.

    Args:
        scores: A number per question, for example 1.0 for right and 0.0 for wrong.
        clusters: The video, or other group, that each question belongs to.

    Returns:
        sqrt(sum over clusters of (sum of deviations in it)**2) / n: equation 4 of
        arXiv:2411.00640 with n in the denominator of the variance. With one question per cluster
        that is the usual standard error of a mean. `estimate_mean` corrects it for few clusters.

    Raises:
        ValueError: If there is nothing, or the lengths differ.
    """
    _check_lengths(scores, clusters)
    mean = math.fsum(scores) / len(scores)
    sums, _ = _sums(scores, clusters, mean)
    return math.sqrt(math.fsum(total**2 for total in sums)) / len(scores)


def estimate_mean(
    scores: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    is_share: bool = True,
) -> Estimate:
    """Mean score, clustered standard error and interval.

    Args:
        scores: A number per question.
        clusters: The video, or other group, that each question belongs to.
        confidence: Of the interval.
        is_share: Whether scores lie within 0 and 1; then so does the interval, and it is not a
            point where all questions have one score.

    Returns:
        For shares a Wilson interval with the t quantile in place of the normal one, at the number
        of independent questions that would have this standard error, mean * (1 - mean) / SE**2; at
        the number of clusters where the standard error is 0. Otherwise mean +- t * SE.

    Raises:
        ValueError: If there is nothing, the lengths differ, a score is not finite, or a share is
            not within 0 and 1.
    """
    _check_lengths(scores, clusters)
    _check_finite(scores)
    if is_share and not all(0.0 <= score <= 1.0 for score in scores):
        raise ValueError("A score is not within 0 and 1; pass is_share=False.")
    mean = math.fsum(scores) / len(scores)
    error, freedom, num_clusters = _cr2(scores, clusters, mean)
    if num_clusters == 1:
        # One video says nothing about videos.
        interval = Interval(low=0.0, high=1.0) if is_share else _everything()
    else:
        critical = _t_quantile(freedom, confidence)
        if is_share:
            interval = _share_interval(mean, error, num_clusters, critical)
        else:
            interval = Interval(low=mean - critical * error, high=mean + critical * error)
    return Estimate(
        mean=mean,
        standard_error=error,
        interval=interval,
        degrees_of_freedom=freedom,
        num_questions=len(scores),
        num_clusters=num_clusters,
    )


def bootstrap_interval(
    scores: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    num_resamples: int = 4000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean score by drawing clusters again, as a check of `estimate_mean`.

    Percentiles of the resampled means, further out than (1 - confidence) / 2 by as much as the t
    distribution and the G / (G - 1) correction ask for: the plain ones are too narrow for few
    clusters. Source: Hesterberg, arXiv:1411.5279, section 4 ("expanded percentile").

    Returns:
        The interval; the mean itself at both ends if all clusters agree.

    Raises:
        ValueError: As `estimate_mean`.
    """
    import numpy as np

    _check_lengths(scores, clusters)
    _check_finite(scores)
    sums, sizes = _columns([scores], clusters)
    number = len(sizes)
    if number == 1:
        return _everything()
    _, freedom, _ = _cr2(scores, clusters, math.fsum(scores) / len(scores))
    reach = _t_quantile(freedom, confidence) * math.sqrt(number / (number - 1))
    tail = NormalDist().cdf(-reach)
    means = np.concatenate(
        [
            _weighted_means(weights, sums, sizes)
            for weights in _resamples(number, num_resamples, seed)
        ]
    )[:, 0]
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(low=float(low), high=float(high))


def wilson_interval(
    num_right: float, num_asked: float, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Wilson's score interval of a share of independent questions.

    Args:
        num_right: Questions that are right; partial credit may be added up.
        num_asked: All questions.
        confidence: Of the interval.

    Returns:
        (low, high), within [0, 1]. 5 of 5 at 95 % is (0.57, 1.00).

    Raises:
        ValueError: If nothing was asked, or not 0 <= num_right <= num_asked.

    Source: Wilson, Journal of the American Statistical Association 22, 1927.
    """
    if not (num_asked > 0 and 0 <= num_right <= num_asked):
        raise ValueError(f"{num_right} of {num_asked} is no share.")
    interval = _wilson(num_right / num_asked, num_asked, _z_quantile(confidence))
    return interval.low, interval.high


# Two runs -----------------------------------------------------------------------------------------


def compare_pairs(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    power: float = 0.8,
) -> PairedComparison:
    """Compare two runs on the questions both were asked, in the same order.

    Source: arXiv:2411.00640, section 4.2 (paired, clustered differences) and section 5 (power); CR2
    and its degrees of freedom as in `estimate_mean`.

    Args:
        first: Scores of one run.
        second: Scores of the other, question by question.
        clusters: The video, or other group, of each question.
        confidence: Of the interval; 1 - confidence is the level of `smallest_detectable`.
        power: Of `smallest_detectable`.

    Returns:
        The comparison. Where every cluster has the same difference there is no spread to measure:
        the interval then reaches to what that many agreeing clusters rule out, 1 - 0.05**(1/G),
        and p is that of as many equal signs.

    Raises:
        ValueError: If there is nothing, the lengths differ, or a score is not finite.
    """
    _check_lengths(first, clusters)
    _check_lengths(second, clusters)
    _check_finite([*first, *second])
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean = math.fsum(differences) / len(differences)
    error, freedom, num_clusters = _cr2(differences, clusters, mean)
    num_first = sum(difference > 0 for difference in differences)
    num_second = sum(difference < 0 for difference in differences)
    if num_clusters == 1:
        interval, p_value, detectable = _everything(), 1.0, math.inf
    elif error == 0.0:
        ruled_out = 1.0 - (1.0 - confidence) ** (1.0 / num_clusters)
        interval = Interval(low=mean - ruled_out, high=mean + ruled_out)
        p_value = 1.0 if mean == 0 else 2.0 ** (1 - num_clusters)
        detectable = ruled_out
    else:
        critical = _t_quantile(freedom, confidence)
        interval = Interval(low=mean - critical * error, high=mean + critical * error)
        p_value = _t_p_value(mean / error, freedom)
        detectable = (critical + _t_quantile(freedom, 2 * power - 1)) * error
    return PairedComparison(
        difference=mean,
        standard_error=error,
        interval=interval,
        p_value=p_value,
        degrees_of_freedom=freedom,
        num_questions=len(differences),
        num_clusters=num_clusters,
        num_only_first=num_first,
        num_only_second=num_second,
        mcnemar_p_value=mcnemar(num_first, num_second),
        smallest_detectable=detectable,
    )


def mcnemar(num_only_first: int, num_only_second: int) -> float:
    """Exact two-sided p of two runs being equally good, questions taken as independent.

    Args:
        num_only_first: Questions that only the first run got right.
        num_only_second: Questions that only the second got right.

    Returns:
        Twice the smaller binomial tail at 1/2, at most 1.

    Source: McNemar, Psychometrika 12, 1947; the exact form as in statsmodels' `mcnemar`.
    """
    number, fewer = num_only_first + num_only_second, min(num_only_first, num_only_second)
    if number == 0:
        return 1.0
    # In logarithms: 2**-2700 is no float.
    terms = [
        math.lgamma(number + 1) - math.lgamma(k + 1) - math.lgamma(number - k + 1)
        for k in range(fewer + 1)
    ]
    largest = max(terms)
    tail = math.fsum(math.exp(term - largest) for term in terms)
    return min(1.0, 2.0 * math.exp(largest + math.log(tail) - number * math.log(2)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, in the order given.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


# A curve ------------------------------------------------------------------------------------------


def simultaneous_bands(
    curves: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    is_share: bool = True,
    num_draws: int = 20_000,
    seed: int = 0,
) -> Bands:
    """Intervals around all points of a curve that hold together.

    Args:
        curves: For each point (a number of frames), the scores of the same questions in the same
            order.
        clusters: The video, or other group, of each question.
        confidence: That all intervals hold at once.
        is_share: As in `estimate_mean`.
        num_draws: Of the largest deviation.
        seed: Of the draws; the same data and seed give the same bands.

    Returns:
        Means, intervals as in `estimate_mean`, and the critical value that takes the t quantile's
        place in them: the quantile of the largest of the points' deviations, drawn from a
        multivariate t distribution with the correlation that the clusters show between points.

    Raises:
        ValueError: If there is nothing, or the lengths differ.

    Source: Hothorn, Bretz and Westfall, Biometrical Journal 50(3), 2008, section 3; drawn with
    Gaussian multipliers of whole clusters as in Chernozhukov et al., Annals of Statistics 41(6),
    2013. Drawing clusters with replacement instead holds in 97 of 100 cases at 30 clusters.
    """
    if not curves:
        raise ValueError("A curve needs at least one point.")
    for scores in curves:
        _check_lengths(scores, clusters)
        _check_finite(scores)
    means = [math.fsum(scores) / len(scores) for scores in curves]
    found = [_cr2(scores, clusters, mean) for scores, mean in zip(curves, means, strict=True)]
    num_clusters, freedom = found[0][2], min(freedom for _, freedom, _ in found)
    if num_clusters == 1:
        everything = Interval(low=0.0, high=1.0) if is_share else _everything()
        return Bands(
            means=tuple(means),
            intervals=(everything,) * len(means),
            critical_value=math.inf,
        )
    critical = _max_t_quantile(
        curves, clusters, freedom, confidence, num_draws=num_draws, seed=seed
    )
    return Bands(
        means=tuple(means),
        intervals=tuple(
            _share_interval(mean, error, num_clusters, critical)
            if is_share
            else Interval(low=mean - critical * error, high=mean + critical * error)
            for mean, (error, _, _) in zip(means, found, strict=True)
        ),
        critical_value=critical,
    )


def plateau(
    curves: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    *,
    tolerance: float = 0.01,
    num_resamples: int = 4000,
    seed: int = 0,
) -> Plateau:
    """The first point of a curve that is within a tolerance of its best one.

    Args:
        curves: As in `simultaneous_bands`, in the order of the axis.
        clusters: As there.
        tolerance: What counts as not worth more frames; 0.01 is one point of a hundred.
        num_resamples: As there.
        seed: As there.

    Raises:
        ValueError: If there is nothing, or the lengths differ.
    """
    import numpy as np

    if not curves:
        raise ValueError("A curve needs at least one point.")
    for scores in curves:
        _check_lengths(scores, clusters)
        _check_finite(scores)
    sums, sizes = _columns(curves, clusters)

    def first_place(means: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        near = means >= means.max(axis=-1, keepdims=True) - tolerance - 1e-12
        return np.asarray(near.argmax(axis=-1))

    places = np.concatenate(
        [
            first_place(_weighted_means(weights, sums, sizes))
            for weights in _resamples(len(sizes), num_resamples, seed)
        ]
    )
    low, high = np.quantile(places, [0.025, 0.975], method="inverted_cdf")
    counts = np.bincount(places, minlength=len(curves))
    return Plateau(
        place=int(first_place(sums.sum(axis=0) / sizes.sum())),
        low=int(low),
        high=int(high),
        shares=tuple(float(count) / len(places) for count in counts),
    )


# Needle grids -------------------------------------------------------------------------------------


def effective_frames(
    columns: Mapping[int, tuple[float, int]],
    *,
    needle_only: float = 1.0,
    share: float = 0.85,
    confidence: float = 0.95,
) -> EffectiveFrames:
    """The longest haystack in which the needle is surely still found.

    Args:
        columns: For each number of frames, needles found and needles asked, over all depths.
        needle_only: Score on the needles alone, with no haystack: what could be reached.
        share: Of that score which has to be kept.
        confidence: Of the Wilson interval whose lower end is compared.

    Raises:
        ValueError: If there is no column, or one without needles.

    Source: NoLiMa, arXiv:2502.05167 (effective length at 85 % of the base score), here with the
    lower bound in place of the score, so that few needles do not make a long reach.
    """
    if not columns:
        raise ValueError("A grid needs at least one length.")
    threshold = share * needle_only
    reached, holds = None, True
    for frames in sorted(columns):
        found, asked = columns[frames]
        if wilson_interval(found, asked, confidence=confidence)[0] <= threshold:
            holds = False
            break
        reached = frames
    return EffectiveFrames(frames=reached, threshold=threshold, is_at_least=holds)


def compare_grids(
    first: Mapping[tuple[int, float, Hashable], float],
    second: Mapping[tuple[int, float, Hashable], float],
) -> GridComparison:
    """Compare two needle grids where they overlap.

    Args:
        first: Score by number of frames, depth and needle; None as needle where only a cell's mean
            is known, as in published files.
        second: The other grid.

    Returns:
        The comparison over all common places, clustered by needle where needles are known (the
        places of a grid are chosen, the needles are a sample of pictures), else by number of
        frames; and one for each length.

    Raises:
        ValueError: If the grids have no place in common.
    """
    common = sorted(first.keys() & second.keys(), key=lambda key: (key[0], key[1], str(key[2])))
    if not common:
        raise ValueError(
            "The two grids have no place in common: lengths, depths or needles differ."
        )
    by_needle = len({needle for _, _, needle in common}) > 1

    def compare(keys: Sequence[tuple[int, float, Hashable]]) -> PairedComparison:
        clusters: list[Hashable] = [
            key[2] if by_needle else (key[0] if keys is common else key) for key in keys
        ]
        return compare_pairs([first[key] for key in keys], [second[key] for key in keys], clusters)

    by_frames = {
        frames: compare([key for key in common if key[0] == frames])
        for frames in sorted({key[0] for key in common})
    }
    corrected = holm([found.mcnemar_p_value for found in by_frames.values()])
    return GridComparison(
        overall=compare(common),
        by_frames=by_frames,
        p_values=dict(zip(by_frames, corrected, strict=True)),
        paired_by="needle" if by_needle else "cell",
    )


# Parts --------------------------------------------------------------------------------------------


def _check_lengths(scores: Sequence[float], clusters: Sequence[Hashable]) -> None:
    if not scores or len(scores) != len(clusters):
        raise ValueError(f"{len(scores)} scores and {len(clusters)} clusters were given.")


def _check_finite(scores: Sequence[float]) -> None:
    if not all(map(math.isfinite, scores)):
        raise ValueError("A score is NaN or infinite.")


def _sums(
    scores: Sequence[float], clusters: Sequence[Hashable], mean: float
) -> tuple[list[float], list[int]]:
    """Sum of deviations and number of questions of each cluster."""
    sums: dict[Hashable, float] = {}
    sizes: dict[Hashable, int] = {}
    for score, cluster in zip(scores, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + (score - mean)
        sizes[cluster] = sizes.get(cluster, 0) + 1
    return list(sums.values()), list(sizes.values())


def _cr2(
    scores: Sequence[float], clusters: Sequence[Hashable], mean: float
) -> tuple[float, float, int]:
    """CR2 standard error of a mean, its degrees of freedom, and the number of clusters.

    Bell and McCaffrey's general formulas for a regression on nothing but a constant. With n_g of n
    questions in cluster g, u_g the sum of its deviations, the variance is

        sum_g u_g**2 / (1 - n_g / n) / n**2

    For G clusters of one size that is the usual G / (G - 1) correction.
    """
    sums, sizes = _sums(scores, clusters, mean)
    number = len(scores)
    if len(sizes) == 1:
        return 0.0, 0.0, 1
    variance = (
        math.fsum(u * u / (1.0 - n / number) for u, n in zip(sums, sizes, strict=True)) / number**2
    )
    squares = math.fsum((score - mean) ** 2 for score in scores)
    freedom = _degrees_of_freedom(sizes, _icc(sums, sizes, squares))
    error = math.sqrt(variance)
    # Equal scores differ from their mean by rounding.
    return (0.0 if error < 1e-12 else error), freedom, len(sizes)


def _icc(sums: Sequence[float], sizes: Sequence[int], squares: float) -> float:
    """Correlation between questions of a cluster, within 0 and 1, by analysis of variance."""
    number, clusters = sum(sizes), len(sizes)
    if number == clusters:
        return 0.0
    between = math.fsum(u * u / n for u, n in zip(sums, sizes, strict=True))
    mean_between = between / (clusters - 1)
    mean_within = max(0.0, squares - between) / (number - clusters)
    typical = (number - math.fsum(n * n for n in sizes) / number) / (clusters - 1)
    total = mean_between + (typical - 1) * mean_within
    return min(1.0, max(0.0, (mean_between - mean_within) / total)) if total > 0 else 0.0


def _degrees_of_freedom(sizes: Sequence[int], icc: float) -> float:
    """Satterthwaite's for the CR2 variance; number of clusters - 1 if they are of one size.

    (sum of the eigenvalues)**2 / sum of their squares, of the matrix p_g' V p_h where p_g turns the
    scores into what cluster g adds to the standard error and V is their covariance, with `icc`
    between questions of a cluster. Source: Bell and McCaffrey, 2002; with an estimated correlation
    in V: Imbens and Kolesar, Review of Economics and Statistics 98(4), 2016.
    """
    number = sum(sizes)
    shares = [n / number for n in sizes]
    weights = [1.0 / (1.0 - share) for share in shares]
    variances = [n * (1 - icc) + icc * n * n for n in sizes]  # of the sum of a cluster's scores
    total = math.fsum(variances)
    rows = list(zip(weights, shares, variances, strict=True))
    diagonal = [w * (v - 2 * s * v + s * s * total) for w, s, v in rows]
    # Off the diagonal: sqrt(w_g w_h) (s_g s_h total - s_h v_g - s_g v_h), squared and summed.
    a = math.fsum(w * s * s for w, s, _ in rows)
    b = math.fsum(w * v * v for w, _, v in rows)
    c = math.fsum(w * s * v for w, s, v in rows)
    others = 2 * a * b + total**2 * a**2 + 2 * c**2 - 4 * total * a * c
    others -= math.fsum((w * (s * s * total - 2 * s * v)) ** 2 for w, s, v in rows)
    return math.fsum(diagonal) ** 2 / (math.fsum(d * d for d in diagonal) + others)


def _share_interval(mean: float, error: float, num_clusters: int, critical: float) -> Interval:
    effective = mean * (1.0 - mean) / error**2 if error > 0 else float(num_clusters)
    return _wilson(mean, effective, critical)


def _wilson(share: float, number: float, critical: float) -> Interval:
    squared = critical**2 / number
    centre = (share + squared / 2) / (1 + squared)
    half = math.sqrt(squared * (share * (1 - share) + squared / 4)) / (1 + squared)
    low = 0.0 if share == 0.0 else max(0.0, centre - half)
    return Interval(low=low, high=1.0 if share == 1.0 else min(1.0, centre + half))


def _everything() -> Interval:
    return Interval(low=-math.inf, high=math.inf)


def _z_quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _t_quantile(freedom: float, confidence: float) -> float:
    """The value that |t| stays below with this probability."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))


def _max_t_quantile(
    curves: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    freedom: float,
    confidence: float,
    *,
    num_draws: int,
    seed: int,
) -> float:
    """The value that every point's |t| stays below with this probability."""
    import numpy as np

    sums, sizes = _columns(curves, clusters)
    deviations = sums - sums.sum(axis=0) / sizes.sum() * sizes[:, None]
    lengths = np.sqrt((deviations**2).sum(axis=0))
    moves = lengths > 1e-9  # a point that is right everywhere never deviates
    if not moves.any():
        return _t_quantile(freedom, confidence)
    deviations = deviations[:, moves] / lengths[moves]
    # Points are few and clusters many: draw in the space of the points.
    values, vectors = np.linalg.eigh(deviations.T @ deviations)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal((num_draws, root.shape[1])) @ root.T
    scale = np.sqrt(generator.chisquare(freedom, num_draws) / freedom)
    return float(np.quantile(np.abs(normal).max(axis=1) / scale, confidence))


def _t_p_value(ratio: float, freedom: float) -> float:
    from scipy.special import stdtr

    return min(1.0, 2.0 * float(stdtr(freedom, -abs(ratio))))


def _columns(
    curves: Sequence[Sequence[float]], clusters: Sequence[Hashable]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(clusters, points) sums of scores, and (clusters,) numbers of questions."""
    import numpy as np

    place: dict[Hashable, int] = {}
    places = np.array([place.setdefault(cluster, len(place)) for cluster in clusters])
    sums = [np.bincount(places, weights=np.asarray(scores, dtype=float)) for scores in curves]
    return np.stack(sums, axis=1), np.bincount(places).astype(float)


def _weighted_means(
    weights: npt.NDArray[np.float64],
    sums: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """(resamples, points) means when clusters count as often as `weights` says."""
    means: npt.NDArray[np.float64] = weights @ sums / (weights @ sizes[:, None])
    return means


def _resamples(
    num_clusters: int, num_resamples: int, seed: int
) -> Iterator[npt.NDArray[np.float64]]:
    """How often each cluster is drawn, a row for each resample; in blocks of bounded memory."""
    import numpy as np

    generator = np.random.default_rng(seed)
    block = max(1, min(num_resamples, 2_000_000 // num_clusters))
    for start in range(0, num_resamples, block):
        rows = min(block, num_resamples - start)
        drawn = generator.integers(0, num_clusters, size=(rows, num_clusters))
        drawn += np.arange(rows)[:, None] * num_clusters
        counts = np.bincount(drawn.ravel(), minlength=rows * num_clusters)
        yield counts.reshape(rows, num_clusters).astype(float)
