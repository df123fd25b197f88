"""Feedback from reading code, without running it."""

import ast
import builtins
import difflib
import symtable
import sys
from collections.abc import Iterable, Iterator

from stretto.agents.actions import Splitter
from stretto.agents.feedback.kinds import Feedback, explain_error, one_line

_MODULE_NAMES = frozenset({"__name__", "__file__", "__doc__", "__builtins__", "__annotations__"})


def syntax(code: str) -> Feedback:
    """Whether it can be parsed."""
    splitter = Splitter()
    splitter.push(code)
    splitter.finish()
    wrong = splitter.error
    if wrong is None:
        return Feedback("binary", True, "the syntax is right", "syntax")
    pointer = " " * (wrong.column - 1) + "^"
    return Feedback(
        "binary",
        False,
        one_line(f"line {wrong.line}: SyntaxError: {wrong.message}"),
        "syntax",
        line=wrong.line,
        details={
            "trace": f"{wrong.source_line}\n{pointer}",
            "explain": explain_error("SyntaxError", "", wrong.hint),
        },
    )


def names(code: str, known: Iterable[str] = (), modules: Iterable[str] = ()) -> Feedback:
    """Whether every name is assigned somewhere, and every import can be had.

    Args:
        code: a whole text.
        known: names that the session has, such as tools.
        modules: importable beside the standard library.
    """
    try:
        tree = ast.parse(code)
        table = symtable.symtable(code, "<code>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return syntax(code)
    found = sorted({*_missing(tree, frozenset(modules)), *_unbound(tree, table, frozenset(known))})
    if not found:
        return Feedback("binary", True, "every name is known", "names")
    line, message = found[0]
    rest = "\n".join(f"line {line}: {message}" for line, message in found[:20])
    name = message.split("'")[1]
    given = [*known, *_top_names(table), *dir(builtins)]
    near = difflib.get_close_matches(name, sorted(set(given)), n=1)
    hint = f"did you mean {near[0]}?" if near else None
    kind = message.partition(":")[0]
    source_line = code.splitlines()[line - 1]
    return Feedback(
        "binary",
        False,
        one_line(f"line {line}: {message}"),
        "names",
        line=line,
        details={"trace": rest, "explain": explain_error(kind, source_line, hint)},
    )


def _missing(tree: ast.Module, modules: frozenset[str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        wanted: list[str] = []
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            wanted = [node.module]
        for module in wanted:
            top = module.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in modules:
                yield node.lineno, f"ModuleNotFoundError: no module '{top}'"  # type: ignore[attr-defined]


def _unbound(
    tree: ast.Module, table: symtable.SymbolTable, known: frozenset[str]
) -> Iterator[tuple[int, str]]:
    if any(isinstance(n, ast.ImportFrom) and n.names[0].name == "*" for n in ast.walk(tree)):
        return  # nobody knows what came in
    bound = known | frozenset(dir(builtins)) | _MODULE_NAMES | _top_names(table)
    loose = {name for name in _globals(table) if name not in bound}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in loose:
            yield node.lineno, f"NameError: name '{node.id}' is not assigned anywhere"


def _top_names(table: symtable.SymbolTable) -> frozenset[str]:
    """Names bound in the module's scope, by it or by functions that declare them global."""
    found = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
    waiting = list(table.get_children())
    found |= {child.get_name() for child in waiting if child.get_type() in ("function", "class")}
    while waiting:
        child = waiting.pop()
        waiting += child.get_children()
        found |= {
            s.get_name() for s in child.get_symbols() if s.is_declared_global() and s.is_assigned()
        }
    return frozenset(found)


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    """Names that are read from the module's scope or the builtins."""
    top = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (top or symbol.is_global()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _globals(child)
