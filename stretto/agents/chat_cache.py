"""Answers kept by their question, so that nothing is paid twice.

One file of JSON lines that only grows: each is written whole under a lock, so any number of
processes may share it. What a killed writer left unfinished is cut off by the next one.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from stretto.agents.chat_wire import from_json, to_json
from stretto.errors import InputError
from stretto.protocols import Completion

VERSION = 1


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
        """Others of this process that ask the same wait meanwhile, and then find the answer."""
        place = id(asyncio.get_running_loop()), key
        self._waiting[place] += 1
        try:
            async with self._flights.setdefault(place, asyncio.Lock()):
                yield
        finally:
            self._waiting[place] -= 1
            if not self._waiting[place]:
                del self._waiting[place], self._flights[place]

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
