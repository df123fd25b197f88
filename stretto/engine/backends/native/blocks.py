"""Cache lines made of blocks, so that lines grow without moving and share what they have in common.

A block holds 32 cells of all layers. A full block is never written again: forks of a line point to
the same one. The last, half-full block of a line is its own.
"""

from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
BLOCK = 32
"""Cells in a block; ``BLOCK`` of ``src/attention.h``."""
_SPARE = 64
"""Free blocks that are kept for the next to need one."""


class _Line:
    """One table's cells: their blocks, and the row of each cell."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []
        self.length = 0
        self.rows = np.zeros(4 * BLOCK, np.int32)
        self.pointers = np.zeros(4, np.uint64)


class _Block:
    """Memory for 32 cells, and how many lines point to it."""

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        self.data, self.users = data, 1


class Blocks:
    """All lines of a back end.

    Args:
        block_bytes: size of a block.
    """

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._lines: dict[int, _Line] = {}
        self._numbers: list[int] = []
        self._spare: list[npt.NDArray[np.uint8]] = []

    @property
    def nbytes(self) -> int:
        """Bytes that the cached cells take; cells that lines share count once."""
        cells, seen = 0, set()
        for line in self._lines.values():
            for i, block in enumerate(line.blocks):
                if id(block) not in seen:
                    seen.add(id(block))
                    cells += max(0, min(BLOCK, line.length - i * BLOCK))
        return cells * self._block_bytes // BLOCK

    def open(self) -> int:
        """Give an empty line, the lowest number that is free."""
        number = heappop(self._numbers) if self._numbers else len(self._lines)
        self._lines[number] = _Line()
        return number

    def fork(self, number: int, cells: int) -> int:
        """A new line with the first cells of another; full blocks are shared."""
        old = self._lines[number]
        if not 0 <= cells <= old.length:
            raise ValueError(f"line {number} holds {old.length} cells, not {cells}")
        fork, full = self.open(), cells // BLOCK
        line = self._lines[fork]
        line.blocks, line.length = old.blocks[:full], cells
        for block in line.blocks:
            block.users += 1
        try:
            self._reserve(line, cells)
        except MemoryError:
            self.release(fork)
            raise
        line.pointers[:full] = old.pointers[:full]
        if cells % BLOCK:
            line.blocks[full].data[:] = old.blocks[full].data
        line.rows[:cells] = old.rows[:cells]
        return fork

    def release(self, number: int) -> None:
        """Take a line back."""
        for block in self._lines.pop(number).blocks:
            self._give_back(block)
        heappush(self._numbers, number)
        if not self._lines:
            self._numbers, self._spare = [], []

    def crop(self, number: int, cells: int) -> None:
        """Forget all but the first cells of a line; a block that forks share is left as it is."""
        line, needed = self._lines[number], -(-cells // BLOCK)
        if not 0 <= cells <= line.length:
            raise ValueError(f"line {number} holds {line.length} cells, not {cells}")
        if cells % BLOCK and (last := line.blocks[needed - 1]).users > 1:
            # It is half full from now on, so it has to be the line's own.
            data = self._spare.pop() if self._spare else self._new()
            data[:] = last.data
            last.users -= 1
            line.blocks[needed - 1] = _Block(data)
            line.pointers[needed - 1] = data.ctypes.data
        for block in line.blocks[needed:]:
            self._give_back(block)
        del line.blocks[needed:]
        line.length = cells

    def length(self, number: int) -> int:
        """Cells of a line."""
        return self._lines[number].length

    def append(self, number: int, rows: Ints, spare: int = 0) -> tuple[int, int, int]:
        """Make room for cells behind the others, and note their rows.

        Args:
            number: the line.
            rows: of the cells.
            spare: for how many more there has to be room.

        Returns:
            cells there were before; where the rows of all the line's cells lie; where the pointers
            to its blocks do. Both hold room for whole blocks and stay until the next call.
        """
        line = self._lines[number]
        old, length = line.length, line.length + len(rows)
        self._reserve(line, length + spare)
        line.rows[old:length] = rows
        line.length = length
        return old, line.rows.ctypes.data, line.pointers.ctypes.data

    def _reserve(self, line: _Line, length: int) -> None:
        needed = -(-length // BLOCK)
        while needed > len(line.pointers):
            line.rows = np.concatenate([line.rows, np.zeros_like(line.rows)])
            line.pointers = np.concatenate([line.pointers, np.zeros_like(line.pointers)])
        for i in range(len(line.blocks), needed):
            data = self._spare.pop() if self._spare else self._new()
            line.blocks.append(_Block(data))
            line.pointers[i] = data.ctypes.data

    def _new(self) -> npt.NDArray[np.uint8]:
        # Zeros: keys behind a line's end are multiplied too, though nothing comes of it.
        room = np.zeros(self._block_bytes + 63, np.uint8)
        start = -room.ctypes.data % 64
        return room[start : start + self._block_bytes]

    def _give_back(self, block: _Block) -> None:
        block.users -= 1
        if not block.users and len(self._spare) < _SPARE:
            self._spare.append(block.data)
