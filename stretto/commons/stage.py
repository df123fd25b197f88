"""What happens in a village goes through here: questions, news, the record.

Mechanisms, the meeting and the months all use a :class:`Stage`; none of them knows how a villager
thinks or where a record is kept.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from stretto.commons import prompts
from stretto.commons.answers import together
from stretto.commons.calendar import first_day, last_day
from stretto.commons.fleet import View
from stretto.commons.journal import Journal
from stretto.commons.resource import share
from stretto.commons.run_config import RunConfig
from stretto.commons.scenario import Scenario
from stretto.commons.seeds import generator
from stretto.commons.village import Village
from stretto.commons.villager import Answer, Ask, News, Question, Situation, Villager

if TYPE_CHECKING:
    from stretto.commons.mechanisms import Mechanism

FRAMEWORK = "framework"  # the name of whoever keeps the record


class Stage:
    """One run's village, its people and its record.

    Attributes:
        config: of the run.
        scenario: its words.
        village: its state.
        villagers: by name, newcomers too.
        journal: what happened.
        on_answer: told of every new answer, as for costs; never of recorded ones.
        mechanisms: the village's institutions.
        quota: most that one may take this month, where an institution says so.
        transfers: units of payoff that villagers gained or lost otherwise, by month.
        messages: what villagers wrote with this month's harvest, to be heard after it.
        today: in the game; goes on from the harvest to the meeting and the end of the month.
    """

    def __init__(
        self,
        config: RunConfig,
        scenario: Scenario,
        village: Village,
        villagers: Sequence[Villager],
        journal: Journal,
        on_answer: Callable[[Answer], None] = lambda _: None,
        mechanisms: Sequence["Mechanism"] = (),
    ) -> None:
        self.config, self.scenario, self.village = config, scenario, village
        self.villagers = {villager.name: villager for villager in villagers}
        self.journal, self.on_answer = journal, on_answer
        self._goals = {seat.name: seat.goal for seat in config.everybody}
        self.mechanisms = mechanisms
        self.quota: int | None = None
        self.transfers: list[dict[str, float]] = []
        self.today = first_day(village.month)
        self.messages: dict[str, str] = {}
        self._extra: list[str] = []
        self._today: list[str] = []

    @property
    def month(self) -> int:
        """From 1."""
        return self.village.month

    @property
    def names(self) -> list[str]:
        """Of those who are there now."""
        return list(self.village.names)

    def new_month(self) -> None:
        """What stood for last month only is gone."""
        self.quota = None
        self._today.clear()
        self.transfers.append({})

    async def ask(self, questions: Mapping[str, Question]) -> dict[str, Answer]:
        """Ask several villagers at once; the record has them in the village's order."""
        names = list(questions)
        answers = await together(*(self._ask(name, questions[name]) for name in names))
        self.journal.flush()
        return dict(zip(names, answers, strict=True))

    async def prepare(self) -> None:
        """Let those who prepare for a month, such as writers of programs, do so."""

        async def act(villager: Villager, ask: Ask, situation: Situation) -> None:
            prepares = getattr(villager, "prepare", None)
            if prepares is not None:
                await prepares(ask, situation)

        await self.each(act)

    async def each(self, act: Callable[[Villager, Ask, Situation], Any]) -> None:
        """Let every villager do something of its own at once, such as reflect."""

        def asking(name: str) -> Ask:
            return lambda question: self._ask(name, question)

        await together(
            *(act(self.villagers[name], asking(name), self.situation(name)) for name in self.names)
        )
        self.journal.flush()

    def tell(self, names: Iterable[str], kind: str, text: str, who: str = "", **how: Any) -> None:
        """Let villagers perceive something."""
        for name in names:
            # Each dates by its own clock what it thinks; what happens has a date by itself.
            day = self._clock(name) if kind == "limit" else self.today
            self.villagers[name].see(News(kind, text, self.month, who, day=day, **how))

    def announce(self, text: str, *, lasting: bool = True) -> None:
        """A rule that all know from now on, or this month: stands in the rules they are told."""
        if text not in self._extra + self._today:
            (self._extra if lasting else self._today).append(text)
            self.log("rule", text=text, lasting=lasting)

    def pay(self, mechanism: str, what: str, units: Mapping[str, float]) -> None:
        """Payoffs that change by what an institution does; catches stay as they are.

        Args:
            mechanism: that moves them.
            what: for, as in ``fine``.
            units: gained or lost (negative), by villager; those of 0 are left out.
        """
        moved = {name: change for name, change in units.items() if change}
        if not moved:
            return
        self.log("transfer", mechanism=mechanism, what=what, units=moved)
        month = self.transfers[-1]
        for name, change in moved.items():
            month[name] = month.get(name, 0.0) + change

    def log(self, type: str, **data: Any) -> None:  # noqa: A002 - the name it has in the file
        """Record something of this month."""
        self.journal.write(type, month=self.month, **data)

    def rng(self, *path: str | int) -> np.random.Generator:
        """Random numbers of their own for a mechanism, in this month."""
        return generator(self.config.seed, self.month, *path)

    def situation(self, name: str) -> Situation:
        """What a villager knows of the game."""
        return Situation(
            self._rules(name), self.month, self._clock(name).isoformat(),
            self._view(), self._place(name),
        )  # fmt: skip

    @property
    def rules_for_all(self) -> str:
        """The game as it is told when all are spoken to, with what institutions announced."""
        words, rules = self.scenario, self.village.rules
        told = words.rules.format(names="the others", capacity=rules.capacity)
        return "\n\n".join([told, words.told_growth(rules), *self._extra, *self._today])

    @property
    def told_share(self) -> int:
        """phi(t), as villagers are told it."""
        village = self.village
        if self.config.switches.newcomer == "paper":
            if self.month == 1:
                return 10  # the reference writes the first month's down as a literal
            return int(share(village.rules, np.array(village.stock)))
        return village.share

    async def framework(self, questions: Sequence[Question]) -> list[Answer]:
        """Ask whoever keeps the record of the meeting, all at once."""
        answers = await together(*(self._ask(FRAMEWORK, one) for one in questions))
        self.journal.flush()
        return answers

    async def _ask(self, name: str, question: Question) -> Answer:
        key = f"{self.month}/{question.purpose}/{name}"
        answer = self.journal.recorded(key)
        if answer is None:
            answer = await self.villagers[name].answer(question, self.situation(name))
            self.on_answer(answer)
        self.journal.answer(key, self._place(name), name, question.purpose, answer)
        return answer

    def _clock(self, name: str) -> date:
        """The date, as a villager's clock has it."""
        if self.config.switches.clock == "corrected" or self.today == last_day(self.month):
            return self.today
        if self.config.arrivals.get(name) == self.month:
            return first_day(1)
        return first_day(self.month) if self._place(name) else self.today

    def _place(self, name: str) -> int:
        return self.names.index(name) if name in self.names else len(self.names)

    def _rules(self, name: str) -> str:
        if name not in self.config.names:
            return "You keep the record of a village's meetings. You do not live there."
        config, scenario, village = self.config, self.scenario, self.village
        # The reference's villagers know from the first month who will come.
        known = config.names if config.switches.newcomer == "paper" else village.names
        others = [other for other in known if other != name]
        rules, place = config.rules, config.names.index(name)
        words = {"names": _listed(others), "capacity": rules.capacity}
        return prompts.render(
            "rules", name=name, rules=scenario.rules.format(**words),
            growth=scenario.told_growth(rules),
            # The paper's villagers are not told when all is over.
            collapse_below=rules.collapse_below if config.profile == "lean" else 0,
            stock_units=scenario.stock_units or scenario.units, units=scenario.units,
            cap=rules.caps[place] if place < len(rules.caps) else None,
            owns=rules.endowments[place] if place < len(rules.endowments) else None,
            talks=config.talk != "none",
            sees_catches=config.sees_catches, meeting=scenario.meeting,
            goal=self._goals.get(name, ""), extra="\n\n".join(self._extra + self._today),
        )  # fmt: skip

    def _view(self) -> View:
        village = self.village
        earlier = village.harvests[: village.month - 1]
        last = earlier[-1] if earlier else None
        demands = [(last.demands.get(n) or 0) if last else 0 for n in village.names]
        received = [last.received.get(n, 0) if last else 0 for n in village.names]
        rules = village.rules
        if len(village.names) != rules.villagers:
            rules = replace(rules, villagers=len(village.names), caps=(), endowments=())
        return View(
            rules, village.month, np.array([village.stock]), np.array([village.share]),
            np.array([demands]), np.array([received]),
        )  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names) or "nobody else"
    return f"{', '.join(names[:-1])} and {names[-1]}"
