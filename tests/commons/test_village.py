"""One village against the fleet, newcomers, caps and the moves that are not allowed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stretto.commons.fleet import Fleet, play
from stretto.commons.game import games
from stretto.commons.metrics import equality, measure
from stretto.commons.policies import NAMES, policy
from stretto.commons.resource import Growth, Rules, Shock, grow, share, threshold
from stretto.commons.village import Village
from stretto.errors import ConfigError, InputError

PEOPLE = ("Ana", "Ben", "Cleo", "Dan", "Eva")
RULES = st.builds(
    Rules,
    capacity=st.integers(20, 200),
    growth=st.builds(
        Growth, st.sampled_from(["multiply", "logistic"]), st.floats(1.0, 3.0), st.floats(0, 0.5)
    ),
    months=st.integers(1, 8),
    allocation=st.sampled_from(["stochastic", "proportional"]),
    shocks=st.sampled_from([(), (Shock(2, 0.5),), (Shock(1, 0.9), Shock(3, 0.1))]),
    caps=st.sampled_from([(), (3, 4, 50, 6, 70)]),
)


@given(RULES, st.integers(0, 99), st.data())
def test_a_village_is_a_fleet_of_one(rules: Rules, seed: int, data: st.DataObject) -> None:
    village, fleet = Village(rules, PEOPLE, seed=seed), Fleet(rules, 1, seed=seed)
    while True:
        demands = data.draw(st.lists(st.integers(0, 60), min_size=5, max_size=5))
        told = village.harvest(dict(zip(PEOPLE, demands, strict=True)))
        got = fleet.harvest(np.array([demands]))
        assert list(told.received.values()) == got[0].tolist()
        assert (told.stock, told.left) == (fleet.stock[0], fleet.left[0])
        assert told.stock - sum(told.received.values()) == told.left >= 0
        assert village.ended == fleet.ended
        if village.ended:
            break
        village.next_month()
        fleet.grow()
        assert village.stock == fleet.stock[0]


@given(RULES, st.data())
def test_the_threshold_keeps_the_stock_and_one_more_does_not(
    rules: Rules, data: st.DataObject
) -> None:
    rules = Rules(capacity=rules.capacity, growth=Growth(rules.growth.kind, rules.growth.rate))
    stock = data.draw(st.integers(0, rules.capacity))
    most = int(threshold(rules, np.array(stock)))
    keeping = [x for x in range(stock + 1) if grow(rules, np.array(stock - x)) >= stock]
    assert most == max(keeping, default=0)


def test_each_policy_plays_and_random_ones_repeat() -> None:
    for name in NAMES:
        made = policy(f"{name}:7" if name == "constant" else name)
        one, two = (play(Rules(), [made], 3, seed=4) for _ in range(2))
        assert (one.received == two.received).all(), name
        assert (one.received.sum(axis=2) <= one.stock).all()


def test_the_best_response_takes_all_in_the_last_month() -> None:
    history = play(Rules(), [policy("threshold")] * 4 + [policy("best_response")])
    (game,) = games(Rules(), history)
    assert game.months == 12
    assert game.collapsed
    assert game.received[:, 4].sum() > 130, "more than the equal share of everything"


@pytest.mark.parametrize("name", ["", "constant", "constant:x", "greedy:3", "nobody"])
def test_policies_that_do_not_exist(name: str) -> None:
    with pytest.raises(InputError, match=f"policy '{name}'"):
        policy(name)


@pytest.mark.parametrize(
    ("newcomer", "villager", "stocks", "left", "months"),
    [
        (10, 10, [100] * 15, [60] * 3 + [50] * 12, 15),
        (40, 10, [100] * 4 + [40], [60] * 3 + [20, 0], 5),
        (12, 12, [100] * 4 + [80, 40], [52] * 3 + [40, 20, 0], 6),
    ],
)
def test_a_newcomer_as_in_the_reference(
    newcomer: int, villager: int, stocks: list[int], left: list[int], months: int
) -> None:
    village = Village(Rules(villagers=4, months=15), PEOPLE[:4])
    while True:
        if village.month == 4:
            assert village.share == 12
            village.arrive("Eva")
            assert village.share == 10
        takes = {name: newcomer if name == "Eva" else villager for name in village.names}
        village.harvest(takes)
        if village.ended:
            break
        village.next_month()
    game = village.game()
    assert game.stock.tolist()[: len(stocks)] == stocks
    assert game.left.tolist()[: len(left)] == left
    assert game.months == months
    assert game.present[:, 4].tolist() == [False] * 3 + [True] * (months - 3)
    assert measure(game).invalid == 0.0


def test_an_answer_that_cannot_be_read_takes_nothing_and_is_counted() -> None:
    village = Village(Rules(months=1), PEOPLE)
    told = village.harvest(dict.fromkeys(PEOPLE, 20) | {"Ben": None})
    assert told.received["Ben"] == 0
    assert told.left == 20
    found = measure(village.game())
    assert found.invalid == pytest.approx(0.2)
    assert found.over_usage == 1.0, "of the four who acted"
    assert measure(village.game(), "legacy").over_usage == pytest.approx(0.8)


def test_what_is_not_allowed_is_said() -> None:
    village = Village(Rules(), PEOPLE)
    with pytest.raises(InputError, match="harvest first"):
        village.next_month()
    with pytest.raises(InputError, match="the village has"):
        village.harvest({"Ana": 3})
    with pytest.raises(InputError, match="negative"):
        village.harvest(dict.fromkeys(PEOPLE, -1))
    village.harvest(dict.fromkeys(PEOPLE, 20))
    with pytest.raises(InputError, match="already"):
        village.harvest(dict.fromkeys(PEOPLE, 0))
    with pytest.raises(InputError, match="ended"):
        village.next_month()
    with pytest.raises(ConfigError, match="capacity"):
        Rules(capacity=0)
    assert share(Rules.scaled(50), np.array(1000)) == 10


@pytest.mark.parametrize(
    ("totals", "expected"),
    [
        ([108, 108, 108, 108, 168], 0.920),
        ([12, 12, 12, 12, 60], 0.6444),
        ([20, 20, 20, 20, 16], 0.9667),
        ([0, 0, 0, 0, 0], None),
        ([7], 1.0),
    ],
)
def test_equality_as_in_the_reference(totals: list[int], expected: float | None) -> None:
    assert equality(np.array(totals)) == (expected and pytest.approx(expected, abs=5e-5))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
def test_equality_is_the_papers_formula(totals: list[int]) -> None:
    found, units = equality(np.array(totals)), np.array(totals)
    if not sum(totals):
        assert found is None
        return
    pairs = np.abs(units[:, None] - units[None, :]).sum()
    assert found == pytest.approx(1 - pairs / (2 * len(totals) * units.sum()))


def test_efficiency_of_another_start_and_of_more_than_everything() -> None:
    """12.5: of f(0); a village that starts with 40 has f(0) = 20."""
    village = Village(Rules(months=2, start=40), PEOPLE)
    village.harvest(dict.fromkeys(PEOPLE, 2))
    village.next_month()
    assert village.stock == 60
    village.harvest(dict.fromkeys(PEOPLE, 2))
    assert measure(village.game()).efficiency == pytest.approx(20 / 40)
    rich = Village(Rules(months=1), PEOPLE)
    rich.harvest(dict.fromkeys(PEOPLE, 20))
    found = measure(rich.game())
    assert (found.efficiency, found.survival_time, found.survived) == (1.0, 1, False)
    assert measure(rich.game(), "legacy").survived, "the tables do not tell of the last month"
    talked = rich.game(utterances=[9])
    assert measure(talked, "legacy").over_usage == pytest.approx(0.3571, abs=5e-5)


def test_newcomers_count_from_the_day_they_come() -> None:
    village = Village(Rules(villagers=2, capacity=40, collapse_below=2, months=2), ("Ana", "Ben"))
    village.harvest({"Ana": 12, "Ben": 4})
    village.next_month()
    village.arrive("Cleo")
    village.harvest({"Ana": 6, "Ben": 6, "Cleo": 8})
    found = measure(village.game())
    assert found.gain == pytest.approx((18 + 10 + 8) / 3)
    # phi is 10 of two, then 6 of three; the absent take no part.
    assert found.over_usage == pytest.approx(2 / 5)


def test_no_answer_at_all_is_no_restraint() -> None:
    village = Village(Rules(months=1), PEOPLE)
    village.harvest(dict.fromkeys(PEOPLE, None))
    found = measure(village.game())
    assert (found.over_usage, found.over_demand, found.equality) == (None, None, None)
    assert found.invalid == 1.0
    assert measure(village.game(), "legacy").over_usage == 0.0


def test_a_googol_is_wanted() -> None:
    for law in ("stochastic", "proportional"):
        village = Village(Rules(months=1, allocation=law), PEOPLE)  # type: ignore[arg-type]
        told = village.harvest({**dict.fromkeys(PEOPLE, 0), "Ana": 10**100})
        assert told.received["Ana"] == 100
        assert measure(village.game()).over_demand == pytest.approx(0.2)
    fleet = Fleet(Rules(), 1)
    assert fleet.harvest(np.array([[10**100, 0, 0, 0, 0]])).tolist() == [[100, 0, 0, 0, 0]]


def test_caps_bound_what_is_received_and_not_what_is_wanted() -> None:
    village = Village(Rules(months=1, caps=(5,) * 5), PEOPLE)
    village.harvest(dict.fromkeys(PEOPLE, 30))
    found = measure(village.game())
    assert (found.gain, found.over_usage, found.over_demand) == (5.0, 0.0, 1.0)


@pytest.mark.parametrize("units", [10.5, float("nan"), "10"])
def test_fractions_are_refused_and_never_cut(units: float) -> None:
    with pytest.raises(InputError, match="whole units"):
        Fleet(Rules(), 1).harvest(np.array([[units] * 5]))
    with pytest.raises((InputError, TypeError)):
        Village(Rules(), PEOPLE).harvest(dict.fromkeys(PEOPLE, units))  # type: ignore[arg-type]


def test_plans_for_a_large_capacity_are_refused() -> None:
    with pytest.raises(InputError, match="at most 2000 units"):
        play(Rules.scaled(500), [policy("best_response")])
