"""The common form of an example, and what every loader needs."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from stretto.errors import InputError


@dataclass(frozen=True)
class Example:
    """One item of a task.

    Attributes:
        id: unique in its task.
        task: name of the task.
        chunks: the source in order of arrival, the question first; joined it is the user's text.
        steps: the solution; each ends with a newline except the last; joined it is the answer.
        answer: gold answer in canonical form, for grading.
        needs: how many chunks must have been read before each step; empty when not known.
    """

    id: str
    task: str
    chunks: tuple[str, ...]
    steps: tuple[str, ...]
    answer: str
    needs: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`; other keys (source, licence) are ignored."""
        lists = {key: tuple(data.get(key, ())) for key in ("chunks", "steps", "needs")}
        return cls(id=data["id"], task=data["task"], answer=data["answer"], **lists)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line of a JSONL file.

    Raises:
        InputError: the file cannot be read or a line is not a JSON object.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise InputError(f"{path}, line {number}: not a JSON object")
                    yield number, row
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON lines ({error})") from None


_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(\[])")


def sentences(text: str) -> list[str]:
    """Sentences of a text, in a plain way: a mark, white space, a capital or a digit."""
    return [part for part in _SENTENCE.split(text.strip()) if part]


def join_chunks(parts: list[str]) -> tuple[str, ...]:
    """Chunks whose concatenation reads as one text: all but the first begin with a space."""
    return tuple(part if i == 0 else f" {part}" for i, part in enumerate(parts))


def final_step(answer: str) -> str:
    """The last step of a graded solution."""
    return f"Answer: {answer}"
