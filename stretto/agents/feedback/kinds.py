"""One piece of feedback, told at four levels of detail."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from stretto.errors import InputError

Kind = Literal["result", "binary", "explanation", "reward", "ranking"]
Level = Literal["bit", "message", "trace", "explain"]
LEVELS: tuple[Level, ...] = ("bit", "message", "trace", "explain")

_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
_MAX_LINE = 300  # characters of a message
_UNSTABLE = re.compile(
    r"\b(time|random|uuid|secrets|datetime|urandom|id|hash|perf_counter|getpid|threading|set)\b"
)

_MEANINGS = {
    "AssertionError": "a condition that should hold did not",
    "AttributeError": "the value has no such attribute; check its type",
    "FileNotFoundError": "there is no such file in the session's folder",
    "ImportError": "the name cannot be imported from there",
    "IndexError": "the position is beyond the end of the sequence",
    "KeyError": "the mapping has no such key",
    "LimitReached": "the code took more than it may: look for an endless loop or too much data",
    "ModuleNotFoundError": "the module is not installed here",
    "NameError": "the name was never assigned; check spelling and order",
    "RecursionError": "a function calls itself without end; check its base case",
    "SyntaxError": "the text is not Python",
    "TimeoutError": "a tool took too long",
    "TypeError": "a value has the wrong type, or a call the wrong arguments",
    "UnboundLocalError": "a local name is read before it is assigned",
    "ValueError": "the type is right but the value is not",
    "ZeroDivisionError": "something was divided by zero",
}


@dataclass(frozen=True)
class Feedback:
    """What was learnt about a piece of code.

    Attributes:
        kind: see :data:`Kind`.
        value: output, true or false, a reward from 0 to 1, or places in order, best first.
        text: one line, the level ``message``.
        source: the collector.
        cost: cells run to learn it (not seconds, which differ each time).
        confidence: 0 to 1.
        deterministic: whether the same code and seed give the same bytes.
        line: where in the code, from 1.
        details: text of the levels above ``message``.
    """

    kind: Kind
    value: Any
    text: str
    source: str
    cost: int = 0
    confidence: float = 1.0
    deterministic: bool = True
    line: int | None = None
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong: true, or the full reward; results and rankings are good."""
        return self.value in (True, 1.0) if self.kind in ("binary", "reward") else True

    def at(self, level: Level) -> str:
        """Its text at a level of detail; where there is no more to tell, the level below.

        Raises:
            InputError: no such level.
        """
        if level not in LEVELS:
            raise InputError(f"no level {level!r}; choose from {', '.join(LEVELS)}")
        if level == "bit":
            return "pass" if self.good else "fail"
        parts = [self.text]
        if level in ("trace", "explain") and self.details.get("trace"):
            parts.append(self.details["trace"])
        if level == "explain" and self.details.get("explain"):
            parts.append(self.details["explain"])
        return "\n".join(parts)

    def to_json(self) -> str:
        """All of it in one line, the same bytes for equal feedback."""
        data = {**asdict(self), "details": dict(self.details)}
        return json.dumps(data, sort_keys=True, ensure_ascii=False, default=repr)


def scrub(text: str) -> str:
    """Without what differs from run to run: addresses of objects."""
    return _ADDRESS.sub("0x...", text)


def one_line(text: str) -> str:
    """The first line of a message, not too long."""
    line = scrub(text).strip().partition("\n")[0]
    return line if len(line) <= _MAX_LINE else line[: _MAX_LINE - 3] + "..."


def is_stable(code: str) -> bool:
    """Whether nothing in the code suggests that two runs differ; errs on the side of no."""
    return not _UNSTABLE.search(code)


def explain_error(type_name: str, source_line: str = "", hint: str | None = None) -> str:
    """What an error means and where, by rule: no model is asked."""
    parts = []
    if source_line.strip():
        parts.append(f"the line is: {source_line.strip()}")
    if meaning := _MEANINGS.get(type_name):
        parts.append(f"{type_name} means: {meaning}")
    if hint:
        parts.append(f"try: {hint}")
    return "\n".join(parts)
