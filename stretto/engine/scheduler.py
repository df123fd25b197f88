"""Which sessions take part in the next step, and with how much.

Sessions wait for a place and for memory (:mod:`stretto.engine.admission`), then hold a line of the
cache. Whoever has something to do takes part; but long ticks (prompts, backlogs) and short ones (a
row or a few) go into separate steps, in turns, and a long tick is read in parts. So a session in
conversation is neither padded to the length of somebody's prompt, nor waits between two rows for
more than one part of it.
"""

from collections.abc import Callable

from stretto.engine.admission import Memory, Queue
from stretto.engine.backends import Backend
from stretto.engine.prefix import PrefixCache, will_share
from stretto.engine.session import Session
from stretto.engine.tick import Tick
from stretto.errors import LimitError

LONG = 16
"""Rows from which a tick, or what is left of it, counts as long."""


class Scheduler:
    """Waiting and active sessions.

    Args:
        backend: gives and takes back cache lines.
        max_sessions: how many sessions may be active.
        chunk: cells that a step over long ticks has at most while somebody else is active; also
            the longest part of a tick that is read in one step.
        memory: how much of the cache there is.
        queue: who waits.
        prefixes: beginnings of prompts that have been read; None keeps none.
    """

    def __init__(
        self,
        backend: Backend,
        max_sessions: int,
        chunk: int,
        memory: Memory,
        queue: Queue,
        prefixes: PrefixCache | None,
    ) -> None:
        self._backend, self._chunk, self._max_sessions = backend, chunk, max_sessions
        self._memory, self._queue, self._prefixes = memory, queue, prefixes
        self._active: list[Session] = []
        self._long: list[Session] = []
        self._was_long = False
        self._arrivals = 0

    def check(self, session: Session) -> None:
        """Refuse a session that can never begin, or one too many.

        Raises:
            LimitError: its prompts do not fit in the cache, or too many wait already.
        """
        self._memory.check(session)
        self._queue.drop_finished()
        self._queue.check(self._max_sessions - len(self.holders()))

    def add(self, session: Session) -> None:
        """Take a session in."""
        self._count(session)
        self._queue.add(session)

    def add_fork(self, fork: Session, session: Session) -> None:
        """Take a copy of a session in, with a line that holds the same.

        To be called behind :meth:`retire`, so that who is over takes no place.

        Raises:
            LimitError: there is no place or no memory for it.
        """
        if session.line is None:
            self.check(fork)
            self.add(fork)
            return
        if len(self._active) >= self._max_sessions:
            raise LimitError(
                f"all {self._max_sessions} sessions that may be active are: cancel one before you "
                "fork another, or give the engine more max_sessions"
            )
        if not self._has_room_for(fork):
            raise LimitError(
                f"the cache of {self._memory.capacity} cells has no room for a fork of "
                f"{fork.num_cached}: cancel a session, or give the engine more max_cache_bytes"
            )
        line, cells = session.line, session.num_cached
        fork.line = self._new_line(lambda: self._backend.fork(line, cells))
        self._count(fork)
        self._active.append(fork)

    def _count(self, session: Session) -> None:
        self._arrivals += 1
        session.arrival = self._arrivals

    def holders(self) -> list[Session]:
        """Sessions that hold a line and are not over."""
        return [session for session in self._active if session.finish_reason is None]

    def live(self) -> list[Session]:
        """All sessions that are not over."""
        return [s for s in (*self._active, *self._queue) if s.finish_reason is None]

    def num_waiting(self) -> int:
        """Sessions that wait for their turn."""
        return sum(session.finish_reason is None for session in self._queue)

    def why_blocked(self) -> str:
        """Which argument of the engine keeps the next one in the queue from beginning, or none."""
        first = self._queue.first
        if first is None:
            return ""
        if len(self.holders()) >= self._max_sessions:
            return "max_sessions"
        return "" if self._has_room_for(first) else "max_cache_bytes"

    def spare_cells(self) -> int:
        """Cells that can be added to lines beside what this step and the next may need."""
        kept = self._prefixes.num_cells if self._prefixes else 0
        return self._memory.spare(self.holders(), kept)

    def plan(self) -> list[Tick]:
        """The ticks of the next step, or parts of them; rows they hold are written to the tables.

        Empty if nobody has anything to do.
        """
        self.retire()
        self._admit()
        while chosen := self._choose():
            self._make_room()
            chosen = [session for session in chosen if session.finish_reason is None]
            if ticks := [tick for session in chosen for tick in self._next_part(session)]:
                # Neighbouring lines in order are read in place by the cache; others are copied.
                return sorted(ticks, key=lambda tick: tick.session.line)
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
        return self._first_of_long() if self._was_long else short

    def _first_of_long(self) -> list[Session]:
        """As many as fill a step, counting what padding adds; all if nobody else is active."""
        chosen: list[Session] = []
        others, widest = len(self.holders()) > len(self._long), 0
        for session in self._long:
            if any(self._waits_for(session, other) for other in chosen):
                continue
            widest = max(widest, min(self._chunk, session.max_cells()))
            if others and chosen and widest * (len(chosen) + 1) > self._chunk:
                break
            chosen.append(session)
        return chosen

    def _waits_for(self, session: Session, other: Session) -> bool:
        """Whether a session lets another read first what both begin with."""
        is_new = self._prefixes is not None and not (session.is_prefilled or session.is_reading)
        return is_new and will_share(session, other)

    def _width(self, session: Session) -> int:
        with session.own_work():
            return session.width()
        return 0

    def _next_part(self, session: Session) -> list[Tick]:
        """What a session reads in this step; nothing if it failed."""
        with session.own_work():
            cells = 0
            if self._prefixes and not (session.is_prefilled or session.is_reading):
                cells = self._prefixes.find(session, self.holders())
            session.begin(cells)
            return [session.next_part(self._chunk)]
        return []

    def retire(self) -> None:
        """Take back the lines of those who are over."""
        for session in [s for s in self._active if s.finish_reason is not None]:
            self._active.remove(session)
            try:
                if self._prefixes and session.finish_reason not in ("error", "evicted"):
                    self._prefixes.keep(session)
            finally:
                if session.line is not None:
                    self._backend.release(session.line)
                    session.line = None
                session.let_go()

    def _admit(self) -> None:
        for session in self._queue:
            session.check_over()
        self._queue.drop_finished()
        while (first := self._queue.first) is not None and not self.why_blocked():
            first = self._queue.pop()
            with first.own_work():
                first.line = self._new_line(self._backend.open)
                self._active.append(first)

    def _new_line(self, make: Callable[[], int]) -> int:
        return make() if self._prefixes is None else self._prefixes.new_line(make)

    def _has_room_for(self, session: Session) -> bool:
        """Whether it fits beside the others and what they may still need at once."""
        needs = (*self.holders(), session)
        return sum(map(self._memory.need, needs)) <= self._memory.capacity

    def _make_room(self) -> None:
        """Before the next step: forget kept beginnings, then evict, until all fits."""
        capacity, holders = self._memory.capacity, self.holders()
        kept = self._prefixes.num_cells if self._prefixes else 0
        if kept <= capacity // 4 and self._memory.has_plenty(holders, kept):
            return
        if self._prefixes:
            used = sum(map(self._memory.growth, holders))
            self._prefixes.shrink(min(capacity // 4, max(0, capacity - used)))
        victims = list(self._memory.find_victims(holders))
        for session in victims:
            self._memory.evict(session)
        if victims:
            self.retire()
