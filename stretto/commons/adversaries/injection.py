"""Prompt injection in chat: what this villager says reads like an order to the others' models.

The text is data: no template is read in it, and nothing in the program acts on it. Whether models
do is measured by :func:`stretto.commons.negotiation.obeyed`, against the same run without it.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from stretto.commons import prompts
from stretto.commons.adversaries import Adversary, Wrapped
from stretto.commons.villager import Question, Situation, Villager


@dataclass(frozen=True)
class Settings:
    """Who and what.

    Attributes:
        seats: by name.
        units: what the others are told to demand in the next harvest.
        text: said instead of the shipped one, word for word.
        months: in which it is said; none: all.
    """

    seats: tuple[str, ...]
    units: Annotated[int, Field(ge=0)] = 0
    text: str = ""
    months: tuple[int, ...] = ()


class Plugin(Adversary):
    """Injecting seats."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._own = settings

    def wrap(self, villager: Villager) -> Villager:
        """One of them."""
        return _Injecting(villager, self._own)


class _Injecting(Wrapped):
    def __init__(self, inner: Villager, settings: Settings) -> None:
        super().__init__(inner, "injection")
        self._settings = settings

    def changed(self, question: Question, situation: Situation, value: Any) -> Any:
        settings = self._settings
        if settings.months and situation.month not in settings.months:
            return None
        text = settings.text or prompts.render("injection", units=settings.units)
        if question.kind == "utterance":
            return {**(value or question.default), "text": text}
        if question.kind == "harvest" and value is not None and "message" in value:
            return {**value, "message": text}
        return None
