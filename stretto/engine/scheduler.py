"""Which sessions take part in the next step.

Sessions wait for a line of the cache in the order in which they were opened. Whoever has something
to do takes part; but long ticks (prompts, backlogs) and short ones (a row or a few) go into
separate steps, in turns, so that a session in conversation is not padded to the length of
somebody's prompt.
"""

from collections import deque

from stretto.engine.backends import Backend
from stretto.engine.session import Session
from stretto.engine.tick import Tick

LONG = 16
"""Rows from which a tick counts as long."""


class Scheduler:
    """Waiting and active sessions.

    Args:
        backend: gives and takes back cache lines.
        max_sessions: how many sessions may be active.
    """

    def __init__(self, backend: Backend, max_sessions: int) -> None:
        self._backend = backend
        self._max_sessions = max_sessions
        self._waiting: deque[Session] = deque()
        self._active: list[Session] = []
        self._was_long = False

    def add(self, session: Session) -> None:
        """Take a session in."""
        self._waiting.append(session)

    def holders(self) -> list[Session]:
        """Sessions that hold a line and are not over."""
        return [session for session in self._active if session.finish_reason is None]

    def is_full(self) -> bool:
        """Whether every line is held, so that a waiting session cannot begin."""
        return len(self.holders()) >= self._max_sessions

    def plan(self) -> list[Tick]:
        """The ticks of the next step; rows they hold are written to the tables."""
        self._admit()
        widths = [(session, session.width()) for session in self._active]
        short = [session for session, width in widths if 0 < width < LONG]
        long = [session for session, width in widths if width >= LONG]
        self._was_long = bool(long) and not (short and self._was_long)
        return [session.next_tick() for session in (long if self._was_long else short)]

    def _admit(self) -> None:
        for session in [s for s in self._active if s.finish_reason is not None]:
            self._active.remove(session)
            if session.line is not None:
                self._backend.release(session.line)
                session.line = None
        for session in self._waiting:
            session.check_over()
        while self._waiting and len(self._active) < self._max_sessions:
            session = self._waiting.popleft()
            if session.finish_reason is None:
                session.line = self._backend.open()
                self._active.append(session)
        # Neighbouring lines in order are read in place by the cache; others would be copied.
        self._active.sort(key=lambda session: session.line or 0)
