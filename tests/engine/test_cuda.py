"""The back end for GPUs on CPU tensors: everything but the recording of graphs.

What needs a GPU is in ``test_cuda_gpu.py``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from cells import SAMPLINGS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import cuda as bench
from stretto.engine import conformance, testing
from stretto.engine.backends import open_backend
from stretto.engine.backends.cuda import CudaBackend
from stretto.engine.backends.cuda_passes import Bucket, Passes
from stretto.engine.backends.cuda_pool import Pool, power_of_two
from stretto.engine.batch import RowBatch
from stretto.engine.params import SamplingParams
from stretto.engine.sampling import Sampler
from stretto.errors import ConfigError, InputError
from stretto.models import MultiStreamLM
from stretto.models.family import FamilyDecoder
from stretto.streams import AGENT, AUDIT

plain = partial(CudaBackend, capture=False)
LMS = {rule: testing.tiny_lm(AGENT, mask_rule=rule) for rule in ("inclusive", "strict")}
LM = LMS["inclusive"]
SILENCE = LM.special.silence


def one_row(lines: list[int], tokens: Any, row: int, ask: bool = True) -> RowBatch:
    """A row of cells (B, T) in each of the lines, silence last."""
    cells = np.asarray(tokens, np.int64)
    streams = np.broadcast_to(np.arange(cells.shape[1]), cells.shape).copy()
    select = np.arange(cells.size if ask else 0)
    return RowBatch(np.asarray(lines), cells, streams, np.full_like(cells, row),
                    np.zeros_like(cells), select, select * 0, select * 0.5, [])  # fmt: skip


def read(backend: CudaBackend, line: int, rows: list[list[int]], start: int = 0) -> torch.Tensor:
    """Logits of the last of some rows."""
    logits = [backend.forward(one_row([line], [row], start + i)) for i, row in enumerate(rows)]
    return logits[-1]


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_backend_conforms(check: Callable[..., None]) -> None:
    check(plain, 1e-3)


@pytest.mark.parametrize("check", conformance.RULES, ids=lambda check: check.__name__)
def test_backend_conforms_under_the_strict_rule(check: Callable[..., None]) -> None:
    check(plain, 1e-3, rule="strict")


def test_whole_sessions_equal_the_slow_twin() -> None:
    testing.check_backend(plain)


@settings(max_examples=25)
@given(
    rule=st.sampled_from(sorted(LMS)),
    lengths=st.lists(st.sampled_from([1, 2, 5, 17, 40]), min_size=1, max_size=5),
    num_rows=st.sampled_from([1, 3]),
    seed=st.integers(0, 10**6),
)
def test_growing_lines_equal_one_forward(
    rule: str, lengths: list[int], num_rows: int, seed: int
) -> None:
    lm = LMS[rule]
    tables = [testing.random_table(lm, n, seed + i) for i, n in enumerate(lengths)]
    backend = plain(lm, lines=1, capacity=1)
    if num_rows > 1:  # then a pass holds the outputs of one row only
        for table in tables:
            last = (np.arange(len(table)) + table.num_prompt_rows) % num_rows == num_rows - 1
            table.rows[np.ix_(~last, list(lm.streams.outputs))] = -1
    read = testing.read_in_ticks(backend, tables, num_rows=num_rows)
    for table, logits in zip(tables, read, strict=True):
        assert testing.max_difference(lm, table, logits) < 1e-3


def test_a_bfloat16_pass_is_near_a_float32_one() -> None:
    row = [[5, 6, 7], [8, 9, 10]]
    exact, rounded = (read(b, b.open(), row) for b in (plain(LM), plain(LM, "bfloat16")))
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.02 * exact.abs().max()


# Forks.


def test_a_fork_goes_on_alone_from_the_cells_it_was_given() -> None:
    backend = plain(LM, lines=1)
    whole, late = backend.open(), backend.open()
    read(backend, late, [[5, 6], [7, 8]], start=50)  # rows that its line must forget
    backend.release(late)
    read(backend, whole, [[5, 6], [7, 8], [9, 10]])
    twin = backend.fork(whole, 4)  # two rows of two
    short = backend.open()
    read(backend, short, [[5, 6], [7, 8]])
    after = read(backend, twin, [[11, 12], [13, 14]], 2)
    assert torch.allclose(after, read(backend, short, [[11, 12], [13, 14]], 2), atol=1e-5)
    backend.release(twin)
    other = backend.open()
    read(backend, other, [[5, 6], [7, 8], [9, 10]])
    assert torch.allclose(read(backend, whole, [[1, 2]], 3), read(backend, other, [[1, 2]], 3),
                          atol=1e-5)  # fmt: skip


def test_a_fork_of_more_than_there_is_is_refused() -> None:
    backend = plain(LM)
    line = backend.open()
    read(backend, line, [[5, SILENCE]])
    with pytest.raises(InputError, match="fork of line 0 at 2 cells: it holds 1"):
        backend.fork(line, 2)
    assert backend.fork(line, 0) == 1


def test_a_fork_may_need_more_lines() -> None:
    backend = plain(LM, lines=1)
    first = backend.open()
    read(backend, first, [[5, 6]])
    forks = [backend.fork(first, 2) for _ in range(4)]
    assert [first, *forks] == [0, 1, 2, 3, 4]
    logits = backend.forward(one_row([first, *forks], [[7, 8]] * 5, 1)).view(5, -1)
    assert torch.allclose(logits, logits[:1].expand_as(logits), atol=1e-5)


def test_cached_bytes_are_those_of_visible_cells() -> None:
    backend = plain(LM)
    line = backend.open()
    read(backend, line, [[5, 6, SILENCE]])
    assert backend.cell_bytes == 2 * 3 * 2 * 8 * 4
    assert backend.cache_bytes == 2 * backend.cell_bytes
    twin = backend.fork(line, 1)
    assert backend.cache_bytes == 3 * backend.cell_bytes
    backend.release(line)
    backend.release(twin)
    assert backend.cache_bytes == 0


# Lines and buckets.


def pool(**sizes: int) -> tuple[Pool, list[int]]:
    moves: list[int] = []
    made = Pool(FamilyDecoder(LM), torch.float32, LM.device, SILENCE, lambda: moves.append(1),
                **sizes)  # fmt: skip
    return made, moves


def test_released_lines_hold_nothing_not_even_infinity() -> None:
    lines, _ = pool()
    line = lines.open()
    lines.keys[:, line].fill_(torch.inf)
    lines.values[:, line].fill_(torch.inf)
    lines.release(line)
    assert not lines.keys.any() and not lines.values.any()


def test_growth_is_announced_before_addresses_change_and_keeps_what_was_there() -> None:
    lines, moves = pool(lines=1, capacity=64)
    first = lines.open()
    lines.keys[:, first].fill_(3)
    lines.keys[:, -1].fill_(7)  # padding's line
    assert moves == []
    second = lines.open()
    assert (first, second, lines.number, len(moves)) == (0, 1, 2, 1)
    assert (lines.keys[:, 0] == 3).all() and not lines.keys[:, 1:].any()
    for row in range(40):
        places = lines.place(one_row([second], [[4, 5]], row))
        lines.keep(np.array([second]), places)
    assert (lines.capacity, len(moves)) == (128, 2)
    assert (lines.keys[:, 0, :64] == 3).all() and not lines.keys[:, 0, 64:].any()


def test_growth_without_room_leaves_the_lines_as_they_were() -> None:
    lines, _ = pool(lines=1)
    lines.open()
    with pytest.raises(RuntimeError):
        lines._resize(1, 2**45)
    assert (lines.number, lines.capacity, lines.keys.shape[2]) == (1, 256, 256)


def test_silence_comes_behind_what_stays_in_any_order() -> None:
    lines, _ = pool(lines=2, capacity=64)
    for _ in range(2):
        lines.open()
    lines.lengths[:] = 10, 0
    batch = one_row([1, 0], [[SILENCE, 4, 5], [6, SILENCE, 7]], 0)
    batch.samples[1, 2] = -1
    places = lines.place(batch)
    assert places.slots.tolist() == [[64 + 2, 64 + 0, 64 + 1], [10, 11, 2 * 64]]
    assert (places.ends.tolist(), places.width) == ([2, 11], 12)
    assert lines.lengths.tolist() == [10, 0]


@pytest.mark.parametrize(
    ("lines", "cells", "asked", "width", "bucket"),
    [
        ([0], 1, 1, 1, Bucket(1, 1, 64, 1, True)),
        ([0], 10, 3, 65, Bucket(1, 16, 128, 16, True)),
        ([3], 10, 3, 65, Bucket(1, 16, 128, 16, False)),
        ([0, 2], 2, 4, 64, Bucket(2, 2, 64, 4, False)),
        ([0, 1, 2], 2, 4, 64, Bucket(4, 2, 64, 8, True)),
        ([2, 1, 0], 65, 5, 300, Bucket(4, 128, 512, 8, True)),
        ([0], 100, 0, 100, Bucket(1, 128, 128, 1, True)),
        ([0], 100, 100, 100, Bucket(1, 128, 128, 128, True)),
    ],
)
def test_buckets(lines: list[int], cells: int, asked: int, width: int, bucket: Bucket) -> None:
    batch = one_row(lines, np.full((len(lines), cells), 4), 0)
    object.__setattr__(batch, "select", batch.select[:asked])
    assert Bucket.of(batch, width) == bucket


@given(st.integers(1, 10**6))
def test_power_of_two(number: int) -> None:
    rounded = power_of_two(number)
    assert number <= rounded < 2 * number
    assert rounded & (rounded - 1) == 0


def test_the_bucket_unused_for_longest_goes_first_and_its_input_stays_where_it_was() -> None:
    seen: list[tuple[int, int, int]] = []

    def run(bucket: Bucket, packed: torch.Tensor) -> torch.Tensor:
        seen.append((bucket.cells, packed.data_ptr(), int(packed[0])))
        return packed

    passes = Passes(run, torch.device("cpu"), capture=False, kept=2)
    for cells, value in ((1, 5), (2, 6), (1, 7), (4, 8), (1, 9), (2, 10)):
        bucket = Bucket(1, cells, 64, cells, True)
        passes(bucket, np.full(sum(bucket.parts), value))
    assert [(cells, value) for cells, _, value in seen] == [
        (1, 5), (2, 6), (1, 7), (4, 8), (1, 9), (2, 10)
    ]  # fmt: skip
    where = [place for cells, place, _ in seen if cells == 1]
    assert len(set(where)) == 1, "the input of a kept bucket moved"
    assert len(passes) == 2
    passes.clear()
    assert len(passes) == 0


def test_wide_passes_are_not_kept() -> None:
    passes = Passes(lambda _, packed: packed, torch.device("cpu"), capture=False)
    wide = Bucket(1, 2048, 2048, 1, True)
    assert passes(wide, np.zeros(sum(wide.parts), np.int64)).numel() == sum(wide.parts)
    assert len(passes) == 0


def test_a_pass_that_fails_leaves_the_line_as_it_was() -> None:
    backend, fresh = plain(LM), plain(LM)
    line = backend.open()
    broken = one_row([line], [[5, 6]], 0)
    broken.streams[0, 1] = 99
    with pytest.raises(IndexError):
        backend.forward(broken)
    after = read(backend, line, [[5, 6], [7, 8]])
    assert torch.allclose(after, read(fresh, fresh.open(), [[5, 6], [7, 8]]), atol=1e-6)


def test_logits_are_not_overwritten_by_the_next_pass() -> None:
    backend = plain(LM)
    line = backend.open()
    logits = read(backend, line, [[5, 6, 7]])
    kept = logits.clone()
    read(backend, line, [[7, 8, 9]], 1)
    assert torch.equal(logits, kept)
    # Recorded passes write all four logits of the bucket to one place; these lie elsewhere.
    assert logits.untyped_storage().nbytes() == logits.nbytes


# Nothing asks the device.

ASKING = {
    "aten::_local_scalar_dense", "aten::is_nonzero", "aten::item", "aten::nonzero",
    "aten::masked_select", "aten::equal", "aten::_unique2", "aten::unique_dim",
    "aten::repeat_interleave",
}  # fmt: skip


class Silent(TorchDispatchMode):
    """Refuses operators whose result or shape depends on values, so that the host must wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        assert name not in ASKING, f"{name} waits for the device"
        if name in ("aten::index", "aten::index_put", "aten::index_put_"):
            kinds = {x.dtype for x in args[1] if x is not None}
            assert torch.bool not in kinds, f"{name} by a boolean mask waits for the device"
        return func(*args, **(kwargs or {}))


def test_the_guard_sees_what_waits() -> None:
    x = torch.arange(4)
    for ask in (lambda: x.sum().item(), lambda: x[x > 1], lambda: bool(x.any()), x.nonzero):
        with pytest.raises(AssertionError, match="waits for the device"), Silent():
            ask()


@pytest.mark.parametrize("lines", [[0, 1], [0, 3]])
def test_a_pass_asks_the_device_nothing(lines: list[int]) -> None:
    backend = plain(LM)
    for _ in range(4):
        backend.open()
    with Silent():
        for row in range(3):
            backend.forward(one_row(lines, [[5, 6, SILENCE], [7, 8, 9]], row))
        backend.fork(0, 2)


def test_a_pass_needs_no_tensor_of_another_device() -> None:
    # Tensors without memory: whatever reads a value or mixes in a CPU tensor fails.
    backend = plain(testing.tiny_lm(AUDIT, mask_rule="strict").to("meta"))
    lines = [backend.open() for _ in range(6)]
    backend.fork(lines[0], 0)
    for took in ([0, 1], [0, 5], [4]):
        logits = backend.forward(one_row(took, [[5, 6]] * len(took), 0))
        assert (logits.device.type, logits.shape) == ("meta", (2 * len(took), 258))


@pytest.mark.parametrize("params", SAMPLINGS)
def test_the_sampler_asks_the_device_once(params: SamplingParams) -> None:
    sampler = Sampler(258, LM.special, torch.device("cpu"))
    batch = one_row([0], [[5, 6, 7]], 0)
    object.__setattr__(batch, "sampling_ids", np.full(3, sampler.register(params)))
    batch.histories.append((1, [4, 5, 5]))
    logits = 9 * torch.randn(3, 258, generator=torch.Generator().manual_seed(0))
    sampler.sample(logits, batch)  # columns of new parameters are set up once
    with Silent():
        sampler.sample(logits, batch)


# What it refuses.


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused() -> None:
    for name in ("cuda", "cuda:bfloat16"):
        with pytest.raises(ConfigError, match=f"'{name}' needs an NVIDIA GPU") as caught:
            open_backend(name, LM)
        assert "\n" not in str(caught.value)
    with pytest.raises(SystemExit, match=r"needs an NVIDIA GPU that torch finds"):
        bench.main()


def test_a_model_elsewhere_cannot_be_recorded() -> None:
    with pytest.raises(ConfigError, match="the model is on cpu; load it with device cuda"):
        CudaBackend(LM)


def test_a_dtype_it_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="in float64: choose from float32, bfloat16, float16"):
        plain(testing.tiny_lm().double())


def test_positions_that_the_host_has_to_look_at_are_refused() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    config = LlamaConfig(
        vocab_size=80, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, rope_parameters=rope, max_position_embeddings=64,
    )  # fmt: skip
    lm = MultiStreamLM(LlamaForCausalLM(config), AUDIT).eval()
    with pytest.raises(ConfigError, match="depend on the longest session"):
        plain(lm)


# The benchmark's arithmetic.


def test_bytes_and_share_of_the_roofline() -> None:
    backend = plain(LM)
    weights = sum(
        parameter.nbytes
        for name, parameter in LM.named_parameters()
        if parameter.ndim == 2 and "embed" not in name and name != "special_in"
    )
    assert backend.weight_bytes == weights
    assert bench.step_bytes(backend, 512, 4) == weights + 520 * backend.cell_bytes
    assert bench.share_of_roofline(2 * 10**9, 4e12, 1.0) == pytest.approx(0.5)
