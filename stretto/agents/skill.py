"""A skill: a function that an agent wrote, with what is needed to trust it and to find it."""

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from stretto.agents.feedback import Test
from stretto.errors import InputError

SkillEffect = Literal["pure", "read", "write"]
Evidence = Literal["", "hidden", "examples", "generated"]

_MAX_DOC = 240  # characters of a description in a stub
_MAX_SIGNATURE = 400
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Stats:
    """How the uses of a version went: how many, how many well, and the last failure's reason."""

    uses: int = 0
    successes: int = 0
    why: str = ""


@dataclass(frozen=True)
class Skill:
    """A function with its helpers, its tests, and where it comes from.

    Attributes:
        name: of the function, in words of small letters and digits joined by ``_``.
        code: imports, definitions and plain assignments; defines ``name``.
        tests: code that raises when something is wrong; stored, so none is hidden.
        doc: what it does, for finding it; the function's own docstring if empty.
        deps: other skills that it calls.
        tools: tools of the host that it calls.
        effect: the most that it may do. What cannot be told from code counts as write.
        provenance: where it comes from: run, model, whether scripted, folder; JSON values.
        version: from 1; 0 before a library has admitted it.
        signature: head of the function; a library fills it in.
        evidence: what showed that it does more than pass its tests, the strongest first:
            ``hidden`` checks of the caller, ``examples`` of its docstring that are no tests, or
            ``generated`` inputs, whose answers nobody knew: only their kind was looked at.
        probes: calls that were tried, with what they gave: pairs of arguments and outcome.
        stats: uses of this version.
    """

    name: str
    code: str
    tests: tuple[Test, ...] = ()
    doc: str = ""
    deps: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    effect: SkillEffect = "pure"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    version: int = 0
    signature: str = ""
    evidence: Evidence = ""
    probes: tuple[tuple[str, str], ...] = ()
    stats: Stats = field(default_factory=Stats)

    @property
    def text(self) -> str:
        """What it is found by."""
        return f"{self.name} {self.name} {self.doc} {self.signature}"

    def stub(self) -> str:
        """Head and description, for a prompt. A stranger's words stay within the docstring."""
        doc = " ".join(part for part in self.doc.split("\n\n")[0].split() if part)
        doc = "".join(char if char.isprintable() else " " for char in doc)
        doc = doc.replace("\\", "/").replace('"', "'")
        doc = doc if len(doc) <= _MAX_DOC else doc[: _MAX_DOC - 3] + "..."
        head = self.signature
        if len(head) > _MAX_SIGNATURE:
            head = f"def {self.name}(*args, **kwargs):"
        return f'{head}\n    """{doc or "No description."}"""\n    ...'


@dataclass(frozen=True)
class Verdict:
    """Whether a skill was admitted; if not, why; the skill as it is stored."""

    ok: bool
    reasons: tuple[str, ...] = ()
    skill: Skill | None = None


def function_of(code: str, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The function of this name at the top of the code. Raises SyntaxError."""
    found = [node for node in ast.parse(code).body if isinstance(node, FUNCTIONS)]
    return next((node for node in reversed(found) if node.name == name), None)


def described(skill: Skill) -> Skill:
    """With signature, and a description if it has none, read from the code.

    Raises:
        InputError: the code cannot be parsed or does not define the function.
    """
    try:
        node = function_of(skill.code, skill.name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"skill {skill.name}: the code cannot be parsed: {error}") from None
    if node is None:
        raise InputError(f"skill {skill.name}: the code defines no function {skill.name}")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    signature = f"{word} {node.name}({ast.unparse(node.args)}){returns}:"
    doc = skill.doc or ast.get_docstring(node) or ""
    return replace(skill, signature=signature, doc=doc.strip())


def digest(code: str) -> str:
    """The same for codes that differ only in layout, docstrings, and names they themselves give."""
    tree = ast.parse(code)
    given: dict[str, str] = {}
    for name in _given(tree):
        given.setdefault(name, f"_{len(given)}")
    text = ast.dump(_Plain(given).visit(tree))
    return hashlib.sha256(text.encode()).hexdigest()


def _given(tree: ast.AST) -> Iterator[str]:
    """Names of functions, classes, parameters and variables in the order of the text."""
    nodes = [node for node in ast.walk(tree) if hasattr(node, "lineno")]
    nodes.sort(key=lambda node: (node.lineno, node.col_offset))  # type: ignore[attr-defined]
    for node in nodes:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


class _Plain(ast.NodeTransformer):
    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._given.get(node.id, node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(self._given.get(node.arg, node.arg))

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Module)):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
            if not isinstance(node, ast.Module):
                node.name = self._given.get(node.name, node.name)
            if isinstance(node, FUNCTIONS):
                node.returns = None
        return super().generic_visit(node)


def to_record(skill: Skill) -> dict[str, Any]:
    """As stored; statistics are kept apart."""
    record = {
        "name": skill.name,
        "version": skill.version,
        "signature": skill.signature,
        "doc": skill.doc,
        "code": skill.code,
        "tests": [{"name": test.name, "code": test.code} for test in skill.tests],
        "deps": list(skill.deps),
        "tools": list(skill.tools),
        "effect": skill.effect,
        "provenance": dict(skill.provenance),
        "evidence": skill.evidence,
        "probes": [list(pair) for pair in skill.probes],
    }
    return record | {"sha256": _sum(record)}


def from_record(record: Any) -> Skill:
    """A stored skill.

    Raises:
        InputError: it is damaged, or was changed since it was admitted.
    """
    if not isinstance(record, dict):
        raise InputError("no skill is in the file")
    record = dict(record)
    if record.pop("sha256", None) != _sum(record):
        raise InputError("the file was changed since the skill was admitted")
    tests = tuple(Test(test["name"], test["code"]) for test in record.pop("tests"))
    probes = tuple((given, gave) for given, gave in record.pop("probes"))
    for name in ("deps", "tools"):
        record[name] = tuple(record[name])
    return Skill(tests=tests, probes=probes, **record)


def _sum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
