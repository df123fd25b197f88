"""The agent by turns, for models of one stream: prompt, answer, actions, what came of them, again.

Whose fault a failure is decides what becomes of it. The model's (code that fails, a call refused)
is told to the model. The provider's (an endpoint that stays down) ends the run as ``failed``, with
its events kept. Ours is raised.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from stretto.agents import dialects
from stretto.agents.broker import Approve, Authorise
from stretto.agents.events import AgentEvent, Outcome
from stretto.agents.feedback import Level
from stretto.agents.recording import Past, read
from stretto.agents.registry import Registry
from stretto.agents.sandbox import Backend, Policy
from stretto.errors import ConfigError, InputError
from stretto.protocols import ChatModel, Usage
from stretto.runs import Run

if TYPE_CHECKING:
    from stretto.agents.turns import Turns

DialectName = Literal["auto", "code", "json", "json-text", "text"]


class Memory(Protocol):
    """What the agent needs of a memory."""

    def to_prompt(self, task: str, budget_chars: int = ...) -> str:
        """What is worth knowing for a task; "" if nothing."""
        ...


class Skills(Protocol):
    """What the agent needs of a library of skills."""

    def find(self, text: str, top: int = 5) -> Sequence[Any]:
        """Those that fit a task, best first, each with its ``name``."""
        ...

    def stub(self, names: Sequence[str]) -> str:
        """Stubs for the prompt."""
        ...

    def source(self, names: Sequence[str]) -> str:
        """Code that defines them, and what they need."""
        ...

    def note(self, name: str, ok: bool) -> Any:
        """One was used, and how that went."""
        ...


@dataclass(frozen=True)
class AgentLimits:
    """Where a run ends, answered or not.

    Attributes:
        turns: answers of the model.
        tokens: that it writes.
        seconds: of the run.
        calls: of tools.
        dollars: for the model, as far as its prices are known; None: any.
    """

    turns: int = 10
    tokens: int = 8000
    seconds: float = 300.0
    calls: int = 100
    dollars: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name == "calls" else 1e-9
            if value is not None and not least <= value < float("inf"):
                raise ConfigError(f"limit {name} is {value}; give a number above 0")


@dataclass(frozen=True)
class AgentResult:
    """What came of a run.

    Attributes:
        outcome: see :data:`stretto.agents.events.Outcome`.
        answer: partial if the outcome is not ``answered``.
        events: all of them.
        usage: of the model.
        scripted: no model took part.
        reason: of an outcome other than ``answered``: a limit's name, or one line.
    """

    outcome: Outcome
    answer: str
    events: tuple[AgentEvent, ...]
    usage: Usage
    scripted: bool
    reason: str = ""


class Agent:
    """Solves tasks with tools.

    Args:
        model: that writes.
        registry: tools; they may come and go while a run goes on.
        sandbox: where code runs.
        policy: limits of the sandbox.
        dialect: how the model writes actions; ``auto`` asks
            :func:`stretto.agents.probe.choose_dialect`.
        limits: of each run.
        authorise: decides about each call; all are allowed without.
        approve: answers what is to be asked, as a person would; nothing is approved without.
        memory: told to the model.
        skills: functions that its code may use.
        seed: of the model's sampling and of the sandbox.
        level: how much the model is told of failures.
    """

    def __init__(
        self,
        model: ChatModel,
        registry: Registry,
        *,
        sandbox: Backend = "auto",
        policy: Policy | None = None,
        dialect: DialectName = "auto",
        limits: AgentLimits | None = None,
        authorise: Authorise | None = None,
        approve: Approve | None = None,
        memory: Memory | None = None,
        skills: Skills | None = None,
        seed: int = 0,
        level: Level = "explain",
    ) -> None:
        if dialect != "auto":
            dialects.get(dialect)
        self.model, self.registry = model, registry
        self.sandbox: Backend = sandbox
        self.policy = policy or Policy(seed=seed)
        self.dialect: DialectName = dialect
        self.limits = limits or AgentLimits()
        self.authorise, self.approve = authorise, approve
        self.memory, self.skills = memory, skills
        self.seed = seed
        self.level: Level = level
        self._going: list[Turns] = []

    async def run(self, task: str, *, folder: Path | None = None) -> AgentResult:
        """Solve a task.

        Args:
            task: what to do.
            folder: run folder; one that holds an unfinished run of this task goes on with it.

        Raises:
            InputError: the folder holds another run.
            SandboxError: there is no sandbox for code.
        """
        result: AgentResult | None = None
        async with aclosing(self._stream(task, folder)) as events:
            async for each in events:
                if isinstance(each, AgentResult):
                    result = each
        assert result is not None
        return result

    async def stream(
        self, task: str, *, folder: Path | None = None
    ) -> AsyncGenerator[AgentEvent, None]:
        """The same, as events while they happen; closing the iterator ends the run."""
        async with aclosing(self._stream(task, folder)) as events:
            async for each in events:
                if isinstance(each, AgentEvent):
                    yield each

    def interrupt(self, text: str) -> None:
        """Say something to the runs that go on: the model stops writing, its block is abandoned.

        Raises:
            InputError: no run goes on.
        """
        if not self._going:
            raise InputError("no run goes on that could be interrupted")
        for each in self._going:
            each.speak(text)

    async def _stream(
        self, task: str, folder: Path | None
    ) -> AsyncGenerator[AgentEvent | AgentResult, None]:
        from stretto.agents.turns import Turns

        run, past = _open(task, folder, self)
        if past.end is not None:
            for event in past.events:
                yield event
            yield result_of(past.events)
            return
        waiting: asyncio.Queue[AgentEvent | None] = asyncio.Queue()
        turns = Turns(self, task, await self.choose(past), run, past, waiting.put_nowait)
        going = asyncio.create_task(turns.run())
        going.add_done_callback(lambda _: waiting.put_nowait(None))
        self._going.append(turns)

        async def stop() -> None:
            self._going.remove(turns)
            going.cancel()
            await asyncio.wait({going})

        async with AsyncExitStack() as stack:
            if run is not None:
                stack.enter_context(run)
            stack.push_async_callback(stop)
            while (event := await waiting.get()) is not None:
                yield event
            await going
        yield result_of(turns.recording.events)

    async def choose(self, past: Past) -> dialects.Dialect:
        """The dialect: as on record, as given, or by a probe of the model."""
        if past.events:
            return dialects.get(past.events[0].data["dialect"])
        if self.dialect != "auto":
            return dialects.get(self.dialect)
        from stretto.agents.probe import choose_dialect

        return dialects.get(await choose_dialect(self.model))


def result_of(events: Sequence[AgentEvent]) -> AgentResult:
    """The result that events tell of; the last one is the end."""
    end = events[-1].data
    usage = Usage(**end["usage"])
    scripted = bool(events[0].data["scripted"])
    return AgentResult(end["outcome"], end["answer"], tuple(events), usage, scripted, end["reason"])


def _open(task: str, folder: Path | None, agent: Agent) -> tuple[Run | None, Past]:
    """The folder's run and what it holds, or a new one."""
    if folder is None:
        return None, Past()
    if not (folder / "events.jsonl").exists():
        config: Mapping[str, Any] = {
            "task": task, "model": agent.model.name, "dialect": agent.dialect, "seed": agent.seed,
            "limits": asdict(agent.limits),
        }  # fmt: skip
        return Run.create(folder, config, kind="agent"), Past()
    run = Run.open(folder)
    past = read(run)
    if past.events and past.events[0].data["task"] != task:
        raise InputError(f"{folder}: holds a run of another task; choose another folder")
    if past.holds < len(past.events) or past.end is None:
        run.event("resumed", at=past.holds, limits=asdict(agent.limits))
        del past.events[past.holds :]
    return run, past
