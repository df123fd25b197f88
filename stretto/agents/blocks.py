"""A block of code that runs while it is written: where it runs, what happens, what became of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from stretto.agents.actions import Statement
from stretto.errors import StrettoError

OnCall = Callable[[str, list[Any], dict[str, Any]], Awaitable[Any]]
EventKind = Literal[
    "statement", "held", "start", "result", "error", "malformed", "commit", "abandon"
]


class CellSession(Protocol):
    """What is needed of a sandbox's session."""

    async def exec(self, code: str, /) -> Any:
        """Run code; cancelling the caller ends the session.

        The result has ok, value_repr, stdout, stderr, limit and error (None, or with type, message
        and line from 1), as ``sandbox.ExecResult`` does.
        """
        ...

    async def fork(self, *, on_call: OnCall | None = None) -> Any:
        """A copy, which may be forked while this one runs nothing; its calls go to ``on_call``."""
        ...

    async def close(self) -> None:
        """End it, whatever it is doing."""
        ...


class NotCommittedError(StrettoError):
    """A tool that writes was called before the block was committed."""


@dataclass(frozen=True)
class StreamEvent:
    """Something that happened: ``time`` in seconds since the block began, by the loop's clock."""

    kind: EventKind
    time: float
    index: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Where a block broke off; ``line`` counts from 1 in the whole text."""

    type: str
    message: str
    line: int
    index: int | None = None
    hint: str = ""


@dataclass(frozen=True)
class Report:
    """What became of a block.

    Attributes:
        ok: every statement ran.
        results: of the statements that did, in order.
        failure: what broke it off.
        rest: statements that did not run, the failed one first.
        session: with what they left; on a failure, as it was before the failed statement. The
            session that the block began with is as it was, and still the caller's.
    """

    ok: bool
    results: tuple[Any, ...]
    failure: Failure | None
    rest: tuple[Statement, ...]
    session: Any
