"""Cache lines in plain memory, and the mask over them, for back ends that compute by themselves.

A forward pass sees a line in two parts, what it held before and the cells of this pass, and hands
the new keys and values back afterwards. Visible cells are then written behind the old ones; silence
and padding are never written at all.

Letters: L layers, B sessions of the pass, T their cells, C capacity of a line, G key heads, E size
of a head.
"""

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt
import torch

from stretto.engine.batch import PAD_SAMPLE, RowBatch
from stretto.models.family import FamilyDecoder
from stretto.models.masks import Keys, MaskRule, dense_mask

Floats = npt.NDArray[np.float32]
GROWTH = 64
"""Capacities are multiples of this many cells."""
_HIDDEN = np.float32(-1e30)  # finite: a softmax over it is 0, never NaN


@dataclass(frozen=True)
class View:
    """What a pass looks at.

    Attributes:
        keys: of all layers (L, B, G, C, E), in place if the lines are neighbours.
        values: likewise.
        is_in_place: whether they are the lines themselves and no copy.
        mask: 0 or a very negative number, for keys of the cache and then of the pass
            (B, 1, T, C + T).
    """

    keys: Floats
    values: Floats
    is_in_place: bool
    mask: Floats


class Lines:
    """Keys and values of live tables in float32.

    Args:
        decoder: gives sizes and window.
        rule: who sees whom within a row.
        silence: the token that leaves no key.
    """

    def __init__(self, decoder: FamilyDecoder, rule: MaskRule, silence: int) -> None:
        self._rule: MaskRule = rule
        self._silence, self._window = silence, decoder.window
        self._sizes = (decoder.num_layers, decoder.kv_heads, decoder.head_size)
        self._reset()

    def _reset(self) -> None:
        layers, heads, size = self._sizes
        self.keys: Floats = np.zeros((layers, 0, heads, GROWTH, size), np.float32)
        self.values: Floats = self.keys.copy()
        self.lengths = np.zeros(0, np.int64)
        self.rows = np.zeros((0, GROWTH), np.int64)
        self._free: list[int] = []

    @property
    def number(self) -> int:
        """Lines there are, given out or free."""
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """Cells a line holds before all grow."""
        return self.rows.shape[1]

    @property
    def cell_bytes(self) -> int:
        """Bytes that one cached cell takes."""
        layers, heads, size = self._sizes
        return 2 * layers * heads * size * self.keys.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes that the cached cells of all lines take."""
        return int(self.lengths.sum()) * self.cell_bytes

    def open(self) -> int:
        """Give the lowest free line, empty, so that lines in use lie close together."""
        if not self._free:
            first = self.number
            # Twice as many at a time; memory that nobody writes to is not taken.
            self._resize(max(1, 2 * first), self.capacity)
            for line in range(first, self.number):
                heappush(self._free, line)
        return heappop(self._free)

    def fork(self, line: int, cells: int) -> int:
        """Give a new line with a copy of the first ``cells`` cells of another."""
        new = self.open()
        for held in (self.keys, self.values):
            held[:, new, :, :cells] = held[:, line, :, :cells]
        self.rows[new, :cells] = self.rows[line, :cells]
        self.lengths[new] = cells
        return new

    def crop(self, line: int, cells: int) -> None:
        """Forget all but the first ``cells`` cells of a line."""
        # Zeros for the reason that `release` gives.
        self.keys[:, line, :, cells : self.lengths[line]] = 0
        self.values[:, line, :, cells : self.lengths[line]] = 0
        self.lengths[line] = cells

    def release(self, line: int) -> None:
        """Take a line back; when none is left in use the memory is given back too."""
        # Not only forgotten: hidden keys have weight 0, but 0 times infinity is not 0.
        self.keys[:, line, :, : self.lengths[line]] = 0
        self.values[:, line, :, : self.lengths[line]] = 0
        self.lengths[line] = 0
        heappush(self._free, line)
        if len(self._free) == self.number:
            self._reset()

    def view(self, batch: RowBatch) -> View:
        """What the sessions of a pass see; nothing is written yet."""
        used = self._used(batch.lines)
        keys, values = self.keys[:, used], self.values[:, used]
        return View(keys, values, isinstance(used, slice), self._mask(batch))

    def append(self, batch: RowBatch, keys: Floats, values: Floats) -> None:
        """Write the visible cells of a pass, new keys and values (L, B, G, T, E), and keep them."""
        visible = (batch.samples != PAD_SAMPLE) & (batch.tokens != self._silence)
        number = visible.sum(1)
        ends = self.lengths[batch.lines] + number
        if (needed := int(ends.max())) > self.capacity:
            room = needed + needed // 16
            self._resize(self.number, -(-room // GROWTH) * GROWTH)
        session, cell = np.nonzero(visible)
        line = batch.lines[session]
        slot = self.lengths[line] + (visible.cumsum(1) - 1)[session, cell]
        self.keys[:, line, :, slot] = keys[:, session, :, cell]
        self.values[:, line, :, slot] = values[:, session, :, cell]
        self.rows[line, slot] = batch.positions[session, cell]
        self.lengths[batch.lines] = ends

    def _used(self, lines: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
        first = int(lines[0])
        together = np.array_equal(lines, first + np.arange(len(lines)))
        return slice(first, first + len(lines)) if together else lines

    def _mask(self, batch: RowBatch) -> Floats:
        b, width = batch.tokens.shape
        old_hidden = np.arange(self.capacity) >= self.lengths[batch.lines, None]
        new_hidden = (batch.samples == PAD_SAMPLE) | (batch.tokens == self._silence)
        old_samples = np.zeros((b, self.capacity), np.int64)
        keys = Keys(
            rows=_joined(self.rows[batch.lines], batch.positions),
            samples=_joined(old_samples, batch.samples),
            hidden=_joined(old_hidden, new_hidden),
        )
        own = torch.arange(width).expand(b, width) + self.capacity
        rows, samples = torch.from_numpy(batch.positions), torch.from_numpy(batch.samples)
        visible = dense_mask(self._rule, rows, samples, own, keys, self._window).numpy()
        return np.where(visible, np.float32(0), _HIDDEN)

    def _resize(self, number: int, capacity: int) -> None:
        layers, heads, size = self._sizes
        old_number, old_capacity = self.number, self.capacity
        grown = []
        for old in (self.keys, self.values):
            new = np.zeros((layers, number, heads, capacity, size), np.float32)
            new[:, :old_number, :, :old_capacity] = old
            grown.append(new)
        rows = np.zeros((number, capacity), np.int64)
        rows[:old_number, :old_capacity] = self.rows
        # All at once: if there is no memory, the lines are as they were.
        self.keys, self.values = grown
        self.rows = rows
        self.lengths = np.concatenate([self.lengths, np.zeros(number - old_number, np.int64)])


def _joined(old: npt.NDArray, new: npt.NDArray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([old, new], 1))
