"""Villagers who do harm: one small file each, found by name, wrapped around a villager.

The file's name is the adversary's; others come from installed packages, as entry points
``stretto.adversaries``. The file gives a class called ``Plugin``, an :class:`Adversary`, whose
``Settings`` are a dataclass with the ``seats`` it takes, by name. The villager that plays says so:
its model is told as ``MODEL+NAME``, in the record's first line and with every answer it changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from stretto.commons.plugins import found
from stretto.commons.villager import Answer, Ask, News, Question, Situation, Villager
from stretto.errors import ConfigError


class Seats(Protocol):
    """What every adversary's settings have."""

    @property
    def seats(self) -> tuple[str, ...]:
        """Names of the villagers that it takes."""
        ...


class Adversary:
    """Takes the seats that its settings name; :meth:`wrap` says what becomes of a villager."""

    def __init__(self, settings: Seats) -> None:
        self.settings = settings

    def __call__(self, villager: Villager) -> Villager:
        """The villager that plays."""
        return self.wrap(villager) if villager.name in self.settings.seats else villager

    def wrap(self, villager: Villager) -> Villager:
        """What becomes of one of its seats."""
        raise NotImplementedError


class Wrapped:
    """A villager with something changed; the rest is as before.

    Args:
        inner: the villager.
        what: name of the adversary.
    """

    def __init__(self, inner: Villager, what: str) -> None:
        self.inner, self.what = inner, what
        self.name, self.scripted = inner.name, inner.scripted
        self.model = f"{inner.model}+{what}"

    async def answer(self, question: Question, situation: Situation) -> Answer:
        """As the villager answers, unless :meth:`changed` says otherwise."""
        given = await self.inner.answer(question, self.told(situation))
        new = self.changed(question, situation, given.value if given.outcome == "ok" else None)
        if new is None or new == given.value:
            return given
        # What the villager itself said stays in the record's text.
        return replace(
            given, value=new, outcome="ok", why=f"changed by {self.what}",
            model=f"{given.model}+{self.what}",
        )  # fmt: skip

    def changed(self, question: Question, situation: Situation, value: Any) -> Any:
        """Another value for an answer; None: as it is. ``value`` is None if there is none."""
        return None

    def told(self, situation: Situation) -> Situation:
        """What the villager is told."""
        return situation

    def see(self, news: News) -> None:
        """Perceive."""
        self.inner.see(news)

    def note(self, text: str, month: int) -> None:
        """What it wrote down, where it can."""
        if (note := getattr(self.inner, "note", None)) is not None:
            note(text, month)

    def heed(self, answer: Answer) -> None:
        """What became of its harvest, where it cares."""
        if (heed := getattr(self.inner, "heed", None)) is not None:
            heed(answer)

    async def prepare(self, ask: Ask, situation: Situation) -> None:
        """Before a month, where it does."""
        if (prepare := getattr(self.inner, "prepare", None)) is not None:
            await prepare(ask, self.told(situation))

    async def digest(self, ask: Ask, situation: Situation) -> None:
        """After the talk."""
        await self.inner.digest(ask, self.told(situation))

    async def reflect(self, ask: Ask, situation: Situation) -> None:
        """At the end of the month."""
        await self.inner.reflect(ask, self.told(situation))


def harvesting(value: Any, question: Question, units: int) -> dict[str, Any]:
    """A harvest's answer with another number; of a villager without an answer, a bare one."""
    return {**(value or question.default), "units": units}


def part(of: int, share: float, most: int) -> int:
    """So much of ``of``, rounded down, ``most`` at most."""
    return min(int(share * of + 1e-9), most)


def adversaries_of(
    settings: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> list[Adversary]:
    """Adversaries by name, with their settings.

    Args:
        settings: by adversary.
        names: of everybody, newcomers too.

    Raises:
        ConfigError: there is none of that name, a setting is wrong, or a seat is nobody's.
    """
    made = []
    for name, values in settings.items():
        one = found("adversaries", name, values)
        seats = one.settings.seats
        if not seats:
            raise ConfigError(f"adversaries.{name}: seats: name at least one of {', '.join(names)}")
        unknown = [seat for seat in seats if seat not in names]
        if unknown:
            raise ConfigError(
                f"adversaries.{name}: seats: there is no {', '.join(unknown)}; "
                f"there are {', '.join(names)}"
            )
        made.append(one)
    return made
