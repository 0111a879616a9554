"""Statistics against closed forms, definitions and scipy. Coverage: benchmarks/coverage.py."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from longva_eval.stats import (
    _degrees_of_freedom,
    bootstrap_interval,
    clustered_standard_error,
    compare_grids,
    compare_pairs,
    effective_frames,
    estimate_mean,
    holm,
    mcnemar,
    plateau,
    simultaneous_bands,
    wilson_interval,
)


def drawn(sizes, share=0.5, seed=0, models=1):
    rng = np.random.default_rng(seed)
    chance = np.repeat(rng.beta(4 * share, 4 * (1 - share), len(sizes)), sizes)
    clusters = [f"v{k}" for k, size in enumerate(sizes) for _ in range(size)]
    scores = [(rng.random(len(chance)) < chance).astype(float).tolist() for _ in range(models)]
    return (scores[0] if models == 1 else scores), clusters


# One run


def test_a_question_per_cluster_is_the_ordinary_standard_error():
    scores = [1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 0.25]
    found = estimate_mean(scores, range(7))
    assert found.standard_error == pytest.approx(scipy.stats.sem(scores))
    assert found.degrees_of_freedom == pytest.approx(6)


def test_clusters_of_one_size_are_a_t_test_of_their_means():
    scores, clusters = drawn([4] * 12)
    means = np.reshape(scores, (12, 4)).mean(axis=1)
    found = estimate_mean(scores, clusters, is_share=False)
    expected = scipy.stats.t.interval(0.95, 11, means.mean(), scipy.stats.sem(means))
    assert (found.interval.low, found.interval.high) == pytest.approx(expected)


@pytest.mark.parametrize("icc", [0.0, 0.3, 1.0])
def test_cr2_and_its_degrees_of_freedom_are_their_definition(icc):
    """The general formulas with matrices, for a regression on a constant."""
    sizes = [1, 2, 7, 3, 12, 5]
    scores, clusters = drawn(sizes, seed=3)
    n = len(scores)
    ones, hat = np.ones((n, 1)), np.ones((n, n)) / n
    residual = np.asarray(scores) - np.mean(scores)
    same = np.array([[float(one == other) for other in clusters] for one in clusters])
    covariance = (1 - icc) * np.eye(n) + icc * same
    rows, variance = [], 0.0
    for cluster in dict.fromkeys(clusters):
        members = [k for k, c in enumerate(clusters) if c == cluster]
        block = np.eye(len(members)) - hat[np.ix_(members, members)]
        values, vectors = np.linalg.eigh(block)
        root = vectors @ np.diag(values**-0.5) @ vectors.T
        row = (ones[members].T / n) @ root
        variance += (row @ residual[members]).item() ** 2
        rows.append((row @ (np.eye(n) - hat)[members]).ravel())
    omega = np.array(rows) @ covariance @ np.array(rows).T
    assert estimate_mean(scores, clusters).standard_error == pytest.approx(math.sqrt(variance))
    assert _degrees_of_freedom(sizes, icc) == pytest.approx(np.trace(omega) ** 2 / (omega**2).sum())


def test_clusters_of_one_size_have_their_number_minus_one_degrees_whatever_their_correlation():
    for icc in (0.0, 0.4, 1.0):
        assert _degrees_of_freedom([3] * 40, icc) == pytest.approx(39)


def test_the_host_s_clustered_standard_error_is_the_same_up_to_its_correction():
    from lmms_eval.api.metrics import clustered_stderr

    scores, clusters = drawn([3] * 300)
    assert clustered_standard_error(scores, clusters) == pytest.approx(
        clustered_stderr(scores, clusters), rel=1e-3
    )
    assert estimate_mean(scores, clusters).standard_error == pytest.approx(
        clustered_standard_error(scores, clusters) * math.sqrt(300 / 299)
    )


def test_a_repeated_question_adds_no_certainty():
    once = clustered_standard_error([1.0, 0.0, 1.0], ["a", "b", "c"])
    thrice = clustered_standard_error([1.0, 0.0, 1.0] * 3, ["a", "b", "c"] * 3)
    assert thrice == pytest.approx(once)


@pytest.mark.parametrize(("scores", "clusters"), [([], []), ([1.0], ["a", "b"])])
def test_nothing_has_no_standard_error(scores, clusters):
    with pytest.raises(ValueError, match="scores and"):
        clustered_standard_error(scores, clusters)


def test_independent_shares_get_wilsons_interval_but_for_the_t_quantile():
    scores = [1.0] * 700 + [0.0] * 1300
    found = estimate_mean(scores, range(2000))
    assert (found.interval.low, found.interval.high) == pytest.approx(
        wilson_interval(700, 2000), abs=2e-4
    )


def test_all_right_is_no_certainty():
    found = estimate_mean([1.0] * 30, [k // 3 for k in range(30)])
    assert found.standard_error == 0.0
    assert found.interval.high == 1.0
    # Ten videos that agree are ten answers, not thirty.
    assert wilson_interval(10, 10)[0] > found.interval.low > 0.6


def test_one_video_says_nothing_about_videos():
    found = estimate_mean([1.0, 0.0, 1.0], ["v"] * 3)
    assert (found.interval.low, found.interval.high) == (0.0, 1.0)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 6)), min_size=1, max_size=40),
)
def test_an_interval_holds_its_mean_and_stays_within_0_and_1(rows):
    found = estimate_mean([score for score, _ in rows], [cluster for _, cluster in rows])
    assert 0.0 <= found.interval.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.interval.high <= 1.0


def test_scores_beyond_a_share_are_refused_or_measured_as_they_are():
    with pytest.raises(ValueError, match="is_share=False"):
        estimate_mean([3.0, 4.0], "ab")
    found = estimate_mean([3.0, 4.0, 5.0], "abc", is_share=False)
    assert found.interval.high == pytest.approx(4 + 4.302653 * 1 / math.sqrt(3), rel=1e-6)
    with pytest.raises(ValueError, match="NaN"):
        estimate_mean([math.nan, 1.0], "ab")
    with pytest.raises(ValueError, match="0 scores and 0 clusters"):
        estimate_mean([], [])


def test_the_bootstrap_agrees_with_the_formula():
    scores, clusters = drawn([3] * 200, seed=5)
    interval, found = bootstrap_interval(scores, clusters), estimate_mean(scores, clusters)
    assert interval.low == pytest.approx(found.interval.low, abs=0.004)
    assert interval.high == pytest.approx(found.interval.high, abs=0.004)
    assert bootstrap_interval(scores, clusters) == interval


@pytest.mark.parametrize(("right", "asked"), [(0, 5), (5, 5), (30, 30), (17, 30), (1, 2)])
def test_wilson_is_scipys(right, asked):
    expected = scipy.stats.binomtest(right, asked).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, asked) == pytest.approx((expected.low, expected.high))


def test_wilson_refuses_what_is_no_share():
    for right, asked in [(1, 0), (3, 2), (-1, 2)]:
        with pytest.raises(ValueError, match="is no share"):
            wilson_interval(right, asked)


# Two runs


def test_a_paired_comparison_of_independent_questions_is_the_paired_t_test():
    (first, second), _ = drawn([1] * 60, models=2)
    found = compare_pairs(first, second, range(60))
    expected = scipy.stats.ttest_rel(first, second)
    assert found.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))


def test_a_comparison_turned_round_is_its_mirror():
    (first, second), clusters = drawn([2, 5, 3, 4] * 6, models=2, seed=1)
    one, two = compare_pairs(first, second, clusters), compare_pairs(second, first, clusters)
    assert one.difference == pytest.approx(-two.difference)
    assert one.interval.low == pytest.approx(-two.interval.high)
    assert one.p_value == pytest.approx(two.p_value)
    assert (one.num_only_first, one.num_only_second) == (two.num_only_second, two.num_only_first)


def test_equal_runs_do_not_prove_that_models_are_equal():
    scores, clusters = drawn([3] * 30)
    found = compare_pairs(scores, scores, clusters)
    assert (found.difference, found.p_value, found.mcnemar_p_value) == (0.0, 1.0, 1.0)
    assert found.interval.high == pytest.approx(1 - 0.05 ** (1 / 30))
    assert found.smallest_detectable == found.interval.high


def test_one_common_video_decides_nothing():
    found = compare_pairs([1.0, 1.0], [0.0, 0.0], ["v", "v"])
    assert found.p_value == 1.0
    assert math.isinf(found.interval.high)


def test_the_smallest_detectable_difference_is_found_in_80_of_100_cases():
    rng = np.random.default_rng(7)
    clusters = [k // 3 for k in range(300)]
    noise = lambda: np.repeat(rng.normal(0, 0.2, 100), 3) + rng.normal(0, 0.4, 300)  # noqa: E731
    detectable = compare_pairs(noise().tolist(), [0.0] * 300, clusters).smallest_detectable
    found = [
        compare_pairs((noise() + detectable).tolist(), [0.0] * 300, clusters).p_value < 0.05
        for _ in range(400)
    ]
    assert 0.70 < np.mean(found) < 0.90


@pytest.mark.parametrize(("b", "c"), [(0, 0), (3, 9), (9, 3), (50, 50), (1200, 1500), (0, 12)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    expected = scipy.stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected)


def test_holm_is_holms():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_p_value_and_bonferroni(p_values):
    for corrected, p_value in zip(holm(p_values), p_values, strict=True):
        assert p_value <= corrected <= min(1.0, p_value * len(p_values)) + 1e-12


# A curve


def test_bands_are_wider_than_single_intervals_and_narrower_than_bonferroni():
    curves, clusters = drawn([3] * 150, models=6)
    bands = simultaneous_bands(curves, clusters)
    single = scipy.stats.t.ppf(0.975, 149)
    assert single < bands.critical_value < scipy.stats.t.ppf(1 - 0.025 / 6, 149) * 1.05
    for scores, interval in zip(curves, bands.intervals, strict=True):
        alone = estimate_mean(scores, clusters).interval
        assert interval.low < alone.low
        assert alone.high < interval.high


def test_the_bands_of_one_curve_repeated_are_those_of_one_point():
    scores, clusters = drawn([3] * 150)
    bands = simultaneous_bands([scores] * 5, clusters)
    assert bands.critical_value == pytest.approx(scipy.stats.t.ppf(0.975, 149), abs=0.05)


def test_points_without_spread_do_not_break_the_bands():
    bands = simultaneous_bands([[1.0] * 30, [0.0] * 30], [k // 3 for k in range(30)])
    assert bands.intervals[0].high == 1.0
    assert bands.intervals[0].low < 0.8
    assert math.isfinite(bands.critical_value)


def test_a_plateau_begins_where_more_frames_give_nothing():
    rng = np.random.default_rng(0)
    clusters = [k // 3 for k in range(900)]
    luck = rng.random(900)
    curves = [(luck < share).astype(float).tolist() for share in (0.3, 0.5, 0.6, 0.6, 0.6)]
    found = plateau(curves, clusters)
    assert (found.place, found.low, found.high) == (2, 2, 2)
    assert sum(found.shares) == pytest.approx(1)


# Needle grids


def test_effective_frames_end_where_the_lower_bound_falls():
    columns = {200: (30, 30), 400: (30, 30), 600: (25, 30), 800: (30, 30)}
    found = effective_frames(columns)
    # 30 of 30 is at least 0.886; 25 of 30 only 0.664: what comes after does not count.
    assert (found.frames, found.threshold, found.is_at_least) == (400, 0.85, False)
    assert effective_frames({200: (30, 30)}).is_at_least
    # 5 of 5 is no evidence of 85 %.
    assert effective_frames({200: (5, 5)}).frames is None
    assert effective_frames({200: (5, 5)}, needle_only=0.6).frames == 200


def test_grids_are_compared_by_needle_where_needles_are_known():
    rng = np.random.default_rng(2)
    first = {(n, d, k): float(rng.random() < 0.9)
             for n in (8, 16) for d in (0.0, 0.5) for k in range(6)}  # fmt: skip
    second = {key: value * (key[0] == 8) for key, value in first.items()}
    found = compare_grids(first, second)
    assert found.paired_by == "needle"
    assert found.overall.num_clusters == 6
    assert found.by_frames[8].difference == 0.0
    assert found.by_frames[16].difference > 0.5
    assert found.p_values[16] < 0.05 < found.p_values[8]
    cells = compare_grids({(8, 0.0, None): 0.8, (8, 0.5, None): 1.0, (16, 0.0, None): 0.4},
                          {(8, 0.0, None): 0.6, (16, 0.0, None): 0.4})  # fmt: skip
    assert (cells.paired_by, cells.overall.num_questions) == ("cell", 2)
    with pytest.raises(ValueError, match="no place in common"):
        compare_grids({(8, 0.0, 1): 1.0}, {(16, 0.0, 1): 1.0})
