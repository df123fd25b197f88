"""The cells of a pass as the compiled decoder wants them."""

import ctypes
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stretto.engine.backends.native.blocks import Blocks
from stretto.engine.backends.native.library import Pass
from stretto.engine.batch import PAD_SAMPLE, RowBatch

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cells:
    """Cells of all sessions one after the other, without padding.

    Letters: N cells, B sessions, Q queries.

    Attributes:
        tokens, streams, rows: of each cell (N).
        first: where a session's cells begin (B + 1).
        is_kept: which cells leave a key (N).
        kept: how many of them there are before each session (B + 1).
        select: cell of each query (Q).
    """

    tokens: Ints
    streams: Ints
    rows: Ints
    first: Ints
    is_kept: npt.NDArray[np.bool_]
    kept: Ints
    select: Ints

    @classmethod
    def of(cls, batch: RowBatch, silence: int) -> Self:
        """Those of a batch."""
        real = batch.samples != PAD_SAMPLE
        tokens = batch.tokens[real]
        first, is_kept = starts(real.sum(1)), tokens != silence
        return cls(
            tokens,
            batch.streams[real],
            batch.positions[real],
            first,
            is_kept,
            starts(is_kept)[first],
            # Queries point into the padded rectangle.
            (np.cumsum(real) - 1)[batch.select],
        )

    def slots(self, old: Ints) -> Ints:
        """Each cell's place in its line, -1 for none, if ``old`` (B) cells were there before (N).

        It is behind what the line held, among those of its session that stay.
        """
        places = self.is_kept.cumsum() - 1 + np.repeat(old - self.kept[:-1], np.diff(self.first))
        return np.where(self.is_kept, places, -1)

    def append(self, blocks: Blocks, lines: Ints, spare: Ints | int = 0) -> Ints:
        """Make room in the lines (B): cells before, address of rows, and of blocks (B, 3).

        Args:
            blocks: where the lines are.
            lines: of the sessions.
            spare: room for further cells (B).
        """
        rows, spare = self.rows[self.is_kept], np.broadcast_to(spare, lines.shape)
        return np.array([
            blocks.append(line, rows[self.kept[b] : self.kept[b + 1]], int(spare[b]))
            for b, line in enumerate(lines.tolist())
        ])  # fmt: skip


def with_lengths(lines: Ints, new: Ints) -> Ints:
    """Lines (B, 3) with the cells they hold when ``new`` (B) have come (B, 4)."""
    return np.concatenate([lines, (lines[:, 0] + new)[:, None]], 1)


def make_pass(
    rows: Ints, slots: Ints, first: Ints, lines: Ints, layers: tuple[int, int], **arrays: Any
) -> tuple[Pass, list[np.ndarray]]:
    """A pass, and what must live as long.

    Args:
        rows, slots, first: see :class:`Cells`.
        lines: cells before, address of rows and of blocks, and cells after (B, 4).
        layers: the first one, and the one behind the last.
        arrays: the others by name; floats as they are, whole numbers of any kind.
    """
    held = {
        "rows": rows.astype(np.int32),
        "slots": slots.astype(np.int32),
        "first": first.astype(np.int32),
        "old": lines[:, 0].astype(np.int32),
        "length": lines[:, 3].astype(np.int32),
        "line_rows": lines[:, 1].copy(),
        "blocks": lines[:, 2].copy(),
        **arrays,
    }
    select = held["select"] = held.get("select", rows[:0]).astype(np.int32)
    sizes = {"cells": len(rows), "sessions": len(lines), "queries": len(select)}
    made = Pass(
        **sizes, first_layer=layers[0], end_layer=layers[1],
        **{name: array.ctypes.data for name, array in held.items()},
    )  # fmt: skip
    return made, list(held.values())


def run(library: Any, handle: int, made: tuple[Pass, list[np.ndarray]]) -> None:
    """One forward pass."""
    library.stretto_forward(handle, ctypes.byref(made[0]))


def starts(numbers: np.ndarray) -> np.ndarray:
    """Where each of several runs begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(numbers)])
