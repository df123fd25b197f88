"""How runs end, and what breaks into a turn."""

import asyncio
from collections.abc import Sequence

from stretto.agents.events import AgentEvent, Outcome
from stretto.agents.recording import BreakError, Past

REFUSED = ("arguments", "denied", "budget")
"""Kinds of errors of calls that never ran."""


class EndError(Exception):
    """The run is over."""

    def __init__(self, outcome: Outcome, reason: str = "", answer: str | None = None) -> None:
        super().__init__(reason)
        self.outcome, self.reason, self.answer = outcome, reason, answer


def called(past: Past) -> int:
    """Calls that are on record and will be taken from there."""
    if past.strict:
        return 0
    return sum(r["kind"] not in REFUSED for waiting in past.calls.values() for r in waiting)


def is_break(work: asyncio.Task[None]) -> bool:
    """Whether a turn came to where, on record, something broke in."""
    return work.done() and not work.cancelled() and isinstance(work.exception(), BreakError)


def words_of(broken: BreakError) -> str:
    """What was said, if that is what broke in."""
    if broken.event is None or broken.event.kind != "interrupt":
        raise broken
    return broken.event.data["text"]


def break_of(breaking: asyncio.Task[str], work: asyncio.Task[None]) -> str | BaseException | None:
    """Words, an error, or None: the time is up."""
    error: BaseException | None = None
    if breaking.done():
        error = breaking.exception()
        if error is None:
            return breaking.result()
    elif is_break(work):
        error = work.exception()
        assert isinstance(error, BreakError)
        try:
            return words_of(error)
        except BreakError:
            pass
    if isinstance(error, BreakError) and error.event is not None:
        return end_of(error)
    return error


def end_of(broken: BreakError) -> EndError:
    """The end that is on record."""
    assert broken.event is not None
    data = broken.event.data
    return EndError(data["outcome"], data["reason"], data["answer"])


def partial(events: Sequence[AgentEvent]) -> str:
    """What there is of an answer: what was last said, or else seen."""
    for kind, key in (("text", "text"), ("output", "value_repr"), ("output", "stdout")):
        for event in reversed(events):
            text = event.data.get(key) if event.kind == kind and event.stream != "think" else ""
            if text and str(text).strip() not in ("", "None"):
                return str(text).strip()
    return ""
