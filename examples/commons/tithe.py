"""A tithe: a part of every catch goes into a pot, which all share alike."""

from dataclasses import dataclass

from stretto.commons.mechanisms import Mechanism
from stretto.commons.stage import Stage
from stretto.commons.village import Harvest


@dataclass(frozen=True)
class Settings:
    """How much of a catch goes into the pot, from 0 to 1."""

    part: float = 0.1


class Plugin(Mechanism):
    """Tells the rule at the beginning, and moves payoff after every harvest."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self._part = settings.part

    async def begin(self, stage: Stage) -> None:
        """Everybody knows the rule from the start."""
        stage.announce(f"Of every catch {self._part:.0%} go into a pot that all share alike.")

    async def after_harvest(self, stage: Stage, harvest: Harvest) -> None:
        """Into the pot, and out of it."""
        paid = {name: self._part * units for name, units in harvest.received.items()}
        back = sum(paid.values()) / len(paid)
        stage.pay("tithe", "pot", {name: back - units for name, units in paid.items()})
