"""One answer of the model, while it is written, and what its code does meanwhile.

Statements run as they come, but events are told in the order of the text: what a statement gives
comes before the next statement, whichever was there first. So the events of a run do not depend on
how fast the model writes, nor in what pieces; and a replay makes the same.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from stretto.agents.dialects import Call, Code, Final, Item, Malformed, Parser, Say, Think
from stretto.agents.hands import Caller, Hands
from stretto.agents.recording import Recording, completion_to_json
from stretto.agents.stream import CodeStream, Report, StreamEvent
from stretto.protocols import Completion

_GLANCE_S = 0.05  # how often a block that says nothing is looked at

REFUSALS = ("refusal", "content_filter")

Ask = Callable[[Callable[[str], None]], Awaitable[Completion]]


class Answer:
    """Reads an answer and runs its code.

    Attributes:
        text: that arrived.
        completion: once it is whole, or broken off.
        told: whether the completion is among the events.
        broken: whether it was stopped, so that nobody tells what it took.
        calls, malformed, final: what the parser found.
        outputs: data of the ``output`` events.
        report: of the code, once it is over.
    """

    def __init__(
        self, parser: Parser, recording: Recording, caller: Caller, hands: Hands | None
    ) -> None:
        self.text = ""
        self.completion: Completion | None = None
        self.told = self.broken = False
        self.calls: list[Call] = []
        self.malformed: list[Malformed] = []
        self.final: str | None = None
        self.outputs: list[dict[str, Any]] = []
        self.report: Report | None = None
        self.stream: CodeStream | None = None
        self._parser, self._recording, self._caller = parser, recording, caller
        self._hands = hands
        self._queue: deque[Say | Think | StreamEvent] = deque()
        self._outcomes: dict[int, StreamEvent] = {}
        self._held: deque[int] = deque()
        self._sources: list[str] = []
        self._changed = asyncio.Event()
        self._going = True

    async def run(self, ask: Ask, note: Callable[[Completion], Completion]) -> None:
        """Ask, and do what the answer says, up to its end or the first failure.

        Args:
            ask: gives the completion; its argument is told pieces of text.
            note: is given the completion as soon as it is there; what it returns counts.

        Raises:
            SandboxError: the sandbox gave up.
        """
        asking = asyncio.ensure_future(self._listen(ask, note))
        asking.add_done_callback(lambda _: self._changed.set())
        try:
            if not await self._follow(asking) and self.completion is None:
                asking.cancel()  # the rest is of no use
                await asyncio.wait({asking})
                self.broken = True
                self.completion = note(Completion(self.text))
            self.tell()
            if self.stream is not None and self._is_meant():
                await self._commit(self.stream)
            elif self.stream is not None:
                await self.stream.abandon()
                self._recording.emit("abandon", "code", statements=None)
        except BaseException:
            asking.cancel()
            await asyncio.wait({asking})
            if self.stream is not None:
                await self.stream.abandon()
            raise

    def _is_meant(self) -> bool:
        """Whether its code may go on to what writes: not that of half an answer, or a refused."""
        assert self.completion is not None
        return not self.malformed and self.completion.finish_reason not in REFUSALS

    def tell(self) -> None:
        """Make an event of the completion."""
        if self.told or self.completion is None:
            return
        data = completion_to_json(self.completion) | {"interrupted": self.broken}
        self._recording.emit("completion", turn=self._caller.turn, **data)
        self.told = True

    def _hear(self, text: str) -> None:
        if self._going:
            self.text += text
            self._take(self._parser.push(text))

    def _take(self, items: list[Item]) -> None:
        for item in items:
            match item:
                case Code() if self._hands is not None:
                    self.stream = self.stream or self._hands.block(self._caller, self._happened)
                    self._going = self._going and self.stream.push(item.text)
                case Say() | Think():
                    self._queue.append(item)
                case Call():
                    self.calls.append(item)
                case Malformed():
                    self.malformed.append(item)
                case Final():
                    self.final = item.text
                case _:
                    raise AssertionError(item)
        self._changed.set()

    def _happened(self, event: StreamEvent) -> None:
        if event.kind in ("statement", "malformed", "commit"):
            self._queue.append(event)
        elif event.index is not None and event.kind in ("result", "error", "held"):
            self._outcomes[event.index] = event
        self._changed.set()

    async def _listen(self, ask: Ask, note: Callable[[Completion], Completion]) -> None:
        whole = await ask(self._hear)
        rest = ""
        if whole.text.startswith(self.text):
            rest = whole.text[len(self.text) :]
        else:  # what was told is what was run
            whole = replace(whole, text=self.text)
        self.completion = whole = note(whole)
        self._take(self._parser.push(rest) + self._parser.finish(whole))
        self.text += rest

    async def _follow(self, asking: asyncio.Future[None]) -> bool:
        """Until the answer is whole and all that may run before is done; False: a failure."""
        while True:
            while self._queue:
                if not await self._show(self._queue.popleft()):
                    return False
            if asking.done():
                asking.result()
                return True
            self._changed.clear()
            await self._changed.wait()

    async def _show(self, item: Say | Think | StreamEvent) -> bool:
        """Make events of an item; wait for what a statement gives, if it may run now."""
        if isinstance(item, Say | Think):
            lane = "say" if isinstance(item, Say) else "think"
            self._recording.emit("text", lane, text=item.text)
            return True
        if item.kind == "commit":
            self._recording.emit("commit", "code")
            return True
        if item.kind == "malformed":
            fields = ("message", "line", "source_line", "hint")
            error = {key: item.data[key] for key in fields} | {"type": "SyntaxError"}
            self._put({"index": None, "ok": False, "error": error})
            return False
        assert item.index is not None and self.stream is not None
        self._sources.append(item.data["source"])
        self._recording.emit("statement", "code", index=item.index, **item.data)
        effect = item.data["effect"]
        outcome = None
        if not self._held and effect in ("pure", "read"):
            outcome = await self._outcome(item.index, self.stream)
            if outcome is None:
                return False  # the sandbox gave up; commit says why
        if outcome is None or outcome.kind == "held":
            if not self._held and self.report is None:
                self._recording.emit("held", "code", index=item.index, effect=effect)
            self._held.append(item.index)
            return True
        return self._output(outcome)

    async def _outcome(self, index: int, stream: CodeStream) -> StreamEvent | None:
        while index not in self._outcomes:
            if stream.idle:
                return None
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GLANCE_S):
                    await self._changed.wait()
        return self._outcomes[index]

    async def _commit(self, stream: CodeStream) -> None:
        """The answer is meant: run what waited."""
        assert self._hands is not None
        failed = bool(self.outputs) and not self.outputs[-1]["ok"]
        committing = asyncio.ensure_future(stream.commit())
        committing.add_done_callback(lambda _: self._changed.set())
        try:
            while not failed:
                self._changed.clear()
                over = committing.done()
                failed = not await self._show_held()
                if over:
                    break
                await self._changed.wait()
            self.report = await committing
        except BaseException:
            committing.cancel()
            await asyncio.wait({committing})
            raise
        if not self.report.ok:
            self._recording.emit("abandon", "code", statements=len(self.report.rest))
        await self._hands.keep(self.report, self._sources)

    async def _show_held(self) -> bool:
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, StreamEvent) and item.kind == "statement" and not self._held:
                self._held.append(-1)  # all that comes now was waiting for the commit
            if not await self._show(item):
                return False
        while self._held:
            if self._held[0] >= 0:
                outcome = self._outcomes.get(self._held[0])
                if outcome is None or outcome.kind == "held":
                    return True
                if not self._output(outcome):
                    return False
            self._held.popleft()
        return True

    def _output(self, outcome: StreamEvent) -> bool:
        for name, args, kwargs in outcome.data["calls"]:
            record = self._caller.take(name, args, kwargs)
            if record is not None:
                self._recording.emit("call", "result", index=outcome.index, **record)
        data = outcome.data
        error = None
        if outcome.kind == "error":
            error = {key: data[key] for key in ("type", "message", "line")}
            if data["limit"] and error["type"] == "KeyboardInterrupt":  # how it was stopped
                error |= {"type": "LimitReached", "message": f"its {data['limit']} limit"}
        self._put({
            "index": outcome.index, "ok": error is None, "value_repr": data.get("value"),
            "stdout": data["stdout"], "stderr": data["stderr"], "limit": data.get("limit"),
            "error": error,
        })  # fmt: skip
        return error is None

    def _put(self, data: dict[str, Any]) -> None:
        # A resumed run goes by what is on record, should the code give something else now.
        event = self._recording.emit("output", "result", turn=self._caller.turn, **data)
        self.outputs.append(event.data)
