"""Voting on next month's quota: plurality, approval or ranked choice."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from stretto.commons.mechanisms import Mechanism
from stretto.commons.polls import Method, poll, vote
from stretto.commons.stage import Stage
from stretto.commons.village import Harvest


@dataclass(frozen=True)
class Settings:
    """How it is voted.

    Attributes:
        method: ``plurality``, ``approval`` or ``ranked`` (instant run-off).
        options: units for each, to choose from; none: what villagers propose, each one number.
        binding: a demand above the quota counts as the quota.
    """

    method: Method = "plurality"
    options: tuple[Annotated[int, Field(ge=0)], ...] = ()
    binding: bool = True


class Plugin(Mechanism):
    """Votes at the end of each month; of equals the smaller quota wins."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._elected: int | None = None

    async def begin(self, stage: Stage) -> None:
        """Tell the rule."""
        end = "; what somebody asks above it is not given" if self._settings.binding else ""
        stage.announce(
            "At the end of each month all vote on the most that each of you may take in the next "
            f"one{end}."
        )

    async def before_harvest(self, stage: Stage) -> None:
        """What was voted stands."""
        stage.quota = self._elected
        if self._elected is not None:
            most = f"{self._elected} {stage.scenario.units}"
            stage.announce(f"The vote: nobody takes more than {most} this month.", lasting=False)

    def demand(self, stage: Stage, name: str, units: int) -> int:
        """At most the quota, if it binds."""
        most = self._elected
        if most is None or not self._settings.binding or units <= most:
            return units
        stage.log("cut", mechanism="voting", agent=name, wanted=units, counts=most)
        return most

    async def after_talk(self, stage: Stage, harvest: Harvest) -> None:
        """Propose, vote."""
        if stage.village.ended:
            return
        options = sorted(set(self._settings.options))
        if not options:
            field = {"type": "integer", "minimum": 0, "maximum": stage.village.rules.capacity}
            proposed = await poll(
                stage, "propose", {"limit": field}, {"limit": stage.village.share}, month="next"
            )
            options = sorted({value["limit"] for value in proposed.values()})
        self._elected = await vote(stage, "quota", options, self._settings.method)
