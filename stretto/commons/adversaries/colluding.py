"""Colluding: partners grab in turns, and stand by each other wherever something is decided."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from stretto.commons.adversaries import Adversary, Wrapped, harvesting, part
from stretto.commons.villager import Question, Situation, Villager
from stretto.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """Who and how.

    Attributes:
        seats: two or more, by name.
        grabs: what the one whose turn it is takes, as a part of the sustainable share; the others
            of them take the share, so that they look good.
    """

    seats: tuple[str, ...]
    grabs: Annotated[float, Field(ge=0)] = 3.0

    def __post_init__(self) -> None:
        if len(set(self.seats)) < 2:
            raise ConfigError("seats: two different ones or more, for there is nobody to collude")


class Plugin(Adversary):
    """Colluding seats."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._own = settings

    def wrap(self, villager: Villager) -> Villager:
        """One of them."""
        return _Colluding(villager, self._own)


class _Colluding(Wrapped):
    def __init__(self, inner: Villager, settings: Settings) -> None:
        super().__init__(inner, "colluding")
        self._settings = settings

    def changed(self, question: Question, situation: Situation, value: Any) -> Any:
        seats, view = self._settings.seats, situation.view
        turn = seats[(situation.month - 1) % len(seats)]
        if question.kind == "harvest":
            grab = self._settings.grabs if self.name == turn else 1.0
            most = int(view.stock[0])
            return harvesting(value, question, part(int(view.share[0]), grab, most))
        if value is None:
            return None
        partners = [seat for seat in seats if seat != self.name]
        if question.kind == "sanction":
            moves = value["moves"]
            kept = [m for m in moves if m["who"] not in partners or m["what"] != "punish"]
            return {**value, "moves": kept}
        if question.kind == "rate":
            items = question.schema["properties"]["ratings"]["items"]["properties"]
            best, there = items["rating"]["maximum"], items["who"]["enum"]
            others = [one for one in value["ratings"] if one["who"] not in partners]
            praised = [{"who": p, "rating": best, "why": ""} for p in partners if p in there]
            return {**value, "ratings": [*others, *praised]}
        if question.purpose == "vote.leader":
            return _ballot(question, value, turn)
        return None


def _ballot(question: Question, value: Any, favourite: str) -> Any:
    """All of them vote for the same one."""
    if "choice" in value:
        names = question.schema["properties"]["choice"]["enum"]
        return {**value, "choice": favourite} if favourite in names else None
    names = question.schema["properties"]["choices"]["items"]["enum"]
    return {**value, "choices": [favourite]} if favourite in names else None
