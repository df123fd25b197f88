"""The native back end's threads: no hang, no mix-up, no trouble at a fork or at the end."""

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import random_cells, read

from stretto.engine import testing
from stretto.engine.backends.native import NativeBackend, library

pytestmark = [
    pytest.mark.skipif(library.why_not() is not None, reason=f"backend native {library.why_not()}"),
    pytest.mark.timeout(90),
]
LM = testing.tiny_lm()
PASSES = 200


def opened(threads: int, precision: str = "int8") -> NativeBackend:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return NativeBackend(LM, precision)
    finally:
        torch.set_num_threads(before)


def passes(number: int) -> list[tuple[list[Any], list[torch.Tensor]]]:
    """Passes of changing sizes over new lines, and what a single thread says to them."""
    rng, alone, made = np.random.default_rng(0), opened(1), []
    for _ in range(number):
        widths = rng.integers(1, rng.choice([2, 5, 40]), rng.integers(1, 4))
        parts = [random_cells(LM, rng, n, row=0) for n in widths]
        lines = [alone.open() for _ in parts]
        made.append((parts, read(alone, lines, parts)))
        for line in lines:
            alone.release(line)
    return made


def check(backend: NativeBackend, parts: list[Any], expected: list[torch.Tensor]) -> None:
    lines = [backend.open() for _ in parts]
    for own, other in zip(read(backend, lines, parts), expected, strict=True):
        assert torch.equal(own, other)
    for line in lines:
        backend.release(line)


def test_many_short_passes_from_many_threads() -> None:
    known, turn, wrong = passes(60), threading.Lock(), []
    shared = [opened(1), opened(2), opened(9)]

    def play(number: int) -> None:
        rng = np.random.default_rng(number)
        try:
            for i in range(PASSES // 4):
                with turn:
                    check(shared[rng.integers(3)], *known[rng.integers(len(known))])
                if i % 50 == 0:
                    # One of its own, at work beside the others and deleted beside them.
                    own = opened(3)
                    check(own, *known[rng.integers(len(known))])
                    del own
        except BaseException as error:
            wrong.append(error)

    players = [threading.Thread(target=play, args=(i,)) for i in range(4)]
    for player in players:
        player.start()
    for player in players:
        player.join()
    assert not wrong


def test_measuring_between_passes_mixes_nothing_up() -> None:
    backend, known = opened(5), passes(10)
    for i in range(60):
        check(backend, *known[i % len(known)])
        assert backend.read_seconds(np.ones(1 << 18, np.float32)) > 0


def test_an_engine_ends_its_threads() -> None:
    before = len(list(Path("/proc/self/task").iterdir()))
    backends = [opened(4) for _ in range(5)]
    assert len(list(Path("/proc/self/task").iterdir())) >= before + 15
    del backends
    gc.collect()
    assert len(list(Path("/proc/self/task").iterdir())) <= before


def fork_and_go_on(busy: bool) -> None:
    backend, known = opened(4), passes(5)
    check(backend, *known[0])
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            check(backend, *known[1])

    worker = threading.Thread(target=work)
    if busy:
        worker.start()
    for _ in range(3 if busy else 1):
        child = os.fork()
        if not child:
            signal.alarm(20)  # ends it if it hangs
            try:
                # A line that the parent was at work on is left alone.
                for parts, expected in known:
                    check(backend, parts, expected)
                backend_of_child = opened(3)
                check(backend_of_child, *known[2])
                del backend_of_child, backend
                gc.collect()
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    stop.set()
    if busy:
        worker.join()
    check(backend, *known[3])


# In a process of its own: other tests leave OpenVINO's objects behind, and collecting those in a
# forked child crashes. With one thread for torch: its own threads (OpenMP) do not live on in a
# child, and what asks for them there waits for ever.
@pytest.mark.parametrize("busy", [False, True])
def test_a_forked_process_goes_on_alone(busy: bool) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", f"import test_native_team as t; t.fork_and_go_on({busy})"],
        cwd=Path(__file__).parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


END = """
import ctypes, resource, threading, time
from stretto.engine import testing
from stretto.engine.backends.native import NativeBackend, library
import numpy as np
import torch

torch.set_num_threads(3)
lm = testing.tiny_lm()
backend = NativeBackend(lm, "int8")
limit = int(open("/proc/self/statm").read().split()[0]) * 4096 + 2**28
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    backend._lib.stretto_forward(backend._handle, ctypes.byref(library.Pass(cells=2**28)))
except MemoryError as error:
    print(error)
table = testing.random_table(lm, 40, seed=1)
(logits,) = testing.read_in_ticks(backend, [table])
print(testing.max_difference(lm, table, logits) < 1)

numbers = np.ones(1 << 20, np.float32)

# Nothing of torch in it: torch cannot be left at just any moment of the interpreter's end.
def work():
    while True:
        backend.read_seconds(numbers)

threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
"""


def test_memory_may_run_out_and_the_process_end_at_any_time() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", END], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "backend native: no memory left in stretto_forward",
        "True",
    ]
