"""For code that only orchestrates tools: an interpreter of its own, with no way to the system.

Monty (``pydantic-monty``) runs a subset of Python, without third-party packages and without files,
in a process that serves one session. What it does not know is an error of the code.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from stretto.agents.sandbox.base import (
    Checkpoint,
    ErrorInfo,
    ExecResult,
    Level,
    Limit,
    NoSandboxError,
    OnCall,
    Policy,
    Sandbox,
    SandboxCall,
    Session,
    SessionEndedError,
    Usage,
    parse_bytes,
)
from stretto.errors import SandboxError

if TYPE_CHECKING:
    import pydantic_monty

MAX_REPR = 4000  # characters


class _OutputLimitError(Exception):
    """Raised by the collector of output, so that the interpreter stops."""


class MontySandbox(Sandbox):
    """A pool of Monty's processes."""

    name = "monty"

    def __init__(self, policy: Policy) -> None:
        try:
            import pydantic_monty
        except ImportError:
            raise NoSandboxError("no monty here: pip install 'stretto[agents]'") from None
        if policy.imports or policy.read:
            raise SandboxError("monty has no packages and no files; use bubblewrap for those")
        self.policy = policy
        self._pool = pydantic_monty.AsyncMonty(
            min_processes=1, max_processes=policy.copies + 1, checkout_timeout=10.0
        )
        self._entered = False
        self._sessions: list[MontySession] = []

    async def open_session(
        self,
        *,
        tools: Sequence[str] = (),
        on_call: OnCall | None = None,
        policy: Policy | None = None,
    ) -> Session:
        return await self.checkout(tools, on_call, None, self.narrowed(policy))

    async def checkout(
        self, tools: Sequence[str], on_call: OnCall | None, state: bytes | None, policy: Policy
    ) -> MontySession:
        """A session, from a kept ``state`` or new."""
        if not self._entered:
            await self._pool.__aenter__()
            self._entered = True
        limits: Any = {
            "max_feed_duration_secs": min(policy.wall, policy.cpu),
            "max_memory": parse_bytes(policy.memory),
            "max_suspensions": 1_000_000,
        }
        context = self._pool.checkout(limits=limits)
        inner = await context.__aenter__()
        if state is not None:
            await inner.load_session(state)
        session = MontySession(self, context, inner, tuple(tools), on_call, policy)
        self._sessions.append(session)
        return session

    async def close(self) -> None:
        for session in self._sessions:
            await session.close()
        if self._entered:
            await self._pool.__aexit__(None, None, None)
            self._entered = False


class MontySession(Session):
    """One interpreter's variables."""

    def __init__(
        self,
        box: MontySandbox,
        context: Any,
        inner: Any,
        tools: tuple[str, ...],
        on_call: OnCall | None,
        policy: Policy,
    ) -> None:
        self.alive = True
        self._policy = policy
        self._box, self._context = box, context
        self._inner: Any = inner
        self._tools, self._on_call = tools, on_call
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[Any] | None = None

    async def exec(self, code: str) -> ExecResult:
        import pydantic_monty as monty

        async with self._lock:
            self._must_live()
            out: dict[str, list[str]] = {"stdout": [], "stderr": []}
            calls: list[SandboxCall] = []
            started = time.monotonic()
            value, error, limit = None, None, None
            self._task = asyncio.create_task(self._run(code, out, calls))
            try:
                value = await self._task
            except monty.MontyError as raised:
                error, limit = _explain(raised)
            except asyncio.CancelledError:
                self.alive = False
                error = ErrorInfo("Cancelled", "the host ended the session")
            if limit in ("cpu", "memory"):  # its heap cannot be trusted after those
                await self.close()
            printed = {name: "".join(parts) for name, parts in out.items()}
            size = sum(len(text.encode(errors="replace")) for text in printed.values())
            plain = _is_plain(value)
            text = repr(value)
            return ExecResult(
                error is None,
                value=value if plain else None,
                has_value=value is not None and plain,
                value_repr=None if value is None else text[:MAX_REPR],
                error=error,
                limit=limit,
                usage=Usage(time.monotonic() - started, output=size, calls=len(calls)),
                calls=tuple(calls),
                truncated=("output",) if limit == "output" else (),
                backend="monty",
                alive=self.alive,
                **printed,
            )

    async def _run(self, code: str, out: dict[str, list[str]], calls: list[SandboxCall]) -> Any:
        import pydantic_monty as monty

        left = parse_bytes(self._policy.output)

        def collect(stream: str, text: str) -> None:
            nonlocal left
            out[stream].append(text[: max(0, left)])
            left -= len(text)
            if left < 0:
                raise _OutputLimitError("the cell has printed more than its limit")

        step = await self._inner.feed_start(code, print_callback=collect)
        while not isinstance(step, monty.MontyComplete):
            if isinstance(step, monty.AsyncNameLookupSnapshot):
                known = step.variable_name in self._tools
                step = await (
                    step.resume(value=_stub(step.variable_name)) if known else step.resume()
                )
            elif isinstance(step, monty.AsyncFunctionSnapshot) and not step.is_os_function:
                answer = await self._call(step, calls)
                step = await step.resume(answer)
            elif isinstance(step, monty.AsyncFunctionSnapshot):
                step = await step.resume_not_handled()
            else:
                step = await step.resume_auto()
        return step.output

    async def _call(
        self, step: pydantic_monty.AsyncFunctionSnapshot, calls: list[SandboxCall]
    ) -> Any:
        policy, started = self._policy, time.monotonic()
        name, args, kwargs = str(step.function_name), list(step.args), dict(step.kwargs)
        try:
            if len(calls) >= policy.calls:
                raise PermissionError(f"more than {policy.calls} calls in a cell")
            if name not in self._tools or self._on_call is None:
                raise LookupError(f"there is no tool {name!r} here")
            async with asyncio.timeout(policy.call_time):
                answer: Any = {"return_value": await self._on_call(name, args, kwargs)}
        except TimeoutError:
            late = TimeoutError(f"{name}() took more than {policy.call_time:g} s")
            answer = {"exception": late}
        except Exception as error:  # a tool's failure belongs to the code that called it
            answer = {"exception": error}
        ok = "return_value" in answer
        calls.append(SandboxCall(name, args, kwargs, ok, time.monotonic() - started))
        return answer

    async def offer(self, tools: Sequence[str]) -> None:
        self._tools = tuple(tools)

    async def fork(self, *, on_call: OnCall | None = None) -> MontySession:
        async with self._lock:
            self._must_live()
            state = await self._inner.dump()
        return await self._box.checkout(self._tools, on_call or self._on_call, state, self._policy)

    async def checkpoint(self) -> Checkpoint:
        return Checkpoint(await self.fork())

    async def restore(self, checkpoint: Checkpoint) -> None:
        kept = checkpoint.session
        if not isinstance(kept, MontySession):
            raise SandboxError("this checkpoint belongs to another sandbox")
        copy = await kept.fork()
        await self.close()
        self._context, self._inner, self.alive = copy._context, copy._inner, True

    async def cancel(self, level: Level = "interrupt") -> None:
        """Any level ends the session: the interpreter cannot be interrupted and kept."""
        if self._task is not None:
            self._task.cancel()
        if level == "kill":
            self.alive = False

    async def put(self, path: str, data: bytes) -> NoReturn:
        raise SandboxError("monty has no files; use bubblewrap or landlock")

    async def get(self, path: str) -> NoReturn:
        raise SandboxError("monty has no files; use bubblewrap or landlock")

    async def close(self) -> None:
        if self._inner is not None:
            self.alive, self._inner = False, None
            await self._context.__aexit__(None, None, None)

    def _must_live(self) -> None:
        if not self.alive:
            raise SessionEndedError(
                "this session has ended; restore a checkpoint or open another session"
            )


def _stub(name: str) -> Any:
    def tool(*_: Any, **__: Any) -> None:
        raise NotImplementedError(name)  # the interpreter hands the call to us instead

    tool.__name__ = tool.__qualname__ = name
    return tool


def _is_plain(value: Any) -> bool:
    try:
        return json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        return False


def _explain(raised: Any) -> tuple[ErrorInfo, Limit | None]:
    inner = raised.exception() if callable(getattr(raised, "exception", None)) else raised
    kind, message = type(inner).__name__, str(inner)
    limit = None
    if kind == "TimeoutError" and "limit exceeded" in message:
        limit = "cpu"
    elif kind == "MemoryError":
        limit = "memory"
    elif "printed more than its limit" in message:
        limit = "output"
    frames = raised.traceback() if callable(getattr(raised, "traceback", None)) else []
    line = getattr(frames[-1], "line", None) if frames else None
    return ErrorInfo(kind, message, line=line, traceback=str(raised)), cast("Limit | None", limit)
