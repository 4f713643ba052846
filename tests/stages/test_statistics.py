"""The report's statistics against hand computed values and scipy's implementations."""

import math
import random

import pytest

from stages._statistics import (
    Interval,
    bootstrap_interval,
    compare_by_group,
    compare_paired,
    mcnemar_p_value,
    mean_interval,
    normal_interval,
    proportion_difference_interval,
    sign_flip_p_value,
    standard_error,
    student_interval,
    wilson_interval,
)


def ends(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None
    return interval.low, interval.high


def test_standard_error_of_a_proportion():
    # 3 of 4: s^2 = (3 * 0.25^2 + 0.75^2) / 3 = 0.25, so s / sqrt(4) = 0.25
    assert standard_error([1, 1, 1, 0]) == pytest.approx(0.25)
    assert standard_error([1]) is None


def test_mcnemar_by_hand():
    # 1 against 5 of 6 changes: 2 * (C(6,0) + C(6,1)) / 2^6 = 14 / 64
    assert mcnemar_p_value(5, 1) == pytest.approx(14 / 64)
    assert mcnemar_p_value(0, 0) == 1.0
    assert mcnemar_p_value(3, 3) == 1.0


@pytest.mark.parametrize(("raised", "lowered"), [(99, 4), (0, 7), (12, 12), (1, 0), (40, 61)])
def test_mcnemar_is_scipys_binomial_test(raised, lowered):
    from scipy.stats import binomtest

    assert mcnemar_p_value(raised, lowered) == pytest.approx(binomtest(raised, raised + lowered, 0.5).pvalue)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (3, 10), (99, 200)])
def test_wilson_interval_is_scipys(successes, n):
    from scipy.stats import binomtest

    expected = binomtest(successes, n).proportion_ci(method="wilson")
    found = wilson_interval(successes, n)
    assert ends(found) == pytest.approx((expected.low, expected.high))


def test_student_interval_is_scipys():
    from scipy.stats import sem, t

    values = [2.0, 3.5, 4.0, 5.0, 6.0]
    expected = t.interval(0.95, len(values) - 1, loc=4.1, scale=sem(values))
    found = student_interval(values)
    assert ends(found) == pytest.approx(expected)


def test_normal_interval_by_hand():
    found = normal_interval(10.0, 2.0)
    assert found
    assert found.method == "normal"
    assert ends(found) == pytest.approx((10 - 1.959963984540054 * 2, 10 + 1.959963984540054 * 2))
    assert normal_interval(10.0, None) is None
    assert normal_interval(10.0, math.nan) is None


@pytest.mark.parametrize("num_distinct", [5, 1000], ids=["counts of values", "item by item"])
def test_bootstrap_is_scipys_bca(num_distinct):
    import numpy as np
    from scipy.stats import bootstrap

    values = [each**3 for each in np.random.default_rng(5).integers(0, num_distinct, 150) / num_distinct]
    expected = bootstrap((values,), np.mean, method="BCa", n_resamples=99_999, rng=1).confidence_interval
    assert bootstrap_interval(values) == bootstrap_interval(values)
    low, high = ends(bootstrap_interval(values))
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02 * (expected.high - expected.low))
    assert low + high > 2 * np.mean(values)  # skewed as the values are


def test_bootstrap_of_few_or_equal_values():
    assert bootstrap_interval([0.5]) is None
    assert bootstrap_interval([0.5, 0.5, 0.5]) is None
    assert student_interval([5.0, 5.0, 5.0]) is None
    low, high = ends(bootstrap_interval([0.0, 1.0]))
    assert 0 <= low <= 0.5 <= high <= 1


@pytest.mark.parametrize("num_distinct", [9, 10_000])
def test_bootstrap_of_ten_thousand_problems_takes_less_than_a_second(num_distinct):
    import time

    import numpy as np

    values = list(np.random.default_rng(0).integers(0, num_distinct, 10_000) / num_distinct)
    started = time.process_time()
    bootstrap_interval(values)
    assert time.process_time() - started < 2  # it takes 0.02 and 0.9 s on one idle core


def test_intervals_cover_the_truth_where_samples_of_one_problem_are_alike():
    """100 problems that differ in how often they are solved, 10 samples each: 95 % of intervals hold the mean."""
    import numpy as np

    generator = np.random.default_rng(11)
    clustered = pooled = 0
    for _ in range(200):
        solved = np.asarray(generator.binomial(10, generator.beta(0.3, 0.7, 100)))
        low, high = ends(bootstrap_interval(list(solved / 10)))
        clustered += low <= 0.3 <= high
        low, high = ends(wilson_interval(int(solved.sum()), 1000))  # as if there were 1,000 independent problems
        pooled += low <= 0.3 <= high
    assert 181 <= clustered <= 198  # 190 expected; four standard errors are 12
    assert pooled < 140


def test_difference_of_proportions_by_hand():
    # 6 raised, 2 lowered of 18: p = 7/20 - 3/20 = 0.2, variance (10/20 - 0.04) / 20 = 0.023
    found = proportion_difference_interval(6, 2, 18)
    half = 1.959963984540054 * math.sqrt(0.023)
    assert ends(found) == pytest.approx((0.2 - half, 0.2 + half))


def test_intervals_have_width_where_every_answer_is_wrong():
    assert ends(mean_interval([0] * 10)) == pytest.approx((0, 0.2775), abs=1e-4)
    comparison = compare_paired([0] * 10, [0] * 10)
    low, high = ends(comparison.interval)
    assert low < 0 < high
    assert comparison.p_value == 1.0


def test_sign_flips_by_hand():
    # |sum| = 3 is reached by 2 of the 8 sign patterns of (1, 1, 1); (3, 1, 1): |sum| = 5 by 2, of 8
    assert sign_flip_p_value([1, 1, 1]) == pytest.approx(2 / 8)
    assert sign_flip_p_value([3, 1, 1, 0]) == pytest.approx(2 / 8)
    # sums of (2, 1, -1): the pattern found gives 2; 2+1-1, 2-1+1 give 2, 2+1+1 gives 4, and their mirrors
    assert sign_flip_p_value([2, 1, -1]) == pytest.approx(6 / 8)
    assert sign_flip_p_value([0.0, 0.0]) == 1.0


def test_exact_sign_flips_are_mcnemar_for_zeros_and_ones():
    differences = [1] * 7 + [-1] * 3 + [0] * 20
    assert sign_flip_p_value(differences) == pytest.approx(mcnemar_p_value(7, 3))


def test_drawn_sign_flips_agree_with_scipy():
    import numpy as np
    from scipy.stats import permutation_test, ttest_1samp

    generator = random.Random(3)
    differences = [generator.gauss(0.35, 1) for _ in range(60)]
    expected = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1).pvalue
    assert sign_flip_p_value(differences) == pytest.approx(expected, abs=0.005)
    assert sign_flip_p_value(differences) == pytest.approx(ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert sign_flip_p_value(differences) == sign_flip_p_value(differences)


def test_paired_comparison_by_hand():
    # differences 1, 1, 0, -1: mean 0.25, s^2 = (2 * 0.5625 + 0.0625 + 1.5625) / 3 = 11 / 12
    found = compare_paired([0, 0, 1, 1], [1, 1, 1, 0])
    assert found.difference == 0.25
    assert found.stderr == pytest.approx(math.sqrt(11 / 12) / 2)
    assert (found.num_raised, found.num_lowered, found.n) == (2, 1, 4)
    assert found.p_value == 1.0  # 2 * (1 + 3) / 2^3
    assert found.test == "McNemar exact"


def test_graded_scores_are_compared_by_sign_flips():
    found = compare_paired([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert found.test == "sign-flip permutation"
    assert found.p_value == pytest.approx(0.25)


def test_a_mean_of_groups_by_hand():
    # differences (1 0) and (1 1 0 0): means 0.5 and 0.5; s^2 / n = 0.5 / 2 and (1/3) / 4
    found = compare_by_group([0, 1, 0, 0, 1, 0], [1, 1, 1, 1, 1, 0], ["a", "a", "b", "b", "b", "b"])
    assert found.difference == pytest.approx(0.5)
    assert found.stderr == pytest.approx(math.sqrt(0.25 + 1 / 12) / 2)
    assert (found.num_raised, found.num_lowered, found.n) == (3, 0, 6)
    assert compare_by_group([0, 1], [1, 1], ["a", "b"]).stderr is None


def test_equal_models_are_seldom_told_apart_and_their_difference_is_covered():
    """Two models that solve each of 80 problems with the same probability, right or wrong, or 4 samples each."""
    import numpy as np

    generator = np.random.default_rng(13)
    false_alarms, missed = {"binary": 0, "sampled": 0}, {"binary": 0, "sampled": 0}
    for _ in range(150):
        chances = np.asarray(generator.beta(0.5, 0.5, 80))
        for kind, num_samples in (("binary", 1), ("sampled", 4)):
            solved = np.asarray(generator.binomial(num_samples, chances, size=(2, 80)))
            first, second = (solved / num_samples).tolist()
            found = compare_paired(first, second, sampled=num_samples > 1)
            low, high = ends(found.interval)
            false_alarms[kind] += found.p_value < 0.05
            missed[kind] += not low <= 0 <= high
    # 7.5 of 150 are expected, 16 are three standard errors more; McNemar's exact test and its interval are careful
    assert max(false_alarms.values()) <= 16
    assert max(missed.values()) <= 16
    assert false_alarms["sampled"] >= 1


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="got 1 and 2"):
        compare_paired([1], [1, 0])
    with pytest.raises(ValueError, match="got 0 and 0"):
        compare_paired([], [])
