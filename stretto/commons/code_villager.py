"""A villager that decides by a program: a model writes it, the sandbox of agents runs it.

The program is a function ``harvest(stock, month, history)``. It is written before the first harvest
and may be revised before later ones; the program is an answer like any other, in the record. It
never runs in this process (``stretto.agents.sandbox``). A program that fails is an outcome of that
month's harvest, never a number, and its author is told of it. All other questions go to the model
itself; in the lean profile, where talk comes with the harvest, it says nothing.
"""

import ast
from collections.abc import Mapping
from typing import Any, Literal

from stretto.agents.sandbox import ExecResult, Policy, open_sandbox
from stretto.commons import prompts
from stretto.commons.chat_villager import ChatVillager
from stretto.commons.scenario import Scenario
from stretto.commons.villager import Answer, Ask, News, Question, Situation
from stretto.errors import StrettoError

WALL = 10.0  # seconds of a program's month
_LONGEST = 20_000  # characters of a program


class CodeVillager:
    """One seat, played by a program.

    Args:
        inner: the model's villager: writes the program, talks, votes.
        words: of the scenario.
        sees_catches: whether the program is given what others got.
        revises: ``monthly``, or ``never`` after the first.
        backend: of the sandbox; ``auto`` takes what works here.
        seed: of Python's random numbers in the sandbox, with the month.
    """

    def __init__(
        self,
        inner: ChatVillager,
        words: Scenario,
        *,
        sees_catches: bool = True,
        revises: Literal["monthly", "never"] = "monthly",
        backend: Any = "auto",
        seed: int = 0,
    ) -> None:
        self.name, self.scripted = inner.name, inner.scripted
        self.model = f"code:{inner.model}"
        self._inner, self._words, self._sees_catches = inner, words, sees_catches
        self._revises, self._backend, self._seed = revises, backend, seed
        self._program, self._failed = "", ""
        self._history: list[dict[str, Any]] = []
        self._stock = 0

    async def prepare(self, ask: Ask, situation: Situation) -> None:
        """Before the harvest: note the last month, write or revise the program."""
        self._remember(situation)
        if self._program and self._revises == "never":
            return
        words = self._words
        text = prompts.render(
            "program", units=words.units, stock_units=words.stock_units or words.units,
            act=words.act, capacity=situation.view.rules.capacity,
            sees_catches=self._sees_catches, program=self._program, failed=self._failed,
            history=self._history,
        )  # fmt: skip
        properties = {"reasoning": {"type": "string"}, "code": {"type": "string"}}
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        question = Question("program", text, schema, _usable, focus=(words.place,))
        answer = await ask(question)
        if answer.outcome == "ok":
            self._program = answer.value["code"]

    async def answer(self, question: Question, situation: Situation) -> Answer:
        """A harvest by the program, all else by the model."""
        if question.kind != "harvest":
            return await self._inner.answer(question, situation)
        if not self._program:
            return self._told(Answer(None, "error", why="there is no program"))
        view = situation.view
        call = f"harvest({int(view.stock[0])}, {situation.month}, {self._history!r})"
        policy = Policy(
            wall=WALL,
            cpu=5,
            calls=0,
            disk="1M",
            output="4K",
            seed=(self._seed + situation.month) % 2**31,
        )
        try:
            async with (
                open_sandbox(self._backend, policy, warm=0) as box,
                box.session() as session,
            ):
                done = await session.exec(self._program)
                if done.ok:
                    done = await session.exec(call)
        except StrettoError as error:
            return self._told(Answer(None, "error", why=f"sandbox: {error}"))
        return self._told(_read(done, view.rules.capacity, question))

    def see(self, news: News) -> None:
        """What the model remembers; and why its program failed, if it did."""
        self._inner.see(news)

    def note(self, text: str, month: int) -> None:
        """Programs note nothing."""

    async def digest(self, ask: Ask, situation: Situation) -> None:
        """As the model does."""
        await self._inner.digest(ask, situation)

    async def reflect(self, ask: Ask, situation: Situation) -> None:
        """As the model does."""
        await self._inner.reflect(ask, situation)

    def heed(self, answer: Answer) -> None:
        """This month's harvest, new or from the record: whether the program failed."""
        self._failed = answer.why if answer.outcome != "ok" else ""

    def _told(self, answer: Answer) -> Answer:
        return Answer(
            answer.value, answer.outcome, answer.text, why=answer.why, model=self.model,
            scripted=self.scripted,
        )  # fmt: skip

    def _remember(self, situation: Situation) -> None:
        view, place = situation.view, situation.place
        if situation.month > 1 and self._inner.has_memory:
            got = view.received[0].tolist()
            others = [units for i, units in enumerate(got) if i != place]
            self._history.append({
                "month": situation.month - 1, "stock": self._stock, "mine": got[place],
                "others": others if self._sees_catches else [],
            })  # fmt: skip
        self._stock = int(view.stock[0])


def _usable(value: Mapping[str, Any]) -> str:
    """Why a program cannot be one; it is read here and run elsewhere."""
    code = value["code"]
    if len(code) > _LONGEST:
        return f"code: is longer than {_LONGEST} characters"
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"code: {type(error).__name__}: {error}"
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return "" if "harvest" in names else "code: there is no function harvest"


def _read(done: ExecResult, capacity: int, question: Question) -> Answer:
    """The harvest's answer from what a program did."""
    if done.limit is not None:
        outcome = "timeout" if done.limit in ("wall", "cpu") else "error"
        return Answer(None, outcome, why=f"beyond its limit of {done.limit}")
    if not done.ok:
        error = done.error
        why = f"line {error.line}: {error.type}: {error.message}" if error else "it did not run"
        return Answer(None, "error", why=why)
    value = done.value
    text = str(done.value_repr if done.value is None else value)[:200]
    if not done.has_value or isinstance(value, bool) or not isinstance(value, int):
        return Answer(None, "invalid", text, why=f"harvest gave {text}, which is no whole number")
    if not 0 <= value <= capacity:
        return Answer(None, "invalid", text, why=f"harvest gave {text}, not 0 to {capacity}")
    return Answer({**(question.default or {}), "units": value}, "ok", text)
