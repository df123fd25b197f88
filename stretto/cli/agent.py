"""``stretto agent``: give a model a task and tools, watch it work, make a run again."""

import asyncio
import itertools
import os
import sys
import time
from contextlib import AsyncExitStack, ExitStack, aclosing
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Console

from stretto.agents.agent import Agent, AgentLimits, DialectName
from stretto.agents.broker import Call, Decision
from stretto.agents.events import AgentEvent, Outcome
from stretto.agents.registry import Registry
from stretto.agents.sandbox import Backend, Policy
from stretto.agents.tool import Tool
from stretto.cli.agent_tools import registry_of
from stretto.cli.agent_view import LiveView, View, open_view
from stretto.cli.output import console as remarks
from stretto.cli.play import can_type, typing
from stretto.errors import ConfigError, InputError

app = App(name="agent", help="Give a model a task and tools; its actions are code.")

app.command("stretto.cli.agent_improve:improve", name="improve")

AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print events as JSON lines.")]
_RUNS = Path("runs")
_PATIENCE_S = 3600.0  # a person may take this long to answer


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
    rule = None if authorise == "allow" else _Rule(authorise)
    approve = _ask_person if authorise == "ask" and sys.stdin.isatty() else None
    if base_url is None:
        _refuse_remote(dialect=dialect != "auto", prices=prices, limits=limits != AgentLimits())
        outcome = asyncio.run(_open_local(
            task, registry, where, out, model=model, json=json, sandbox=sandbox, seed=seed,
            authorise=rule, approve=approve,
        ))  # fmt: skip
    else:
        chat = _open_chat(model, base_url, api_key_env, prices)
        agent = Agent(
            chat, registry, sandbox=sandbox, dialect=dialect, limits=limits, seed=seed,
            policy=Policy(seed=seed, call_time=_PATIENCE_S), authorise=rule, approve=approve,
        )  # fmt: skip
        view = open_view(out, json=json, lines=authorise == "ask")
        outcome = asyncio.run(_follow(chat, agent, task, where, view))
    if not json:
        remarks.print(f"the run is in {where}", highlight=False, soft_wrap=True)
    return 0 if outcome == "answered" else 1


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


def _refuse_remote(**given: Any) -> None:
    """Options that mean nothing to the model on this machine.

    Raises:
        ConfigError: one was given.
    """
    for name, value in given.items():
        if value:
            what = "turns, tokens, seconds, calls" if name == "limits" else name
            raise ConfigError(f"--{what}: only with --base-url; the model on this machine has none")


async def _open_local(
    task: str, registry: Registry, folder: Path, out: Console, *, model: str | None, json: bool,
    **options: Any,
) -> Outcome:  # fmt: skip
    """Do a task on a multi-stream model of this machine, and show it.

    It finds tools by a word search and is held to a grammar; it does not program. Each part of the
    task has a run folder of its own, which cannot be made again.
    """
    from stretto.cli import demo_agent as local
    from stretto.cli.play import load_engine
    from stretto.evals.local_agent import LocalAgent, LocalModels

    name = model or local.MODEL
    models = LocalModels(load_engine(name), name, load_engine(local.PHRASER))
    with ExitStack() as stack:
        show = local.Show(out, models, stack)
        lines = open_view(out, json=True) if json else None
        watcher = None if json else show.watcher()
        agent = LocalAgent(models, registry, watcher=watcher, **options)
        async with aclosing(agent.stream(task, folder=folder)) as events:
            async for event in events:
                (lines.take if lines is not None else show.on_event)(event)
    assert agent.result is not None
    for step in () if json else agent.result.steps:
        local.tell(step, out)
    return agent.result.outcome


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


async def _follow(chat: Any, agent: Agent, task: str, folder: Path, view: View) -> Outcome:
    """Show a run of the agent by turns."""
    last: AgentEvent | None = None
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(chat)
        stack.enter_context(view)
        console = Console(file=sys.stdout)
        if isinstance(view, LiveView) and can_type(console):
            stack.enter_context(typing(console, _Typed(agent, view)))
        events = await stack.enter_async_context(aclosing(agent.stream(task, folder=folder)))
        async for last in events:
            view.take(last)
    assert last is not None
    return last.data["outcome"]


class _Typed:
    """What is typed while lanes are drawn interrupts the agent."""

    def __init__(self, agent: Agent, view: LiveView) -> None:
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
