"""Small statistics: intervals for shares, paired comparisons. No model, no files."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""

Interval = tuple[float, float]


def wilson(successes: int, n: int) -> Interval:
    """95 % interval of a share (Wilson 1927); (0, 1) when there is nothing to go by."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Rounding may leave the share itself outside by 1e-17, at none or all right.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Exact p-value that two systems are right equally often, from the items they differ on.

    Args:
        a: whether system A was right, item by item.
        b: the same items, in the same order, for system B.
    """
    from scipy.stats import binomtest

    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Estimate:
    """A statistic of paired values with its percentile bootstrap interval; items are resampled.

    Args:
        a, b: values of two systems on the same n items.
        statistic: takes two arrays and reduces their last axis.
        seed: of the resampling.
        resamples: how many.
    """
    x, y = np.asarray(a, float), np.asarray(b, float)
    value = float(statistic(x, y))
    if len(x) < 2:
        return Estimate(value, value, value)
    picks = np.random.default_rng(seed).integers(0, len(x), (resamples, len(x)))
    low, high = np.percentile(statistic(x[picks], y[picks]), [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def mean_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean of ``a`` minus mean of ``b``."""
    return a.mean(-1) - b.mean(-1)


def median_reduction(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """By which share the median of ``a`` lies below that of ``b``: 0.4 is 40 % less.

    Where both are 0 there is no reduction; where only ``b`` is 0 it is minus infinity.
    """
    x, y = np.median(a, -1), np.median(b, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(y > 0, 1 - x / y, np.where(x > 0, -np.inf, 0.0))


def median(values: Sequence[float]) -> float:
    """The median; NaN of nothing."""
    return float(np.median(values)) if len(values) else math.nan


def spread(values: Sequence[float]) -> Interval:
    """First and third quartile; NaN of nothing."""
    if not len(values):
        return math.nan, math.nan
    low, high = np.percentile(values, [25, 75])
    return float(low), float(high)
