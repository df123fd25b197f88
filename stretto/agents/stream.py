"""Code that runs while it is written.

A statement runs as soon as it is complete, in a forked copy of the session. Pure and reading ones
run at once; the first that may write, and all behind it, wait for ``commit()``. Reading statements
that need nothing of those before them are also run ahead in copies of their own, so that their
calls overlap; only the calls are kept, and handed over when the statement's turn comes. So a block
that breaks off may have asked what it would never have come to: reads cost, but change nothing.

No side effect of an abandoned block: what may run early is decided by
:mod:`stretto.agents.effects`, but every call passes through here too, and one that writes is
refused until commit, whatever the analysis said. The statement is then taken back and waits.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, Self

from stretto.agents.actions import Malformed, Splitter, Statement
from stretto.agents.blocks import (
    CellSession,
    EventKind,
    Failure,
    NotCommittedError,
    OnCall,
    Report,
    StreamEvent,
)
from stretto.agents.effects import Effects, Use
from stretto.errors import InputError


class _Item:
    """A statement on its way."""

    def __init__(self, statement: Statement, use: Use) -> None:
        self.statement, self.use = statement, use
        self.writes = use.effect not in ("pure", "read")
        self.scout: asyncio.Task[None] | None = None
        self.ahead: dict[str, list[asyncio.Task[Any]]] = {}  # calls made for it, by what was asked


class CodeStream:
    """One block of code, from its first piece to commit or abandon.

    Args:
        session: where it shall run; it is only forked, never changed.
        tools: effect of each tool: pure, read, write or irreversible; others count as unknown.
        on_call: performs the calls, as :class:`stretto.agents.broker.Broker` does.
        effects: what is known of the session's names, from the blocks before.
        scouts: how many statements may run ahead at once.
        on_event: told of every event as it happens; :meth:`events` gives the same.
    """

    def __init__(
        self,
        session: CellSession,
        tools: Mapping[str, str],
        on_call: OnCall,
        *,
        effects: Effects | None = None,
        scouts: int = 4,
        on_event: Callable[[StreamEvent], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._session, self._on_call = session, on_call
        self._tools = dict(tools)
        self.effects = effects.copy() if effects else Effects(tools)
        self._max_scouts = scouts
        self._splitter = Splitter()
        self._items: list[_Item] = []
        self._results: list[Any] = []
        self._failure: Failure | None = None
        self._copy: Any = None  # where the next statement runs
        self._before: Any = None  # a copy from before the statement that runs now
        self._copies: set[Any] = set()
        self._making: set[asyncio.Future[Any]] = set()
        self._forking = asyncio.Lock()
        self._may_write = self._refused = self._closed = self._over = False
        self._committed, self._changed = asyncio.Event(), asyncio.Event()
        self._log: list[StreamEvent] = []
        self._logged = asyncio.Event()
        self._tell = on_event
        self._runner = asyncio.create_task(self._run())

    def push(self, text: str) -> bool:
        """Take a piece of code. False: something failed, so that more is of no use.

        Raises:
            InputError: the block was committed or abandoned.
        """
        if self._over or self._closed:
            raise InputError("this block is over; begin another CodeStream")
        self._add(self._splitter.push(text))
        return self.going

    @property
    def going(self) -> bool:
        """Whether nothing has failed yet."""
        return self._failure is None and not self._runner.done()

    @property
    def idle(self) -> bool:
        """Whether nothing runs any more, nor will before :meth:`commit`."""
        return self._runner.done()

    async def commit(self) -> Report:
        """The text is over and meant: run what is left, writes too.

        Nothing that waits is run if the text is malformed anywhere.

        Raises:
            InputError: the block was committed or abandoned before.
            NotCommittedError: the block was abandoned meanwhile; what it wrote until then stays.
            SandboxError: the session came to an end.
        """
        if self._over or self._closed:
            raise InputError("this block is over; begin another CodeStream")
        self._add(self._splitter.finish())
        self._over = True
        if self._failure is None or not self._splitter.error:
            self._event("commit")
            self._committed.set()
        self._changed.set()
        try:
            await self._runner
        except BaseException as error:  # also a cancelled caller: nothing may go on behind its back
            abandoned = self._closed and isinstance(error, asyncio.CancelledError)
            self._closed = True
            await self._clear()
            if abandoned:
                raise NotCommittedError("this block was abandoned while it was committed") from None
            raise
        finally:
            self._logged.set()
        await self._clear(keep=self._copy)
        rest = tuple(item.statement for item in self._items[len(self._results) :])
        session = self._session if self._copy is None else self._copy
        ok = self._failure is None
        return Report(ok, tuple(self._results), self._failure, rest, session)

    async def abandon(self) -> None:
        """Forget the block. No call starts once this is called; may be called at any time."""
        if not self._closed:
            self._closed = True
            self._event("abandon")
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
            await self._clear()
        self._logged.set()

    async def events(self) -> AsyncIterator[StreamEvent]:
        """Everything that happens, from the beginning until the block is over."""
        position = 0
        while True:
            while position < len(self._log):
                yield self._log[position]
                position += 1
            if self._closed or (self._over and self._runner.done()):
                return
            self._logged.clear()
            await self._logged.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """What was not committed is abandoned."""
        if not (self._over and self._runner.done()):
            await self.abandon()

    def _event(self, kind: EventKind, index: int | None = None, **data: Any) -> None:
        event = StreamEvent(kind, self._loop.time() - self._began, index, data)
        self._log.append(event)
        self._logged.set()
        if self._tell is not None:
            self._tell(event)

    def _add(self, statements: list[Statement]) -> None:
        for statement in statements:
            use = self.effects.take(statement.source)
            self._items.append(_Item(statement, use))
            self._event(
                "statement", statement.index, source=statement.source, line=statement.line,
                effect=use.effect,
            )  # fmt: skip
        wrong = self._splitter.error
        if wrong and self._failure is None:
            self._fail_malformed(wrong)
        if statements:
            self._send_scouts()
        self._changed.set()

    def _fail_malformed(self, wrong: Malformed) -> None:
        self._failure = Failure("SyntaxError", wrong.message, wrong.line, hint=wrong.hint)
        self._event(
            "malformed", line=wrong.line, column=wrong.column, message=wrong.message,
            source_line=wrong.source_line, hint=wrong.hint,
        )  # fmt: skip

    async def _run(self) -> None:
        """Statement after statement, until the text is over or something fails."""
        try:
            while True:
                done = len(self._results)
                if done < len(self._items):
                    item = self._items[done]
                    if item.writes and not await self._commitment(item, item.use.effect):
                        return
                    if not await self._turn(item):
                        return
                elif self._over or self._splitter.error:
                    return
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            self._logged.set()

    async def _commitment(self, item: _Item, effect: str) -> bool:
        """Wait until writes are allowed; False if they never will be."""
        if not self._committed.is_set():
            self._event("held", item.statement.index, effect=effect)
        while not self._committed.is_set():
            if self._splitter.error:
                return False
            self._changed.clear()
            await self._changed.wait()
        return True

    async def _turn(self, item: _Item) -> bool:
        """Run a statement on the main line; whether it went well."""
        index = item.statement.index
        if item.scout is not None:
            item.scout.cancel()  # the calls it made go on
        if self._copy is None:
            self._copy = await self._fork(self._session, self._main_call)
        self._before = await self._fork(self._copy, self._main_call)
        self._refused, self._may_write = False, item.writes
        self._event("start", index)
        self._send_scouts()
        result = await self._copy.exec(item.statement.source)
        self._may_write = False
        async with self._forking:
            before, self._before = self._before, None
        if result.ok and not self._refused:
            await self._close(before)
            self._results.append(result)
            self._event(
                "result", index, stdout=result.stdout, stderr=result.stderr,
                value=result.value_repr, calls=_calls(result),
            )  # fmt: skip
            self._drop_ahead(item)
            return True
        await self._close(self._copy)
        self._copy = before
        if self._refused:  # it writes after all: take it back
            item.writes = True
            return await self._commitment(item, "write") and await self._turn(item)
        self._drop_ahead(item)
        self._fail(item.statement, result)
        return False

    def _fail(self, statement: Statement, result: Any) -> None:
        error = result.error
        kind = error.type if error else "LimitReached"
        message = error.message if error else f"the {result.limit} limit was reached"
        line = statement.line + ((error.line or 1) if error else 1) - 1
        # A malformed text behind it is the lesser news: this came first.
        self._failure = Failure(kind, message, line, statement.index)
        self._event(
            "error", statement.index, type=kind, message=message, line=line,
            stdout=result.stdout, stderr=result.stderr, limit=result.limit, calls=_calls(result),
        )  # fmt: skip

    async def _main_call(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if self._closed:
            raise NotCommittedError("this block was abandoned")
        if not self._may_write and self._tools.get(name) not in ("pure", "read"):
            self._refused = True
            raise NotCommittedError(f"{name} may write, and this block is not committed")
        item = self._items[len(self._results)]
        ahead = item.ahead.get(_key(name, args, kwargs))
        return await (ahead.pop(0) if ahead else self._on_call(name, args, kwargs))

    def _send_scouts(self) -> None:
        """Run ahead what reads and needs nothing of what is not yet done."""
        if self._before is None or self._closed or self._may_write:
            return
        changed: set[str] = set()
        active = sum(i.scout is not None and not i.scout.done() for i in self._items)
        for item in self._items[len(self._results) :]:
            if item.writes:
                return  # what comes behind a write may read what it wrote
            first = item is self._items[len(self._results)]
            ready = item.scout is None and item.use.tools and not item.use.reads & changed
            if ready and not first and active < self._max_scouts:
                item.scout = asyncio.create_task(self._scout(item))
                active += 1
            changed |= item.use.writes

    async def _scout(self, item: _Item) -> None:
        async with self._forking:
            if self._before is None:
                item.scout = None  # the next statement sends another
                return
            copy = await self._fork(self._before, partial(self._scout_call, item))
        try:
            await copy.exec(item.statement.source)
        finally:
            await self._close(copy)

    async def _scout_call(
        self, item: _Item, name: str, args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        if self._closed or self._tools.get(name) not in ("pure", "read"):
            raise NotCommittedError(f"{name} may write, and this block is not committed")
        call = asyncio.ensure_future(self._on_call(name, args, kwargs))
        item.ahead.setdefault(_key(name, args, kwargs), []).append(call)  # type: ignore[arg-type]
        return await asyncio.shield(call)

    def _drop_ahead(self, item: _Item) -> None:
        """Calls made for a statement that did not ask for them."""
        for calls in item.ahead.values():
            for call in calls:
                call.cancel()
        item.ahead.clear()

    async def _fork(self, session: CellSession, on_call: OnCall) -> Any:
        """A copy; one that is still being made when the block is abandoned is ended by it."""
        task = asyncio.ensure_future(session.fork(on_call=on_call))
        self._making.add(task)
        copy = await asyncio.shield(task)
        self._making.discard(task)
        self._copies.add(copy)
        return copy

    async def _close(self, copy: Any) -> None:
        self._copies.discard(copy)
        await copy.close()

    async def _clear(self, keep: Any = None) -> None:
        """End scouts, their calls and all copies but one."""
        scouts = [item.scout for item in self._items if item.scout is not None]
        for scout in scouts:
            scout.cancel()
        await asyncio.gather(*scouts, return_exceptions=True)
        for item in self._items:
            self._drop_ahead(item)
        made = await asyncio.gather(*self._making, return_exceptions=True)
        self._making.clear()
        self._copies |= {copy for copy in made if not isinstance(copy, BaseException)}
        for copy in self._copies - {keep}:
            await copy.close()
        self._copies &= {keep}


def _key(name: str, args: list[Any], kwargs: dict[str, Any]) -> str:
    return json.dumps([name, args, kwargs], sort_keys=True, default=repr)


def _calls(result: Any) -> list[Any]:
    """What a cell called, in order: name, arguments, named arguments."""
    return [[call.name, call.args, call.kwargs] for call in getattr(result, "calls", ())]
