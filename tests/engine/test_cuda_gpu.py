"""The back end for GPUs on a GPU: ``pytest -m gpu tests/engine/test_cuda_gpu.py``.

Never run yet.
"""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from cells import SAMPLINGS

from stretto.engine import Engine, conformance, testing
from stretto.engine.backends import Backend, open_backend
from stretto.engine.backends.cuda import CudaBackend
from stretto.engine.backends.transformers import TransformersBackend
from stretto.engine.batch import RowBatch
from stretto.engine.params import SamplingParams
from stretto.engine.sampling import Sampler
from stretto.models import MultiStreamLM

pytestmark = pytest.mark.gpu


def on_gpu(make: Callable[[MultiStreamLM], Backend], lm: MultiStreamLM) -> Backend:
    """A back end for a model that the checks made on the CPU; the checks' twin moves along."""
    return make(lm.to("cuda"))


def row(line: int, tokens: list[int], at: int) -> RowBatch:
    cells = np.array([tokens])
    number = np.arange(len(tokens))
    return RowBatch(np.array([line]), cells, number[None], np.full_like(cells, at),
                    np.zeros_like(cells), number, number * 0, number * 0.3, [])  # fmt: skip


@pytest.mark.parametrize("name", ["transformers", "cuda"])
@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_backend_conforms(name: str, check: Callable[..., None]) -> None:
    check(partial(on_gpu, partial(open_backend, name)), 1e-3)


@pytest.mark.parametrize("check", conformance.RULES, ids=lambda check: check.__name__)
def test_backend_conforms_under_the_strict_rule(check: Callable[..., None]) -> None:
    check(partial(on_gpu, CudaBackend), 1e-3, rule="strict")


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.02)]
)
def test_recorded_passes_equal_passes_that_are_not(dtype: torch.dtype, tolerance: float) -> None:
    lm = testing.tiny_lm().to("cuda", dtype)
    recorded, plain = CudaBackend(lm), CudaBackend(lm, capture=False)
    lines = [(backend, backend.open()) for backend in (recorded, plain)]
    for at in range(100):  # crosses three widths and grows
        one, other = (b.forward(row(line, [5 + at, 6 + at, 7], at)) for b, line in lines)
        assert torch.allclose(one, other, atol=tolerance), f"row {at}"


def test_a_recorded_pass_reads_its_new_input() -> None:
    backend = CudaBackend(testing.tiny_lm().to("cuda"))
    line = backend.open()
    logits = [backend.forward(row(line, [token], at)) for at, token in enumerate((5, 6, 7))]
    assert not torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[1], logits[2])


def test_auto_is_transformers_on_a_gpu_until_cuda_has_been_measured() -> None:
    lm = testing.tiny_lm().to("cuda")
    assert isinstance(open_backend("auto", lm), TransformersBackend)
    assert isinstance(open_backend("cuda:bfloat16", lm), CudaBackend)


def test_whole_sessions_run() -> None:
    lm = testing.tiny_lm().to("cuda")
    played = testing.scripts(lm)
    tables = [
        testing.play(Engine(lm, testing.tiny_codec(), backend=name), played)
        for name in ("cuda", "transformers")
    ]
    assert tables[0] == tables[1]


def test_a_pass_does_not_wait_for_the_device() -> None:
    backend = CudaBackend(testing.tiny_lm().to("cuda"))
    line = backend.open()
    backend.forward(row(line, [5, 6], 0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for at in range(1, 20):
            backend.forward(row(line, [5, 6], at))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("params", SAMPLINGS)
def test_the_sampler_waits_once(params: SamplingParams) -> None:
    lm = testing.tiny_lm()
    sampler = Sampler(258, lm.special, torch.device("cuda"))
    batch = row(0, [5, 6, 7], 0)
    object.__setattr__(batch, "sampling_ids", np.full(3, sampler.register(params)))
    batch.histories.append((1, [4, 5, 5]))
    logits = 9 * torch.randn(3, 258, device="cuda")
    sampler.sample(logits, batch)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sampler.sample(logits, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchronizing" in str(w.message)]
    assert len(waits) == 1, [str(w.message) for w in waits]
