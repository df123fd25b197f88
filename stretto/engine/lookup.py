"""Drafts that cost nothing: silence goes on, and what was written before is written again.

Prompt lookup (Saxena 2023): where the last tokens of a stream have occurred before, in its own text
or in another stream's, what followed them there may follow here.
"""

from typing import NamedTuple

import numpy as np

from stretto.engine.session import Session
from stretto.engine.tick import Ints, Tick
from stretto.engine.writer import Row

_QUIET = 2
"""Silences in a row after which a stream is thought to stay silent: the first one is given."""
GRAMS = (4, 3, 2)
"""Lengths of the beginnings that are looked for, longest first."""


class Guess(NamedTuple):
    """What may come.

    Attributes:
        kind: where it is from: ``silence``, or ``lookup`` and the length of what was found.
        rows: what each stream asked says (rows, streams asked).
    """

    kind: str
    rows: Ints


class Memory:
    """The content tokens of one session, by stream, and where each run of a few last occurred.

    It keeps nothing of the session itself, which may be gone before it.

    Args:
        session: is looked at from its first row on; prompts are known at once.
    """

    def __init__(self, session: Session) -> None:
        self._seen, self._silence = 0, session.special.silence
        self._names = session.streams.names
        self._said: list[list[int]] = [[] for _ in self._names]
        self._places: list[dict[tuple[int, ...], tuple[int, int]]] = [{} for _ in GRAMS]
        self._quiet = [0] * len(self._names)  # rows since it last said something
        for i, name in enumerate(self._names):
            for token in session.setup.prompts.get(name, ()):
                self._push(i, token)

    def guess(self, tick: Tick, most: int) -> Guess | None:
        """What the streams that a tick asks say in the next rows, if all of them can be told.

        Args:
            tick: the session's present one, whose rows are written.
            most: rows.
        """
        self._update(tick.session.rows)
        columns, lengths = [], []
        for i in tick.outputs.tolist():
            if self._quiet[i] >= _QUIET:
                columns.append([self._silence] * most)
                continue
            if self._quiet[i]:
                return None
            found = self._follow(i, most)
            if found is None:
                return None
            lengths.append(found[0])
            columns.append(found[1])
        rows = min(map(len, columns), default=0)
        if not rows:
            return None
        # The shortest find says how far a row is to be trusted.
        kind = f"lookup{min(lengths)}" if lengths else "silence"
        return Guess(kind, np.array([column[:rows] for column in columns], np.int64).T)

    def _update(self, rows: list[Row]) -> None:
        for row in rows[self._seen :]:
            for name, token in row.tokens.items():
                self._push(self._names.index(name), token)
        self._seen = len(rows)

    def _push(self, stream: int, token: int) -> None:
        said = self._said[stream]
        if token == self._silence:
            self._quiet[stream] += 1
            return
        self._quiet[stream] = 0
        for grams, places in zip(GRAMS, self._places, strict=True):
            if len(said) >= grams:
                places[tuple(said[-grams:])] = (stream, len(said))
        said.append(token)

    def _follow(self, stream: int, most: int) -> tuple[int, list[int]] | None:
        """What followed the stream's last tokens before; how many of them were found."""
        said = self._said[stream]
        for grams, places in zip(GRAMS, self._places, strict=True):
            place = places.get(tuple(said[-grams:])) if len(said) >= grams else None
            if place is None:
                continue
            where, at = place
            source, tokens = self._said[where], []
            for i in range(at, at + most):
                # Behind the end of what it copies from itself, it goes on with the copy.
                if i < len(source):
                    tokens.append(source[i])
                elif where == stream:
                    tokens.append(tokens[i - len(source)])
                else:
                    break
            return grams, tokens
        return None
