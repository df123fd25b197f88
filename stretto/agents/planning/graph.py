"""A plan as a graph: calls of tools that take each other's values, run at once where they can be.

Steps that only read wait for the steps whose values they take, and for writes that stand before
them; steps that write keep their order among themselves. What fails takes with it only the steps
that need it.
"""

import asyncio
import graphlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from stretto.agents.actions import split
from stretto.agents.broker import Broker, Call, CallRecord
from stretto.agents.feedback import Feedback
from stretto.agents.planning.code import failed, passed
from stretto.agents.planning.graph_text import (
    Written,
    fill,
    literal,
    read_call,
    read_json,
    read_lines,
    references,
)
from stretto.agents.registry import Registry
from stretto.errors import InputError

Status = Literal["done", "failed", "cancelled"]

_MOST = 1000  # steps
_ENDS = {"join", "finish"}  # LLMCompiler's last step, which is no tool


@dataclass(frozen=True)
class GraphStep:
    """One call.

    Attributes:
        id: what ``$id`` in other steps refers to.
        tool: name.
        arguments: by name, placeholders included.
        after: ids of steps that must have succeeded, though their values are not taken.
        line: in the plan's text, from 1; None if it came as JSON.
    """

    id: str
    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    line: int | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the steps without which it cannot run, each once."""
        return tuple(dict.fromkeys([*references(self.arguments), *self.after]))


@dataclass(frozen=True)
class StepResult:
    """What became of a step; ``record`` is None if it was never called."""

    step: GraphStep
    status: Status
    value: Any = None
    error: str = ""
    record: CallRecord | None = None


@dataclass(frozen=True)
class GraphResult:
    """What became of a plan, steps in the order of its text."""

    steps: tuple[StepResult, ...]
    text: str = ""

    @property
    def ok(self) -> bool:
        """Whether every step is done."""
        return all(each.status == "done" for each in self.steps)

    @property
    def values(self) -> dict[str, Any]:
        """Value by id, of the steps that are done."""
        return {each.step.id: each.value for each in self.steps if each.status == "done"}

    def feedback(self) -> Feedback:
        """Whether all passed, or the first step of the text that failed."""
        bad = next((each for each in self.steps if each.status == "failed"), None)
        if bad is None:
            return passed(len(self.steps))
        run = sum(each.record is not None for each in self.steps)
        return failed(f"step {bad.step.id}", bad.step.line, self.text, bad.error, run)

    def to_json(self) -> str:
        """One line, the same bytes for the same course of things: no seconds."""
        rows = [{"id": each.step.id, "tool": each.step.tool, "needs": list(each.step.needs),
                 "status": each.status, "value": each.value, "error": each.error}
                for each in self.steps]  # fmt: skip
        return json.dumps(rows, ensure_ascii=False, sort_keys=True, default=repr)


@dataclass(frozen=True)
class GraphPlan:
    """A plan that was read and may be run."""

    steps: tuple[GraphStep, ...]
    text: str = ""

    @classmethod
    def read(cls, text: str, registry: Registry) -> Self:
        """Read a plan in lines or in JSON (see :mod:`.graph_text`).

        Raises:
            InputError: it is malformed; an id is given twice; a step takes the value of one that
                is not there, or in a circle; a tool or argument is unknown or wrong.
        """
        is_json = text.lstrip()[:1] in ("[", "{")
        written = read_json(text) if is_json else read_lines(text)
        written = [each for each in written if each.tool in registry or each.tool not in _ENDS]
        if not written:
            raise InputError("plan: there is no step in it; write 1. tool(name=value), one a line")
        if len(written) > _MOST:
            raise InputError(f"plan: it has {len(written)} steps; give {_MOST} or fewer")
        steps = tuple(_named(each, registry) for each in written)
        _check(steps)
        for step in steps:
            _check_arguments(step, registry)
        return cls(steps, text)

    @classmethod
    def chain(cls, code: str, registry: Registry) -> Self:
        """A plan of calls with plain values, one a line, each after the one before.

        Raises:
            InputError: something else than such calls, or as :meth:`read`.
        """
        try:
            lines = [(each.line, each.source) for each in split(code)]
        except SyntaxError as error:
            raise InputError(f"plan: {error}") from None
        steps: list[GraphStep] = []
        for number, (line, source) in enumerate(lines, start=1):
            step = _named(read_call(str(number), source, line), registry)
            waits = (steps[-1].id,) if steps else ()
            steps.append(replace(step, arguments=literal(step.arguments), after=waits))
            _check_arguments(steps[-1], registry)
        if not steps:
            raise InputError("plan: there is no step in it; write one call of a tool a line")
        return cls(tuple(steps), code)

    async def run(
        self, broker: Broker, *, tag: str = "", at_once: int = 8, ordered: bool = True
    ) -> GraphResult:
        """Run it; what fails is in the result.

        Args:
            broker: runs the calls.
            tag: of the calls.
            at_once: calls that may run at a time.
            ordered: keep the order of the text between writes, and between reads and writes.

        Raises:
            InputError: ``at_once`` is below 1.
        """
        if at_once < 1:
            raise InputError(f"at_once is {at_once}; give 1 or more")
        waits = _waits(self.steps, broker.registry if ordered else None)
        room = asyncio.Semaphore(at_once)
        ended = {step.id: asyncio.Event() for step in self.steps}
        results: dict[str, StepResult] = {}

        async def take(step: GraphStep) -> None:
            for key in waits[step.id]:
                await ended[key].wait()
            missing = [key for key in step.needs if results[key].status != "done"]
            if missing:
                why = f"needs step {missing[0]}, which {_became(results[missing[0]])}"
                results[step.id] = StepResult(step, "cancelled", error=why)
            else:
                async with room:
                    results[step.id] = await _call(step, results, broker, tag)
            ended[step.id].set()

        async with asyncio.TaskGroup() as group:
            for step in self.steps:
                group.create_task(take(step))
        return GraphResult(tuple(results[step.id] for step in self.steps), self.text)


async def _call(
    step: GraphStep, results: Mapping[str, StepResult], broker: Broker, tag: str
) -> StepResult:
    try:
        arguments = fill(step.arguments, {key: results[key].value for key in step.needs})
    except InputError as error:
        return StepResult(step, "failed", error=str(error))
    record = await broker.call(Call(step.tool, arguments, tag, block=tag))
    status: Status = "done" if record.ok else "failed"
    return StepResult(step, status, record.value, record.error, record)


def _became(result: StepResult) -> str:
    return "failed" if result.status == "failed" else "was cancelled"


def _named(written: Written, registry: Registry) -> GraphStep:
    """With the tool's own name, and arguments by name."""
    place = f"plan, step {written.id}"
    try:
        tool = registry.get(written.tool)
        arguments = tool.named(written.positional, written.named)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    return GraphStep(written.id, tool.name, arguments, written.after, written.line)


def _check(steps: Sequence[GraphStep]) -> None:
    """Ids are unique, references known, and there is no circle."""
    seen: set[str] = set()
    for step in steps:
        if step.id in seen:
            raise InputError(f"plan: there are two steps {step.id}; number them one by one")
        seen.add(step.id)
    for step in steps:
        for key in step.needs:
            if key not in seen:
                known = ", ".join(f"${each.id}" for each in steps)
                raise InputError(f"plan, step {step.id}: there is no step ${key}; refer to "
                                 f"{known}, or write $$ for a dollar sign")  # fmt: skip
    try:
        graphlib.TopologicalSorter({step.id: step.needs for step in steps}).prepare()
    except graphlib.CycleError as error:
        circle = " needs ".join(reversed(error.args[1]))
        raise InputError(f"plan: steps wait for each other: {circle}; break the circle") from None


def _check_arguments(step: GraphStep, registry: Registry) -> None:
    """As far as they are known: what a placeholder will be is not."""
    tool = registry.get(step.tool)
    waiting = [key for key, value in step.arguments.items() if any(references(value))]
    try:
        if not waiting:
            tool.bind(fill(step.arguments, {}))
            return
        properties = tool.schema.get("properties", {})
        needed = [key for key in tool.schema.get("required", ()) if key not in step.arguments]
        extra = [key for key in step.arguments if key not in properties]
        closed = tool.schema.get("additionalProperties") is False
        if needed or (extra and closed):
            plain = {key: value for key, value in step.arguments.items() if key not in waiting}
            raise InputError(f"tool {tool.name}: there is no argument {extra[0]}" if extra else
                             f"tool {tool.name}: argument {needed[0]} is missing beside "
                             f"{', '.join([*waiting, *plain])}")  # fmt: skip
    except InputError as error:
        raise InputError(f"plan, step {step.id}: {error}") from None


def _waits(steps: Sequence[GraphStep], registry: Registry | None) -> dict[str, list[str]]:
    """Which steps each one waits for; without a registry, only for those it needs."""
    waits = {step.id: list(step.needs) for step in steps}
    if registry is None:
        return waits
    last_write: str | None = None
    reads: list[str] = []
    for step in _in_order(steps):
        effect = registry.get(step.tool).effect
        if effect == "pure":
            continue
        if last_write is not None:
            waits[step.id].append(last_write)
        if effect == "read":
            reads.append(step.id)
        else:
            waits[step.id] += reads
            last_write, reads = step.id, []
    return waits


def _in_order(steps: Sequence[GraphStep]) -> list[GraphStep]:
    """As in the text, except that a step comes after those it needs."""
    found: dict[str, GraphStep] = {}
    waiting = list(steps)
    while waiting:
        step = next(each for each in waiting if all(key in found for key in each.needs))
        found[step.id] = step
        waiting.remove(step)
    return list(found.values())
