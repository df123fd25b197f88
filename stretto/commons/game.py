"""What happened in one village, as arrays: what every measure is computed from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stretto.commons.fleet import History
from stretto.commons.resource import Rules, Units


@dataclass(frozen=True)
class Game:
    """M months of N villagers; a newcomer's months before arrival are absent.

    Attributes:
        rules: of the game.
        names: of the villagers, N.
        stock: (M,) units at the start of each month.
        left: (M,) units after the harvest.
        demands: (M, N) units wanted; 0 where absent or invalid.
        received: (M, N) units.
        present: (M, N) whether the villager was there.
        valid: (M, N) whether the demand could be read; an invalid one takes nothing.
        collapsed: whether the stock fell below the limit.
        utterances: (M,) what villagers said, without the moderator.
        limits: (M,) agreed most per villager, NaN where none was agreed.
        transfers: (M, N) units of payoff that institutions gave or took; empty: none.
    """

    rules: Rules
    names: tuple[str, ...]
    stock: Units
    left: Units
    demands: Units
    received: Units
    present: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    collapsed: bool
    utterances: Units
    limits: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    transfers: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def months(self) -> int:
        """Months played, the one of a collapse too."""
        return len(self.stock)


def games(rules: Rules, history: History, names: Sequence[str] = ()) -> list[Game]:
    """The villages of a fleet's history, one by one."""
    names = tuple(names) or tuple(f"villager_{i}" for i in range(rules.villagers))
    made = []
    for b, months in enumerate(history.months.tolist()):
        demands = history.demands[:months, b]
        yes = np.ones(demands.shape, bool)
        calm = np.zeros(months, np.int64), np.full(months, np.nan)
        stock, left = history.stock[:months, b], history.left[:months, b]
        received, fell = history.received[:months, b], bool(history.collapsed[b])
        made.append(Game(rules, names, stock, left, demands, received, yes, yes, fell, *calm))
    return made
