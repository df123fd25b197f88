"""Forward passes through any Hugging Face decoder, with a cache that keeps no silence."""

from heapq import heappop, heappush

import torch
from torch import Tensor

from stretto.engine.batch import RowBatch
from stretto.models import MultiStreamLM, StreamBatch


class TransformersBackend:
    """``MultiStreamLM`` and one ``StreamCache`` for all sessions.

    Lines are given out from the lowest free one, so that the lines in use lie close together and
    attention can look at them in place.
    """

    def __init__(self, lm: MultiStreamLM) -> None:
        self._lm = lm
        self._cache = lm.new_cache(0)
        self._free: list[int] = []
        self._cell_bytes, self._is_measured = _cell_bytes(lm), False

    @property
    def cell_bytes(self) -> int:
        """Bytes that one cached cell takes; from the configuration before the first pass."""
        if not self._is_measured and (measured := self._cache.cell_bytes):
            self._cell_bytes, self._is_measured = measured, True
        return self._cell_bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of the keys and values that live sessions hold."""
        free = int(self._cache.lengths[self._free].sum())
        return (int(self._cache.lengths.sum()) - free) * self.cell_bytes

    @torch.inference_mode()
    def open(self) -> int:
        """Give an empty cache line."""
        if not self._free:
            self._free.append(self._cache.lines)
            self._cache.resize(self._cache.lines + 1)
        line = heappop(self._free)
        self._cache.clear(line)
        return line

    @torch.inference_mode()
    def fork(self, line: int, cells: int) -> int:
        """Give a new line with a copy of the first ``cells`` cells of another."""
        new = self.open()
        self._cache.copy(line, new, cells)
        return new

    @torch.inference_mode()
    def crop(self, line: int, cells: int) -> None:
        """Forget all but the first cells of a line."""
        self._cache.shorten(line, cells)

    @torch.inference_mode()
    def release(self, line: int) -> None:
        """Take a line back; when none is left in use the memory is given back too."""
        heappush(self._free, line)
        if len(self._free) == self._cache.lines:
            self._cache = self._lm.new_cache(0)
            self._free = []

    @torch.inference_mode()
    def forward(self, batch: RowBatch) -> Tensor:
        """Read the cells; logits of the queries (N, V + 2)."""
        arrays = (batch.tokens, batch.streams, batch.positions, batch.samples)
        cells = StreamBatch(*map(torch.from_numpy, arrays))
        select = torch.from_numpy(batch.select).to(self._lm.device)
        lines = torch.from_numpy(batch.lines)
        return self._lm(cells, select=select, cache=self._cache, lines=lines).logits


def _cell_bytes(lm: MultiStreamLM) -> int:
    """What the configuration says; models whose layers differ are only known by their cache."""
    config = lm.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * lm.base.dtype.itemsize
