"""Milliseconds a row to choose a token: a full sort of the vocabulary, candidates, the native rows.

Run as ``python -m benchmarks.sampling``. All take turns on the same logits and have to agree; the
figures are medians, the ratio is the median of the ratios of sort and candidates of each turn.
"""

import statistics
import time

import numpy as np
import torch
from torch import Tensor

from stretto.engine import testing
from stretto.engine.backends.native import NativeBackend
from stretto.engine.batch import RowBatch
from stretto.engine.params import SamplingParams
from stretto.engine.rows import Chooser, TorchRows
from stretto.engine.sampling import Sampler
from stretto.streams import SpecialIds

VOCABULARY = 49152
ROWS = (1, 16, 64)
TURNS = 5


def sorted_all(logits: Tensor, chooser: Chooser, uniforms: Tensor) -> Tensor:
    """Every row by a sort of the whole vocabulary."""
    every, size = torch.arange(len(logits)), logits.shape[-1]
    return TorchRows().cut(logits, every, chooser, uniforms, size)[0]


def measure(rows: int, scale: float, backend: NativeBackend) -> tuple[float, float, float, float]:
    """Milliseconds a row of all three, and the median ratio, at logits of this spread."""
    rng, size = np.random.default_rng(rows), VOCABULARY + 2
    params = SamplingParams(temperature=0.8, top_p=0.95)
    sampler = Sampler(size, SpecialIds.after(VOCABULARY), torch.device("cpu"))
    none, ids = np.empty(0, np.int64), np.full(rows, sampler.register(params))
    batch = RowBatch(none, none, none, none, none, none, ids, rng.random(rows), [])
    logits = torch.tensor(rng.normal(size=(rows, size)) * scale).float()
    uniforms = torch.from_numpy(batch.uniforms)
    columns = [params.temperature, params.top_k, params.top_p, params.min_p]
    chooser = Chooser(*torch.tensor([columns] * rows, dtype=torch.float64).unbind(-1))
    every = torch.arange(rows)
    old, new, native = [], [], []
    for _ in range(TURNS):
        start = time.perf_counter()
        slow = sorted_all(logits, chooser, uniforms)
        middle = time.perf_counter()
        fast = sampler.sample(logits, batch)
        end = time.perf_counter()
        found = backend.rows.cut(logits, every, chooser, uniforms, size)[0]
        native.append(1000 * (time.perf_counter() - end) / rows)
        assert slow.tolist() == fast.tolist() == found.tolist()
        old.append(1000 * (middle - start) / rows)
        new.append(1000 * (end - middle) / rows)
    ratio = statistics.median(a / b for a, b in zip(old, new, strict=True))
    return statistics.median(old), statistics.median(new), statistics.median(native), ratio


def main() -> None:
    """Print the table."""
    backend = NativeBackend(testing.tiny_lm(), "float32")  # for its threads
    print("rows  nucleus  sort ms/row  candidates ms/row  native ms/row  ratio")
    for rows in ROWS:
        for name, scale in (("narrow", 8.0), ("medium", 3.0), ("wide", 1.0)):
            old, new, native, ratio = measure(rows, scale, backend)
            print(f"{rows:4d}  {name:7s}  {old:11.2f}  {new:17.2f}  {native:13.3f}  {ratio:5.1f}")


if __name__ == "__main__":
    main()
