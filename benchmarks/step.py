"""What a step costs against the number of its cells, back ends interleaved in one run.

Run as ``python -m benchmarks.step``; with arguments, only those back ends:
``... cpu:int8 transformers``. Each round steps every back end once at every width, so that a
disturbance hits all of them; medians are compared. Results go to ``build/bench/step.json``.
"""

import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from stretto.engine.backends import Backend, open_backend
from stretto.engine.batch import RowBatch
from stretto.errors import ConfigError
from stretto.models import MultiStreamLM

BASE = os.environ.get("BENCH_BASE", "smollm2-135m")
ROWS = int(os.environ.get("BENCH_ROWS", "512"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "20"))
BACKENDS = ("transformers", "prepacked:bfloat16", "cpu:float32", "cpu:bfloat16", "cpu:int8")
WIDTHS = (1, 4, 10, 16)
OUT = Path("build/bench/step.json")


def cells(lm: MultiStreamLM, line: int, tokens: np.ndarray, rows: np.ndarray) -> RowBatch:
    """One session's pass over cells (1, T), each of which is asked."""
    select = np.arange(tokens.size)
    return RowBatch(np.array([line]), tokens, np.zeros_like(tokens), rows,
                    np.zeros_like(tokens), select, select * 0,
                     np.zeros(len(select)), [])  # fmt: skip


def prefill(lm: MultiStreamLM, backend: Backend) -> int:
    """A line with ``ROWS`` cached cells."""
    line = backend.open()
    rng = np.random.default_rng(0)
    for start in range(0, ROWS, 64):
        rows = np.arange(start, min(start + 64, ROWS))[None]
        backend.forward(cells(lm, line, rng.integers(0, lm.vocab_size, rows.shape), rows))
    return line


def step(lm: MultiStreamLM, backend: Backend, line: int, width: int) -> float:
    """Milliseconds of a row of silence, which leaves the cache as it was."""
    tokens = np.full((1, width), lm.special.silence)
    batch = cells(lm, line, tokens, np.full((1, width), ROWS))
    start = time.perf_counter()
    backend.forward(batch)
    return (time.perf_counter() - start) * 1e3


def measure(names: list[str]) -> dict[str, dict[int, float]]:
    """Median milliseconds by back end and width."""
    lm = MultiStreamLM.from_pretrained(BASE, device="cpu")
    opened: dict[str, tuple[Backend, int]] = {}
    for name in names:
        start = time.perf_counter()
        try:
            backend = open_backend(name, lm)
        except ConfigError as error:
            print(f"{name}: left out ({error})", file=sys.stderr)
            continue
        seconds = time.perf_counter() - start
        opened[name] = backend, prefill(lm, backend)
        print(f"{name}: open in {seconds:.1f} s", file=sys.stderr)
    times: dict[str, dict[int, list[float]]] = {n: {w: [] for w in WIDTHS} for n in opened}
    for turn in range(ROUNDS + 2):
        for width in WIDTHS:
            for name, (backend, line) in opened.items():
                took = step(lm, backend, line, width)
                if turn >= 2:  # the first passes of a shape set things up
                    times[name][width].append(took)
    return {n: {w: statistics.median(t) for w, t in by.items()} for n, by in times.items()}


def report(medians: dict[str, dict[int, float]]) -> None:
    """Print the table and write JSON."""
    first = next(iter(medians))
    print(f"ms per step, {BASE}, {ROWS} cells cached, {torch.get_num_threads()} threads; "
          f"times as fast as {first} in brackets")  # fmt: skip
    print(f"{'':20}" + "".join(f"{f'S={w}':>16}" for w in WIDTHS) + f"{'S=10 / S=1':>12}")
    for name, by in medians.items():
        row = "".join(f"{f'{t:.1f} ({medians[first][w] / t:.2f})':>16}" for w, t in by.items())
        print(f"{name:20}{row}{by[10] / by[1]:12.2f}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "model": BASE, "cached_cells": ROWS, "rounds": ROUNDS, "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": {name: _version(name) for name in ("torch", "transformers", "openvino")},
        "median_ms": medians,
    }  # fmt: skip
    OUT.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"written to {OUT}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    report(measure(sys.argv[1:] or list(BACKENDS)))
