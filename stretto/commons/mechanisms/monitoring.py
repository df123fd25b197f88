"""Imperfect monitoring: catches are told with errors, only sometimes, or as villagers claim."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from stretto.commons.mechanisms import Mechanism
from stretto.commons.polls import poll
from stretto.commons.stage import Stage
from stretto.commons.village import Harvest


@dataclass(frozen=True)
class Settings:
    """How badly it is seen.

    Attributes:
        chance: that a villager's catch is told in a month at all.
        noise: standard deviation of the error, units; what is told is rounded, never below 0.
        claims: villagers say themselves what they took, may lie, and may say nothing; chance and
            noise come on top.
    """

    chance: Annotated[float, Field(ge=0, le=1)] = 1.0
    noise: Annotated[float, Field(ge=0)] = 0.0
    claims: bool = False


class Plugin(Mechanism):
    """Changes what is reported; each villager still knows its own catch."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def begin(self, stage: Stage) -> None:
        """Tell the rule."""
        settings = self._settings
        if settings.claims:
            stage.announce("After each harvest everybody may say what they took; nobody checks it.")
        if settings.noise:
            about = f"{settings.noise:g} {stage.scenario.units}"
            stage.announce(f"What is told of the catches is off by about {about}.")
        if settings.chance < 1:
            stage.announce(f"Of each catch it is told with a chance of {settings.chance:.0%} only.")

    async def report(self, stage: Stage, harvest: Harvest, told: dict[str, int]) -> dict[str, int]:
        """What is seen of the catches."""
        settings, rng = self._settings, stage.rng("monitoring")
        if settings.claims:
            most = stage.village.rules.capacity
            field = {"type": ["integer", "null"], "minimum": 0, "maximum": most}
            answers = await poll(
                stage, "claim", {"claim": field}, lambda name: {"claim": harvest.received[name]},
                names=list(told), catches=harvest.received,
            )  # fmt: skip
            claimed = {name: value["claim"] for name, value in answers.items()}
            told = {name: units for name, units in claimed.items() if units is not None}
        # Drawn for all, in order, whoever is told of: what one says changes no other's luck.
        errors = rng.normal(0.0, 1.0, len(stage.names))
        luck = rng.random(len(stage.names))
        seen = {}
        for name, error, drawn in zip(stage.names, errors, luck, strict=True):
            if name in told and drawn < settings.chance:
                seen[name] = max(0, round(told[name] + settings.noise * float(error)))
        stage.log("seen", mechanism="monitoring", told=seen, claims=told if settings.claims else {})
        return seen
