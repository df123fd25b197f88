"""What a step costs on a GPU, beside what it would cost if memory were all that counts.

Run as ``python -m benchmarks.cuda`` on a machine with an NVIDIA GPU; it has not been yet. Each
round steps both back ends once at every width, so that a disturbance hits both. The time is the
device's, from the start of a step to its last kernel, gaps included. Results go to
``build/bench/cuda.json``.
"""

import statistics
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.goal import Goal, run
from benchmarks.step import BASE, ROUNDS, ROWS, WIDTHS, cells, prefill
from stretto.engine.backends import Backend, open_backend
from stretto.engine.backends.cuda import CudaBackend
from stretto.engine.batch import RowBatch
from stretto.models import MultiStreamLM

BACKENDS = ("transformers", "cuda")
GIB = 2**30
NONE = "none set"


def step_bytes(backend: CudaBackend, cached: int, width: int) -> int:
    """Bytes that a step has to move: matrices and cached cells read, new cells written and read."""
    return backend.weight_bytes + (cached + 2 * width) * backend.cell_bytes


def share_of_roofline(moved: int, bandwidth: float, ms: float) -> float:
    """Shortest possible time of a step against the measured one.

    Args:
        moved: bytes of the step.
        bandwidth: bytes a second that the device copies.
        ms: measured milliseconds.
    """
    return moved / bandwidth / (ms * 1e-3)


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy on the device: the best of ten."""
    source = torch.zeros(GIB, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = [_device_ms(lambda: target.copy_(source)) for _ in range(12)]
    return 2 * GIB / (min(times[2:]) * 1e-3)


def steps() -> Iterator[Goal]:
    """Milliseconds a step of both back ends, and the share of the roofline that cuda reaches."""
    device = torch.cuda.get_device_name()
    lm = MultiStreamLM.from_pretrained(BASE, device="cuda")
    opened = {name: open_backend(name, lm) for name in BACKENDS}
    lines = {name: prefill(lm, backend) for name, backend in opened.items()}
    times: dict[str, dict[int, list[float]]] = {n: {w: [] for w in WIDTHS} for n in opened}
    for turn in range(ROUNDS + 3):
        for width in WIDTHS:
            for name, backend in opened.items():
                took = _step_ms(backend, _silence(lm, lines[name], width))
                if turn >= 3:  # the first passes of a shape set things up
                    times[name][width].append(took)
    bandwidth = copy_bandwidth()
    yield Goal("3", f"copy bandwidth of {device}", bandwidth / 1e9, "GB/s", NONE, True)
    cuda = opened["cuda"]
    assert isinstance(cuda, CudaBackend)
    of = f"{BASE} in {cuda.precision}, {ROWS} cells cached"
    for width in WIDTHS:
        old, new = (statistics.median(times[name][width]) for name in BACKENDS)
        what = f"S={width}: step of"
        yield Goal("3", f"{what} transformers, {of}", old, "ms", NONE, True)
        yield Goal("3", f"{what} cuda, {of}", new, "ms", "< transformers", new < old)
        moved = step_bytes(cuda, ROWS, width)
        yield Goal("3", f"S={width}: bytes a step", moved / 1e6, "MB", NONE, True)
        share = 100 * share_of_roofline(moved, bandwidth, new)
        yield Goal("3", f"S={width}: share of the roofline", share, "%", NONE, True)


def _silence(lm: MultiStreamLM, line: int, width: int) -> RowBatch:
    """A row of silence, which leaves the cache as it was."""
    tokens = np.full((1, width), lm.special.silence)
    return cells(lm, line, tokens, np.full((1, width), ROWS))


def _step_ms(backend: Backend, batch: RowBatch) -> float:
    return _device_ms(lambda: backend.forward(batch))


def _device_ms(work: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def main() -> int:
    """1 if a goal is missed; exits with a line where there is no GPU."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks.cuda needs an NVIDIA GPU that torch finds; there is none here")
    return run("cuda", {"3": steps})


if __name__ == "__main__":
    sys.exit(main())
