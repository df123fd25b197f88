"""Runs one cell of code in the sandbox and reports what happened, as plain data.

A cell runs statement by statement in the session's variables; the value of a last expression is
the cell's value. ``await`` works at the top. Standard library only.
"""

import ast
import json
import linecache
import math
import resource
import types

MAX_REPR = 4000  # characters
MAX_VALUE = 256 * 1024  # characters of JSON
MAX_TEXT = 2000  # characters of an error's message
MAX_FRAMES = 20
_FUTURES = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_COROUTINE = 0x80  # inspect.CO_COROUTINE; inspect is slow to load
_DISK_ERRORS = (27, 28, 122)  # EFBIG, ENOSPC, EDQUOT


class OutputLimitReached(BaseException):
    """The cell has printed all it may."""


class Cancelled(BaseException):
    """The host has asked the cell to stop."""


class Cell:
    """One piece of code and what became of it."""

    def __init__(self, worker, code: str) -> None:  # noqa: ANN001 - worker imports this file
        self.worker, self.code = worker, code
        self.name = f"<cell {worker.cells}>"
        self.statement: int | None = None
        self.limit: str | None = None

    def run(self) -> dict:
        """The fields of the frame ``done``."""
        before = resource.getrusage(resource.RUSAGE_SELF)
        value, error = None, None
        lines = self.code.splitlines(keepends=True)
        linecache.cache[self.name] = (len(self.code), None, lines, self.name)
        interrupts = self.worker.interrupts
        report = {"value": None, "has_value": False, "repr": None, "truncated": False}
        try:
            value = self._statements()
            if value is not None:
                interrupts.open = True
                report = describe(value)
                interrupts.open = False
        except BaseException as raised:  # whatever the code raises is its result
            interrupts.open = False
            error = self._error(raised)
        interrupts.open = False
        usage = resource.getrusage(resource.RUSAGE_SELF)
        seconds = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
        report |= {"error": error, "limit": self.limit}
        return report | {"cpu": max(0.0, seconds), "max_rss": usage.ru_maxrss * 1024}

    def _statements(self) -> object:
        tree = compile(self.code, self.name, "exec", ast.PyCF_ONLY_AST)
        body = tree.body
        flags = _FUTURES
        value = None
        for index, node in enumerate(body):
            self.statement = index
            if self.worker.soft_stop():
                raise Cancelled("cancelled before this statement")
            last = index == len(body) - 1 and isinstance(node, ast.Expr)
            part = ast.Expression(node.value) if last else ast.Module([node], [])
            code = compile(part, self.name, "eval" if last else "exec", flags, dont_inherit=True)
            flags |= code.co_flags & 0x1FF0000  # what `from __future__ import` switched on
            value = self._run(code)
        self.statement = None
        return value

    def _run(self, code: types.CodeType) -> object:
        namespace = self.worker.main.__dict__
        interrupts = self.worker.interrupts
        interrupts.open = True
        try:
            value = eval(code, namespace)
            if code.co_flags & _COROUTINE:
                value = self._loop().run_until_complete(value)
            return value
        finally:
            interrupts.open = False

    def _loop(self):  # noqa: ANN202 - asyncio is loaded only when it is needed
        import asyncio

        loop = self.worker.__dict__.get("loop")
        if loop is None or loop.is_closed():
            loop = self.worker.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        return loop

    def _error(self, raised: BaseException) -> dict:
        if isinstance(raised, MemoryError):
            self.limit = "memory"
        elif isinstance(raised, OutputLimitReached):
            self.limit = "output"
        elif isinstance(raised, OSError) and raised.errno in _DISK_ERRORS:
            self.limit = "disk"
        try:
            message = str(raised)[:MAX_TEXT]
        except BaseException:  # its __str__ is not ours
            message = "(its message cannot be shown)"
        frames = self._frames(raised)
        _, line, column, _, source = frames[-1] if frames else ("", None, None, "", "")
        if isinstance(raised, SyntaxError) and raised.filename == self.name:
            line, column = raised.lineno, raised.offset
            source = linecache.getline(self.name, line or 0).rstrip("\n")
            message = str(raised.msg)[:MAX_TEXT]
        kind = type(raised).__name__
        text = "".join(
            f'  File "{name}", line {row}, in {where}\n' + (f"    {s.strip()}\n" if s else "")
            for name, row, _, where, s in frames
        )
        head = "Traceback (most recent call last):\n" if text else ""
        return {
            "type": kind[:200],
            "message": message,
            "statement": self.statement,
            "line": line,
            "column": column,
            "source_line": source[:500],
            "traceback": head + text + f"{kind}: {message}",
            "hint": _hint(raised, self.worker.setup["imports"], [*self.worker.main.__dict__]),
        }

    def _frames(self, raised: BaseException) -> list[tuple]:
        """(file, line, column from 1, function, source) of the user's own frames."""
        found = []
        trace = raised.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_filename.startswith("<cell "):
                column = None
                positions = list(code.co_positions())
                if 0 <= trace.tb_lasti // 2 < len(positions):
                    column = positions[trace.tb_lasti // 2][2]
                source = linecache.getline(code.co_filename, trace.tb_lineno).rstrip("\n")
                place = (code.co_filename, trace.tb_lineno, None if column is None else column + 1)
                found.append((*place, code.co_name, source[:500]))
            trace = trace.tb_next
        if len(found) > MAX_FRAMES:
            half = MAX_FRAMES // 2
            found = found[:half] + found[-half:]
        return found


def describe(value: object) -> dict:
    """A value as JSON if it is plain data and small, and its repr, cut short."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}: its repr raises {type(error).__name__}>"
    cut = len(text) > MAX_REPR
    if type(text) is not str:
        text = str.__str__(text)
    report = {"repr": text[:MAX_REPR], "truncated": cut, "value": None, "has_value": False}
    left = [20_000]
    if _plain(value, 50, left):
        try:
            encoded = json.dumps(value, allow_nan=False)
        except ValueError:  # an integer of more digits than Python prints
            return report
        if len(encoded) <= MAX_VALUE:
            return report | {"value": value, "has_value": True, "truncated": False}
    return report


def _plain(value: object, depth: int, left: list[int]) -> bool:
    """Whether JSON gives it back as it was (a tuple becomes a list); ``left`` bounds the work."""
    left[0] -= 1
    if depth == 0 or left[0] < 0:
        return False
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return True
    if kind is float:
        return math.isfinite(value)
    if kind in (list, tuple):
        return all(_plain(item, depth - 1, left) for item in value)
    if kind is dict:
        return all(type(k) is str and _plain(v, depth - 1, left) for k, v in value.items())
    return False


def _hint(raised: BaseException, imports: list[str], names: list[str]) -> str | None:
    if isinstance(raised, ModuleNotFoundError):
        more = f" and {', '.join(imports)}" if imports else ""
        return f"only the standard library{more} can be imported here"
    if isinstance(raised, PermissionError):
        return "the sandbox refuses this: no host files, no network, no new processes"
    if isinstance(raised, MemoryError):
        return "the cell needs more memory than its limit"
    if isinstance(raised, NameError) and raised.name:
        import difflib

        known = [name for name in names if type(name) is str]
        close = difflib.get_close_matches(raised.name, known, 1)
        return f"did you mean {close[0]}?" if close else None
    if isinstance(raised, OutputLimitReached):
        return "print less: a summary, a slice, a count"
    return None

