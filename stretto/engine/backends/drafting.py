"""What a back end may offer besides: drafts by its first layers, which all layers then check."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from stretto.engine.batch import RowBatch

if TYPE_CHECKING:
    from torch import Tensor

    from stretto.models import MultiStreamLM
    from stretto.models.exits import Exits

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Draft:
    """Rows that exit heads expect to follow.

    Letters: B sessions, R rows drafted for a session, S of its streams that are asked.

    Attributes:
        layer: layers that made it.
        tokens: of each session (R, S), by stream as its tick's queries. An answer ``end`` is in
            the last row only.
        shares: how likely the exit head found each, among those it can say (R, S) a session.
        lines: what a back end's ``finish`` needs besides; its own affair.
    """

    layer: int
    tokens: list[Ints]
    shares: list[Floats]
    lines: list[Any] = field(repr=False)
    hidden: Floats = field(repr=False)


class Drafting(Protocol):
    """Early exits, plain or checked by the other layers."""

    def set_exits(self, exits: "Exits", lm: "MultiStreamLM") -> None:
        """Take exit heads.

        Args:
            exits: of its layers.
            lm: the model it runs, whose unembedding they share.

        Raises:
            ConfigError: a head does not fit the model.
        """
        ...

    def early(self, batch: RowBatch, layer: int) -> "Tensor":
        """``forward`` through the first layers only: a smaller model.

        Lines that are read so have keys in these layers only; let nothing else read them on.

        Returns:
            Logits (N, V + 2); minus infinity for what the exit head cannot say.
        """
        ...

    def draft(
        self, batch: RowBatch, layer: int, rows: "int | Ints", confidence: float = 0.0
    ) -> Draft:
        """Read a tick of each session through the first layers, and rows that these expect.

        The likeliest answers to a row's queries are the next row's cells, at its streams: visible
        ones first, each in the order of the queries. A session's draft ends before a row that makes
        all its answers together less likely than ``confidence``, or with one that says ``end``.

        What was read is in the session's line from then on, all but the drafted row that was not
        read. Bring the line back by ``crop``, or go on by ``finish`` and crop what turns out wrong.

        Args:
            batch: the ticks, as for ``forward``.
            layer: how many layers draft.
            rows: at most to draft; for all sessions, or of each (B).
            confidence: from 0, which drafts all rows, to 1.
        """
        ...

    def finish(self, batch: RowBatch, draft: Draft) -> "Tensor":
        """What ``forward(batch)`` would say had nobody drafted; what drafting computed is used.

        Args:
            batch: the same ticks in the same order, each with its drafted rows behind it: the
                visible cells of all rows, row by row, then silences likewise; every cell that is
                not ``end`` is asked, or some.
            draft: of the call before, for each draft is good until the next one.

        Returns:
            Logits of the queries (N, V + 2), until the next pass.

        Raises:
            ValueError: the cells are not those of the draft.
        """
        ...
