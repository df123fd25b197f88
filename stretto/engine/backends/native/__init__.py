"""The fast back end on x86-64 processors: the Llama family in C++, with cache lines in blocks."""

import ctypes
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stretto.engine.backends import PRECISIONS
from stretto.engine.backends.native.blocks import BLOCK, Blocks
from stretto.engine.backends.native.inputs import Inputs
from stretto.engine.backends.native.library import LayerPointers, Pass, Sizes, load_library
from stretto.engine.batch import PAD_SAMPLE, RowBatch
from stretto.errors import ConfigError
from stretto.models import MultiStreamLM
from stretto.models.family import FamilyDecoder, Linear

_KINDS = {"float32": 0, "bfloat16": 1, "int8": 2}


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

    Raises:
        ConfigError: a model of another family, on another device, an unknown precision, or the
            library cannot be used here.
    """

    def __init__(
        self, lm: MultiStreamLM, precision: str | None = None, *, isa: str | None = None
    ) -> None:
        self.precision = precision or str(lm.base.dtype).removeprefix("torch.")
        if self.precision not in _KINDS:
            known = ", ".join(PRECISIONS["native"])
            raise ConfigError(f"backend native in {self.precision}: choose from {known}")
        if lm.device.type != "cpu":
            raise ConfigError(
                f"backend native: the model is on {lm.device}; load it with device cpu"
            )
        self._lib = load_library(isa)
        self._decoder = decoder = FamilyDecoder(lm)
        self._silence, self._outputs = lm.special.silence, len(decoder.unembed.weight)
        inner = len(decoder.layer(0).gate_up.weight) // 2
        sizes = Sizes(
            decoder.num_layers, decoder.hidden, decoder.heads, decoder.kv_heads,
            decoder.head_size, inner, self._outputs, _KINDS[self.precision],
            lm.mask_rule == "strict", -1 if decoder.window is None else decoder.window,
            decoder.eps, decoder.scale,
        )  # fmt: skip
        self._handle = self._lib.stretto_new(ctypes.byref(sizes), torch.get_num_threads())
        weakref.finalize(self, self._lib.stretto_delete, self._handle)
        self._inputs = Inputs(lm, decoder)
        self._load(decoder)
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

    def release(self, line: int) -> None:
        """Take a line back."""
        self._blocks.release(line)

    @torch.inference_mode()
    def forward(self, batch: RowBatch) -> Tensor:
        """Read the cells; logits of the queries, float32 (N, V + 2)."""
        real = batch.samples != PAD_SAMPLE
        number = real.sum(1)
        first = np.zeros(len(batch.lines) + 1, np.int32)
        np.cumsum(number, out=first[1:])
        rows = batch.positions[real]
        # Queries point into the padded rectangle.
        select = (np.cumsum(real) - 1)[batch.select].astype(np.int32)
        tokens = batch.tokens[real]
        visible = tokens != self._silence
        lines = [
            self._blocks.append(line, rows[first[b] : first[b + 1]][visible[first[b] : first[b + 1]]])
            for b, line in enumerate(batch.lines.tolist())
        ]
        old = np.array([line[0] for line in lines], np.int32)
        counts = visible.cumsum()
        before = np.concatenate([[0], counts])[first]
        slots = counts - 1 + np.repeat(old - before[:-1], number)
        embeds = self._inputs.embed(tokens, batch.streams[real])
        cos, sin = self._inputs.rotary(rows)
        arrays = {
            "embeds": embeds,
            "cos": cos,
            "sin": sin,
            "rows": rows.astype(np.int32),
            "slots": np.where(visible, slots, -1).astype(np.int32),
            "first": first,
            "old": old,
            "length": (old + np.diff(before)).astype(np.int32),
            "line_rows": np.array([line[1].ctypes.data for line in lines], np.uint64),
            "blocks": np.array([line[2].ctypes.data for line in lines], np.uint64),
            "select": select,
        }
        logits = torch.empty(len(select), self._outputs)
        pointers = {name: array.ctypes.data for name, array in arrays.items()}
        what = Pass(
            cells=len(rows), sessions=len(lines), queries=len(select),
            logits=logits.data_ptr(), **pointers,
        )  # fmt: skip
        self._lib.stretto_forward(self._handle, ctypes.byref(what))
        return logits

    def read_seconds(self, data: np.ndarray) -> float:
        """Seconds in which its threads read an array of float32 once."""
        return self._lib.stretto_read_seconds(self._handle, data.ctypes.data, data.size)

    def _load(self, decoder: FamilyDecoder) -> None:
        for i in range(decoder.num_layers):
            layer, pointers, held = decoder.layer(i), LayerPointers(), []
            for name, _ in LayerPointers._fields_:
                base, _, bias = name.partition("_bias")
                part: Any = getattr(layer, base if _ else name)
                if isinstance(part, Linear):
                    part = part.bias if _ else part.weight
                if part is not None:
                    array = part.float().contiguous().numpy()
                    held.append(array)
                    setattr(pointers, name, array.ctypes.data)
            self._lib.stretto_set_layer(self._handle, i, ctypes.byref(pointers))
        norm, head = decoder.norm.float().numpy(), decoder.unembed
        unembed = head.weight.float().contiguous().numpy()
        bias = None if head.bias is None else head.bias.float().numpy()
        self._lib.stretto_set_head(
            self._handle, norm.ctypes.data, unembed.ctypes.data,
            None if bias is None else bias.ctypes.data,
        )  # fmt: skip
