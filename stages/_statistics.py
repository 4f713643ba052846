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
"""Sign flips drawn where all of them are too many to enumerate; the smallest p-value that gives is 1e-4."""


@dataclass(frozen=True)
class Interval:
    """A two-sided 95 % confidence interval."""

    low: float
    high: float


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
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def student_interval(values: Sequence[float]) -> Interval | None:
    """Student's t interval of a mean; None for fewer than two values."""
    from scipy.special import stdtrit  # scipy.stats takes seconds to import

    stderr = standard_error(values)
    if stderr is None:
        return None
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * stderr
    return Interval(fmean(values) - half, fmean(values) + half)


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
    return Interval(max(-1.0, difference - half), min(1.0, difference + half))


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


def compare_paired(first: Sequence[float], second: Sequence[float]) -> PairedComparison:
    """Compare two models' scores, item by item in equal order. Raises ValueError for unequal lengths or no item."""
    if len(first) != len(second) or not first:
        raise ValueError(f"a paired comparison needs equally many items of both, got {len(first)} and {len(second)}")
    differences = [b - a for a, b in zip(first, second, strict=True)]
    num_raised, num_lowered = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    binary = is_binary(first) and is_binary(second)
    return PairedComparison(
        n=len(differences),
        difference=fmean(differences),
        stderr=standard_error(differences),
        interval=(
            proportion_difference_interval(num_raised, num_lowered, len(differences))
            if binary
            else student_interval(differences)
        ),
        p_value=mcnemar_p_value(num_raised, num_lowered) if binary else sign_flip_p_value(differences),
        test="McNemar exact" if binary else "sign-flip permutation",
        num_raised=num_raised,
        num_lowered=num_lowered,
    )


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


def _normal_quantile() -> float:
    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
