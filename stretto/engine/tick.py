"""One session's part of a forward pass: the cells of a tick, in the order the cache wants them.

A tick spans one row a waiting input token (at least one row). Inputs fill the rows side by side;
outputs have their cell in the last row only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from stretto.streams import ABSENT, SpecialIds

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tick:
    """What one session has to be read and asked.

    Letters: T cells, Q queries.

    Attributes:
        session: whose tick it is.
        rows_done: rows of the table this tick wrote, for delivery.
        tokens: token ids, visible cells first (T).
        streams: index of each cell's stream in the session's set (T).
        positions: row of each cell, prompts counted (T).
        num_visible: how many cells stay in the cache.
        queries: which cells are asked, in order of their streams (Q).
        outputs: stream that each query asks (Q).
        uniforms: each query's random number from [0, 1), drawn when the tick was made (Q).
    """

    session: Any
    rows_done: list[Any]
    tokens: Ints
    streams: Ints
    positions: Ints
    num_visible: int
    queries: Ints
    outputs: Ints
    uniforms: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def has_cells_of(self, other: "Tick") -> bool:
        """Whether it reads and asks the same cells."""
        names = ("tokens", "streams", "positions", "queries", "outputs")
        return all(np.array_equal(getattr(self, x), getattr(other, x)) for x in names)

    def histories(self) -> list[tuple[int, Any]]:
        """What streams with a repetition penalty have said, by the query that asks them."""
        return self._by_query(self.session.history)

    def matchers(self) -> list[tuple[int, Any]]:
        """How far streams with a grammar have come in it, by the query that asks them."""
        return self._by_query(self.session.matchers)

    def _by_query(self, known: Mapping[int, Any]) -> list[tuple[int, Any]]:
        if not known:
            return []
        return [(n, known[i]) for n, i in enumerate(self.outputs.tolist()) if i in known]


def empty_tick(session: Any, rows_done: list[Any]) -> Tick:
    """A tick whose rows nobody has to read, as the session is over."""
    none = np.empty(0, np.int64)
    return Tick(session, rows_done, none, none, none, 0, none, none)


def input_grid(backlogs: Mapping[int, Sequence[int]], width: int) -> npt.NDArray[np.int32]:
    """Rows of a tick with the inputs filled in, by stream index; outputs are still absent."""
    grid = np.full((max(1, *map(len, backlogs.values())) if backlogs else 1, width), ABSENT)
    for i, tokens in backlogs.items():
        grid[: len(tokens), i] = tokens
    return grid.astype(np.int32)


def row_tick(
    session: Any,
    rows_done: list[Any],
    grid: npt.NDArray[np.int32],
    outputs: Ints,
    special: SpecialIds,
    start: int,
) -> Tick:
    """The cells of a grid (rows, S) whose first row is at position ``start``.

    Args:
        session, rows_done: passed on.
        grid: the rows of this tick.
        outputs: indices of all output streams.
        special: ids of silence and end.
        start: position of the first row.
    """
    said = grid[-1, outputs]
    present = outputs[said != ABSENT]
    said = said[said != ABSENT]
    read = grid.copy()
    read[-1, outputs] = ABSENT
    row, stream = np.nonzero(read != ABSENT)
    silent = said == special.silence
    order = np.argsort(silent, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    asked = said != special.end
    return Tick(
        session,
        rows_done,
        tokens=np.concatenate([read[row, stream], said[order]]).astype(np.int64),
        streams=np.concatenate([stream, present[order]]),
        positions=np.concatenate([row, np.full(len(said), len(grid) - 1)]) + start,
        num_visible=len(row) + int((~silent).sum()),
        queries=len(row) + place[asked],
        outputs=present[asked],
    )


def prompt_tick(
    session: Any, prompts: Sequence[tuple[int, Sequence[int]]], outputs: Ints, end: int
) -> Tick:
    """All prompts in reading order, one token a row; output streams are asked at their last token.

    Args:
        session: passed on.
        prompts: (stream, token ids), none empty, in reading order.
        outputs: indices of all output streams.
        end: id of ``end``; a prompt that closes with it leaves its stream at rest.
    """
    lengths = [len(ids) for _, ids in prompts]
    last = np.cumsum(lengths) - 1
    asked = [i in outputs and ids[-1] != end for i, ids in prompts]
    total = sum(lengths)
    return Tick(
        session,
        [],
        tokens=np.concatenate([np.asarray(ids, np.int64) for _, ids in prompts]),
        streams=np.repeat([i for i, _ in prompts], lengths),
        positions=np.arange(total),
        num_visible=total,
        queries=last[asked],
        outputs=np.array([i for (i, _), ask in zip(prompts, asked, strict=True) if ask], np.int64),
    )
