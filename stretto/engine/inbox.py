"""What is on its way to one input stream, and when it arrives."""

from collections import deque
from collections.abc import Sequence

_ROUNDING = 1e-9
"""Seconds; a sum of 1 / rate may miss the due time by this much."""


class Inbox:
    """Tokens of one input stream in order, each with the second it is due.

    Args:
        end: id of ``end``.
        known: the stream's prompt; a message that it began is open.
        closed: nothing will be sent, now or later.

    Attributes:
        closed: nothing more will be sent; kept for the session, which refuses what comes later.
    """

    def __init__(self, end: int, known: Sequence[int] = (), *, closed: bool = False) -> None:
        self.closed = closed
        self._end = end
        self._queue: deque[tuple[float, int]] = deque()
        self._last_read = known[-1] if known else None

    @property
    def pending(self) -> int:
        """How many tokens are queued, arrived or not."""
        return len(self._queue)

    def copy(self) -> "Inbox":
        """The same queue, that goes its own way."""
        other = Inbox(self._end, closed=self.closed)
        other._queue, other._last_read = deque(self._queue), self._last_read
        return other

    @property
    def is_mid_message(self) -> bool:
        """Whether something was said or queued since the last ``end``."""
        last = self._queue[-1][1] if self._queue else self._last_read
        return last is not None and last != self._end

    @property
    def has_spoken(self) -> bool:
        """Whether anything was ever said or queued."""
        return bool(self._queue) or self._last_read is not None

    def send(self, tokens: Sequence[int], now: float, rate: float | None) -> None:
        """Queue tokens behind what was sent before: the first at once, then ``rate`` a second."""
        gap = 0.0 if rate is None else 1 / rate
        start = max(now, self._queue[-1][0] + gap) if self._queue else now
        self._queue.extend((start + i * gap, token) for i, token in enumerate(tokens))

    def end(self, now: float) -> None:
        """Queue ``end``, due together with the last token."""
        due = max(now, self._queue[-1][0]) if self._queue else now
        self._queue.append((due, self._end))

    def drop(self, now: float) -> int:
        """Forget what has not arrived yet; returns how many tokens that was."""
        arrived = self.arrived(now)
        dropped = len(self._queue) - arrived
        for _ in range(dropped):
            self._queue.pop()
        return dropped

    def arrived(self, now: float) -> int:
        """How many tokens have arrived and are not read yet."""
        count = 0
        for due, _ in self._queue:
            if due > now + _ROUNDING:
                break
            count += 1
        return count

    def take(self, count: int) -> list[int]:
        """Read the next ``count`` tokens."""
        tokens = [self._queue.popleft()[1] for _ in range(count)]
        if tokens:
            self._last_read = tokens[-1]
        return tokens

    def next_due(self) -> float | None:
        """When the next token arrives; None if none is on its way."""
        return self._queue[0][0] if self._queue else None

    def is_finished(self) -> bool:
        """Closed, and everything has been read."""
        return self.closed and not self._queue
