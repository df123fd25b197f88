"""How much is asked: a budget for all models together, and a gate before each endpoint."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

from stretto.errors import ConfigError, LimitError
from stretto.protocols import Usage

_MINUTE = 60.0


class Budget:
    """How much may be asked of endpoints, shared by all models it is given to.

    Checked before a request is sent, booked when its answer has come: what is under way when it
    runs out is still paid. Answers from a cache cost nothing. Safe with threads.

    Args:
        dollars: needs models whose prices are given.
        requests: questions; one that has to be asked again counts once.
        tokens: of prompts and answers.

    Raises:
        ConfigError: a negative number.
    """

    def __init__(
        self,
        dollars: float | None = None,
        requests: int | None = None,
        tokens: int | None = None,
    ) -> None:
        self.dollars, self.requests, self.tokens = dollars, requests, tokens
        self.spent_dollars, self.spent_requests, self.spent_tokens = 0.0, 0, 0
        self._lock = threading.Lock()
        for what, _, most in self._accounts():
            if most is not None and most < 0:
                raise ConfigError(f"budget of {what} is {most}; give 0 or more, or None")

    def __repr__(self) -> str:
        told = (f"{what}={used:g}/{'any' if most is None else f'{most:g}'}"
                for what, used, most in self._accounts())  # fmt: skip
        return f"Budget({', '.join(told)})"

    def take(self, *, again: bool = False) -> None:
        """Let a request pass and count it, unless it is the same question once more.

        Raises:
            LimitError: nothing is left.
        """
        with self._lock:
            for what, used, most in self._accounts():
                is_paid = again and what == "requests"
                if most is not None and used >= most and not is_paid:
                    raise LimitError(f"budget of {most:g} {what} is used up; give more to go on")
            self.spent_requests += not again

    def book(self, usage: Usage) -> None:
        """Note what an answer took."""
        with self._lock:
            self.spent_dollars += usage.cost
            self.spent_tokens += usage.prompt_tokens + usage.completion_tokens

    def _accounts(self) -> list[tuple[str, float, float | None]]:
        return [
            ("dollars", self.spent_dollars, self.dollars),
            ("requests", self.spent_requests, self.requests),
            ("tokens", self.spent_tokens, self.tokens),
        ]


class Gate:
    """What goes to one endpoint at once and a minute, from all models behind it.

    Where models give different limits, the strictest hold for all.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.users = 0
        self._most: int | None = None
        self._per_minute: int | None = None
        self._running = 0
        self._line: deque[asyncio.Future[None]] = deque()
        self._sent: deque[float] = deque()  # seconds, by the loop's clock
        self._closed_until = 0.0

    def limit(self, concurrency: int, per_minute: int | None) -> None:
        """Take in a model's limits."""
        self._most = min(concurrency, self._most or concurrency)
        if per_minute is not None:
            self._per_minute = min(per_minute, self._per_minute or per_minute)

    def pause(self, seconds: float) -> None:
        """The endpoint asked to be left alone."""
        now = asyncio.get_running_loop().time()
        self._closed_until = max(self._closed_until, now + seconds)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Any]:
        """Wait for one's turn; gives the client."""
        await self._enter()
        try:
            while (seconds := self._wait()) > 0:
                await asyncio.sleep(seconds)
            yield self.client
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self._running < (self._most or 1):
            self._running += 1
            return
        ticket = asyncio.get_running_loop().create_future()
        self._line.append(ticket)
        try:
            await ticket  # who leaves hands its place over
        except asyncio.CancelledError:
            if not ticket.cancelled():  # the place came at the same moment
                self._leave()
            elif ticket in self._line:
                self._line.remove(ticket)
            raise

    def _leave(self) -> None:
        """Hand the place over, unless the limit has become stricter meanwhile."""
        while self._line and self._running <= (self._most or 1):
            ticket = self._line.popleft()
            if not ticket.done():
                ticket.set_result(None)
                return
        self._running -= 1

    def _wait(self) -> float:
        """Seconds to wait; at 0 the request is counted."""
        now = asyncio.get_running_loop().time()
        if now < self._closed_until:
            return self._closed_until - now
        if self._per_minute is not None:
            while self._sent and self._sent[0] <= now - _MINUTE:
                self._sent.popleft()
            if len(self._sent) >= self._per_minute:
                return self._sent[0] + _MINUTE - now
            self._sent.append(now)
        return 0.0


class Gates:
    """The gates of all endpoints: one per endpoint and event loop, closed after its last user."""

    def __init__(self) -> None:
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Gate]]
        self._by_loop = WeakKeyDictionary()

    def enter(self, endpoint: str, client: Callable[[], Any]) -> Gate:
        """The gate of an endpoint, for one more user."""
        gates = self._by_loop.setdefault(asyncio.get_running_loop(), {})
        if endpoint not in gates:
            gates[endpoint] = Gate(client())
        gates[endpoint].users += 1
        return gates[endpoint]

    async def leave(self, endpoint: str) -> None:
        """One user less."""
        gates = self._by_loop.get(asyncio.get_running_loop(), {})
        gate = gates.get(endpoint)
        if gate is not None:
            gate.users -= 1
            if not gate.users:
                del gates[endpoint]
                await gate.client.close()
