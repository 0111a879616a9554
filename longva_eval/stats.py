"""Accuracy with honest uncertainty. No torch.

Questions on one video are not independent: their errors are summed within each video before they
are squared. Source: "Adding Error Bars to Evals", arXiv:2411.00640, section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

__all__ = ["clustered_standard_error", "wilson_interval"]


def clustered_standard_error(scores: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Standard error of the mean score, with questions grouped by cluster.

    Args:
        scores: A number per question, for example 1.0 for right and 0.0 for wrong.
        clusters: The video, or other group, that each question belongs to.

    Returns:
        sqrt(sum over clusters of (sum of deviations in it)**2) / n. With one question per cluster
        that is the usual standard error of a mean (with n in the denominator of the variance).

    Raises:
        ValueError: If there is nothing, or the lengths differ.
    """
    if not scores or len(scores) != len(clusters):
        raise ValueError(f"{len(scores)} scores and {len(clusters)} clusters were given.")
    mean = math.fsum(scores) / len(scores)
    sums: dict[Hashable, float] = {}
    for score, cluster in zip(scores, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + score - mean
    return math.sqrt(math.fsum(total**2 for total in sums.values())) / len(scores)


def wilson_interval(
    num_right: int, num_asked: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Wilson's score interval of a share, as scipy computes it.

    Returns:
        (low, high), within [0, 1]. 5 of 5 at 95 % is (0.57, 1.00).
    """
    from scipy.stats import binomtest

    interval = binomtest(num_right, num_asked).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
