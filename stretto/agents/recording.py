"""A run on record: its events in order, and what came from outside as soon as it came.

``events.jsonl`` of the run folder holds lines of two sorts. Those with a ``seq`` are the events, in
an order that does not depend on how fast anything was. The others are a journal: ``received`` (a
model's answer), ``begun`` (a call that may change something is about to run), ``called`` (what came
of a call), ``heard`` (what there was of an answer when the run ended) and ``resumed`` (events from
this number on were superseded). A run that was killed goes on from both: what is in the journal is
not asked for again.
"""

import asyncio
import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from stretto.agents.broker import CallRecord
from stretto.agents.events import AgentEvent, Kind
from stretto.errors import InputError
from stretto.protocols import Completion, Message, ToolCall, Usage
from stretto.runs import Run

_OURS = frozenset({"turns", "tokens", "dollars", "calls"})
"""Limits found between turns; any other end but an answer comes in the middle of things."""


class BreakError(Exception):
    """On record, something from outside broke in here: words of a person, an end, a kill (None)."""

    def __init__(self, event: AgentEvent | None) -> None:
        super().__init__(event.kind if event else "the record ends here")
        self.event = event


@dataclass
class Past:
    """What is on record.

    Attributes:
        events: so far.
        completions: by turn.
        heard: text of answers that never became whole, by turn.
        calls: records of calls that nobody has taken yet, by turn and what was asked.
        begun: how often a call was begun of which no record came.
        limits: of the run, as it was last gone on with; None: as it began.
        strict: replay: nothing is asked of the world, and events are made anew.
    """

    events: list[AgentEvent] = field(default_factory=list)
    completions: dict[int, dict[str, Any]] = field(default_factory=dict)
    heard: dict[int, str] = field(default_factory=dict)
    calls: dict[tuple[int, str], deque[dict[str, Any]]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    begun: Counter[tuple[int, str]] = field(default_factory=Counter)
    limits: dict[str, Any] | None = None
    strict: bool = False

    @property
    def end(self) -> dict[str, Any] | None:
        """Data of the last event, if it ended the run."""
        last = self.events[-1] if self.events else None
        return last.data if last is not None and last.kind == "end" else None

    def turn_event(self, kind: Kind, turn: int) -> AgentEvent | None:
        """The event of this kind in a turn, if there is one."""
        return next((e for e in self.events if e.kind == kind and e.data.get("turn") == turn), None)

    def unused(self, turn: int) -> list[dict[str, Any]]:
        """Calls of a turn that ran ahead in vain."""
        calls = (event.data for event in self.events if event.kind == "call")
        return [data for data in calls if data.get("unused") and data["turn"] == turn]

    @property
    def holds(self) -> int:
        """How many events hold for a run that goes on: not an end that was no answer, nor what a
        turn did before its completion was there.
        """
        if self.end is not None and self.end["outcome"] in ("answered", "refused"):
            return len(self.events)
        prompts = [event for event in self.events if event.kind == "prompt"]
        if prompts and prompts[-1].data["turn"] not in self.completions:
            return prompts[-1].seq + 1
        return len(self.events) - (self.end is not None)


def read(run: Run) -> Past:
    """What a run folder holds.

    Raises:
        InputError: it is no agent's run, or damaged.
    """
    if run.kind != "agent":
        raise InputError(f"{run.path}: a run of kind {run.kind or '?'}, not of an agent")
    past = Past()
    try:
        for line in run.events():
            if "seq" in line:
                past.events.append(_event(line, len(past.events)))
                continue
            match line["type"]:
                case "received":
                    past.completions[line["turn"]] = line["completion"]
                case "heard":
                    past.heard[line["turn"]] = line["text"]
                case "begun":
                    past.begun[line["turn"], line["key"]] += 1
                case "called":
                    place = line["turn"], line["key"]
                    past.calls[place].append(line["record"])
                    past.begun[place] -= 1
                case "resumed":
                    del past.events[line["at"] :]
                    past.limits = line["limits"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{run.path}: events.jsonl is damaged ({error!r})") from None
    if past.events and "skill_source" not in past.events[0].data:
        raise InputError(f"{run.path}: another agent's run; only those by turns are made again")
    return past


def _event(line: Mapping[str, Any], seq: int) -> AgentEvent:
    event = AgentEvent(line["seq"], line["at"], line["stream"], line["type"], line["data"])
    if event.seq != seq:
        raise InputError(f"event {event.seq} where {seq} was to come; events.jsonl is damaged")
    return event


class Recording:
    """Takes down a run.

    Args:
        run: folder to write to, if any.
        past: what is on record already; events are compared with it as they come again.
        tell: is given each event.
    """

    def __init__(self, run: Run | None, past: Past, tell: Callable[[AgentEvent], None]) -> None:
        self.past = past
        self.events: list[AgentEvent] = []
        self._run, self._tell = run, tell
        self._loop = asyncio.get_running_loop()
        before = past.events[-1].time if past.events and not past.strict else 0.0
        self._began = self._loop.time() - before

    @property
    def now(self) -> float:
        """Seconds since the run began; those between a kill and its resumption are not counted."""
        return self._loop.time() - self._began

    def _next(self) -> AgentEvent | None:
        seq = len(self.events)
        return self.past.events[seq] if seq < len(self.past.events) else None

    def broken(self) -> BreakError | None:
        """Whether, on record, something broke in just now."""
        old = self._next()
        if old is None:
            return BreakError(None) if self.past.strict else None
        ends = old.kind == "end" and old.data["outcome"] not in ("answered", "refused")
        forced = ends and old.data["reason"] not in _OURS
        return BreakError(old) if forced or old.kind == "interrupt" else None

    def emit(self, kind: Kind, stream: str = "", /, **data: Any) -> AgentEvent:
        """Something happened. Of a resumed run, what is on record already holds.

        Raises:
            BreakError: on record, something broke in here.
            InputError: something else is on record.
        """
        seq, old = len(self.events), self._next()
        if kind not in ("interrupt", "end") and (broken := self.broken()):
            raise broken
        if old is not None and not self.past.strict:
            if old.kind != kind:
                raise InputError(
                    f"event {seq} was {old.kind!r} and is now {kind!r}: this run cannot be resumed "
                    "(its code or its tools do other things now); begin another"
                )
            event = old
        else:
            plain = json.loads(json.dumps(data, default=repr))
            event = AgentEvent(seq, round(self.now, 6), stream, kind, plain)
            if self._run is not None:
                self._run.event(kind, seq=seq, at=event.time, stream=stream, data=event.data)
        self.events.append(event)
        self._tell(event)
        return event

    def note(self, kind: str, **fields: Any) -> None:
        """A line of the journal."""
        if self._run is not None:
            self._run.event(kind, **json.loads(json.dumps(fields, default=repr)))


def key_of(name: str, args: Any, kwargs: Any) -> str:
    """What was asked, as one text."""
    return json.dumps([name, list(args), dict(kwargs)], sort_keys=True, default=repr)


def record_to_json(record: CallRecord) -> dict[str, Any]:
    """A call's record, as events have it."""
    made = {
        "tool": record.call.tool,
        "arguments": dict(record.call.arguments),
        "ok": record.ok,
        "value": record.value,
        "error": record.error,
        "kind": record.kind,
        "decision": record.decision.verdict,
        "reason": record.decision.reason,
        "tainted": sorted(record.call.tainted),
        "remarks": list(record.remarks),
        "cost": record.cost,
        "seconds": record.seconds,
    }
    return json.loads(json.dumps(made, default=repr))


def message_to_json(message: Message) -> dict[str, Any]:
    """A message without what is empty."""
    data: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        data["tool_calls"] = [vars(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        data["tool_call_id"] = message.tool_call_id
    return data


def completion_to_json(completion: Completion) -> dict[str, Any]:
    """All of a completion."""
    return vars(completion) | {
        "tool_calls": [vars(call) for call in completion.tool_calls],
        "usage": vars(completion.usage),
    }


def completion_from_json(data: Mapping[str, Any]) -> Completion:
    """Inverse of :func:`completion_to_json`; other keys are left aside."""
    known = {key: data[key] for key in Completion.__dataclass_fields__ if key in data}
    known["tool_calls"] = tuple(ToolCall(**call) for call in data.get("tool_calls", ()))
    known["usage"] = Usage(**data.get("usage", {}))
    return Completion(**cast("dict[str, Any]", known))
