"""The harvest game for reinforcement learning: PettingZoo's two interfaces and Gymnasium's.

Only the harvest: an action is a demand in units, the reward what was received. A collapse
terminates, the horizon truncates. Observations tell what the villagers know before the harvest.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils import parallel_to_aec

from stretto.commons.fleet import Policy, View
from stretto.commons.resource import Rules
from stretto.commons.seeds import seed_of
from stretto.commons.village import Village
from stretto.errors import InputError

Observation = NDArray[np.float32]


class CommonsEnv(ParallelEnv[str, Any, Any]):
    """All villagers harvest at once.

    Observation of villager i, (4 + N,) float32: month / months, stock / capacity, share of the
    threshold / capacity, own last demand / capacity, and what each received last month / capacity
    (own first, then the others in order). Actions: 0 to the capacity, in units.
    """

    metadata: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        "name": "stretto_commons_v0",
        "render_modes": ["ansi"],
        "is_parallelizable": True,
    }

    def __init__(self, rules: Rules | None = None, render_mode: str | None = None) -> None:
        self.rules = rules or Rules()
        self.render_mode = render_mode
        self.possible_agents = [f"villager_{i}" for i in range(self.rules.villagers)]
        self.agents: list[str] = []
        size = 4 + self.rules.villagers
        self._observations = {a: spaces.Box(0.0, 1.0, (size,)) for a in self.possible_agents}
        self._actions = {a: spaces.Discrete(self.rules.capacity + 1) for a in self.possible_agents}
        self._seed, self._episode = 0, 0
        self.village: Village | None = None

    def observation_space(self, agent: str) -> spaces.Box:
        """The same object each time, as PettingZoo asks for."""
        return self._observations[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        """Demands in units."""
        return self._actions[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        """A new game; without a seed, the next of those that follow from the last seed."""
        if seed is not None:
            self._seed, self._episode = seed, 0
        self.village = Village(
            self.rules, self.possible_agents, seed=seed_of(self._seed, "episode", self._episode)
        )
        self._episode += 1
        self.agents = list(self.possible_agents)
        return self._observe(), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, int]
    ) -> tuple[
        dict[str, Observation], dict[str, float], dict[str, bool], dict[str, bool],
        dict[str, dict[str, Any]],
    ]:  # fmt: skip
        """Harvest, and let what is left grow back.

        Raises:
            InputError: before a reset, after the end, or an action outside of the space.
        """
        village, playing = self.village, self.agents
        if village is None or not playing:
            raise InputError("step: call reset first")
        for agent in playing:
            action = actions.get(agent)
            # Spaces take numpy's integers only; a fraction or nothing is no action.
            whole = isinstance(action, int | np.integer)
            if not whole or not 0 <= int(action) <= self.rules.capacity:
                raise InputError(f"action of {agent}: must be 0 to {self.rules.capacity}, "
                                 f"not {action}")  # fmt: skip
        told = village.harvest({agent: int(actions[agent]) for agent in playing})
        ended = village.ended
        if not ended:
            village.next_month()
        seen = self._observe()
        self.agents = [] if ended else playing
        return (
            seen,
            {agent: float(told.received[agent]) for agent in playing},
            dict.fromkeys(playing, told.collapsed),
            dict.fromkeys(playing, ended and not told.collapsed),
            {agent: {"left": told.left, "share": told.share} for agent in playing},
        )

    def render(self) -> str | None:
        """The month in one line, with render mode ``ansi``."""
        if self.render_mode != "ansi" or self.village is None:
            return None
        last = self.village.harvests[-1] if self.village.harvests else None
        taken = f", {sum(last.received.values())} taken last" if last else ""
        return f"month {self.village.month}: {self.village.stock} units{taken}"

    def close(self) -> None:
        """Nothing is held."""

    def state(self) -> Observation:
        """(2,): month and stock, as in the observations."""
        assert self.village is not None
        return np.array([self.village.month / self.rules.months,
                         self.village.stock / self.rules.capacity], np.float32)  # fmt: skip

    def _observe(self) -> dict[str, Observation]:
        village = self.village
        assert village is not None
        last = village.harvests[-1] if village.harvests else None
        capacity = self.rules.capacity
        common = [village.month / self.rules.months, village.stock / capacity,
                  village.share / capacity]  # fmt: skip
        told = {}
        for agent in self.agents:
            order = [agent, *(other for other in self.agents if other != agent)]
            demand = (last.demands[agent] or 0) if last else 0
            received = [last.received[name] / capacity if last else 0.0 for name in order]
            told[agent] = np.array([*common, demand / capacity, *received], np.float32)
        return told


def aec_env(rules: Rules | None = None, render_mode: str | None = None) -> AECEnv:
    """The same game, one villager after the other; nobody sees a demand before all have spoken."""
    return parallel_to_aec(CommonsEnv(rules, render_mode))


class VillagerEnv(gymnasium.Env[Any, Any]):
    """One seat of the game, the others scripted.

    Args:
        others: policies of the other villagers, one for all or one each.
        rules: of the game.
        seat: which villager is yours, from 0.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"]}  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        others: Sequence[Policy],
        rules: Rules | None = None,
        seat: int = 0,
        render_mode: str | None = None,
    ) -> None:
        self._env = CommonsEnv(rules, render_mode)
        self.render_mode = render_mode
        n = self._env.rules.villagers
        if len(others) not in (1, n - 1):
            raise InputError(f"others: {len(others)} policies for {n - 1} villagers")
        if not 0 <= seat < n:
            raise InputError(f"seat: must be 0 to {n - 1}, not {seat}")
        each = list(others) * (n - 1) if len(others) == 1 else list(others)
        self._seat = self._env.possible_agents[seat]
        names = [name for name in self._env.possible_agents if name != self._seat]
        self._others = dict(zip(names, each, strict=True))
        self.observation_space = self._env.observation_space(self._seat)
        self.action_space = self._env.action_space(self._seat)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new game."""
        super().reset(seed=seed)
        observations, infos = self._env.reset(seed)
        return observations[self._seat], infos[self._seat]

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Harvest with the others."""
        view, names = self._view(), self._env.possible_agents
        actions = {
            name: min(int(policy(view, names.index(name))[0]), self._env.rules.capacity)
            for name, policy in self._others.items()
        }
        seen, rewards, fallen, over, infos = self._env.step({**actions, self._seat: int(action)})
        me = self._seat
        return seen[me], rewards[me], fallen[me], over[me], infos[me]

    def render(self) -> Any:
        """The month in one line."""
        return self._env.render()

    def _view(self) -> View:
        village = self._env.village
        if village is None:
            raise InputError("step: call reset first")
        last = village.harvests[-1] if village.harvests else None
        none = np.zeros((1, village.rules.villagers), np.int64)
        return View(
            village.rules, village.month, np.array([village.stock]), np.array([village.share]),
            np.array([[last.demands[n] or 0 for n in village.names]]) if last else none,
            np.array([[last.received[n] for n in village.names]]) if last else none,
        )  # fmt: skip
