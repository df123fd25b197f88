"""Where keys and values go, and what is kept of them."""

import pytest
import torch
from torch import Tensor

from stretto.engine.testing import tiny_lm
from stretto.errors import InputError
from stretto.models import StreamBatch, StreamCache

LM = tiny_lm()


def write(cache: StreamCache, lines: list[int], values: Tensor, visible: list[int]) -> Tensor:
    """Store (b, T) numbers as keys and values of one head; returns the keys that are seen."""
    index = torch.tensor(lines)
    cache.begin(index, torch.zeros(values.shape, dtype=torch.int64))
    cache.commit(index, torch.tensor(visible))
    keys, _ = cache.update(values[:, None, :, None], values[:, None, :, None], 0)
    return keys[:, 0, :, 0]


@pytest.mark.parametrize("lines", [[0, 1, 2], [1, 2], [0, 2], [2]])
def test_the_next_pass_overwrites_what_was_not_visible(lines: list[int]) -> None:
    cache = LM.new_cache(3)
    first = torch.arange(1, 1 + 2 * len(lines)).reshape(-1, 2).float()
    write(cache, lines, first, [1] * len(lines))
    seen = write(cache, lines, first + 100, [2] * len(lines))
    assert torch.equal(seen[:, :3], torch.cat([first[:, :1], first + 100], 1))
    assert cache.lengths[lines].tolist() == [3] * len(lines)
    others = [line for line in range(3) if line not in lines]
    assert cache.lengths[others].tolist() == [0] * len(others)


def test_lines_grow_keep_and_clear() -> None:
    cache = LM.new_cache(1)
    write(cache, [0], torch.ones(1, 300), [300])
    assert cache.capacity == 512
    cache.resize(2)
    seen = write(cache, [1], torch.full((1, 2), 7.0), [2])
    assert seen.tolist() == [[7.0, 7.0]] and cache.lengths.tolist() == [300, 2]
    assert write(cache, [0], torch.zeros(1, 1), [1])[0, :300].eq(1).all()
    cache.clear(0)
    assert cache.lengths.tolist() == [0, 2]


def test_a_copy_holds_the_first_cells_with_their_rows() -> None:
    """Rows matter to sliding windows."""
    cache = LM.new_cache(2)
    index = torch.tensor([0])
    cache.begin(index, torch.tensor([[4, 5, 5]]))
    cache.commit(index, torch.tensor([3]))
    numbers = torch.tensor([[1.0, 2.0, 3.0]])[:, None, :, None]
    cache.update(numbers, numbers, 0)
    assert cache.cell_bytes == 2 * 4
    cache.copy(0, 1, 2)
    assert cache.lengths.tolist() == [3, 2] and cache.rows[1, :2].tolist() == [4, 5]
    seen = write(cache, [1], torch.full((1, 1), 9.0), [1])
    assert seen.tolist() == [[1.0, 2.0, 9.0]]


def test_silence_must_come_last() -> None:
    silence = LM.special.silence
    zeros = torch.zeros(1, 2, dtype=torch.int64)
    batch = StreamBatch(torch.tensor([[silence, 1]]), zeros, zeros, zeros)
    with pytest.raises(InputError, match="silence last"):
        LM(batch, cache=LM.new_cache(1), lines=torch.tensor([0]))
    with pytest.raises(InputError, match="lines="):
        LM(batch, cache=LM.new_cache(1))
