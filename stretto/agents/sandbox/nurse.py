"""The host's side of one sandbox: its first process, which copies itself into sessions.

A nurse and its sessions are one sandbox: they share the folder, the uid and the fate. When the
nurse ends, they end; the nurse ends with the host.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stretto.agents.sandbox.base import Policy
from stretto.agents.sandbox.channel import (
    FIRST,
    SCHEMA,
    Channel,
    ProtocolError,
    receive_listener,
)
from stretto.agents.sandbox.launch import program
from stretto.errors import SandboxError

START_SECONDS = 20.0
_RECEIVE, _ANSWER = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
_FORK = 0x01200011  # the flags of libc's fork(): CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID, SIGCHLD
_THREAD = 0x00010900  # CLONE_THREAD | CLONE_SIGHAND | CLONE_VM
_EPERM, _EAGAIN = -1, -11


@dataclass
class Launch:
    """A started first process, before it has confined itself."""

    process: subprocess.Popen[bytes]
    end: socket.socket
    setup: dict[str, Any]
    clean: Callable[[], None] = field(default=lambda: None)


class Nurse:
    """Starts one sandbox, answers its requests for tasks, and ends it."""

    def __init__(self, launch: Launch, policy: Policy, backend: str) -> None:
        self.policy, self.backend = policy, backend
        self.alive = True
        self.folder = False
        self.landlock = 0
        self.notes: list[str] = []
        self._launch = launch
        self._loop = asyncio.get_running_loop()
        self._first: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._listener: int | None = None
        self._grants = 0
        self._source: int | None = None
        self._forking = asyncio.Lock()
        self._folders = 0
        self._copies: set[Channel] = set()

    async def start(self) -> None:
        """Wait until the process has given up its rights; SandboxError if it cannot."""
        tag = secrets.token_hex(16)
        end = self._launch.end
        end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            async with asyncio.timeout(START_SECONDS):
                body = _frame("setup", tag=tag, **self._launch.setup)
                await self._loop.sock_sendall(end, program() + body)
                self._listener, self._pid = await receive_listener(end)
                if self._listener is None:
                    raise SandboxError(self._why())
                self._pidfd = os.pidfd_open(self._pid)
                self._loop.add_reader(self._listener, self._asked)
                self.channel = Channel(end, tag, self._frame, self._closed)
                self.channel.schema = SCHEMA | {"ready": FIRST}
                first = await self._first
        except (TimeoutError, OSError) as error:
            why = self._why() if isinstance(error, OSError) else "it does not answer"
            await self.close()
            raise SandboxError(f"the {self.backend} sandbox did not start: {why}") from None
        except SandboxError as error:
            await self.close()
            raise SandboxError(f"the {self.backend} sandbox did not start: {error}") from None
        self.channel.schema = {}  # it has nothing more to say
        self.folder, self.landlock = first["work"], first["landlock"]
        self.notes = [str(note) for note in first["notes"]]

    @property
    def copies(self) -> int:
        """How many sessions there are."""
        return len(self._copies)

    @asynccontextmanager
    async def copying(
        self,
        source: Channel,
        on_frame: Callable[[dict[str, Any]], None],
        on_close: Callable[[ProtocolError | None], None],
    ) -> AsyncIterator[Channel]:
        """Ask the process behind ``source`` to become two; the channel of the new one.

        Inside, the caller waits for its frame ``ready``; if it raises, the copy ends. One copy at
        a time is made, so that the right to a new process goes to whom it was given.
        """
        async with self._forking:
            if self.copies >= self.policy.copies:
                raise SandboxError(
                    f"{self.copies} copies of the session are alive, the policy's limit; close some"
                )
            self._folders += 1
            folder = f"s{self._folders}"

            def closed(error: ProtocolError | None) -> None:
                on_close(error)
                self._copies.discard(channel)
                if self.alive:
                    self.channel.post("forget", folder=folder)

            host, inside = socket.socketpair()
            tag = secrets.token_hex(16)
            channel = Channel(host, tag, on_frame, closed)
            self._copies.add(channel)
            # The copy may be made by a child that ends at once: see worker.on_fork.
            self._grants, self._source = 2, source.pid
            try:
                with inside:
                    await source.send_handle(inside.fileno(), "fork", tag=tag, folder=folder)
                yield channel
            except BaseException:
                channel.close()
                raise
            finally:
                self._grants = 0

    async def close(self) -> None:
        """End every process of the sandbox and collect what the system keeps of them."""
        if not self.alive:
            return
        self.alive = False
        for channel in list(self._copies):
            channel.close()
        if self._listener is not None:
            self._forget_listener()
            _signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self.channel.close()
        else:
            self._launch.process.kill()
            self._launch.end.close()
        try:
            await self._wait(2.0)
        except TimeoutError:
            self._launch.process.kill()
            await self._wait(5.0)
        if self._launch.process.stderr is not None:
            self._launch.process.stderr.close()
        self._launch.clean()

    async def _wait(self, seconds: float) -> None:
        """Until the process we started has ended, and is collected."""
        process = self._launch.process
        if process.poll() is not None:
            return
        handle = os.pidfd_open(process.pid)
        ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(handle, lambda: ended.done() or ended.set_result(None))
        try:
            async with asyncio.timeout(seconds):
                await ended
        finally:
            self._loop.remove_reader(handle)
            os.close(handle)
        process.wait()

    def kill_now(self) -> None:
        """Like ``close`` without waiting, for an event loop that is ending."""
        self._launch.process.kill()

    def _why(self) -> str:
        """What the launcher wrote to its standard error."""
        process = self._launch.process
        process.kill()
        text = b"" if process.stderr is None else process.stderr.read(2000)
        lines = text.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"its process ended with {process.wait()}"

    def _frame(self, frame: dict[str, Any]) -> None:
        if not self._first.done():
            self._first.set_result(frame)

    def _closed(self, error: ProtocolError | None) -> None:
        if not self._first.done():
            self._first.set_exception(SandboxError(str(error or "its process ended")))

    # --- new tasks -----------------------------------------------------------------------------

    def _asked(self) -> None:
        """A process in the sandbox wants a thread or a process: the kernel asks us."""
        assert self._listener is not None
        request = bytearray(80)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, request)
        except FileNotFoundError:  # it ended before we looked
            return
        except OSError:
            self._forget_listener()
            return
        number, task = struct.unpack_from("QI", request)
        flags = struct.unpack_from("Q", request, 32)[0] & 0xFFFFFFFF
        error = self._judge(task, flags)
        # The flags travel in a register, so the process cannot change them after our look.
        answer = struct.pack("QqiI", number, 0, error, 0 if error else 1)
        try:
            fcntl.ioctl(self._listener, _ANSWER, bytearray(answer))
        except OSError:  # it ended meanwhile
            return

    def _judge(self, task: int, flags: int) -> int:
        """0 to let it have the task, else a negative error number."""
        if flags == _FORK and self._grants > 0 and self._is_source(task):
            self._grants -= 1
            return 0
        if flags & _THREAD == _THREAD:
            return 0 if _status(task, "Threads") < self.policy.threads else _EAGAIN
        return _EPERM

    def _is_source(self, task: int) -> bool:
        """Whether it is the process to be copied, or its child; not one that was given up."""
        return self._source is not None and self._source in (task, _status(task, "PPid"))

    def _forget_listener(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            os.close(self._listener)
            self._listener = -1 if self.alive else None


def _status(task: int, what: str) -> int:
    """A number of ``/proc``'s; a large one if the process has gone."""
    try:
        text = Path(f"/proc/{task}/status").read_text(encoding="utf-8")
    except OSError:
        return 1 << 30
    return int(text.split(f"\n{what}:")[1].split()[0])


def _frame(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"t": kind, **fields}).encode()
    return len(data).to_bytes(4, "big") + data


def _signal(pidfd: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
