"""Intervals and tests for a handful of runs: survival curves, bootstrap, permutation, pairs.

All by scipy. Runs that reach the horizon are censored there; they did not die of old age.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stretto.errors import InputError


@dataclass(frozen=True)
class Curve:
    """Share of villages that live beyond each month.

    Attributes:
        months: 0, and every month in which one collapsed.
        alive: after that month, 0 to 1.
        low: of the 95 % interval (log-log Greenwood), NaN where undefined.
        high: of the interval.
    """

    months: NDArray[np.float64]
    alive: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval and how many runs it is of."""

    value: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class Difference:
    """Second minus first group.

    Attributes:
        value: of the means, with a bootstrap interval.
        p: two-sided, of a permutation test; NaN of fewer than two pairs, or runs in a group.
        paired: by seed.
    """

    value: Interval
    p: float
    paired: bool


def kaplan_meier(months: Sequence[int], collapsed: Sequence[bool]) -> Curve:
    """The survival curve (Kaplan and Meier 1958).

    Args:
        months: survival time of each run.
        collapsed: whether it ended by a collapse; the others are censored.
    """
    from scipy.stats import CensoredData, ecdf

    times, fell = np.asarray(months, float), np.asarray(collapsed, bool)
    if not times.size:
        raise InputError("a survival curve needs at least one run")
    if not fell.any():
        one, none = np.ones(1), np.full(1, np.nan)
        return Curve(np.zeros(1), one, none, none)
    data = CensoredData.right_censored(times, ~fell)
    survival = ecdf(data).sf
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # undefined ends are NaN, as told above
        interval = survival.confidence_interval(0.95, method="log-log")
    dies = np.isin(survival.quantiles, times[fell])
    return Curve(
        np.concatenate([[0.0], survival.quantiles[dies]]),
        np.concatenate([[1.0], survival.probabilities[dies]]),
        np.concatenate([[np.nan], interval.low.probabilities[dies]]),
        np.concatenate([[np.nan], interval.high.probabilities[dies]]),
    )


def mean(values: Sequence[float], *, seed: int = 0) -> Interval:
    """The mean with a bootstrap interval (bias corrected, 10,000 resamples).

    Of fewer than 3 runs, or of equal ones, the interval is the value itself.
    """
    return _interval(np.asarray(values, float), seed)


def difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    paired: bool = False,
    seed: int = 0,
) -> Difference:
    """How much larger the second group's mean is.

    Args:
        first: one value a run.
        second: of the other group; the same seeds in the same order if paired.
        paired: by seed.
        seed: of resampling.

    Raises:
        InputError: paired groups of different sizes, or an empty one.
    """
    from scipy.stats import bootstrap, permutation_test

    a, b = np.asarray(first, float), np.asarray(second, float)
    if not a.size or not b.size:
        raise InputError("a difference needs runs in both groups")
    rng = np.random.default_rng(seed)
    if paired:
        if a.size != b.size:
            raise InputError(f"pairs: {a.size} and {b.size} runs; each seed must be in both")
        gaps = b - a
        value = _interval(gaps, seed)
        if gaps.size < 2:
            return Difference(value, float("nan"), True)
        if not gaps.any():
            return Difference(value, 1.0, True)
        test = permutation_test(
            (gaps,), lambda x, axis: x.mean(axis=axis), permutation_type="samples",
            n_resamples=9999, rng=rng,
        )  # fmt: skip
        return Difference(value, float(test.pvalue), True)

    def gap(x: NDArray[np.float64], y: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return y.mean(axis=axis) - x.mean(axis=axis)

    whole, runs = float(b.mean() - a.mean()), a.size + b.size
    if min(a.size, b.size) < 2:
        return Difference(Interval(whole, whole, whole, runs), float("nan"), False)
    if np.ptp(np.concatenate([a, b])) == 0:
        low = high = whole
    else:
        found = bootstrap((a, b), gap, n_resamples=9999, method="percentile", rng=rng)
        low, high = map(float, found.confidence_interval)
    test = permutation_test((a, b), gap, n_resamples=9999, rng=rng)
    return Difference(Interval(whole, low, high, runs), float(test.pvalue), False)


def proportion(yes: int, runs: int) -> Interval:
    """A share of runs with Wilson's interval, which holds for few runs and for none."""
    from scipy.stats import binomtest

    if not 0 <= yes <= runs or not runs:
        raise InputError(f"{yes} of {runs} is no share")
    interval = binomtest(yes, runs).proportion_ci(0.95, method="wilson")
    return Interval(yes / runs, float(interval.low), float(interval.high), runs)


def _interval(values: NDArray[np.float64], seed: int) -> Interval:
    from scipy.stats import bootstrap

    if not values.size:
        raise InputError("a mean needs at least one run")
    whole = float(values.mean())
    if values.size < 3 or np.ptp(values) == 0:
        return Interval(whole, whole, whole, values.size)
    found = bootstrap((values,), np.mean, n_resamples=9999, method="BCa",
                      rng=np.random.default_rng(seed))  # fmt: skip
    low, high = map(float, found.confidence_interval)
    return Interval(whole, low, high, values.size)
