"""How a model writes actions: Python in fences, JSON, or a line of text; read as the text arrives.

Which one suits is a matter of the model (:mod:`stretto.agents.probe`); the tools are the same. What
cannot be read becomes :class:`Malformed`, whose hint goes back to the model.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from stretto.errors import ConfigError
from stretto.protocols import Completion

MARK = "\n[result]"
"""What feedback begins with: a model that goes on to invent its own is stopped there."""

_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([\w+.-]*)[ \t]*\r?\n?$")
_PYTHON = frozenset({"", "py", "python", "python3", "Python"})
_THOUGHT = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)
_JSON_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[\w]*[ \t]*$", re.MULTILINE)
_ACTION = re.compile(r"^[ \t]*Action:[ \t]*(.*)$", re.MULTILINE)
_NAMES = ("name", "tool", "function")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_CUT = "your answer was cut off, as it was too long, and its actions were undone; write less"


@dataclass(frozen=True)
class Say:
    """Words to the user: a line, or what is left of one."""

    text: str


@dataclass(frozen=True)
class Think:
    """Words to itself."""

    text: str


@dataclass(frozen=True)
class Code:
    """The next lines of the answer's code; :class:`stretto.agents.stream.CodeStream` splits it."""

    text: str


@dataclass(frozen=True)
class Call:
    """A call of a tool; ``id`` names it where the endpoint does."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True)
class Final:
    """The answer to the task: text without any action."""

    text: str


@dataclass(frozen=True)
class Malformed:
    """What could not be read; the hint says what to write instead."""

    hint: str
    id: str = ""


Item = Say | Think | Code | Call | Final | Malformed


class Parser(Protocol):
    """Reads one answer; the items are the same in whatever pieces it comes."""

    def push(self, text: str) -> list[Item]:
        """Take a piece."""
        ...

    def finish(self, completion: Completion) -> list[Item]:
        """The answer is over; its text has been pushed."""
        ...


@dataclass(frozen=True)
class Dialect:
    """A way to write actions.

    Attributes:
        name: also of its prompt's file.
        parser: makes one for each answer.
        code: whether actions are code.
        schemas: whether tools are given to the endpoint, which gives calls back.
    """

    name: str
    parser: Callable[[], Parser]
    code: bool = False
    schemas: bool = False


class CodeParser:
    """Python in fences; all fences of an answer are one block."""

    def __init__(self) -> None:
        self._line = ""
        self._mode = "say"  # think, code, or quote: a fence of something else
        self._fence, self._indent = "", ""
        self._said: list[str] = []
        self._has_code = False

    def push(self, text: str) -> list[Item]:
        """Take a piece; lines are told when they are whole."""
        *lines, self._line = (self._line + text).split("\n")
        return [item for line in lines for item in self._take(line + "\n")]

    def finish(self, completion: Completion) -> list[Item]:
        """The last line, and what the answer comes to."""
        items = list(self._take(self._line)) if self._line else []
        self._line = ""
        cut = completion.finish_reason == "length"
        if cut and (self._mode == "code" or not self._has_code):
            return [*items, Malformed(_CUT)]
        if self._has_code:
            return items
        text = "".join(self._said).strip()
        if text:
            return [*items, Final(text)]
        return [*items, Malformed("write Python code in a ```python fence, or answer in words")]

    def _take(self, line: str) -> Iterator[Item]:
        fence = _FENCE.match(line)
        if self._mode in ("code", "quote"):
            if fence and not fence[3] and fence[2].startswith(self._fence):
                self._mode = "say"
            elif self._mode == "code":
                yield Code(line.removeprefix(self._indent))
            else:
                yield self._say(line)
        elif self._mode == "think":
            before, end, after = line.partition("</think>")
            if before.strip():
                yield Think(before)
            if end:
                self._mode = "say"
                yield from self._take(after) if after.strip() else ()
        elif fence:
            self._indent, self._fence, language = fence.groups()
            self._mode = "code" if language in _PYTHON else "quote"
            self._has_code |= self._mode == "code"
        elif "<think>" in line:
            before, _, after = line.partition("<think>")
            if before.strip():
                yield self._say(before)
            self._mode = "think"
            yield from self._take(after) if after.strip() else ()
        else:
            yield self._say(line)

    def _say(self, line: str) -> Say:
        self._said.append(line)
        return Say(line)


class _WholeParser:
    """For actions that can only be read once the answer is whole."""

    def __init__(self) -> None:
        self._text = ""

    def push(self, text: str) -> list[Item]:
        """Keep a piece."""
        self._text += text
        return []

    def finish(self, completion: Completion) -> list[Item]:
        """Everything."""
        thoughts: list[Item] = [Think(t) for t in _THOUGHT.findall(self._text) if t.strip()]
        words, actions = self._read(_THOUGHT.sub("", self._text), completion)
        cut = completion.finish_reason == "length"
        if cut and not actions:
            actions = [Malformed(_CUT)]
        said: list[Item] = [Say(words)] if words.strip() else []
        if not actions:
            actions = [Final(words.strip()) if said else Malformed("call a tool, or answer")]
        return [*thoughts, *said, *actions]

    def _read(self, text: str, completion: Completion) -> tuple[str, list[Item]]:
        """Words, and actions."""
        raise NotImplementedError


class JsonParser(_WholeParser):
    """Calls that the endpoint tells, and objects ``{"name": ..., "arguments": {...}}`` in text."""

    def _read(self, text: str, completion: Completion) -> tuple[str, list[Item]]:
        if completion.tool_calls:
            return text, [_told(c.name, c.arguments, c.id) for c in completion.tool_calls]
        actions: list[Item] = []
        words, at = "", 0
        for start, end, value in _values(text):
            if (calls := _calls(value)) is not None:
                words, at = words + text[at:start], end
                actions += calls
        words += text[at:]
        if actions:
            words = _JSON_FENCE.sub("", words)
        elif (hint := _why_not_json(text)) is not None:
            actions = [Malformed(hint)]
        return words, actions


class TextParser(_WholeParser):
    """Lines ``Action: tool(name=value)``."""

    def _read(self, text: str, completion: Completion) -> tuple[str, list[Item]]:
        actions = [_line_call(found) for found in _ACTION.findall(text)]
        words = _ACTION.sub("", text) if actions else text
        return re.sub(r"^\s*Answer:\s*", "", words), actions


DIALECTS: dict[str, Dialect] = {
    each.name: each
    for each in (
        Dialect("code", CodeParser, code=True),
        Dialect("json", JsonParser, schemas=True),
        Dialect("json-text", JsonParser),
        Dialect("text", TextParser),
    )
}
"""``json`` gives the tools to the endpoint; ``json-text`` is for those that cannot take any."""


def get(name: str) -> Dialect:
    """A dialect by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in DIALECTS:
        raise ConfigError(f"no dialect {name!r}; choose from auto, {', '.join(DIALECTS)}")
    return DIALECTS[name]


def _told(name: str, arguments: str, call_id: str) -> Item:
    try:
        found = json.loads(arguments or "{}")
    except ValueError as error:
        return Malformed(f"the arguments of {name} are no JSON ({error}); write an object", call_id)
    if not isinstance(found, dict):
        return Malformed(f"the arguments of {name} are no object; write {{...}}", call_id)
    return Call(name, kwargs=found, id=call_id)


def _values(text: str) -> Iterator[tuple[int, int, Any]]:
    """JSON objects and arrays in a text, with their places; none within another."""
    decoder, at = json.JSONDecoder(), 0
    while (found := re.compile(r"[{\[]").search(text, at)) is not None:
        try:
            value, end = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            at = found.end()
        else:
            yield found.start(), end, value
            at = end


def _calls(value: Any) -> list[Item] | None:
    """Calls, if that is what a value describes."""
    if isinstance(value, list):
        each = [_calls(item) for item in value]
        return [c for found in each if found for c in found] if each and all(each) else None
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    given = next((value[key] for key in _ARGUMENTS if key in value), None)
    if name is None or (given is None and set(value) - set(_NAMES)):
        return None
    if isinstance(given, dict | None):
        return [Call(name, kwargs=given or {})]
    return [_told(name, given if isinstance(given, str) else json.dumps(given), "")]


def _why_not_json(text: str) -> str | None:
    """What is wrong with a call that was begun; None if there is none."""
    for start in re.finditer(r"\{\s*\"(?:name|tool|function)\"\s*:", text):
        try:
            json.JSONDecoder().raw_decode(text, start.start())
        except (ValueError, RecursionError) as error:
            why = f"the call cannot be read ({error})"
            return f'{why}; write {{"name": "...", "arguments": {{...}}}}'
    return None


def _line_call(text: str) -> Item:
    hint = f"{text.strip()[:80]!r} is no call; write Action: tool(name=value), with plain values"
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            return Malformed(hint)
        args = tuple(_json(ast.literal_eval(arg)) for arg in node.args)
        kwargs = {k.arg: _json(ast.literal_eval(k.value)) for k in node.keywords if k.arg}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return Malformed(hint)
    if len(kwargs) != len(node.keywords):
        return Malformed(hint)
    return Call(node.func.id, args, kwargs)


def _json(value: Any) -> Any:
    """A literal as JSON has it.

    Raises:
        TypeError: JSON has none such.
    """
    return json.loads(json.dumps(value, allow_nan=False))
