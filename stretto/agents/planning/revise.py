"""Plans by a model: it writes one, the plan is tried, and it is told where the plan fails."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from stretto.agents.feedback import Feedback, Level
from stretto.agents.repair import extract
from stretto.errors import InputError
from stretto.protocols import ChatModel, Message, Usage

P = TypeVar("P")

_AGAIN = "The plan fails:\n{told}\nNothing was done yet. Write the whole plan again."
_FAILED = "This plan was begun and failed:\n{plan}\n{told}\nWrite a plan for what is left to do."


@dataclass(frozen=True)
class Draft:
    """One plan as the model wrote it, and what came of trying it."""

    text: str
    told: Feedback


@dataclass(frozen=True)
class Planned(Generic[P]):
    """What planning came to.

    Attributes:
        plan: the one that passed; None if none did.
        drafts: all of them, the last one being the plan's.
        messages: the whole conversation.
        model: its name.
        scripted: no model wrote any of it.
        usage: of all answers.
    """

    plan: P | None
    drafts: tuple[Draft, ...]
    messages: tuple[Message, ...]
    model: str
    scripted: bool
    usage: Usage


async def make_plan(
    model: ChatModel,
    task: str,
    read: Callable[[str], P | Awaitable[P]],
    judge: Callable[[P], Awaitable[Feedback]],
    *,
    rounds: int = 3,
    failed: Draft | None = None,
    level: Level = "trace",
    system: str = "Write a plan. Answer with the plan only.",
    seed: int | None = None,
) -> Planned[P]:
    """Ask for a plan until one passes.

    Args:
        model: who plans.
        task: what for, and what the plan may use.
        read: text to plan, such as ``CodePlan.read``; what it refuses is told to the model.
        judge: tries a plan, as :func:`.validate.validate` does.
        rounds: how many plans it may write.
        failed: a plan that broke off in the real world: the model is to plan for the rest.
        level: how much it is told of a failure.
        system: first message.
        seed: given to the model; one more each round.

    Raises:
        InputError: ``rounds`` is below 1.
    """
    if rounds < 1:
        raise InputError(f"rounds is {rounds}; give 1 or more")
    if failed is not None:
        task = f"{task}\n\n{_FAILED.format(plan=failed.text, told=failed.told.at(level))}"
    messages = [Message("system", system), Message("user", task)]
    drafts: list[Draft] = []
    plan: P | None = None
    scripted, usage = model.scripted, Usage()
    for turn in range(rounds):
        answer = await model.complete(messages, seed=None if seed is None else seed + turn)
        scripted = scripted or answer.scripted
        usage = Usage(usage.prompt_tokens + answer.usage.prompt_tokens,
                      usage.completion_tokens + answer.usage.completion_tokens,
                      usage.cost + answer.usage.cost)  # fmt: skip
        messages.append(Message("assistant", answer.text))
        text = extract(answer.text)
        plan, told = await _try(text, read, judge)
        drafts.append(Draft(text, told))
        if told.good:
            break
        plan = None
        if turn + 1 < rounds:
            messages.append(Message("user", _AGAIN.format(told=told.at(level))))
    return Planned(plan, tuple(drafts), tuple(messages), model.name, scripted, usage)


async def _try(
    text: str,
    read: Callable[[str], P | Awaitable[P]],
    judge: Callable[[P], Awaitable[Feedback]],
) -> tuple[P | None, Feedback]:
    try:
        made = read(text)
        plan = cast(P, await made if inspect.isawaitable(made) else made)
    except InputError as error:
        return None, Feedback("binary", False, str(error), "plan")
    return plan, await judge(plan)
