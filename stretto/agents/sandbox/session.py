"""A session on the host: cells, their limits, tool calls, forks and checkpoints."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from stretto.agents.sandbox.base import (
    Checkpoint,
    ErrorInfo,
    ExecResult,
    Level,
    Limit,
    OnCall,
    SandboxCall,
    Session,
    SessionEndedError,
    parse_bytes,
)
from stretto.agents.sandbox.channel import Channel, ProtocolError
from stretto.agents.sandbox.nurse import Nurse
from stretto.agents.sandbox.running import CancelledCallError, RunningCell, refusal
from stretto.errors import InputError, SandboxError

GRACE = 0.25  # seconds from an interrupt to a kill
_REASON_SECONDS = 0.5
REPLY_SECONDS = 10.0  # for what is no cell: files, forks
CHUNK = 600_000  # bytes of a file in a frame
_CORES = os.cpu_count() or 1
T = TypeVar("T")


class ProcessSession(Session):
    """A session in a process of its own, under a nurse."""

    def __init__(
        self, nurse: Nurse, tools: Sequence[str], on_call: OnCall | None, *, owns: bool
    ) -> None:
        self.alive = False
        self._nurse, self._tools, self._on_call = nurse, tuple(tools), on_call
        self._unwanted = False
        self._owns = owns  # the sandbox ends with this session
        self._lock = asyncio.Lock()
        self._cell: RunningCell | None = None
        self._reply: asyncio.Future[dict[str, Any]] | None = None
        self._pidfd: int | None = None
        self._broken: ProtocolError | None = None
        self._work: asyncio.Task[Any] | None = None

    async def begin(self, source: Channel) -> None:
        """Come into being as a copy of the process behind ``source``; all or nothing."""
        self._reply = asyncio.get_running_loop().create_future()
        self._broken = None
        try:
            async with (
                self._nurse.copying(source, self._frame, self._closed) as channel,
                asyncio.timeout(REPLY_SECONDS),
            ):
                frame = await self._reply
                if frame["t"] != "ready":
                    raise SandboxError(f"no copy of the session: {frame.get('message', '')[:500]}")
                assert channel.pid is not None
                self._pid, self._pidfd = channel.pid, os.pidfd_open(channel.pid)
        except TimeoutError:
            raise SandboxError("the session did not come up: is the machine busy?") from None
        except ProcessLookupError:
            raise SessionEndedError("the session's process has ended") from None
        finally:
            self._reply = None
        self._channel = channel
        self.alive = True
        if self._unwanted:
            self.unwanted()

    async def setup(self) -> None:
        """Give a fresh session its tools and its seed."""
        await self._ask("tools", names=list(self._tools))
        if self._nurse.policy.seed is not None:
            await self.exec(f"import random; random.seed({self._nurse.policy.seed}); del random")

    async def offer(self, tools: Sequence[str]) -> None:
        async def tell() -> None:
            new = [name for name in tools if name not in self._tools]
            self._tools = tuple(tools)
            if new:
                await self._ask("tools", names=new)

        await self._whole(tell)

    # --- cells ---------------------------------------------------------------------------------

    async def exec(self, code: str) -> ExecResult:
        async with self._lock:
            self._must_live()
            try:
                size = len(code.encode())
            except UnicodeEncodeError as error:
                raise InputError(f"the code is no valid text: {error.reason}") from None
            if size > 150_000:
                raise InputError(f"a cell of {size} bytes; at most 150000: put it in a file")
            cell = self._cell = RunningCell(parse_bytes(self._nurse.policy.output))
            started, cpu = time.monotonic(), self._cpu()
            watch = asyncio.create_task(self._watch(cell, cpu))
            try:
                await self._channel.send("exec", code=code, output=cell.cap)
                done = await asyncio.shield(cell.done)
            except asyncio.CancelledError:
                self._kill()
                raise
            finally:
                watch.cancel()
                for task in cell.tasks:
                    task.cancel()
                self._cell = None
            seconds = time.monotonic() - started
            if done is None:
                return cell.lost(seconds, self._end_of(cell), self._nurse.backend)
            return cell.result(done, seconds, self._nurse.backend, self.alive)

    async def cancel(self, level: Level = "interrupt") -> None:
        cell = self._cell
        if level == "kill":
            self._kill()
            return
        if cell is None or not self.alive:
            return
        cell.cancelled = True
        if level == "soft":
            await self._channel.send("cancel")
        else:
            self._interrupt()

    async def _watch(self, cell: RunningCell, cpu: float) -> None:
        """Stop the cell at its limits; sleeps until the first moment one can be reached."""
        policy = self._nurse.policy
        while not cell.done.done():
            wall_left = policy.wall - cell.counted()
            cpu_left = policy.cpu - (self._cpu() - cpu)
            if wall_left <= 0 or cpu_left <= 0:
                await self._stop(cell, "wall" if wall_left <= 0 else "cpu")
                return
            pause = min(cpu_left / min(policy.threads, _CORES), wall_left)
            await asyncio.sleep(max(pause, 0.005))

    async def _stop(self, cell: RunningCell, limit: Limit) -> None:
        """KeyboardInterrupt, so that the variables survive; if that does not help, the end."""
        cell.limit = cell.limit or limit
        self._interrupt()
        await asyncio.sleep(GRACE)
        if not cell.done.done():
            self._kill()

    def _interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def _kill(self) -> None:
        self.alive = False
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._pidfd is not None:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return

    def _cpu(self) -> float:
        """Seconds of processor time the process has used; its clock can be read by number."""
        try:
            return time.clock_gettime((~self._pid << 3) | 2)
        except OSError:
            return 0.0

    def _end_of(self, cell: RunningCell) -> ErrorInfo:
        if self._broken is not None:
            return ErrorInfo("ProtocolError", f"the session was ended: {self._broken}")
        if cell.limit is not None:
            return ErrorInfo("LimitReached", f"killed at its {cell.limit} limit")
        if cell.cancelled or not self._reaped:
            return ErrorInfo("Cancelled", "the host ended the session")
        return ErrorInfo("SessionEnded", "the session's process ended: an exit, or a crash")

    # --- frames from the sandbox -----------------------------------------------------------------

    _reaped = False

    def _frame(self, frame: dict[str, Any]) -> None:
        kind, cell = frame["t"], self._cell
        if kind == "out" and cell is not None:
            self._output(cell, frame)
        elif kind == "call" and cell is not None:
            self._call(cell, frame)
        elif kind == "done" and cell is not None and not cell.done.done():
            cell.done.set_result(frame)
        elif kind in ("ready", "ok", "err", "file") and self._reply is not None:
            if not self._reply.done():
                self._reply.set_result(frame)
        elif kind not in ("out", "call"):  # those may come late from a thread
            self._channel.close(ProtocolError(f"a frame {kind!r} that nobody asked for"))

    def _closed(self, error: ProtocolError | None) -> None:
        self._broken = error
        self._reaped = self.alive
        self._kill()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self._cell is not None and not self._cell.done.done():
            self._cell.done.set_result(None)
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(SessionEndedError("the session's process has ended"))

    def _output(self, cell: RunningCell, frame: dict[str, Any]) -> None:
        try:
            over = cell.take_output(frame["stream"], frame["data"])
        except (ValueError, KeyError):
            self._channel.close(ProtocolError("output that cannot be read"))
            return
        # The worker stops at the cap by itself; more than that means that it is no longer ours.
        if over:
            cell.limit = "output"
            self._kill()
        elif cell.printed == cell.cap and cell.limit is None:
            cell.tasks.add(asyncio.create_task(self._stop_if_stuck(cell)))

    async def _stop_if_stuck(self, cell: RunningCell) -> None:
        await asyncio.sleep(GRACE)
        if not cell.done.done():
            await self._stop(cell, "output")

    def _call(self, cell: RunningCell, frame: dict[str, Any]) -> None:
        cell.asked += 1
        if cell.asked > self._nurse.policy.calls:
            if cell.limit is None:
                cell.tasks.add(asyncio.create_task(self._stop(cell, "calls")))
            return
        cell.tasks.add(asyncio.create_task(self._serve(cell, frame)))

    async def _serve(self, cell: RunningCell, frame: dict[str, Any]) -> None:
        """Run a tool on the host; the wall clock of the cell stands still meanwhile."""
        cell.pause()
        started = time.monotonic()
        name, args, kwargs = frame["name"], frame["args"], frame["kwargs"]
        answer: dict[str, Any]
        try:
            answer = {"ok": True, "value": await self._value(cell, name, args, kwargs)}
            await self._channel.send("reply", id=frame["id"], **answer)
        except TimeoutError:
            limit = self._nurse.policy.call_time
            answer = refusal("TimeoutError", f"{name}() took more than {limit:g} s")
        except asyncio.CancelledError:
            raise
        except Exception as error:  # a tool's failure belongs to the code that called it
            answer = refusal(type(error).__name__, str(error)[:2000])
        finally:
            cell.go_on()
        if not answer["ok"]:
            await self._channel.send("reply", id=frame["id"], **answer)
        seconds = time.monotonic() - started
        cell.calls.append(SandboxCall(name, args, kwargs, answer["ok"], seconds))

    async def _value(
        self, cell: RunningCell, name: str, args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        if cell.cancelled:
            raise CancelledCallError("the cell was cancelled")
        if self._on_call is None or name not in self._tools:
            raise LookupError(f"there is no tool {name[:80]!r} here")
        async with asyncio.timeout(self._nurse.policy.call_time):
            return await self._on_call(name, args, kwargs)

    # --- files, forks, checkpoints ---------------------------------------------------------------

    async def put(self, path: str, data: bytes) -> None:
        _inside(path)
        await self._whole(partial(self._put, path, data))

    async def _put(self, path: str, data: bytes) -> None:
        for start in range(0, max(1, len(data)), CHUNK):
            part = base64.b64encode(data[start : start + CHUNK]).decode()
            await self._ask("put", path=path, data=part, append=start > 0)

    async def get(self, path: str) -> bytes:
        _inside(path)
        return await self._whole(partial(self._get, path))

    async def _get(self, path: str) -> bytes:
        data = bytearray()
        while True:
            frame = await self._ask("get", path=path, offset=len(data))
            part = base64.b64decode(frame.get("data", ""))
            data += part
            if not frame.get("more") or not part:
                return bytes(data)
            if len(data) > parse_bytes(self._nurse.policy.disk):
                raise SandboxError(f"{path}: larger than the policy's disk")

    async def fork(self, *, on_call: OnCall | None = None) -> ProcessSession:
        copy = ProcessSession(self._nurse, self._tools, on_call or self._on_call, owns=False)
        try:
            await self._whole(partial(self._copy_to, copy))
        except asyncio.CancelledError:
            copy.unwanted()
            raise
        return copy

    async def _copy_to(self, copy: ProcessSession) -> None:
        self._must_live()
        copying = asyncio.create_task(copy.begin(self._channel))
        self._reply = asyncio.get_running_loop().create_future()  # it may refuse
        try:
            await asyncio.wait({copying, self._reply}, return_when=asyncio.FIRST_COMPLETED)
            if copying.done() and isinstance(copying.exception(), SessionEndedError):
                # The copy's end may be seen before the reason, which comes another way.
                await asyncio.wait({self._reply}, timeout=_REASON_SECONDS)
            if self._reply.done():
                raise SandboxError(str(self._reply.result().get("message", "no fork")))
            await copying
        except BaseException:
            copying.cancel()
            copy.unwanted()
            raise
        finally:
            self._reply = None

    async def checkpoint(self) -> Checkpoint:
        return Checkpoint(await self.fork())

    async def restore(self, checkpoint: Checkpoint) -> None:
        kept = checkpoint.session
        if not isinstance(kept, ProcessSession) or kept._nurse is not self._nurse:
            raise SandboxError("this checkpoint belongs to another session")
        self._kill()
        await self._whole(partial(self._restore, kept))

    async def _restore(self, kept: ProcessSession) -> None:
        kept._must_live()
        self._channel.close()
        self._cell = None
        async with kept._lock:
            await self.begin(kept._channel)

    def unwanted(self) -> None:
        """Nobody waits for this copy any more: it ends, or will as soon as it is there."""
        self._unwanted = True
        if self.alive:
            self._kill()
            self._channel.close()

    async def _whole(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do ``work`` alone and, once begun, to its end, also if the caller is cancelled.

        What is half done leaves a process that nobody knows of, or an answer nobody waits for.
        """

        def over(task: asyncio.Task[T]) -> None:
            self._lock.release()
            if not task.cancelled():
                task.exception()  # told here if the caller is no more

        await self._lock.acquire()
        task = self._work = asyncio.create_task(work())
        task.add_done_callback(over)
        return await asyncio.shield(task)

    async def close(self) -> None:
        self._kill()
        self._channel.close()
        if self._owns:
            await self._nurse.close()

    async def _ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send a frame and wait for its answer; SandboxError with what the session reports."""
        self._must_live()
        self._reply = asyncio.get_running_loop().create_future()
        try:
            await self._channel.send(kind, **fields)
            async with asyncio.timeout(REPLY_SECONDS):
                frame = await self._reply
        except TimeoutError:
            self._kill()
            raise SandboxError(f"the session did not answer {kind!r}; it was ended") from None
        finally:
            self._reply = None
        if frame["t"] == "err":
            raise SandboxError(f"{kind}: {frame['message'][:500]}")
        return frame

    def _must_live(self) -> None:
        if not self.alive:
            raise SessionEndedError(
                "this session has ended; restore a checkpoint or open another session"
            )


def _inside(path: str) -> None:
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or "\0" in path:
        raise InputError(f"{path!r}: name a file below the session's folder")
