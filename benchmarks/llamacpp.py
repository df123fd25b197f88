"""Plain llama.cpp at its best for equal work: S tokens a step behind a filled cache.

``PlainLlama(lm, "q4_0").step(10)`` is the seconds of one step, so that a bench can interleave it
with back ends in one process. It reads token ids of the base model, one sequence, no streams, no
silence, with llama.cpp's defaults otherwise: float16 cache, flash attention, repacked matrices.

Run as ``python -m benchmarks.llamacpp`` it is compared with the back end ``llamacpp``.
"""

import ctypes
import statistics
import time
import weakref
from typing import Any

import numpy as np
import torch

from benchmarks.step import BASE, ROUNDS, ROWS, WIDTHS, prefill, step
from stretto.engine.backends import open_backend
from stretto.engine.backends.llama_context import c, start
from stretto.errors import CheckpointError, LimitError
from stretto.models import MultiStreamLM
from stretto.models.gguf_export import cached_gguf

PRECISIONS = ("bfloat16", "q8_0", "q4_0")


class PlainLlama:
    """The base model in llama.cpp, with ``rows`` tokens cached.

    Args:
        lm: the model; its streams are left out.
        precision: of its matrices, as for the back end.
        rows: how many tokens are cached.
        threads: None for as many as torch uses.

    Raises:
        CheckpointError: the GGUF file cannot be loaded.
        LimitError: no memory for the cache.
    """

    def __init__(
        self, lm: MultiStreamLM, precision: str, rows: int = ROWS, threads: int | None = None
    ) -> None:
        start()
        self._rows, self._vocab = rows, lm.vocab_size
        path = cached_gguf(lm, precision, plain=True)
        model = c.llama_model_load_from_file(str(path).encode(), c.llama_model_default_params())
        if not model:
            raise CheckpointError(f"{path}: llama.cpp cannot load it; delete it to have it anew")
        params = c.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = rows + 256, 512, 512
        params.n_threads = params.n_threads_batch = threads or torch.get_num_threads()
        params.no_perf = True
        self._context: Any = c.llama_init_from_model(model, params)
        if not self._context:
            c.llama_model_free(model)
            raise LimitError(f"llama.cpp: no memory for {rows + 256} cells; set BENCH_ROWS lower")
        weakref.finalize(self, _free, model, self._context)
        rng = np.random.default_rng(0)
        for first in range(0, rows, 512):
            positions = np.arange(first, min(first + 512, rows))
            self._decode(rng.integers(0, self._vocab, len(positions)), positions, ask=False)

    def step(self, width: int) -> float:
        """Seconds of a step of ``width`` tokens, logits of all; the cache is as before."""
        tokens = np.arange(width) % self._vocab
        began = time.perf_counter()
        logits = self._decode(tokens, np.full(width, self._rows), ask=True)
        seconds = time.perf_counter() - began
        assert logits is not None and np.isfinite(logits).all()
        c.llama_memory_seq_rm(c.llama_get_memory(self._context), 0, self._rows, -1)
        return seconds

    def _decode(self, tokens: np.ndarray, positions: np.ndarray, *, ask: bool) -> Any:
        number = len(tokens)
        batch = c.llama_batch_init(number, 0, 1)
        batch.n_tokens = number
        for i in range(number):
            batch.token[i], batch.pos[i] = int(tokens[i]), int(positions[i])
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, ask
        try:
            if code := c.llama_decode(self._context, batch):
                raise RuntimeError(f"llama_decode returned {code}")
            if not ask:
                return None
            return np.ctypeslib.as_array(
                ctypes.cast(c.llama_get_logits(self._context), ctypes.POINTER(ctypes.c_float)),
                (number, self._vocab),
            ).copy()
        finally:
            c.llama_batch_free(batch)


def _free(model: Any, context: Any) -> None:
    c.llama_free(context)
    c.llama_model_free(model)


def main() -> None:
    """Print milliseconds a step: plain llama.cpp, the back end, the back end in times of it."""
    lm = MultiStreamLM.from_pretrained(BASE, device="cpu")
    pairs = {}
    for precision in PRECISIONS:
        backend = open_backend(f"llamacpp:{precision}", lm)
        pairs[precision] = PlainLlama(lm, precision), backend, prefill(lm, backend)
    times: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for turn in range(ROUNDS + 2):
        for width in WIDTHS:
            for precision, (plain, backend, line) in pairs.items():
                both = plain.step(width) * 1e3, step(lm, backend, line, width)
                if turn >= 2:  # the first passes of a shape set things up
                    times.setdefault((precision, width), []).append(both)
    print(f"ms a step, {BASE}, {ROWS} cells cached, {torch.get_num_threads()} threads")
    for (precision, width), both in sorted(times.items()):
        plain, ours = (statistics.median(x) for x in zip(*both, strict=True))
        print(f"{precision:9} S={width:<3}{plain:8.1f}{ours:8.1f}{ours / plain:7.2f}")


if __name__ == "__main__":
    main()
