"""Statistics against closed forms, definitions and scipy. Coverage: benchmarks/coverage.py."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from longva_eval.stats import (
    FEW,
    _degrees_of_freedom,
    clustered_standard_error,
    compare_pairs,
    effective_frames,
    estimate_mean,
    holm,
    mcnemar,
    pass_at_k,
    pilot_design,
    plateau,
    simultaneous_bands,
    stated_design,
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
    assert _degrees_of_freedom(np.array(sizes, dtype=float), icc) == pytest.approx(
        np.trace(omega) ** 2 / (omega**2).sum()
    )


def test_clusters_of_one_size_have_their_number_minus_one_degrees_whatever_their_correlation():
    for icc in (0.0, 0.4, 1.0):
        assert _degrees_of_freedom(np.full(40, 3.0), icc) == pytest.approx(39)


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
    """Ten videos that agree are ten answers, not thirty: Clopper and Pearson's interval of them."""
    found = estimate_mean([1.0] * 30, [k // 3 for k in range(30)])
    expected = scipy.stats.binomtest(10, 10).proportion_ci(0.95, method="exact")
    assert found.standard_error == 0.0
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))
    assert (found.num_with_miss, found.num_with_hit, found.is_few) == (0, 10, True)


def test_a_miss_in_few_videos_is_few_and_the_interval_leans_on_the_worst_case():
    clusters = [k // 3 for k in range(900)]
    enough = estimate_mean([float(k >= 3 * FEW or k % 3 != 0) for k in range(900)], clusters)
    fewer = estimate_mean([float(k >= 3 * FEW - 3 or k % 3 != 0) for k in range(900)], clusters)
    assert (enough.num_with_miss, enough.is_few) == (20, False)
    assert (fewer.num_with_miss, fewer.is_few) == (19, True)
    three = estimate_mean([float(k >= 9) for k in range(900)], clusters)
    worst = scipy.stats.binomtest(297, 300).proportion_ci(0.95, method="exact")
    assert three.num_with_miss == 3
    assert abs(three.interval.low - worst.low) < 0.003
    assert scipy.stats.binomtest(891, 900).proportion_ci(0.95).low > three.interval.low + 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "accuracy", "icc", "at_least"),
    [
        ("1 to 20", 0.97, 0.6, 0.93),  # 30 videos, held in 85.5 % before: few misses, large videos
        (90, 0.8, 0.6, 0.93),  # 5 videos, 87.5 %
        (3, 0.99, 0.4, 0.93),  # 300 videos, 91.8 %
        ("1 to 20 of 100", 0.9, 0.6, 0.93),  # 20 and more hold a miss
    ],
)
def test_intervals_hold_where_few_videos_hold_the_misses(sizes, accuracy, icc, at_least):
    rng = np.random.default_rng(11)
    sizes = {
        "1 to 20": rng.integers(1, 21, 30), 90: np.full(5, 90), 3: np.full(300, 3),
        "1 to 20 of 100": rng.integers(1, 21, 100),
    }[sizes]  # fmt: skip
    clusters = np.repeat(np.arange(len(sizes)), sizes).tolist()
    held = []
    for _ in range(400):
        chances = rng.beta(accuracy * (1 / icc - 1), (1 - accuracy) * (1 / icc - 1), len(sizes))
        scores = (rng.random(len(clusters)) < np.repeat(chances, sizes)).astype(float)
        interval = estimate_mean(scores.tolist(), clusters).interval
        held.append(interval.low <= accuracy <= interval.high)
    assert np.mean(held) >= at_least


def test_a_mean_over_categories_has_the_error_of_its_weights():
    rng = np.random.default_rng(5)
    groups = ["a"] * 30 + ["b"] * 90
    scores = rng.random(120).tolist()
    found = estimate_mean(scores, range(120), groups=groups)
    a, b = np.array(scores[:30]), np.array(scores[30:])
    assert found.mean == pytest.approx((a.mean() + b.mean()) / 2)
    expected = math.sqrt(a.var() / 30 + b.var() / 90) / 2
    assert found.standard_error == pytest.approx(expected, rel=0.01)
    same = estimate_mean(scores, range(120), groups=["x"] * 120)
    assert same == estimate_mean(scores, range(120))


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
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert found.interval.high == pytest.approx(1 - 0.05 ** (1 / 30))
    assert found.smallest_detectable == found.interval.high


def test_one_common_video_decides_nothing():
    found = compare_pairs([1.0, 1.0], [0.0, 0.0], ["v", "v"])
    assert found.p_value == 1.0
    assert math.isinf(found.interval.high)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("num_videos", "shared"), [(15, 0.5), (30, 0.9), (100, 0.5)])
def test_a_share_s_smallest_detectable_difference_is_found_in_80_of_100_cases(num_videos, shared):
    """A better run gets more right, and with that a larger standard error: 37 to 76 % before."""
    rng = np.random.default_rng(3)
    clusters = [k // 3 for k in range(3 * num_videos)]

    def runs(gain):
        chances = np.repeat(rng.beta(1.4, 0.93, num_videos), 3)
        common = rng.random(len(chances))
        first, second = (
            np.where(rng.random(len(chances)) < shared, common, rng.random(len(chances))) < chances
            for _ in range(2)
        )
        first = first | (rng.random(len(chances)) < gain)
        return first.astype(float).tolist(), second.astype(float).tolist()

    found = []
    for _ in range(300):
        detectable = compare_pairs(*runs(0.0), clusters).smallest_detectable
        found.append(compare_pairs(*runs(detectable / 0.4), clusters).p_value < 0.05)
    assert 0.74 < np.mean(found) < 0.87


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_videos", "apart"), [(15, 0), (30, 0), (60, 0), (100, 0), (300, 0), (15, 0.3), (100, 0.3)]
)
def test_a_planned_difference_is_shown_in_80_of_100_cases(num_videos, apart):
    """`apart`: share of videos in which two models' chances have nothing in common."""
    rng = np.random.default_rng([5, num_videos])
    icc, size, alike = 0.3, 3, 0.25  # share of the questions with common luck
    between, within = icc / 4, (1 - icc) / 4
    covariance = (1 - apart) * (between + alike * within)
    disagreement = 2 * (0.25 - covariance)
    design = stated_design(
        score=0.5, disagreement=disagreement, icc=icc, sizes=[size],
        difference_icc=2 * apart * between / disagreement,
    )  # fmt: skip
    difference = design.smallest_detectable(num_videos)
    assert design.power(difference, num_videos) == pytest.approx(0.8, abs=1e-5)
    assert design.videos_needed(difference) == num_videos
    clusters = [k // size for k in range(size * num_videos)]
    shown = []
    for _ in range(1500):
        a = 0.5 * (1 - icc) / icc
        chances = rng.beta(a, a, (3, num_videos))
        own = rng.random(num_videos) < apart
        common = np.where(np.repeat(own, size), np.nan, rng.random(len(clusters)))
        same = ~np.isnan(common) & (rng.random(len(clusters)) < alike)
        first, second = (
            np.where(same, common, rng.random(len(clusters)))
            < np.repeat(np.where(own, chances[k], chances[2]), size)
            for k in range(2)
        )
        first = first | (rng.random(len(clusters)) < 2 * difference)
        found = compare_pairs(first.astype(float).tolist(), second.astype(float).tolist(), clusters)
        shown.append(found.p_value < 0.05)
    assert 0.77 < np.mean(shown) < 0.83


def test_a_pilot_plans_as_its_own_comparison_says():
    (first, second), clusters = drawn([3] * 60, models=2)
    design = pilot_design(first, second, clusters)
    found = compare_pairs(first, second, clusters)
    assert design.smallest_detectable(60) == pytest.approx(found.smallest_detectable)
    assert design.power(found.smallest_detectable, 60) == pytest.approx(0.8, abs=1e-3)
    assert design.smallest_detectable(240) < design.smallest_detectable(60)


def test_a_design_refuses_what_cannot_be():
    with pytest.raises(ValueError, match=r"disagreement = 0.5 is not within 0 and 0.2"):
        stated_design(score=0.9, disagreement=0.5, icc=0.2)
    design = stated_design(score=0.9, disagreement=0.1, icc=0.2)
    with pytest.raises(ValueError, match="20 points is not within 0 and 10"):
        design.power(0.2, 100)
    with pytest.raises(ValueError, match="no spread"):
        pilot_design([1.0, 0.0], [1.0, 0.0], ["a", "b"])


def test_a_stricter_level_needs_a_larger_difference():
    (first, second), clusters = drawn([3] * 60, models=2)
    plain, strict = (compare_pairs(first, second, clusters, level=x) for x in (0.05, 0.01))
    assert plain.smallest_detectable < strict.smallest_detectable
    assert plain.interval == strict.interval


def test_mcnemar_is_exact():
    """Worked by hand: 2 * (1 + 12 + 66 + 220) / 2**12."""
    assert mcnemar(3, 9) == mcnemar(9, 3) == pytest.approx(2 * 299 / 4096)
    assert mcnemar(0, 0) == 1.0


def test_partial_credit_is_not_taken_for_right_or_wrong():
    """An interval at no more than all questions was far too wide for scores of 0.25 and 0.75."""
    scores = [0.25, 0.75] * 60
    found = estimate_mean(scores, range(120))
    half = (found.interval.high - found.interval.low) / 2
    assert half == pytest.approx(1.98 * found.standard_error, rel=0.02)
    binary = estimate_mean([0.0, 1.0] * 60, range(120))
    assert (binary.interval.high - binary.interval.low) / 2 == pytest.approx(2 * half, rel=0.05)
    # Clusters whose questions cancel out are no surer than independent questions.
    paired = estimate_mean([0.0, 1.0] * 60, [n // 2 for n in range(120)])
    assert paired.interval.high - paired.interval.low > 3 * half


def test_pass_at_k_is_the_share_of_draws_with_a_right_one():
    assert pass_at_k(2, 5, 1) == pytest.approx(0.4)
    assert pass_at_k(2, 5, 2) == pytest.approx(1 - 3 / 10)
    assert (pass_at_k(0, 5, 5), pass_at_k(1, 5, 5)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="pass@6 cannot be told"):
        pass_at_k(2, 5, 6)


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


@pytest.mark.slow
def test_a_plateau_begins_where_more_frames_give_nothing():
    rng = np.random.default_rng(0)
    clusters = [k // 3 for k in range(9000)]
    luck = rng.random(9000)
    curves = [(luck < share).astype(float).tolist() for share in (0.3, 0.5, 0.6, 0.6, 0.6)]
    found = plateau(curves, clusters)
    assert (found.place, found.flat_from) == (2, 2)
    few = plateau([curve[:60] for curve in curves], clusters[:60])
    assert few.place <= 2  # so few questions do not show the whole rise
    assert plateau([curves[0], curves[1]], clusters) == plateau(curves[:2], clusters)
    assert plateau(curves[:3], clusters).flat_from is None


@pytest.mark.slow
def test_a_flat_curve_is_rarely_called_rising():
    """56 % of flat curves stopped later than at their first point when the best point was taken."""
    rng = np.random.default_rng(1)
    clusters = [k // 3 for k in range(300)]
    late = 0
    for _ in range(120):
        chances = np.repeat(rng.beta(2, 2, 100), 3)
        curves = [(rng.random(300) < chances).astype(float).tolist() for _ in range(6)]
        late += plateau(curves, clusters, num_draws=2000).place > 0
    assert late <= 9


# Needle grids


def column(num_needles, found=1.0, depths=6):
    return [(needle, float(depth < found * depths)) for needle in range(num_needles)
            for depth in range(depths)]  # fmt: skip


def test_effective_frames_end_where_the_lower_bound_falls():
    answers = {200: column(30), 400: column(30), 600: column(30, 5 / 6), 800: column(30)}
    found = effective_frames(answers)
    assert (found.frames, found.threshold, found.is_at_least) == (400, 0.85, False)
    assert str(effective_frames({200: column(30)})) == "≥ 200"
    assert str(effective_frames({200: column(30, 0.5)})) == "< 200"


def test_few_needles_at_many_depths_are_still_few():
    """5 needles at 6 depths are no 30 draws."""
    found = effective_frames({200: column(5), 400: column(5, 0.5)})
    assert (found.frames, found.can_be_told, found.num_needles) == (None, False, 5)
    assert str(found) == "too few needles to tell"
    assert effective_frames({200: column(5)}, needle_only=0.6).frames == 200


@pytest.mark.slow
@pytest.mark.parametrize("needles", [5, 10, 26])
@pytest.mark.parametrize("icc", [0.1, 0.6])
def test_a_length_at_the_threshold_is_claimed_in_at_most_5_of_100_cases(needles, icc):
    rng = np.random.default_rng(7)
    claimed = 0
    for _ in range(300):
        chances = rng.beta(0.85 * (1 / icc - 1), 0.15 * (1 / icc - 1), needles)
        hits = rng.random((6, needles)) < chances
        answers = [(needle, float(hits[k, needle])) for k in range(6) for needle in range(needles)]
        claimed += effective_frames({200: answers}).frames is not None
    assert claimed / 300 <= 0.05
