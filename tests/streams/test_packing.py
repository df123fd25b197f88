"""Packing: whole samples, full sequences, the same every time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stretto.streams.packing import num_too_long, pack

LENGTHS = st.lists(st.integers(1, 120), max_size=60)


@given(LENGTHS, st.integers(1, 100), st.integers(0, 5), st.integers(1, 70))
def test_every_sample_that_fits_is_in_one_pack_whole(
    lengths: list[int], max_cells: int, seed: int, window: int
) -> None:
    groups = pack(lengths, max_cells, seed=seed, window=window)
    packed = [i for group in groups for i in group]
    assert sorted(packed) == [i for i, length in enumerate(lengths) if length <= max_cells]
    assert len(lengths) - len(packed) == num_too_long(lengths, max_cells)
    assert all(0 < sum(lengths[i] for i in group) <= max_cells for group in groups)
    assert groups == pack(lengths, max_cells, seed=seed, window=window)


def test_the_seed_matters() -> None:
    lengths = list(range(1, 60))
    assert pack(lengths, 100, seed=0, window=10) != pack(lengths, 100, seed=1, window=10)


def test_few_cells_are_left_empty() -> None:
    lengths = [50 + 37 * i % 300 for i in range(1000)]
    groups = pack(lengths, 768)
    assert sum(lengths) / (768 * len(groups)) > 0.97


@pytest.mark.parametrize("window", [1, 1000])
def test_no_samples_no_packs(window: int) -> None:
    assert pack([], 10, window=window) == []
    assert pack([11, 12], 10, window=window) == []
