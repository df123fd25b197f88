"""Intervals and tests against values worked out by hand or by counting."""

from itertools import permutations

import numpy as np
import pytest

pytest.importorskip("scipy")
from stretto.commons.stats import difference, kaplan_meier, mean, proportion
from stretto.errors import InputError


def test_survival_by_hand() -> None:
    # Five villages: collapses in months 1, 3 and 3, one broken off in month 2, one lives to 12.
    curve = kaplan_meier([1, 3, 3, 2, 12], [True, True, True, False, False])
    assert curve.months.tolist() == [0, 1, 3]
    assert curve.alive == pytest.approx([1, 4 / 5, 4 / 5 * 1 / 3])
    assert (curve.low[1:] < curve.alive[1:]).all()
    assert (curve.alive[1:] < curve.high[1:]).all()


def test_nobody_died() -> None:
    assert kaplan_meier([12, 12], [False, False]).alive.tolist() == [1.0]
    with pytest.raises(InputError, match="at least one"):
        kaplan_meier([], [])


def test_a_bootstrap_interval_covers() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        found = mean(rng.exponential(2.0, 20))
        hits += found.low <= 2.0 <= found.high
    assert 50 <= hits <= 60
    assert mean([4.0, 4.0, 4.0]).low == 4.0
    assert mean([1.0, 2.0]).high == 1.5


def test_the_permutation_test_counts_all_ways() -> None:
    a, b = [1.0, 2.0, 3.0], [2.5, 6.0, 7.0]
    found = difference(a, b)
    whole = np.array(a + b)
    gaps = [
        np.mean(whole[list(p[3:])]) - np.mean(whole[list(p[:3])]) for p in permutations(range(6))
    ]
    exact = np.mean(np.abs(gaps) >= abs(found.value.value) - 1e-12)
    assert found.p == pytest.approx(exact)
    assert found.value.value == pytest.approx(np.mean(b) - 2.0)


def test_pairs_see_what_groups_do_not() -> None:
    seeds = np.arange(10) * 10.0
    paired = difference(seeds, seeds + 1, paired=True)
    assert paired.p == pytest.approx(2 / 2**10)
    assert difference(seeds, seeds + 1).p > 0.5
    assert difference(seeds, seeds, paired=True).p == 1.0
    with pytest.raises(InputError, match="10 and 9"):
        difference(seeds, seeds[1:], paired=True)


def test_shares() -> None:
    assert proportion(0, 5).high == pytest.approx(0.4345, abs=1e-4)  # Wilson, by the formula
    with pytest.raises(InputError, match="6 of 5"):
        proportion(6, 5)


def test_one_run_is_no_test() -> None:
    for paired, second in ((True, [5.0]), (False, [5.0, 7.0])):
        found = difference([1.0], second, paired=paired)
        assert found.value.value == np.mean(second) - 1.0
        assert np.isnan(found.p)
