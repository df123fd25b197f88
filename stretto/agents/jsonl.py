"""A list kept in a file that only grows, shared by processes: one JSON object a line."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stretto.errors import LimitError

_LOCK_SECONDS = 60.0


class FolderLock:
    """Held by one process at a time, as often as it likes; the file is ``.lock`` in the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / ".lock", timeout=_LOCK_SECONDS)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for it.

        Raises:
            LimitError: somebody has held it for a minute.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            message = f"{self._folder}: another process keeps it locked; end that one and try again"
            raise LimitError(message) from None
        try:
            yield
        finally:
            self._lock.release()


class JsonLog:
    """The file and how far it has been read.

    Args:
        path: of the file; made by the first record.
        lock: held while writing; whoever reads needs none.
    """

    def __init__(self, path: Path, lock: FolderLock) -> None:
        self._path, self._lock = path, lock
        self._file: tuple[int, bytes] | None = None  # inode and first line of what was read
        self._read = 0  # bytes

    def append(self, *records: Mapping[str, Any]) -> None:
        """Write records behind the others. What a kill left of a line is not taken for one."""
        text = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
        with self._lock.held(), self._path.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                torn = file.read(1) != b"\n"
                text = "\n" * torn + text
            file.write(text.encode())

    def news(self) -> tuple[bool, list[dict[str, Any]]]:
        """Whether all is read again, since the file is another one now, and the records not yet
        read. Lines that are no JSON object are passed over.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            afresh, self._file, self._read = self._file is not None, None, 0
            return afresh, []
        with file:
            found = os.fstat(file.fileno())
            this = (found.st_ino, file.readline())
            afresh = self._file is not None and (this != self._file or self._read > found.st_size)
            self._read = 0 if afresh else self._read
            file.seek(self._read)
            whole = file.read()
        whole = whole[: whole.rfind(b"\n") + 1]  # somebody may be writing the rest
        self._read += len(whole)
        self._file = this if self._read else None
        return afresh, [record for line in whole.splitlines() if (record := _parsed(line))]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
