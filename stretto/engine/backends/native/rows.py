"""Choosing among logits with the decoder's own threads."""

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stretto.engine.backends.native.library import Choice
from stretto.engine.rows import Chooser


class NativeRows:
    """:class:`stretto.engine.rows.TorchRows` in C++; the same tokens, but for the last bit of sums.

    Args:
        library: the compiled decoder's.
        handle: the decoder.
    """

    def __init__(self, library: Any, handle: int) -> None:
        self._library, self._handle = library, handle

    def argmax(self, logits: Tensor) -> Tensor:
        """As in :class:`~stretto.engine.rows.TorchRows`."""
        tokens = np.empty(len(logits), np.int64)
        self._choose(0, logits, np.arange(len(logits)), tokens=tokens)
        return torch.from_numpy(tokens)

    def cut(
        self, logits: Tensor, rows: Tensor, chooser: Chooser, uniforms: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        """As in :class:`~stretto.engine.rows.TorchRows`, but it looks as far as it has to."""
        tokens = np.empty(len(rows), np.int64)
        columns = {
            name: getattr(chooser, name).numpy()
            for name in ("temperature", "top_k", "top_p", "min_p")
        }
        self._choose(1, logits, rows.numpy(), uniforms=uniforms.numpy(), tokens=tokens, **columns)
        return torch.from_numpy(tokens), torch.ones(len(rows), dtype=torch.bool)

    def draw(self, logits: Tensor, rows: Tensor, temperature: Tensor, uniforms: Tensor) -> Tensor:
        """As in :class:`~stretto.engine.rows.TorchRows`."""
        tokens = np.empty(len(rows), np.int64)
        self._choose(2, logits, rows.numpy(), temperature=temperature.numpy(),
                     uniforms=uniforms.numpy(), tokens=tokens)  # fmt: skip
        return torch.from_numpy(tokens)

    def _choose(self, kind: int, logits: Tensor, which: np.ndarray, **arrays: np.ndarray) -> None:
        # Contiguous; and numbers that steer come as float64 from the sampler.
        logits, which = logits.contiguous(), np.ascontiguousarray(which)
        held = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        choice = Choice(
            rows=len(which), size=logits.shape[1], logits=logits.data_ptr(),
            which=which.ctypes.data, **{name: array.ctypes.data for name, array in held.items()},
        )  # fmt: skip
        self._library.stretto_choose(self._handle, kind, ctypes.byref(choice))
