"""How much of the cache there is, who may come in, and who has to go when it is full.

Memory is counted in cells, by session: what its line holds and what its next tick can add, rounded
up to blocks. Lines that a back end lays out side by side may take more than that.
"""

import os
from bisect import insort
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from stretto.engine.backends import Backend
from stretto.engine.session import Session
from stretto.errors import LimitError

BLOCK = 32
"""Cells are counted in blocks of so many."""
RESERVE = 256
"""Cells beyond its prompts that must be free before a session begins, if it can use as many."""
SHARE = 0.5
"""Part of the free memory that the cache may take by default."""
_FALLBACK = 2**32


class Memory:
    """Counts cells.

    Args:
        backend: says what a cell takes.
        max_bytes: what the cache may take.

    Attributes:
        evictions: how many sessions had to go.
    """

    def __init__(self, backend: Backend, max_bytes: int) -> None:
        self._backend, self._max_bytes = backend, max_bytes
        self.evictions = 0

    @property
    def capacity(self) -> int:
        """Cells there is room for."""
        return self._max_bytes // self._backend.cell_bytes // BLOCK * BLOCK

    def has_plenty(self, sessions: Iterable[Session], others: int) -> bool:
        """Whether all fit beside ``others`` cells whatever this step adds; a quick look."""
        bound = sum(s.num_cached + s.growth_bound() + BLOCK for s in sessions)
        return bound + others <= self.capacity

    def spare(self, sessions: Iterable[Session], others: int) -> int:
        """Cells that are free beside sessions and ``others``, whatever this step adds."""
        bound = sum(s.num_cached + s.growth_bound() + 2 * BLOCK for s in sessions)
        return max(0, self.capacity - bound - others)

    def growth(self, session: Session) -> int:
        """Cells that a session takes once its next tick has been read, at most."""
        with session.own_work():
            return blocks(session.num_cached + session.max_growth())
        return 0

    def need(self, session: Session) -> int:
        """Cells that a session needs to begin, or to go on, with a reserve for its first rows.

        What waits to be read by one that has not begun is left out: it may never fit.
        """
        prompt = session.prefill.num_visible
        live = session.limits.max_rows * len(session.streams)
        first = blocks(prompt + min(RESERVE, live))
        now = self.growth(session) if session.num_cached else 0
        return min(max(first, now), self.capacity)

    def check(self, session: Session) -> None:
        """Refuse a session that could not even begin alone.

        Raises:
            LimitError: says how many cells fit.
        """
        first = session.prefill.num_visible + len(session.streams.outputs)
        if blocks(first) > self.capacity:
            raise LimitError(
                f"prompts and a first row take {first} cells, the cache holds {self.capacity}: "
                "shorten the prompts or give the engine more max_cache_bytes"
            )

    def find_victims(self, sessions: Iterable[Session]) -> Iterator[Session]:
        """Who has to go before the next step: one after the other until the rest fits.

        First those that alone are too large; then of the lowest priority the youngest.

        Args:
            sessions: who holds a line.
        """
        takes = {session: self.growth(session) for session in sessions}
        for session in [s for s in takes if takes[s] > self.capacity]:
            del takes[session]
            yield session
        while takes and sum(takes.values()) > self.capacity:
            session = min(takes, key=lambda s: (s.priority, -s.arrival))
            del takes[session]
            yield session

    def evict(self, session: Session) -> None:
        """Tell a session that it has to go."""
        self.evictions += 1
        what = "it outgrew" if self.growth(session) > self.capacity else "there was no room in"
        session.evict(
            LimitError(
                f"session evicted after {len(session.rows)} rows: {what} the cache of "
                f"{self.capacity} cells; give the engine more max_cache_bytes or fewer "
                "max_sessions, or this session a higher priority"
            )
        )


class Queue:
    """Sessions that wait for their turn: higher priorities first, equal ones as they came.

    Nobody overtakes, so large sessions come in too.

    Args:
        most: how many may wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._sessions: list[Session] = []

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions)

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def first(self) -> Session | None:
        """Whose turn is next."""
        return self._sessions[0] if self._sessions else None

    def check(self, places: int) -> None:
        """Refuse another session if too many wait.

        Args:
            places: how many of those who wait can begin with the next step.

        Raises:
            LimitError: the queue is full.
        """
        if len(self._sessions) - places >= self._most:
            raise LimitError(
                f"{len(self._sessions)} sessions wait for their turn already: try again when some "
                "have begun, or give the engine more max_waiting"
            )

    def add(self, session: Session) -> None:
        """Put a session in its place."""
        insort(self._sessions, session, key=lambda s: (-s.priority, s.arrival))

    def pop(self) -> Session:
        """Take the first one out."""
        return self._sessions.pop(0)

    def drop_finished(self) -> None:
        """Forget who is over before its turn came."""
        self._sessions = [s for s in self._sessions if s.finish_reason is None]


def default_bytes(device: torch.device) -> int:
    """``SHARE`` of the memory that is free now, on the graphics card or on the computer."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    return int(SHARE * _free_bytes())


def _free_bytes() -> int:
    """Free memory of this computer as far as its system says; at most what a container has left."""
    free = _FALLBACK
    if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        # Unlike the pages that are quite free, this counts what files' pages can give back.
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        pass
    return min(free, _left_in_group(Path("/sys/fs/cgroup"), free))


def _left_in_group(group: Path, otherwise: int) -> int:
    """Bytes that a control group may still take; ``otherwise`` where it has no limit."""
    try:
        most = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # What files' pages take is given back when it is needed.
        used -= int(stat["inactive_file"]) + int(stat["active_file"])
    except (OSError, ValueError, KeyError):
        return otherwise
    return max(0, most - used)


def blocks(cells: int) -> int:
    """Rounded up to whole blocks."""
    return -(-cells // BLOCK) * BLOCK
