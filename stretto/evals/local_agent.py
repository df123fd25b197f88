"""The agent on models of our own: a tool is found, called with what was said, and answered.

Rules take the request apart and find a tool for each part (:mod:`stretto.agents.needs`), the
multi-stream model writes the call, held to a grammar, and the call is a real one. What its ``say``
stream makes of the result is its own, and often of no use; the base model, which has seen whole
sentences only, then puts the result into words (``phrasing.py``).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stretto.agents.events import AgentEvent, Kind, Outcome
from stretto.agents.live import LiveAgent, LiveLimits, LiveResult
from stretto.agents.needs import Need, needs
from stretto.agents.registry import Registry
from stretto.agents.sandbox import Backend, Policy, Sandbox, open_sandbox
from stretto.errors import InputError
from stretto.evals.engine_tools import STREAMS, OneCall, as_rows
from stretto.evals.phrasing import phrase
from stretto.protocols import Row, Usage
from stretto.runs import Run, atomic_write
from stretto.streams import stream_set

if TYPE_CHECKING:
    from stretto.engine import Engine, Session


@dataclass(frozen=True)
class Step:
    """One part of a request, done.

    Attributes:
        need: the part and the tools found for it, the first of which was taken.
        grammar: Lark source that held the call; empty without a tool.
        result: of the run; None without a tool.
        answer: the tool's result in words; without a phrasing model what ``say`` said; the tool's
            error as it is.
        seconds: it took, the phrasing too.
    """

    need: Need
    grammar: str = ""
    result: LiveResult | None = None
    answer: str = ""
    seconds: float = 0.0

    def events(self, kind: str) -> list[AgentEvent]:
        """The run's events of one kind."""
        return [] if self.result is None else [e for e in self.result.events if e.kind == kind]

    @property
    def outcome(self) -> Outcome:
        """``answered`` if a call was made and went well."""
        if self.result is None:
            return "refused"
        if self.result.outcome not in ("answered", "failed"):
            return self.result.outcome
        calls = self.events("call")
        return "answered" if calls and calls[-1].data["ok"] else "failed"

    @property
    def code(self) -> str:
        """What the model wrote on its code stream."""
        texts = [e.data["text"] for e in self.events("text") if e.stream == "code"]
        return "".join(texts).strip()


@dataclass(frozen=True)
class LocalResult:
    """What came of a request.

    Attributes:
        outcome: ``answered`` if every part was; else that of the first that was not.
        answer: the parts' answers, a line each.
        events: everything that happened, those of all parts in one row.
        usage: tokens that were written.
        scripted: never.
        steps: one a part, in order.
    """

    outcome: Outcome
    answer: str
    events: tuple[AgentEvent, ...]
    usage: Usage
    scripted: bool
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Watcher:
    """Who follows more closely than by events.

    Attributes:
        on_open, on_row: the session of a part's streams, and its rows.
        on_phrase: pieces of the answer as they are written.
    """

    on_open: "Callable[[Session], None]" = lambda _: None
    on_row: Callable[[Row], None] = lambda _: None
    on_phrase: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class LocalModels:
    """What a request is done with.

    Attributes:
        engine: of a model with the agent streams; ``name`` is its.
        phraser: of a base model, which puts results into words; None leaves it to ``say``.

    Raises:
        InputError: the model lacks one of the agent streams.
    """

    engine: "Engine"
    name: str
    phraser: "Engine | None" = None

    def __post_init__(self) -> None:
        missing = [
            each.name for each in stream_set(STREAMS) if each.name not in self.engine.streams
        ]
        if missing:
            raise InputError(f"model {self.name} has no stream {missing[0]!r}: take a multi-stream "
                             "one such as stretto-smollm2-135m, or an endpoint")  # fmt: skip


class LocalAgent:
    """Does what a request needs, part by part; as ``stretto.agents.agent.Agent`` from outside.

    Args:
        models: what it is done with.
        registry: the tools.
        sandbox: which sandbox the calls are made in.
        policy: of the sandbox.
        limits: of each part.
        watcher: sees the rows.
        options: ``authorise``, ``approve``, ``seed`` of :class:`LiveAgent`.
    """

    def __init__(
        self,
        models: LocalModels,
        registry: Registry,
        *,
        sandbox: Backend = "auto",
        policy: Policy | None = None,
        limits: LiveLimits | None = None,
        watcher: Watcher | None = None,
        **options: Any,
    ) -> None:
        self.models, self.registry = models, registry
        self._sandbox: Backend = sandbox
        self._policy, self._limits = policy or Policy(), limits or LiveLimits()
        self._watcher, self._options = watcher or Watcher(), options
        self._agent: LiveAgent | None = None
        self.result: LocalResult | None = None

    async def run(self, task: str, *, folder: Path | None = None) -> LocalResult:
        """Do it.

        Args:
            task: the request.
            folder: run folder to be made, with ``events.jsonl`` and ``table.jsonl`` (a line a
                part).

        Raises:
            InputError: the request is empty, or the folder holds a run.
            SandboxError: there is no sandbox here.
        """
        async with aclosing(self.stream(task, folder=folder)) as events:
            async for _ in events:
                pass
        assert self.result is not None
        return self.result

    async def stream(
        self, task: str, *, folder: Path | None = None
    ) -> AsyncGenerator[AgentEvent, None]:
        """The events of :meth:`run` as they happen; closing the iterator ends it.

        A ``plan`` says what is to be done in a part: its words, the tools found, the grammar.
        """
        parts = needs(task, self.registry)
        log = _Log(task, self, folder)
        steps: list[Step] = []
        with log.file or nullcontext():
            yield log.emit("", "start", task=task, model=self.models.name, scripted=False,
                           tools=list(self.registry.effects), dialect="streams",
                           policy=asdict(self._policy), limits=asdict(self._limits),
                           seed=self._options.get("seed", 0))  # fmt: skip
            async with open_sandbox(self._sandbox, self._policy) as box:
                for number, need in enumerate(parts, start=1):
                    async with aclosing(self._part(need, number, box, log, steps)) as events:
                        async for event in events:
                            yield event
            yield self._end(log, steps, folder)

    def interrupt(self, text: str) -> None:
        """Say something to the model while it is at a part.

        Raises:
            InputError: it is at none.
        """
        if self._agent is None:
            raise InputError("nothing is running: begin with run() or stream()")
        self._agent.interrupt(text)

    async def _part(
        self, need: Need, number: int, box: Sandbox, log: "_Log", steps: list[Step]
    ) -> AsyncGenerator[AgentEvent, None]:
        names, watcher, began = [tool.name for tool in need.tools], self._watcher, log.now
        if not names:
            yield log.emit("", "plan", part=number, request=need.text, tools=[], grammar="")
            step = Step(need, answer=f"There is no tool for: {need.text}")
            steps.append(step)
            yield log.emit("say", "text", part=number, text=step.answer, by="rule")
            return
        model = OneCall(self.models.engine, need.tools[0], need.text, name=self.models.name,
                        on_open=watcher.on_open, on_row=watcher.on_row)  # fmt: skip
        yield log.emit("", "plan", part=number, request=need.text, tools=names,
                       grammar=model.source)  # fmt: skip
        self._agent = LiveAgent(
            model, self.registry, sandbox=box, prompts={}, show=as_rows, limits=self._limits,
            policy=self._policy, **self._options,
        )  # fmt: skip
        try:
            async with aclosing(self._agent.stream(need.text)) as events:
                async for event in events:
                    if event.kind not in ("start", "end"):
                        yield log.emit(event.stream, event.kind, part=number, **event.data)
            result = self._agent.result
        finally:
            self._agent = None
        assert result is not None
        step, by = await self._worded(Step(need, model.source, result, result.answer))
        steps.append(replace(step, seconds=log.now - began))
        if by:
            yield log.emit("say", "text", part=number, text=step.answer, by=by)

    async def _worded(self, step: Step) -> tuple[Step, str]:
        """With its answer, and whose words these are; nobody's new ones if ``say`` answered."""
        calls = step.events("call")
        if calls and not calls[-1].data["ok"]:
            return replace(step, answer=calls[-1].data["error"]), "tool"
        if not calls or self.models.phraser is None:
            return step, ""
        value = calls[-1].data["value"]
        answer = await phrase(self.models.phraser, step.need.text, value, self._watcher.on_phrase)
        return replace(step, answer=answer), "base model"

    def _end(self, log: "_Log", steps: list[Step], folder: Path | None) -> AgentEvent:
        outcomes: list[Outcome] = [step.outcome for step in steps]
        worst: Outcome = outcomes[0]
        for each in outcomes:
            worst = each if worst == "answered" else worst
        answer = "\n".join(step.answer for step in steps if step.answer)
        tokens = sum(step.result.usage.completion_tokens for step in steps if step.result)
        usage = Usage(completion_tokens=tokens)
        failed = [step.need.text for step in steps if step.outcome != "answered"]
        end = log.emit("", "end", outcome=worst, answer=answer, usage=asdict(usage),
                       reason=f"not done: {failed[0]}" if failed else "")  # fmt: skip
        if folder is not None:
            tables = [step.result.table.to_jsonl() + "\n" for step in steps if step.result]
            atomic_write(folder / "table.jsonl", "".join(tables))
        self.result = LocalResult(worst, answer, tuple(log.events), usage, False, tuple(steps))
        return end


class _Log:
    """The events of all parts, numbered and timed as one run."""

    def __init__(self, task: str, agent: LocalAgent, folder: Path | None) -> None:
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self.events: list[AgentEvent] = []
        self.file: Run | None = None
        if folder is not None:
            config = {"task": task, "model": agent.models.name}
            self.file = Run.create(folder, config, "agent")

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._began

    def emit(self, stream: str, kind: Kind, **data: Any) -> AgentEvent:
        """Note an event."""
        event = AgentEvent(len(self.events), self.now, stream, kind, data)
        self.events.append(event)
        if self.file is not None:
            self.file.event(kind, seq=event.seq, at=event.time, stream=stream, data=data)
        return event
