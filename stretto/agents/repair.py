"""Rounds of repair: the model writes, the code is judged, and it is told what came of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stretto.agents.feedback import Feedback, Level, Test, names, syntax, unit_tests
from stretto.agents.stream import CellSession
from stretto.errors import InputError
from stretto.protocols import ChatModel, Message

_FENCE = re.compile(r"^```[a-zA-Z0-9]*[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Attempt:
    """One answer: its text, the code in it, and what came of it."""

    text: str
    code: str
    feedback: Feedback

    @property
    def reward(self) -> float:
        """Share of tests, hidden ones included, that pass; 0 for what does not run."""
        value = self.feedback.value
        return float(value) if self.feedback.kind in ("reward", "binary") else 0.0


@dataclass(frozen=True)
class Trajectory:
    """A task, its attempts in order, and the whole conversation.

    ``model`` is the model's own name; ``scripted`` says that no model wrote the attempts.
    """

    task: str
    attempts: tuple[Attempt, ...]
    messages: tuple[Message, ...]
    model: str
    id: str = ""
    scripted: bool = False

    @property
    def solved(self) -> bool:
        """Whether the last attempt passes every test."""
        return bool(self.attempts) and self.attempts[-1].reward == 1.0


async def repair(
    model: ChatModel,
    task: str,
    tests: Sequence[Test],
    session: CellSession,
    *,
    max_repairs: int = 2,
    level: Level = "trace",
    system: str = "Answer with Python code only.",
    known: Sequence[str] = (),
    seed: int | None = None,
    task_id: str = "",
) -> Trajectory:
    """Ask, judge, show what is wrong, ask again.

    It goes on while a visible test fails, and stops when all pass: what hidden tests say is never
    shown and never decides. Most of what repair can gain comes in the first two rounds.

    Args:
        model: who writes.
        task: what it is asked.
        tests: visible and hidden ones.
        session: a sandbox's session; each attempt runs in forks of it.
        max_repairs: rounds after the first answer.
        level: how much the model is told.
        system: first message.
        known: names that the code may use without defining them, such as tools.
        seed: given to the model; one more each round.
        task_id: kept in the trajectory.

    Raises:
        InputError: no visible test, or a negative number of rounds.
    """
    if max_repairs < 0:
        raise InputError(f"max_repairs: must not be negative, got {max_repairs}")
    if all(test.hidden for test in tests):
        raise InputError("repair needs a visible test: hidden ones are never shown")
    messages = [Message("system", system), Message("user", task)]
    attempts: list[Attempt] = []
    for turn in range(max_repairs + 1):
        answer = await model.complete(messages, seed=None if seed is None else seed + turn)
        messages.append(Message("assistant", answer.text))
        code = extract(answer.text)
        told, shown = await judge(code, tests, session, known=known)
        attempts.append(Attempt(answer.text, code, told))
        if shown.good or turn == max_repairs:
            break
        messages.append(Message("user", _ask_again(shown, level)))
    made = tuple(attempts), tuple(messages)
    return Trajectory(task, *made, model.name, task_id, scripted=model.scripted)


async def judge(
    code: str, tests: Sequence[Test], session: CellSession, *, known: Sequence[str] = ()
) -> tuple[Feedback, Feedback]:
    """What is known of the code by all tests, and what of it may be shown.

    What reading it tells comes first: it is cheaper and clearer than a failing test.
    """
    for read in (syntax(code), names(code, known)):
        if not read.good:
            return read, read
    visible = [test for test in tests if not test.hidden]
    shown = await unit_tests(code, visible, session)
    if len(visible) == len(tests):
        return shown, shown
    return await unit_tests(code, tests, session), shown


def extract(text: str) -> str:
    """The code of an answer: its fenced blocks, or all of it where there are none."""
    blocks = _FENCE.findall(text)
    return "\n".join(blocks) if blocks else text


def _ask_again(told: Feedback, level: Level) -> str:
    if level == "bit":
        return "That is not right. Write the whole code again."
    return f"That is not right:\n{told.at(level)}\nWrite the whole code again."
