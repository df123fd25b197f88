"""Lay a conversation out in ticks, and check that a table keeps the rules of ticks.

A tick is one forward pass. It spans one row a waiting input token (at least one row); outputs have
their cell in its last row only. See docs/guides/data.md.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from copy import deepcopy
from enum import Enum
from itertools import zip_longest

import numpy as np

from stretto.errors import InputError
from stretto.streams.stream import StreamSet
from stretto.streams.table import StreamTable
from stretto.streams.tokens import ABSENT, SpecialIds, StreamCodec


class _State(Enum):
    NEW = "new"  # before its first cell, which is a given silence
    LIVE = "live"  # has a cell in every tick
    RESTING = "resting"  # said `end`; a given silence wakes it


class TickWriter:
    """Writes a table tick by tick: feed inputs, queue outputs.

    What is queued after a tick is said from the next tick on, so an output never answers what it
    has not read. A live stream with nothing queued is silent.
    """

    def __init__(
        self,
        streams: StreamSet,
        codec: StreamCodec,
        prompts: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.streams = streams
        self.codec = codec
        self.prompts = {name: list(ids) for name, ids in (prompts or {}).items()}
        self._rows: list[list[int]] = []
        self._queues: dict[int, deque[int]] = {i: deque() for i in streams.outputs}
        self._states = {
            i: _first_state(self.prompts.get(streams[i].name, ()), codec.special)
            for i in streams.outputs
        }

    def queue(self, name: str, ids: Sequence[int], *, end: bool = True) -> None:
        """Let an output say ``ids`` from the next tick on, then ``end`` (unless more follows).

        Raises:
            InputError: ``name`` is not an output stream.
        """
        i = self.streams.index(name)
        if i not in self._queues:
            raise InputError(f"stream {name!r} is an input: feed it with tick(), not queue()")
        self._queues[i].extend(ids)
        if end:
            self._queues[i].append(self.codec.special.end)

    def tick(self, inputs: Mapping[str, Sequence[int]] | None = None) -> None:
        """One tick, in which the tokens ``inputs`` arrive (a list a stream).

        Raises:
            InputError: a stream is not a live input, or nothing would happen in this tick.
        """
        fed = {self._live_input(name): list(ids) for name, ids in (inputs or {}).items() if ids}
        cells = {i: token for i in self._queues if (token := self._next(i, bool(fed))) != ABSENT}
        if not cells:
            raise InputError("a tick in which no input arrives while every output rests")
        lanes = zip_longest(*fed.values(), fillvalue=ABSENT) if fed else [()]
        for tokens in lanes:
            row = [ABSENT] * len(self.streams)
            for i, token in zip(fed, tokens, strict=True):
                row[i] = token
            self._rows.append(row)
        for i, token in cells.items():
            self._rows[-1][i] = token

    def _live_input(self, name: str) -> int:
        i = self.streams.index(name)
        if i in self._queues or self.streams[i].prompt_only:
            raise InputError(f"stream {name!r} takes no input in live rows")
        return i

    def _next(self, i: int, has_input: bool) -> int:
        """The cell of output ``i`` in this tick; moves its state on."""
        special, state = self.codec.special, self._states[i]
        if state is _State.RESTING and not has_input:
            return ABSENT
        if state is not _State.LIVE:
            self._states[i] = _State.LIVE
            return special.silence
        token = self._queues[i].popleft() if self._queues[i] else special.silence
        if token == special.end:
            self._states[i] = _State.RESTING
        return token

    def message(self, name: str, ids: Sequence[int], *, sizes: Sequence[int] | None = None) -> None:
        """An input message and its ``end``: one token a tick, or bursts of ``sizes`` tokens.

        ``sizes`` must add up to ``len(ids) + 1``; a 0 is a pause of one tick.

        Raises:
            InputError: the sizes do not add up.
        """
        tokens = [*ids, self.codec.special.end]
        sizes = [1] * len(tokens) if sizes is None else sizes
        if sum(sizes) != len(tokens):
            raise InputError(f"bursts of {sum(sizes)} tokens in all for {len(tokens)} tokens")
        start = 0
        for size in sizes:
            if size or self.has_live():
                self.tick({name: tokens[start : start + size]})
            start += size

    def has_live(self) -> bool:
        """Whether some output has a cell in the next tick even if no input arrives."""
        return any(state is not _State.RESTING for state in self._states.values())

    def is_resting(self, name: str) -> bool:
        """Whether output ``name`` has said ``end`` and not been woken since."""
        return self._states[self.streams.index(name)] is _State.RESTING

    def drain(self, *names: str) -> None:
        """Tick without input until these outputs (all, if none is named) said what is queued.

        Raises:
            InputError: one of them rests, so it can say nothing before an input wakes it.
        """
        wanted = [self.streams.index(name) for name in names] or list(self._queues)
        while waiting := [i for i in wanted if self._queues[i]]:
            stuck = [i for i in waiting if self._states[i] is _State.RESTING]
            if stuck:
                name = self.streams[stuck[0]].name
                raise InputError(f"stream {name!r} rests after `end`; only an input can wake it")
            self.tick()

    def num_cells(self) -> int:
        """Cells so far, prompts included."""
        prompts = sum(map(len, self.prompts.values()))
        return prompts + sum(token != ABSENT for row in self._rows for token in row)

    def copy(self) -> "TickWriter":
        """An independent copy, to try a continuation."""
        other = TickWriter(self.streams, self.codec, self.prompts)
        other._rows = [list(row) for row in self._rows]
        other._queues = deepcopy(self._queues)
        other._states = dict(self._states)
        return other

    def table(self, meta: dict[str, object] | None = None) -> StreamTable:
        """Everything written so far."""
        return StreamTable(
            self.streams,
            self.codec.special,
            prompts=self.prompts,
            rows=np.array(self._rows, np.int32).reshape(-1, len(self.streams)),
            meta=dict(meta or {}),
            codec=self.codec,
        )


def validate(table: StreamTable) -> None:
    """Check that a table could have been made by the engine, tick by tick.

    Raises:
        InputError: naming the first row and stream that break a rule.
    """
    present = table.rows != ABSENT
    inputs, outputs = list(table.streams.inputs), list(table.streams.outputs)
    for i in inputs:
        _check_input(table, i)
    has_output = present[:, outputs].any(axis=1)
    idle = np.flatnonzero(~present.any(axis=1))
    if idle.size:
        raise InputError(f"row {idle[0]}: no cell at all; drop rows in which nothing happens")
    last_rows = np.flatnonzero(has_output)
    if len(table) and (not last_rows.size or last_rows[-1] != len(table) - 1):
        raise InputError(f"row {len(table) - 1}: the last tick has no output cell in its last row")
    prompts = {i: table.prompts.get(table.streams[i].name, ()) for i in outputs}
    states = {i: _first_state(prompt, table.special) for i, prompt in prompts.items()}
    first = 0
    for last in last_rows.tolist():
        fed = present[first : last + 1][:, inputs]
        if last > first and not fed.all(axis=0).any():
            raise InputError(f"rows {first} to {last}: no input stream fills every row of the tick")
        for i in outputs:
            token = int(table.rows[last, i])
            try:
                states[i] = _advance(states[i], token, bool(fed.any()), table.special)
            except InputError as error:
                raise InputError(f"row {last}, stream {table.streams[i].name!r}: {error}") from None
        first = last + 1


def _first_state(prompt: Sequence[int], special: SpecialIds) -> _State:
    """State of an output before the first row: a prompt may leave it at rest."""
    if not prompt:
        return _State.NEW
    return _State.RESTING if prompt[-1] == special.end else _State.LIVE


def _check_input(table: StreamTable, i: int) -> None:
    stream, column = table.streams[i], table.rows[:, i]
    if stream.prompt_only and (column != ABSENT).any():
        raise InputError(f"stream {stream.name!r} is prompt_only but has live rows")
    silent = np.flatnonzero(column == table.special.silence)
    if silent.size:
        raise InputError(
            f"row {silent[0]}, stream {stream.name!r}: an input is absent, never silent"
        )


def _advance(state: _State, token: int, has_input: bool, special: SpecialIds) -> _State:
    """State after this tick's cell ``token`` in the tick's last row."""
    if state is _State.RESTING and not has_input:
        if token != ABSENT:
            raise InputError("it rests after `end`; only an input can wake it")
        return state
    if token == ABSENT:
        # With no cell here the row would be a catch-up row, or an output has skipped its turn.
        raise InputError("a live output needs a cell in the last row of each tick")
    if state is not _State.LIVE and token != special.silence:
        when = "at the start" if state is _State.NEW else "after a rest"
        raise InputError(f"its first cell {when} must be the given silence")
    return _State.RESTING if token == special.end else _State.LIVE
