"""What running a statement may do outside its session, told from its text alone.

Inside a session nearly everything is harmless, for a statement runs in a copy that can be thrown
away. What counts is what leaves it: calls of tools, and files. Every mention of a name counts as a
call of what it is bound to, so that a tool handed on to other code is not overlooked; what cannot
be told is ``unknown``, which is to be treated as ``write``.

This decides what runs early. It is no guard: :class:`stretto.agents.stream.CodeStream` refuses the
calls themselves, whatever this module thought of the statement.
"""

import ast
import builtins
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from stretto.agents.known_effects import (
    IMPURE_BUILTINS,
    METHODS,
    ODD_IMPORTS,
    PURE_MODULES,
    Effect,
    member,
    worst,
)
from stretto.errors import InputError

_TOOL_EFFECTS: dict[str, Effect] = {
    "pure": "pure",
    "read": "read",
    "write": "write",
    "irreversible": "write",
}


@dataclass
class _Bound:
    """What a name stands for."""

    effect: Effect = "pure"  # of calling it, or of what it may hold
    module: str = ""  # dotted name, for modules and their members
    callable: bool = False  # known to be a function or a class
    names: frozenset[str] = frozenset()  # that a function mentions, looked up when it is called


@dataclass(frozen=True)
class Use:
    """What a statement does.

    Attributes:
        effect: see :data:`Effect`.
        reads, writes: names it needs, and names whose values it may change.
        tools: those it may call itself or by functions that it calls.
    """

    effect: Effect
    reads: frozenset[str]
    writes: frozenset[str]
    tools: frozenset[str]


class Effects:
    """The effects of one statement after another, in one session.

    Args:
        tools: effect of each: pure, read, write or irreversible.
        pure_names: other names known to be plain values or functions without effect.

    Raises:
        InputError: another effect.
    """

    def __init__(self, tools: Mapping[str, str], pure_names: Iterable[str] = ()) -> None:
        for name, effect in tools.items():
            if effect not in _TOOL_EFFECTS:
                known = ", ".join(_TOOL_EFFECTS)
                raise InputError(f"tool {name}: no effect {effect!r}; choose from {known}")
        self._tools: dict[str, Effect] = {
            name: _TOOL_EFFECTS[effect] for name, effect in tools.items()
        }
        self._bound = {name: _Bound(callable=True) for name in pure_names}
        self._methods: dict[str, Effect] = {}  # of classes of the session, by name

    def copy(self) -> "Effects":
        """As things stand now, to be gone on with apart."""
        twin = Effects({})
        twin._tools = self._tools
        twin._bound, twin._methods = dict(self._bound), dict(self._methods)
        return twin

    def take(self, source: str) -> Use:
        """What a statement does; what it binds is known from now on.

        Raises:
            SyntaxError: it cannot be parsed.
        """
        uses = [self._statement(node) for node in ast.parse(source).body]
        return Use(
            worst(use.effect for use in uses),
            frozenset().union(*(use.reads for use in uses)),
            frozenset().union(*(use.writes for use in uses)),
            frozenset().union(*(use.tools for use in uses)),
        )

    def _statement(self, node: ast.stmt) -> Use:
        stored = frozenset(_stored(node))
        mentioned = frozenset(_loaded(node))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return self._definition(node, stored, mentioned)
        if isinstance(node, ast.Import | ast.ImportFrom):
            return self._import(node)
        effect = self._effect(node, stored, set())
        held = self._held(node, stored)
        reached = self._reach(mentioned)
        surely = isinstance(node, ast.Assign | ast.AnnAssign)
        for name in stored | (mentioned & self._bound.keys()):
            old = self._bound.get(name)
            if name in stored and old is not None and (old.module or old.callable):
                self._bound[name] = _Bound("unknown")  # no longer what it was, or not always
            elif old is None or (name in stored and surely):
                self._bound[name] = _Bound(held)
            elif held != "pure":
                self._bound[name] = replace(old, effect=worst((old.effect, held)))
        changed = frozenset(_changed(node))
        return Use(effect, reached, stored | changed, reached & self._tools.keys())

    def _definition(
        self,
        node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef,
        stored: frozenset[str],
        mentioned: frozenset[str],
    ) -> Use:
        """A function runs when it is called; its decorators and defaults, and a class, run now."""
        inner = self._effect_of_body(node, stored)
        if isinstance(node, ast.ClassDef):
            parts: list[ast.AST] = [*node.decorator_list, *node.bases, *node.keywords]
            parts += [part for part in node.body if not isinstance(part, _FUNCTIONS)]
            for part in ast.walk(node):
                if isinstance(part, _FUNCTIONS):
                    effect = self._effect_of_body(part, stored)
                    known = self._methods.get(part.name, "pure")
                    self._methods[part.name] = worst((effect, known))
        else:
            parts = [*node.decorator_list, *node.args.defaults]
            parts += [default for default in node.args.kw_defaults if default is not None]
        now = worst(self._effect(part, stored, set()) for part in parts)
        self._bound[node.name] = _Bound(inner, callable=True, names=mentioned - {node.name})
        reads = self._reach(frozenset().union(*(_loaded(part) for part in parts)))
        return Use(now, reads, frozenset({node.name}), reads & self._tools.keys())

    def _effect_of_body(self, node: ast.AST, stored: frozenset[str]) -> Effect:
        """Without what it mentions of the session, which may change before it is called."""
        return self._effect(node, stored | frozenset(_loaded(node)), set(), later=True)

    def _import(self, node: ast.Import | ast.ImportFrom) -> Use:
        effect: Effect = "pure"
        names = set()
        for alias in node.names:
            module = alias.name if isinstance(node, ast.Import) else node.module or ""
            top = module.partition(".")[0]
            known = top in sys.stdlib_module_names and top not in ODD_IMPORTS
            if not known and top not in PURE_MODULES:
                effect = "unknown"
            if isinstance(node, ast.ImportFrom):
                name, full = alias.asname or alias.name, f"{module}.{alias.name}"
                bound = _Bound(member(full), module=full, callable=True)
                if full in PURE_MODULES or alias.name == "*":
                    bound = _Bound(module=full)
            else:
                name = alias.asname or top
                bound = _Bound(module=module if alias.asname else top)
            if alias.name == "*" or getattr(node, "level", 0):
                effect = "unknown"
            self._bound[name] = bound
            names.add(name)
        return Use(effect, frozenset(), frozenset(names), frozenset())

    def _effect(
        self, node: ast.AST, local: frozenset[str], seen: set[str], later: bool = False
    ) -> Effect:
        """Of evaluating ``node``; ``local`` names are its own. ``later``: leave names aside."""
        found: list[Effect] = []
        called = {id(part.func) for part in ast.walk(node) if isinstance(part, ast.Call)}
        bases = {id(part.value) for part in ast.walk(node) if isinstance(part, ast.Attribute)}
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
                if not later or part.id in self._tools:
                    found.append(self._name(part.id, local, seen))
                if id(part) not in called | bases:
                    found.append(self._handed_on(part.id))
            elif isinstance(part, ast.Attribute):
                if part.attr.startswith("__"):
                    found.append("unknown")
                if id(part) not in called | bases:
                    found.append(self._attribute(part) or "pure")
            elif isinstance(part, ast.Import | ast.ImportFrom):
                # Not seen by what follows in the same statement, so only the harmless ones.
                modules = [part.module] if isinstance(part, ast.ImportFrom) else []
                modules += [a.name for a in part.names] if isinstance(part, ast.Import) else []
                harmless = all(name in PURE_MODULES for name in modules)
                found.append("pure" if harmless else "unknown")
            elif isinstance(part, ast.Call):
                found.append(self._call(part, local, later))
            elif isinstance(part, ast.Nonlocal | ast.ClassDef) and not later:
                found.append("unknown")
        return worst(found)

    def _handed_on(self, name: str) -> Effect:
        """Of a name that is neither called nor looked into, so that others may do both."""
        bound = self._bound.get(name)
        if bound is None:
            return "write" if name == "open" else "pure"
        is_module = bool(bound.module) and not bound.callable
        return "unknown" if is_module and bound.module not in PURE_MODULES else "pure"

    def _attribute(self, node: ast.Attribute) -> Effect | None:
        """Of a module's member by its full name; None if it is no module's."""
        dotted = _dotted(node)
        root = dotted.partition(".")[0]
        bound = self._bound.get(root)
        if bound is None or not bound.module or bound.callable:
            return None
        return member(bound.module + dotted[len(root) :])

    def _name(self, name: str, local: frozenset[str], seen: set[str]) -> Effect:
        if name in self._tools and name not in self._bound:
            return self._tools[name]
        bound = self._bound.get(name)
        if bound is None:
            if name in local:
                return "pure"
            if name == "open":
                return "pure"  # judged by its arguments where it is called
            known = name not in IMPURE_BUILTINS and hasattr(builtins, name)
            return "pure" if known else "unknown"
        effects: list[Effect] = [bound.effect]
        if name in self._tools:
            effects.append(self._tools[name])
        if bound.names and name not in seen:
            seen.add(name)
            for inner in bound.names:
                # A function's own names are not in the session, nor need they be.
                if inner in self._bound or inner in self._tools or inner in IMPURE_BUILTINS:
                    own = frozenset({inner}) - IMPURE_BUILTINS
                    effects.append(self._name(inner, own, seen))
        return worst(effects)

    def _call(self, call: ast.Call, local: frozenset[str], later: bool) -> Effect:
        """What is known of the thing that is called; its name and arguments count on their own."""
        function = call.func
        if isinstance(function, ast.Name):
            name = function.id
            if name == "open" and name not in self._bound:
                return _opened(call)
            bound = self._bound.get(name)
            if bound is not None and not bound.callable and not later:
                return "unknown"  # a value: who knows what it does
            if bound is None and name not in self._tools and not hasattr(builtins, name):
                return "pure" if later else "unknown"
            return "pure"
        if isinstance(function, ast.Attribute):
            if (effect := self._attribute(function)) is not None:
                return effect
            if function.attr in self._methods:
                return self._methods[function.attr]
            return "pure" if function.attr in METHODS else "unknown"
        return "pure" if isinstance(function, ast.Lambda) else "unknown"

    def _held(self, node: ast.AST, stored: frozenset[str]) -> Effect:
        """Effect of what may have been put into values: tools and functions not called by name."""
        called = {
            id(call.func)
            for call in ast.walk(node)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        }
        return worst(
            self._name(part.id, stored, set())
            for part in ast.walk(node)
            if isinstance(part, ast.Name)
            and isinstance(part.ctx, ast.Load)
            and (id(part) not in called or part.id not in self._tools)
            and (part.id in self._tools or part.id in self._bound)
        )

    def _reach(self, names: frozenset[str]) -> frozenset[str]:
        """Names, and those that functions among them mention."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self._bound[name].names if name in self._bound else ()
        return frozenset(found)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def effect_of(source: str, tools: Mapping[str, str], pure_names: Iterable[str] = ()) -> Effect:
    """Effect of one statement that stands alone: names it does not know are unknown.

    Raises:
        InputError: a tool's effect is none of pure, read, write, irreversible.
        SyntaxError: it cannot be parsed.
    """
    return Effects(tools, pure_names).take(source).effect


def _opened(call: ast.Call) -> Effect:
    """``open`` of a file to read it reads; anything else writes."""
    modes = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "mode")]
    plain = not any(isinstance(arg, ast.Starred) for arg in call.args)
    named = all(k.arg in ("mode", "encoding", "newline", "errors") for k in call.keywords)
    if plain and named and all(isinstance(mode, ast.Constant) for mode in modes):
        texts = {str(mode.value) for mode in modes if isinstance(mode, ast.Constant)}
        return "read" if texts <= {"r", "rb", "rt"} else "write"
    return "write"


def _dotted(node: ast.expr) -> str:
    """``a.b.c`` of names and attributes; "" for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _loaded(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Store):
            yield part.id
        elif isinstance(part, ast.AugAssign) and isinstance(part.target, ast.Name):
            yield part.target.id


def _stored(node: ast.AST) -> Iterator[str]:
    """Names bound anywhere within, parameters and inner functions too."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
            yield part.id
        elif isinstance(part, ast.arg):
            yield part.arg
        elif isinstance(part, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and part.name:
            yield part.name
        elif isinstance(part, ast.MatchMapping) and part.rest:
            yield part.rest
        elif isinstance(part, ast.alias):
            yield part.asname or part.name.partition(".")[0]
        elif isinstance(part, *_DEFINITIONS):
            yield part.name


_DEFINITIONS = ((ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),)


def _changed(node: ast.AST) -> Iterator[str]:
    """Names of values that may be changed in place: by methods, items or attributes."""
    for part in ast.walk(node):
        base: ast.expr | None = None
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
            base = part.func
        elif isinstance(part, ast.Attribute | ast.Subscript) and not isinstance(part.ctx, ast.Load):
            base = part
        while isinstance(base, ast.Attribute | ast.Subscript):
            base = base.value
        if isinstance(base, ast.Name):
            yield base.id
