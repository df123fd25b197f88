"""The sandbox's end of a pair of descriptors: frames to and from the host.

A frame is four bytes of length, then JSON, ``{"tag": ..., "t": TYPE, ...}``. Standard library
only: ``stretto`` cannot be imported here.
"""

import binascii
import json
import os
import select
import threading
from _socket import SCM_RIGHTS, SOL_SOCKET
from _socket import socket as Socket  # noqa: N812 - the C type: the module socket is slow to load

MAX_FRAME = 1 << 20  # bytes, either way
CHUNK = 600_000  # bytes of a file in a frame


class Channel:
    """Frames to and from the host."""

    def __init__(self, handle: int, tag: str) -> None:
        self.socket = Socket(fileno=handle)
        self.tag = tag
        self.handles: list[int] = []
        self._lock = threading.RLock()

    def send(self, kind: str, **fields: object) -> None:
        """Send one frame; ValueError if it is too large."""
        data = json.dumps({"tag": self.tag, "t": kind, **fields}).encode()
        if len(data) > MAX_FRAME:
            raise ValueError(f"a frame of {len(data)} bytes; at most {MAX_FRAME}")
        with self._lock:
            self.socket.sendall(len(data).to_bytes(4, "big") + data)

    def receive(self) -> dict:
        """The next frame; this process ends when the host has gone."""
        size = int.from_bytes(self._read(4), "big")
        return json.loads(self._read(size))

    def ready(self, milliseconds: int | None) -> bool:
        """Whether something can be read within this time."""
        poll = select.poll()
        poll.register(self.socket.fileno(), select.POLLIN)
        return bool(poll.poll(milliseconds))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part, ancillary, _, _ = self.socket.recvmsg(size - len(data), 64)
            if not part:
                os._exit(0)
            data += part
            for level, kind, body in ancillary:
                if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
                    whole = len(body) - len(body) % 4
                    self.handles += memoryview(body[:whole]).cast("i")
        return data


def text64(data: bytes) -> str:
    """Bytes as base64, which fits into a frame."""
    return binascii.b2a_base64(data, newline=False).decode()
