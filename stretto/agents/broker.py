"""Calls from code to the host's tools: checked, authorised, counted, run and noted.

A call goes through: arguments by name -> references become objects -> types -> authorisation
(allow, deny, ask, edit) -> budgets -> the tool, within its time -> a :class:`CallRecord`.

Taint: the result of an ``untrusted`` tool may carry text of strangers. From then on every call of
the code that has it (same ``tag``) counts as tainted by that tool: code can hide where a value
came from, so values are not followed. A tainted call of an irreversible tool is always asked for.

What is not covered: a sync tool that outlives its time goes on in its thread, though nobody waits
for it any more; and a tool that gives a credential away in another form than its own text.
"""

import asyncio
import inspect
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from stretto.agents import trace
from stretto.agents.refs import ObjectStore
from stretto.agents.registry import Registry
from stretto.agents.tool import Tool
from stretto.errors import ConfigError, InputError, LimitError, StrettoError

Verdict = Literal["allow", "deny", "ask", "edit"]


class CallError(StrettoError):
    """A call was refused or failed; inside a sandbox it is raised where the tool was called."""


@dataclass(frozen=True)
class Call:
    """One call of a tool.

    Attributes:
        tool: name, also as Python writes it.
        arguments: JSON values by name, references included.
        tag: which session calls: taint and idempotency belong to it.
        tainted: untrusted tools that the caller knows its values to come from.
        block: which block of code calls, for budgets.
        key: a repeated call with the same key is answered by the first one's result, if the tool
            has an effect; for code that is run again when it is committed.
    """

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tag: str = ""
    tainted: frozenset[str] = frozenset()
    block: str = ""
    key: str = ""


@dataclass(frozen=True)
class Decision:
    """What is to be done with a call.

    Attributes:
        verdict: ``allow``, ``deny``, ``ask`` (the approver) or ``edit`` (other arguments).
        reason: one line, for the model, the person and the log.
        arguments: of an edited call, in place of its own.
    """

    verdict: Verdict = "allow"
    reason: str = ""
    arguments: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class CallRecord:
    """What became of a call. It never holds a credential.

    Attributes:
        call: as it was run: with names for positions, edited arguments, all its taint.
        decision: that was followed; ``ask`` never is, its answer is.
        ok: whether there is a value.
        value: as it crosses to the sandbox.
        error: one line, empty if ok.
        kind: of the error: ``arguments``, ``denied``, ``budget``, ``time`` or ``tool``.
        seconds: it took.
        cost: it had.
        remarks: what was taken as another type.
        repeated: answered by the record of an earlier call with its key.
    """

    call: Call
    decision: Decision = Decision()
    ok: bool = False
    value: Any = None
    error: str = ""
    kind: str = ""
    seconds: float = 0.0
    cost: float = 0.0
    remarks: tuple[str, ...] = ()
    repeated: bool = False

    def unwrap(self) -> Any:
        """The value.

        Raises:
            CallError: there is none.
        """
        if not self.ok:
            raise CallError(self.error)
        return self.value


@dataclass(frozen=True)
class Budgets:
    """How much may be called; None: any number.

    Attributes:
        calls: in a run.
        block_calls: in a block of code.
        tool_calls: in a run, by tool.
        cost: in a run.
        seconds: that tools may take in a run, all together.
    """

    calls: int | None = 1000
    block_calls: int | None = 100
    tool_calls: Mapping[str, int] = field(default_factory=dict)
    cost: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        values = {"calls": self.calls, "block_calls": self.block_calls, "cost": self.cost,
                  "seconds": self.seconds, **self.tool_calls}  # fmt: skip
        for name, value in values.items():
            if value is not None and value < 0:
                raise ConfigError(f"budget {name} is {value}; give 0 or more, or None")


Authorise = Callable[[Call, Tool], Decision | Awaitable[Decision]]
Approve = Callable[[Call, Tool, str], bool | Decision | Awaitable[bool | Decision]]


class Broker:
    """Runs calls of one run's tools.

    Args:
        registry: the tools.
        authorise: decides about each call; all are allowed without.
        approve: answers what is asked, as a person would; without, what is asked is denied.
        budgets: how much may be called.
        credentials: values by name, or what gives one; only tools that name it see a value.
        store: where objects that are not JSON stay.
        on_record: is told of each record.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        authorise: Authorise | None = None,
        approve: Approve | None = None,
        budgets: Budgets | None = None,
        credentials: Mapping[str, str] | Callable[[str], str] | None = None,
        store: ObjectStore | None = None,
        on_record: Callable[[CallRecord], None] | None = None,
    ) -> None:
        self.registry = registry
        self.store = store if store is not None else ObjectStore()
        self.records: list[CallRecord] = []
        self._authorise, self._approve = authorise, approve
        self._budgets = budgets or Budgets()
        self._credentials = credentials if credentials is not None else {}
        self._on_record = on_record
        self._taint: dict[str, frozenset[str]] = {}
        self._keys: dict[tuple[str, str], tuple[Call, asyncio.Future[CallRecord]]] = {}
        self._used: Counter[str] = Counter()  # by tool
        self._blocks: Counter[tuple[str, str]] = Counter()
        self._cost = self._seconds = 0.0

    def taint(self, tag: str) -> frozenset[str]:
        """The untrusted tools whose results a session has seen."""
        return self._taint.get(tag, frozenset())

    def fork(self, tag: str, copy: str) -> None:
        """A session was copied: the copy has seen what the original has."""
        self._taint[copy] = self.taint(copy) | self.taint(tag)

    def on_call(self, tag: str = "", block: str = "") -> Callable[..., Awaitable[Any]]:
        """For a sandbox's session: ``async (name, args, kwargs) -> JSON value``, or raises."""

        async def answer(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
            arguments = self.registry.get(name).named(args, kwargs)
            return (await self.call(Call(name, arguments, tag, block=block))).unwrap()

        return answer

    async def call(self, call: Call) -> CallRecord:
        """Run a call; whatever becomes of it is in the record, nothing is raised."""
        with trace.tool(call.tool, call.arguments, call.key) as span:
            record = await self._call(call)
            result = record.value if record.ok else record.error
            span.end(record.ok, result, record.kind, record.decision.verdict)
        return record

    async def _call(self, call: Call) -> CallRecord:
        try:
            tool = self.registry.get(call.tool)
        except InputError as error:
            return self._note(CallRecord(call, error=str(error), kind="arguments"))
        call = replace(call, tool=tool.name, tainted=call.tainted | self.taint(call.tag))
        if not call.key or tool.effect in ("pure", "read"):
            return await self._run(call, tool)
        return await self._once(call, tool)

    async def _once(self, call: Call, tool: Tool) -> CallRecord:
        """A call with a key: the first one runs, others wait for its record."""
        place = call.tag, call.key
        if place in self._keys:
            first, future = self._keys[place]
            if (first.tool, first.arguments) != (call.tool, call.arguments):
                error = f"tool {tool.name}: key {call.key!r} was used for another call; give a new"
                return self._note(CallRecord(call, error=error, kind="arguments"))
            record = await asyncio.shield(future)
            return self._note(replace(record, repeated=True, seconds=0.0, cost=0.0))
        future = asyncio.get_running_loop().create_future()
        self._keys[place] = call, future
        try:
            record = await self._run(call, tool)
        except BaseException:  # cancelled: nobody knows how far it came, so it may not run again
            record = CallRecord(call, error=f"tool {tool.name}: was cancelled", kind="tool")
            future.set_result(record)
            raise
        if record.kind in ("arguments", "denied", "budget"):  # did not run: may be tried again
            del self._keys[place]
        future.set_result(record)
        return record

    async def _run(self, call: Call, tool: Tool) -> CallRecord:
        record = CallRecord(call)
        try:
            bound = tool.bind(self.store.decode(dict(call.arguments)))
            record = replace(record, remarks=tuple(bound.remarks))
            decision = await self._decide(call, tool)
            record = replace(record, decision=decision)
            if decision.verdict == "deny":
                why = decision.reason or "not allowed"
                error = f"tool {tool.name}: denied ({why}); do without it"
                return self._note(replace(record, error=error, kind="denied"))
            if decision.arguments is not None:
                call = replace(call, arguments=dict(decision.arguments))
                bound = tool.bind(self.store.decode(dict(call.arguments)))
                record = replace(record, call=call, remarks=tuple(bound.remarks))
            secrets = self._resolve(tool)
            self._spend(call, tool)
        except InputError as error:
            return self._note(replace(record, error=str(error), kind="arguments"))
        except LimitError as error:
            return self._note(replace(record, error=str(error), kind="budget"))
        return self._note(await self._execute(record, tool, bound.values, secrets))

    async def _decide(self, call: Call, tool: Tool) -> Decision:
        decision = Decision()
        if self._authorise is not None:
            found = self._authorise(call, tool)
            decision = await found if inspect.isawaitable(found) else found
        is_risky = bool(call.tainted) and tool.effect == "irreversible"
        if is_risky and decision.verdict in ("allow", "edit"):
            sources = ", ".join(sorted(call.tainted))
            why = f"it cannot be undone, and its caller has read what {sources} gave"
            call = call if decision.arguments is None else replace(
                call, arguments=decision.arguments
            )  # fmt: skip
            return await self._ask(call, tool, why, decision)
        if decision.verdict == "ask":
            return await self._ask(call, tool, decision.reason, decision)
        return decision

    async def _ask(self, call: Call, tool: Tool, why: str, asked: Decision) -> Decision:
        if self._approve is None:
            return Decision("deny", f"{why or 'approval is needed'}, and there is nobody to ask")
        answer = self._approve(call, tool, why)
        answer = await answer if inspect.isawaitable(answer) else answer
        if isinstance(answer, Decision):
            return Decision("deny", "asked again") if answer.verdict == "ask" else answer
        if not answer:
            return Decision("deny", why or "not approved")
        verdict: Verdict = "allow" if asked.arguments is None else "edit"
        return Decision(verdict, f"approved: {why}".rstrip(": "), asked.arguments)

    def _spend(self, call: Call, tool: Tool) -> None:
        """Count a call before it runs.

        Raises:
            LimitError: a budget is used up.
        """
        budgets, block = self._budgets, (call.tag, call.block)
        counts = [
            ("calls in this run", self._used.total(), 1, budgets.calls),
            ("calls in this block", self._blocks[block], 1, budgets.block_calls),
            (f"calls of {tool.name}", self._used[tool.name], 1, budgets.tool_calls.get(tool.name)),
            ("cost", self._cost, tool.cost, budgets.cost),
        ]
        for what, used, more, most in counts:
            if most is not None and used + more > most:
                raise LimitError(f"tool {tool.name}: budget of {most:g} {what} is used up")
        if budgets.seconds is not None and self._seconds >= budgets.seconds:
            raise LimitError(f"tool {tool.name}: budget of {budgets.seconds:g} s is used up")
        self._used[tool.name] += 1
        self._blocks[block] += 1
        self._cost += tool.cost

    def _resolve(self, tool: Tool) -> dict[str, str]:
        """Credentials by parameter."""
        made = {}
        for parameter, name in tool.credentials.items():
            source = self._credentials
            value = source(name) if callable(source) else source.get(name)
            if not value:
                raise InputError(f"tool {tool.name}: the host has no credential {name!r}; add it")
            made[parameter] = value
        return made

    async def _execute(
        self, record: CallRecord, tool: Tool, values: dict[str, Any], secrets: dict[str, str]
    ) -> CallRecord:
        start = time.perf_counter()
        value, error, kind = None, "", ""
        try:
            async with asyncio.timeout(tool.timeout):
                result = await tool.run(values | secrets)
            value = self.store.encode(result)
        except asyncio.CancelledError:  # how far it came nobody knows, but it was called
            seconds = time.perf_counter() - start
            error = f"tool {tool.name}: was cancelled"
            self._note(replace(record, error=error, kind="tool", seconds=seconds, cost=tool.cost))
            raise
        except TimeoutError as reason:
            # The tool's own time-outs are its errors.
            is_ours = time.perf_counter() - start >= tool.timeout
            kind = "time" if is_ours else "tool"
            told = f"took more than {tool.timeout:g} s" if is_ours else f"TimeoutError: {reason}"
            error = f"tool {tool.name}: {told}"
        except Exception as reason:  # a tool may raise anything
            told = " ".join(f"{type(reason).__name__}: {reason}".split())
            error, kind = f"tool {tool.name}: {told}", "tool"
        seconds = time.perf_counter() - start
        self._seconds += seconds
        if tool.untrusted:  # an error's text is a stranger's as well
            tag = record.call.tag
            self._taint[tag] = self.taint(tag) | {tool.name}
        names = {value: tool.credentials[key] for key, value in secrets.items()}
        return replace(
            record, ok=not error, value=_without(value, names), error=_without(error, names),
            kind=kind, seconds=seconds, cost=tool.cost,
        )  # fmt: skip

    def _note(self, record: CallRecord) -> CallRecord:
        self.records.append(record)
        if self._on_record is not None:
            self._on_record(record)
        return record


def _without(value: Any, secrets: Mapping[str, str]) -> Any:
    """A JSON value with credentials replaced by their names."""
    if not secrets:
        return value
    if isinstance(value, str):
        for secret, name in sorted(secrets.items(), key=lambda pair: -len(pair[0])):
            value = value.replace(secret, f"[credential {name}]")
        return value
    if isinstance(value, list):
        return [_without(item, secrets) for item in value]
    if isinstance(value, Mapping):
        return {_without(key, secrets): _without(item, secrets) for key, item in value.items()}
    return value
