"""A plan is tried on a twin of the world before it touches the world itself.

A twin is a simulation in the world's present state, made anew for each trial and thrown away. Its
tools stand in for those of the same name; tools that only read run as they are, and a tool that
writes and has no twin cannot be tried: a plan with it fails here, with a line that says so.
"""

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from stretto.agents.broker import Broker, Budgets
from stretto.agents.feedback import Feedback
from stretto.agents.planning.code import CodePlan, failed
from stretto.agents.planning.graph import GraphPlan
from stretto.agents.registry import Registry
from stretto.agents.stream import CellSession
from stretto.agents.tool import Tool
from stretto.errors import ConfigError, InputError, StrettoError


@runtime_checkable
class Twin(Protocol):
    """A simulated world."""

    def tools(self) -> Iterable[Tool]:
        """That act on it; they take what the real ones take."""
        ...

    def missing(self) -> str:
        """What the goal still lacks, one line; "" if it is reached, or there is none."""
        ...


class NoTwinError(StrettoError):
    """A tool that writes has nothing to be tried on."""


async def validate(
    plan: CodePlan | GraphPlan,
    registry: Registry,
    twin: Callable[[], Twin],
    *,
    session: CellSession | None = None,
    budgets: Budgets | None = None,
) -> Feedback:
    """Run a plan on a twin.

    Args:
        plan: to try.
        registry: of the real tools.
        twin: makes one, in the world's present state.
        session: of a sandbox, whose tools are the registry's; code runs in a fork of it.
        budgets: of the trial.

    Returns:
        ``binary``, by collector ``twin``: all steps pass and the goal is reached; or the first
        step that failed, with its line; or what the goal lacks.

    Raises:
        ConfigError: a twin's tool is not as the real one; code without a session to run it in.
    """
    world = twin()
    broker = Broker(stand_in(registry, world), budgets=budgets)
    if isinstance(plan, CodePlan):
        if session is None:
            raise ConfigError("a plan as code runs in a sandbox; give session=")
        trial = await session.fork(on_call=broker.on_call("twin"))
        try:
            told = await plan.run(trial)
        finally:
            await trial.close()
    else:
        told = (await plan.run(broker, tag="twin")).feedback()
    lacking = world.missing() if told.good else ""
    if lacking:
        told = failed("after the last step", None, plan.text, f"the goal is not reached: {lacking}",
                      told.cost)  # fmt: skip
    return replace(told, source="twin")


def stand_in(registry: Registry, twin: Twin) -> Registry:
    """The tools of a trial, by the names of the real ones.

    Raises:
        ConfigError: a twin's tool has no counterpart, or takes other arguments.
    """
    simulated = {}
    for tool in twin.tools():
        try:
            real = registry.get(tool.name)
        except InputError:
            raise ConfigError(f"twin: there is no real tool {tool.name}; leave it out") from None
        if (tool.schema, tool.effect) != (real.schema, real.effect):
            raise ConfigError(f"twin: {tool.name} takes other arguments than the real tool, or has "
                              "another effect; make them the same")  # fmt: skip
        simulated[real.name] = tool
    made = Registry()
    for tool in registry:
        if tool.name in simulated or tool.effect in ("pure", "read"):
            made.add(simulated.get(tool.name, tool))
        else:
            made.add(_untried(tool))
    return made


def _untried(tool: Tool) -> Tool:
    async def refuse(**_: Any) -> None:
        raise NoTwinError(f"{tool.name} changes something and has no twin, so it cannot be tried")

    made = copy(tool)
    # Guards of the real tool act on the real world: abort would stop what a trial never began.
    vars(made).update(function=refuse, guards=None)
    return made
