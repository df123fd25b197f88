"""Time as a session knows it: seconds since it was opened."""

import time
from collections.abc import Callable
from typing import Protocol

from stretto.errors import ConfigError


class Clock(Protocol):
    """What a session asks of its clock."""

    def start(self) -> None:
        """Begin at zero. A clock serves one session."""
        ...

    def now(self) -> float:
        """Seconds since :meth:`start`."""
        ...

    def advance(self, cells: int, cached: int) -> None:
        """A forward pass over ``cells`` with ``cached`` cells before them is done."""
        ...

    def jump(self, due: float) -> bool:
        """Be at ``due`` at once if this clock can; False if one has to wait."""
        ...


class _OneSession:
    """A clock that has not been started, or has, once."""

    _started = False

    def _start_once(self) -> None:
        if self._started:
            raise ConfigError("a clock serves one session: give each session its own")
        self._started = True


class WallClock(_OneSession):
    """Real time."""

    _zero = 0.0

    def start(self) -> None:
        """Begin at zero."""
        self._start_once()
        self._zero = time.perf_counter()

    def now(self) -> float:
        """Seconds since :meth:`start`."""
        return time.perf_counter() - self._zero

    def advance(self, cells: int, cached: int) -> None:
        """Real time passes by itself."""

    def jump(self, due: float) -> bool:
        """True if it is ``due`` already; real time cannot be hurried."""
        return self.now() >= due


class VirtualClock(_OneSession):
    """Time by a model of latency, as if the session ran alone; nobody waits for it.

    Args:
        latency: seconds of a forward pass, from its cells and the cells cached before it.
    """

    def __init__(self, latency: Callable[[int, int], float]) -> None:
        self._latency = latency
        self._now = 0.0

    def start(self) -> None:
        """Begin at zero."""
        self._start_once()

    def now(self) -> float:
        """Virtual seconds since :meth:`start`."""
        return self._now

    def advance(self, cells: int, cached: int) -> None:
        """Add what that forward pass takes."""
        self._now += self._latency(cells, cached)

    def jump(self, due: float) -> bool:
        """Be at ``due``."""
        self._now = max(self._now, due)
        return True
