"""A mediator who harvests for those who want it to, gently only if all do."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from stretto.commons.mechanisms import Mechanism
from stretto.commons.polls import part, poll
from stretto.commons.stage import Stage


@dataclass(frozen=True)
class Settings:
    """What it takes for each who delegates, as parts of the sustainable share.

    Attributes:
        together: if all delegate.
        otherwise: if somebody does not.
    """

    together: Annotated[float, Field(ge=0)] = 1.0
    otherwise: Annotated[float, Field(ge=0)] = 2.0


class Plugin(Mechanism):
    """Asks each before the harvest; what delegates then say they want counts for nothing.

    Scripted villagers without words of their own act for themselves.
    """

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._acts: dict[str, int] = {}

    async def begin(self, stage: Stage) -> None:
        """Tell the rule."""
        stage.announce(
            "Before each harvest everybody may let a mediator harvest in their place. What the "
            "mediator takes for each depends on whether all of you let it."
        )

    async def before_harvest(self, stage: Stage) -> None:
        """Ask who delegates; tell how many do."""
        share, settings = stage.village.share, self._settings
        together, otherwise = part(share, settings.together), part(share, settings.otherwise)
        answers = await poll(
            stage, "delegate", {"delegate": {"type": "boolean"}}, {"delegate": False},
            together=together, otherwise=otherwise, stock=stage.village.stock,
        )  # fmt: skip
        delegates = [name for name, value in answers.items() if value["delegate"]]
        units = together if len(delegates) == len(stage.names) else otherwise
        self._acts = dict.fromkeys(delegates, units)
        stage.log("delegated", mechanism="mediator", agents=delegates, units=units)
        listed = ", ".join(delegates) or "nobody"
        stage.announce(f"The mediator harvests this month for: {listed}.", lasting=False)

    def demand(self, stage: Stage, name: str, units: int) -> int:
        """What the mediator takes in the villager's place."""
        return self._acts.get(name, units)
