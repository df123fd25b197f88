"""One budget for many processes: what each has spent stands in a file that all append to."""

import json
import os
from pathlib import Path

from filelock import FileLock

from stretto.agents.chat import Budget
from stretto.errors import InputError, LimitError
from stretto.protocols import Usage


class Ledger(Budget):
    """A budget whose spending survives, and is shared by all that name the same file.

    A request is checked and counted under a lock, so a number of requests is never exceeded. What a
    killed process had under way is counted as a request; its tokens and dollars are not known.

    Args:
        path: of the file; made when first written.
        dollars: see :class:`stretto.agents.chat.Budget`.
        requests: likewise.
        tokens: likewise.
    """

    def __init__(
        self,
        path: Path,
        dollars: float | None = None,
        requests: int | None = None,
        tokens: int | None = None,
    ) -> None:
        super().__init__(dollars, requests, tokens)
        self._path, self._read = path, 0
        self._file_lock = FileLock(f"{path}.lock")
        self._stopped = ""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.catch_up()

    def stop(self, why: str) -> None:
        """Let nothing more pass, in this process."""
        self._stopped = self._stopped or why

    def check(self) -> None:
        """Whether work may go on.

        Raises:
            LimitError: it was stopped.
        """
        if self._stopped:
            raise LimitError(self._stopped)

    def take(self, *, again: bool = False) -> None:
        """As in a budget, with what others have spent since."""
        self.check()
        with self._file_lock:
            self.catch_up()
            super().take(again=again)
            # Counted when it is written, like everybody else's.
            if not again:
                self.spent_requests -= 1
                self._append({"requests": 1})

    def book(self, usage: Usage) -> None:
        """Note what an answer took."""
        tokens = usage.prompt_tokens + usage.completion_tokens
        self._append({"dollars": usage.cost, "tokens": tokens})

    def catch_up(self) -> None:
        """Read what was written since.

        Raises:
            InputError: a line is no entry.
        """
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    entry = json.loads(line)
                except ValueError:
                    raise InputError(f"{self._path}: no entry at byte {self._read}") from None
                self.spent_dollars += entry.get("dollars", 0.0)
                self.spent_requests += entry.get("requests", 0)
                self.spent_tokens += entry.get("tokens", 0)
                self._read += len(line)

    def _append(self, entry: dict[str, float]) -> None:
        # A short line in one write: appended whole, whoever else appends.
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, (json.dumps(entry) + "\n").encode())
        finally:
            os.close(handle)
        self.catch_up()
