"""``stretto agent``: give a model a task and tools, watch it work, make a run again."""

import asyncio
import importlib.util
import itertools
import os
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from cyclopts import App, Parameter
from rich.console import Console

from stretto.agents.agent import Agent, AgentLimits, DialectName
from stretto.agents.broker import Call, Decision
from stretto.agents.events import AgentEvent
from stretto.agents.registry import Registry
from stretto.agents.sandbox import Backend, Policy
from stretto.agents.tool import Tool
from stretto.cli.agent_tools import registry_of
from stretto.cli.agent_view import LiveView, View, open_view
from stretto.cli.output import console as remarks
from stretto.cli.play import can_type, typing
from stretto.errors import ConfigError, InputError

app = App(name="agent", help="Give a model a task and tools; its actions are code.")
if importlib.util.find_spec("stretto.cli.agent_improve") is not None:
    app.command("stretto.cli.agent_improve:improve", name="improve")

AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print events as JSON lines.")]
_RUNS = Path("runs")
_PATIENCE_S = 3600.0  # a person may take this long to answer


class _Works(Protocol):
    """An agent, whatever is behind it."""

    def stream(self, task: str, *, folder: Path | None = None) -> AsyncGenerator[AgentEvent, None]:
        """Work on a task."""
        ...

    def interrupt(self, text: str) -> None:
        """Say something meanwhile."""
        ...


@app.command
def run(
    task: Annotated[str, Parameter(help="What to do.")],
    /,
    *,
    tools: Annotated[
        list[str], Parameter(negative="", help="Module or .py file; all its @tool functions.")
    ],
    model: Annotated[str | None, Parameter(help="As the endpoint names it.")] = None,
    base_url: Annotated[
        str | None,
        Parameter(help="An OpenAI-compatible endpoint, up to /v1; else a model on this machine."),
    ] = None,
    api_key_env: Annotated[
        str, Parameter(help="Environment variable that holds the endpoint's key.")
    ] = "OPENAI_API_KEY",
    dialect: Annotated[
        DialectName, Parameter(help="How actions are written; auto asks the model a few questions.")
    ] = "auto",
    authorise: Annotated[
        Literal["allow", "ask", "deny"],
        Parameter(help="What happens to calls that change something."),
    ] = "allow",
    sandbox: Annotated[Backend, Parameter(help="Where code runs.")] = "auto",
    seed: Annotated[int, Parameter(help="Of the model's sampling, and of the sandbox.")] = 0,
    turns: Annotated[int, Parameter(help="Answers of the model, at most.")] = AgentLimits.turns,
    tokens: Annotated[int, Parameter(help="That it writes, at most.")] = AgentLimits.tokens,
    seconds: Annotated[float, Parameter(help="Of the run, at most.")] = AgentLimits.seconds,
    calls: Annotated[int, Parameter(help="Of tools, at most.")] = AgentLimits.calls,
    dollars: Annotated[
        float | None, Parameter(help="For the model, at most; needs --prices.")
    ] = None,
    prices: Annotated[
        tuple[float, float] | None,
        Parameter(negative="", help="Dollars per million tokens read, and written."),
    ] = None,
    folder: Annotated[
        Path | None,
        Parameter(help="Run folder; one with an unfinished run of this task is gone on with."),
    ] = None,
    json: AsJson = False,
) -> int:
    """Let an agent do a task with your tools.

    Exits with 0 if it answered, 1 if it did not. The run is kept in a folder; a run that broke off
    goes on when the same command names that folder.
    """
    if dollars is not None and prices is None:
        raise ConfigError("--dollars needs --prices: without them nobody knows what tokens cost")
    limits = AgentLimits(turns, tokens, seconds, calls, dollars)
    registry = registry_of(tools)
    where = folder or _new_folder()
    out = Console(file=sys.stdout, markup=False, highlight=False)
    view = open_view(out, json=json, lines=authorise == "ask")

    async def work() -> AgentEvent:
        async with AsyncExitStack() as stack:
            agent: _Works
            if base_url is None:
                agent = _open_local(registry, model=model, seed=seed, limits=limits)
            else:
                chat = await stack.enter_async_context(
                    _open_chat(model, base_url, api_key_env, prices)
                )
                agent = Agent(
                    chat, registry, sandbox=sandbox, dialect=dialect, limits=limits, seed=seed,
                    policy=Policy(seed=seed, call_time=_PATIENCE_S),
                    authorise=None if authorise == "allow" else _Rule(authorise),
                    approve=_ask_person if authorise == "ask" and sys.stdin.isatty() else None,
                )  # fmt: skip
            return await _follow(agent, task, where, view)

    end = asyncio.run(work())
    if not json:
        remarks.print(f"the run is in {where}", highlight=False, soft_wrap=True)
    return 0 if end.data["outcome"] == "answered" else 1


@app.command
def replay(
    run: Annotated[Path, Parameter(help="Run folder, or its name under runs/.")],
    /,
    *,
    sandbox: Annotated[Backend, Parameter(help="Where code runs.")] = "auto",
    json: AsJson = False,
) -> int:
    """Make a run again from its record, asking neither model nor tools.

    Exits with 1 if something came out otherwise.
    """
    from stretto.agents.replay import replay as make_again

    path = run if (run / "events.jsonl").is_file() else _RUNS / run
    if not (path / "events.jsonl").is_file():
        raise InputError(f"no run {str(run)!r}, neither as a folder nor in {_RUNS}")
    view = open_view(Console(file=sys.stdout, markup=False, highlight=False), json=json)
    with view:
        made = asyncio.run(make_again(path, sandbox=sandbox, tell=view.take))
    told = made.difference or f"all {len(made.events)} events came out as they were"
    remarks.print(told, highlight=False, soft_wrap=True)
    return 1 if made.difference else 0


def _open_local(registry: Registry, *, model: str | None, seed: int, limits: AgentLimits) -> _Works:
    """The agent on a model of this machine."""
    raise ConfigError(
        "give --base-url and --model: an OpenAI-compatible endpoint, up to and with /v1"
    )


def _open_chat(
    model: str | None, base_url: str, key_name: str, prices: tuple[float, float] | None
) -> Any:
    from stretto.agents.chat import EndpointChat

    if not model:
        raise ConfigError("--base-url needs --model: which of the endpoint's models to use")
    key = os.environ.get(key_name)
    if not key and key_name != "OPENAI_API_KEY":
        raise ConfigError(f"--api-key-env {key_name}: there is no such environment variable")
    return EndpointChat(model, base_url=base_url, api_key=key, prices=prices)


class _Rule:
    """Decides about calls that may change something; the others are allowed."""

    def __init__(self, verdict: Literal["ask", "deny"]) -> None:
        self._verdict: Literal["ask", "deny"] = verdict

    def __call__(self, call: Call, each: Tool) -> Decision:
        if each.effect in ("pure", "read"):
            return Decision()
        reason = "its effect is " + each.effect
        return Decision(self._verdict, reason if self._verdict == "ask" else "--authorise deny")


async def _ask_person(call: Call, each: Tool, why: str) -> bool:
    from stretto.cli.agent_view import call_text

    question = f"allow {call_text(call.tool, call.arguments)}? ({why}) [y/N] "
    return (await asyncio.to_thread(_answer, question)).strip().lower() in ("y", "yes")


def _answer(question: str) -> str:
    remarks.print(question, end="", highlight=False, markup=False, soft_wrap=True)
    return sys.stdin.readline()


async def _follow(agent: _Works, task: str, folder: Path, view: View) -> AgentEvent:
    """Show a run; its last event."""
    last: AgentEvent | None = None
    async with AsyncExitStack() as stack:
        stack.enter_context(view)
        if isinstance(view, LiveView) and can_type(Console(file=sys.stdout)):
            stack.enter_context(typing(Console(file=sys.stdout), _Typed(agent, view)))
        events = await stack.enter_async_context(aclosing(agent.stream(task, folder=folder)))
        async for last in events:
            view.take(last)
    assert last is not None
    return last


class _Typed:
    """What is typed while lanes are drawn interrupts the agent."""

    def __init__(self, agent: _Works, view: LiveView) -> None:
        self._agent, self._view = agent, view
        view.lanes.typed, view.lanes.hint = "", "type to interrupt, Ctrl-C stops"

    def on_typed(self, text: str) -> None:
        self._view.lanes.typed = text
        self._view.draw()

    def on_line(self, line: str) -> None:
        if line.strip():
            self._agent.interrupt(line)

    def on_end(self) -> None:
        self._view.lanes.typed = None


def _new_folder() -> Path:
    """A folder that is free; the run itself makes it."""
    name = f"agent-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    free = (_RUNS / (name if n == 1 else f"{name}-{n}") for n in itertools.count(1))
    return next(path for path in free if not path.exists())
