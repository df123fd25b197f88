"""What one forward pass costs on this machine: measured at batch 1, then looked up.

Sessions are run in batches for throughput, but each session's virtual clock advances by what its
own tick would take alone. That number comes from here.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stretto.errors import InputError

if TYPE_CHECKING:
    from stretto.models.batch import StreamBatch
    from stretto.models.cache import StreamCache
    from stretto.models.wrapper import MultiStreamLM

CELLS = (1, 2, 3, 4, 8, 16, 64, 256)
CACHED = (64, 256, 1024)
_BUSY = 1.25
"""Load a core, this process included, from which a remark is due."""


@dataclass(frozen=True)
class LatencyTable:
    """Seconds of one forward pass over ``cells`` cells with ``cached`` cells before them.

    Attributes:
        cells: grid, increasing (C,).
        cached: grid, increasing (K,).
        seconds: medians (C, K).
        overhead: seconds a step takes beside its forward pass (planning, sampling, delivery).
        machine: what it was measured on.
    """

    cells: tuple[int, ...]
    cached: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]
    overhead: float = 0.0
    machine: str = ""

    def __post_init__(self) -> None:
        shape = np.shape(self.seconds)
        if shape != (len(self.cells), len(self.cached)) or 0 in shape:
            raise InputError(f"latency table: {shape} values for a grid of "
                             f"({len(self.cells)}, {len(self.cached)})")  # fmt: skip

    def __call__(self, cells: int, cached: int) -> float:
        """Seconds of a whole step: linear between grid points and beyond the last cell count.

        Below the grid the nearest value holds; beyond the longest cache too.
        """
        columns = [float(np.interp(cached, self.cached, line)) for line in self.seconds]
        last = self.cells[-1]
        if cells > last and len(self.cells) > 1:
            slope = (columns[-1] - columns[-2]) / (last - self.cells[-2])
            return columns[-1] + max(0.0, slope) * (cells - last) + self.overhead
        return float(np.interp(cells, self.cells, columns)) + self.overhead

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for an event."""
        return {
            "cells": list(self.cells),
            "cached": list(self.cached),
            "seconds": [list(line) for line in self.seconds],
            "overhead": self.overhead,
            "machine": self.machine,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`; other fields of the event are ignored."""
        return cls(
            tuple(data["cells"]),
            tuple(data["cached"]),
            tuple(tuple(line) for line in data["seconds"]),
            data["overhead"],
            data["machine"],
        )


def load_table(path: Path) -> LatencyTable:
    """A table that ``stretto eval latency`` wrote.

    Raises:
        InputError: the file cannot be read or is something else.
    """
    try:
        return LatencyTable.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a latency table ({error})") from None


def machine_name() -> str:
    """Processor, cores and threads in words."""
    import torch

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        if found:
            model = f"{found[0].partition(':')[2].strip()}, {len(found)} cores"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} on {model}"
    return f"{model}, {torch.get_num_threads()} torch threads"


def busy_remark() -> str | None:
    """A warning for the report if other work keeps this machine busy, so that times are too long.

    None where it is idle enough or the load is not known.
    """
    if not hasattr(os, "getloadavg"):
        return None
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load < _BUSY * cores:
        return None
    return (
        f"forward passes were timed while the machine was busy (load {load:.1f} on {cores} cores): "
        "seconds are too long; repeat this on an idle machine"
    )


def measure(
    lm: "MultiStreamLM",
    *,
    cells: Sequence[int] = CELLS,
    cached: Sequence[int] = CACHED,
    rounds: int = 7,
) -> LatencyTable:
    """Time forward passes at batch 1 over the grid.

    Every round visits every grid point once, so a slow moment of the machine is shared by all of
    them; medians are taken over rounds. The first round warms up and does not count.
    """
    cache = _filled_cache(lm, max(cached) + max(cells))
    samples: dict[tuple[int, int], list[float]] = {}
    for number in range(rounds + 1):
        for before in cached:
            for width in cells:
                seconds = _time_forward(lm, cache, width, before)
                if number:
                    samples.setdefault((width, before), []).append(seconds)
    grid = tuple(tuple(statistics.median(samples[c, k]) for k in cached) for c in cells)
    return LatencyTable(tuple(cells), tuple(cached), grid, machine=machine_name())


def _filled_cache(lm: "MultiStreamLM", size: int) -> "StreamCache":
    """A cache with one line of ``size`` cells of no meaning, so that nothing grows while timed."""
    import torch

    cache = lm.new_cache(1)
    one = torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode():
        lm(_cells(size, 0), select=one.to(lm.device), cache=cache, lines=one)
    return cache


def _time_forward(lm: "MultiStreamLM", cache: "StreamCache", width: int, before: int) -> float:
    """Seconds of one forward pass over ``width`` cells with ``before`` cells in the cache."""
    import torch

    cache.lengths[0] = before
    batch = _cells(width, before)
    with torch.inference_mode():
        _synchronise(lm)
        start = time.perf_counter()
        select = torch.tensor([width - 1], device=lm.device)
        lm(batch, select=select, cache=cache, lines=torch.zeros(1, dtype=torch.int64))
        _synchronise(lm)
        return time.perf_counter() - start


def _cells(width: int, start: int) -> "StreamBatch":
    import torch

    from stretto.models.batch import StreamBatch

    zeros = torch.zeros(1, width, dtype=torch.int64)
    rows = torch.arange(start, start + width)[None]
    return StreamBatch(tokens=zeros + 1, streams=zeros, rows=rows, samples=zeros)


def _synchronise(lm: "MultiStreamLM") -> None:
    import torch

    if lm.device.type == "cuda":
        torch.cuda.synchronize()


def overhead(table: LatencyTable, steps: Iterable[tuple[int, int, float]]) -> float:
    """Median seconds by which real steps (cells, cached, seconds) exceed their forward pass."""
    extra = [seconds - table(cells, cached) for cells, cached, seconds in steps]
    return max(0.0, statistics.median(extra)) if extra else 0.0
