"""The four sub-skill tests: keys, the draw, and how answers are counted."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stretto.commons.resource import Rules
from stretto.commons.scenario import names as scenarios
from stretto.commons.scenario import scenario
from stretto.commons.subskills import COUNT, TESTS, instances, key, question, take
from stretto.errors import InputError
from stretto.protocols import Completion, Usage


@pytest.mark.parametrize(("stock", "share"), [(100, 10), (99, 9), (10, 1)])
def test_published_threshold_keys(stock: int, share: int) -> None:
    assert key("assumption", stock) == key("belief", stock) == (share, share)
    assert key("action", stock) == (1, share)


@pytest.mark.parametrize(
    ("stock", "each", "then"), [(60, 5, 70), (100, 20, 0), (90, 6, 100), (100, 0, 100), (14, 2, 0)]
)
def test_published_dynamics_keys(stock: int, each: int, then: int) -> None:
    # The last leaves 4, which the paper's key doubles to 8; by the rules nothing grows back.
    assert key("dynamics", stock, each) == (then, then)


@pytest.mark.parametrize("test", TESTS)
def test_instances_are_seeded_and_as_many_and_as_large_as_in_the_paper(test: str) -> None:
    made = instances(test)
    assert made == instances(test)
    assert made != instances(test, seed=1)
    assert len(made) == COUNT == 150
    assert made[:20] == instances(test, count=20)
    assert min(one.stock for one in made) < 15
    assert max(one.stock for one in made) > 95
    for one in made:
        assert 10 <= one.stock <= 100
        assert 0 <= one.each <= one.stock // 5
        if test == "dynamics":
            # Where nothing is left out, the key is the paper's formula.
            assert one.low == one.high == max(0, min(100, 2 * (one.stock - 5 * one.each)))
        else:
            assert one.each == 0
            assert one.high == one.stock // 2 // 5
            assert one.low == (1 if test == "action" else one.high)
    assert any(one.each for one in made) == (test == "dynamics")


@given(st.integers(10, 100))
def test_a_threshold_key_keeps_the_stock_and_one_more_does_not(stock: int) -> None:
    _, most = key("belief", stock)
    assert 2 * (stock - 5 * most) >= stock or stock == 100
    assert 2 * (stock - 5 * (most + 1)) < stock


@pytest.mark.parametrize("name", ["fishery", "pasture", "pollution"])
def test_questions_say_what_is_given_and_ask_for_what_the_key_says(name: str) -> None:
    assert name in scenarios()
    for test in TESTS:
        one = instances(test)[0]
        text = question(one, scenario(name), Rules()).text
        assert scenario(name).told_stock(one.stock) in text
        assert ("the same number of" in text) == (test == "assumption")
    # The key is what is there: in the river's case, what is clean, not what is polluted.
    asked = question(instances("dynamics")[0], scenario(name), Rules()).text
    assert "pollut" not in asked
    assert f"of {scenario(name).resource} will there be" in asked


class Pupil:
    """Right, wrong, or not to be read, in turn."""

    scripted, name = True, "pupil"

    def __init__(self, *says: str) -> None:
        self.says, self.asked = says, 0

    async def complete(self, messages, **_):
        stock = int(re.findall(r"There are (\d+)", messages[1].content)[0])
        kind = self.says[stock % len(self.says)]
        self.asked += 1
        good = stock // 2 // 5
        text = {
            "right": f'{{"reasoning": "", "units": {good}}}',
            "wrong": f'{{"reasoning": "", "units": {good + 1}}}',
            "none": "I would say ten.",
        }
        return Completion(text[kind], usage=Usage(3, 2))  # fmt: skip


def test_what_cannot_be_read_is_counted_apart() -> None:
    told = asyncio.run(take(Pupil("right"), "belief", count=50))
    assert (told.right.value, told.right.runs, told.outcomes) == (1.0, 50, {"ok": 50})
    assert 0.92 < told.right.low < 1.0
    assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (150, 100)
    pupil = Pupil("right", "wrong", "none")
    told = asyncio.run(take(pupil, "action", "pasture", count=60, attempts=2))
    ok, invalid = told.outcomes["ok"], told.outcomes["invalid"]
    assert ok + invalid == 60
    assert pupil.asked == ok + 2 * invalid
    assert told.right.runs == ok
    assert told.of_all.runs == 60
    assert told.of_all.value == pytest.approx(told.right.value * ok / 60)
    assert told.right.low < told.right.value < told.right.high
    told = asyncio.run(take(Pupil("none"), "belief", count=3, attempts=1))
    assert (told.right, told.of_all.value) == (None, 0.0)


def test_no_such_test() -> None:
    with pytest.raises(InputError, match="there are dynamics"):
        key("mathematics", 10)  # type: ignore[arg-type]
