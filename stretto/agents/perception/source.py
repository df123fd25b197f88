"""Items as typed Python source, in parts of at most so many characters.

What a stranger wrote appears only within string literals, written by :func:`repr`: it escapes
quotes, line ends and everything invisible, so that no text can end its literal, pass for code, or
show a reader other characters than are there. A part holds whole items; the text of one that is
longer than a part goes on in ``Rest`` items. Joined, the parts hold everything once.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from stretto.agents.perception import elements
from stretto.agents.perception.elements import Rest
from stretto.errors import ConfigError

MIN_BUDGET = 400
_FRAME = 80  # characters of a part around its items
_LINE = len("    ,\n")
_DEPTH = 20  # of values that are shown in one piece
_DIGITS = 40

TYPES = Path(elements.__file__).read_text(encoding="utf-8")
"""Source of the constructors: what a sandbox runs to evaluate a part's source."""


@dataclass(frozen=True)
class Part:
    """Some of what there is to see.

    Attributes:
        source: one Python expression.
        left: lines that are still to come.
        rest: continues where this ended; None at the end.
    """

    source: str
    left: int
    rest: "More | None"

    def more(self) -> "Part | None":
        """The next part; None at the end."""
        return None if self.rest is None else self.rest.more()


class More:
    """The handle of what is still to be seen; asking twice gives the same part."""

    def __init__(self, kind: str, lines: list[tuple[int, str]], at: int, budget: int) -> None:
        self._kind, self._lines, self._at, self._budget = kind, lines, at, budget

    def __stretto_summary__(self) -> str:
        return f"{len(self._lines) - self._at} more lines of a {self._kind}"

    def more(self) -> Part:
        """The next part."""
        at, used, shown = self._at, _FRAME, []
        while at < len(self._lines):
            used += len(self._lines[at][1]) + _LINE
            if used > self._budget:
                break
            shown.append(f"    {self._lines[at][1]},\n")
            at += 1
        # A part that begins with the rest of an item starts at the next one.
        start = self._lines[self._at][0] if self._at < len(self._lines) else 0
        total = self._lines[-1][0] if self._lines else 0
        total += bool(self._lines) and not self._lines[-1][1].startswith("Rest(")
        body = f"\n{''.join(shown)}" if shown else ""
        source = f"{self._kind}(start={start}, of={total}, items=[{body}])\n"
        left = len(self._lines) - at
        rest = More(self._kind, self._lines, at, self._budget) if left else None
        return Part(source, left, rest)


class Live(ABC):
    """An object of which source can be shown; it stays on the host."""

    kind: str
    """Constructor of its parts."""

    @abstractmethod
    def items(self, room: int) -> Iterable[Any]:
        """What there is to see; all but texts takes at most ``room`` characters an item."""

    @abstractmethod
    def __stretto_summary__(self) -> str: ...

    def show(self, budget: int = 4000) -> Part:
        """The first part of its source.

        Args:
            budget: characters of a part.

        Raises:
            ConfigError: the budget is too small to show anything.
        """
        if budget < MIN_BUDGET:
            raise ConfigError(f"budget is {budget} characters; give {MIN_BUDGET} or more")
        room = budget - _FRAME - _LINE
        return More(self.kind, list(_lines(self.items(room), room)), 0, budget).more()


def literal(value: Any) -> str:
    """A JSON value as a Python literal; NaN and infinities as ``float('nan')``."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {literal(item)}' for key, item in value.items())}}}"
    return repr(value)


def fits(value: Any, room: int) -> bool:
    """Whether the literal has at most ``room`` characters, and is not nested too deeply."""
    return _left(value, room, _DEPTH) >= 0


def is_long(value: Any) -> bool:
    """Whether a number has too many digits to be shown as one."""
    return isinstance(value, int) and abs(value) >= 10**_DIGITS


def render(item: Any) -> str:
    """An item as the call of its constructor; fields as by default are left out."""
    shown = []
    for each in fields(item):
        value = getattr(item, each.name)
        if each.default is MISSING or value != each.default:
            shown.append(f"{each.name}={literal(value)}")
    return f"{type(item).__name__}({', '.join(shown)})"


def _left(value: Any, room: int, depth: int) -> int:
    """Room that is left; below 0 as soon as there is none."""
    if isinstance(value, list | Mapping):
        if depth == 0:
            return -1
        room -= 2
        pairs = value.items() if isinstance(value, Mapping) else ((None, v) for v in value)
        for key, item in pairs:
            room = _left(item, room - 2 - (0 if key is None else len(repr(key)) + 2), depth - 1)
            if room < 0:
                break
        return room
    if isinstance(value, str) and len(value) > room:
        return -1  # not worth writing out
    return -1 if is_long(value) else room - len(literal(value))


def _lines(items: Iterable[Any], room: int) -> Iterator[tuple[int, str]]:
    """Number of the item, or of the next one for the rest of a text, and the line."""
    for number, item in enumerate(items):
        line = render(item)
        if len(line) <= room:
            yield number, line
            continue
        values = {each.name: getattr(item, each.name) for each in fields(item)}
        tails: dict[str, str] = {}
        while len(line) > room:
            texts = {name: len(repr(v)) for name, v in values.items() if isinstance(v, str)}
            name = max(texts, key=texts.__getitem__)
            text = values[name]
            assert text, f"{type(item).__name__}: its other fields take more than {room} characters"
            values[name], tail = text[: len(text) // 2], text[len(text) // 2 :]
            tails[name] = tail + tails.get(name, "")
            line = render(type(item)(**values))
        yield number, line
        for name, tail in tails.items():
            for piece in _pieces(tail, room - len(render(Rest(number, name, "")))):
                yield number + 1, render(Rest(number, name, piece))


def _pieces(text: str, room: int) -> Iterator[str]:
    """A text in pieces whose literals fit."""
    at = 0
    while at < len(text):
        size = min(room, len(text) - at)
        while size > 1 and len(repr(text[at : at + size])) - 2 > room:
            size = size * 3 // 4
        yield text[at : at + size]
        at += size
