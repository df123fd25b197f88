"""What every test gets."""

import os

import pytest
from hypothesis import settings

# A test that reaches for a model hub by accident fails at once instead of waiting for the network;
# `HF_HUB_OFFLINE=0 pytest -m network` lets the network tests through.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models gain nothing from a second thread, and lose seconds a pass where it has to wait for a
# processor that others use. Tests of several threads ask for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Two busy cores make single examples slow; the examples are the same on every run.
settings.register_profile("stretto", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("stretto")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests where there is none, so that ``-m gpu`` tells so instead of failing."""
    wanted = [item for item in items if item.get_closest_marker("gpu")]
    if not wanted:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanted:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
