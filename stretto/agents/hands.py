"""An agent's hands: the sandbox's session that its code runs in, and the calls that it makes."""

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from stretto.agents.broker import Broker, Call, CallError
from stretto.agents.effects import Effects
from stretto.agents.prompting import FIND
from stretto.agents.recording import Recording, key_of, record_to_json
from stretto.agents.registry import Registry
from stretto.agents.sandbox import Backend, Policy, Sandbox, Session, open_sandbox
from stretto.agents.stream import CodeStream, OnCall, Report, StreamEvent
from stretto.errors import InputError, SandboxError

ANSWER = "answer"
"""The function by which code gives the final answer."""
_TAG = "agent"
Asked = tuple[str, Sequence[Any], Mapping[str, Any]]


class Caller:
    """Calls of tools: from the record where they are on it, else by the broker.

    Attributes:
        turn: that calls now.
        used: tools that were called.
        exhausted: a call was refused because the run's calls are used up.
        answer: what ``answer()`` was given: one value, or none.
    """

    def __init__(self, registry: Registry, broker: Broker, recording: Recording) -> None:
        self.turn, self.exhausted = 0, False
        self.used: dict[str, None] = {}
        self.answer: list[Any] = []
        self._registry, self._broker, self._recording = registry, broker, recording
        self._open: dict[str, deque[dict[str, Any]]] = {}  # records that no statement took yet
        self._tainted: frozenset[str] = frozenset()
        self._counts: Counter[str] = Counter()

    def begin(self, turn: int) -> None:
        """A new turn."""
        self.turn = turn
        self.answer.clear()
        self._open.clear()

    async def __call__(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """As code calls.

        Raises:
            CallError: it was refused or failed.
        """
        if name == ANSWER:
            if len(args) + len(kwargs) != 1:
                raise CallError("answer() takes one value")
            self.answer[:] = [*args, *kwargs.values()]
            return None
        record = await self.call(name, args, kwargs)
        if not record["ok"]:
            raise CallError(record["error"])
        return record["value"]

    async def call(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The record of a call, made now or before; :meth:`take` gives it again, once."""
        key = key_of(name, args, kwargs)
        past, place = self._recording.past, (self.turn, key)
        if past.calls.get(place):
            record = past.calls[place].popleft()
        elif past.strict:
            await asyncio.Event().wait()  # it was never answered; something is about to break in
            raise AssertionError
        elif past.begun[place] > 0:
            past.begun[place] -= 1
            told = "the run broke off during this call; whether it was done is not known"
            record = self._failed(name, args, kwargs, f"tool {name}: {told}", "tool")
            self._recording.note("called", turn=self.turn, key=key, record=record)
        else:
            record = await self._make(name, args, kwargs, key)
        self.used[record["tool"]] = None
        self.exhausted |= record["kind"] == "budget" and "in this run" in record["error"]
        if record.get("untrusted"):
            self._tainted |= {record["tool"]}
        self._open.setdefault(key, deque()).append(record)
        return record

    async def several(self, calls: Sequence[Asked]) -> AsyncIterator[dict[str, Any]]:
        """Records of calls in order, told as events; neighbours that only read run at once."""
        effects, done = self._registry.effects, 0
        while done < len(calls):
            reading = done
            while reading < len(calls) and effects.get(calls[reading][0]) in ("pure", "read"):
                reading += 1
            group = calls[done : max(done + 1, reading)]
            await asyncio.gather(*(self.call(*each) for each in group))
            for each in group:
                record = self.take(*each)
                self._recording.emit("call", "result", **record)
                yield record
            done += len(group)

    async def _make(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], key: str
    ) -> dict[str, Any]:
        untrusted = False
        if name == FIND:
            record = self._find(args, kwargs)
        else:
            try:
                tool = self._registry.get(name)
                call = Call(
                    name, tool.named(args, kwargs), _TAG, self._tainted, block=str(self.turn)
                )
            except InputError as error:
                record = self._failed(name, args, kwargs, str(error), "arguments")
            else:
                untrusted = tool.untrusted
                if tool.effect not in ("pure", "read"):
                    self._recording.note("begun", turn=self.turn, key=key)
                record = record_to_json(await self._broker.call(call))
        record = record | {"turn": self.turn, "untrusted": untrusted}
        self._recording.note("called", turn=self.turn, key=key, record=record)
        return record

    def _find(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        query = " ".join(str(value) for value in [*args, *kwargs.values()])
        found = [tool.name for tool in self._registry.find(query)]
        value = self._registry.stub(*found) if found else "nothing fits; try other words"
        return self._failed(FIND, args, kwargs, "", "") | {"ok": True, "value": value}

    def _failed(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], error: str, kind: str
    ) -> dict[str, Any]:
        given: Any = dict(kwargs) | ({"": list(args)} if args else {})
        return {
            "tool": name, "arguments": given, "ok": False, "value": None, "error": error,
            "kind": kind, "decision": "allow", "reason": "", "tainted": sorted(self._tainted),
            "remarks": [], "cost": 0.0, "seconds": 0.0, "turn": self.turn, "untrusted": False,
        }  # fmt: skip

    def take(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A record that becomes an event now; None if there is none."""
        waiting = self._open.get(key_of(name, args, kwargs))
        return waiting.popleft() if waiting else None

    def unused(self) -> list[dict[str, Any]]:
        """Records that nobody took: of calls run ahead in vain, or of an abandoned answer."""
        if self._recording.past.strict:
            return self._recording.past.unused(self.turn)
        left = [record for waiting in self._open.values() for record in waiting]
        self._open.clear()
        return [record | {"unused": True} for record in left]


class Hands:
    """A sandbox and the session that lasts from block to block.

    Args:
        backend: which sandbox.
        policy: its limits.
        source: code that runs first, such as skills.
        scouts: statements that may run ahead; none in a replay.
    """

    def __init__(self, backend: Backend, policy: Policy, source: str = "", scouts: int = 4) -> None:
        self._backend: Backend = backend
        self._policy, self._source = policy, source
        self._scouts = scouts
        self._stack = AsyncExitStack()
        self._box: Sandbox
        self._root: Session
        self._session: Session
        self._effects: dict[str, str] = {}
        self._done: list[str] = []  # sources of the statements that made the session what it is

    async def __aenter__(self) -> Self:
        self._box = await self._stack.enter_async_context(
            open_sandbox(self._backend, self._policy, warm=0)
        )
        await self._begin()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.aclose()  # ends every session

    async def _begin(self) -> None:
        self._root = self._session = await self._box.session()
        self._done = [self._source] if self._source else []
        if self._source:
            result = await self._root.exec(self._source)
            if not result.ok:
                told = result.error.message if result.error else result.limit
                raise SandboxError(f"skills cannot be loaded: {told}")

    async def offer(self, effects: Mapping[str, str]) -> None:
        """These are the tools now.

        Raises:
            InputError: one of them is called ``answer``.
        """
        if ANSWER in effects:
            raise InputError(f"a tool is called {ANSWER!r}, as code gives answers; rename it")
        self._effects = {**effects, ANSWER: "write"}
        for session in {self._root, self._session}:
            await session.offer(list(self._effects))

    def block(self, on_call: OnCall, on_event: Callable[[StreamEvent], None]) -> CodeStream:
        """A new block of code."""
        known = Effects(self._effects)
        for source in self._done:
            known.take(source)
        return CodeStream(
            self._session, self._effects, on_call, effects=known, scouts=self._scouts,
            on_event=on_event,
        )  # fmt: skip

    async def keep(self, report: Report, sources: Sequence[str]) -> None:
        """Go on from what a block left."""
        self._done += sources[: len(report.results)]
        if report.session is not self._session:
            if self._session is not self._root:
                await self._session.close()
            self._session = report.session

    async def mend(self) -> bool:
        """After the sandbox gave up: whether the session was lost, and is a new one."""
        try:
            copy = await self._session.fork()
        except SandboxError:
            await self._renew()
            return True
        await copy.close()
        return False

    async def _renew(self) -> None:
        if self._session is not self._root:
            await self._session.close()
        await self._root.close()
        await self._begin()
        await self.offer({k: v for k, v in self._effects.items() if k != ANSWER})


def shown(value: Any) -> str:
    """A value as the final answer's text: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
