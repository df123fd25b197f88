"""Quotas: the most that each may take in a month, enforced if they bind."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from stretto.commons.mechanisms import Mechanism
from stretto.commons.polls import part
from stretto.commons.stage import Stage


@dataclass(frozen=True)
class Settings:
    """How much.

    Attributes:
        units: for each, the same every month; none: a part of the sustainable share.
        of_share: that part, rounded down; 1.0 is the share itself.
        each: another number for some villagers, by name.
        binding: a demand above it counts as the quota; if not, it is only told.
    """

    units: Annotated[int, Field(ge=0)] | None = None
    of_share: Annotated[float, Field(ge=0)] = 1.0
    each: dict[str, int] | None = None
    binding: bool = True


class Plugin(Mechanism):
    """Tells everybody the month's quota and cuts what is above."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def before_harvest(self, stage: Stage) -> None:
        """Set and tell it."""
        settings, units = self._settings, stage.scenario.units
        share = part(stage.village.share, settings.of_share)
        stage.quota = share if settings.units is None else settings.units
        text = f"This month nobody may take more than {stage.quota} {units}"
        for name, own in (settings.each or {}).items():
            text += f"; {name} may take {own}"
        end = "; what somebody asks above that is not given." if settings.binding else "."
        stage.announce(text + end, lasting=False)

    def demand(self, stage: Stage, name: str, units: int) -> int:
        """At most the quota, if it binds."""
        most = (self._settings.each or {}).get(name, stage.quota)
        if not self._settings.binding or most is None or units <= most:
            return units
        stage.log("cut", mechanism="quotas", agent=name, wanted=units, counts=most)
        return most
