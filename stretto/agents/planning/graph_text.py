"""Texts of plans as graphs, and the placeholders in them.

Lines as LLMCompiler writes them, ``2. add(a=$1, b=3)``, or ``$2 = add($1, 3)``, or as ReWOO does,
``#E2 = add[text with #E1]``; other lines are thoughts. ``$1`` is the whole value of step 1 and
``$1.price[0]`` a part of it where that is all of the argument; within a text ``$1`` and
``${1.price}`` are written out, and ``$$`` is a dollar sign. ``after $1, $2`` at the end of a line
names steps that it waits for without taking their values.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from stretto.errors import InputError

_HEAD = re.compile(r"^\s*(?:\$(?P<a>\w+)\s*=|(?P<b>\d+)\s*[.):]|#E(?P<c>\d+)\s*=)\s*(?=[A-Za-z_])")
_END = re.compile(r"^\s*(thought|plan|observation)\b.*|^\s*<END_OF_PLAN>.*|^\s*```.*", re.I)
_AFTER = re.compile(r"(?<=[)\]])\s*after\s+(\$\w+(?:\s*,\s*\$\w+)*)\s*$")
_BRACKETS = re.compile(r"^([\w.]+)\s*\[(.*)\]$", re.DOTALL)
_PATH = r"(?:\.[A-Za-z_]\w*|\[(?:\d+|'[^']*'|\"[^\"]*\")\])*"
_WHOLE = re.compile(rf"\$(?:(\w+)({_PATH})|\{{(\w+)({_PATH})\}})")
_WITHIN = re.compile(rf"\$\$|\$\{{(\w+)({_PATH})\}}|\$(\d+)")
_TOKEN = re.compile(
    rf"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|\$(?:\{{\w+{_PATH}\}}|\w+{_PATH})", re.DOTALL
)
_STEP = re.compile(r"\.(\w+)|\[(?:(\d+)|'([^']*)'|\"([^\"]*)\")\]")


class Written(NamedTuple):
    """A step as it was written.

    Attributes:
        id: of the step.
        tool: name.
        positional, named: arguments.
        after: ids of steps to wait for.
        line: from 1.
    """

    id: str
    tool: str
    positional: list[Any]
    named: dict[str, Any]
    after: tuple[str, ...] = ()
    line: int | None = None


def read_lines(text: str) -> list[Written]:
    """Steps of a plan in lines.

    Raises:
        InputError: a line that begins as a step is no call with plain values.
    """
    found: list[tuple[str, int, list[str]]] = []
    is_open = rewoo = False
    for number, line in enumerate(text.splitlines(), start=1):
        head = _HEAD.match(line)
        if head:
            rewoo = rewoo or head["c"] is not None
            key = head["a"] or head["b"] or head["c"]
            found.append((key, number, [line[head.end() :]]))
        elif is_open and line.strip() and not _END.match(line):
            found[-1][2].append(line)
        is_open = bool(found) and not _END.match(line) and bool(line.strip())
    return [read_call(key, "\n".join(lines).strip(), line, rewoo) for key, line, lines in found]


def read_call(key: str, text: str, line: int, rewoo: bool = False) -> Written:
    """One call; ``rewoo``: with ``#E1`` for values and ``tool[text]`` for calls.

    Raises:
        InputError: it is no call with plain values.
    """
    if rewoo:
        text = re.sub(r"#E(\d+)", r"${\1}", text)
        brackets = _BRACKETS.match(text)
        if brackets:
            return Written(key, brackets[1], [brackets[2].strip()], {}, (), line)
    waits = _AFTER.search(text)
    after: tuple[str, ...] = ()
    if waits:
        after = tuple(part.strip()[1:] for part in waits[1].split(","))
        text = text[: waits.start()]
    code = _TOKEN.sub(lambda m: repr(m[0]) if m[0][0] == "$" else m[0], text)
    try:
        call = ast.parse(code.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or any(k.arg is None for k in call.keywords):
            raise ValueError("it is no call")
        positional = [ast.literal_eval(value) for value in call.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        name = ast.unparse(call.func)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise InputError(f"plan, line {line}: {shown!r} is no call with plain values; "
                         f"write {key}. tool(name=value), with $n for the value of step n"
                         ) from None  # fmt: skip
    return Written(key, name, positional, named, after, line)


def read_json(text: str) -> list[Written]:
    """Steps of ``[{"id": 1, "tool": "f", "arguments": {...}, "after": [..]}]``, or under "steps".

    Raises:
        InputError: no JSON of this form.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"plan: it is no JSON: {error}") from None
    data = data.get("steps") if isinstance(data, Mapping) else data
    if not isinstance(data, list):
        raise InputError('plan: give a list of steps, or {"steps": [...]}')
    found = []
    for place, step in enumerate(data, start=1):
        if not isinstance(step, Mapping) or not isinstance(step.get("tool"), str):
            raise InputError(f'plan, step {place}: give {{"id": {place}, "tool": "name", '
                             '"arguments": {...}}')  # fmt: skip
        unknown = sorted(set(step) - {"id", "tool", "arguments", "after"})
        arguments, after = step.get("arguments", {}), step.get("after", [])
        if unknown or not isinstance(arguments, Mapping) or not isinstance(after, list):
            what = f"there is no {unknown[0]!r}" if unknown else "arguments are an object"
            raise InputError(f"plan, step {place}: {what}; a step has id, tool, arguments and "
                             "after, a list of ids")  # fmt: skip
        waits = tuple(str(key).removeprefix("$") for key in after)
        found.append(Written(str(step.get("id", place)), step["tool"], [], dict(arguments), waits))
    return found


def literal(value: Any) -> Any:
    """A value none of whose texts is a placeholder any more: :func:`fill` gives it back."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, Mapping):
        return {key: literal(item) for key, item in value.items()}
    return [literal(item) for item in value] if isinstance(value, list | tuple) else value


def references(value: Any) -> Iterator[str]:
    """Ids of steps whose values a value takes, as often as it does."""
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value)
        if whole:
            yield whole[1] or whole[3]
            return
        for match in _WITHIN.finditer(value):
            if match[0] != "$$":
                yield match[1] or match[3]
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def fill(value: Any, values: Mapping[str, Any]) -> Any:
    """A value with placeholders replaced.

    Raises:
        InputError: a step's value has no such part.
    """
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value)
        if whole:
            return _part(values, whole[1] or whole[3], whole[2] or whole[4] or "")
        return _WITHIN.sub(_writer(values), value)
    if isinstance(value, Mapping):
        return {key: fill(item, values) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fill(item, values) for item in value]
    return value


def _writer(values: Mapping[str, Any]) -> Callable[[re.Match[str]], str]:
    def write(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        found = _part(values, match[1] or match[3], match[2] or "")
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    return write


def _part(values: Mapping[str, Any], key: str, path: str) -> Any:
    value = values[key]
    for step in _STEP.finditer(path):
        name = next((part for part in (step[1], step[3], step[4]) if part is not None), None)
        try:
            value = value[int(step[2])] if name is None else value[name]
        except (KeyError, IndexError, TypeError):
            raise InputError(f"${key}{path}: the value of step {key} has no {step[0]}") from None
    return value
