"""Answers kept by their question, so that nothing is paid twice.

One file of JSON lines that only grows: each is written whole under a lock, so any number of
processes may share it. What a killed writer left unfinished is cut off by the next one.
"""

import asyncio
import contextlib
import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from stretto.agents.chat_wire import from_json, to_json
from stretto.errors import InputError
from stretto.protocols import Completion

try:
    import fcntl
except ImportError:  # Windows: only questions of one process wait for each other
    fcntl = None

VERSION = 1
LOOK = 0.05  # seconds between looks at what another process is asking


class ChatCache:
    """Completions by the digest of what was asked.

    Only where each stands is held in memory. It survives a kill, not a power cut: nothing waits
    for the disk.

    Args:
        path: of the file; made when first written.

    Raises:
        InputError: the path is a folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise InputError(f"cache {self.path} is a folder; give a file, such as cache.jsonl")
        self._lock = FileLock(f"{self.path}.lock")
        self._places: dict[str, tuple[int, int]] = {}  # key -> where its line is, and its length
        self._read = 0  # bytes, up to the end of a line
        self._flights: dict[tuple[int, str], asyncio.Lock] = {}
        self._waiting: Counter[tuple[int, str]] = Counter()
        self._marks: IO[bytes] | None = None

    def __len__(self) -> int:
        self._catch_up()
        return len(self._places)

    def get(self, key: str) -> Completion | None:
        """The completion kept under a key, by this process or another."""
        if key not in self._places:
            self._catch_up()
        if key not in self._places:
            return None
        start, length = self._places[key]
        with self.path.open("rb") as file:
            file.seek(start)
            return from_json(json.loads(file.read(length))["completion"])

    def put(self, key: str, done: Completion) -> None:
        """Keep a completion; the first one of a key stays."""
        line = json.dumps({"v": VERSION, "key": key, "completion": to_json(done)}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._catch_up()
            if key in self._places:
                return
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            with os.fdopen(handle, "r+b") as file:
                file.truncate(self._read)  # a line without its end: its writer was killed
                file.seek(self._read)
                file.write(line.encode())
            self._catch_up()

    @asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[None]:
        """Others that ask the same wait meanwhile, and then find the answer.

        Other processes too, by a lock that goes with the process that holds it.
        """
        place = id(asyncio.get_running_loop()), key
        self._waiting[place] += 1
        try:
            async with self._flights.setdefault(place, asyncio.Lock()), self._marked(key):
                yield
        finally:
            self._waiting[place] -= 1
            if not self._waiting[place]:
                del self._waiting[place], self._flights[place]

    @asynccontextmanager
    async def _marked(self, key: str) -> AsyncIterator[None]:
        """Hold one byte of a file for a key: 2^62 bytes, none of which is ever written."""
        if self._marks is None and fcntl is not None:
            # Never closed while in use: closing any handle of a file gives up all its locks.
            with contextlib.suppress(OSError):  # a cache that can only be read has no marks
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._marks = Path(f"{self.path}.asked").open("ab")  # noqa: SIM115
        if self._marks is None or fcntl is None:
            yield
            return
        place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 2
        while not _lock(self._marks, place):
            await asyncio.sleep(LOOK)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._marks, fcntl.LOCK_UN, 1, place)

    def _catch_up(self) -> None:
        """Note what was written since, whole lines only.

        Raises:
            InputError: a line is no entry, or of another version.
        """
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return
        if size <= self._read:
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                entry = self._parse(line)
                self._places.setdefault(entry["key"], (self._read, len(line)))
                self._read += len(line)

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
            if entry["v"] == VERSION:
                return entry
        except (ValueError, KeyError, TypeError):
            pass
        raise InputError(
            f"{self.path}: no entry of a cache at byte {self._read}; give another file"
        )


def _lock(file: IO[bytes], place: int) -> bool:
    """Whether a byte is locked now, or cannot be, as on some network drives."""
    assert fcntl is not None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True
