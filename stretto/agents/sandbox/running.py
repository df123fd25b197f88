"""A cell while it runs, as the host sees it: what it printed and called, its clock, its result."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any, cast

from stretto.agents.sandbox.base import ErrorInfo, ExecResult, Limit, SandboxCall, Usage


class RunningCell:
    """A cell that was sent to its process, until its result is told.

    Args:
        cap: bytes that it may print.

    Attributes:
        done: the frame with its end; None if the process ended first.
        limit: the limit that stopped it.
        asked: calls it asked for, also those that were refused.
        tasks: those of the host that serve it.
    """

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.done: asyncio.Future[dict[str, Any] | None] = (
            asyncio.get_running_loop().create_future()
        )
        self.printed = 0
        self.limit: Limit | None = None
        self.cancelled = False
        self.tasks: set[asyncio.Task[None]] = set()
        self.calls: list[SandboxCall] = []
        self.asked = 0
        self._out: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._calling = 0  # calls in progress
        self._wall = 0.0  # seconds that counted
        self._since: float | None = time.monotonic()  # None while tools work

    def counted(self) -> float:
        """Seconds that it ran, without those in which it waited for tools."""
        return self._wall + (0.0 if self._since is None else time.monotonic() - self._since)

    def pause(self) -> None:
        """A tool begins to work for it."""
        self._calling += 1
        if self._since is not None:
            self._wall, self._since = self.counted(), None

    def go_on(self) -> None:
        """A tool is done."""
        self._calling -= 1
        if self._calling == 0:
            self._since = time.monotonic()

    def take_output(self, stream: str, text64: str) -> bool:
        """Keep what fits; whether it printed more than it may.

        Raises:
            ValueError: no base64.
            KeyError: neither stdout nor stderr.
        """
        data = base64.b64decode(text64, validate=True)
        self._out[stream] += data[: max(0, self.cap - self.printed)]
        self.printed += len(data)
        return self.printed > self.cap

    def lost(self, seconds: float, error: ErrorInfo, backend: str) -> ExecResult:
        """What is known of it though its process ended first."""
        cut = ("output",) if self.limit == "output" else ()
        usage = Usage(seconds, 0.0, 0, min(self.printed, self.cap), len(self.calls))
        return ExecResult(
            False,
            error=error,
            limit=self.limit,
            usage=usage,
            truncated=cut,
            **self._shared(backend, alive=False),
        )

    def result(self, done: dict[str, Any], seconds: float, backend: str, alive: bool) -> ExecResult:
        """What its process told of it in the frame ``done``."""
        limit = self.limit
        if done["limit"] in ("memory", "output", "disk"):
            limit = limit or cast("Limit", done["limit"])
        cut = ("output",) if limit == "output" else ()
        error = None if done["error"] is None else ErrorInfo(**done["error"])
        if error is None and limit is not None:
            error = ErrorInfo("LimitReached", f"the cell reached its {limit} limit")
        if self.cancelled and error is not None and error.type == "KeyboardInterrupt":
            error = ErrorInfo("Cancelled", "the host stopped the cell", line=error.line)
        printed = min(self.printed, self.cap)
        return ExecResult(
            error is None,
            value=done["value"] if done["has_value"] else None,
            has_value=done["has_value"],
            value_repr=done["repr"],
            error=error,
            limit=limit,
            usage=Usage(seconds, done["cpu"], done["max_rss"], printed, len(self.calls)),
            truncated=cut + (("value",) if done["truncated"] else ()),
            **self._shared(backend, alive=alive),
        )

    def _shared(self, backend: str, *, alive: bool) -> dict[str, Any]:
        out = {name: bytes(data).decode(errors="replace") for name, data in self._out.items()}
        return {**out, "calls": tuple(self.calls), "backend": backend, "alive": alive}


class CancelledCallError(Exception):
    """Its name is what the sandbox sees."""


CancelledCallError.__name__ = "Cancelled"


def refusal(kind: str, message: str) -> dict[str, Any]:
    """The part of a reply that says why there is no value."""
    return {"ok": False, "error": {"type": kind, "message": message}}
