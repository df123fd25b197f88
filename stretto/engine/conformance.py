"""What every back end must do, one check each: a parametrised suite for tests of back ends.

Each check takes a factory and a tolerance for logits, and raises AssertionError at the first
difference. ``testing.check_backend`` runs whole sessions against the slow twin as well, which
needs a back end that is exact to about 1e-3.
"""

from collections.abc import Callable

import numpy as np
import torch

from stretto.engine import testing
from stretto.engine.backends import Backend
from stretto.engine.batch import PAD_SAMPLE, RowBatch
from stretto.models import MultiStreamLM
from stretto.streams import StreamTable

Factory = Callable[[MultiStreamLM], Backend]
LONG = 150
"""Rows of two streams or more that make lines grow."""


def rows_equal_one_pass(factory: Factory, tolerance: float, rule: str = "inclusive") -> None:
    """Rows read one by one into the cache give the logits of one teacher-forced pass."""
    lm = testing.tiny_lm(mask_rule=rule)
    _compare(lm, factory(lm), _tables(lm, (7,)), tolerance)


def ragged_batches(factory: Factory, tolerance: float, rule: str = "inclusive") -> None:
    """Sessions of other lengths in the same pass change nothing; nor does reading by bursts."""
    lm = testing.tiny_lm(mask_rule=rule)
    _compare(lm, factory(lm), _tables(lm, (2, 9, 20)), tolerance)
    _compare(lm, factory(lm), [_only_inputs(lm, 12)], tolerance, num_rows=5)


def silence_leaves_no_trace(factory: Factory, tolerance: float) -> None:
    """A later cell does not see how many were silent before it."""
    lm = testing.tiny_lm()
    silent = np.full((4, 2), lm.special.silence)
    after = []
    for rows in (0, 3):
        backend = factory(lm)
        line = backend.open()
        _read(backend, line, [[5, 6]], 0)
        for _ in range(rows):
            _read(backend, line, silent[:1].tolist(), 1)
        after.append(_read(backend, line, [[7, 8]], 2))
        backend.release(line)
    _assert_close(after[0], after[1], tolerance, "after three silent rows")


def batch_composition_does_not_matter(factory: Factory, tolerance: float) -> None:
    """A session alone, among others, and on lines that are no neighbours."""
    lm = testing.tiny_lm()
    tables = _tables(lm, (6, 6, 6, 6))
    backend = factory(lm)
    alone = testing.read_in_ticks(backend, [tables[1]])[0]
    together = testing.read_in_ticks(backend, tables)[1]
    first, gap = backend.open(), backend.open()
    third = backend.open()
    backend.release(gap)
    scattered = _read(backend, first, [[5, 6]], 0), _read(backend, third, [[5, 6]], 0)
    both = _read_both(backend, (first, third), [[9, 10], [9, 10]], 1)
    _assert_close(alone, together, tolerance, "alone and among others")
    _assert_close(scattered[0], scattered[1], tolerance, "two lines with the same cells")
    _assert_close(both[0], both[1], tolerance, "lines that are no neighbours")


def lines_grow(factory: Factory, tolerance: float) -> None:
    """A session outgrows what its line first held while a short one shares the passes."""
    lm = testing.tiny_lm()
    _compare(lm, factory(lm), _tables(lm, (LONG, 3)), tolerance)


def lines_are_given_again_empty(factory: Factory, tolerance: float) -> None:
    """A line that was released holds nothing of its last session, even of one that overflowed."""
    lm = testing.tiny_lm()
    backend = factory(lm)
    kept = backend.open()
    used = backend.open()
    fresh = _read(backend, kept, [[5, 6]], 0)
    for row in range(5):
        _read(backend, used, [[40 + row, 60 + row]], row)
    backend.release(used)
    again = backend.open()
    assert again == used, f"line {used} was released, {again} was given"
    _assert_close(_read(backend, again, [[5, 6]], 0), fresh, tolerance, "a line in its second use")


def a_pass_may_ask_nothing(factory: Factory, tolerance: float) -> None:
    """A prefill without queries fills the cache and returns no logits."""
    lm = testing.tiny_lm()
    backend = factory(lm)
    asked, silent = backend.open(), backend.open()
    _read(backend, asked, [[5, 6]], 0)
    none = _read(backend, silent, [[5, 6]], 0, ask=False)
    assert none.shape == (0, lm.vocab_size + 2), f"logits of no query have shape {none.shape}"
    _assert_close(_read(backend, asked, [[7, 8]], 1), _read(backend, silent, [[7, 8]], 1),
                  tolerance, "after a pass without queries")  # fmt: skip


def forks_go_their_own_way(factory: Factory, tolerance: float) -> None:
    """A fork at c cells goes on as the original would have; neither sees what the other reads.

    Lines have grown, have gaps between them, and the source is released before the fork.
    """
    lm = testing.tiny_lm()
    backend = factory(lm)
    lines = [backend.open() for _ in range(4)]
    for row in range(LONG):
        _read_both(backend, tuple(lines), [[row % 200, row % 90]] * 4, row)
    source = lines[2]
    backend.release(lines[1])
    backend.release(lines[3])
    expected = []
    for kept in (LONG, 3):  # rows; two visible cells each
        twin = backend.open()
        for row in range(kept):
            _read(backend, twin, [[row % 200, row % 90]], row)
        expected.append(
            [_read(backend, twin, [[7, 8]], kept), _read(backend, twin, [[9, 1]], kept + 1)]
        )
        backend.release(twin)
    whole, short, again = (backend.fork(source, 2 * kept) for kept in (LONG, 3, 3))
    for i, (line, kept) in enumerate(((whole, LONG), (short, 3))):
        first = _read(backend, line, [[7, 8]], kept)
        _assert_close(first, expected[i][0], tolerance, f"the row after a fork at row {kept}")
    _read(backend, again, [[50, lm.special.silence]], 3)  # another future
    _assert_close(_read(backend, source, [[7, 8]], LONG), expected[0][0], tolerance,
                  "the line that was forked")  # fmt: skip
    backend.release(source)
    reused = backend.open()
    _read(backend, reused, [[60, 61]], 0)
    for i, (line, kept) in enumerate(((whole, LONG), (short, 3))):
        second = _read(backend, line, [[9, 1]], kept + 1)
        _assert_close(second, expected[i][1], tolerance, f"a fork at row {kept}, its source gone")


def rows_read_ahead_can_be_forgotten(
    factory: Factory, tolerance: float, rule: str = "inclusive"
) -> None:
    """Rows of outputs read in one pass, silence among them, are told what they are told one by one.

    And a line that is cropped behind any of them goes on as if the others had never been read.
    """
    lm = testing.tiny_lm(mask_rule=rule)
    s = lm.special.silence
    rows = [[5, 6], [s, 8], [9, s], [s, s], [3, 4], [s, 7]]
    first = [[row, 40 + row] for row in range(30)]  # 60 cells: crops cross the end of a block
    for kept in (1, 2, 4):
        backend, number = factory(lm), len(first)
        backend.open()  # lines need not begin at 0
        plain, ahead = backend.open(), backend.open()
        _read_rows(backend, plain, first, 0)
        _read_rows(backend, ahead, first, 0)
        expected = [_read_rows(backend, plain, [row], number + i) for i, row in enumerate(rows)]
        together = _read_rows(backend, ahead, rows, number)
        _assert_close(together, np.concatenate(expected), tolerance, "rows read ahead")
        fork = backend.fork(ahead, 2 * number + _visible(rows, s))
        backend.crop(ahead, 2 * number + _visible(rows[:kept], s))
        backend.release(plain)
        twin, other = backend.open(), backend.open()
        _read_rows(backend, twin, first + rows[:kept], 0)
        _read_rows(backend, other, first + rows, 0)
        for i, row in enumerate(([60, 61], [s, 62])):
            for line, like, before in ((ahead, twin, kept), (fork, other, len(rows))):
                start = number + before + i
                _assert_close(_read_rows(backend, line, [row], start),
                              _read_rows(backend, like, [row], start),
                              tolerance, f"row {i} after a crop behind row {kept}")  # fmt: skip


def _visible(rows: list[list[int]], silence: int) -> int:
    return sum(token != silence for row in rows for token in row)


def memory_is_counted(factory: Factory, tolerance: float) -> None:
    """``cache_bytes`` has room for every visible cell, none for silence, and goes back to 0."""
    lm = testing.tiny_lm()
    backend = factory(lm)
    line, other = backend.open(), backend.open()
    size = backend.cell_bytes
    assert size > 0 and backend.cache_bytes == 0, "an empty cache takes bytes"
    for row in range(LONG):
        _read(backend, line, [[5, 6]], row)
    one = backend.cache_bytes
    assert size == backend.cell_bytes, "the size of a cell changes"
    assert one >= 2 * LONG * size, f"{one} bytes cannot hold {2 * LONG} cells"
    for row in range(LONG):
        _read(backend, other, [[lm.special.silence]], row)
    # Less than a cell a row: a back end may hold a block of cells for the line already.
    assert backend.cache_bytes < one + LONG * size, "silence takes memory"
    one = backend.cache_bytes
    fork = backend.fork(line, 2 * LONG)
    assert one <= backend.cache_bytes <= 2 * one, "a fork takes more than a copy"
    for held in (line, other, fork):
        backend.release(held)
    assert backend.cache_bytes == 0, "released lines take bytes"


CHECKS: tuple[Callable[[Factory, float], None], ...] = (
    rows_equal_one_pass,
    ragged_batches,
    silence_leaves_no_trace,
    batch_composition_does_not_matter,
    lines_grow,
    lines_are_given_again_empty,
    a_pass_may_ask_nothing,
    forks_go_their_own_way,
    rows_read_ahead_can_be_forgotten,
    memory_is_counted,
)
"""All of them; those in ``RULES`` also take ``rule="strict"``."""
RULES = (rows_equal_one_pass, ragged_batches, rows_read_ahead_can_be_forgotten)


def _tables(lm: MultiStreamLM, lengths: tuple[int, ...]) -> list[StreamTable]:
    return [testing.random_table(lm, rows, seed) for seed, rows in enumerate(lengths)]


def _only_inputs(lm: MultiStreamLM, rows: int) -> StreamTable:
    """A backlog: outputs have cells only where a burst of five rows ends."""
    table = testing.random_table(lm, rows, rows)
    keep = (np.arange(len(table)) + table.num_prompt_rows) % 5 == 4
    for output in lm.streams.outputs:
        table.rows[~keep, output] = -1
    return table


def _compare(
    lm: MultiStreamLM,
    backend: Backend,
    tables: list[StreamTable],
    tolerance: float,
    num_rows: int = 1,
) -> None:
    read = testing.read_in_ticks(backend, tables, num_rows=num_rows)
    for i, (table, logits) in enumerate(zip(tables, read, strict=True)):
        worst = testing.max_difference(lm, table, logits)
        assert worst < tolerance, f"table {i}: logits differ by {worst:.2g} from one pass"


def _read(
    backend: Backend, line: int, tokens: list[list[int]], row: int, ask: bool = True
) -> np.ndarray:
    return _read_both(backend, (line,), tokens, row, ask)


def _read_rows(backend: Backend, line: int, rows: list[list[int]], start: int) -> np.ndarray:
    """Logits of rows that are read in one pass, in their order: (rows * S, V + 2)."""
    cells = np.array(rows, np.int64)
    # Only silence leaves no key in this kit: it has the highest ids but one.
    silence = testing.tiny_lm().special.silence
    tokens, order = cells.ravel(), np.argsort(cells.ravel() == silence, kind="stable")
    where = np.empty_like(order)
    where[order] = np.arange(len(order))
    row, stream = (x.ravel() for x in np.indices(cells.shape))
    batch = RowBatch(np.array([line]), tokens[order][None], stream[order][None],
                     start + row[order][None], np.zeros((1, len(order)), np.int64), where,
                     where * 0, np.zeros(len(where)), [])  # fmt: skip
    return backend.forward(batch).float().cpu().numpy().copy()


def _read_both(
    backend: Backend, lines: tuple[int, ...], tokens: list[list[int]], row: int, ask: bool = True
) -> np.ndarray:
    """Logits of one row of the same width in each line: (B * T, V + 2)."""
    cells = np.array(tokens, np.int64)
    assert not (cells == PAD_SAMPLE).any()
    streams = np.broadcast_to(np.arange(cells.shape[1]), cells.shape).copy()
    select = np.arange(cells.size if ask else 0)
    batch = RowBatch(np.array(lines), cells, streams, np.full_like(cells, row),
                     np.zeros_like(cells), select, select * 0,
                     np.zeros(len(select)), [])  # fmt: skip
    logits = backend.forward(batch)
    assert isinstance(logits, torch.Tensor)
    out = logits.float().cpu().numpy().copy()  # the next pass may write to the same memory
    return out.reshape(len(lines), -1) if len(lines) > 1 else out


def _assert_close(one: np.ndarray, other: np.ndarray, tolerance: float, where: str) -> None:
    worst = float(np.abs(one - other).max(initial=0.0))
    assert worst < tolerance, f"{where}: logits differ by {worst:.2g}"
