"""The host's end of a pair of descriptors: frames from a process that nobody trusts."""

from __future__ import annotations

import array
import asyncio
import json
import math
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from stretto.errors import SandboxError

MAX_FRAME = 1 << 20  # bytes, either way; wire.py has the same
_Write = Callable[[socket.socket, bytes], Awaitable[None]]
_PID = struct.Struct("3i")  # pid, uid, gid
_TEXT, _NUMBER, _FLAG = str, (int, float), bool
_MAYBE_TEXT, _MAYBE_INT = (str, type(None)), (int, type(None))

ERROR_FIELDS: dict[str, Any] = {
    "type": _TEXT,
    "message": _TEXT,
    "statement": _MAYBE_INT,
    "line": _MAYBE_INT,
    "column": _MAYBE_INT,
    "source_line": _TEXT,
    "traceback": _TEXT,
    "hint": _MAYBE_TEXT,
}
SCHEMA: dict[str, dict[str, Any]] = {
    "ready": {},
    "ok": {},
    "err": {"type": _TEXT, "message": _TEXT},
    "out": {"stream": _TEXT, "data": _TEXT},
    "call": {"id": int, "name": _TEXT, "args": list, "kwargs": dict},
    "file": {"data": _TEXT, "more": _FLAG},
    "done": {
        "value": object,
        "has_value": _FLAG,
        "repr": _MAYBE_TEXT,
        "truncated": _FLAG,
        "error": (dict, type(None)),
        "limit": _MAYBE_TEXT,
        "cpu": _NUMBER,
        "max_rss": int,
    },
}
FIRST = {"landlock": int, "work": _FLAG, "notes": list}
"""What the nurse adds to its own ``ready``, before any code of a user ran."""


class ProtocolError(SandboxError):
    """The sandbox sent what it may not; its session is ended."""


def check(frame: Any, tag: str, schema: dict[str, dict[str, Any]] = SCHEMA) -> dict[str, Any]:
    """The frame, if it has the session's tag, a known type, and just the fields of that type."""
    if not isinstance(frame, dict) or frame.pop("tag", None) != tag:
        raise ProtocolError("a frame without the session's tag")
    kind = frame.get("t")
    if not isinstance(kind, str) or kind not in schema:
        raise ProtocolError(f"a frame of an unknown type {str(kind)[:40]!r}")
    _fields(frame, {"t": str, **schema[kind]}, kind)
    if kind == "done" and frame["error"] is not None:
        _fields(frame["error"], ERROR_FIELDS, "done.error")
    return frame


def _fields(found: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    if found.keys() != wanted.keys():
        raise ProtocolError(f"a frame {where!r} with other fields than it has")
    for name, kind in wanted.items():
        value = found[name]
        numeric = kind is int or kind is _NUMBER
        if not isinstance(value, kind) or (numeric and isinstance(value, bool)):
            raise ProtocolError(f"a frame {where!r} with a {name!r} of the wrong type")
        if isinstance(value, float) and kind is _NUMBER and not math.isfinite(value):
            raise ProtocolError(f"a frame {where!r} with a {name!r} that is no number")


class Channel:
    """Reads frames as they come and hands them on; knows the process at the other end.

    Args:
        end: a stream socket; taken over.
        tag: what every frame from the other end must carry.
        on_frame: called with each good frame.
        on_close: called once, with the error if the other end broke the rules, else None.
    """

    def __init__(
        self,
        end: socket.socket,
        tag: str,
        on_frame: Callable[[dict[str, Any]], None],
        on_close: Callable[[ProtocolError | None], None],
    ) -> None:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.tag = tag
        self.pid: int | None = None
        self.schema = SCHEMA
        self._end, self._on_frame, self._on_close = end, on_frame, on_close
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._writing: set[asyncio.Task[None]] = set()
        self._open = True
        self._loop.add_reader(end.fileno(), self._readable)

    async def send(self, kind: str, **fields: Any) -> None:
        """Send one frame; a process that has gone is noticed by ``on_close`` instead.

        A caller that is cancelled leaves no half frame: it would garble all that follow.
        """
        await asyncio.shield(self.post(kind, **fields))

    def post(self, kind: str, **fields: Any) -> asyncio.Task[None]:
        """Like ``send``, without waiting until it is sent."""
        data = json.dumps({"t": kind, **fields}).encode()
        if len(data) > MAX_FRAME:
            raise SandboxError(f"{len(data)} bytes for the sandbox at once; at most {MAX_FRAME}")
        return self._write(self._loop.sock_sendall, len(data).to_bytes(4, "big") + data)

    async def send_handle(self, handle: int, kind: str, **fields: Any) -> None:
        """Send one short frame with a descriptor."""
        data = json.dumps({"t": kind, **fields}).encode()

        async def put(end: socket.socket, frame: bytes) -> None:
            while True:
                try:
                    socket.send_fds(end, [frame], [handle])
                    return
                except BlockingIOError:  # it still reads what came before
                    await asyncio.sleep(0.001)

        await asyncio.shield(self._write(put, len(data).to_bytes(4, "big") + data))

    def close(self, error: ProtocolError | None = None) -> None:
        """Stop listening; idempotent."""
        if self._open:
            self._open = False
            for task in self._writing:
                task.cancel()
            self._loop.remove_reader(self._end.fileno())
            self._loop.remove_writer(self._end.fileno())
            self._end.close()
            self._on_close(error)

    def _write(self, how: _Write, frame: bytes) -> asyncio.Task[None]:
        """Frame after frame, each whole; what is still to be sent when it closes is dropped."""

        async def write() -> None:
            try:
                async with self._sending:
                    if self._open:
                        await how(self._end, frame)
            except OSError:
                self.close()
            except asyncio.CancelledError:
                if self._open:  # the loop ends
                    raise

        task = self._loop.create_task(write())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return task

    def _readable(self) -> None:
        try:
            # Room for the sender's identity and no more: descriptors it sends are dropped.
            data, ancillary, _, _ = self._end.recvmsg(1 << 18, socket.CMSG_SPACE(_PID.size))
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        for level, kind, body in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and self.pid is None:
                self.pid = _PID.unpack(body)[0]
        if not data:
            self.close()
            return
        self._buffer += data
        try:
            self._parse()
        except ProtocolError as error:
            self.close(error)

    def _parse(self) -> None:
        while self._open and len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if size > MAX_FRAME:
                raise ProtocolError(f"a frame of {size} bytes; at most {MAX_FRAME}")
            if len(self._buffer) < 4 + size:
                return
            raw = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            try:
                frame = json.loads(raw)
            except (ValueError, RecursionError):
                raise ProtocolError("a frame that is no JSON") from None
            self._on_frame(check(frame, self.tag, self.schema))


async def receive_listener(end: socket.socket) -> tuple[int | None, int]:
    """(descriptor, pid): what the nurse sends with its first byte, before any other code runs.

    The descriptor is None if the nurse ended; SandboxError if it says why it cannot confine itself.
    """
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(end.fileno(), lambda: readable.done() or readable.set_result(None))
    try:
        await readable
    finally:
        loop.remove_reader(end.fileno())
    space = socket.CMSG_SPACE(_PID.size) + socket.CMSG_SPACE(4)
    data, ancillary, _, _ = end.recvmsg(1, space)
    handles, pid = array.array("i"), 0
    for level, kind, body in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            handles.frombytes(body[: len(body) - len(body) % 4])
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid = _PID.unpack(body)[0]
    if handles:
        return handles[0], pid
    if data:
        rest = end.recv(1 << 16)
        raise SandboxError(str(json.loads(rest[3:])["message"]))
    return None, pid
