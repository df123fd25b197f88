"""How a session ends, and how its own faults are kept from others."""

import threading

from stretto.errors import InputError


class Ending:
    """Something that is over once, for one reason.

    Attributes:
        finish_reason: None while live.
        error: what went wrong, if something did.
    """

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.error: BaseException | None = None
        self._lock = threading.RLock()

    def finish(self, reason: str) -> None:
        """Be over, unless it is already."""
        with self._lock:
            if self.finish_reason is None:
                self.finish_reason = reason

    def fail(self, error: BaseException) -> None:
        """Be over with ``error`` as the reason, unless it is over already."""
        with self._lock:
            if self.finish_reason is None:
                self.error = error  # before the reason: readers look at them in turn
                self.finish_reason = "error"

    def evict(self, error: Exception) -> None:
        """Be over because the cache is full, unless it is over already."""
        with self._lock:
            if self.finish_reason is None:
                self.error = error
                self.finish_reason = "evicted"

    def own_work(self) -> "OwnWork":
        """What is done for this session alone: an exception ends it and nobody else."""
        return OwnWork(self)

    def _refuse_if_over(self) -> None:
        if self.finish_reason is not None:
            raise InputError(f"session is over ({self.finish_reason}): open a new one")


class OwnWork:
    """A context in which an exception ends one session and goes no further."""

    __slots__ = ("_ending",)

    def __init__(self, ending: Ending) -> None:
        self._ending = ending

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: object
    ) -> bool:
        is_own = isinstance(error, Exception)
        if is_own:
            self._ending.fail(error)
        return is_own
