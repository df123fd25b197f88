"""Every trajectory of the reference environment, and its rationing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stretto.commons.allocation import allocate, one_by_one
from stretto.commons.fleet import Policy, View, play
from stretto.commons.game import games
from stretto.commons.metrics import measure
from stretto.commons.policies import constant, fair_share, threshold
from stretto.commons.resource import Rules, Units

ORACLES = json.loads((Path(__file__).parent / "oracles.json").read_text())


def units(view: View, number: int) -> Units:
    return np.minimum(np.full_like(view.stock, number), view.stock)


def after_first(first: int, later: Callable[[View], Units]) -> Policy:
    return lambda view, _: units(view, first) if view.month == 1 else later(view)


def recover(view: View, _: int) -> Units:
    return units(view, 16 if view.month == 1 else 10 if view.stock[0] == 100 else 0)


def each(*numbers: int) -> list[Policy]:
    return [constant(number) for number in numbers]


POLICIES: dict[str, list[Policy]] = {
    **{f"const{n}": [constant(n)] for n in (0, 5, 10, 11, 12, 13, 15, 19, 20)},
    "all_h": [lambda view, _: view.stock],
    "threshold": [threshold()],
    "threshold_plus1": [threshold(1)],
    "half_threshold": [lambda view, _: view.share // 2],
    "stock_tenth": [lambda view, _: view.stock // 10],
    "fair_share": [fair_share],
    "nine_x4_plus14": each(9, 9, 9, 9, 14),
    "greedy_half": [*[threshold()] * 4, lambda view, _: view.stock // 2],
    "one20": each(10, 10, 10, 10, 20),
    "shock16": [after_first(16, lambda view: view.share)],
    "shock19": [after_first(19, lambda view: view.share)],
    "recover": [recover],
    "ramp": [lambda view, _: units(view, 9 + view.month)],
    "endgame": [lambda view, _: units(view, 10) if view.month < 12 else view.stock],
    "leave4": each(19, 19, 19, 19, 20),
    "leave5": [after_first(19, lambda view: view.stock * 0)],
    "alternate": [
        lambda view, me: units(view, 20 if (view.month - 1) % 5 == me else 5) for _ in range(5)
    ],
}


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle["id"])
def test_the_reference_environments_trajectories(oracle: dict) -> None:
    rules = Rules()
    (game,) = games(rules, play(rules, POLICIES[oracle["id"]]))
    assert game.stock.tolist() == oracle["h"]
    assert game.left.tolist() == oracle["left"]
    assert game.demands.sum(axis=1).tolist() == oracle["total_demand"]
    assert game.received.sum(axis=1).tolist() == oracle["total_caught"]
    assert game.collapsed == oracle["collapsed"]
    found = measure(game)
    assert found.survival_time == oracle["survival_time"]
    assert found.gain == pytest.approx(oracle["mean_gain"])
    assert 100 * found.efficiency == pytest.approx(oracle["efficiency_pct"], abs=0.005)
    talked = replace(game, utterances=np.full(game.months, 9))
    legacy = measure(talked, "legacy")
    told = oracle["legacy_over_usage_pct_9utt"]
    if told is not None and oracle["per_agent_deterministic"]:
        assert 100 * legacy.over_usage == pytest.approx(told, abs=0.005)
    assert 100 * found.over_demand == pytest.approx(oracle["over_usage_pct_by_demand"], abs=0.005)
    if oracle["per_agent_deterministic"]:
        assert game.received.sum(axis=0).tolist() == oracle["total_gain_per_agent"]
        assert 100 * found.over_usage == pytest.approx(
            oracle["over_usage_pct_by_caught"], abs=0.005
        )
        if game.received.any():
            assert found.equality is not None
            assert 100 * found.equality == pytest.approx(oracle["equality_pct"], abs=0.005)
        else:
            assert found.equality is None


@pytest.mark.parametrize(
    ("demands", "stock", "means", "deviations"),
    [
        ([100] * 5, 100, [20] * 5, [4.0] * 5),
        ([30] * 5, 70, [14] * 5, [3.35] * 5),
        ([50, 30, 20, 10, 5], 100, [35.68, 29.34, 19.98, 10, 5], [1.52, 1.50, 0.22, 0, 0]),
        ([40, 10, 10, 10, 10], 60, [20.11, 9.97, 9.97, 9.97, 9.97], [0.46] + [0.22] * 4),
        ([100, 100, 5, 5, 5], 50, [17.5, 17.5, 5, 5, 5], [2.99, 2.99, 0.03, 0.03, 0.03]),
        ([20] * 5, 100, [20] * 5, [0] * 5),
        ([1, 1, 1, 1, 200], 100, [1, 1, 1, 1, 96], [0] * 5),
    ],
)
def test_rationing_has_the_references_moments(
    demands: list[int], stock: int, means: list[float], deviations: list[float]
) -> None:
    tries = 40_000
    rng = np.random.default_rng(0)
    got = allocate(np.tile(demands, (tries, 1)), np.full(tries, stock), rng)
    assert (got.sum(axis=1) == min(stock, sum(demands))).all()
    # The reference's are of 4,000 seeds: five of their standard errors, and of ours.
    for mean, deviation, of_mean, of_deviation in zip(
        got.mean(0), got.std(0), means, deviations, strict=True
    ):
        assert mean == pytest.approx(of_mean, abs=5 * (of_deviation + 0.02) / 4000**0.5 + 0.006)
        assert deviation == pytest.approx(of_deviation, rel=0.08, abs=0.03)


@pytest.mark.parametrize(
    ("seed", "expected"),
    [(0, [22, 20, 17, 22, 19]), (1, [21, 24, 15, 17, 23]), (2, [21, 16, 25, 21, 17])],
)
@pytest.mark.parametrize("demand", [100, 30])
def test_one_by_one_draws_as_the_reference_does(
    seed: int, expected: list[int], demand: int
) -> None:
    got = one_by_one(np.full(5, demand), 100, np.random.RandomState(seed))
    if demand == 100:
        assert got.tolist() == expected
    assert got.sum() == 100


def test_rationing_in_rounds_has_the_law_of_one_by_one() -> None:
    """Chi-square over every outcome of a small case, far from uniform."""
    demands, stock, tries = np.array([4, 2, 1]), 5, 20_000
    rng, slow = np.random.default_rng(1), np.random.RandomState(1)
    fast = allocate(np.tile(demands, (tries, 1)), np.full(tries, stock), rng)
    counts: dict[tuple[int, ...], list[int]] = {}
    for got in fast.tolist():
        counts.setdefault(tuple(got), [0, 0])[0] += 1
    for _ in range(tries):
        counts.setdefault(tuple(one_by_one(demands, stock, slow).tolist()), [0, 0])[1] += 1
    statistic = sum((a - b) ** 2 / (a + b) for a, b in counts.values())
    assert len(counts) > 2
    assert statistic < 3 * len(counts) + 10


def test_proportional_shares() -> None:
    rng = np.random.default_rng(0)
    for demands, stock, expected in (
        ([50, 30, 20, 10, 5], 100, [43, 27, 18, 8, 4]),
        ([7, 0, 0, 0, 99], 100, [6, 0, 0, 0, 94]),
    ):
        got = allocate(np.array([demands]), np.array([stock]), rng, "proportional")[0]
        assert got.sum() == stock
        assert np.abs(got - expected).max() <= 1
