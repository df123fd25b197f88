"""A session's table as it grows: what each output says next, who rests, how long a message is.

The writer knows no clock, no inbox and no lock: it is told what has arrived, and when.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stretto.engine.params import Setup
from stretto.engine.tick import Tick, input_grid, prompt_tick, row_tick
from stretto.streams import ABSENT, StreamCodec, StreamTable


@dataclass(frozen=True)
class Row:
    """One time step as a reader gets it.

    Attributes:
        index: live row.
        tokens: token id by stream, present cells only.
        text: text that this row completes, by stream; streams without new text are left out.
        time: seconds since the session was opened at which the row was known, before it was read.
    """

    index: int
    tokens: dict[str, int]
    text: dict[str, str]
    time: float


class Heard:
    """The different content tokens that a stream has had, for the repetition penalty.

    Args:
        tokens: of its prompt.
        most: tokens there can be.
    """

    def __init__(self, tokens: Sequence[int], most: int) -> None:
        self._is_heard = np.zeros(most, bool)
        self._tokens = np.empty(16, np.int64)
        self._number = 0
        for token in tokens:
            self.add(token)

    @property
    def tokens(self) -> np.ndarray:
        """Each token once, in the order in which they came."""
        return self._tokens[: self._number]

    def add(self, token: int) -> None:
        """Hear a token."""
        if self._is_heard[token]:
            return
        self._is_heard[token] = True
        if self._number == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.empty_like(self._tokens)])
        self._tokens[self._number] = token
        self._number += 1

    def copy(self) -> "Heard":
        """The same tokens, that go their own way."""
        other = Heard((), 0)
        other._is_heard, other._tokens = self._is_heard.copy(), self._tokens.copy()
        other._number = self._number
        return other


class TableWriter:
    """Writes a live table, tick by tick.

    Args:
        setup: what the session was opened with.
        codec: turns tokens into the rows' text.

    Attributes:
        rows: every row so far.
        max_rows: rows there may be: the caller's limit, or the positions the model has left.
        num_prompt_rows: positions that the prompts take, before the first live row.
        num_quiet: rows in a row without any content since the input was over.
        is_prefilled: the prompts have been read, or there are none.
        history: what the streams with a repetition penalty have had, by stream index.
        matchers: how far each stream with a grammar has come in its message, by stream index.
    """

    def __init__(self, setup: Setup, codec: StreamCodec) -> None:
        streams, special = setup.streams, codec.special
        self.rows: list[Row] = []
        self.num_prompt_rows = sum(map(len, setup.prompts.values()))
        self.max_rows = min(setup.limits.max_rows, setup.max_positions - self.num_prompt_rows)
        self.num_quiet = 0
        self.is_prefilled = not setup.prompts
        self._setup, self._codec, self._special = setup, codec, special
        self._outputs = np.array(streams.outputs, np.int64)
        self._grid = np.empty((64, len(streams)), np.int32)
        prompts = [setup.prompts.get(stream.name, []) for stream in streams]
        # What an output says in the next tick. Without a prompt it begins with a given silence;
        # the others are asked in the prefill, unless their prompt leaves them at rest.
        self._next = np.full(len(streams), special.silence, np.int32)
        self._rests = np.array([prompt[-1:] == [special.end] for prompt in prompts], bool)
        self._said = np.zeros(len(streams), np.int64)
        self.history = {
            i: Heard([token for token in prompts[i] if token < special.silence], special.silence)
            for i in streams.outputs
            if setup.sampling[streams[i].name].repetition_penalty != 1
        }
        self.matchers = {
            streams.index(name): matcher.copy() for name, matcher in setup.matchers.items()
        }
        self._decoders = [codec.decoder() for _ in streams]
        for decoder, prompt in zip(self._decoders, prompts, strict=True):
            for token in prompt[-8:]:
                decoder.push(token)
            decoder.flush()

    def copy(self) -> "TableWriter":
        """The same table so far, that goes its own way."""
        other = copy.copy(self)
        other.rows = [*self.rows]
        for name in ("_grid", "_next", "_rests", "_said"):
            setattr(other, name, getattr(self, name).copy())
        other.history = {i: heard.copy() for i, heard in self.history.items()}
        other.matchers = {i: matcher.copy() for i, matcher in self.matchers.items()}
        other._decoders = [decoder.copy() for decoder in self._decoders]
        return other

    def will_say(self, said: np.ndarray) -> bool:
        """Whether this is what the outputs say in the next tick (O) if no input arrives."""
        out = self._outputs
        return np.array_equal(np.where(self._rests[out], ABSENT, self._next[out]), said)

    def is_live(self) -> bool:
        """Whether some output has a cell in the next tick even if no input arrives."""
        return not self._rests[self._outputs].all()

    def prompt_tick(self, session: Any) -> Tick:
        """The prefill: all prompts, which make no row."""
        streams, prompts = self._setup.streams, self._setup.prompts
        order = StreamTable(streams, self._special, prompts).prompt_order()
        known = [(streams.index(name), prompts[name]) for name in order]
        return prompt_tick(session, known, self._outputs, self._special.end)

    def write(
        self, session: Any, arrived: Mapping[int, Sequence[int]], now: float, *, input_over: bool
    ) -> Tick:
        """Add the rows of a tick: what has arrived, and in the last row what the outputs say.

        Args:
            session: passed on.
            arrived: tokens by index of the input stream; they must fit in the rows left.
            now: seconds at which these rows are known.
            input_over: nothing will arrive after this tick.
        """
        start, has_input = len(self.rows), any(arrived.values())
        grid = input_grid(arrived, len(self._setup.streams))
        grid[-1, self._outputs] = said = self._say(has_input)
        self._keep(grid)
        rows = [self._row(start + i, tokens, now) for i, tokens in enumerate(grid)]
        self.rows += rows
        is_idle = not has_input and not self._is_content(said).any()
        self.num_quiet = self.num_quiet + input_over if is_idle else 0
        position = self.num_prompt_rows + start
        return row_tick(session, rows, grid, self._outputs, self._special, position)

    def receive(self, tick: Tick, tokens: np.ndarray) -> None:
        """Take the tokens sampled for a tick's queries (Q); they are said in the next tick."""
        self.is_prefilled = True
        most = self._setup.limits.max_message_tokens
        if most is not None:
            tokens = np.where(self._said[tick.outputs] >= most, self._special.end, tokens)
        self._next[tick.outputs] = tokens

    def table(self, meta: dict[str, Any]) -> StreamTable:
        """A copy of what has been written."""
        return StreamTable(
            self._setup.streams,
            self._special,
            prompts=self._setup.prompts,
            rows=self._grid[: len(self.rows)].copy(),
            meta=meta,
            codec=self._codec,
        )

    def _say(self, has_input: bool) -> np.ndarray:
        """The cell of each output in this tick; input wakes those at rest with a given silence."""
        out, end = self._outputs, self._special.end
        at_rest = self._special.silence if has_input else ABSENT
        said = np.where(self._rests[out], at_rest, self._next[out])
        self._rests[out] = (said == ABSENT) | (said == end)
        self._said[out] = np.where(said == end, 0, self._said[out] + self._is_content(said))
        return said

    def _is_content(self, tokens: np.ndarray) -> np.ndarray:
        return (tokens != ABSENT) & (tokens < self._special.silence)

    def _keep(self, grid: np.ndarray) -> None:
        start = len(self.rows)
        while start + len(grid) > len(self._grid):
            self._grid = np.concatenate([self._grid, np.empty_like(self._grid)])
        self._grid[start : start + len(grid)] = grid
        for i, history in self.history.items():
            if 0 <= grid[-1, i] < self._special.silence:
                history.add(int(grid[-1, i]))
        for i, matcher in self.matchers.items():
            matcher.advance(int(grid[-1, i]))

    def _row(self, index: int, tokens: np.ndarray, now: float) -> Row:
        streams = self._setup.streams
        present = {i: int(tokens[i]) for i in np.flatnonzero(tokens != ABSENT).tolist()}
        text = {}
        for i, token in present.items():
            decoder = self._decoders[i]
            piece = decoder.flush() if token == self._special.end else decoder.push(token)
            if piece:
                text[streams[i].name] = piece
        return Row(index, {streams[i].name: t for i, t in present.items()}, text, now)
