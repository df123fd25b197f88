"""Asynchronous reading: one background task steps the engine for all open sessions."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stretto.engine.engine import Engine
    from stretto.engine.session import Row, Session


class LiveLoop:
    """The background task of an engine, and who waits for what.

    Steps run in a thread, so the event loop stays free; all events are set on the event loop.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._work = asyncio.Event()
        self._news: dict[Session, asyncio.Event] = {}
        self._error: BaseException | None = None

    def attach(self, session: "Session") -> None:
        """Serve a session; starts the background task if there is none on this event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._task is None or self._task.done():
            self._loop, self._work, self._error = loop, asyncio.Event(), None
            self._task = loop.create_task(self._serve(), name="stretto engine")
        self._news[session] = asyncio.Event()
        self._work.set()

    def announce(self, session: "Session") -> None:
        """From any thread: a session has new rows, new input, or is over."""
        if self._loop is None or session not in self._news or self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._wake, session)

    def _wake(self, session: "Session") -> None:
        self._work.set()
        if session in self._news:
            self._news[session].set()

    async def iterate(self, session: "Session") -> "AsyncIterator[Row]":
        """Rows from the first on, until the session is over.

        Raises:
            RuntimeError: the session was not entered with ``async with``.
        """
        if session not in self._news:
            raise RuntimeError("enter the session first: async with engine.open(...) as session")
        news, seen = self._news[session], 0
        while True:
            news.clear()
            while seen < len(session.rows):
                yield session.rows[seen]
                seen += 1
            if session.finish_reason is not None and seen == len(session.rows):
                return
            if self._error is not None:
                raise self._error
            await news.wait()

    async def _serve(self) -> None:
        """Step while an attached session is live; rest while all of them wait for input."""
        try:
            while any(session.finish_reason is None for session in self._news):
                self._work.clear()
                if not await asyncio.to_thread(self._engine.step):
                    await self._rest()
                for session in [s for s in self._news if s.finish_reason is not None]:
                    self._wake(session)
                    del self._news[session]
        except BaseException as error:
            self._error = error
            for session in self._news:
                session.finish("error")
            raise
        finally:
            for session in self._news:
                self._wake(session)

    async def _rest(self) -> None:
        live = [session for session in self._news if session.finish_reason is None]
        dues = [due - s.clock.now() for s in live if (due := s.next_event()) is not None]
        try:
            await asyncio.wait_for(self._work.wait(), min(dues, default=None))
        except TimeoutError:
            return
