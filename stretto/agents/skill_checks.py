"""What a skill has to show before a library takes it: first by being read, then in a sandbox.

Reading refuses what would harm other skills loaded beside it, and effects that are not declared.
It is no guard: skills run in sandboxes only, whatever was found here.
"""

import ast
import builtins
import doctest
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

from stretto.agents.effects import Effects
from stretto.agents.feedback import Test, doctests, names, suspects, syntax, unit_tests
from stretto.agents.known_effects import ORDER
from stretto.agents.sandbox import Session
from stretto.agents.skill import FUNCTIONS, Evidence, Skill, digest, function_of
from stretto.agents.skill_probes import Outcomes, calls_in, probe, variations
from stretto.errors import InputError

_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_MAX_NAME = 64
_MAX_CODE = 64 << 10
_MAX_DOC = 8 << 10
_MAX_TESTS = 100
_MAX_TEST_NAME = 100
_MAX_DEPTH = 100  # of code within code: reading goes by recursion
_MAX_SHARED = 256  # inputs on which a skill is compared with others
_STUB = "def {name}(*args, **kwargs):\n    return None\n"
_BROKEN = frozenset({"raises NameError", "raises UnboundLocalError"})
_PEEPING = frozenset({"builtins", "ctypes", "gc", "importlib", "inspect", "sys"})
_DYNAMIC = frozenset({"__import__", "compile", "eval", "exec", "globals", "locals", "vars"})
_PLAIN = (ast.Import, ast.ImportFrom, *FUNCTIONS, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Pass)


def closure(skills: Mapping[str, Skill], wanted: Iterable[str]) -> list[str]:
    """The names wanted and all they depend on, each after its dependencies.

    Raises:
        InputError: one is not there, or they depend on each other in a circle.
    """
    order: list[str] = []
    entered: list[str] = []

    def enter(name: str) -> None:
        if name in order:
            return
        if name in entered:
            circle = " -> ".join([*entered[entered.index(name) :], name])
            raise InputError(f"skills depend on each other in a circle: {circle}")
        if name not in skills:
            by = f", which {entered[-1]} needs" if entered else ""
            raise InputError(f"there is no skill {name!r}{by}")
        entered.append(name)
        for dep in skills[name].deps:
            enter(dep)
        entered.pop()
        order.append(name)

    for name in wanted:
        enter(name)
    return order


def source(skills: Mapping[str, Skill], wanted: Iterable[str]) -> str:
    """The code of :func:`closure`, in that order."""
    return "\n\n".join(skills[name].code.strip() + "\n" for name in closure(skills, wanted))


def form(skill: Skill) -> list[str]:
    """What is wrong with a skill whatever else there is; lines to be shown."""
    wrong = []
    if not _NAME.fullmatch(skill.name) or len(skill.name) > _MAX_NAME:
        wrong.append(f"name {skill.name!r}: use words of a-z and 0-9 joined by _, at most 64 long")
    elif hasattr(builtins, skill.name):
        wrong.append(f"name {skill.name!r} is Python's own")
    if len(skill.code) > _MAX_CODE or len(skill.doc) > _MAX_DOC:
        wrong.append(f"too long: at most {_MAX_CODE} characters of code, {_MAX_DOC} of description")
    if not skill.tests:
        wrong.append("it has no tests")
    if len(skill.tests) > _MAX_TESTS:
        wrong.append(f"it has {len(skill.tests)} tests; at most {_MAX_TESTS}")
    if any(test.hidden for test in skill.tests):
        wrong.append("its tests are stored with it: give hidden ones as checks")
    if skill.effect not in ("pure", "read", "write"):
        wrong.append(f"effect {skill.effect!r}: choose from pure, read, write")
    try:
        json.dumps(dict(skill.provenance))
    except (TypeError, ValueError):
        wrong.append("provenance has to be JSON values by name")
    for test in skill.tests:
        if not test.name.isprintable() or len(test.name) > _MAX_TEST_NAME:
            wrong.append(f"test {test.name[:20]!r}: a name of one line, at most 100 characters")
    for what, code in (("", skill.code), *((f"test {t.name}: ", t.code) for t in skill.tests)):
        if told := _unreadable(code):
            wrong.append(what + told)
    if wrong:
        return wrong
    node = function_of(skill.code, skill.name)
    if node is None:
        return [f"the code defines no function {skill.name}"]
    if not skill.doc.strip() and not ast.get_docstring(node):
        return ["it has no description: give doc, or the function a docstring"]
    mute = [test for test in skill.tests if skill.name not in _mentioned(test.code)]
    return [f"test {test.name} does not use {skill.name}" for test in mute]


def _unreadable(code: str) -> str:
    if not (told := syntax(code)).good:
        return told.text
    try:
        level: list[ast.AST] = [ast.parse(code)]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"it cannot be parsed: {type(error).__name__}"
    for _ in range(_MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return ""
    return f"code within code more than {_MAX_DEPTH} deep"


def read(
    skill: Skill,
    others: Mapping[str, Skill],
    tools: Mapping[str, str],
    modules: Sequence[str],
    resting: Mapping[str, str],
) -> list[str]:
    """What reading tells against a skill whose :func:`form` is right.

    Args:
        skill: the candidate.
        others: the library, each in its latest version; one of the same name is replaced.
        tools: effect by tool.
        modules: importable beside the standard library.
        resting: skills in quarantine, with the reason.
    """
    view = {**others, skill.name: skill}
    wrong = [f"there is no tool {name!r}" for name in skill.tools if name not in tools]
    wrong += [f"it needs {name}, which is in quarantine" for name in skill.deps if name in resting]
    try:
        order = closure(view, [skill.name])
    except InputError as error:
        return [*wrong, str(error)]
    tree = ast.parse(skill.code)
    wrong += _top_level(tree)
    if not (told := names(skill.code, [*skill.deps, *skill.tools], modules)).good:
        known = sorted(name for name in _mentioned(skill.code) if name in others)
        hint = f" (declare in deps: {', '.join(known)})" if known and not skill.deps else ""
        wrong.append(told.text + hint)
    wrong += _effects(skill, [view[name] for name in order], tools)
    wrong += [f"it could deceive its tests: {doubt}" for doubt in suspects(skill.code)]
    wrong += [f"it could see its tests by {name}" for name in sorted(_peeping(tree))]
    wrong += _changes(tree, {*skill.deps, *skill.tools})
    wrong += _collisions(skill, others, tools)
    mine = digest(skill.code)
    for name in sorted(others):
        if name != skill.name and digest_of(others[name]) == mine:
            where = ", which is in quarantine" if name in resting else ""
            wrong.append(f"it is the same code as {name} but for names{where}")
    return wrong


async def run(
    skill: Skill, checks: Sequence[Test], session: Session
) -> tuple[list[str], Evidence, Outcomes]:
    """What running tells: reasons against it, what speaks for it, and what its calls gave.

    Args:
        skill: whose dependencies are loaded in the session already.
        checks: tests that nobody who wrote the skill has seen; never named in a reason.
        session: of a fresh sandbox; all runs in forks of it.
    """
    told = await unit_tests(skill.code, skill.tests, session)
    if not told.good:
        return [f"its tests: {told.text}"], "", {}
    if skill.effect == "pure":
        nothing = _STUB.format(name=skill.name)
        if (await unit_tests(nothing, skill.tests, session)).good:
            return ["its tests pass for a function that returns nothing: they test nothing"], "", {}
    shown = await doctests(skill.code, session)
    if not shown.good:
        return [f"its docstring: {shown.text}"], "", {}
    if checks:
        hidden = [Test(test.name, test.code, hidden=True) for test in checks]
        told = await unit_tests(skill.code, hidden, session)
        if not told.good:
            missed = len(hidden) - round(float(told.value) * len(hidden))
            return [f"it fails {missed} of {len(hidden)} hidden checks"], "", {}
    tested = calls_in([test.code for test in skill.tests], skill.name)
    named = calls_in(_prompts(skill), skill.name)
    new = [given for given in variations(tested or named) if given not in named]
    known, tried = await probe(skill, [*tested, *named], new, session)
    outcomes = known | tried
    if checks:
        return [], "hidden", outcomes
    if set(named) - set(tested):
        return [], "examples", outcomes
    return _judged(known, tried), "generated", outcomes


async def twins(skill: Skill, others: Iterable[Skill], session: Session) -> list[str]:
    """Skills that give what this one gives wherever both were tried, as reasons against it.

    Only those with three inputs or more and answers that differ count: fewer prove nothing.
    """
    telling = [other for other in others if other.name != skill.name and _telling(other)]
    inputs = list(dict.fromkeys(given for other in telling for given, _ in other.probes))
    _, gave = await probe(skill, [], inputs[:_MAX_SHARED], session, apart=False)
    return [
        f"it gives what {other.name} gives on all {len(other.probes)} inputs tried"
        for other in telling
        if all(gave.get(given) == outcome for given, outcome in other.probes)
    ]


def _telling(skill: Skill) -> bool:
    answers = {gave for _, gave in skill.probes if not gave.startswith("raises ")}
    return len(skill.probes) >= 3 and len(answers) >= 2


def _judged(known: Outcomes, tried: Outcomes) -> list[str]:
    """Whether answers nobody knew are at least of a kind that its tests know."""
    if not tried:
        return [
            "nothing shows that it does more than pass its tests: give hidden checks, or an "
            "example in its docstring that is no test (no call in its tests has plain arguments)"
        ]
    if broken := sorted(_BROKEN & set(tried.values())):
        return [f"it {broken[0]} on inputs near those of its tests"]
    kinds = {_kind(gave) for gave in known.values()}
    if not any(_kind(gave) in kinds for gave in tried.values() if not _raised(gave)):
        seen = ", ".join(sorted({_kind(gave) for gave in tried.values()}))
        return [
            f"on {len(tried)} inputs near those of its tests it gives only: {seen}, never "
            f"{' or '.join(sorted(kinds))}; give hidden checks if that is right"
        ]
    return []


def _kind(outcome: str) -> str:
    kind = outcome if _raised(outcome) else outcome.partition(" ")[0]
    return "number" if kind in ("int", "float") else kind


def _raised(outcome: str) -> bool:
    return outcome.startswith("raises ")


def _top_level(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not isinstance(node, _PLAIN) and not is_text:
            yield f"line {node.lineno}: only imports, definitions and assignments may stand there"
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            yield f"line {node.lineno}: __future__ cannot be imported between other skills"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or node.names[0].name == "*"):
            yield f"line {node.lineno}: import names one by one, from a module by its full name"


def _effects(skill: Skill, order: Sequence[Skill], tools: Mapping[str, str]) -> Iterator[str]:
    """Against what it may do and does not say, its dependencies' doings included."""
    effects = Effects(tools)
    loading = "pure"
    for each in order:
        loading = effects.take(each.code).effect
    if loading != "pure":
        yield "loading it would do more than define things: move that into the function"
    use = effects.take(f"{skill.name}()")
    declared = {*skill.tools, *(name for each in order for name in each.tools)}
    for name in sorted(use.tools - declared):
        yield f"it calls the tool {name}, which it does not declare"
    if ORDER.index(use.effect) > ORDER.index(skill.effect) and skill.effect != "write":
        what = {
            "unknown": "what it does cannot be told from the code, which counts as write",
            "write": "it may write",
            "read": "it may read files, or by a tool",
        }[use.effect]
        yield f"{what}; it declares {skill.effect}"


def packages(code: str) -> set[str]:
    """What the code imports that is not of the standard library."""
    return _imported(ast.parse(code)) - sys.stdlib_module_names


def _imported(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def _peeping(tree: ast.Module) -> set[str]:
    called = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return {*(_DYNAMIC & called), *(_PEEPING & _imported(tree))}


def _changes(tree: ast.Module, lent: set[str]) -> Iterator[str]:
    """Assignments into modules and other things that are not the skill's own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            lent |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            base: ast.expr = node
            while isinstance(base, ast.Attribute | ast.Subscript):
                base = base.value
            if isinstance(base, ast.Name) and base.id in lent:
                yield f"line {node.lineno}: it changes {base.id}, which others use too"


def _collisions(
    skill: Skill, others: Mapping[str, Skill], tools: Mapping[str, str]
) -> Iterator[str]:
    """All skills of a session share one scope: no name may mean two things."""
    mine = bindings(skill)
    for name in sorted(mine):
        if hasattr(builtins, name):
            yield f"{name} would hide Python's own {name}: call it otherwise"
        if name in tools:
            yield f"{name} would hide the tool {name}: call it otherwise"
    for other in (others[name] for name in sorted(others) if name != skill.name):
        theirs = bindings(other)
        for name in sorted(mine.keys() & theirs.keys()):
            if mine[name] != theirs[name] or mine[name] == "own":
                yield f"{name} means another thing in the skill {other.name}: call it otherwise"


_digests: dict[str, str] = {}
_bindings: dict[str, dict[str, str]] = {}
_MAX_KEPT = 20_000


def digest_of(skill: Skill) -> str:
    """:func:`digest`, remembered by code: a library asks for all of them, often."""
    if skill.code not in _digests:
        if len(_digests) >= _MAX_KEPT:
            _digests.clear()
        _digests[skill.code] = digest(skill.code)
    return _digests[skill.code]


def bindings(skill: Skill) -> dict[str, str]:
    """What each name at the top of the code stands for: a module, its member, or ``own``."""
    if skill.code in _bindings:
        return _bindings[skill.code]
    tree = ast.parse(skill.code)
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            found |= dict.fromkeys(node.names, "own")
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                found[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            found[node.name] = "own"
        else:
            for part in ast.walk(node):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    found[part.id] = "own"
    if len(_bindings) >= _MAX_KEPT:
        _bindings.clear()
    _bindings[skill.code] = found
    return found


def _mentioned(code: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


def _prompts(skill: Skill) -> list[str]:
    """The docstring's examples, without their answers."""
    node = function_of(skill.code, skill.name)
    text = (ast.get_docstring(node) if node else None) or ""
    return [example.source for example in doctest.DocTestParser().get_examples(text)]
