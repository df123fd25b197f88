"""The Llama family in llama.cpp, quantised: for Apple and for small machines.

Positions. A token here has several (see :mod:`stretto.models.gguf_export`). One is its row, by
which it is turned. Another, its *turn*, decides who sees whom: a token sees those of its sequence
whose turn is not later. The visible cells of a row share a turn, 2, 4, 6, ... in a line, so they
see one another and all before: the inclusive rule. Rows that left nothing have no turn.

Silence. A silent cell has the odd turn behind the row it belongs to, and a sequence of its own, a
*view* of the line, so that no other silence sees it. A line's views hold what the line holds; the
visible cells that are read along belong to all of them. After the pass silence is removed.
"""

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stretto.engine.backends.family import checked_precision
from stretto.engine.backends.llama_context import Context
from stretto.engine.batch import PAD_SAMPLE, RowBatch
from stretto.errors import ConfigError, InputError, LimitError
from stretto.models import MultiStreamLM
from stretto.models.family import FamilyDecoder
from stretto.models.gguf_export import cached_gguf

WIDTH = 256
"""Cells read at once; more are read one after another, never a row in two parts."""
MAX_SEQUENCES = 256
"""llama.cpp's LLAMA_MAX_SEQ. A line needs two at least: itself and a view."""
VIEWS = 7
"""Silent cells of a line that one pass should have room for before sequences get scarce."""


@dataclass
class _Row:
    """The visible cells that a line read in one row, and how many lines hold them."""

    row: int
    cells: int
    lines: int = 1


@dataclass
class _Line:
    sequence: int
    rows: list[_Row] = field(default_factory=list)
    views: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Part:
    """Cells of one row of one line, as flat indices into the batch."""

    line: int
    row: int
    visible: npt.NDArray[np.int64]
    silent: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.visible) + len(self.silent)


class LlamaCppBackend:
    """Cache lines as sequences of one llama.cpp context, which grows as they do.

    The context starts with room for some cells and doubles; while it grows there are two of them.

    Args:
        lm: a model of the Llama family, on the CPU, with the inclusive mask rule.
        precision: ``float32``, ``bfloat16``, ``q8_0`` or ``q4_0``, of the matrices; None is the
            model's own dtype. Cached keys and values are float16, with ``float32`` float32.

    Attributes:
        cell_bytes: bytes that one cached cell takes.

    Raises:
        ConfigError: a model of another family or that llama.cpp cannot run, another mask rule, on
            another device, or an unknown precision.
        CheckpointError: the GGUF file cannot be written to the user's cache, or not be read.
    """

    def __init__(self, lm: MultiStreamLM, precision: str | None = None) -> None:
        self.precision = checked_precision(lm, "llamacpp", precision)
        if lm.mask_rule != "inclusive":
            raise ConfigError(
                f"backend llamacpp: the model's mask rule is {lm.mask_rule}, but there cells of a "
                "row see one another; choose backend transformers"
            )
        path = cached_gguf(lm, self.precision)
        self._decoder, self._silence = FamilyDecoder(lm), lm.special.silence
        exact = self.precision == "float32"
        self._context = Context(path, max(WIDTH, len(lm.streams)), exact=exact)
        self._width = max(WIDTH, len(lm.streams))
        decoder = self._decoder
        per_layer = 2 * decoder.kv_heads * decoder.head_size * (4 if exact else 2)
        self.cell_bytes: int = decoder.num_layers * per_layer
        self._lines: dict[int, _Line] = {}
        self._free = list(range(self._context.sequences))
        self._used = 0

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that live sessions hold; shared cells count once."""
        return self._used * self.cell_bytes

    def open(self) -> int:
        """Give an empty cache line, the lowest free one.

        Raises:
            LimitError: llama.cpp knows no more sequences.
        """
        lines = len(self._lines) + 1
        if 2 * lines > MAX_SEQUENCES:
            raise LimitError(
                f"backend llamacpp holds {MAX_SEQUENCES // 2} sessions at most; run fewer at once "
                "or choose backend cpu"
            )
        known = self._context.sequences
        while known < MAX_SEQUENCES and known < lines * (1 + VIEWS):
            known *= 2
        first = self._context.sequences
        self._context.grow(0, known)
        for sequence in range(first, known):
            heappush(self._free, sequence)
        for other in self._lines.values():
            self._drop_views(other, self._share(lines))
        number = next(i for i in range(lines) if i not in self._lines)
        self._lines[number] = _Line(heappop(self._free))
        return number

    def fork(self, line: int, cells: int) -> int:
        """Give a new line that holds the first ``cells`` visible cells of another.

        Nothing is copied. Where rows were read as one, they can only be had as one.

        Raises:
            InputError: a row of the line would be cut in two.
            LimitError: llama.cpp knows no more sequences.
        """
        source = self._lines[line]
        rows = _rows_in(source, cells)
        number = self.open()
        fork = self._lines[number]
        fork.rows = source.rows[:rows]
        for row in fork.rows:
            row.lines += 1
        self._context.copy(source.sequence, fork.sequence, 0, 2 * rows + 1)
        return number

    def crop(self, line: int, cells: int) -> None:
        """Forget all but the first ``cells`` visible cells of a line.

        Raises:
            InputError: a row of the line would be cut in two.
        """
        held = self._lines[line]
        rows = _rows_in(held, cells)
        for sequence in (held.sequence, *held.views):
            self._context.remove(sequence, 2 * rows + 1, -1)
        for row in held.rows[rows:]:
            row.lines -= 1
            self._used -= 0 if row.lines else row.cells
        del held.rows[rows:]

    def release(self, line: int) -> None:
        """Take a line back; when none is left in use the memory is given back too."""
        gone = self._lines.pop(line)
        self._drop_views(gone, 0)
        self._drop(gone.sequence)
        for row in gone.rows:
            row.lines -= 1
            self._used -= 0 if row.lines else row.cells
        if not self._lines:
            self._context.shrink()
            self._free = list(range(self._context.sequences))
            heapify(self._free)

    @torch.inference_mode()
    def forward(self, batch: RowBatch) -> Tensor:
        """Read the cells; logits of the queries, float32 (N, V + 2).

        Raises:
            InputError: a line's rows go back.
            LimitError: no memory for the cache.
        """
        tokens, streams = torch.from_numpy(batch.tokens), torch.from_numpy(batch.streams)
        embeds = self._decoder.embed(tokens, streams).flatten(0, 1).numpy()
        asked = np.zeros(batch.tokens.size, bool)
        asked[batch.select] = True
        found = np.zeros(batch.tokens.size, np.int64)
        logits, number = [], 0
        for wave in self._waves(batch):
            cells, out = self._read(wave, embeds, asked)
            which = cells[asked[cells]]
            found[which] = np.arange(number, number + len(which))
            number += len(which)
            logits.append(out)
        return torch.from_numpy(np.concatenate(logits)[found[batch.select]])

    def _waves(self, batch: RowBatch) -> list[list[_Part]]:
        """The cells in as few calls as they fit in, row by row."""
        most = self._share(len(self._lines))
        waves: list[list[_Part]] = [[]]
        cells, silent, line = 0, 0, -1
        for part in _parts(batch, self._silence, most):
            silent = silent + len(part.silent) if part.line == line else len(part.silent)
            if waves[-1] and (cells + len(part) > self._width or silent > most):
                waves.append([])
                cells, silent = 0, len(part.silent)
            waves[-1].append(part)
            cells, line = cells + len(part), part.line
        return waves

    def _read(
        self, wave: list[_Part], embeds: npt.NDArray[np.float32], asked: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Read parts together: their cells in the order read, logits of those that are asked."""
        number = sum(map(len, wave))
        room = self._context.cells
        while room < self._used + number:
            room *= 2
        self._context.grow(room, 0)
        cells, turns, rows, owners = [], [], [], []
        silences: list[tuple[_Line, int, int]] = []
        for line in {part.line: None for part in wave}:
            parts, held = [p for p in wave if p.line == line], self._lines[line]
            seen = self._silences(held, parts)
            silences += [(held, view, turn) for view, turn in seen]
            for part in parts:
                if not len(part.visible):
                    continue
                held.rows.append(_Row(part.row, len(part.visible)))
                self._used += len(part.visible)
                turn = 2 * len(held.rows)
                # What is silent in an earlier row does not see this one.
                late = {view for view, before in seen if before < turn}
                own = [held.sequence, *(view for view in held.views if view not in late)]
                cells.append(part.visible)
                turns += [turn] * len(part.visible)
                rows += [part.row] * len(part.visible)
                owners += [own] * len(part.visible)
            cells += [part.silent for part in parts]
            rows += [part.row for part in parts for _ in part.silent]
            turns += [turn for _, turn in seen]
            owners += [[view] for view, _ in seen]
        order = np.concatenate(cells)
        positions = np.array([turns, rows, np.zeros_like(rows), rows], np.int32)
        logits = self._context.decode(embeds[order], positions, owners, asked[order])
        for held, view, turn in silences:
            self._context.remove(view, turn, turn + 1)
            if turn < 2 * len(held.rows):
                self._context.copy(held.sequence, view, turn, -1)
        return order, logits

    def _silences(self, line: _Line, parts: list[_Part]) -> list[tuple[int, int]]:
        """View and turn of each silent cell of a line's parts; views are made as needed."""
        for _ in range(len(line.views), sum(len(part.silent) for part in parts)):
            line.views.append(heappop(self._free))
            self._context.copy(line.sequence, line.views[-1])
        seen, rows = [], len(line.rows)
        for part in parts:
            if line.rows and part.row < line.rows[-1].row:
                raise InputError(f"row {part.row} is read after row {line.rows[-1].row}")
            rows += bool(len(part.visible))
            seen += [(line.views[len(seen) + i], 2 * rows + 1) for i in range(len(part.silent))]
        return seen

    def _share(self, lines: int) -> int:
        """How many views a line may have, so that all have as many."""
        return self._context.sequences // max(lines, 1) - 1

    def _drop_views(self, line: _Line, keep: int) -> None:
        for view in line.views[keep:]:
            self._drop(view)
        del line.views[keep:]

    def _drop(self, sequence: int) -> None:
        self._context.remove(sequence)
        heappush(self._free, sequence)


def _parts(batch: RowBatch, silence: int, most: int) -> list[_Part]:
    """The cells by line and row; silence beyond ``most`` in parts of its own."""
    parts, width = [], batch.tokens.shape[1]
    nothing = np.zeros(0, np.int64)
    for b, line in enumerate(batch.lines.tolist()):
        real = batch.samples[b] != PAD_SAMPLE
        quiet = batch.tokens[b] == silence
        for row in np.unique(batch.positions[b][real]).tolist():
            here = real & (batch.positions[b] == row)
            visible = np.flatnonzero(here & ~quiet) + b * width
            silent = np.flatnonzero(here & quiet) + b * width
            parts.append(_Part(line, row, visible, silent[:most]))
            for first in range(most, len(silent), most):
                parts.append(_Part(line, row, nothing, silent[first : first + most]))
    return parts


def _rows_in(line: _Line, cells: int) -> int:
    """How many rows the first ``cells`` cells of a line are.

    Raises:
        InputError: they end within a row.
    """
    held = rows = 0
    while held < cells and rows < len(line.rows):
        held += line.rows[rows].cells
        rows += 1
    if held != cells:
        raise InputError(f"line cut at {cells} cells, within a row; the nearest end is at {held}")
    return rows
