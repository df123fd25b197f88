"""The fast back end on processors: the Llama family in OpenVINO."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from torch import Tensor

from stretto.engine.backends.family import FamilyBackend
from stretto.engine.backends.graph import build
from stretto.engine.backends.lines import View
from stretto.engine.batch import RowBatch
from stretto.models import MultiStreamLM
from stretto.models.family import FamilyDecoder
from stretto.models.store import cache_dir


class CpuBackend(FamilyBackend):
    """Cache lines in plain memory, which the compiled graph reads in place.

    Args:
        lm: a model of the Llama family, on the CPU.
        precision: ``float32`` is exact, ``bfloat16`` rounds what is multiplied, ``int8`` stores
            matrices in 8 bits and quantises what they are multiplied with; None is the model's
            own dtype.
        compiled: folder for the compiled graph, which makes a second start short; None for the
            user's cache.

    Raises:
        ConfigError: a model of another family, on another device, or an unknown precision.
    """

    def __init__(
        self, lm: MultiStreamLM, precision: str | None = None, *, compiled: Path | None = None
    ) -> None:
        super().__init__(lm, "cpu", precision)
        self._request = _compile(self._decoder, self.precision, compiled).create_infer_request()
        self._held: dict[str, Any] = {}
        self._seen: tuple[Any, ...] | None = None

    @torch.inference_mode()
    def forward(self, batch: RowBatch) -> Tensor:
        """Read the cells; logits of the queries, float32 (N, V + 2)."""
        decoder, request = self._decoder, self._request
        tokens, streams, rows = map(
            torch.from_numpy, (batch.tokens, batch.streams, batch.positions)
        )
        cos, sin = decoder.rotary(rows)
        view = self._lines.view(batch)
        group = decoder.heads // decoder.kv_heads
        inputs = {
            "embeds": decoder.embed(tokens, streams).numpy(),
            "cos": cos.numpy(),
            "sin": sin.numpy(),
            "mask": np.tile(view.mask, (1, 1, group, 1)),
            "select": batch.select,
        }
        # The request does not keep alive what it was given.
        held = {name: _shared(array) for name, array in inputs.items()}
        for name, tensor in held.items():
            request.set_tensor(name, tensor)
        self._show(view)
        request.infer()
        keys, values, logits = (
            request.get_tensor(name).data for name in ("keys", "values", "logits")
        )
        self._lines.append(batch, keys, values)
        # The request writes its next answer into the same memory.
        return torch.from_numpy(logits.copy())

    def _show(self, view: View) -> None:
        """Point the graph at the lines, if it does not look there already."""
        place = (view.keys.ctypes.data, view.keys.shape) if view.is_in_place else None
        if place is not None and place == self._seen:
            return
        for i in range(self._decoder.num_layers):
            self._held[f"keys.{i}"] = _shared(view.keys[i])
            self._held[f"values.{i}"] = _shared(view.values[i])
        for name, tensor in self._held.items():
            self._request.set_tensor(name, tensor)
        self._seen = place


def _compile(decoder: FamilyDecoder, precision: str, folder: Path | None) -> Any:
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 32 if precision == "int8" else 0,
        "CACHE_DIR": str(folder or cache_dir() / "compiled"),
    }
    return ov.Core().compile_model(build(decoder, int8=precision == "int8"), "CPU", config)


def _shared(array: np.ndarray) -> Any:
    return ov.Tensor(np.ascontiguousarray(array), shared_memory=True)
