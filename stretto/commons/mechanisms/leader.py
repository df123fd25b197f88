"""An elected leader who sets the month's quota."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from stretto.commons.mechanisms import Mechanism
from stretto.commons.polls import Method, poll, vote
from stretto.commons.stage import Stage


@dataclass(frozen=True)
class Settings:
    """How the leader is found, and what it can do.

    Attributes:
        method: of the election.
        term: months.
        binding: a demand above the leader's quota counts as the quota.
    """

    method: Method = "plurality"
    term: Annotated[int, Field(ge=1)] = 3
    binding: bool = True


class Plugin(Mechanism):
    """Elects before the first harvest of each term; of equals the earlier villager wins."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._leader: str | None = None
        self._quota: int | None = None

    async def begin(self, stage: Stage) -> None:
        """Tell the rule."""
        end = "; what somebody asks above it is not given" if self._settings.binding else ""
        stage.announce(
            f"Every {self._settings.term} months you elect one of you as leader, who says each "
            f"month the most that anybody may take{end}."
        )

    async def before_harvest(self, stage: Stage) -> None:
        """Elect when a term begins; let the leader decide."""
        if (stage.month - 1) % self._settings.term == 0:
            self._leader = await vote(stage, "leader", stage.names, self._settings.method)
        self._quota = None
        if self._leader is None:
            return
        field = {"type": "integer", "minimum": 0, "maximum": stage.village.rules.capacity}
        answers = await poll(
            stage, "quota", {"limit": field}, {"limit": stage.village.share},
            names=[self._leader], stock=stage.village.stock, place=stage.scenario.place,
        )  # fmt: skip
        if self._leader in answers:
            self._quota = answers[self._leader]["limit"]
            stage.quota = self._quota
            stage.announce(
                f"{self._leader}, the leader, says: nobody takes more than {self._quota} "
                f"{stage.scenario.units} this month.", lasting=False,
            )  # fmt: skip

    def demand(self, stage: Stage, name: str, units: int) -> int:
        """At most the quota, if it binds; the leader too."""
        if self._quota is None or not self._settings.binding or units <= self._quota:
            return units
        stage.log("cut", mechanism="leader", agent=name, wanted=units, counts=self._quota)
        return self._quota
