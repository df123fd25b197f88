"""Sybil: one mind under several names; the first of its seats thinks and decides for all."""

from dataclasses import dataclass, replace

from stretto.commons import prompts
from stretto.commons.adversaries import Adversary, Wrapped
from stretto.commons.villager import Answer, Ask, News, Question, Situation, Villager
from stretto.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """Who.

    Attributes:
        seats: two or more, by name; who sits on the first plays them all.
    """

    seats: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.seats)) < 2:
            raise ConfigError("seats: two different ones or more make a sybil")


class Plugin(Adversary):
    """Seats of one mind."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._mind: _Sybil | None = None

    def wrap(self, villager: Villager) -> Villager:
        """The first seen is the mind, whose memory and model all of them have."""
        made = _Sybil(villager, self._mind, self.settings.seats)
        self._mind = self._mind or made
        return made


class _Sybil(Wrapped):
    def __init__(self, inner: Villager, mind: "_Sybil | None", seats: tuple[str, ...]) -> None:
        super().__init__(inner, "sybil")
        self._mind, self._seats = mind, seats
        if mind is not None:
            self.model, self.scripted = mind.model, mind.scripted

    async def answer(self, question: Question, situation: Situation) -> Answer:
        mind = self._mind.inner if self._mind is not None else self.inner
        return replace(await mind.answer(question, self.told(situation)), model=self.model)

    def told(self, situation: Situation) -> Situation:
        others = [seat for seat in self._seats if seat != self.name]
        text = prompts.render("sybil", others=others)
        return replace(situation, rules_text=f"{situation.rules_text}\n\n{text}")

    # The names that only stand in for the mind have no memory of their own.
    def see(self, news: News) -> None:
        if self._mind is None:
            super().see(news)

    def note(self, text: str, month: int) -> None:
        if self._mind is None:
            super().note(text, month)

    async def digest(self, ask: Ask, situation: Situation) -> None:
        if self._mind is None:
            await super().digest(ask, situation)

    async def reflect(self, ask: Ask, situation: Situation) -> None:
        if self._mind is None:
            await super().reflect(ask, situation)

    async def prepare(self, ask: Ask, situation: Situation) -> None:
        if self._mind is None:
            await super().prepare(ask, situation)
