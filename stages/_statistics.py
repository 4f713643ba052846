"""Standard errors, intervals and paired tests for scores measured item by item.

Items are independent problems; a score is one number per item, and two models are compared on equal items.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

CONFIDENCE = 0.95
NUM_RESAMPLES = 9_999
"""Bootstrap samples; and sign flips, where all are too many to enumerate: the smallest p-value they give is 1e-4."""
FEW_VALUES = 100
"""Distinct values up to which a resample is drawn as their counts instead of item by item: the distribution is one."""
BY_PROBLEM = "bootstrap by problem"


@dataclass(frozen=True)
class Interval:
    """A two-sided 95 % confidence interval, and the name of the method that gave it."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class PairedComparison:
    """Two models on equal items; `difference` is the mean of second minus first."""

    n: int
    difference: float
    stderr: float | None
    interval: Interval | None
    p_value: float
    test: str
    num_raised: int
    num_lowered: int


def is_binary(scores: Sequence[float]) -> bool:
    """Whether every score is 0 or 1, so that a mean is a proportion."""
    return all(score in (0, 1) for score in scores)


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean: s / sqrt(n) with s the sample standard deviation; None for fewer than two values."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def mean_interval(scores: Sequence[float]) -> Interval | None:
    """Of the mean score: Wilson's for 0/1 scores (right at 0 of n too), Student's t otherwise."""
    if is_binary(scores):
        return wilson_interval(int(sum(scores)), len(scores))
    return student_interval(scores)


def wilson_interval(successes: int, n: int) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927). Raises ValueError for n = 0."""
    if n < 1:
        raise ValueError(f"a proportion needs at least one item, got {n}")
    z = _normal_quantile()
    centre = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(successes * (n - successes) / n + z * z / 4)
    return Interval(max(0.0, centre - half), min(1.0, centre + half), "Wilson")


def student_interval(values: Sequence[float]) -> Interval | None:
    """Student's t interval of a mean; None for fewer than two values, and for equal ones, which tell of no spread."""
    from scipy.special import stdtrit  # scipy.stats takes seconds to import

    stderr = standard_error(values)
    if not stderr:
        return None
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * stderr
    return Interval(fmean(values) - half, fmean(values) + half, "Student t")


def normal_interval(value: float, stderr: float | None) -> Interval | None:
    """Of an estimate of which no more is known than its standard error; None without one."""
    if stderr is None or not math.isfinite(stderr):
        return None
    half = _normal_quantile() * stderr
    return Interval(value - half, value + half, "normal")


def bootstrap_interval(values: Sequence[float]) -> Interval | None:
    """BCa bootstrap of a mean over problems, which are resampled whole; None for fewer than two, and for equal ones.

    `values` has one number a problem, such as the mean over its samples. BCa (Efron 1987, "Better bootstrap confidence
    intervals"), since rates of success are skewed where a model solves few problems, and the plain percentiles are then
    too low; the mean's acceleration has a closed form.
    """
    import numpy as np

    if not standard_error(values):
        return None
    array = np.asarray(values, dtype=np.float64)
    mean, means = array.mean(), _resampled_means(array)
    rounding = 1e-12 * max(1.0, float(abs(array).max()))
    below = (np.mean(means < mean - rounding) + np.mean(means <= mean + rounding)) / 2
    normal, bias = NormalDist(), NormalDist().inv_cdf(float(below))
    deviations = array - mean
    acceleration = float((deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5))
    corrected = (bias + side * _normal_quantile() for side in (-1, 1))
    shares = [normal.cdf(bias + each / (1 - acceleration * each)) for each in corrected]
    low, high = (float(np.quantile(means, share)) for share in shares)
    return Interval(low, high, BY_PROBLEM)


def mcnemar_p_value(num_raised: int, num_lowered: int) -> float:
    """Exact two-sided McNemar test: of the items that changed, as many should go each way (a fair coin)."""
    changed = num_raised + num_lowered
    tail = sum(math.comb(changed, k) for k in range(min(num_raised, num_lowered) + 1))
    return min(1.0, 2 * tail / 2**changed)


def proportion_difference_interval(num_raised: int, num_lowered: int, n: int) -> Interval:
    """Adjusted Wald interval of a paired difference of proportions; it has width even where nothing changed.

    Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data" (2012): one item is added to each kind of change.
    """
    raised, lowered = (num_raised + 1) / (n + 2), (num_lowered + 1) / (n + 2)
    difference = raised - lowered
    half = _normal_quantile() * math.sqrt((raised + lowered - difference**2) / (n + 2))
    return Interval(max(-1.0, difference - half), min(1.0, difference + half), "adjusted Wald")


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Two-sided permutation test of a zero mean difference: under the null each sign could be the other.

    Exact where all 2**n sign patterns fit into NUM_RESAMPLES, else over that many drawn with a fixed seed (the pattern
    that was found counts as one more). For differences in {-1, 0, 1} the exact form is McNemar's test.
    """
    import numpy as np

    values = np.asarray([difference for difference in differences if difference], dtype=np.float64)
    if not len(values):
        return 1.0
    enumerable = 2 ** len(values) <= NUM_RESAMPLES
    signs = _all_signs(len(values)) if enumerable else _drawn_signs(len(values))
    found = abs(values.sum()) * (1 - 1e-9)  # rounding must not tell equal sums apart
    as_extreme = sum(int(np.count_nonzero(abs(batch @ values) >= found)) for batch in signs)
    return as_extreme / 2 ** len(values) if enumerable else (as_extreme + 1) / (NUM_RESAMPLES + 1)


def compare_paired(first: Sequence[float], second: Sequence[float], sampled: bool = False) -> PairedComparison:
    """Compare two models' scores, problem by problem in equal order.

    `sampled`: a score is the mean over several samples of its problem, and the difference's interval is bootstrapped.
    Every test and interval works on one difference a problem, so that samples of one never count as independent.
    Raises ValueError for unequal lengths or no problem.
    """
    differences = _differences(first, second)
    num_raised, num_lowered = _changed(differences)
    binary = is_binary(first) and is_binary(second)
    if binary:
        interval: Interval | None = proportion_difference_interval(num_raised, num_lowered, len(differences))
    else:
        interval = bootstrap_interval(differences) if sampled else student_interval(differences)
    return PairedComparison(
        n=len(differences),
        difference=fmean(differences),
        stderr=standard_error(differences),
        interval=interval,
        p_value=mcnemar_p_value(num_raised, num_lowered) if binary else sign_flip_p_value(differences),
        test="McNemar exact" if binary else "sign-flip permutation",
        num_raised=num_raised,
        num_lowered=num_lowered,
    )


def compare_by_group(first: Sequence[float], second: Sequence[float], groups: Sequence[str]) -> PairedComparison:
    """The same for a mean of the groups' means, such as that of several tasks, each of which weighs alike.

    `groups` names each problem's. The standard error is that of a stratified sample, the interval normal; None where a
    group has one problem only. Raises ValueError as `compare_paired` does.
    """
    differences = _differences(first, second)
    members: dict[str, list[float]] = {}
    for group, each in zip(groups, differences, strict=True):
        members.setdefault(group, []).append(each)
    weighted = [
        each * len(differences) / (len(members) * len(members[group]))
        for group, each in zip(groups, differences, strict=True)
    ]  # their plain mean is the mean of the groups' means
    errors = [standard_error(each) for each in members.values()]
    known = [error for error in errors if error is not None]
    stderr = math.hypot(*known) / len(members) if len(known) == len(members) else None
    num_raised, num_lowered = _changed(differences)
    return PairedComparison(
        n=len(differences),
        difference=fmean(weighted),
        stderr=stderr,
        interval=normal_interval(fmean(weighted), stderr),
        p_value=sign_flip_p_value(weighted),
        test="sign-flip permutation",
        num_raised=num_raised,
        num_lowered=num_lowered,
    )


def _differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    if len(first) != len(second) or not first:
        raise ValueError(f"a paired comparison needs equally many items of both, got {len(first)} and {len(second)}")
    return [b - a for a, b in zip(first, second, strict=True)]


def _changed(differences: Sequence[float]) -> tuple[int, int]:
    """(how many rose, how many fell)"""
    return sum(each > 0 for each in differences), sum(each < 0 for each in differences)


def _all_signs(n: int) -> Iterator[Any]:
    """Every pattern of n signs, +1 or -1, as one array [2**n, n]."""
    import numpy as np

    yield 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)


def _drawn_signs(n: int) -> Iterator[Any]:
    """NUM_RESAMPLES random patterns of n signs, in arrays small enough for any n that occurs."""
    import numpy as np

    generator = np.random.default_rng(0)
    for start in range(0, NUM_RESAMPLES, 1000):
        yield 1 - 2 * generator.integers(0, 2, size=(min(1000, NUM_RESAMPLES - start), n), dtype=np.int8)


def _resampled_means(array: Any) -> Any:
    """Means of NUM_RESAMPLES draws, with replacement and a fixed seed, of as many numbers as there are."""
    import numpy as np

    generator = np.random.default_rng(0)
    distinct, counts = np.unique(array, return_counts=True)
    n = len(array)
    if len(distinct) <= FEW_VALUES:
        return generator.multinomial(n, counts / n, size=NUM_RESAMPLES) @ distinct / n
    batch = max(1, 2**20 // n)
    sizes = [min(batch, NUM_RESAMPLES - start) for start in range(0, NUM_RESAMPLES, batch)]
    return np.concatenate([array.take(generator.integers(0, n, size=(size, n))).mean(axis=1) for size in sizes])


def _normal_quantile() -> float:
    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
