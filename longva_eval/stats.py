"""Scores with honest uncertainty: one run, two runs, many runs, and needle grids. No torch.

Questions on one video are not independent. Everything here takes a *cluster* for each question (its
video or picture; in a needle grid the needle) and lets only clusters count as drawn from a
population:

* One score: `estimate_mean`. Standard error by CR2; for shares a Wilson interval at the effective
  number of questions, which widens where few clusters hold a miss or a hit (`Estimate.is_few`).
* Two runs on the same questions: `compare_pairs`, on the differences within questions. Much sharper
  than two separate intervals, since hard questions are hard for both. What it can show:
  `PairedDesign`.
* Several comparisons: `holm`. A whole curve: `simultaneous_bands`, `plateau`.
* Cells of a needle grid: `wilson_interval`, `effective_frames`. Repeated questions: `pass_at_k`.

Sources: "Adding Error Bars to Evals", arXiv:2411.00640 (clusters, section 2.2; pairs, 4.2; power,
5); Bell and McCaffrey, Survey Methodology 28(2), 2002 (CR2 and its degrees of freedom); Imbens and
Kolesar, Review of Economics and Statistics 98(4), 2016 (the same with correlated questions); Korn
and Graubard, Survey Methodology 24(2), 1998 (the effective number of questions); NoLiMa,
arXiv:2502.05167 (effective length). How often the intervals hold is shown by
`benchmarks/coverage.py`; its tables are in docs/statistics.md.

numpy and scipy are imported where they are used: a report that only reads files starts at once.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

__all__ = [
    "FEW",
    "Bands",
    "EffectiveFrames",
    "Estimate",
    "Interval",
    "PairedComparison",
    "PairedDesign",
    "Plateau",
    "clustered_standard_error",
    "compare_pairs",
    "correlation",
    "effective_frames",
    "estimate_mean",
    "holm",
    "mcnemar",
    "pass_at_k",
    "pilot_design",
    "plateau",
    "simultaneous_bands",
    "stated_design",
    "wilson_interval",
]

FEW: Final = 20
"""With fewer clusters that hold a miss, or a hit, no formula gives a narrow interval that holds in
95 of 100 cases: reports say "few", and the interval leans on the worst case
(docs/statistics.md)."""
_CONFIDENCE: Final = 0.95


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
    """Bell and McCaffrey's; number of clusters - 1 if they are of one size."""
    num_questions: int
    num_clusters: int
    num_with_miss: int
    """Clusters with a score below 1; all clusters if scores are no shares."""
    num_with_hit: int
    """Clusters with a score above 0; all clusters if scores are no shares."""

    @property
    def is_few(self) -> bool:
        """Whether too few clusters hold a miss, or a hit, for a narrow interval to be trusted."""
        return min(self.num_with_miss, self.num_with_hit) < FEW


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
    smallest_detectable: float
    """The true difference that data like these show (p below the level) in 80 of 100 cases;
    infinite if none does."""


@dataclass(frozen=True, kw_only=True)
class Bands:
    """Intervals around the points of a curve that hold all at once."""

    means: tuple[float, ...]
    intervals: tuple[Interval, ...]
    critical_value: float
    """In standard errors; 1.96 would be for a single point."""


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """Where a curve stops rising; both ends hold at once with the confidence asked for."""

    place: int
    """Index of the first point that no later point is surely above: it rises up to here."""
    flat_from: int | None
    """Index of the first point that every later one is surely above by at most the tolerance; None
    if a further rise can nowhere be excluded before the last point."""


@dataclass(frozen=True, kw_only=True)
class EffectiveFrames:
    """How long a haystack may be."""

    frames: int | None
    """The longest length up to which every lower bound stays above the threshold; None if the
    shortest does not, or if it cannot be told."""
    threshold: float
    is_at_least: bool
    """True if the longest length of the grid still holds: the limit lies beyond."""
    num_needles: int
    """At the length with the fewest."""
    can_be_told: bool
    """False if so few needles, all found everywhere, would not pass either."""
    shortest: int
    """Length of the grid."""

    def __str__(self) -> str:
        """`1,200`, `≥ 3,000`, `< 200` or `too few needles to tell`."""
        if not self.can_be_told:
            return "too few needles to tell"
        if self.frames is None:
            return f"< {self.shortest:,}"
        return f"{'≥ ' if self.is_at_least else ''}{self.frames:,}"


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
    _check(clusters, scores, finite=False)
    sums = _Spread(scores, clusters).sums
    return math.sqrt(float((sums**2).sum())) / len(scores)


def estimate_mean(
    scores: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    is_share: bool = True,
) -> Estimate:
    """Mean score, clustered standard error and interval.

    Args:
        scores: A number per question.
        clusters: The video, or other group, that each question belongs to.
        groups: The category of each question, where the score is the mean over categories (MLVU's
            M-Avg) instead of the mean over questions.
        confidence: Of the interval.
        is_share: Whether scores lie within 0 and 1; then so does the interval, and it is not a
            point where all questions have one score.

    Returns:
        For shares a Wilson interval at the number of independent questions that would have this
        standard error, mean * (1 - mean) / SE**2, and at most as many as if no two questions were
        alike (all of them; more where partial credit or repeated answers make scores vary less),
        with a t quantile in place of the normal one; the fewer than `FEW` clusters hold a miss, or
        a hit, the nearer it comes to the exact interval of as many independent questions as there
        are clusters. Otherwise mean +- t * SE.

    Raises:
        ValueError: If there is nothing, the lengths differ, a score is not finite, or a share is
            not within 0 and 1.
    """
    _check(clusters, scores)
    _check(clusters if groups is None else groups, scores)
    if is_share and not all(0.0 <= score <= 1.0 for score in scores):
        raise ValueError("A score is not within 0 and 1; pass is_share=False.")
    spread = _Spread(scores, clusters, groups)
    if spread.num_clusters == 1:
        # One video says nothing about videos.
        interval = Interval(low=0.0, high=1.0) if is_share else _everything()
    elif is_share:
        critical = _t_quantile(spread.share_freedom(), confidence)
        interval = _share_interval(spread, critical, 1.0 - confidence)
    else:
        critical = _t_quantile(spread.freedom, confidence)
        interval = _symmetric(spread.mean, critical * spread.error)
    return Estimate(
        mean=spread.mean,
        standard_error=spread.error,
        interval=interval,
        degrees_of_freedom=spread.freedom,
        num_questions=len(scores),
        num_clusters=spread.num_clusters,
        num_with_miss=spread.num_with_miss if is_share else spread.num_clusters,
        num_with_hit=spread.num_with_hit if is_share else spread.num_clusters,
    )


def wilson_interval(num_right: float, num_asked: float) -> tuple[float, float]:
    """Wilson's score interval of a share of independent questions, at 95 %.

    Args:
        num_right: Questions that are right; partial credit may be added up.
        num_asked: All questions.

    Returns:
        (low, high), within [0, 1]. 5 of 5 is (0.57, 1.00).

    Raises:
        ValueError: If nothing was asked, or not 0 <= num_right <= num_asked.

    Source: Wilson, Journal of the American Statistical Association 22, 1927.
    """
    if not (num_asked > 0 and 0 <= num_right <= num_asked):
        raise ValueError(f"{num_right} of {num_asked} is no share.")
    critical = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    interval = _wilson(num_right / num_asked, num_asked, critical)
    return interval.low, interval.high


# Two runs -----------------------------------------------------------------------------------------


def compare_pairs(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.05,
) -> PairedComparison:
    """Compare two runs on the questions both were asked, in the same order.

    Source: arXiv:2411.00640, section 4.2 (paired, clustered differences) and section 5 (power); CR2
    and its degrees of freedom as in `estimate_mean`.

    Args:
        first: Scores of one run.
        second: Scores of the other, question by question.
        clusters: The video, or other group, of each question.
        level: Of `smallest_detectable`: p below it counts as shown. Where several comparisons are
            corrected, 0.05 divided by their number.

    Returns:
        The comparison. Where every cluster has the same difference there is no spread to measure:
        the interval then reaches to what that many agreeing clusters rule out, 1 - 0.05**(1/G),
        and p is that of as many equal signs.

    Raises:
        ValueError: If there is nothing, the lengths differ, or a score is not finite.
    """
    _check(clusters, first, second)
    differences = [a - b for a, b in zip(first, second, strict=True)]
    spread = _Spread(differences, clusters)
    mean, error, freedom = spread.mean, spread.error, spread.freedom
    if spread.num_clusters == 1:
        interval, p_value, detectable = _everything(), 1.0, math.inf
    elif error == 0.0:
        ruled_out = _ruled_out(spread)
        interval = _symmetric(mean, ruled_out)
        p_value = 1.0 if mean == 0 else 2.0 ** (1 - spread.num_clusters)
        detectable = ruled_out
    else:
        interval = _symmetric(mean, _t_quantile(freedom, _CONFIDENCE) * error)
        p_value = _t_p_value(mean / error, freedom)
        detectable = _design_of(first, second, clusters, spread).smallest_detectable(
            spread.num_clusters, level=level
        )
    return PairedComparison(
        difference=mean,
        standard_error=error,
        interval=interval,
        p_value=p_value,
        degrees_of_freedom=freedom,
        num_questions=len(differences),
        num_clusters=spread.num_clusters,
        num_only_first=sum(difference > 0 for difference in differences),
        num_only_second=sum(difference < 0 for difference in differences),
        smallest_detectable=detectable,
    )


@dataclass(frozen=True, kw_only=True)
class PairedDesign:
    """What the power of `compare_pairs` depends on, besides the number of videos.

    Moments are those of a mean over one video, of pairs with a true difference of `measured`. A
    larger difference comes with a larger standard error: the better run gets more questions right,
    more of them in videos where it has more to gain. It is expressed as the share of that run's
    missing points that it gains. Made by `stated_design` and `pilot_design`.
    """

    score: float | None
    """Of the better run, from 0 to 1; None if scores are no shares: these are taken to move
    together, which leaves the standard error as it is."""
    measured: float
    """The difference in these moments, 0 or more."""
    variance: float
    """Of the difference."""
    covariance: float
    """Of the difference with the better run's missing points."""
    missing_variance: float
    """Of the better run's missing points."""
    questions_per_video: float
    freedom_per_video: float
    """Degrees of freedom of the test plus 1, per video; 1 if videos have equally many questions."""
    pilot_freedom: float
    """Degrees of freedom of the pilot that `variance` comes from; infinite if it is stated."""

    def power(self, difference: float, num_videos: int, *, level: float = 0.05) -> float:
        """The share of cases in which a true difference is shown (p below the level).

        Args:
            difference: 0 or more, on the scale of the scores.
            num_videos: At least 2.
            level: Of the test.

        Raises:
            ValueError: If a run with this score cannot gain that much, or there is one video.

        Source: the noncentral t distribution; the standard error of a pilot is itself uncertain,
        as in Johnson and Welch, Biometrika 31, 1940.
        """
        if num_videos < 2:
            raise ValueError("One video says nothing about videos.")
        if not 0.0 <= difference <= self.largest + 1e-12:
            raise ValueError(
                f"A difference of {100 * difference:g} points is not within 0 and "
                f"{100 * self.largest:g}: more cannot be gained from this score."
            )
        variance = self._variance_at(difference) / num_videos
        if variance <= 0.0:
            return float(difference > 0)
        ratio = difference / math.sqrt(variance)
        freedom = max(1.0, self.freedom_per_video * num_videos - 1.0)
        from scipy.special import nctdtr, ndtri, stdtr

        shown = 1.0 - float(nctdtr(freedom, ratio, _t_quantile(freedom, 1.0 - level)))
        pilot = self.pilot_freedom
        if math.isinf(pilot) or not 0.0 < shown < 1.0:
            return shown
        return float(stdtr(pilot, ndtri(shown) / math.sqrt(1.0 + ratio**2 / (2 * pilot))))

    def smallest_detectable(
        self, num_videos: int, *, power: float = 0.8, level: float = 0.05
    ) -> float:
        """The true difference that is shown with this power; infinite if none is."""
        low, high = 0.0, min(self.largest, 1.0)
        while math.isinf(self.largest) and self.power(high, num_videos, level=level) < power:
            low, high = high, 2 * high
        if self.power(high, num_videos, level=level) < power:
            return math.inf
        for _ in range(25):
            middle = (low + high) / 2
            is_shown = self.power(middle, num_videos, level=level) >= power
            low, high = (low, middle) if is_shown else (middle, high)
        return high

    def videos_needed(self, difference: float, *, power: float = 0.8, level: float = 0.05) -> int:
        """The fewest videos that show a true difference above 0 with this power.

        Raises:
            ValueError: If the difference is 0, or more than a run with this score can gain.
        """
        if difference <= 0:
            raise ValueError("A difference of 0 is never shown.")
        enough = 2
        while self.power(difference, enough, level=level) < power:
            enough *= 2

        def power_at(num_videos: int) -> float:
            return self.power(difference, num_videos, level=level)

        return bisect.bisect_left(range(enough), power, lo=max(2, enough // 2), key=power_at)

    @property
    def largest(self) -> float:
        """The largest difference there can be."""
        return math.inf if self.score is None else self.measured + 1.0 - self.score

    def _variance_at(self, difference: float) -> float:
        """Of a true difference, of a mean over one video."""
        missing = 0.0 if self.score is None else 1.0 - self.score
        if missing <= 0.0 or difference <= self.measured:
            return self.variance
        a = min(1.0, (difference - self.measured) / missing)
        gained = a * (1 - a) * missing / self.questions_per_video
        return self.variance + 2 * a * self.covariance + a * a * self.missing_variance + gained


def stated_design(
    *,
    score: float,
    disagreement: float,
    icc: float,
    difference_icc: float = 0.0,
    sizes: Sequence[int] = (1,),
) -> PairedDesign:
    """The design of two equally good runs, before anything is run.

    Args:
        score: Of both, from 0 to 1.
        disagreement: Share of questions that only one of them gets right.
        icc: Correlation between the scores of two questions on one video, from 0 to 1.
        difference_icc: The same of their differences. 0 if runs find the same videos hard and
            part ways question by question; more if one of them understands whole videos better.
        sizes: Questions of every video, or of one if all have as many.

    Raises:
        ValueError: For a share outside of its range; two runs with the same score can disagree on
            at most twice what the score, or its lack, leaves.
    """
    most = 2 * min(score, 1.0 - score)
    for name, value, limit in (
        ("score", score, 1.0),
        ("disagreement", disagreement, most),
        ("icc", icc, 1.0),
        ("difference_icc", difference_icc, 1.0),
    ):
        if not 0.0 <= value <= limit + 1e-12:
            why = ": equal runs share what is right at this score" if name == "disagreement" else ""
            raise ValueError(f"{name} = {value:g} is not within 0 and {limit:g}{why}.")
    import numpy as np

    number = np.asarray(sizes, dtype=float)
    mean = float(number.mean())
    alike = float((number**2).mean()) / mean - 1.0  # further questions on a question's video
    variance = disagreement * (1.0 + alike * difference_icc) / mean
    freedom = _degrees_of_freedom(number, difference_icc) + 1.0 if len(number) > 1 else 1.0
    return PairedDesign(
        score=score,
        measured=0.0,
        variance=variance,
        covariance=-variance / 2,  # where the one run is right alone it has less to gain
        missing_variance=score * (1.0 - score) * (1.0 + alike * icc) / mean,
        questions_per_video=mean,
        freedom_per_video=freedom / len(number),
        pilot_freedom=math.inf,
    )


def pilot_design(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable]
) -> PairedDesign:
    """The design of two runs on the same questions, from their scores.

    Args:
        first: Scores of one run.
        second: Scores of the other, question by question.
        clusters: The video, or other group, of each question.

    Raises:
        ValueError: If there is nothing, the lengths differ, a score is not finite, all is of one
            video, or the runs differ by the same on every video.
    """
    _check(clusters, first, second)
    spread = _Spread([a - b for a, b in zip(first, second, strict=True)], clusters)
    if spread.num_clusters < 2:
        raise ValueError("One video says nothing about videos.")
    if spread.error == 0.0:
        raise ValueError("The two runs differ by the same on every video: no spread to measure.")
    return _design_of(first, second, clusters, spread)


def _design_of(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable],
    spread: _Spread,
) -> PairedDesign:
    videos = spread.num_clusters
    better, sign = (first, 1.0) if spread.mean >= 0 else (second, -1.0)
    score, covariance, squares = None, 0.0, 0.0
    if all(0.0 <= each <= 1.0 for each in (*first, *second)):
        missing = _Spread([1.0 - each for each in better], clusters)
        weighted = missing.sums / (1.0 - missing.sizes / missing.number) / missing.number**2
        covariance, squares = sign * float(weighted @ spread.sums), float(weighted @ missing.sums)
        score = 1.0 - missing.mean
    return PairedDesign(
        score=score,
        measured=abs(spread.mean),
        variance=videos * spread.error**2,
        covariance=videos * covariance,
        missing_variance=videos * squares,
        questions_per_video=spread.number / videos,
        freedom_per_video=(spread.freedom + 1.0) / videos,
        pilot_freedom=spread.freedom,
    )


def correlation(scores: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Correlation between the scores of two questions on one video (ICC), from 0 to 1.

    By analysis of variance; 0 where every video has one question, or there is one video.
    """
    _check(clusters, scores)
    spread = _Spread(scores, clusters)
    squares = math.fsum((score - spread.mean) ** 2 for score in scores)
    return _icc(spread.sums, spread.sizes, squares) if spread.num_clusters > 1 else 0.0


def mcnemar(num_only_first: int, num_only_second: int) -> float:
    """Exact two-sided p of two runs being equally good, questions taken as independent.

    Questions on one video are not, so that 12 to 78 of 100 comparisons of equal runs come out
    "significant" at 0.05: for papers that print it.

    Args:
        num_only_first: Questions that only the first run got right.
        num_only_second: Questions that only the second got right.

    Source: McNemar, Psychometrika 12, 1947; the exact form.
    """
    from scipy.stats import binomtest

    number = num_only_first + num_only_second
    return float(binomtest(num_only_first, number).pvalue) if number else 1.0


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


def pass_at_k(num_right: int, num_tries: int, k: int) -> float:
    """Chance that at least one of k answers is right, from more answers to the same question.

    Raises:
        ValueError: If there are fewer answers than k.

    Source: arXiv:2107.03374, equation 1.
    """
    if not (0 <= num_right <= num_tries and 1 <= k <= num_tries):
        raise ValueError(f"pass@{k} cannot be told from {num_right} of {num_tries} answers.")
    return 1.0 - math.comb(num_tries - num_right, k) / math.comb(num_tries, k)


# A curve ------------------------------------------------------------------------------------------


def simultaneous_bands(
    curves: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    *,
    num_draws: int = 20_000,
) -> Bands:
    """Intervals around all points of a curve of shares that hold together, at 95 %.

    Args:
        curves: For each point (a number of frames), the scores of the same questions in the same
            order.
        clusters: The video, or other group, of each question.
        num_draws: Of the largest deviation; the same data give the same bands.

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
    spreads = _spreads(curves, clusters)
    means = tuple(spread.mean for spread in spreads)
    if spreads[0].num_clusters == 1:
        everything = Interval(low=0.0, high=1.0)
        return Bands(means=means, intervals=(everything,) * len(means), critical_value=math.inf)
    freedom = min(spread.freedom for spread in spreads)
    critical = _max_t_quantile(spreads, freedom, num_draws)
    left_out = _t_p_value(critical, freedom)
    return Bands(
        means=means,
        intervals=tuple(_share_interval(spread, critical, left_out) for spread in spreads),
        critical_value=critical,
    )


def plateau(
    curves: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    *,
    tolerance: float = 0.01,
    num_draws: int = 20_000,
) -> Plateau:
    """Where a curve stops rising, as far as the data show it.

    Every point is compared with every later one on the same questions, all at once as in
    `simultaneous_bands`. A flat curve is called rising in at most 5 % of cases, however many points
    it has.

    Args:
        curves: As in `simultaneous_bands`, in the order of the axis.
        clusters: As there.
        tolerance: A rise that is not worth more frames; 0.01 is one point of a hundred.
        num_draws: As there.

    Raises:
        ValueError: If there is nothing, or the lengths differ.
    """
    _spreads(curves, clusters)
    last = len(curves) - 1
    pairs = [(here, later) for here in range(last) for later in range(here + 1, last + 1)]
    rises = [
        _Spread([b - a for a, b in zip(curves[here], curves[later], strict=True)], clusters)
        for here, later in pairs
    ]
    if not rises or rises[0].num_clusters == 1:
        return Plateau(place=0, flat_from=None)
    freedom = min(rise.freedom for rise in rises)
    critical = _max_t_quantile(rises, freedom, num_draws)
    rising, unsure = {-1}, {-1}
    for (here, _), rise in zip(pairs, rises, strict=True):
        reach = critical * rise.error if rise.error else _ruled_out(rise)
        if rise.mean - reach > 1e-12:
            rising.add(here)
        if rise.mean + reach > tolerance + 1e-12:
            unsure.add(here)
    place, flat = max(rising) + 1, max(unsure) + 1
    return Plateau(place=place, flat_from=None if flat == last else flat)


# Needle grids -------------------------------------------------------------------------------------


def effective_frames(
    answers: Mapping[int, Sequence[tuple[Hashable, float]]],
    *,
    needle_only: float = 1.0,
) -> EffectiveFrames:
    """The longest haystack in which needles are surely still found.

    The needle pictures are the sample: one needle at six depths is not six draws. So the lower
    bound is that of `estimate_mean` with needles as clusters.

    Args:
        answers: For each number of frames, the needle and the score of every answer, at all depths.
        needle_only: Score on the needles alone, with no haystack: what could be reached, and 85 %
            of which has to be kept.

    Raises:
        ValueError: If there is no length, or one without needles.

    Source: NoLiMa, arXiv:2502.05167 (effective length at 85 % of the base score), here with the
    lower bound in place of the score, so that few needles do not make a long reach.
    """
    if not answers:
        raise ValueError("A grid needs at least one length.")
    threshold = 0.85 * needle_only
    both_sides = 2 * _CONFIDENCE - 1
    reached, holds = None, True
    for frames in sorted(answers):
        needles = [needle for needle, _ in answers[frames]]
        scores = [score for _, score in answers[frames]]
        if estimate_mean(scores, needles, confidence=both_sides).interval.low <= threshold:
            holds = False
            break
        reached = frames
    num_needles = min(len({needle for needle, _ in group}) for group in answers.values())
    all_found = estimate_mean([1.0] * num_needles, range(num_needles), confidence=both_sides)
    return EffectiveFrames(
        frames=reached,
        threshold=threshold,
        is_at_least=holds,
        num_needles=num_needles,
        can_be_told=all_found.interval.low > threshold,
        shortest=min(answers),
    )


# Parts --------------------------------------------------------------------------------------------


class _Spread:
    """A mean and how it varies between clusters: CR2 and its degrees of freedom.

    Bell and McCaffrey's general formulas for a regression on nothing but a constant. With n_g of n
    questions in cluster g, u_g the sum of its deviations, the variance is

        sum_g u_g**2 / (1 - n_g / n) / n**2

    For G clusters of one size that is the usual G / (G - 1) correction.
    """

    def __init__(
        self,
        scores: Sequence[float],
        clusters: Sequence[Hashable],
        groups: Sequence[Hashable] | None = None,
    ) -> None:
        import numpy as np

        values = np.asarray(scores, dtype=float)
        cluster, group = _numbered(clusters), _numbered(groups or [None] * len(scores))
        members = np.bincount(group)
        means = np.bincount(group, values) / members
        self.number = len(scores)
        self.mean = float(means.mean())
        # In a mean over groups a question counts as much as its group is smaller than the average.
        deviations = (values - means[group]) * (self.number / len(means) / members)[group]
        self.sums: Array = np.bincount(cluster, deviations).astype(float)
        self.sizes: Array = np.bincount(cluster).astype(float)
        self.num_clusters = len(self.sizes)
        totals = np.bincount(cluster, values)
        self.num_with_hit = int((totals > 0).sum())
        self.num_with_miss = int((totals < self.sizes).sum())
        self.squares = float((deviations**2).sum())
        self.error, self.freedom = 0.0, 0.0
        if self.num_clusters > 1:
            error = math.sqrt(self._variances().sum())
            # Equal scores differ from their mean by rounding.
            self.error = 0.0 if error < 1e-12 else error
            icc = _icc(self.sums, self.sizes, self.squares)
            self.freedom = _degrees_of_freedom(self.sizes, icc)

    def share_freedom(self) -> float:
        """Degrees of freedom for the interval of a share.

        Bell and McCaffrey take deviations for normal. Where few clusters hold the misses they have
        heavy tails, where sizes differ and most clusters hold both they have light ones: the spread
        of the squares themselves says how many independent ones there are. The smaller of that and
        its geometric mean with Bell and McCaffrey's holds best (docs/statistics.md).
        """
        parts = self._variances()
        total = float(parts.sum())
        excess = float((parts**2).sum()) - total**2 / len(parts)
        counted = 2 * total**2 / excess if excess > 0 else math.inf
        counted = min(max(1.0, counted), self.num_clusters - 1.0)
        return min(counted, math.sqrt(counted * self.freedom))

    def _variances(self) -> Array:
        """What each cluster adds to the squared standard error."""
        variances: Array = self.sums**2 / (1.0 - self.sizes / self.number) / self.number**2
        return variances


def _numbered(names: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    """0 for the first name and all equal to it, 1 for the next one, and so on."""
    import numpy as np

    place: dict[Hashable, int] = {}
    return np.array([place.setdefault(name, len(place)) for name in names])


def _spreads(curves: Sequence[Sequence[float]], clusters: Sequence[Hashable]) -> list[_Spread]:
    if not curves:
        raise ValueError("A curve needs at least one point.")
    _check(clusters, *curves)
    return [_Spread(scores, clusters) for scores in curves]


def _check(clusters: Sequence[Hashable], *curves: Sequence[float], finite: bool = True) -> None:
    for scores in curves:
        if not scores or len(scores) != len(clusters):
            raise ValueError(f"{len(scores)} scores and {len(clusters)} clusters were given.")
        if finite and not all(map(math.isfinite, scores)):
            raise ValueError("A score is NaN or infinite.")


def _icc(sums: Array, sizes: Array, squares: float) -> float:
    """Correlation between questions of a cluster, within 0 and 1, by analysis of variance."""
    number, clusters = float(sizes.sum()), len(sizes)
    if number == clusters:
        return 0.0
    between = float((sums**2 / sizes).sum())
    mean_between = between / (clusters - 1)
    mean_within = max(0.0, squares - between) / (number - clusters)
    typical = (number - float((sizes**2).sum()) / number) / (clusters - 1)
    total = mean_between + (typical - 1) * mean_within
    return min(1.0, max(0.0, (mean_between - mean_within) / total)) if total > 0 else 0.0


def _degrees_of_freedom(sizes: Array, icc: float) -> float:
    """Satterthwaite's for the CR2 variance; number of clusters - 1 if they are of one size.

    (sum of the eigenvalues)**2 / sum of their squares, of the matrix p_g' V p_h where p_g turns the
    scores into what cluster g adds to the standard error and V is their covariance, with `icc`
    between questions of a cluster. Source: Bell and McCaffrey, 2002; with an estimated correlation
    in V: Imbens and Kolesar, Review of Economics and Statistics 98(4), 2016.
    """
    share = sizes / sizes.sum()
    weight = 1.0 / (1.0 - share)
    variance = sizes * (1 - icc) + icc * sizes**2  # of the sum of a cluster's scores
    total = variance.sum()
    diagonal = weight * (variance - 2 * share * variance + share**2 * total)
    # Off the diagonal: sqrt(w_g w_h) (s_g s_h total - s_h v_g - s_g v_h), squared and summed.
    a, b, c = (weight @ each for each in (share**2, variance**2, share * variance))
    others = 2 * a * b + total**2 * a**2 + 2 * c**2 - 4 * total * a * c
    others -= ((weight * (share**2 * total - 2 * share * variance)) ** 2).sum()
    return float(diagonal.sum() ** 2 / ((diagonal**2).sum() + others))


def _share_interval(spread: _Spread, critical: float, left_out: float) -> Interval:
    """Of a share, at a critical value and the probability that it leaves out."""
    mean, sizes = spread.mean, spread.sizes
    effective = float(spread.num_clusters)
    if spread.error > 0:
        # No surer than if questions were independent: their variance, divided by their number.
        alone = spread.squares / spread.number**2
        effective = mean * (1.0 - mean) / max(spread.error**2, alone)
    found = _wilson(mean, effective, critical)
    few = min(spread.num_with_miss, spread.num_with_hit)
    if few >= FEW:
        return found
    # The worst case: questions of one cluster all alike, so that a cluster is one question.
    worst = _exact_interval(mean, spread.number**2 / float((sizes**2).sum()), left_out)
    weight = (1.0 - few / FEW) ** 2
    return Interval(
        low=(1 - weight) * found.low + weight * worst.low,
        high=(1 - weight) * found.high + weight * worst.high,
    )


def _exact_interval(share: float, number: float, left_out: float) -> Interval:
    """Clopper and Pearson's, for a number of questions that need not be whole."""
    from scipy.special import betaincinv

    right, wrong = share * number, (1.0 - share) * number
    low = float(betaincinv(right, wrong + 1, left_out / 2)) if right > 0 else 0.0
    high = float(betaincinv(right + 1, wrong, 1 - left_out / 2)) if wrong > 0 else 1.0
    return Interval(low=low, high=high)


def _wilson(share: float, number: float, critical: float) -> Interval:
    squared = critical**2 / number
    centre = (share + squared / 2) / (1 + squared)
    half = math.sqrt(squared * (share * (1 - share) + squared / 4)) / (1 + squared)
    low = 0.0 if share == 0.0 else max(0.0, centre - half)
    return Interval(low=low, high=1.0 if share == 1.0 else min(1.0, centre + half))


def _ruled_out(spread: _Spread) -> float:
    """The share of clusters that may differ unseen where all that were drawn agree."""
    return 1.0 - float((1.0 - _CONFIDENCE) ** (1.0 / spread.num_clusters))


def _symmetric(mean: float, reach: float) -> Interval:
    return Interval(low=mean - reach, high=mean + reach)


def _everything() -> Interval:
    return Interval(low=-math.inf, high=math.inf)


def _t_quantile(freedom: float, confidence: float) -> float:
    """The value that |t| stays below with this probability."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))


def _t_p_value(ratio: float, freedom: float) -> float:
    from scipy.special import stdtr

    return min(1.0, 2.0 * float(stdtr(freedom, -abs(ratio))))


def _max_t_quantile(spreads: Sequence[_Spread], freedom: float, num_draws: int) -> float:
    """The value that every point's |t| stays below with this probability."""
    import numpy as np

    deviations: Array = np.array([spread.sums for spread in spreads]).T
    lengths = np.sqrt((deviations**2).sum(axis=0))
    moves = lengths > 1e-9  # a point that is right everywhere never deviates
    if not moves.any():
        return _t_quantile(freedom, _CONFIDENCE)
    deviations = deviations[:, moves] / lengths[moves]
    # Points are few and clusters many: draw in the space of the points.
    values, vectors = np.linalg.eigh(deviations.T @ deviations)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    generator = np.random.default_rng(0)
    normal = generator.standard_normal((num_draws, root.shape[1])) @ root.T
    scale = np.sqrt(generator.chisquare(freedom, num_draws) / freedom)
    return float(np.quantile(np.abs(normal).max(axis=1) / scale, _CONFIDENCE))
