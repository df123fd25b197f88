"""The tensors of one forward pass: cells of one or more tables, padded to a rectangle."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from stretto.streams import IGNORE, Cells

PAD_SAMPLE = -1
"""Sample id of padding; such a cell sees itself and nothing else, and nobody sees it."""


@dataclass(frozen=True)
class StreamBatch:
    """B sequences of T cells.

    Attributes:
        tokens: token ids, int64 (B, T).
        streams: stream index in the model's inventory, int64 (B, T).
        rows: row of each cell in its table, which is its rotary position, int64 (B, T).
        samples: which table a cell belongs to, int64 (B, T); ``PAD_SAMPLE`` is padding.
        labels: next token of the same stream or ``IGNORE``, int64 (B, T); None when not training.
    """

    tokens: Tensor
    streams: Tensor
    rows: Tensor
    samples: Tensor
    labels: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device) for k, v in moved.items() if v is not None}
        return replace(self, **moved)

    @classmethod
    def from_cells(cls, tables: Sequence[Cells]) -> Self:
        """One table a sequence, padded at the right."""
        return cls.from_packs([[cells] for cells in tables])

    @classmethod
    def from_packs(cls, packs: Sequence[Sequence[Cells]], length: int | None = None) -> Self:
        """Several tables a sequence; ``length`` is T, by default the longest sequence."""
        length = length or max(sum(len(cells) for cells in pack) for pack in packs)
        shape = (len(packs), length)
        fill = {"tokens": 0, "streams": 0, "rows": 0, "samples": PAD_SAMPLE, "labels": IGNORE}
        arrays = {name: np.full(shape, value, np.int64) for name, value in fill.items()}
        for b, pack in enumerate(packs):
            start = 0
            for sample, cells in enumerate(pack):
                span = slice(start, start + len(cells))
                for name in ("tokens", "streams", "rows", "labels"):
                    arrays[name][b, span] = getattr(cells, name)
                arrays["samples"][b, span] = sample
                start = span.stop
        return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()})
