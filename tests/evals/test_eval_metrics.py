import math

import numpy as np
import pytest

from stretto.evals.metrics import (
    mcnemar,
    mean_difference,
    median,
    median_reduction,
    paired_bootstrap,
    wilson,
)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # Worked by hand from the formula with z = 1.959964.
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_wilson(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_the_share_is_in_its_interval() -> None:
    for n in range(1, 200):
        for right in (0, 1, n // 2, n):
            low, high = wilson(right, n)
            assert 0 <= low <= right / n <= high <= 1


def test_wilson_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_mcnemar_counts_only_items_that_differ() -> None:
    a = [True] * 5 + [False] * 1 + [True] * 20
    b = [False] * 5 + [True] * 1 + [True] * 20
    # Two-sided binomial, 1 of 6: 2 * (1 + 6) / 64.
    assert mcnemar(a, b) == pytest.approx(0.21875)
    assert mcnemar(b, a) == pytest.approx(0.21875)
    assert mcnemar(a, a) == 1.0


def test_reduction_is_of_medians() -> None:
    assert median_reduction(np.array([1.0, 3.0, 9.0]), np.array([5.0, 6.0, 99.0])) == 0.5
    assert median_reduction(np.array([0.0]), np.array([0.0])) == 0.0
    assert median_reduction(np.array([1.0]), np.array([0.0])) == -math.inf


def test_bootstrap_keeps_pairs_together() -> None:
    noise = np.random.default_rng(0).normal(0, 100, 200)
    estimate = paired_bootstrap(noise + 1, noise, mean_difference)
    # The difference is 1 on every item, so however items are drawn it is 1.
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1, 1, 1))


def test_bootstrap_interval_holds_the_value_and_is_repeatable() -> None:
    values = np.random.default_rng(1).normal(0, 1, (2, 50))
    first, again = (paired_bootstrap(*values, mean_difference, seed=3) for _ in range(2))
    assert first == again
    assert first.low < first.value < first.high


def test_median_of_nothing() -> None:
    assert math.isnan(median([]))
