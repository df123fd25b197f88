"""The contract every sandbox keeps: what a policy limits, what comes back, what a session can do.

Not covered by any of them: defects of the kernel, side channels such as timing, and how much of a
core or of the disk's bandwidth a cell takes from others while it is within its limits.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from stretto.errors import ConfigError, SandboxError

Level = Literal["soft", "interrupt", "kill"]
Limit = Literal["wall", "cpu", "memory", "output", "calls", "disk"]
OnCall = Callable[[str, list[Any], dict[str, Any]], Awaitable[Any]]
"""Called on the host for each call of a tool: name, arguments, named arguments -> plain data."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class NoSandboxError(SandboxError):
    """No back end works on this machine; nothing is run without one."""


class SessionEndedError(SandboxError):
    """The session's process is gone: restore a checkpoint, or open another session."""


def parse_bytes(text: str | int) -> int:
    """``"512M"`` -> 536870912; K, M and G are powers of 1024."""
    match = re.fullmatch(r"(\d+)([KMG]?)", str(text))
    if not match or int(match[1]) <= 0:
        raise ConfigError(f"{text!r} is no size; write a number of bytes, or 64K, 512M, 1G")
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class Policy:
    """What a session may use. A session's policy can be narrowed, never widened.

    ``wall`` and ``cpu`` are seconds for each cell; the time a cell waits for tools is not counted
    in ``wall`` but by ``call_time``, the seconds for each call. ``memory`` is the address space of
    each copy of a session, ``output`` what a cell may print, ``disk`` what all files together may
    hold. ``files`` bounds open descriptors and, times four, files and folders. ``threads`` bounds
    the threads of a session, ``copies`` how many forks and checkpoints may live at once, ``calls``
    the tool calls of a cell. New processes are never allowed. ``imports`` names installed packages
    that may be imported beside the standard library; ``read`` further paths that may be read.
    """

    wall: float = 10.0
    cpu: float = 5.0
    memory: str = "512M"
    output: str = "64K"
    disk: str = "16M"
    files: int = 256
    threads: int = 8
    copies: int = 32
    calls: int = 100
    call_time: float = 30.0
    imports: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("wall", "cpu", "call_time"):
            if not 0 < getattr(self, name) <= 3600:
                raise ConfigError(f"{name}={getattr(self, name)}: choose more than 0, to 3600 s")
        for name, least in (("files", 16), ("threads", 1), ("copies", 1), ("calls", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: choose {least} or more")
        for name in ("memory", "output", "disk"):
            parse_bytes(getattr(self, name))
        if parse_bytes(self.memory) < 64 << 20:
            raise ConfigError(f"memory={self.memory}: Python itself needs 64M")
        for path in self.read:
            if not Path(path).is_absolute() or not Path(path).exists():
                raise ConfigError(f"read: {path!r} is no absolute path of something that exists")

    def narrow(self, **changes: Any) -> Policy:
        """A policy with smaller limits; ConfigError where one would be larger."""
        known = {f.name for f in fields(self)}
        for name, value in changes.items():
            if name not in known:
                raise ConfigError(f"a policy has no {name!r}; choose from {', '.join(known)}")
            before = getattr(self, name)
            if name in ("imports", "read"):
                wider = not set(value) <= set(before)
            elif name in ("memory", "output", "disk"):
                wider = parse_bytes(value) > parse_bytes(before)
            elif name == "seed":
                wider = False
            else:
                wider = value > before
            if wider:
                raise ConfigError(f"{name}={value!r} is wider than {before!r}; it may only narrow")
        return replace(self, **changes)


@dataclass(frozen=True)
class ErrorInfo:
    """What a cell raised; ``line`` and ``column`` count from 1; only the user's own frames."""

    type: str
    message: str
    statement: int | None = None
    line: int | None = None
    column: int | None = None
    source_line: str = ""
    traceback: str = ""
    hint: str | None = None


@dataclass(frozen=True)
class Usage:
    """Seconds, bytes and pieces. ``max_rss`` is what the sandbox itself reports."""

    wall: float = 0.0
    cpu: float = 0.0
    max_rss: int = 0
    output: int = 0
    calls: int = 0


@dataclass(frozen=True)
class SandboxCall:
    """A tool call as the sandbox made it."""

    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    ok: bool
    seconds: float


@dataclass(frozen=True)
class ExecResult:
    """What came of a cell; output printed before a limit is always there.

    ``value`` is the last expression's value where ``has_value``: plain data; other values come as
    ``value_repr`` only. ``truncated`` names what was cut short: ``output``, ``value``.
    """

    ok: bool
    value: Any = None
    has_value: bool = False
    value_repr: str | None = None
    stdout: str = ""
    stderr: str = ""
    error: ErrorInfo | None = None
    limit: Limit | None = None
    usage: Usage = field(default_factory=Usage)
    calls: tuple[SandboxCall, ...] = ()
    truncated: tuple[str, ...] = ()
    backend: str = ""
    alive: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain data, for logs and the command line."""
        return asdict(self)


@dataclass(frozen=True)
class Guarantee:
    """A promise, and whether a test of it passed here; ``held`` is None where it is not given."""

    name: str
    held: bool | None
    detail: str = ""


class Session(ABC):
    """Variables, files and tools of one line of work. One cell runs at a time."""

    alive: bool

    @abstractmethod
    async def exec(self, code: str) -> ExecResult:
        """Run a cell. What the code does wrong is in the result; SessionEndedError if dead."""

    @abstractmethod
    async def offer(self, tools: Sequence[str]) -> None:
        """From now on these are the tools: new ones are there, calls of others are refused."""

    @abstractmethod
    async def fork(self, *, on_call: OnCall | None = None) -> Session:
        """A copy with the same variables, files and tools; neither sees what the other does next.

        Its calls go to ``on_call`` if given, or where this session's go.

        Threads cannot be copied: SandboxError while any run.
        """

    @abstractmethod
    async def cancel(self, level: Level = "interrupt") -> None:
        """Stop the running cell: at its next statement or call, by KeyboardInterrupt, or dead."""

    @abstractmethod
    async def put(self, path: str, data: bytes) -> None:
        """Write a file in the session's folder; SandboxError if it has none or it is full."""

    @abstractmethod
    async def get(self, path: str) -> bytes:
        """Read a file of the session's folder."""

    @abstractmethod
    async def close(self) -> None:
        """End the session's process, whatever it is doing."""

    @abstractmethod
    async def checkpoint(self) -> Checkpoint:
        """Keep the present state, as a copy that waits."""

    @abstractmethod
    async def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint, even if this session is dead; it can be used again."""

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@dataclass(frozen=True)
class Checkpoint:
    """A session that waits to be copied again."""

    session: Session

    async def close(self) -> None:
        """Forget it."""
        await self.session.close()


class Sandbox(ABC):
    """Where sessions are opened. Use as ``async with open_sandbox(...) as box``."""

    name: str
    policy: Policy

    @abstractmethod
    async def open_session(
        self,
        *,
        tools: Sequence[str] = (),
        on_call: OnCall | None = None,
        policy: Policy | None = None,
    ) -> Session:
        """A session.

        Args:
            tools: functions in it that call ``on_call`` on the host.
            policy: its own, at most as wide as the sandbox's.

        Raises:
            ConfigError: a wider policy.
        """

    @abstractmethod
    async def close(self) -> None:
        """End every session."""

    def session(
        self,
        *,
        tools: Sequence[str] = (),
        on_call: OnCall | None = None,
        policy: Policy | None = None,
    ) -> _Opening:
        """``async with box.session() as s``; see ``open_session``."""
        for name in tools:
            if not name.isidentifier():
                raise ConfigError(f"the tool's name {name!r} is no Python name")
        opening = partial(self.open_session, tools=tools, on_call=on_call, policy=policy)
        return _Opening(opening)

    def narrowed(self, policy: Policy | None) -> Policy:
        """The policy of a session; ConfigError if it is wider than the sandbox's."""
        return self.policy if policy is None else self.policy.narrow(**vars(policy))


class _Opening:
    """Opens when it is entered or awaited."""

    def __init__(self, opening: Callable[[], Coroutine[Any, Any, Session]]) -> None:
        self._open = opening
        self._session: Session | None = None

    def __await__(self):
        return self._open().__await__()

    async def __aenter__(self) -> Session:
        self._session = await self
        return self._session

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
