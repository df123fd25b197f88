"""Feedback from running code: always in a fork of a sandbox's session, never here."""

import ast
import difflib
import doctest
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stretto.agents.feedback.kinds import Feedback, explain_error, is_stable, one_line, scrub
from stretto.agents.feedback.read import syntax
from stretto.agents.stream import CellSession

_MAX_LINES = 20  # of a difference or a list of failures
_CHECKER = doctest.OutputChecker()
_MISS = "Expected and got differ"


@dataclass(frozen=True)
class Test:
    """A piece of code that raises when something is wrong; a hidden one is never shown."""

    __test__ = False  # not one of pytest's

    name: str
    code: str
    hidden: bool = False


async def exit_state(code: str, session: CellSession) -> Feedback:
    """Whether it runs to its end."""
    result = await _run(session, code)
    if result.ok:
        return Feedback(
            "binary", True, "it ran to its end", "exit", cost=1, deterministic=is_stable(code)
        )
    return _failed(result, code, "exit")


async def assertions(code: str, session: CellSession) -> Feedback:
    """As :func:`exit_state`; a comparison that fails also tells both of its sides."""
    if not (read := syntax(code)).good:
        return read
    result = await _run(session, _telling(code))
    count = sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code)))
    if result.ok:
        text = f"all is well with {count} assertions"
        return Feedback("binary", True, text, "assertions", cost=1, deterministic=is_stable(code))
    return _failed(result, code, "assertions")


async def doctests(code: str, session: CellSession) -> Feedback:
    """The share of examples in docstrings that give what they say.

    They run in order in one fork; reward 1 where there are none.
    """
    if not (read := syntax(code)).good:
        return read
    examples = _examples(code)
    stable = is_stable(code)
    if not examples:
        return Feedback("reward", 1.0, "no examples in docstrings", "doctest", confidence=0.0)
    copy = await session.fork()
    try:
        result = await copy.exec(code)
        if not result.ok:
            return _failed(result, code, "doctest")
        misses = []
        for line, example in examples:
            got = await copy.exec(example.source)
            told = got.stdout + ("" if got.value_repr in (None, "None") else got.value_repr + "\n")
            if got.ok and example.exc_msg is None:
                right = _CHECKER.check_output(example.want, told, 0)
            else:
                told = f"{got.error.type}: {got.error.message}\n" if got.error else "stopped\n"
                right = not got.ok and (example.exc_msg or "").strip() == told.strip()
            if not right:
                misses.append((line, example.source.strip(), example.want.strip(), told.strip()))
    finally:
        await copy.close()
    share = 1 - len(misses) / len(examples)
    text = f"{len(examples) - len(misses)} of {len(examples)} examples are right"
    if not misses:
        return Feedback("reward", share, text, "doctest", len(examples) + 1, deterministic=stable)
    line, source, want, told = misses[0]
    trace = "\n".join(
        f"line {line}: {source}\n  expected {want}\n  got {scrub(told)}"
        for line, source, want, told in misses[: _MAX_LINES // 3]
    )
    return Feedback(
        "reward",
        share,
        one_line(f"{text}; line {line}: {source} gives {told}, not {want}"),
        "doctest",
        cost=len(examples) + 1,
        deterministic=stable,
        line=line,
        details={"trace": trace, "explain": f"{_MISS}: either the docstring or the code is wrong"},
    )


async def unit_tests(code: str, tests: Sequence[Test], session: CellSession) -> Feedback:
    """The share of tests that pass, each in a fork of its own after the code has run.

    The value counts all tests; the texts tell of hidden ones only how many there are and how many
    pass. A test passes if it reaches its end, which leaving the process does not.
    """
    doubts = suspects(code)
    stable, confidence = is_stable(code), 0.5 if doubts else 1.0
    copy = await session.fork()
    try:
        result = await copy.exec(code)
        if not result.ok:
            failed = _failed(result, code, "tests")
            details = dict(failed.details)
            return Feedback(
                "reward", 0.0, failed.text, "tests", 1, 1.0, stable, failed.line, details
            )
        outcomes = [(test, *await _passes(copy, test)) for test in tests]
    finally:
        await copy.close()
    passed = sum(ok for _, ok, _ in outcomes)
    seen = [(test, ok, why) for test, ok, why in outcomes if not test.hidden]
    text = f"{sum(ok for _, ok, _ in seen)} of {len(seen)} tests pass"
    if len(seen) < len(tests):
        hidden = len(tests) - len(seen)
        text += f"; {passed - sum(ok for _, ok, _ in seen)} of {hidden} hidden ones"
    misses = [(test, why) for test, ok, why in seen if not ok]
    details = {}
    if misses:
        text = one_line(f"{text}; {misses[0][0].name}: {misses[0][1]}")
        listed = (f"{test.name}: {why}\n{test.code.strip()}" for test, why in misses)
        details["trace"] = "\n".join("\n".join(listed).splitlines()[:_MAX_LINES])
        details["explain"] = explain_error(misses[0][1].partition(":")[0])
    if doubts:
        details["explain"] = "\n".join([*filter(None, [details.get("explain")]), *doubts])
    share = passed / len(tests) if tests else 0.0
    return Feedback(
        "reward", share, text, "tests", len(tests) + 1, confidence, stable, details=details
    )


async def output_difference(code: str, expected: str, session: CellSession) -> Feedback:
    """Whether it prints what it should; blanks at the ends of lines do not count."""
    result = await _run(session, code)
    if not result.ok:
        return _failed(result, code, "output")
    got = [line.rstrip() for line in scrub(result.stdout).rstrip().splitlines()]
    want = [line.rstrip() for line in expected.rstrip().splitlines()]
    stable = is_stable(code)
    if got == want:
        return Feedback(
            "binary", True, "the output is as expected", "output", 1, deterministic=stable
        )
    first = next(
        (i for i, pair in enumerate(zip(got, want, strict=False)) if pair[0] != pair[1]),
        min(len(got), len(want)),
    )
    told = repr(got[first]) if first < len(got) else "nothing more"
    meant = repr(want[first]) if first < len(want) else "nothing more"
    lines = list(difflib.unified_diff(want, got, "expected", "got", lineterm="", n=1))
    return Feedback(
        "binary",
        False,
        one_line(f"output line {first + 1} is {told}, not {meant}"),
        "output",
        1,
        deterministic=stable,
        details={
            "trace": "\n".join(lines[:_MAX_LINES]),
            "explain": f"{_MISS} from output line {first + 1} on: "
            f"{len(want)} lines expected, {len(got)} got",
        },
    )


def ranking(feedbacks: Sequence[Feedback]) -> Feedback:
    """Places of samples in order of their values, best first; equals in their given order."""
    order = sorted(range(len(feedbacks)), key=lambda i: -float(feedbacks[i].value))
    values = ", ".join(f"{i} ({float(feedbacks[i].value):.3g})" for i in order[:_MAX_LINES])
    return Feedback(
        "ranking",
        order,
        f"best first: {values}",
        "ranking",
        sum(feedback.cost for feedback in feedbacks),
        min((feedback.confidence for feedback in feedbacks), default=1.0),
        all(feedback.deterministic for feedback in feedbacks),
    )


def suspects(code: str) -> list[str]:
    """Ways to pass tests without solving the task that the code may use; a hint, no proof."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.name in ("__eq__", "__ne__", "__lt__"):
            returned = [n.value for n in ast.walk(node) if isinstance(n, ast.Return)]
            if any(isinstance(value, ast.Constant) for value in returned):
                found.add(f"{node.name} gives a constant, so that any comparison may pass")
        if isinstance(node, ast.Attribute) and node.attr in ("exit", "_exit"):
            found.add(f"it may leave by {node.attr}()")
        if isinstance(node, ast.Name) and node.id in ("exit", "quit", "SystemExit"):
            found.add(f"it may leave by {node.id}")
        if isinstance(node, ast.Name | ast.alias):
            name = node.id if isinstance(node, ast.Name) else node.name
            if name in ("builtins", "AssertionError", "unittest", "__builtins__"):
                found.add(f"it reaches for {name}")
        if isinstance(node, ast.Attribute) and node.attr in ("settrace", "_getframe", "f_back"):
            found.add(f"it looks at its caller by {node.attr}")
    return sorted(found)


async def _run(session: CellSession, code: str) -> Any:
    copy = await session.fork()
    try:
        return await copy.exec(code)
    finally:
        await copy.close()


async def _passes(session: CellSession, test: Test) -> tuple[bool, str]:
    """Whether a test reaches its end, and why not."""
    # Known to nobody beforehand, so that no code can end early and look finished.
    mark = secrets.token_hex(16)
    result = await _run(session, f"{_telling(test.code)}\n{mark!r}")
    if result.ok and result.value_repr == repr(mark):
        return True, ""
    if result.error is None:
        return False, "it stopped before its end"
    return False, one_line(f"{result.error.type}: {result.error.message}")


def _failed(result: Any, code: str, source: str) -> Feedback:
    error = result.error
    kind = error.type if error else "LimitReached"
    message = error.message if error else f"the {result.limit} limit was reached"
    line = error.line if error else None
    lines = code.splitlines()
    written = lines[line - 1] if line and line <= len(lines) else ""
    where = f"line {line}: " if line else ""
    trace = scrub(getattr(error, "traceback", "") or written).strip()
    if result.stdout.strip():
        printed = scrub(result.stdout).strip().splitlines()[-5:]
        trace += "\nlast printed:\n" + "\n".join(printed)
    hint = getattr(error, "hint", None)
    return Feedback(
        "binary",
        False,
        one_line(f"{where}{kind}: {message}"),
        source,
        cost=1,
        deterministic=is_stable(code) and result.limit in (None, "calls", "output"),
        line=line,
        details={"trace": trace, "explain": explain_error(kind, written, hint)},
    )


def _examples(code: str) -> list[tuple[int, doctest.Example]]:
    """Examples of all docstrings, with their lines; only read here, not run."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            text = ast.get_docstring(node, clean=False)
            if text:
                start = node.body[0].lineno
                examples = doctest.DocTestParser().get_examples(text)
                found += [(start + example.lineno, example) for example in examples]
    return sorted(found, key=lambda pair: pair[0])


def _telling(code: str) -> str:
    """With comparisons that say what both sides were when they fail; lines stay where they are."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code
    lines = code.split("\n")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assert) or node.msg is not None:
            continue
        test, line = node.test, lines[node.lineno - 1]
        # One on a line of its own; several statements or lines are left as they are.
        if (
            isinstance(test, ast.Compare)
            and len(test.ops) == 1
            and line.strip() == ast.get_source_segment(code, node)
        ):
            left, right = ast.unparse(test.left), ast.unparse(test.comparators[0])
            names = [ast.Name("_left", ast.Load()), ast.Name("_right", ast.Load())]
            check = ast.unparse(ast.Compare(names[0], test.ops, [names[1]]))
            lines[node.lineno - 1] = (
                line[: len(line) - len(line.lstrip())]
                + f"if (_left := ({left}), _right := ({right})) and not ({check}): "
                + f"raise AssertionError({ast.unparse(test)!r} + f': {{_left!r}} and {{_right!r}}')"
            )
    return "\n".join(lines)
