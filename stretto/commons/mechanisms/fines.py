"""Fines: who takes more than allowed pays for it; every excess is found."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from stretto.commons.mechanisms import Mechanism
from stretto.commons.polls import allowed
from stretto.commons.stage import Stage
from stretto.commons.village import Harvest


@dataclass(frozen=True)
class Settings:
    """How much.

    Attributes:
        units: most that one may take; none: a part of the sustainable share. A quota that another
            mechanism sets comes before both.
        of_share: that part.
        per_unit: units of payoff for each unit above.
        flat: units of payoff for being above at all.
        shared: the others get the fines, in equal parts; if not, they are lost.
    """

    units: Annotated[int, Field(ge=0)] | None = None
    of_share: Annotated[float, Field(ge=0)] = 1.0
    per_unit: Annotated[float, Field(ge=0)] = 1.0
    flat: Annotated[float, Field(ge=0)] = 0.0
    shared: bool = False


class Plugin(Mechanism):
    """Fines by what was received."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def begin(self, stage: Stage) -> None:
        """Tell the rule."""
        settings, words = self._settings, stage.scenario
        parts = []
        if settings.per_unit:
            parts.append(f"{settings.per_unit:g} {words.units} for each {words.unit} above it")
        if settings.flat:
            parts.append(f"{settings.flat:g} {words.units} for being above it at all")
        end = ", which the others get" if settings.shared else ""
        stage.announce(
            f"Who takes more than is allowed pays the worth of {' and '.join(parts)}{end}."
        )

    async def before_harvest(self, stage: Stage) -> None:
        """Tell what is allowed."""
        most = allowed(stage, self._settings.units, self._settings.of_share)
        stage.announce(f"Allowed this month: {most} {stage.scenario.units} each.", lasting=False)

    async def after_harvest(self, stage: Stage, harvest: Harvest) -> None:
        """Collect."""
        settings = self._settings
        most = allowed(stage, settings.units, settings.of_share)
        fine(stage, "fines", harvest.received, most, settings.per_unit, settings.flat,
             settings.shared)  # fmt: skip


def fine(
    stage: Stage,
    mechanism: str,
    caught: dict[str, int],
    most: int,
    per_unit: float,
    flat: float,
    shared: bool,
) -> None:
    """Let those of ``caught`` (units taken by villager) who took more than ``most`` pay."""
    moved = dict.fromkeys(stage.names, 0.0)
    for name, took in caught.items():
        if took <= most:
            continue
        due = flat + per_unit * (took - most)
        moved[name] -= due
        others = [other for other in stage.names if other != name]
        for other in others if shared else ():
            moved[other] += due / len(others)
        text = f"{name} took more than {most} {stage.scenario.units} and pays the worth of {due:g}."
        stage.tell(stage.names, "report", text, always=True)
    stage.pay(mechanism, "fine", moved)
