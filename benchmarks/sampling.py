"""Milliseconds a row to choose a token: a full sort of the vocabulary against the candidates.

Run as ``python -m benchmarks.sampling``. Both sides take turns on the same logits; the figures are
medians, the ratio is the median of the ratios of each turn.
"""

import statistics
import time

import numpy as np
import torch
from torch import Tensor

from stretto.engine.batch import RowBatch
from stretto.engine.params import SamplingParams
from stretto.engine.rows import TorchRows
from stretto.engine.sampling import Chooser, Sampler, draw_kept, keep
from stretto.streams import SpecialIds

VOCABULARY = 49152
ROWS = (1, 16, 64)
TURNS = 5


def sorted_all(logits: Tensor, chooser: Chooser, uniforms: Tensor) -> Tensor:
    """Every row by a sort of the whole vocabulary."""
    every, size = torch.arange(len(logits)), logits.shape[-1]
    values, ids, totals = TorchRows().likeliest(logits, every, size, chooser.temperature)
    weights, _ = keep(values, ids, totals, chooser, size)
    return draw_kept(ids, weights, uniforms)


def measure(rows: int, scale: float) -> tuple[float, float, float]:
    """Milliseconds a row of both, and the median ratio, at logits of this spread."""
    rng, size = np.random.default_rng(rows), VOCABULARY + 2
    params = SamplingParams(temperature=0.8, top_p=0.95)
    sampler = Sampler(size, SpecialIds.after(VOCABULARY), torch.device("cpu"))
    none, ids = np.empty(0, np.int64), np.full(rows, sampler.register(params))
    batch = RowBatch(none, none, none, none, none, none, ids, rng.random(rows), [])
    logits = torch.tensor(rng.normal(size=(rows, size)) * scale).float()
    uniforms = torch.from_numpy(batch.uniforms)
    columns = [params.temperature, params.top_k, params.top_p, params.min_p]
    chooser = Chooser(*torch.tensor([columns] * rows, dtype=torch.float64).unbind(-1))
    old, new = [], []
    for _ in range(TURNS):
        start = time.perf_counter()
        slow = sorted_all(logits, chooser, uniforms)
        middle = time.perf_counter()
        fast = sampler.sample(logits, batch)
        end = time.perf_counter()
        assert slow.tolist() == fast.tolist()
        old.append(1000 * (middle - start) / rows)
        new.append(1000 * (end - middle) / rows)
    ratio = statistics.median(a / b for a, b in zip(old, new, strict=True))
    return statistics.median(old), statistics.median(new), ratio


def main() -> None:
    """Print the table."""
    print("rows  nucleus  sort ms/row  candidates ms/row  ratio")
    for rows in ROWS:
        for name, scale in (("narrow", 8.0), ("wide", 1.0)):
            old, new, ratio = measure(rows, scale)
            print(f"{rows:4d}  {name:7s}  {old:11.2f}  {new:17.2f}  {ratio:5.1f}")


if __name__ == "__main__":
    main()
