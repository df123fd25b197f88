"""Many villages at once, as one array program.

All villages of a fleet have the same rules. A month is one :meth:`Fleet.harvest`; villages that
have collapsed stand still. The stocks are those of :class:`stretto.commons.village.Village`, which
is a fleet of one with names; so are the draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stretto.commons.allocation import allocate, whole
from stretto.commons.resource import Rules, Units, collapsed, grow, share, shocked
from stretto.commons.seeds import generator
from stretto.errors import InputError


@dataclass(frozen=True)
class View:
    """What a policy may know before the harvest of a month; B villages, N villagers.

    Attributes:
        rules: of the game.
        month: from 1.
        stock: (B,) units.
        share: (B,) phi(t), each villager's share of the threshold.
        demands: (B, N) of last month; zeros in month 1.
        received: (B, N) of last month; zeros in month 1.
    """

    rules: Rules
    month: int
    stock: Units
    share: Units
    demands: Units
    received: Units


# (view, villager's column) -> (B,) demands.
Policy = Callable[[View, int], Units]


class Fleet:
    """Villages that live side by side.

    Attributes:
        month: from 1; the last one after the end.
        stock: (B,) units at the start of the month.
        alive: (B,) not collapsed.
        demands: (B, N) of the last harvest.
        received: (B, N) of the last harvest.
        left: (B,) units after the last harvest.
    """

    def __init__(self, rules: Rules, villages: int, *, seed: int = 0) -> None:
        if villages < 1:
            raise InputError(f"villages: must be at least 1, not {villages}")
        self.rules = rules
        self._rationing = generator(seed, "rationing")
        self._nature = generator(seed, "nature")
        self._caps = np.array(rules.caps, np.int64) if rules.caps else None
        self.month = 1
        self.stock = shocked(rules, np.full(villages, rules.first_stock, np.int64), 1)
        self.left = self.stock.copy()
        self.alive: NDArray[np.bool_] = np.ones(villages, bool)
        self.demands = np.zeros((villages, rules.villagers), np.int64)
        self.received = np.zeros_like(self.demands)
        self.harvested = False

    @property
    def ended(self) -> bool:
        """Whether there is no village or month left to play."""
        return not self.alive.any() or (self.harvested and self.month >= self.rules.months)

    def view(self) -> View:
        """What the villagers may know now."""
        return View(
            self.rules, self.month, self.stock, share(self.rules, self.stock),
            self.demands, self.received,
        )  # fmt: skip

    def harvest(self, demands: Units) -> Units:
        """All harvest at once.

        Args:
            demands: (B, N) units; rows of collapsed villages are ignored.

        Returns:
            (B, N) units received.

        Raises:
            InputError: negative or fractional demands, a wrong shape, or a month that was harvested
                already.
        """
        if self.harvested:
            raise InputError(f"month {self.month}: was harvested already; call grow() first")
        demands = whole(demands)
        if demands.shape != self.demands.shape:
            raise InputError(f"demands: shape {demands.shape} is not {self.demands.shape}")
        wanted = demands if self._caps is None else np.minimum(demands, self._caps)
        wanted = np.where(self.alive[:, None], wanted, 0)
        self.received = allocate(wanted, self.stock, self._rationing, self.rules.allocation)
        self.demands = np.where(self.alive[:, None], demands, 0)
        self.left = self.stock - self.received.sum(axis=1)
        self.alive = self.alive & ~collapsed(self.rules, self.left)
        self.harvested = True
        return self.received

    def grow(self) -> None:
        """Go to the next month: what is left grows back; collapsed villages keep what they have."""
        if not self.harvested:
            raise InputError(f"month {self.month}: was not harvested yet")
        if self.ended:
            raise InputError("the game has ended")
        self.month += 1
        grown = shocked(self.rules, grow(self.rules, self.left, self._nature), self.month)
        self.stock = np.where(self.alive, grown, self.left)
        self.harvested = False


@dataclass(frozen=True)
class History:
    """What became of a fleet; M months, B villages, N villagers.

    Attributes:
        stock: (M, B) units at the start of each month.
        left: (M, B) units after the harvest.
        demands: (M, B, N), zeros after a collapse.
        received: (M, B, N), zeros after a collapse.
        months: (B,) months that were played, the one of the collapse too.
        collapsed: (B,).
    """

    stock: Units
    left: Units
    demands: Units
    received: Units
    months: Units
    collapsed: NDArray[np.bool_]


def play(rules: Rules, policies: Sequence[Policy], villages: int = 1, *, seed: int = 0) -> History:
    """Let policies play to the end.

    Args:
        rules: of the game.
        policies: one for each villager; or one, by which all do what it says for the first, random
            ones too.
        villages: B.
        seed: of the rationing and of nature.

    Raises:
        InputError: neither one policy nor as many as villagers.
    """
    if len(policies) not in (1, rules.villagers):
        raise InputError(f"policies: {len(policies)} for {rules.villagers} villagers")
    fleet = Fleet(rules, villages, seed=seed)
    months = np.zeros(villages, np.int64)
    told: list[tuple[Units, Units, Units, Units]] = []
    while True:
        view = fleet.view()
        if len(policies) == 1:
            demands = np.repeat(policies[0](view, 0)[:, None], rules.villagers, axis=1)
        else:
            demands = np.stack([policy(view, i) for i, policy in enumerate(policies)], axis=1)
        months += fleet.alive
        stock = fleet.stock
        fleet.harvest(demands)
        told.append((stock, fleet.left, fleet.demands, fleet.received))
        if fleet.ended:
            break
        fleet.grow()
    columns = [np.stack(column) for column in zip(*told, strict=True)]
    return History(*columns, months=months, collapsed=~fleet.alive)
