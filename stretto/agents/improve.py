"""Learning from one's own attempts: tasks, answers judged by running them, answers worth learning.

Rejection sampling as in STaR (Zelikman et al. 2022): what a model wrote itself and what ran to the
right result is what it is tuned on. The right call of a task is only ever executed, to know its
result; its text goes nowhere. :mod:`stretto.evals.improve` has the model, the tuning and the
figures.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stretto.agents.feedback import Feedback
from stretto.agents.repair import Attempt, Trajectory
from stretto.agents.sandbox import ExecResult, Session
from stretto.errors import InputError
from stretto.protocols import Message


@dataclass(frozen=True)
class Problem:
    """A request that one call of one tool answers.

    Attributes:
        id: names it.
        prompt: all that a model is told; its answer, a JSON object of arguments, comes next.
        schema: JSON schema of the arguments.
        tool: name of the tool.
        setup: Python code that defines the tool.
        right: code of the right call, for execution only.
    """

    id: str
    prompt: str
    schema: Mapping[str, Any] = field(hash=False)
    tool: str
    setup: str
    right: str


async def judge(problem: Problem, texts: Sequence[str], session: Session) -> list[Attempt]:
    """Run the calls that a model wrote; each text once, in a copy of its own.

    Args:
        problem: what they answer.
        texts: answers, JSON or not.
        session: of a sandbox; all runs in copies of it.

    Raises:
        InputError: the problem's own code does not run.
    """
    found: dict[str, Attempt] = {}
    base = await session.fork()
    try:
        ready = await base.exec(problem.setup)
        wanted = await base.exec(problem.right) if ready.ok else ready
        if not wanted.ok or wanted.value_repr is None:
            raise InputError(f"problem {problem.id}: its own code fails ({_why(wanted)})")
        for text in dict.fromkeys(texts):
            found[text] = await _attempt(problem, text, wanted, base)
    finally:
        await base.close()
    return [found[text] for text in texts]


async def _attempt(problem: Problem, text: str, wanted: ExecResult, session: Session) -> Attempt:
    try:
        arguments = json.loads(text)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        return Attempt(text, "", Feedback("binary", False, "no JSON object", "call"))
    code = f"{problem.tool}(**{arguments!r})"
    copy = await session.fork()
    try:
        result = await copy.exec(code)
    finally:
        await copy.close()
    is_right = result.ok and result.value_repr == wanted.value_repr
    told = "as wanted" if is_right else _why(result) if not result.ok else "another result"
    return Attempt(text, code, Feedback("binary", is_right, told, "call", cost=1))


def _why(result: ExecResult) -> str:
    if result.error is not None:
        return f"{result.error.type}: {result.error.message}"
    return f"stopped at its {result.limit} limit" if result.limit else "no value"


def trajectories(
    problem: Problem, attempts: Iterable[Attempt], *, model: str, most: int
) -> list[Trajectory]:
    """The answers to a problem that ran to the right result, as :mod:`export` takes them.

    Args:
        problem: what was asked.
        attempts: in the order they were made; of equal ones the first counts.
        model: who made them.
        most: answers kept, so that easy problems do not outweigh the others.
    """
    good = {each.text: each for each in attempts if each.reward == 1.0}
    return [
        Trajectory(
            task=problem.prompt,
            attempts=(attempt,),
            messages=(Message("user", problem.prompt), Message("assistant", attempt.text)),
            model=model,
            id=f"{problem.id}-{number}",
        )
        for number, attempt in enumerate(list(good.values())[:most])
    ]
