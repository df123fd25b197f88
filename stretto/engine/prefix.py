"""Prompts that begin alike are read once.

A prompt's cell depends on the cells before it only, so a session may begin with a copy of the line
of another whose prompts had the same first cells. Such lines are those of live sessions, and those
kept from sessions that are over, the least recently used forgotten first.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from stretto.engine.admission import blocks
from stretto.engine.backends import Backend
from stretto.engine.session import Session
from stretto.engine.tick import Ints
from stretto.errors import LimitError

LEAST = 16
"""Cells that must be shared for a copy to be worth it."""
KEPT = 64
"""Beginnings that are kept of sessions that are over, however short: each is a line, which some
back ends make as long as the longest, and each new session is compared with all of them."""


@dataclass(frozen=True, eq=False)
class _Kept:
    line: int
    cells: Ints


class PrefixCache:
    """Beginnings that have been read.

    Args:
        backend: copies lines.

    Attributes:
        hits: sessions that began with a copy.
        cells_saved: cells that they did not have to read.
        num_cells: cells that the kept lines hold, in whole blocks.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._kept: list[_Kept] = []  # the least recently used first
        self.hits = self.cells_saved = self.num_cells = 0

    def find(self, session: Session, live: Iterable[Session]) -> int:
        """Let a session that has read nothing begin with the longest beginning there is.

        Args:
            session: holds an empty line.
            live: others whose lines may be copied; more than the prompts may have been read.

        Returns:
            how many of its first cells its line holds now.
        """
        wanted = _usable(session)
        sources = [(kept.line, kept.cells, kept) for kept in self._kept]
        sources += [
            (s.line, s.prompt_cells[: s.num_cached], None)
            for s in live
            if s is not session and s.line is not None
        ]
        shared = [num_shared(wanted, cells) for _, cells, _ in sources]
        best = max(range(len(shared)), key=shared.__getitem__, default=None)
        if best is None or shared[best] < LEAST or session.line is None:
            return 0
        line, _, kept = sources[best]
        # First: there may be no other line.
        self._backend.release(session.line)
        session.line = None
        session.line = self._backend.fork(line, shared[best])
        if kept is not None:
            self._kept.remove(kept)
            self._kept.append(kept)
        self.hits += 1
        self.cells_saved += shared[best]
        return shared[best]

    def keep(self, session: Session) -> None:
        """Keep a copy of a session's prompts, whose line is about to be released.

        Nothing is kept where there is no line or no memory for it.
        """
        cells = session.prompt_cells[: session.num_cached]
        line = session.line
        if len(cells) < LEAST or line is None:
            return
        for kept in self._kept:
            if num_shared(cells, kept.cells) == len(cells):
                self._kept.remove(kept)
                self._kept.append(kept)
                return
        # What a longer one begins with is not kept twice.
        for kept in [k for k in self._kept if num_shared(cells, k.cells) == len(k.cells)]:
            self._forget(kept)
        if len(self._kept) == KEPT:
            self._forget(self._kept[0])
        try:
            copy = self.new_line(lambda: self._backend.fork(line, len(cells)))
        except (LimitError, MemoryError):
            return
        self._kept.append(_Kept(copy, cells))
        self.num_cells += blocks(len(cells))

    def new_line(self, make: Callable[[], int]) -> int:
        """The line that ``make`` gives; if there are no more, kept ones are forgotten for it.

        Raises:
            LimitError: all lines there can be are those of sessions.
        """
        while True:
            try:
                return make()
            except LimitError:
                if not self._kept:
                    raise
                self._forget(self._kept[0])

    def shrink(self, cells: int) -> None:
        """Forget the least recently used until at most so many cells are kept."""
        while self._kept and self.num_cells > cells:
            self._forget(self._kept[0])

    def _forget(self, kept: _Kept) -> None:
        self._kept.remove(kept)
        self._backend.release(kept.line)
        self.num_cells -= blocks(len(kept.cells))


def num_shared(one: Ints, other: Ints) -> int:
    """How many first cells are the same."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length


def will_share(session: Session, other: Session) -> bool:
    """Whether another is about to read more of a session's beginning than it has by now."""
    shared = num_shared(_usable(session), other.prompt_cells)
    return shared >= LEAST and shared > other.num_cached


def _usable(session: Session) -> Ints:
    """Cells that need not be read again: those before the first that is asked, or the last."""
    tick = session.prefill
    first = int(tick.queries[0]) if len(tick.queries) else len(tick) - 1
    return session.prompt_cells[: max(0, first)]
