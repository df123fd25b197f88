"""One village, readable: a state machine of months, with the villagers' names.

It is the plain twin of :class:`stretto.commons.fleet.Fleet`: same rules, same draws. A month is
``harvest`` (all at once), then whatever talk and reflection there is, then ``next_month``. The
month of a collapse is talked over too, as in the reference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stretto.commons.allocation import MOST, allocate
from stretto.commons.game import Game
from stretto.commons.resource import Rules, collapsed, grow, share, shocked
from stretto.commons.seeds import generator
from stretto.errors import InputError


@dataclass(frozen=True)
class Harvest:
    """What a month's harvest came to, by villager.

    Attributes:
        month: from 1.
        stock: units before it.
        left: units after it.
        share: phi(t): most per villager that would keep the stock.
        demands: units wanted; None where the answer could not be read, which takes nothing.
        received: units.
        collapsed: the stock fell below the limit.
    """

    month: int
    stock: int
    left: int
    share: int
    demands: dict[str, int | None]
    received: dict[str, int]
    collapsed: bool


class Village:
    """The state of one game.

    Attributes:
        rules: of the game; ``rules.villagers`` is how many there are at the start.
        names: of the villagers who are there now, in order.
        month: from 1.
        stock: units at the start of the month.
        harvests: of the months so far.
    """

    def __init__(self, rules: Rules, names: Sequence[str], *, seed: int = 0) -> None:
        if len(names) != rules.villagers or len(set(names)) < len(names):
            raise InputError(f"names: {rules.villagers} different ones are needed, not {names!r}")
        self.rules, self.names = rules, list(names)
        self._rationing, self._nature = generator(seed, "rationing"), generator(seed, "nature")
        self._caps = dict(zip(names, rules.caps, strict=True)) if rules.caps else {}
        self._everybody = list(names)
        self.month = 1
        self.stock = int(shocked(rules, np.array(rules.first_stock), 1))
        self.harvests: list[Harvest] = []

    @property
    def share(self) -> int:
        """phi(t) for those who are there now."""
        return int(share(self.rules, np.array(self.stock), len(self.names)))

    @property
    def harvested(self) -> bool:
        """Whether this month's harvest is over."""
        return len(self.harvests) == self.month

    @property
    def ended(self) -> bool:
        """Whether this was the last month: a collapse, or the horizon."""
        if not self.harvested:
            return False
        return self.harvests[-1].collapsed or self.month >= self.rules.months

    def arrive(self, name: str, cap: int | None = None) -> None:
        """A newcomer, before the harvest of a month."""
        if self.harvested or name in self._everybody:
            raise InputError(f"newcomer {name!r}: must be new, and come before the harvest")
        self.names.append(name)
        self._everybody.append(name)
        if cap is not None:
            self._caps[name] = cap

    def harvest(self, demands: Mapping[str, int | None]) -> Harvest:
        """All harvest at once.

        Args:
            demands: units by villager; None: the answer could not be read.

        Raises:
            InputError: somebody is missing or unknown, a demand is negative or no whole number, or
                the month was harvested already.
        """
        if self.harvested:
            raise InputError(f"month {self.month}: was harvested already")
        if set(demands) != set(self.names):
            raise InputError(f"demands: of {sorted(demands)}, but the village has {self.names}")
        # A demand of a googol is one of a billion: nothing changes, and sums stay exact.
        demands = {
            name: units if units is None else min(units, MOST) for name, units in demands.items()
        }
        wanted = [min(demands[name] or 0, self._caps.get(name, MOST)) for name in self.names]
        got = allocate(
            np.array([wanted]), np.array([self.stock]), self._rationing, self.rules.allocation
        )[0].tolist()
        left = self.stock - sum(got)
        told = Harvest(
            self.month, self.stock, left, self.share,
            {name: demands[name] for name in self.names},
            dict(zip(self.names, got, strict=True)),
            bool(collapsed(self.rules, np.array(left))),
        )  # fmt: skip
        self.harvests.append(told)
        return told

    def next_month(self) -> None:
        """What is left grows back.

        Raises:
            InputError: the month was not harvested, or the game has ended.
        """
        if not self.harvested or self.ended:
            raise InputError(
                f"month {self.month}: {'the game has ended' if self.ended else 'harvest first'}"
            )
        grown = grow(self.rules, np.array([self.harvests[-1].left]), self._nature)
        self.month += 1
        self.stock = int(shocked(self.rules, grown, self.month)[0])

    def game(
        self,
        utterances: Sequence[int] = (),
        limits: Sequence[float] = (),
        transfers: Sequence[Mapping[str, float]] = (),
    ) -> Game:
        """What happened, for the measures.

        Args:
            utterances: by month; none: nobody spoke.
            limits: agreed per villager, by month; NaN where none was.
            transfers: units of payoff gained or lost otherwise, by month and villager.
        """
        months, names = len(self.harvests), self._everybody

        def grid(pick: str) -> np.ndarray:
            return np.array(
                [[getattr(h, pick).get(name) or 0 for name in names] for h in self.harvests],
                np.int64,
            ).reshape(months, len(names))

        present = np.array([[name in h.demands for name in names] for h in self.harvests])
        valid = np.array(
            [[h.demands.get(name) is not None for name in names] for h in self.harvests]
        )
        return Game(
            self.rules, tuple(names),
            np.array([h.stock for h in self.harvests]), np.array([h.left for h in self.harvests]),
            grid("demands"), grid("received"), present, valid,
            bool(self.harvests and self.harvests[-1].collapsed),
            np.array(utterances or [0] * months), np.array(limits or [np.nan] * months),
            np.array([[moved.get(name, 0.0) for name in names] for moved in transfers]),
        )  # fmt: skip
