"""A session that runs code in THIS process, with no protection: for code that we wrote ourselves.

It stands in for a sandbox where timing or side effects have to be counted exactly. Tools can be
called outside functions only.
"""

import ast
import asyncio
import builtins
import copy
import inspect
import io
import types
from dataclasses import dataclass
from typing import Any


@dataclass
class FakeError:
    type: str
    message: str
    line: int | None


@dataclass
class FakeResult:
    ok: bool
    value: Any = None
    value_repr: str | None = None
    stdout: str = ""
    stderr: str = ""
    error: FakeError | None = None
    limit: str | None = None


class UnsafeFakeSession:
    """See the module. ``living`` counts the sessions that are open; a fork takes ``fork_s``."""

    fork_s = 0.0

    def __init__(self, tools, on_call=None, names=None, living=None):
        self.tools, self.on_call = frozenset(tools), on_call
        self.names = {} if names is None else names
        self.living = [0] if living is None else living
        self.living[0] += 1
        self.alive = True
        self.busy = False

    async def exec(self, code: str) -> FakeResult:
        assert self.alive, "this session was closed"
        assert not self.busy, "one cell at a time"
        out = io.StringIO()
        self.names["print"] = lambda *a, **k: builtins.print(*a, **{**k, "file": out})
        for name in self.tools:
            self.names.setdefault(name, None)
        self.busy = True
        try:
            value = await self._evaluate(code)
        except asyncio.CancelledError:
            self._end()
            raise
        except BaseException as error:
            line = error.__traceback__
            while line is not None and line.tb_frame.f_code.co_filename != "<fake>":
                line = line.tb_next
            found = FakeError(type(error).__name__, str(error), line and line.tb_lineno)
            return FakeResult(False, stdout=out.getvalue(), error=found)
        finally:
            self.busy = False
        shown = None if value is None else repr(value)
        return FakeResult(True, value, shown, out.getvalue())

    async def _evaluate(self, code):
        tree = ast.fix_missing_locations(_Calls(self.tools).visit(ast.parse(code)))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        self.names["_call"] = self._call
        await self._part(tree, "exec")
        if last is not None:
            return await self._part(ast.Expression(last.value), "eval")
        return None

    async def _part(self, tree, mode):
        code = compile(tree, "<fake>", mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        value = eval(code, self.names)
        return await value if code.co_flags & inspect.CO_COROUTINE else value

    async def _call(self, name, *args, **kwargs):
        assert self.on_call is not None
        return await self.on_call(name, list(args), kwargs)

    async def fork(self, *, on_call=None) -> "UnsafeFakeSession":
        assert self.alive, "this session was closed"
        assert not self.busy, "a busy session cannot be forked"
        await asyncio.sleep(self.fork_s)
        names: dict[str, Any] = {}
        memo: dict[int, Any] = {}
        for name, value in self.names.items():
            if name in ("__builtins__", "_call", "print"):
                continue  # each session has its own
            if isinstance(value, types.FunctionType):
                value = types.FunctionType(value.__code__, names, name, value.__defaults__)
            elif not isinstance(value, types.ModuleType):
                value = copy.deepcopy(value, memo)
            names[name] = value
        return UnsafeFakeSession(self.tools, on_call or self.on_call, names, self.living)

    async def close(self) -> None:
        self._end()
        await asyncio.sleep(0)

    def _end(self):
        self.living[0] -= self.alive
        self.alive = False


class _Calls(ast.NodeTransformer):
    """``tool(x)`` to ``await _call("tool", x)``."""

    def __init__(self, tools):
        self.tools = tools

    def visit_Call(self, node):
        self.generic_visit(node)
        if not (isinstance(node.func, ast.Name) and node.func.id in self.tools):
            return node
        args = [ast.Constant(node.func.id), *node.args]
        call = ast.Call(ast.Name("_call", ast.Load()), args, node.keywords)
        return ast.copy_location(ast.Await(call), node)

    def visit_FunctionDef(self, node):
        return node

    visit_Lambda = visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815
