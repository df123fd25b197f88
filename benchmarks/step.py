"""What a step costs against the number of its cells, everything interleaved in one run.

Run as ``python -m benchmarks.step``; with arguments, only those back ends:
``... cpu:int8 transformers``. Each round steps everything in a short burst at every width, so that
a disturbance hits all of them; medians are compared. Results go to ``build/bench/step.json``.
"""

import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from benchmarks.goal import save
from benchmarks.machine import facts, line
from stretto.engine.backends import Backend, open_backend
from stretto.engine.batch import RowBatch
from stretto.errors import ConfigError, StrettoError
from stretto.models import MultiStreamLM

BASE = os.environ.get("BENCH_BASE", "smollm2-135m")
ROWS = int(os.environ.get("BENCH_ROWS", "512"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "20"))
FAST = ("native:int8", "cpu:int8", "prepacked:bfloat16", "transformers")
"""The fast back end of record is the first of these that can be had here."""
BACKENDS = (
    "transformers", "prepacked:bfloat16", "cpu:float32", "cpu:bfloat16", "cpu:int8",
    "native:float32", "native:bfloat16", "native:int8",
)  # fmt: skip
WIDTHS = (1, 4, 10, 16)
REST = 0.03
"""Seconds between two systems: threads of the one look for work a while after its last step."""
BURST = 3
"""Steps timed in a row, behind one that is not: the first pays for whoever ran before."""

Medians = dict[str, dict[int, float]]


class Stepper(Protocol):
    """Something with ``ROWS`` cells cached that can be stepped again and again."""

    def step(self, width: int) -> float:
        """Seconds of one step over ``width`` cells, each of which is asked."""
        ...


class BackendStepper:
    """A back end of the engine with a line of cached cells.

    Args:
        lm: the model.
        backend: of that model.
        rows: cells to cache, one a row.
    """

    def __init__(self, lm: MultiStreamLM, backend: Backend, rows: int = ROWS) -> None:
        self._lm, self.backend, self._rows = lm, backend, rows
        self.line = prefill(lm, backend, rows)

    def step(self, width: int) -> float:
        """Seconds of a row of silence, which leaves the cache as it was."""
        return step(self._lm, self.backend, self.line, width, self._rows) / 1e3

    def close(self) -> None:
        """Give the line back."""
        self.backend.release(self.line)


def prefill(lm: MultiStreamLM, backend: Backend, rows: int = ROWS) -> int:
    """A line with random cells cached, one a row."""
    line, rng = backend.open(), np.random.default_rng(0)
    for start in range(0, rows, 128):
        row = np.arange(start, min(start + 128, rows))[None]
        tokens = rng.integers(0, lm.vocab_size, row.shape)
        backend.forward(cells(line, tokens, row, ask=False))
    return line


def step(lm: MultiStreamLM, backend: Backend, line: int, width: int, row: int = ROWS) -> float:
    """Milliseconds of a row of silence, which leaves the cache as it was."""
    tokens = np.full((1, width), lm.special.silence)
    batch = cells(line, tokens, np.full((1, width), row))
    start = time.perf_counter()
    backend.forward(batch)
    return 1e3 * (time.perf_counter() - start)


def cells(line: int, tokens: np.ndarray, rows: np.ndarray, *, ask: bool = True) -> RowBatch:
    """One session's pass over cells (1, T), all or none of them asked."""
    select = np.arange(tokens.size if ask else 0)
    return RowBatch(np.array([line]), tokens, np.zeros_like(tokens), rows,
                    np.zeros_like(tokens), select, select * 0,
                    np.zeros(len(select)), [])  # fmt: skip


def open_any(name: str, lm: MultiStreamLM) -> Backend | None:
    """A back end, or None and a line that says why it is left out."""
    start = time.perf_counter()
    try:
        backend = open_backend(name, lm)
    except StrettoError as error:
        print(f"{name}: left out ({error})", file=sys.stderr)
        return None
    print(f"{name}: open in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return backend


def open_fast(lm: MultiStreamLM, wanted: str | None = None) -> tuple[str, Backend]:
    """Name and back end of the fast one: ``wanted``, ``BENCH_BACKEND``, or the first of ``FAST``.

    Raises:
        ConfigError: the wanted one is not to be had.
    """
    wanted = wanted or os.environ.get("BENCH_BACKEND", "auto")
    if wanted != "auto":
        return wanted, open_backend(wanted, lm)
    for name in FAST:
        backend = open_any(name, lm)
        if backend is not None:
            return name, backend
    raise ConfigError(f"none of {', '.join(FAST)} can be opened here")


def interleaved(
    steppers: Mapping[str, Stepper], widths: Sequence[int] = WIDTHS, rounds: int = ROUNDS
) -> Medians:
    """Median milliseconds by name and width; the first round, which sets things up, is dropped."""
    times: dict[str, dict[int, list[float]]] = {n: {w: [] for w in widths} for n in steppers}
    for turn in range(rounds + 1):
        for width in widths:
            for name, stepper in steppers.items():
                time.sleep(REST)
                took = [stepper.step(width) for _ in range(BURST + 1)]
                if turn:
                    times[name][width] += [1e3 * seconds for seconds in took[1:]]
    return {n: {w: statistics.median(t) for w, t in by.items()} for n, by in times.items()}


def measure(names: Sequence[str]) -> Medians:
    """Median milliseconds by back end and width."""
    lm = MultiStreamLM.from_pretrained(BASE, device="cpu")
    opened = {name: backend for name in names if (backend := open_any(name, lm)) is not None}
    return interleaved({name: BackendStepper(lm, backend) for name, backend in opened.items()})


def table(medians: Medians, title: str) -> str:
    """The table as text."""
    first, widths = next(iter(medians)), list(next(iter(medians.values())))
    lines = [f"{title}; times as fast as {first} in brackets"]
    head = "".join(f"{f'S={w}':>16}" for w in widths)
    ratio = f"{'S=10 / S=1':>12}" if {1, 10} <= set(widths) else ""
    lines.append(f"{'':22}{head}{ratio}")
    for name, by in medians.items():
        row = "".join(f"{f'{t:.1f} ({medians[first][w] / t:.2f})':>16}" for w, t in by.items())
        lines.append(f"{name:22}{row}" + (f"{by[10] / by[1]:12.2f}" if ratio else ""))
    return "\n".join(lines)


def main(names: Sequence[str]) -> None:
    """Measure, print, write."""
    medians, told = measure(names), facts()
    if not medians:
        sys.exit("none of these back ends can be opened here")
    print(line(told))
    print(table(medians, f"ms per step, {BASE}, {ROWS} cells cached"))
    data: dict[str, Any] = {"model": BASE, "cached_cells": ROWS, "rounds": ROUNDS}
    print(f"written to {save('step', told | data | {'median_ms': medians})}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(BACKENDS))
