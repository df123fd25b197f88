"""An agent that acts while it thinks and speaks, on a model of many streams.

What the model writes on ``code`` runs while it is written (:class:`~stretto.agents.stream`), in a
sandbox's session that lasts for the run; what comes of it goes to the model's ``result`` stream at
once, and no row ever waits for it. ``end`` on ``code`` commits the block. An error is told at once;
what is left of its block is not run, what ran before it stands.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stretto.agents.broker import Approve, Authorise, Broker, Budgets, CallRecord
from stretto.agents.events import AgentEvent, Kind, Outcome
from stretto.agents.live_code import Coder, ladder
from stretto.agents.registry import Registry
from stretto.agents.sandbox import Backend, Policy, Sandbox, open_sandbox
from stretto.agents.stubs import stub
from stretto.errors import ConfigError, InputError
from stretto.protocols import Row, Session, StreamModel, Usage
from stretto.runs import Run, atomic_write

IDLE_ROWS = 32
"""Rows without content after which a session with nothing left to do is closed."""


@dataclass(frozen=True)
class LiveLimits:
    """When a run stops although nobody has finished.

    Attributes:
        rows: of the model's table.
        seconds: of the run.
        calls: of tools; a call beyond is refused, which the model is told.
    """

    rows: int = 2000
    seconds: float = 300.0
    calls: int = 100

    def __post_init__(self) -> None:
        if self.rows < 1 or not self.seconds > 0 or self.calls < 0:
            raise ConfigError(f"{self}: give at least 1 row, seconds above 0 and calls from 0")


@dataclass(frozen=True)
class LiveStreams:
    """Which of the model's streams is what; ``think`` and ``say`` may be missing."""

    user: str = "user"
    result: str = "result"
    code: str = "code"
    think: str = "think"
    say: str = "say"


@dataclass(frozen=True)
class LiveResult:
    """What came of a run.

    Attributes:
        outcome: ``answered`` if something was said.
        answer: all that was said, a line a message.
        events: everything that happened.
        usage: tokens that the outputs wrote.
        scripted: no model wrote this.
        table: the model's ``StreamTable``.
    """

    outcome: Outcome
    answer: str
    events: tuple[AgentEvent, ...]
    usage: Usage
    scripted: bool
    table: Any


class LiveAgent:
    """Runs one task at a time.

    Args:
        model: an engine, or what has its ``open``; ``name`` and ``scripted`` are asked for.
        registry: the tools.
        sandbox: which one to open, or one that is open and is left so.
        policy: of the sandbox that is opened.
        limits: when to stop.
        streams: names of the streams.
        prompts: by stream; without, ``system`` has the tools' stubs.
        sampling: passed to the model.
        show: how a statement's output and its value's ``repr`` (or None) are told to the model.
        authorise: decides about each call, as :class:`Broker` has it.
        approve: answers what is to be asked.
        seed: noted, and passed to the model if it is not 0.
    """

    def __init__(
        self,
        model: StreamModel,
        registry: Registry,
        *,
        sandbox: Backend | Sandbox = "auto",
        policy: Policy | None = None,
        limits: LiveLimits | None = None,
        streams: LiveStreams | None = None,
        prompts: Mapping[str, str] | None = None,
        sampling: Any = None,
        show: Callable[[str, str | None], str] | None = None,
        authorise: Authorise | None = None,
        approve: Approve | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.registry = model, registry
        self.name = str(getattr(model, "name", type(model).__name__))
        self.scripted = bool(getattr(model, "scripted", False))
        self.limits, self.streams = limits or LiveLimits(), streams or LiveStreams()
        self.policy, self.show = policy or Policy(), show or shown
        self._sandbox: Backend | Sandbox = sandbox
        self._sampling, self._prompts, self.seed = sampling, prompts, seed
        self._authorise, self._approve = authorise, approve
        self._run: _LiveRun | None = None
        self.result: LiveResult | None = None

    async def run(self, task: str, *, folder: Path | None = None) -> LiveResult:
        """Do a task; the result has what :meth:`stream` would have given.

        Args:
            task: what the user says first.
            folder: run folder to be made, with ``events.jsonl`` and ``table.jsonl``.

        Raises:
            InputError: the model lacks a stream, the folder holds a run, or a run is going on.
            SandboxError: there is no sandbox here.
        """
        async with contextlib.aclosing(self.stream(task, folder=folder)) as events:
            async for _ in events:
                pass
        assert self.result is not None
        return self.result

    async def stream(
        self, task: str, *, folder: Path | None = None
    ) -> AsyncGenerator[AgentEvent, None]:
        """The events of :meth:`run` as they happen; leaving early cancels it."""
        if self._run is not None:
            raise InputError("this agent is at work: await it, or take another LiveAgent")
        run = self._run = _LiveRun(self, task, folder)
        self.result = None
        work = asyncio.create_task(run.work())
        try:
            while (event := await run.queue.get()) is not None:
                yield event
            self.result = await work
        finally:
            self._run = None
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    def interrupt(self, text: str) -> None:
        """Say something now, whatever the model is at.

        Raises:
            InputError: nothing is going on.
        """
        self._going().interrupt(text)

    async def cancel(self) -> None:
        """Stop code softly, else by an interrupt, else by killing it; then the session.

        Raises:
            InputError: nothing is going on.
        """
        await self._going().cancel("cancelled")

    def _going(self) -> "_LiveRun":
        if self._run is None:
            raise InputError("nothing is running: begin with run() or stream()")
        return self._run

    def open_session(self) -> Session:
        """A session of the model, if it has the streams that are needed."""
        prompts = self._prompts
        if prompts is None:
            prompts = {"system": stub(list(self.registry))}
        more = {"seed": self.seed} if self.seed else {}
        session = self.model.open(prompts=prompts, sampling=self._sampling, **more)
        streams = session.table.streams
        wanted = {"user": "input", "result": "input", "code": "output"}
        for role, direction in wanted.items():
            name = getattr(self.streams, role)
            if name not in streams or streams[name].direction != direction:
                session.cancel("wrong streams")
                known = ", ".join(stream.name for stream in streams)
                raise InputError(f"model {self.name}: no {direction} stream {name!r} for {role} "
                                 f"among {known}; give LiveStreams the names it has")  # fmt: skip
        return session

    @contextlib.asynccontextmanager
    async def open_box(self) -> AsyncIterator[Sandbox]:
        """The sandbox: opened for a run, or the one that was given."""
        if isinstance(self._sandbox, Sandbox):
            yield self._sandbox
            return
        async with open_sandbox(self._sandbox, self.policy) as box:
            yield box

    def open_broker(self, on_record: Callable[[CallRecord], None]) -> Broker:
        """A run's broker."""
        budgets = Budgets(calls=self.limits.calls, block_calls=None)
        return Broker(self.registry, authorise=self._authorise, approve=self._approve,
                      budgets=budgets, on_record=on_record)  # fmt: skip


def shown(stdout: str, value: str | None) -> str:
    """What a statement printed, and its value, as a notebook shows them."""
    return stdout + (f"{value}\n" if value is not None else "")


class _LiveRun:
    """One run: rows in, code out, results in; and the list of all that happens."""

    def __init__(self, agent: LiveAgent, task: str, folder: Path | None) -> None:
        self.agent, self.task = agent, task
        self.queue: asyncio.Queue[AgentEvent | None] = asyncio.Queue()
        self._events: list[AgentEvent] = []
        self._folder, self._file = folder, None
        self._session: Session | None = None
        self._coder: Coder | None = None
        self._began = asyncio.get_running_loop().time()
        self._rests: dict[str, bool] = {}
        self._rows = self._tokens = self._quiet = self._unread = 0
        self._said = [""]  # messages; the last is going on
        self._why = ""  # it was stopped
        self._is_closed = False  # the session's inputs are
        self._stopping: asyncio.Task[None] | None = None

    def emit(self, stream: str, kind: Kind, **data: Any) -> None:
        """Note what happened."""
        seconds = asyncio.get_running_loop().time() - self._began
        event = AgentEvent(len(self._events), seconds, stream, kind, data)
        self._events.append(event)
        if self._file is not None:
            self._file.event(kind, seq=event.seq, at=seconds, stream=stream, data=data)
        self.queue.put_nowait(event)

    async def work(self) -> LiveResult:
        """Everything, from start to end; the queue is told when it is over."""
        agent, limits = self.agent, asdict(self.agent.limits)
        try:
            if self._folder is not None:
                config = {"task": self.task, "model": agent.name, "limits": limits}
                self._file = Run.create(self._folder, config, "agent")
            with self._file or contextlib.nullcontext():
                async with agent.open_box() as box:
                    return await self._in_box(box, limits)
        finally:
            self.queue.put_nowait(None)

    async def _in_box(self, box: Sandbox, limits: dict[str, Any]) -> LiveResult:
        agent = self.agent
        broker = agent.open_broker(self._record)
        tools = agent.registry.effects
        async with box.session(tools=list(tools), on_call=broker.on_call("live")) as cells:
            session = self._session = agent.open_session()
            self.emit("", "start", task=self.task, model=agent.name, scripted=agent.scripted,
                      tools=list(tools), dialect="streams", policy=asdict(agent.policy),
                      limits=limits, seed=agent.seed)  # fmt: skip
            on_call = broker.on_call("live", "code")
            self._coder = Coder(cells, tools, on_call, self, agent.show)
            try:
                async with asyncio.timeout(agent.limits.seconds):
                    await self._follow(session, self._coder)
            except TimeoutError:
                await self.cancel("seconds")
            finally:
                await self._coder.close()
                session.cancel()
        return self._end(session)

    async def _follow(self, session: Session, coder: Coder) -> None:
        streams = session.table.streams
        self._rests = {streams[i].name: False for i in streams.outputs}
        special = session.table.special
        async with session:
            self._say_to_model(self.agent.streams.user, self.task)
            async for row in session:
                self._take(row, special.silence, special.end)
                if self._rows >= self.agent.limits.rows:
                    await self.cancel("rows")
                self.close_if_done()
            # A block that was committed is meant; what hangs in the air is not.
            if not self._why:
                await coder.finish()
        if self._stopping is not None:
            await self._stopping

    def _take(self, row: Row, silence: int, end: int) -> None:
        self._rows += 1
        has_content = False
        for name, token in row.tokens.items():
            text, ends = row.text.get(name, ""), token == end
            has_content |= token not in (silence, end)
            if name not in self._rests:
                self._unread -= ends
                continue
            self._rests[name] = ends
            self._tokens += token not in (silence, end)
            if text or ends:
                self.emit(name, "text", text=text, row=row.index, **({"end": True} if ends else {}))
            if name == self.agent.streams.say:
                self._said[-1] += text
                self._said += [""] * ends
            elif name == self.agent.streams.code and self._coder is not None:
                self._coder.take(text, ends)
        self._quiet = 0 if has_content else self._quiet + 1

    def close_if_done(self) -> None:
        """Close the session if nothing is left to be said, read or run."""
        session, coder = self._session, self._coder
        if session is None or coder is None or self._is_closed:
            return
        is_silent = all(self._rests.values()) or self._quiet >= IDLE_ROWS
        if is_silent and self._unread <= 0 and coder.is_idle and session.finish_reason is None:
            self._is_closed = True
            session.close()

    def broke(self) -> None:
        """The coder has failed: nothing more comes of the run."""
        if self._session is not None:
            self._session.cancel("error")

    def tell(self, text: str, *, end: bool) -> None:
        """Let the model know what came of its code."""
        self._say_to_model(self.agent.streams.result, text, end=end)

    def _say_to_model(self, stream: str, text: str, *, end: bool = True) -> None:
        session = self._session
        if session is None or session.finish_reason is not None:
            return
        self._unread += end
        # Closed, for all had seemed to be done: only this opens it again.
        put = session.interrupt if self._is_closed else session.send
        self._is_closed = False
        put(stream, text, end=end)

    def interrupt(self, text: str) -> None:
        """See :meth:`LiveAgent.interrupt`."""
        session = self._session
        if session is None or session.finish_reason is not None or self._why:
            raise InputError("nobody listens any more: the run is ending, or has not begun")
        self.emit(self.agent.streams.user, "interrupt", text=text)
        self._unread += 1
        self._is_closed = False
        session.interrupt(self.agent.streams.user, text, end=True)

    async def cancel(self, why: str) -> None:
        """See :meth:`LiveAgent.cancel`; the first reason counts."""
        if self._stopping is None:
            self._why = why
            self._stopping = asyncio.create_task(self._stop(why))
        await asyncio.shield(self._stopping)

    async def _stop(self, why: str) -> None:
        if self._coder is not None:
            await ladder(self._coder)
        if self._session is not None:
            self._session.cancel(why)

    def _record(self, record: CallRecord) -> None:
        call = record.call
        self.emit(self.agent.streams.code, "call", tool=call.tool, arguments=dict(call.arguments),
                  ok=record.ok, value=record.value, error=record.error, error_kind=record.kind,
                  decision=record.decision.verdict, seconds=record.seconds, cost=record.cost,
                  tainted=sorted(call.tainted))  # fmt: skip

    def _end(self, session: Session) -> LiveResult:
        agent, answer = self.agent, "\n".join(filter(None, map(str.strip, self._said)))
        outcome: Outcome = "answered" if answer else "failed"
        if self._why:
            outcome = "cancelled" if self._why == "cancelled" else "limit"
        elif session.finish_reason not in ("end", "quiet"):
            outcome = "limit"
        usage = Usage(completion_tokens=self._tokens)
        reason = "" if outcome == "answered" else self._why or session.finish_reason
        self.emit("", "end", outcome=outcome, answer=answer, usage=asdict(usage), reason=reason,
                  rows=self._rows)  # fmt: skip
        if self._folder is not None:
            atomic_write(self._folder / "table.jsonl", session.table.to_jsonl() + "\n")
        return LiveResult(outcome, answer, tuple(self._events), usage, agent.scripted,
                          session.table)  # fmt: skip
