"""What a villager is: somebody who answers questions and sees what happens.

Everything a villager decides is a :class:`Question` with a JSON schema: a harvest, an utterance, a
vote. An answer that cannot be read is an outcome with a name, never a number.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal, Protocol

from stretto.commons.fleet import Policy, View
from stretto.protocols import Usage

Outcome = Literal["ok", "invalid", "refused", "empty", "timeout", "error"]


@dataclass(frozen=True)
class Question:
    """Something a villager is asked.

    Attributes:
        purpose: what for, unique within a villager's month, such as ``harvest`` or ``vote.2``.
        text: the question, as a model reads it.
        schema: JSON schema of the answer, an object.
        check: a valid answer -> why it will not do, or an empty text.
        default: what a scripted villager without words of its own answers.
        focus: texts by which memories are retrieved; none: no memories are shown.
        memories: how many are retrieved for each text in ``focus``.
    """

    purpose: str
    text: str
    schema: Mapping[str, Any]
    check: Callable[[Any], str] = lambda _: ""
    default: Any = None
    focus: tuple[str, ...] = ()
    memories: int = 10

    @property
    def kind(self) -> str:
        """The purpose without its number."""
        return self.purpose.partition(".")[0]


@dataclass(frozen=True)
class Answer:
    """What came of a question.

    Attributes:
        value: as the schema says; None unless ``ok``.
        outcome: ``ok``, or what went wrong in the last attempt.
        text: as it was given, of the last attempt.
        attempts: how often it was asked.
        why: what was wrong, in a few words.
        usage: of all attempts.
        model: that answered; ``scripted`` or ``human`` if none did.
        scripted: no model and no person decided this.
    """

    value: Any
    outcome: Outcome = "ok"
    text: str = ""
    attempts: int = 1
    why: str = ""
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    scripted: bool = False


@dataclass(frozen=True)
class News:
    """Something a villager sees or hears.

    Attributes:
        kind: ``stock``, ``threshold``, ``result`` (its own), ``report`` (everybody's), ``said``,
            ``limit``, ``arrival``, ``rule`` or ``note``.
        text: in words.
        month: from 1.
        who: who said it, if somebody did.
        always: shown at every question of the month, whatever is retrieved.
        day: in the game; None: the first of the month.
    """

    kind: str
    text: str
    month: int
    who: str = ""
    always: bool = False
    day: date | None = None


@dataclass(frozen=True)
class Situation:
    """What is known to everybody when a question is asked.

    Attributes:
        rules_text: the game in words, as this villager is told it.
        month: from 1.
        date: of this villager's clock, in the game, ISO.
        view: for scripted policies: the village as a fleet of one.
        place: the villager's column in ``view``.
    """

    rules_text: str
    month: int
    date: str
    view: View
    place: int


Ask = Callable[[Question], Awaitable[Answer]]


class Villager(Protocol):
    """One seat."""

    @property
    def name(self) -> str:
        """In the village."""
        ...

    @property
    def model(self) -> str:
        """Who decides, as logs name it."""
        ...

    @property
    def scripted(self) -> bool:
        """Neither a model nor a person."""
        ...

    async def answer(self, question: Question, situation: Situation) -> Answer:
        """Answer a question; never raises for what a model says."""
        ...

    def see(self, news: News) -> None:
        """Perceive."""
        ...

    async def digest(self, ask: Ask, situation: Situation) -> None:
        """After the talk: what to remember of it. ``ask`` asks oneself, on the record."""
        ...

    async def reflect(self, ask: Ask, situation: Situation) -> None:
        """At the end of the month."""
        ...


class ScriptedVillager:
    """Harvests by a policy, says what it was given to say; for oracles, tests and neighbours.

    Args:
        name: in the village.
        policy: of the harvest.
        policy_name: as logs name it.
        words: what it answers to other questions, by kind; others get the question's default.
    """

    scripted = True

    def __init__(
        self,
        name: str,
        policy: Policy,
        policy_name: str = "policy",
        words: Mapping[str, Callable[[Question, Situation], Any]] | None = None,
    ) -> None:
        self.name, self.model = name, f"scripted:{policy_name}"
        self._policy, self._words = policy, dict(words or {})

    async def answer(self, question: Question, situation: Situation) -> Answer:
        """By the policy, the given words, or the default."""
        if question.kind in self._words:
            value = self._words[question.kind](question, situation)
        elif question.kind == "harvest":
            units = int(self._policy(situation.view, situation.place)[0])
            value = {**(question.default or {}), "units": units}
        else:
            value = question.default
        if value is None:
            return Answer(None, "refused", model=self.model, scripted=True)
        return Answer(value, model=self.model, scripted=True)

    def see(self, news: News) -> None:
        """Policies see the village as it is."""

    async def digest(self, ask: Ask, situation: Situation) -> None:
        """Nothing to remember."""

    async def reflect(self, ask: Ask, situation: Situation) -> None:
        """Nothing to think."""
