"""What a step is thought to cost and to make, and what drafts may lose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stretto.engine.pace import Belief, Costs, Offer, Purse, choose_rows


def test_rows_are_added_while_they_are_worth_their_cost() -> None:
    costs = Costs()
    for cells in range(1, 21):
        costs.measured(cells, 1.0 if cells <= 8 else 1.0 + 0.5 * (cells - 8))
    long = Offer(0.9, 1, 16)
    assert choose_rows(costs, 1, [long], 99).rows == [7]  # up to where cells begin to cost
    assert choose_rows(costs, 1, [long], 3).rows == [3]
    assert choose_rows(costs, 8, [Offer(0.2, 1, 16)], 99).rows == [0]
    assert choose_rows(costs, 2, [Offer(0.9, 1, 3), Offer(0.1, 4, 3)], 99).rows == [3, 0]
    assert choose_rows(Costs(), 1, [Offer(1.0, 1, 4)], 99).rows == [0], "nothing was measured yet"
    one = choose_rows(costs, 1, [Offer(0.5, 1, 1)], 99)
    assert one.rows == [1] and one.speed == pytest.approx(1.5, rel=0.03)


def test_stalls_do_not_count_as_cost() -> None:
    costs = Costs()
    costs.measured(1, 1.0)
    costs.measured(1, 100.0)
    assert (costs.of(1) or 9) < 1.2


def test_a_longer_pass_is_never_thought_to_take_longer_than_several() -> None:
    costs = Costs()
    costs.measured(4, 1.0)
    for cells, most in ((8, 2.0), (5, 2.0), (40, 10.0)):
        costs.measured(cells, 100.0)
        assert costs.of(cells) == pytest.approx(most)


def test_drafts_that_do_not_pay_are_given_up() -> None:
    purse = Purse()
    lost = 0.0
    for _ in range(1000):
        purse.passed(1.0)
        if not purse.is_empty:
            purse.tried(1.0, 1.5, 1.1)
            lost += 0.4
    assert 0 < lost <= 0.01 * 1000 + 2.0
    for _ in range(100):
        purse.tried(1.0, 1.5, 3.0)
    assert not purse.is_empty
    purse.tried(1.0, 1000.0, 1.0)
    assert not purse.is_empty, "one stall must not end it"


@given(st.integers(1, 12), st.data())
def test_beliefs_follow_what_comes_true(drafted: int, data: st.DataObject) -> None:
    true = data.draw(st.integers(0, drafted))
    belief = Belief(0.5)
    for _ in range(200):
        belief.tested(true, drafted)
    assert belief.rate == pytest.approx(true / min(true + 1, drafted), abs=0.07)
    for _ in range(5000):
        belief.waited()
    assert belief.rate == pytest.approx(0.5, abs=0.01)
