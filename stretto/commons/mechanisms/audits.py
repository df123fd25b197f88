"""Audits: each month some are looked at closely; who took more than allowed is told of and pays."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from stretto.commons.discussion import in_words
from stretto.commons.mechanisms import Mechanism
from stretto.commons.mechanisms.fines import fine
from stretto.commons.polls import allowed
from stretto.commons.stage import Stage
from stretto.commons.village import Harvest


@dataclass(frozen=True)
class Settings:
    """How often and how hard.

    Attributes:
        chance: that a villager is audited in a month.
        units: most that one may take; none: a part of the sustainable share. A quota that another
            mechanism sets comes before both.
        of_share: that part.
        per_unit: units of payoff for each unit above.
        flat: units of payoff for being above at all.
        cost: units of payoff of each audit, which all pay in equal parts.
    """

    chance: Annotated[float, Field(ge=0, le=1)] = 0.3
    units: Annotated[int, Field(ge=0)] | None = None
    of_share: Annotated[float, Field(ge=0)] = 1.0
    per_unit: Annotated[float, Field(ge=0)] = 3.0
    flat: Annotated[float, Field(ge=0)] = 0.0
    cost: Annotated[float, Field(ge=0)] = 0.0


class Plugin(Mechanism):
    """Draws whom it audits after the harvest; the true catches of those are told to all."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def begin(self, stage: Stage) -> None:
        """Tell the rule."""
        settings, words = self._settings, stage.scenario
        stage.announce(
            f"Each month everybody is audited with a chance of {settings.chance:.0%}: what they "
            f"took is told to all, and who took more than allowed pays the worth of "
            f"{settings.per_unit:g} {words.units} for each {words.unit} above"
            f"{f' and {settings.flat:g} more' if settings.flat else ''}."
        )

    async def before_harvest(self, stage: Stage) -> None:
        """Tell what is allowed."""
        most = allowed(stage, self._settings.units, self._settings.of_share)
        stage.announce(f"Allowed this month: {most} {stage.scenario.units} each.", lasting=False)

    async def after_harvest(self, stage: Stage, harvest: Harvest) -> None:
        """Draw, tell, fine."""
        settings = self._settings
        drawn = stage.rng("audits").random(len(stage.names)) < settings.chance
        caught = {
            name: harvest.received[name]
            for name, hit in zip(stage.names, drawn.tolist(), strict=True)
            if hit
        }
        stage.log("audit", mechanism="audits", catches=caught)
        if not caught:
            return
        stage.tell(stage.names, "report", f"Audited: {in_words(stage, caught)}", always=True)
        part = settings.cost * len(caught) / len(stage.names)
        stage.pay("audits", "cost", dict.fromkeys(stage.names, -part))
        most = allowed(stage, settings.units, settings.of_share)
        fine(stage, "audits", caught, most, settings.per_unit, settings.flat, shared=False)
