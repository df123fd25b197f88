"""Greedy: takes a part of the whole stock whatever it says, or is told to want only that."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from stretto.commons import prompts
from stretto.commons.adversaries import Adversary, Wrapped, harvesting, part
from stretto.commons.villager import Question, Situation, Villager


@dataclass(frozen=True)
class Settings:
    """Who and how.

    Attributes:
        seats: by name.
        by: ``hand``: its harvest is replaced; ``goal``: a model is told to be greedy, and decides.
        of_stock: what it takes by hand, as a part of the stock.
    """

    seats: tuple[str, ...]
    by: Literal["hand", "goal"] = "hand"
    of_stock: Annotated[float, Field(ge=0, le=1)] = 0.5


class Plugin(Adversary):
    """Greedy seats."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._own = settings

    def wrap(self, villager: Villager) -> Villager:
        """One of them."""
        return _Greedy(villager, self._own)


class _Greedy(Wrapped):
    def __init__(self, inner: Villager, settings: Settings) -> None:
        super().__init__(inner, "greedy")
        self._settings = settings

    def told(self, situation: Situation) -> Situation:
        if self._settings.by == "hand":
            return situation
        return replace(
            situation, rules_text=f"{situation.rules_text}\n\n{prompts.render('greedy')}"
        )

    def changed(self, question: Question, situation: Situation, value: Any) -> Any:
        if self._settings.by == "goal" or question.kind != "harvest":
            return None
        stock = int(situation.view.stock[0])
        return harvesting(value, question, part(stock, self._settings.of_stock, stock))
