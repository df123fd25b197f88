"""Reputation: each rates the others after the harvest; all see the means, and what is gossiped."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from stretto.commons.mechanisms import Mechanism
from stretto.commons.polls import poll
from stretto.commons.stage import Stage
from stretto.commons.village import Harvest


@dataclass(frozen=True)
class Settings:
    """What is told.

    Attributes:
        best: of the ratings, which begin at 1.
        keep: how much of a standing lasts from month to month, 0 to 1; the rest is this month's.
        gossip: a sentence with each rating, told without its author.
    """

    best: Annotated[int, Field(ge=2)] = 5
    keep: Annotated[float, Field(ge=0, lt=1)] = 0.5
    gossip: bool = True


class Plugin(Mechanism):
    """Keeps a standing for each, told with the rules of every month."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._standing: dict[str, float] = {}

    async def begin(self, stage: Stage) -> None:
        """Tell the rule."""
        best = self._settings.best
        stage.announce(
            f"At the end of each month everybody rates each of the others from 1 to {best} "
            f"({best} is best). The means are told to all."
        )

    async def before_harvest(self, stage: Stage) -> None:
        """Tell the standings."""
        if self._standing:
            listed = ", ".join(f"{name} {mean:.1f}" for name, mean in self._standing.items())
            stage.announce(f"Standing in the village: {listed}.", lasting=False)

    async def after_talk(self, stage: Stage, harvest: Harvest) -> None:
        """Ask, count, tell."""
        if stage.village.ended:
            return
        settings = self._settings

        def properties(name: str) -> dict[str, Any]:
            fields = {
                "who": {"enum": [other for other in stage.names if other != name]},
                "rating": {"type": "integer", "minimum": 1, "maximum": settings.best},
                "why": {"type": "string"},
            }
            item = {"type": "object", "properties": fields, "required": list(fields)}
            return {"ratings": {"type": "array", "items": item}}

        def check(_: str, value: Mapping[str, Any]) -> str:
            rated = [one["who"] for one in value["ratings"]]
            return "" if len(set(rated)) == len(rated) else "ratings: somebody is rated twice"

        answers = await poll(
            stage, "rate", properties, {"ratings": []}, check=check, best=settings.best
        )
        got: dict[str, list[int]] = defaultdict(list)
        for value in answers.values():
            for one in value["ratings"]:
                got[one["who"]].append(one["rating"])
                if settings.gossip and (why := one["why"].strip()):
                    stage.tell(stage.names, "report", f"It is said of {one['who']}: {why}")
        for name in [name for name in stage.names if name in got]:
            mean = sum(got[name]) / len(got[name])
            before = self._standing.get(name, mean)
            self._standing[name] = settings.keep * before + (1 - settings.keep) * mean
        stage.log("standing", mechanism="reputation", means=dict(self._standing))
