"""A plan as code: statements that call tools, with preconditions and ways out.

::

    assert near("mug")
    else: move("b2")
    pick("mug")

``assert`` states what must hold before the next step; an ``else`` right after it says what to do
where it does not, and is read as ``try: assert ...`` with ``except AssertionError:``, line by line,
so that every place in a message is a place in the text. Plain Python (``if``, ``for``, ``try``)
is a plan as well. Nothing runs here before the whole plan is known to call tools only, to change
nothing by asking whether a precondition holds, and to do nothing that cannot be told.
"""

import ast
import io
import itertools
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from stretto.agents.actions import split
from stretto.agents.effects import Effect, Effects, worst
from stretto.agents.feedback import Feedback
from stretto.agents.stream import CellSession
from stretto.errors import InputError

_SKIPPED = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}


@dataclass(frozen=True)
class CodeStep:
    """One statement of a plan.

    Attributes:
        line: where it begins in the plan, from 1.
        source: its text.
        effect: what it may do: pure, read or write.
        tools: that it may call.
        conditions: the preconditions in it.
    """

    line: int
    source: str
    effect: Effect
    tools: frozenset[str]
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True)
class CodePlan:
    """A plan that was read and may be run, on a twin first (:mod:`.validate`)."""

    text: str
    steps: tuple[CodeStep, ...]

    @classmethod
    def read(cls, text: str, tools: Mapping[str, str], known: Iterable[str] = ()) -> Self:
        """Read a plan.

        Args:
            text: Python, without fences.
            tools: effect of each that it may call, as in ``Registry.effects``.
            known: other names that are plain values.

        Raises:
            InputError: it is no Python, has no step, or a step may not be in a plan.
        """
        try:
            found = split(_plain(text))
        except SyntaxError as error:
            raise InputError(f"plan: {error}") from None
        if not found:
            raise InputError("plan: there is no step in it; write one call of a tool a line")
        effects = Effects(tools, known)
        steps = []
        for each in found:
            conditions = _conditions(each.source, each.line, effects)
            use = effects.take(each.source)
            if use.effect == "unknown":
                shown = each.source.partition("\n")[0]
                names = ", ".join(sorted(tools)) or "none"
                raise InputError(f"plan, line {each.line}: what {shown!r} does cannot be told; "
                                 f"call the tools only: {names}")  # fmt: skip
            steps.append(CodeStep(each.line, each.source, use.effect, use.tools, conditions))
        return cls(text, tuple(steps))

    @property
    def effect(self) -> Effect:
        """The most that any step may do."""
        return worst(step.effect for step in self.steps)

    @property
    def tools(self) -> frozenset[str]:
        """That it may call."""
        return frozenset().union(*(step.tools for step in self.steps))

    async def run(self, session: CellSession) -> Feedback:
        """Step by step in a sandbox's session, up to the first that fails.

        What tools do is up to the session's ``on_call``: the real ones, or their twins.

        Returns:
            ``binary``: whether all steps passed; where not, the first that failed, with its line.
        """
        for number, step in enumerate(self.steps, start=1):
            result = await session.exec(step.source)
            if result.ok:
                continue
            error = result.error
            line = step.line + (error.line - 1 if error is not None and error.line else 0)
            if error is None:
                why = f"reached the limit of {result.limit}"
            elif error.type == "AssertionError":
                why = f"the precondition does not hold{_told(error.message)}"
            else:
                why = f"{error.type}{_told(error.message)}"
            return failed(f"step {number}", line, self.text, why, number)
        return passed(len(self.steps))


def passed(steps: int, source: str = "plan") -> Feedback:
    """All steps ran."""
    return Feedback("binary", True, f"all {steps} steps passed", source, cost=steps)


def failed(
    place: str, line: int | None, text: str, why: str, cost: int = 0, source: str = "plan"
) -> Feedback:
    """The first step that did not; ``line`` is of ``text``."""
    lines = text.splitlines()
    shown = lines[line - 1].strip() if line and line <= len(lines) else ""
    where = f"{place}, line {line}" if line else place
    told = " ".join(f"{where}: {shown}: {why}".replace(": : ", ": ").split())
    trace = "\n".join(f"{'->' if n == line else '  '} {n:3} {t}" for n, t in enumerate(lines, 1))
    return Feedback("binary", False, told, source, cost=cost, line=line, details={"trace": trace})


def _told(message: str) -> str:
    return f": {message}" if message else ""


def _conditions(source: str, line: int, effects: Effects) -> tuple[str, ...]:
    """The preconditions in a statement; asking for one may change nothing."""
    tree = ast.parse(source)
    inner = effects.copy()
    stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)
              and isinstance(n.ctx, ast.Store)}  # fmt: skip
    for name in sorted(stored):  # loop variables and the like: plain values
        inner.take(f"{name} = None")
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            test = ast.unparse(node.test)
            effect = inner.copy().take(test).effect
            if effect not in ("pure", "read"):
                what = "changes something" if effect == "write" else "cannot be told"
                raise InputError(f"plan, line {line + node.lineno - 1}: the precondition {test!r} "
                                 f"{what}; ask by tools that only read")  # fmt: skip
            found.append(test)
    return tuple(found)


def _plain(text: str) -> str:
    """``assert x`` and ``else:`` as Python writes them, every line where it was."""
    lines = text.splitlines(keepends=True)
    starts: list[tokenize.TokenInfo] = []
    fresh = True
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NEWLINE:
                fresh = True
            elif fresh and token.type not in _SKIPPED:
                starts.append(token)
                fresh = False
    except (tokenize.TokenError, SyntaxError):
        return text  # the parser says what is wrong
    for first, second in itertools.pairwise(starts):
        same = first.start[1] == second.start[1]
        if same and first.string == "assert" and second.string == "else":
            for token, old, new in (
                (first, "", "try: "),
                (second, "else", "except AssertionError"),
            ):
                row, column = token.start
                line = lines[row - 1]
                lines[row - 1] = line[:column] + new + line[column + len(old) :]
    return "".join(lines)
