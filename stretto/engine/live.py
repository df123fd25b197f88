"""Asynchronous reading: one background task steps the engine for all open sessions."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from stretto.errors import ConfigError

if TYPE_CHECKING:
    from stretto.engine.engine import Engine
    from stretto.engine.session import Session
    from stretto.engine.writer import Row


class LiveLoop:
    """The background task of an engine, and who waits for what.

    Steps run in a thread, so the event loop stays free; all events are set on the event loop.
    It is always the same thread, for each that computes has an arena of malloc's and a team of
    OpenMP's of its own.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._work = asyncio.Event()
        self._served: list[Session] = []
        self._news: WeakKeyDictionary[Session, asyncio.Event] = WeakKeyDictionary()
        self._attaching = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "stretto engine")  # ends with the engine

    def attach(self, session: "Session") -> None:
        """Serve a session; starts the background task if there is none.

        Raises:
            ConfigError: the task serves sessions of another event loop.
        """
        loop = asyncio.get_running_loop()
        with self._attaching:
            is_served = self._task is not None and not self._task.done()
            if self._loop is not loop and is_served and not _is_closed(self._loop):
                raise ConfigError(
                    "this engine serves sessions of another event loop (another thread's): wait "
                    "until they are over, or give each event loop an engine of its own"
                )
            self._served.append(session)
            self._news[session] = asyncio.Event()
            if self._loop is not loop or not is_served:
                self._loop, self._work = loop, asyncio.Event()
                self._task = loop.create_task(self._serve(), name="stretto engine")
        self._work.set()

    def announce(self, session: "Session") -> None:
        """From any thread: a session has new rows, new input, or is over."""
        if self._loop is None or session not in self._news:
            return
        # From another thread the loop may be closed at any moment: then nobody waits any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake, session)

    def _wake(self, session: "Session") -> None:
        self._work.set()
        self._news[session].set()

    async def iterate(self, session: "Session") -> "AsyncIterator[Row]":
        """Rows from the first on, until the session is over.

        Raises:
            RuntimeError: the session was not entered with ``async with``.
            Exception: whatever a step raised.
        """
        if session not in self._news:
            raise RuntimeError("enter the session first: async with engine.open(...) as session")
        news, seen = self._news[session], 0
        while True:
            news.clear()
            over = session.finish_reason is not None
            while seen < len(session.rows):
                yield session.rows[seen]
                seen += 1
            if session.finish_reason == "error" and session.error is not None:
                raise session.error
            if over:
                return
            await news.wait()

    async def _serve(self) -> None:
        """Step while an attached session is live; rest while all of them wait for input."""
        while self._served:
            self._work.clear()
            is_idle, failed = False, self._engine.failed_passes
            try:
                step = asyncio.get_running_loop().run_in_executor(self._thread, self._engine.step)
                is_idle = not await step
            except Exception as error:
                # Who took part in a pass is over. What fails before one would fail for ever.
                if self._engine.failed_passes == failed:
                    self._fail(error)
                    return
            for session in [s for s in self._served if s.finish_reason is not None]:
                self._served.remove(session)
                self._wake(session)
            if self._served and is_idle:
                await self._rest()

    def _fail(self, error: Exception) -> None:
        for session in self._served:
            session.fail(error)
            self._wake(session)
        self._served = []

    async def _rest(self) -> None:
        events = [(s, due) for s in self._served if (due := s.next_event()) is not None]
        seconds = min((max(0.0, due - s.clock.now()) for s, due in events), default=None)
        try:
            await asyncio.wait_for(self._work.wait(), seconds)
        except TimeoutError:
            return


def _is_closed(loop: asyncio.AbstractEventLoop | None) -> bool:
    return loop is None or loop.is_closed()
