"""What a shared resource does by itself: it is used, it collapses or it grows back.

The dynamics are those of GovSim (Piatti et al. 2024, section 2 and its code): all harvest at once
from the stock of the month; a stock that falls below ``collapse_below`` after the harvest, before
growing back, has collapsed; otherwise it doubles up to the capacity. Other laws of growth, noise
and shocks are options of :class:`Rules`. Everything here is a pure function of arrays of any shape,
so that one village and ten thousand are the same code. Stocks and harvests are whole units.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stretto.errors import ConfigError

Units = NDArray[np.int64]


@dataclass(frozen=True)
class Growth:
    """How a stock grows in a month.

    Attributes:
        kind: ``multiply``: stock times ``rate``; ``logistic``: stock + rate * stock * (1 - stock /
            capacity). Either is rounded down and capped by the capacity.
        rate: 2.0 with ``multiply`` is the paper's doubling.
        noise: the month's growth (not the stock itself) is multiplied by a number drawn uniformly
            from 1 - noise to 1 + noise; 0 draws nothing.
    """

    kind: Literal["multiply", "logistic"] = "multiply"
    rate: float = 2.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        least = 1.0 if self.kind == "multiply" else 0.0
        if not least <= self.rate < float("inf"):
            raise ConfigError(f"growth.rate: must be at least {least:g}, not {self.rate:g}")
        if not 0.0 <= self.noise <= 1.0:
            raise ConfigError(f"growth.noise: must be between 0 and 1, not {self.noise:g}")


@dataclass(frozen=True)
class Shock:
    """In ``month`` (from 1), before the harvest, the stock is multiplied by ``factor``."""

    month: int
    factor: float

    def __post_init__(self) -> None:
        if self.month < 1:
            raise ConfigError(f"shocks.month: counts from 1, not {self.month}")
        if not 0.0 <= self.factor <= 1.0:
            raise ConfigError(f"shocks.factor: must be between 0 and 1, not {self.factor:g}")


@dataclass(frozen=True)
class Rules:
    """The numbers of a game; the defaults are the paper's.

    Attributes:
        villagers: how many harvest.
        capacity: units; the stock never exceeds it.
        start: units in month 1; None: the capacity.
        growth: between months.
        collapse_below: units; a stock below it after the harvest has collapsed.
        months: horizon; villagers are not told.
        allocation: who gets what if more is wanted than there is: ``stochastic``, unit by unit to
            one drawn among those who still want, or ``proportional``.
        caps: most that each villager can harvest in a month, units; empty: no limit.
        endowments: what each owns at the start, units; counted in no measure but told to them.
        shocks: at most one a month.
    """

    villagers: int = 5
    capacity: int = 100
    start: int | None = None
    growth: Growth = field(default_factory=Growth)
    collapse_below: int = 5
    months: int = 12
    allocation: Literal["stochastic", "proportional"] = "stochastic"
    caps: tuple[int, ...] = ()
    endowments: tuple[int, ...] = ()
    shocks: tuple[Shock, ...] = ()

    def __post_init__(self) -> None:
        for name in ("villagers", "capacity", "months"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.collapse_below <= self.capacity:
            raise ConfigError(
                f"collapse_below: must be between 0 and the capacity {self.capacity}, "
                f"not {self.collapse_below}"
            )
        if self.start is not None and not 0 <= self.start <= self.capacity:
            raise ConfigError(f"start: must be between 0 and {self.capacity}, not {self.start}")
        for name in ("caps", "endowments"):
            values = getattr(self, name)
            if values and len(values) != self.villagers:
                raise ConfigError(f"{name}: {len(values)} values for {self.villagers} villagers")
            if any(value < 0 for value in values):
                raise ConfigError(f"{name}: must not be negative")
        months = [shock.month for shock in self.shocks]
        if len(set(months)) < len(months):
            raise ConfigError("shocks: at most one a month")

    @classmethod
    def scaled(cls, villagers: int, **changes: object) -> "Rules":
        """The paper's game for more villagers: 20 units of capacity and 1 of collapse for each."""
        sizes = {"capacity": 20 * villagers, "collapse_below": villagers}
        return cls(villagers, **{**sizes, **changes})  # type: ignore[arg-type]

    @property
    def first_stock(self) -> int:
        """Units at the start of month 1, before any shock."""
        return self.capacity if self.start is None else self.start


def grow(rules: Rules, left: Units, rng: np.random.Generator | None = None) -> Units:
    """Next month's stock of each village.

    Args:
        rules: of all of them.
        left: units after the harvest, of any shape.
        rng: draws the noise; needed only with noise.
    """
    left = np.asarray(left, np.int64)
    growth = rules.growth
    if growth.kind == "multiply":
        more = left * (growth.rate - 1.0)
    else:
        more = growth.rate * left * (1.0 - left / rules.capacity)
    if growth.noise:
        if rng is None:
            raise ConfigError("growth.noise: needs a random generator")
        more = more * rng.uniform(1 - growth.noise, 1 + growth.noise, left.shape)
    # A rounding error of 1e-9 must not cost a unit.
    grown = np.floor(left + more + 1e-9).astype(np.int64)
    return np.minimum(rules.capacity, grown)


def calm(rules: Rules) -> Rules:
    """The same rules without noise: how the stock grows on average, but for rounding."""
    return replace(rules, growth=replace(rules.growth, noise=0.0))


def shocked(rules: Rules, stock: Units, month: int) -> Units:
    """The stock after the month's shock, if it has one (rounded down)."""
    for shock in rules.shocks:
        if shock.month == month:
            return np.floor(np.asarray(stock) * shock.factor + 1e-9).astype(np.int64)
    return np.asarray(stock, np.int64)


def collapsed(rules: Rules, left: Units) -> NDArray[np.bool_]:
    """Whether each stock, after the harvest, has collapsed."""
    return np.asarray(left) < rules.collapse_below


def threshold(rules: Rules, stock: Units) -> Units:
    """f(t): the most that all together may take so that next month's stock is not smaller.

    Without noise, which is 0 on average. Stock // 2 with the paper's doubling (its section 2.3).
    """
    return _thresholds(rules)[np.clip(stock, 0, rules.capacity)]


def share(rules: Rules, stock: Units, villagers: int | None = None) -> Units:
    """phi(t): each villager's equal share of the threshold, rounded down.

    Args:
        rules: of the game.
        stock: units at the start of the month, of any shape.
        villagers: how many there are now, if not as many as in the rules.
    """
    return threshold(rules, stock) // (rules.villagers if villagers is None else villagers)


@lru_cache(maxsize=64)
def _thresholds(rules: Rules) -> Units:
    """The threshold by stock, 0 to capacity."""
    stocks = np.arange(rules.capacity + 1, dtype=np.int64)
    grown = grow(calm(rules), stocks)
    # The least that must be left so that it grows back to the stock. Logistic growth with a high
    # rate is not monotone; from the left, the first that is enough counts.
    reach = np.maximum.accumulate(grown)
    least = np.searchsorted(reach, stocks)
    return np.where(least <= stocks, stocks - np.minimum(least, stocks), 0)
