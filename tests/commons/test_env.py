"""PettingZoo's and Gymnasium's own checks, several resources, and the conformance kit."""

import warnings

import numpy as np
import pytest

from stretto.commons.policies import policy
from stretto.commons.resource import Growth, Rules, Shock
from stretto.commons.several import Several
from stretto.commons.testing import check_village
from stretto.commons.village import Village
from stretto.errors import ConfigError, InputError

pytest.importorskip("pettingzoo")
from gymnasium.utils.env_checker import check_env
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test

from stretto.commons.env import CommonsEnv, VillagerEnv, aec_env

NAMES = ("Ana", "Ben", "Cleo", "Dan", "Eva")
SOME_RULES = [
    Rules(),
    Rules(growth=Growth("logistic", 1.2, 0.3), shocks=(Shock(2, 0.5),)),
    Rules(allocation="proportional", capacity=40, collapse_below=2, caps=(1, 2, 30, 40, 50)),
]


@pytest.mark.parametrize("rules", SOME_RULES)
def test_pettingzoos_tests(rules: Rules) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parallel_api_test(CommonsEnv(rules), num_cycles=200)
        parallel_seed_test(lambda: CommonsEnv(rules))
        api_test(aec_env(rules), num_cycles=200)
        seed_test(lambda: aec_env(rules), num_cycles=50)


def test_gymnasiums_test() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(VillagerEnv([policy("threshold")]), skip_render_check=True)


def test_both_interfaces_play_the_same_game() -> None:
    demands = np.random.default_rng(0).integers(0, 25, (12, 5)).tolist()
    parallel, turns = CommonsEnv(), aec_env()
    parallel.reset(seed=3)
    rewards = dict.fromkeys(parallel.possible_agents, 0.0)
    for month in demands:
        if parallel.agents:
            got = parallel.step(dict(zip(parallel.agents, month, strict=True)))[1]
            rewards = {agent: rewards[agent] + got[agent] for agent in rewards}
    turns.reset(seed=3)
    paid, acted = dict.fromkeys(rewards, 0.0), dict.fromkeys(rewards, 0)
    for agent in turns.agent_iter():
        _, reward, ended, truncated, _ = turns.last()
        paid[agent] += reward
        place = turns.possible_agents.index(agent)
        turns.step(None if ended or truncated else demands[acted[agent]][place])
        acted[agent] += 1
    assert paid == rewards
    assert sum(rewards.values()) > 100


def test_one_seat_among_scripted_neighbours() -> None:
    env = VillagerEnv([policy("threshold")], seat=2)
    observation, _ = env.reset(seed=0)
    assert observation[:3] == pytest.approx([1 / 12, 1.0, 0.1])
    told = [env.step(np.int64(10)) for _ in range(12)]
    assert sum(reward for _, reward, *_ in told) == 120.0
    assert [(ended, truncated) for _, _, ended, truncated, _ in told] == [(False, False)] * 11 + [
        (False, True)
    ]
    assert told[-1][-1]["left"] == 50
    env.reset(seed=0)
    *_, ended, truncated, info = env.step(np.int64(100))
    assert (ended, truncated, info["left"]) == (True, False, 0)


def test_wrong_actions_and_seats() -> None:
    env = CommonsEnv()
    with pytest.raises(InputError, match="reset first"):
        env.step({})
    env.reset()
    with pytest.raises(InputError, match="0 to 100"):
        env.step(dict.fromkeys(env.agents, 101))
    with pytest.raises(InputError, match="3 policies for 4"):
        VillagerEnv([policy("greedy")] * 3)
    with pytest.raises(InputError, match="seat"):
        VillagerEnv([policy("greedy")], seat=5)


def test_several_resources_and_limited_effort() -> None:
    two = Several([Rules(), Rules(capacity=50)], 3, effort=15)
    demands = np.zeros((3, 5, 2), np.int64)
    demands[:, :, 0], demands[:, :, 1] = 10, 5
    demands[2, :, 1] = 1
    demands[1] = [15, 0]
    for month in range(1, 13):
        got = two.harvest(demands)
        if month == 1:
            assert (got == demands).all()
        assert two.ended.tolist() == [month == 12, month >= 2, month == 12]
        if month < 12:
            two.grow()
    assert two.stock.shape == (3, 2)
    with pytest.raises(InputError, match="16 units in all"):
        Several([Rules()], effort=15).harvest(np.full((1, 5, 1), 16))
    with pytest.raises(ConfigError, match="same villagers"):
        Several([Rules(), Rules(months=3)])


@pytest.mark.parametrize("rules", SOME_RULES)
def test_the_village_conforms(rules: Rules) -> None:
    check_village(lambda seed: Village(rules, NAMES, seed=seed))


class Leaking(Village):
    """A village that loses a unit."""

    def harvest(self, demands: dict) -> object:  # type: ignore[override]
        told = super().harvest(demands)
        told.received[self.names[0]] = max(told.received[self.names[0]] - 1, 0)
        return told


def test_the_kit_finds_a_leak() -> None:
    with pytest.raises(AssertionError, match="units were lost"):
        check_village(lambda seed: Leaking(Rules(), NAMES, seed=seed))


def test_villages_go_on_while_any_resource_lives() -> None:
    two = Several([Rules(months=4), Rules(months=4)], 2, ends="all")
    demands = np.zeros((2, 5, 2), np.int64)
    demands[:, :, 0], demands[0, :, 1] = 20, 3
    for month in range(1, 5):
        got = two.harvest(demands)
        assert got[:, :, 0].sum() == (200 if month == 1 else 0)
        assert got[:, :, 1].sum() == 15
        assert two.ended.tolist() == [month == 4] * 2
        if month < 4:
            two.grow()
    with pytest.raises(InputError, match="ended"):
        two.grow()


@pytest.mark.parametrize("action", [10.5, -1, "10", None])
def test_actions_are_whole_units(action: object) -> None:
    env = CommonsEnv()
    env.reset()
    with pytest.raises(InputError, match=f"0 to 100, not {action}"):
        env.step({**dict.fromkeys(env.agents, 1), "villager_3": action})  # type: ignore[dict-item]
