"""The code of a live agent: one block after another, each in what the last one left."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from stretto.agents.effects import Effects
from stretto.agents.events import Kind
from stretto.agents.sandbox import Session as Cells
from stretto.agents.sandbox.base import Level
from stretto.agents.stream import CodeStream, OnCall, StreamEvent
from stretto.errors import SandboxError

GRACE = 0.25
"""Seconds that code is given at each step of the ladder."""
DONE = "ok"
"""What a block without any output of its own comes to."""


class Listener(Protocol):
    """Who is told."""

    def emit(self, stream: str, kind: Kind, **data: Any) -> None:
        """Of what happens."""
        ...

    def tell(self, text: str, *, end: bool) -> None:
        """Of what goes to the model."""
        ...

    def close_if_done(self) -> None:
        """That there may be nothing left to do."""
        ...

    def broke(self) -> None:
        """That the coder itself has failed."""
        ...


class TrackedCells:
    """A sandbox's session that knows which of its copies are running."""

    def __init__(self, cells: Cells, running: "set[TrackedCells] | None" = None) -> None:
        self._cells = cells
        self.running: set[TrackedCells] = set() if running is None else running

    async def exec(self, code: str) -> Any:
        """Run code."""
        self.running.add(self)
        try:
            return await self._cells.exec(code)
        finally:
            self.running.discard(self)

    async def fork(self, *, on_call: OnCall | None = None) -> "TrackedCells":
        """A copy, which is tracked too."""
        return TrackedCells(await self._cells.fork(on_call=on_call), self.running)

    async def cancel(self, level: Level) -> None:
        """Stop what runs."""
        await self._cells.cancel(level)

    async def close(self) -> None:
        """End it."""
        await self._cells.close()


class Coder:
    """Takes what is written on the code stream, and never makes the writer wait.

    Args:
        cells: where the first block begins; it is not changed.
        tools: effect by name.
        on_call: performs calls.
        listener: hears of events and results.
        show: text of what was printed and of a value's ``repr``.
    """

    def __init__(
        self,
        cells: Cells,
        tools: Mapping[str, str],
        on_call: OnCall,
        listener: Listener,
        show: Callable[[str, str | None], str],
    ) -> None:
        self._root = self._cells = TrackedCells(cells)
        self._tools, self._on_call = dict(tools), on_call
        self._listener, self._show = listener, show
        self._effects: Effects | None = None
        self._block: CodeStream | None = None
        self._number = -1  # of the block
        self._is_broken = False  # the rest of what is being written is not run
        self._has_told = False
        self._is_committing = self._is_closed = False
        self._waiting = 0
        self._news: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
        self._task = asyncio.create_task(self._work())
        self._task.add_done_callback(lambda task: task.cancelled() or listener.broke())

    @property
    def is_idle(self) -> bool:
        """Nothing is written or run."""
        return self._waiting == 0 and self._block is None

    @property
    def running(self) -> set[TrackedCells]:
        """Copies in which code runs now."""
        return self._root.running

    def take(self, text: str, ends: bool) -> None:
        """A piece of code, and whether the block ends with it."""
        if (text or ends) and not self._is_closed:
            self._waiting += 1
            self._news.put_nowait((text, ends))

    async def finish(self) -> None:
        """Wait for blocks whose end was written."""
        while not self._task.done() and (self._is_committing or not self._news.empty()):
            await asyncio.sleep(0.005)
        if self._task.done():
            await self._task

    async def close(self) -> None:
        """Abandon what is not committed, and end all copies."""
        self._is_closed = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._block is not None:
            await self._block.abandon()
            self._block = None
        if self._cells is not self._root:
            await self._cells.close()

    async def _work(self) -> None:
        while True:
            text, ends = await self._news.get()
            try:
                await self._write(text, ends)
            except SandboxError as error:  # its session is gone: the next block begins anew
                self._listener.tell(f"{type(error).__name__}: {error}", end=True)
                data = {"block": self._number, "index": None}
                self._listener.emit("result", "output", **data, ok=False,
                                    error=_error(type(error).__name__, str(error), 1))  # fmt: skip
                self._block, self._is_broken, self._cells = None, not ends, self._root
            finally:
                self._waiting -= 1
            self._listener.close_if_done()

    async def _write(self, text: str, ends: bool) -> None:
        if text and not self._is_broken:
            if self._block is None:
                self._begin()
            assert self._block is not None
            self._block.push(text)
        if self._block is not None and (ends or not self._block.going):
            await self._settle(self._block)
        if ends:
            self._is_broken = False

    def _begin(self) -> None:
        self._number += 1
        self._has_told = False
        self._block = CodeStream(self._cells, self._tools, self._on_call, effects=self._effects,
                                 on_event=self._on_event)  # fmt: skip

    async def _settle(self, block: CodeStream) -> None:
        """Run what is left of a block; after an error nothing is."""
        self._is_committing = True
        try:
            report = await block.commit()
        finally:
            self._is_committing = False
        self._block, self._is_broken = None, not report.ok
        if report.session is not self._cells:
            before, self._cells = self._cells, report.session
            if before is not self._root:
                await before.close()
        if report.ok:
            self._effects = block.effects
            self._listener.tell("" if self._has_told else DONE, end=True)

    def _on_event(self, event: StreamEvent) -> None:
        emit, data = self._listener.emit, {"block": self._number, "index": event.index}
        match event.kind:
            case "result":
                emit("result", "output", **data, ok=True, stdout=event.data["stdout"],
                     stderr=event.data["stderr"], value_repr=event.data["value"])  # fmt: skip
                if text := self._show(event.data["stdout"], event.data["value"]):
                    self._has_told = True
                    self._listener.tell(text, end=False)
            case "error" | "malformed":
                found = event.data
                kind = found.get("type", "SyntaxError")
                text = f"{kind}: {found['message']} (line {found['line']})"
                told = _error(kind, found["message"], found["line"])
                emit("result", "output", **data, ok=False, error=told)
                self._listener.tell(self._show(found.get("stdout", ""), None) + text, end=True)
                self._news.put_nowait(("", False))  # so that the block is settled now
                self._waiting += 1
            case "statement" | "held" | "commit" | "abandon":
                emit("code", event.kind, **data, **event.data)
            case _:
                return


def _error(kind: str, message: str, line: int) -> dict[str, Any]:
    return {"type": kind, "message": message, "line": line}


async def ladder(coder: Coder) -> None:
    """Stop running code: at its next call, by an interrupt, or dead."""
    levels: tuple[Level, ...] = ("soft", "interrupt", "kill")
    for level in levels:
        running = tuple(coder.running)
        for cells in running:
            await cells.cancel(level)
        for _ in range(25):
            if not coder.running & set(running):
                break
            await asyncio.sleep(GRACE / 25)
    await coder.close()
