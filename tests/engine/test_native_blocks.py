"""Lines in blocks hold what a plain list would, share full blocks, and give everything back."""

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stretto.engine.backends.native.blocks import BLOCK, Blocks

CELL = 8
"""Bytes of a cell: its number."""


def at(address: int, number: int, kind: Any) -> np.ndarray:
    """What lies there, to read and write."""
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(kind)), (number,))


def allocated(blocks: Blocks) -> int:
    """Bytes of all blocks that lines point to, full or not."""
    used = {id(block) for line in blocks._lines.values() for block in line.blocks}
    return len(used) * CELL * BLOCK


class Lines(RuleBasedStateMachine):
    """Blocks beside lists: what is appended, and the row of each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Blocks(BLOCK * CELL)
        self.lists: dict[int, list[int]] = {}
        self.rows: dict[int, list[int]] = {}
        self.seen: dict[int, list[int]] = {}  # which appended cells share their memory
        self.written = 0

    def cells_of(self, line: int) -> list[int]:
        old, rows, pointers = self.blocks.append(line, np.empty(0, np.int64))
        assert old == len(self.lists[line])
        assert at(rows, old, ctypes.c_int32).tolist() == self.rows[line] if old else True
        needed = -(-old // BLOCK)
        if not needed:
            return []
        blocks = at(pointers, needed, ctypes.c_uint64).tolist()
        assert all(block % 64 == 0 for block in blocks)
        cells = [at(block, BLOCK, ctypes.c_int64) for block in blocks]
        return np.concatenate(cells)[:old].tolist()

    @rule()
    def open(self) -> None:
        line = self.blocks.open()
        assert line not in self.lists
        assert line <= len(self.lists), "not the lowest number that is free"
        self.lists[line], self.rows[line] = [], []

    @precondition(lambda self: self.lists)
    @rule(data=st.data(), number=st.integers(1, 3 * BLOCK))
    def append(self, data: st.DataObject, number: int) -> None:
        line = data.draw(st.sampled_from(sorted(self.lists)))
        rows = np.arange(self.written, self.written + number)
        old, _, pointers = self.blocks.append(line, rows)
        assert old == len(self.lists[line])
        blocks = at(pointers, -(-(old + number) // BLOCK), ctypes.c_uint64).tolist()
        for cell in range(old, old + number):
            # Were this block another's too, the other list would no longer fit.
            at(blocks[cell // BLOCK], BLOCK, ctypes.c_int64)[cell % BLOCK] = self.written
            self.lists[line].append(self.written)
            self.rows[line].append(self.written)
            self.written += 1

    @precondition(lambda self: self.lists)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        line = data.draw(st.sampled_from(sorted(self.lists)))
        length = len(self.lists[line])
        cells = data.draw(st.integers(0, length) | st.just(length - length % BLOCK))
        fork = self.blocks.fork(line, cells)
        assert fork not in self.lists
        self.lists[fork] = self.lists[line][:cells]
        self.rows[fork] = self.rows[line][:cells]

    @precondition(lambda self: self.lists)
    @rule(data=st.data())
    def crop(self, data: st.DataObject) -> None:
        line = data.draw(st.sampled_from(sorted(self.lists)))
        length = len(self.lists[line])
        cells = data.draw(st.integers(0, length) | st.just(length - length % BLOCK))
        self.blocks.crop(line, cells)
        del self.lists[line][cells:], self.rows[line][cells:]

    @precondition(lambda self: self.lists)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        line = data.draw(st.sampled_from(sorted(self.lists)))
        self.blocks.release(line)
        del self.lists[line], self.rows[line]

    @invariant()
    def lines_hold_what_was_appended(self) -> None:
        for line, cells in self.lists.items():
            assert self.cells_of(line) == cells

    @invariant()
    def what_is_shared_counts_once(self) -> None:
        # A full block is shared by all whose cells in it came about together: its first and last
        # cells tell; the rest of a line is its own.
        full = {
            (i, cells[i], cells[i + BLOCK - 1])
            for cells in self.lists.values()
            for i in range(0, len(cells) - BLOCK + 1, BLOCK)
        }
        own = sum(len(cells) % BLOCK for cells in self.lists.values())
        most = sum(len(cells) for cells in self.lists.values())
        assert CELL * (len(full) * BLOCK + own) <= self.blocks.nbytes <= CELL * most
        assert self.blocks.nbytes <= allocated(self.blocks)
        assert bool(self.lists) or allocated(self.blocks) == 0


Lines.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestLines = Lines.TestCase


def test_forks_share_full_blocks_and_copy_the_rest() -> None:
    blocks = Blocks(BLOCK * CELL)
    line = blocks.open()
    blocks.append(line, np.arange(3 * BLOCK + 5))
    forks = [blocks.fork(line, 3 * BLOCK + 2) for _ in range(4)]
    assert blocks.nbytes == CELL * (3 * BLOCK + 5 + 4 * 2)
    assert allocated(blocks) == CELL * BLOCK * (3 + 1 + 4)
    blocks.release(line)
    assert blocks.nbytes == CELL * (3 * BLOCK + 4 * 2), "a fork needs its parent"
    for fork in forks:
        blocks.release(fork)
    assert blocks.nbytes == allocated(blocks) == 0


def test_blocks_are_used_again() -> None:
    blocks, made = Blocks(BLOCK * CELL), 0

    def count(new: Any = blocks._new) -> Any:
        nonlocal made
        made += 1
        return new()

    blocks._new = count
    keep = blocks.open()
    for _ in range(20):
        line = blocks.open()
        blocks.append(line, np.arange(10 * BLOCK))
        blocks.release(line)
    blocks.release(keep)
    assert made == 10


def test_a_crop_gives_blocks_back_and_copies_what_is_shared() -> None:
    blocks = Blocks(BLOCK * CELL)
    line = blocks.open()
    blocks.append(line, np.arange(3 * BLOCK + 5))
    fork = blocks.fork(line, 3 * BLOCK)
    assert allocated(blocks) == CELL * BLOCK * 4
    blocks.crop(line, 2 * BLOCK)
    assert allocated(blocks) == CELL * BLOCK * 3, "the last, of the line alone, is free"
    blocks.crop(line, BLOCK + 1)
    assert blocks.nbytes == CELL * (3 * BLOCK + 1), "the half-full one is its own"
    blocks.release(fork)
    assert blocks.nbytes == CELL * (BLOCK + 1)
    with pytest.raises(ValueError, match=f"line 0 holds {BLOCK + 1} cells, not {BLOCK + 2}"):
        blocks.crop(line, BLOCK + 2)


def test_a_crop_without_memory_leaves_the_line_as_it_was() -> None:
    blocks = Blocks(BLOCK * CELL)
    line = blocks.open()
    blocks.append(line, np.arange(2 * BLOCK))
    fork = blocks.fork(line, 2 * BLOCK)

    def none() -> Any:
        raise MemoryError

    blocks._new = none
    with pytest.raises(MemoryError):
        blocks.crop(fork, BLOCK + 1)
    assert blocks.append(fork, np.empty(0, np.int64))[0] == 2 * BLOCK
    assert [block.users for block in blocks._lines[line].blocks] == [2, 2]


@pytest.mark.parametrize("cells", [-1, 6])
def test_a_fork_of_more_than_there_is_is_refused(cells: int) -> None:
    blocks = Blocks(BLOCK * CELL)
    line = blocks.open()
    blocks.append(line, np.arange(5))
    with pytest.raises(ValueError, match=f"line 0 holds 5 cells, not {cells}"):
        blocks.fork(line, cells)
    assert blocks.open() == 1, "a refused fork took a line"


def test_a_fork_shares_before_it_asks_for_memory() -> None:
    blocks, made = Blocks(BLOCK * CELL), 0

    def count(new: Any = blocks._new) -> Any:
        nonlocal made
        made += 1
        return new()

    line = blocks.open()
    blocks.append(line, np.arange(9 * BLOCK + 1))
    blocks._new = count
    blocks.fork(line, 9 * BLOCK)
    assert made == 0
    blocks.fork(line, 9 * BLOCK + 1)
    assert made == 1


def test_a_fork_without_memory_leaves_nothing_behind() -> None:
    blocks = Blocks(BLOCK * CELL)
    line = blocks.open()
    blocks.append(line, np.arange(2 * BLOCK + 5))

    def none() -> Any:
        raise MemoryError

    blocks._new = none
    with pytest.raises(MemoryError):
        blocks.fork(line, 2 * BLOCK + 5)
    assert allocated(blocks) == CELL * BLOCK * 3
    assert [block.users for block in blocks._lines[line].blocks] == [1, 1, 1]
    assert blocks.open() == 1, "the fork that failed keeps its line"


def test_a_line_without_memory_holds_what_it_held() -> None:
    blocks, left = Blocks(BLOCK * CELL), 2

    def scarce(new: Any = blocks._new) -> Any:
        nonlocal left
        if not left:
            raise MemoryError
        left -= 1
        return new()

    line = blocks.open()
    blocks._new = scarce
    blocks.append(line, np.arange(5))
    with pytest.raises(MemoryError):
        blocks.append(line, np.arange(3 * BLOCK))
    assert blocks.nbytes == CELL * 5
