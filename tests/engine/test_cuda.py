"""The back end for GPUs on CPU tensors: everything but the recording of graphs.

What needs a GPU is marked ``gpu``: run it with ``pytest -m gpu tests/engine/test_cuda.py``.
"""

from collections.abc import Callable
from functools import partial

import pytest

from stretto.engine import conformance, testing
from stretto.engine.backends.cuda import CudaBackend

plain = partial(CudaBackend, capture=False)


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_backend_conforms(check: Callable[..., None]) -> None:
    check(plain, 1e-3)


@pytest.mark.parametrize("check", conformance.RULES, ids=lambda check: check.__name__)
def test_backend_conforms_under_the_strict_rule(check: Callable[..., None]) -> None:
    check(plain, 1e-3, rule="strict")


def test_whole_sessions_equal_the_slow_twin() -> None:
    testing.check_backend(plain)
