"""Choosing among logits with the decoder's own threads."""

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stretto.engine.backends.native.library import Choice


class NativeRows:
    """:class:`stretto.engine.rows.TorchRows` in C++; the same tokens, but for the last bit of sums.

    Args:
        library: the compiled decoder's.
        handle: the decoder.
    """

    def __init__(self, library: Any, handle: int) -> None:
        self._library, self._handle = library, handle

    def argmax(self, logits: Tensor) -> Tensor:
        """The likeliest token of each row, the lowest of equals: (N)."""
        tokens = np.empty(len(logits), np.int64)
        self._choose(0, logits, np.arange(len(logits)), tokens=tokens)
        return torch.from_numpy(tokens)

    def likeliest(
        self, logits: Tensor, rows: Tensor, size: int, temperature: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As in :class:`~stretto.engine.rows.TorchRows`."""
        ids, values = np.empty((len(rows), size), np.int64), np.empty((len(rows), size), np.float32)
        totals = np.empty(len(rows))
        self._choose(1, logits, rows.numpy(), temperature=temperature.numpy(), number=size,
                     tokens=ids, values=values, totals=totals)  # fmt: skip
        return torch.from_numpy(values), torch.from_numpy(ids), torch.from_numpy(totals)

    def draw(self, logits: Tensor, rows: Tensor, temperature: Tensor, uniforms: Tensor) -> Tensor:
        """As in :class:`~stretto.engine.rows.TorchRows`."""
        tokens = np.empty(len(rows), np.int64)
        self._choose(2, logits, rows.numpy(), temperature=temperature.numpy(),
                     uniforms=uniforms.numpy(), tokens=tokens)  # fmt: skip
        return torch.from_numpy(tokens)

    def _choose(
        self, kind: int, logits: Tensor, which: np.ndarray, number: int = 0, **arrays: np.ndarray
    ) -> None:
        logits = logits.contiguous()
        held = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        choice = Choice(
            rows=len(which), size=logits.shape[1], number=number, logits=logits.data_ptr(),
            which=which.ctypes.data, **{name: array.ctypes.data for name, array in held.items()},
        )  # fmt: skip
        self._library.stretto_choose(self._handle, kind, ctypes.byref(choice))
