"""Agents on models of our own: a tool is found, its call is held to a grammar, made, and answered.

The default model cannot choose among tools, nor program; but on its ``code`` stream it fills in the
arguments of one tool, where the grammar leaves it no more than that. So rules take the request
apart and find the tools (:mod:`stretto.agents.needs`), the model writes the call, and the call is a
real one. What its ``say`` stream makes of the result is its own, and often of no use; the base
model, which has seen whole sentences only, then puts the result into words (``phrasing.py``).
"""

import ast
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stretto.agents.calls import call_grammar, signature
from stretto.agents.events import AgentEvent, Outcome
from stretto.agents.live import LiveAgent, LiveLimits, LiveResult
from stretto.agents.needs import Need, needs
from stretto.agents.registry import Registry
from stretto.agents.sandbox import Backend, Policy, Sandbox, open_sandbox
from stretto.agents.tool import Tool
from stretto.errors import InputError
from stretto.evals.phrasing import phrase
from stretto.protocols import Row
from stretto.streams.sets import AGENT

if TYPE_CHECKING:
    from stretto.engine import Engine, Session

STREAMS = "agent"
_MAX_ROWS = 400
_MAX_MESSAGE_TOKENS = 120
_MAX_RESULT = 400  # characters: the model was taught results of some 60 tokens


class OneCall:
    """The agent streams of an engine, with ``code`` held to one call of one tool.

    A :class:`~stretto.protocols.StreamModel`. ``think`` and ``say`` are free.

    Args:
        engine: of a model that knows the streams.
        tool: to be called, with what ``request`` mentions.
        request: the user's words.
        name: of the model, for logs.
        on_open, on_row: are given the session, and each of its rows.
    """

    scripted = False

    def __init__(
        self,
        engine: "Engine",
        tool: Tool,
        request: str,
        *,
        name: str = "",
        on_open: "Callable[[Session], None]" = lambda _: None,
        on_row: Callable[[Row], None] = lambda _: None,
    ) -> None:
        from stretto.engine import Grammar

        self._engine, self.tool, self.name = engine, tool, name or "engine"
        self.source = call_grammar(tool, request)
        self._grammar = replace(Grammar.lark(self.source, pauses=False), once=True)
        self._on_open, self._on_row = on_open, on_row

    def open(
        self,
        *,
        prompts: Mapping[str, str | Sequence[int]] | None = None,
        sampling: Any = None,
        limits: Any = None,
        seed: int = 0,
    ) -> Any:
        """A session; its prompt is the day and the tool.

        Raises:
            InputError: the model has no such streams, or other prompts, sampling or limits are
                asked for.
        """
        from stretto.engine import Limits, SamplingParams

        if prompts or sampling is not None or limits is not None:
            raise InputError("the streams of one call have their own prompts, sampling and limits")
        session = self._engine.open(
            STREAMS,
            prompts={"system": f"today: {date.today()}\ntools: {signature(self.tool)}"},
            sampling={"code": SamplingParams(grammar=self._grammar, silence=False)},
            limits=Limits(max_rows=_MAX_ROWS, max_message_tokens=_MAX_MESSAGE_TOKENS),
            seed=seed,
        )
        self._on_open(session)
        return _Watched(session, self._on_row)


class _Watched:
    """A session whose rows somebody else sees too."""

    def __init__(self, session: "Session", on_row: Callable[[Row], None]) -> None:
        self._session, self._on_row = session, on_row

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def __aiter__(self) -> AsyncIterator[Row]:
        async for row in self._session:
            self._on_row(row)
            yield row

    async def __aenter__(self) -> "_Watched":
        await self._session.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._session.__aexit__(*error)


def as_rows(stdout: str, value: str | None) -> str:
    """A result as the default model was taught results: ``[{"name":"value"}]``, all of it text."""
    try:
        found = ast.literal_eval(value or "None")
    except (ValueError, SyntaxError):
        return (stdout + (value or ""))[:_MAX_RESULT]
    if found is None:
        return stdout[:_MAX_RESULT]
    rows = found if isinstance(found, list) else [found]
    rows = [row if isinstance(row, Mapping) else {"result": row} for row in rows]
    texts = [{str(key): str(item) for key, item in row.items()} for row in rows]
    return json.dumps(texts, ensure_ascii=False, separators=(",", ":"))[:_MAX_RESULT]


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
        steps: one a part, in order.
    """

    outcome: Outcome
    answer: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Watcher:
    """Who follows a request: each is called as things happen.

    Attributes:
        on_need: a part begins, with the grammar that its call is held to (empty: no tool).
        on_open, on_row: the session of its streams, and its rows.
        on_event: the agent's events.
        on_phrase: pieces of the answer as they are written.
    """

    on_need: Callable[[Need, str], None] = lambda need, grammar: None
    on_open: "Callable[[Session], None]" = lambda _: None
    on_row: Callable[[Row], None] = lambda _: None
    on_event: Callable[[AgentEvent], None] = lambda _: None
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
        missing = [each.name for each in AGENT if each.name not in self.engine.streams]
        if missing:
            raise InputError(f"model {self.name} has no stream {missing[0]!r}: take a multi-stream "
                             "one such as stretto-smollm2-135m, or an endpoint")  # fmt: skip


async def run_local(
    task: str,
    registry: Registry,
    models: LocalModels,
    *,
    sandbox: Backend = "auto",
    policy: Policy | None = None,
    limits: LiveLimits | None = None,
    folder: Path | None = None,
    watcher: Watcher | None = None,
    **options: Any,
) -> LocalResult:
    """Do what a request needs, part by part, on a multi-stream model of ours.

    Args:
        task: the request.
        registry: the tools.
        models: what it is done with.
        sandbox: which sandbox the calls are made in.
        policy: of the sandbox.
        limits: of each part.
        folder: gets a run folder for each part, ``1``, ``2`` and so on.
        watcher: is told of what happens.
        options: ``authorise``, ``approve``, ``seed`` of :class:`LiveAgent`.

    Raises:
        InputError: the request is empty.
        SandboxError: there is no sandbox here.
    """
    parts = needs(task, registry)
    watcher = watcher or Watcher()
    steps = []
    async with open_sandbox(sandbox, policy) as box:
        for number, need in enumerate(parts, start=1):
            place = None if folder is None else folder / str(number)
            more = {"limits": limits, "policy": policy, **options}
            steps.append(await _step(models, need, registry, box, place, watcher, more))
    worst: Outcome = next(
        (each.outcome for each in steps if each.outcome != "answered"), "answered"
    )
    return LocalResult(worst, "\n".join(each.answer for each in steps), tuple(steps))


async def _step(
    models: LocalModels,
    need: Need,
    registry: Registry,
    box: Sandbox,
    folder: Path | None,
    watcher: Watcher,
    options: dict[str, Any],
) -> Step:
    started = time.perf_counter()
    if not need.tools:
        watcher.on_need(need, "")
        return Step(need, answer=f"There is no tool for: {need.text}")
    model = OneCall(models.engine, need.tools[0], need.text, name=models.name,
                    on_open=watcher.on_open, on_row=watcher.on_row)  # fmt: skip
    watcher.on_need(need, model.source)
    agent = LiveAgent(model, registry, sandbox=box, prompts={}, show=as_rows, **options)
    async for event in agent.stream(need.text, folder=folder):
        watcher.on_event(event)
    assert agent.result is not None
    step = Step(need, model.source, agent.result, agent.result.answer)
    calls = step.events("call")
    if calls and not calls[-1].data["ok"]:
        step = replace(step, answer=calls[-1].data["error"])
    elif calls and models.phraser is not None:
        value = calls[-1].data["value"]
        answer = await phrase(models.phraser, need.text, value, watcher.on_phrase)
        step = replace(step, answer=answer)
    return replace(step, seconds=time.perf_counter() - started)
