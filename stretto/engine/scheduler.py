"""Which sessions take part in the next step, and with how much.

Sessions wait for a line of the cache in the order in which they were opened. Whoever has something
to do takes part; but long ticks (prompts, backlogs) and short ones (a row or a few) go into
separate steps, in turns, and a long tick is read in parts. So a session in conversation is neither
padded to the length of somebody's prompt, nor waits between two rows for more than one part of it.
"""

from collections import deque

from stretto.engine.backends import Backend
from stretto.engine.session import Session
from stretto.engine.tick import Tick

LONG = 16
"""Rows from which a tick, or what is left of it, counts as long."""


class Scheduler:
    """Waiting and active sessions.

    Args:
        backend: gives and takes back cache lines.
        max_sessions: how many sessions may be active.
        chunk: cells that a step over long ticks has at most while somebody else is active; also
            the longest part of a tick that is read in one step.
    """

    def __init__(self, backend: Backend, max_sessions: int, chunk: int) -> None:
        self._backend, self._chunk = backend, chunk
        self._max_sessions = max_sessions
        self._waiting: deque[Session] = deque()
        self._active: list[Session] = []
        self._long: list[Session] = []
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
        """The ticks of the next step, or parts of them; rows they hold are written to the tables.

        Empty if nobody has anything to do.
        """
        self._admit()
        while chosen := self._choose():
            if ticks := [tick for session in chosen for tick in self._next_part(session)]:
                return ticks
        return []  # everybody who was chosen is over

    def _choose(self) -> list[Session]:
        """Who takes part: all with short ticks, or the first of those with long ones."""
        widths = {session: self._width(session) for session in self._active}
        long = [session for session, width in widths.items() if width >= LONG]
        short = [session for session, width in widths.items() if 0 < width < LONG]
        # Whose tick was long first is served first, until it has been read.
        self._long = [s for s in self._long if s in long]
        self._long += [s for s in long if s not in self._long]
        self._was_long = bool(long) and not (short and self._was_long)
        chosen = self._first_of_long() if self._was_long else short
        # Neighbouring lines in order are read in place by the cache; others would be copied.
        return sorted(chosen, key=lambda session: session.line or 0)

    def _first_of_long(self) -> list[Session]:
        """As many as fill a step, counting what padding adds; all if nobody else is active."""
        chosen: list[Session] = []
        others, widest = len(self.holders()) > len(self._long), 0
        for session in self._long:
            widest = max(widest, min(self._chunk, session.max_cells()))
            if others and chosen and widest * (len(chosen) + 1) > self._chunk:
                break
            chosen.append(session)
        return chosen

    def _width(self, session: Session) -> int:
        with session.own_work():
            return session.width()
        return 0

    def _next_part(self, session: Session) -> list[Tick]:
        """What a session reads in this step; nothing if it failed."""
        with session.own_work():
            session.begin()
            return [session.next_part(self._chunk)]
        return []

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
