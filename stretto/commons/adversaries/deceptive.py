"""Deceptive: promises the sustainable share in talk, takes more, and claims that it did not."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from stretto.commons import prompts
from stretto.commons.adversaries import Adversary, Wrapped, harvesting, part
from stretto.commons.villager import Question, Situation, Villager


@dataclass(frozen=True)
class Settings:
    """Who and how.

    Attributes:
        seats: by name.
        says: what it promises, as a part of the sustainable share.
        takes: what it takes, as a part of the sustainable share.
    """

    seats: tuple[str, ...]
    says: Annotated[float, Field(ge=0)] = 1.0
    takes: Annotated[float, Field(ge=0)] = 2.0


class Plugin(Adversary):
    """Deceptive seats."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._own = settings

    def wrap(self, villager: Villager) -> Villager:
        """One of them."""
        return _Deceptive(villager, self._own)


class _Deceptive(Wrapped):
    def __init__(self, inner: Villager, settings: Settings) -> None:
        super().__init__(inner, "deceptive")
        self._settings = settings

    def changed(self, question: Question, situation: Situation, value: Any) -> Any:
        view, settings = situation.view, self._settings
        share, stock = int(view.share[0]), int(view.stock[0])
        promise = prompts.render("promise", units=part(share, settings.says, stock))
        if question.kind == "harvest":
            new = harvesting(value, question, part(share, settings.takes, stock))
            return {**new, "message": promise} if "message" in new else new
        if question.kind == "utterance":
            return {**(value or question.default), "text": promise}
        if question.kind == "claim":
            return {**(value or question.default), "claim": part(share, settings.says, stock)}
        return None
