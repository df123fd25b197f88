"""A run made again from its record: the model's answers and the tools' results are those on record,
code runs anew. What comes out is the same, apart from times, unless something has changed.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stretto.agents import dialects
from stretto.agents.agent import Agent, AgentLimits
from stretto.agents.events import AgentEvent
from stretto.agents.recording import read
from stretto.agents.registry import Registry
from stretto.agents.sandbox import Backend, Policy
from stretto.agents.turns import Turns
from stretto.config import load
from stretto.errors import InputError
from stretto.protocols import Completion
from stretto.runs import Run

_SHOWN = 60  # characters of a value that differs


@dataclass(frozen=True)
class Replay:
    """What came of a replay.

    Attributes:
        events: as they are now.
        recorded: as they were.
        difference: one line that names the first difference; "" if there is none.
    """

    events: tuple[AgentEvent, ...]
    recorded: tuple[AgentEvent, ...]
    difference: str


async def replay(
    folder: Path,
    *,
    sandbox: Backend = "auto",
    tell: Callable[[AgentEvent], None] = lambda event: None,
) -> Replay:
    """Make a run again, up to where its record ends; neither model nor tools are needed.

    Args:
        folder: its run folder, which is only read.
        sandbox: where the code runs.
        tell: is given each event as it is made.

    Raises:
        InputError: the folder holds no agent's run.
    """
    past = read(Run.open(folder))
    if past.end is None:
        del past.events[past.holds :]  # of an answer that a kill took with it
    if not past.events:
        raise InputError(f"{folder}: the run broke off before it began; there is nothing to replay")
    past.strict = True
    start = past.events[0].data
    agent = Agent(
        _Recorded(start["model"], start["scripted"]),
        Registry(),
        sandbox=sandbox,
        policy=load(Policy, start["policy"]),
        limits=load(AgentLimits, past.limits or start["limits"]),
        seed=start["seed"],
        level=start["level"],
    )
    made: list[AgentEvent] = []

    def take(event: AgentEvent) -> None:
        made.append(event)
        tell(event)

    turns = Turns(agent, start["task"], dialects.get(start["dialect"]), None, past, take)
    await turns.run()
    return Replay(tuple(made), tuple(past.events), difference(past.events, made))


def timeless(event: AgentEvent) -> str:
    """An event as one line of JSON, without what no two runs share: times."""
    data = {key: value for key, value in event.data.items() if key != "seconds"}
    plain = replace(event, time=0.0, data=data).to_json()
    return json.dumps(plain, ensure_ascii=False, sort_keys=True)


def difference(before: Sequence[AgentEvent], after: Sequence[AgentEvent]) -> str:
    """The first difference between two runs in one line; "" if there is none."""
    for old, new in zip(before, after, strict=False):
        if timeless(old) == timeless(new):
            continue
        if old.kind != new.kind:
            return f"event {old.seq} was {old.kind!r} and is {new.kind!r}"
        keys = dict.fromkeys([*old.data, *new.data])
        key = next((k for k in keys if old.data.get(k) != new.data.get(k)), "stream")
        was, now = _short(old.data.get(key)), _short(new.data.get(key))
        return f"event {old.seq} ({old.kind}): {key} was {was} and is {now}"
    if len(before) != len(after):
        return f"there were {len(before)} events, and there are {len(after)}"
    return ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


class _Recorded:
    """Stands for the model, which is not asked."""

    def __init__(self, name: str, scripted: bool) -> None:
        self.name, self.scripted = name, scripted

    async def complete(self, messages: Any, **options: Any) -> Completion:
        raise AssertionError("a replay asks nobody")
