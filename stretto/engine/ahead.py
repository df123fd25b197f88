"""Rows read ahead: a tick with drafted rows behind it, as one part of a forward pass.

The drafted rows say nothing by themselves. A pass over them has the logits for the case that the
session goes on as drafted; if it does (:meth:`Ticking.go_on`) its next rows need no pass, and what
it says is what it would have said without, to the last random number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stretto.engine.session import Session
from stretto.engine.tick import Ints, Tick, row_tick
from stretto.streams import ABSENT


@dataclass(frozen=True)
class DraftedRow:
    """A row that may come.

    Attributes:
        said: what each output says in it (O); ``ABSENT`` for those at rest.
        tick: its cells; asks what comes after it.
    """

    said: Ints
    tick: Tick


@dataclass(frozen=True, kw_only=True)
class AheadTick(Tick):
    """A tick and what may follow it, in the order the cache wants: silence of all rows last.

    Attributes:
        first: the tick itself.
        drafted: the rows behind it, none empty.
    """

    first: Tick
    drafted: tuple[DraftedRow, ...]

    @property
    def ticks(self) -> list[Tick]:
        """The tick, and that of each drafted row."""
        return [self.first, *(row.tick for row in self.drafted)]

    def histories(self) -> list[tuple[int, Any]]:
        """As :meth:`Tick.histories`, each row as if the drafted ones before it had been said."""
        return self._of_rows("histories")

    def matchers(self) -> list[tuple[int, Any]]:
        """As :meth:`Tick.matchers`, likewise."""
        return self._of_rows("matchers")

    def _of_rows(self, name: str) -> list[tuple[int, Any]]:
        found, asked = [], 0
        for tick in self.ticks:
            found += [(asked + n, what) for n, what in getattr(tick, name)()]
            asked += len(tick.outputs)
        return found


@dataclass
class _Imagined:
    """What a drafted row's tick has to know of its session, had the rows before it been said."""

    history: dict[int, Any]
    matchers: dict[int, Any]


def draft_rows(session: Session, tick: Tick, rows: Sequence[Ints]) -> tuple[DraftedRow, ...]:
    """Rows that may follow a tick, as far as they can.

    A row that a grammar forbids, and all behind it, are left out, as are those behind the row in
    which the last stream ends its message.

    Args:
        session: whose.
        tick: its present one; the streams that it asks are those that may speak.
        rows: what each of these says in each row (streams asked,).
    """
    outputs, special = np.array(session.streams.outputs, np.int64), session.special
    asked, state = tick.outputs, _Imagined(session.history, session.matchers)
    start = int(tick.positions[-1]) + 1
    drafted: list[DraftedRow] = []
    for i, tokens in enumerate(rows):
        tokens = np.asarray(tokens, np.int64)[: len(asked)]
        if not len(asked) or not _may_say(state, asked, tokens):
            break
        state = _said(state, asked, tokens, special.silence)
        grid = np.full((1, len(session.streams)), ABSENT, np.int32)
        grid[0, asked] = tokens
        cells = row_tick(state, [], grid, outputs, special, start + i)
        drafted.append(DraftedRow(grid[0, outputs].astype(np.int64), cells))
        if len(cells.outputs) < len(asked):
            break  # who comes behind an end has another width
    return tuple(drafted)


def read_ahead(tick: Tick, drafted: tuple[DraftedRow, ...]) -> Tick:
    """One tick of a tick and the rows behind it."""
    if not drafted:
        return tick
    session, ticks = tick.session, [tick, *(row.tick for row in drafted)]
    number = sum(len(row.tick.outputs) for row in drafted)
    # The numbers that the session will draw for these rows if they come.
    uniforms = session.rng.random(number)
    session.rng.bit_generator.advance(-number)
    visible = np.cumsum([0, *(t.num_visible for t in ticks)])
    silent = visible[-1] + np.cumsum([0, *(len(t) - t.num_visible for t in ticks)])
    queries = [
        np.where(t.queries < t.num_visible, t.queries + visible[i],
                 t.queries - t.num_visible + silent[i])
        for i, t in enumerate(ticks)
    ]  # fmt: skip
    return AheadTick(
        session,
        tick.rows_done,
        tokens=_ordered(ticks, "tokens"),
        streams=_ordered(ticks, "streams"),
        positions=_ordered(ticks, "positions"),
        num_visible=int(visible[-1]),
        queries=np.concatenate(queries),
        outputs=np.concatenate([t.outputs for t in ticks]),
        uniforms=np.concatenate([tick.uniforms, uniforms]),
        first=tick,
        drafted=drafted,
    )


def settle(tick: AheadTick, tokens: Ints) -> tuple[list[Any], int]:
    """Let a session go on through the drafted rows for as long as they are what it says.

    Args:
        tick: what was read.
        tokens: what was sampled for its queries (Q).

    Returns:
        rows to be delivered, the tick's own included; and how many drafted rows came true.
    """
    session, at = tick.session, len(tick.first.outputs)
    session.receive(tick.first, tokens[:at])
    rows, true = list(tick.rows_done), 0
    for row in tick.drafted:
        went = session.go_on(row.said, row.tick)
        if went is None:
            break
        own, is_asked = went
        rows += own.rows_done
        true += 1
        if not is_asked:
            break
        session.receive(own, tokens[at : at + len(own.outputs)])
        at += len(own.outputs)
    return rows, true


def _ordered(ticks: list[Tick], name: str) -> Ints:
    parts = [getattr(t, name)[: t.num_visible] for t in ticks]
    return np.concatenate([*parts, *(getattr(t, name)[t.num_visible :] for t in ticks)])


def _may_say(state: _Imagined, asked: Ints, tokens: Ints) -> bool:
    pairs = zip(asked.tolist(), tokens.tolist(), strict=True)
    return all(state.matchers[i].mask()[token] for i, token in pairs if i in state.matchers)


def _said(state: _Imagined, asked: Ints, tokens: Ints, silence: int) -> _Imagined:
    """The state once these streams have said this."""
    if not state.history and not state.matchers:
        return state
    said = dict(zip(asked.tolist(), tokens.tolist(), strict=True))
    state = replace(state)
    state.history = {
        i: _heard(heard, said.get(i, ABSENT), silence) for i, heard in state.history.items()
    }
    state.matchers = {i: _advanced(m, said.get(i, ABSENT)) for i, m in state.matchers.items()}
    return state


def _heard(heard: Any, token: int, silence: int) -> Any:
    if not 0 <= token < silence:
        return heard
    heard = heard.copy()
    heard.add(token)
    return heard


def _advanced(matcher: Any, token: int) -> Any:
    if token == ABSENT:
        return matcher
    matcher = matcher.copy()
    matcher.advance(token)
    return matcher
