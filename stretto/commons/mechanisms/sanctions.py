"""Costly punishment and reward: each may spend payoff to lower or raise another's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from stretto.commons.mechanisms import Mechanism
from stretto.commons.polls import poll
from stretto.commons.stage import Stage
from stretto.commons.village import Harvest
from stretto.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """What it costs.

    Attributes:
        punish: units of payoff that a villager loses for each unit spent on its punishment; 0:
            nobody can punish.
        reward: units that a villager gains for each unit spent on its reward; 0: nobody can.
        most: units of payoff that each may spend in a month, all told.
        named: it is told who did it; if not, only what was done.
    """

    punish: Annotated[float, Field(ge=0)] = 3.0
    reward: Annotated[float, Field(ge=0)] = 0.0
    most: Annotated[int, Field(ge=1)] = 5
    named: bool = False

    def __post_init__(self) -> None:
        if not self.punish and not self.reward:
            raise ConfigError("sanctions: punish or reward must be above 0")


class Plugin(Mechanism):
    """Asks each after the catches were told; all sanctions of a month happen at once."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kinds = [kind for kind in ("punish", "reward") if getattr(settings, kind)]

    async def begin(self, stage: Stage) -> None:
        """Tell the rule."""
        settings, units = self._settings, stage.scenario.units
        ways = {
            "punish": f"take the worth of {settings.punish:g} from another",
            "reward": f"give the worth of {settings.reward:g} to another",
        }
        stage.announce(
            f"After each harvest everybody may spend the worth of up to {settings.most} {units} of "
            f"their own; for each they {' or '.join(ways[kind] for kind in self._kinds)}."
        )

    async def after_talk(self, stage: Stage, harvest: Harvest) -> None:
        """Ask, pay, tell."""
        settings = self._settings
        seen = _last_report(stage)

        def properties(name: str) -> dict[str, Any]:
            fields = {
                "who": {"enum": [other for other in stage.names if other != name]},
                "what": {"enum": self._kinds},
                "spend": {"type": "integer", "minimum": 1, "maximum": settings.most},
            }
            item = {"type": "object", "properties": fields, "required": list(fields)}
            return {"moves": {"type": "array", "items": item}}

        def check(_: str, value: Mapping[str, Any]) -> str:
            spent = sum(move["spend"] for move in value["moves"])
            return "" if spent <= settings.most else f"moves: {spent} are spent of {settings.most}"

        answers = await poll(
            stage, "sanction", properties, {"moves": []}, check=check, catches=seen,
            most=settings.most, kinds=self._kinds, punish=settings.punish, reward=settings.reward,
        )  # fmt: skip
        for name, value in answers.items():
            for move in value["moves"]:
                self._move(stage, name, **move)

    def _move(self, stage: Stage, name: str, who: str, what: str, spend: int) -> None:
        worth = spend * (self._settings.reward if what == "reward" else -self._settings.punish)
        stage.pay("sanctions", what, {name: -spend, who: worth})
        by = name if self._settings.named else "Somebody"
        text = f"{by} {what}{'ed' if what[-1] != 'e' else 'd'} {who}: the worth of {worth:+g}."
        stage.tell(stage.names, "report", text, always=True)


def _last_report(stage: Stage) -> str:
    """What was told of this month's catches, which may not be what was taken."""
    told = [e for e in stage.journal.events if e["type"] == "report" and e["month"] == stage.month]
    return told[-1]["text"] if told else ""
