"""What a figure was measured on, and how fast that machine reads memory."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("stretto", "torch", "transformers", "openvino", "llama-cpp-python", "numpy")
GIB = 2**30


def facts(seed: int | None = None) -> dict[str, Any]:
    """Machine, versions, load and seed; every file in ``build/bench`` can carry them.

    ``load`` is the mean number of busy processes in the last minute: figures taken while others
    work mean little.
    """
    import torch

    return {
        "date": date.today().isoformat(),
        "machine": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "seed": seed,
    }


def line(told: dict[str, Any]) -> str:
    """The facts in one line, for printed tables."""
    versions = ", ".join(f"{name} {number}" for name, number in told["versions"].items())
    return (
        f"{told['date']}, {told['machine']}, {told['cores']} cores, {told['threads']} threads, "
        f"load {told['load']}, Python {told['python']}, {versions}, seed {told['seed']}"
    )


def processor() -> str:
    """The processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for entry in info.read_text().splitlines():
            if entry.startswith("model name"):
                return entry.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def warn_if_busy(limit: float = 0.5) -> None:
    """Say so when others work on this machine."""
    load = os.getloadavg()[0]
    if load > limit:
        print(f"load is {load:.2f}: something else runs here, so times mean little",
              file=sys.stderr)  # fmt: skip


def read_bandwidth(
    backend: Any = None, rounds: int = 8, between: Callable[[], None] | None = None
) -> tuple[float, str]:
    """Bytes a second that all threads together read from memory, and by what this was reached.

    Every way reads the same buffer, far larger than any cache, in turns; the one with the best
    median counts, for a floor that is too high would flatter what is compared with it.

    Args:
        backend: one whose threads can read too, or None.
        rounds: how often each way is tried.
        between: called after each round, so that both sides have the machine in the same state.
    """
    import torch

    threads = torch.get_num_threads()
    buffer = torch.ones(GIB // 4)
    data = buffer.numpy()
    parts = np.array_split(data, threads)
    words = [part[: len(part) // 2 * 2].view(np.int64) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        ways: dict[str, Callable[[], Any]] = {
            "torch sum": buffer.sum,
            "numpy dot": lambda: list(pool.map(lambda part: np.dot(part, part), parts)),
            "numpy or": lambda: list(pool.map(np.bitwise_or.reduce, words)),
        }
        if hasattr(backend, "read_seconds"):
            ways["native"] = lambda: backend.read_seconds(data)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, read in ways.items():
                start = time.perf_counter()
                read()
                rates[name].append(buffer.nbytes / (time.perf_counter() - start))
            if between is not None:
                between()
    medians = {name: statistics.median(each) for name, each in rates.items()}
    name = max(medians, key=lambda way: medians[way])
    return medians[name], name


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
