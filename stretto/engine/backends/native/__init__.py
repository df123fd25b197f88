"""The fast back end on x86-64 processors: the Llama family in C++, with cache lines in blocks."""

import ctypes
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stretto.engine.backends.drafting import Draft
from stretto.engine.backends.family import checked_precision
from stretto.engine.backends.native.blocks import BLOCK, Blocks
from stretto.engine.backends.native.exits import NativeExits
from stretto.engine.backends.native.inputs import Inputs
from stretto.engine.backends.native.library import (
    LAYER_FIELDS,
    LayerPointers,
    Sizes,
    load_library,
)
from stretto.engine.backends.native.passes import Cells, Ints, make_pass, run, with_lengths
from stretto.engine.backends.native.rows import NativeRows
from stretto.engine.batch import RowBatch
from stretto.errors import ConfigError
from stretto.models import MultiStreamLM
from stretto.models.exits import Exits
from stretto.models.family import FamilyDecoder, Linear, has_dynamic_rope

_KINDS = {"float32": 0, "bfloat16": 1, "int8": 2}
_MOST_HEAD_SIZE = 1024  # `padded` of `put_in_place` in src/decoder.h


class NativeBackend:
    """A compiled decoder and its cache.

    What a cell is told does not depend, bit for bit, on what shares its pass.

    Args:
        lm: a model of the Llama family, on the CPU.
        precision: ``float32``; ``bfloat16``, which rounds matrices and computes in float32; or
            ``int8``, which stores matrices in 8 bits with a scale for each 64 inputs, and rounds
            what they are multiplied with likewise. The last two cache keys and values in half
            precision. None is the model's own dtype.
        isa: a build of the library, for tests; None takes the best.

    Attributes:
        precision: what it computes in.
        weight_bytes: of all matrices as stored, which every pass reads.
        cell_bytes: of one cached cell.
        rows: looks through logits with the decoder's threads.

    Raises:
        ConfigError: a model of another family, on another device, an unknown precision, or the
            library cannot be used here.
    """

    def __init__(
        self, lm: MultiStreamLM, precision: str | None = None, *, isa: str | None = None
    ) -> None:
        self.precision = checked_precision(lm, "native", precision)
        if has_dynamic_rope(lm):
            raise ConfigError("backend native: rotary frequencies follow the length; choose cpu")
        self._lib = load_library(isa)
        self._decoder = decoder = FamilyDecoder(lm)
        self._silence, self._outputs = lm.special.silence, len(decoder.unembed.weight)
        if decoder.head_size > _MOST_HEAD_SIZE:
            raise ConfigError(
                f"backend native: heads of {decoder.head_size} numbers, at most {_MOST_HEAD_SIZE} "
                "fit; choose transformers"
            )
        inner = len(decoder.layer(0).gate_up.weight) // 2
        sizes = Sizes(
            decoder.num_layers, decoder.hidden, decoder.heads, decoder.kv_heads,
            decoder.head_size, inner, self._outputs, _KINDS[self.precision],
            lm.mask_rule == "strict", -1 if decoder.window is None else decoder.window,
            decoder.eps, decoder.scale,
        )  # fmt: skip
        self._handle = self._lib.stretto_new(ctypes.byref(sizes), torch.get_num_threads())
        # Not at exit, when a thread of Python may still be inside: the process ends them all.
        weakref.finalize(self, self._lib.stretto_delete, self._handle).atexit = False
        self._inputs = Inputs(lm, decoder)
        self._num_layers = decoder.num_layers
        self._exits: NativeExits | None = None
        self._load(decoder)
        self._logits = torch.empty(0, self._outputs)
        self.rows = NativeRows(self._lib, self._handle)
        self.weight_bytes: int = self._lib.stretto_weight_bytes(self._handle)
        self._blocks = Blocks(self._lib.stretto_block_bytes(self._handle))
        self.cell_bytes: int = self._lib.stretto_block_bytes(self._handle) // BLOCK

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that live sessions hold; what they share counts once."""
        return self._blocks.nbytes

    def open(self) -> int:
        """Give an empty cache line."""
        return self._blocks.open()

    def fork(self, line: int, cells: int) -> int:
        """A new line with the first ``cells`` visible cells of another."""
        return self._blocks.fork(line, cells)

    def crop(self, line: int, cells: int) -> None:
        """Forget all but the first ``cells`` visible cells of a line."""
        self._blocks.crop(line, cells)

    def release(self, line: int) -> None:
        """Take a line back."""
        self._blocks.release(line)

    @torch.inference_mode()
    def forward(self, batch: RowBatch) -> Tensor:
        """Read the cells; logits of the queries, float32 (N, V + 2), until the next pass."""
        cells = Cells.of(batch, self._silence)
        # Before lines grow: what fails here, as a stream that the model lacks, leaves them alone.
        embeds = self._inputs.embed(cells.tokens, cells.streams)
        cos, sin = self._inputs.rotary(cells.rows)
        lines = with_lengths(cells.append(self._blocks, batch.lines), np.diff(cells.kept))
        logits = self._room(len(batch.select))
        run(self._lib, self._handle, make_pass(
            cells.rows, cells.slots(lines[:, 0]), cells.first, lines, (0, self._num_layers),
            embeds=embeds, cos=cos, sin=sin, select=cells.select, logits=logits.numpy(),
        ))  # fmt: skip
        return logits

    def set_exits(self, exits: Exits, lm: MultiStreamLM) -> None:
        """Take exit heads: see :class:`~stretto.engine.backends.drafting.Drafting`."""
        self._exits = NativeExits(
            self._lib, self._handle, self._inputs, self._blocks, FamilyDecoder(lm), exits.heads,
            self._silence,
        )  # fmt: skip

    @torch.inference_mode()
    def early(self, batch: RowBatch, layer: int) -> Tensor:
        """As a model of the first layers only: logits (N, V + 2)."""
        logits = self._room(len(batch.select))
        self._with_exits().early(batch, layer, logits.numpy())
        return logits

    @torch.inference_mode()
    def draft(
        self, batch: RowBatch, layer: int, rows: int | Ints, confidence: float = 0.0
    ) -> Draft:
        """Rows that the first layers expect to follow these."""
        return self._with_exits().draft(batch, layer, rows, confidence)

    @torch.inference_mode()
    def finish(self, batch: RowBatch, draft: Draft) -> Tensor:
        """``forward`` of the ticks with their drafted rows, which does not compute them again."""
        logits = self._room(len(batch.select))
        self._with_exits().finish(batch, draft, logits.numpy())
        return logits

    def _with_exits(self) -> NativeExits:
        if self._exits is None:
            raise ConfigError("backend native has no exit heads; give it some by set_exits")
        return self._exits

    def _room(self, queries: int) -> Tensor:
        """Where logits go: the same memory every time, as new pages cost as much as the product."""
        if queries > len(self._logits):
            self._logits = torch.empty(max(queries, 2 * len(self._logits)), self._outputs)
        return self._logits[:queries]

    def read_seconds(self, data: np.ndarray) -> float:
        """Seconds in which its threads read float32 numbers once: the machine's side of a floor."""
        return self._lib.stretto_read_seconds(self._handle, data.ctypes.data, data.size)

    def _load(self, decoder: FamilyDecoder) -> None:
        for i in range(decoder.num_layers):
            layer, pointers, held = decoder.layer(i), LayerPointers(), []
            for name in LAYER_FIELDS:
                base, suffix, _ = name.partition("_bias")
                part: Any = getattr(layer, base)
                if isinstance(part, Linear):
                    part = part.bias if suffix else part.weight
                if part is not None:
                    held.append(part.float().contiguous().numpy())
                    setattr(pointers, name, held[-1].ctypes.data)
            self._lib.stretto_set_layer(self._handle, i, ctypes.byref(pointers))
        tensors = (decoder.norm, decoder.unembed.weight, decoder.unembed.bias)
        held = [None if x is None else x.float().contiguous().numpy() for x in tensors]
        where = [None if array is None else array.ctypes.data for array in held]
        self._lib.stretto_set_head(self._handle, *where)
