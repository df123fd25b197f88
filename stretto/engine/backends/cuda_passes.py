"""Passes of a fixed shape, recorded once and replayed: what a GPU needs to start no kernel twice.

A step of a small model is hundreds of kernels of a few microseconds each; started one by one from
Python they take longer to start than to run. A CUDA graph starts them all at once, but only with
the same shapes at the same addresses. So a pass is padded to a bucket, its input goes to the
bucket's own buffer in one transfer, and each bucket is recorded when it first occurs.

Only :func:`recorded` makes CUDA graphs.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stretto.engine.backends.cuda_pool import NARROWEST, Places, power_of_two
from stretto.engine.batch import RowBatch
from stretto.engine.transfer import put

Ints = npt.NDArray[np.int64]
KEPT = 64
"""Recorded passes that are kept; the one unused for longest goes first."""
SMALL = 1024
"""Passes of more cells, padding counted, are not recorded: each is long enough by itself."""
STEP = 64
"""Passes wider than this many cells are padded to a multiple of it, narrower to a power of two."""


@dataclass(frozen=True)
class Bucket:
    """The shape of a pass.

    Attributes:
        sessions, cells: of the padded rectangle (B, T).
        width: cells of each line that are looked at (C).
        queries: cells whose logits are computed (N).
        is_in_place: whether session b is line b, so that the cache is read where it lies;
            otherwise the lines are gathered.
    """

    sessions: int
    cells: int
    width: int
    queries: int
    is_in_place: bool

    @property
    def parts(self) -> list[int]:
        """Sizes of the parts of the input: tokens, streams, rows, slots, lines, ends, select."""
        return [self.sessions * self.cells] * 4 + [self.sessions] * 2 + [self.queries]

    @classmethod
    def of(cls, batch: RowBatch, width: int) -> "Bucket":
        """The bucket of a pass that looks at ``width`` cells of its lines."""
        number, cells = batch.tokens.shape
        sessions = power_of_two(number)
        cells = power_of_two(cells) if cells <= STEP else -(-cells // STEP) * STEP
        queries = sessions * cells
        # Reading the unembedding is what costs, so few cells are all asked: fewer buckets.
        if queries > STEP:
            queries = min(queries, power_of_two(len(batch.select)))
        is_in_place = power_of_two(int(batch.lines.max()) + 1) == sessions
        return cls(sessions, cells, max(NARROWEST, power_of_two(width)), queries, is_in_place)

    def pack(self, batch: RowBatch, places: Places, nowhere: int) -> Ints:
        """All that the device has to know of a pass, as one array.

        Args:
            batch: the pass.
            places: of its cells.
            nowhere: the slot of padding.
        """
        number, cells = batch.tokens.shape
        at = batch.lines if self.is_in_place else np.arange(number)
        packed = np.zeros(sum(self.parts), np.int64)
        parts = np.split(packed, np.cumsum(self.parts)[:-1])
        grids = (batch.tokens, batch.streams, batch.positions, places.slots)
        for part, grid, fill in zip(parts, grids, (0, 0, 0, nowhere), strict=False):
            part.fill(fill)
            part.reshape(self.sessions, self.cells)[at, :cells] = grid
        *_, lines, ends, select = parts
        lines[at], ends[at] = batch.lines, places.ends
        session, cell = np.divmod(batch.select, cells)
        select[: len(session)] = at[session] * self.cells + cell
        return packed


Run = Callable[[Bucket, Tensor], Tensor]
Replay = Callable[[], Tensor]
Memory = Any
"""A pool of device memory; torch has no public type for it."""


class Passes:
    """Runs passes through buffers that stay, recorded if asked for.

    Args:
        run: computes a pass: bucket and packed input to logits (N, V).
        device: where.
        capture: whether to record passes as CUDA graphs.
        kept: how many buckets to keep.
    """

    def __init__(self, run: Run, device: torch.device, *, capture: bool, kept: int = KEPT) -> None:
        self._run, self._device, self._capture, self._most = run, device, capture, kept
        self._kept: OrderedDict[Bucket, tuple[Tensor, Replay]] = OrderedDict()
        self._memory = _new_memory() if capture else None

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(self, bucket: Bucket, packed: Ints) -> Tensor:
        """Logits (N, V), which the next pass may overwrite."""
        source = put(packed, self._device)
        if bucket.sessions * bucket.cells > SMALL:
            return self._run(bucket, source)
        if bucket in self._kept:
            self._kept.move_to_end(bucket)
            static, replay = self._kept[bucket]
            static.copy_(source)
            return replay()
        if len(self._kept) == self._most:
            self._wait()
            self._kept.popitem(last=False)
        static = source.clone()

        def run() -> Tensor:
            return self._run(bucket, static)

        replay = recorded(run, self._device, self._memory) if self._capture else run
        self._kept[bucket] = static, replay
        return replay()

    def clear(self) -> None:
        """Forget all that was recorded: what it reads is about to move."""
        if not self._kept:
            return
        self._wait()
        self._kept.clear()
        if self._capture:
            # Memory whose graphs are all gone may not be shared again.
            self._memory = _new_memory()

    def _wait(self) -> None:
        # A graph must not be freed while it runs.
        if self._capture:
            torch.cuda.synchronize(self._device)


def _new_memory() -> Memory:
    return torch.cuda.graph_pool_handle()


def recorded(run: Replay, device: torch.device, memory: Memory) -> Replay:
    """A CUDA graph of a function without arguments; give its output's buffer each time.

    The function is run twice before, so that libraries set themselves up outside the graph. It
    must give the same whenever it is run again, and it does: a pass writes only cells of its own.

    Args:
        run: the function.
        device: a CUDA device.
        memory: pool for what is computed between. All graphs share it, as one runs at a time and
            outputs are copied before the next.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=memory, stream=stream, capture_error_mode="thread_local"):
            output = run()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay
