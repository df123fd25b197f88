"""Keys and values of live tables, in fixed slots, without silence.

Each session owns one line of every layer's buffer. The cells of a tick are ordered so that
silence and padding come last and are written behind the visible ones; the line's length then
advances past the visible ones only, so the next tick overwrites the rest. Silence costs compute,
never cache, and nothing is moved.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedConfig

GROWTH = 256
"""Lines grow in steps of this many cells."""


class StreamCache(Cache):
    """A transformers cache whose write positions are set from outside for each forward pass.

    Attributes:
        lengths: visible cells of each line, int64 (B,).
        rows: row of each cached cell, int64 (B, capacity).
    """

    def __init__(self, config: PreTrainedConfig, lines: int, device: torch.device) -> None:
        super().__init__(layers=[])
        self.num_layers = config.get_text_config().num_hidden_layers
        self.lines = lines
        self.device = device
        self.lengths = torch.zeros(lines, dtype=torch.int64)
        self.rows = torch.zeros(lines, 0, dtype=torch.int64)
        self._keys: list[Tensor | None] = [None] * self.num_layers
        self._values: list[Tensor | None] = [None] * self.num_layers
        self._use: slice | Tensor = slice(0, 0)
        self._write = torch.empty(0)
        self._view = 0

    @property
    def capacity(self) -> int:
        """Cells that a line holds before it must grow."""
        return self.rows.shape[1]

    def begin(self, lines: Tensor, rows: Tensor) -> tuple[Tensor, int]:
        """Plan a forward pass over (b, T) cells of the given lines, visible cells first.

        Args:
            lines: which lines take part, int64 (b,), on the CPU.
            rows: row of each cell (b, T), on the CPU.

        Returns:
            where each cell's key goes in its line (b, T), and how many cells of the lines
            attention must look at.
        """
        write = self.lengths[lines, None] + torch.arange(rows.shape[1])
        self._view = int(write[:, -1].max()) + 1
        self._grow(self._view)
        self.rows[lines[:, None], write] = rows
        # Neighbouring lines are looked at in place; others have to be gathered.
        first = int(lines[0])
        together = bool((lines == first + torch.arange(len(lines))).all())
        self._use = slice(first, first + len(lines)) if together else lines.to(self.device)
        self._write = write.to(self.device)
        return write, self._view

    def commit(self, lines: Tensor, visible: Tensor) -> None:
        """Keep the first ``visible`` (b,) cells written to each line; the rest is forgotten."""
        self.lengths[lines] += visible

    def clear(self, line: int) -> None:
        """Empty a line for the next session."""
        self.lengths[line] = 0

    def shorten(self, line: int, cells: int) -> None:
        """Forget all but the first ``cells`` visible cells of a line."""
        self.lengths[line] = cells

    def copy(self, source: int, target: int, cells: int) -> None:
        """Let a line hold the first ``cells`` visible cells of another, and nothing else."""
        self.rows[target, :cells] = self.rows[source, :cells]
        for buffer in (*self._keys, *self._values):
            if buffer is not None:
                buffer[target, :, :cells] = buffer[source, :, :cells]
        self.lengths[target] = cells

    @property
    def cell_bytes(self) -> int:
        """Bytes of keys and values of one cell in all layers; 0 before the first forward pass."""
        buffers = (b for b in (*self._keys, *self._values) if b is not None)
        return sum(b.shape[1] * b.shape[3] * b.element_size() for b in buffers)

    def resize(self, lines: int) -> None:
        """Change how many sessions fit. Lines keep their numbers."""
        extra = lines - self.lines
        self.lengths = _pad(self.lengths, 0, extra)
        self.rows = _pad(self.rows, 0, extra)
        self._keys = [None if k is None else _pad(k, 0, extra) for k in self._keys]
        self._values = [None if v is None else _pad(v, 0, extra) for v in self._values]
        self.lines = lines

    def _grow(self, needed: int) -> None:
        if needed <= self.capacity:
            return
        extra = -(-needed // GROWTH) * GROWTH - self.capacity
        self.rows = _pad(self.rows, 1, extra)
        self._keys = [None if k is None else _pad(k, 2, extra) for k in self._keys]
        self._values = [None if v is None else _pad(v, 2, extra) for v in self._values]

    # What transformers' attention calls.

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values (b, heads, T, head) and return all that may be seen."""
        return (
            self._store(self._keys, key_states, layer_idx),
            self._store(self._values, value_states, layer_idx),
        )

    def _store(self, buffers: list[Tensor | None], new: Tensor, layer: int) -> Tensor:
        b, heads, length, size = new.shape
        buffer = buffers[layer]
        if buffer is None:
            buffer = buffers[layer] = new.new_zeros(self.lines, heads, self.capacity, size)
        if isinstance(self._use, slice):
            where = self._write[:, None, :, None].expand(b, heads, length, size)
            buffer[self._use].scatter_(2, where, new)
        else:
            buffer[self._use[:, None], :, self._write] = new.transpose(1, 2)
        return buffer[self._use, :, : self._view]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0, for rows give the positions, not the cache."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Keys that attention sees in this pass, and where they start."""
        return self._view, 0


def _pad(tensor: Tensor, dim: int, extra: int) -> Tensor:
    if extra <= 0:
        return tensor.narrow(dim, 0, tensor.shape[dim] + extra)
    shape = list(tensor.shape)
    shape[dim] = extra
    return torch.cat([tensor, tensor.new_zeros(shape)], dim)
