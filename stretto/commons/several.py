"""Several resources at once: a fleet for each, and villagers who divide themselves among them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from stretto.commons.allocation import whole
from stretto.commons.fleet import Fleet
from stretto.commons.resource import Rules, Units
from stretto.commons.seeds import seed_of
from stretto.errors import ConfigError, InputError


class Several:
    """P resources of B villages with N villagers.

    Attributes:
        fleets: one a resource.
        effort: the most a villager may want of all resources together in a month; None: no limit.
    """

    def __init__(
        self,
        rules: Sequence[Rules],
        villages: int = 1,
        *,
        effort: int | None = None,
        ends: Literal["any", "all"] = "any",
        seed: int = 0,
    ) -> None:
        """Open the villages.

        Args:
            rules: of each resource; horizon and number of villagers must be the same.
            villages: B.
            effort: see the attribute.
            ends: a village ends when any resource has collapsed, or when all have.
            seed: of all draws.
        """
        if not rules or len({(r.villagers, r.months) for r in rules}) > 1:
            raise ConfigError("resources: need the same villagers and months, and at least one")
        self.effort, self._ends = effort, ends
        self.fleets = [
            Fleet(rule, villages, seed=seed_of(seed, "resource", i)) for i, rule in enumerate(rules)
        ]

    @property
    def stock(self) -> Units:
        """(B, P) units."""
        return np.stack([fleet.stock for fleet in self.fleets], axis=1)

    @property
    def ended(self) -> np.ndarray:
        """(B,) whether each village has ended."""
        fallen = np.stack([~fleet.alive for fleet in self.fleets], axis=1)
        over = fallen.any(axis=1) if self._ends == "any" else fallen.all(axis=1)
        # A resource that has collapsed everywhere goes on no more: the others tell the month.
        last = max(self.fleets, key=lambda fleet: fleet.month)
        return np.asarray(over | (last.harvested and last.month >= last.rules.months))

    def harvest(self, demands: Units) -> Units:
        """All harvest everything at once.

        Args:
            demands: (B, N, P) units.

        Returns:
            (B, N, P) units received.

        Raises:
            InputError: a wrong shape, somebody wants more than the effort allows, or all have
                ended.
        """
        demands = whole(demands)
        if demands.ndim != 3 or demands.shape[2] != len(self.fleets):
            raise InputError(f"demands: shape {demands.shape} is not (B, N, {len(self.fleets)})")
        if self.effort is not None and (most := int(demands.sum(axis=2).max())) > self.effort:
            raise InputError(f"demands: {most} units in all, the effort allows {self.effort}")
        stopped = self.ended[:, None]
        got = [
            np.zeros_like(fleet.demands)
            if fleet.ended
            else fleet.harvest(np.where(stopped, 0, demands[:, :, p]))
            for p, fleet in enumerate(self.fleets)
        ]
        return np.stack(got, axis=2)

    def grow(self) -> None:
        """Go to the next month.

        Raises:
            InputError: all have ended, or the month was not harvested.
        """
        if self.ended.all():
            raise InputError("the game has ended")
        for fleet in self.fleets:
            if not fleet.ended:
                fleet.grow()
