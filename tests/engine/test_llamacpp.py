"""What llama.cpp needs beyond conformance: gaps, scarce sequences, growth, refusals, files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("llama_cpp")

from stretto.engine import conformance, testing
from stretto.engine.backends import llama_context, llamacpp, open_backend
from stretto.engine.backends.llamacpp import LlamaCppBackend
from stretto.engine.batch import RowBatch
from stretto.errors import CheckpointError, ConfigError, InputError, LimitError
from stretto.models import MultiStreamLM, StreamBatch
from stretto.streams import AUDIT, StreamTable


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """GGUF files stay out of the user's cache, and are written once for all tests."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("STRETTO_CACHE", str(folder))
    return folder


def exact(lm: MultiStreamLM) -> LlamaCppBackend:
    return LlamaCppBackend(lm, "float32")


def cells(line: int, tokens: list[int], rows: list[int]) -> RowBatch:
    """One line's pass; every cell is asked."""
    array = np.array([tokens])
    select = np.arange(len(tokens))
    return RowBatch(np.array([line]), array, np.arange(len(tokens))[None] % 2, np.array([rows]),
                    np.zeros_like(array), select, select * 0, select * 0.0, [])  # fmt: skip


@pytest.mark.parametrize("rows", [(0, 1, 2), (0, 40, 41), (0, 1, 900), (7, 300, 301)])
def test_cells_are_turned_by_their_rows_however_few_leave_something(rows: tuple[int, ...]) -> None:
    lm = testing.tiny_lm()
    backend = exact(lm)
    line = backend.open()
    read = [backend.forward(cells(line, [5 + i, 60 + i], [row, row])) for i, row in enumerate(rows)]
    whole = StreamBatch(
        torch.tensor([[t for i in range(len(rows)) for t in (5 + i, 60 + i)]]),
        torch.tensor([[0, 1] * len(rows)]),
        torch.tensor([[row for row in rows for _ in range(2)]]),
        torch.zeros(1, 2 * len(rows), dtype=torch.long),
    )
    with torch.inference_mode():
        expected = lm(whole).logits.reshape(-1, lm.vocab_size + 2)
    assert torch.allclose(torch.cat(read), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("width", "sequences", "first"), [(12, 256, 32), (64, 16, 8), (256, 8, 8), (13, 10, 2)]
)
@pytest.mark.parametrize(
    "check",
    [conformance.ragged_batches, conformance.lines_grow, testing.check_backend],
    ids=lambda check: check.__name__,
)
def test_it_conforms_when_all_is_scarce(
    check: Callable[..., None],
    width: int,
    sequences: int,
    first: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Passes in several calls, silence by twos, and contexts that grow in between."""
    monkeypatch.setattr(llamacpp, "WIDTH", width)
    monkeypatch.setattr(llamacpp, "MAX_SEQUENCES", sequences)
    monkeypatch.setattr(llama_context, "FIRST_SEQUENCES", first)
    monkeypatch.setattr(llama_context, "FIRST_CELLS", 256)
    if check is testing.check_backend:
        testing.check_backend(exact, ["inclusive"])
    else:
        check(exact, 1e-3)


def test_silence_in_the_middle_of_a_burst_sees_no_later_row() -> None:
    lm = testing.tiny_lm()
    silence = lm.special.silence
    at_once, in_turn = exact(lm), exact(lm)
    a, b = at_once.open(), in_turn.open()
    together = at_once.forward(cells(a, [5, 6, 7, 8, 9, silence, silence], [0, 0, 1, 2, 2, 1, 2]))
    in_turn.forward(cells(b, [5, 6], [0, 0]))
    one = in_turn.forward(cells(b, [7, silence], [1, 1]))
    assert torch.allclose(together[5], one[1], atol=1e-4)
    # The view that the first silence had goes on whole.
    after = at_once.forward(cells(a, [silence, silence, silence], [3, 3, 3]))
    assert torch.allclose(after[0], after[2], atol=1e-4)


def test_a_fork_shares_its_cells_and_keeps_to_whole_rows() -> None:
    lm = testing.tiny_lm()
    backend = exact(lm)
    line = backend.open()
    for row in range(3):
        backend.forward(cells(line, [5, 6, 7], [row] * 3))
    assert backend.cache_bytes == 9 * backend.cell_bytes
    fork = backend.fork(line, 6)
    assert backend.cache_bytes == 9 * backend.cell_bytes
    mine = backend.forward(cells(fork, [8], [2]))
    twin = backend.open()
    for row in range(2):
        backend.forward(cells(twin, [5, 6, 7], [row] * 3))
    assert torch.allclose(mine, backend.forward(cells(twin, [8], [2])), atol=1e-4)
    backend.release(line)
    assert backend.cache_bytes == (6 + 1 + 7) * backend.cell_bytes
    with pytest.raises(InputError, match="a fork at 4 cells cuts a row; the nearest end is at 6"):
        backend.fork(fork, 4)
    for held in (fork, twin):
        backend.release(held)
    assert backend.cache_bytes == 0


def test_rows_that_go_back_are_refused() -> None:
    backend = exact(testing.tiny_lm())
    line = backend.open()
    backend.forward(cells(line, [5], [4]))
    with pytest.raises(InputError, match="row 3 is read after row 4"):
        backend.forward(cells(line, [6], [3]))


def test_there_are_lines_for_half_of_the_sequences() -> None:
    backend = exact(testing.tiny_lm())
    lines = [backend.open() for _ in range(128)]
    assert lines == list(range(128))
    with pytest.raises(LimitError, match="holds 128 sessions at most"):
        backend.open()
    silence = testing.tiny_lm().special.silence
    asked = backend.forward(cells(lines[77], [9, silence, silence, silence], [0] * 4))
    assert asked.shape[0] == 4
    backend.release(3)
    assert backend.open() == 3


def test_views_are_shared_out_anew_when_lines_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "MAX_SEQUENCES", 8)
    monkeypatch.setattr(llama_context, "FIRST_SEQUENCES", 8)
    lm = testing.tiny_lm()
    silence = lm.special.silence
    backend = exact(lm)
    first = backend.open()
    alone = backend.forward(cells(first, [5] + [silence] * 7, [0] * 8))
    others = [backend.open() for _ in range(3)]
    for line in others:
        asked = backend.forward(cells(line, [5] + [silence] * 7, [0] * 8))
        assert torch.allclose(asked, alone, atol=1e-4)
    again = [backend.forward(cells(n, [7] + [silence] * 7, [1] * 8)) for n in (first, *others)]
    for asked in again[1:]:
        assert torch.allclose(asked, again[0], atol=1e-4)


def test_a_context_that_cannot_grow_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequence that llama.cpp does not know would end the process."""
    monkeypatch.setattr(llama_context, "FIRST_SEQUENCES", 8)
    backend = exact(testing.tiny_lm())
    first = backend.open()
    with monkeypatch.context() as scarce:
        scarce.setattr(llama_context.c, "llama_init_from_model", lambda *_: None)
        with pytest.raises(LimitError, match="no memory for"):
            backend.open()
    assert max(backend._free) < backend._context.sequences == 8
    second = backend.open()
    assert len({*backend._free, backend._lines[first].sequence}) == 15 == len(backend._free) + 1
    one, other = (backend.forward(cells(line, [5, 6], [0, 0])) for line in (first, second))
    assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    ("precision", "near", "far"),
    [("bfloat16", 1e-3, 0.2), ("q8_0", 1e-2, 0.6), ("q4_0", 0.1, 6.0)],
)
def test_what_precisions_cost_is_bounded(precision: str, near: float, far: float) -> None:
    lm = testing.tiny_lm()
    tables: list[StreamTable] = [testing.random_table(lm, rows, rows) for rows in (6, 17)]
    read = testing.read_in_ticks(LlamaCppBackend(lm, precision), tables)
    worst = max(testing.max_difference(lm, t, r) for t, r in zip(tables, read, strict=True))
    assert near < worst < far


def test_the_file_is_written_once_for_each_model_and_precision(cache: Path) -> None:
    lm = testing.tiny_lm(seed=3)
    before = set(cache.glob("gguf/*"))
    exact(lm)
    [path] = set(cache.glob("gguf/*")) - before
    written = path.stat().st_mtime_ns
    exact(lm)
    assert path.stat().st_mtime_ns == written
    with torch.no_grad():
        lm.special_out[0, 0] += 1
    exact(lm)
    LlamaCppBackend(lm, "q8_0")
    assert len(set(cache.glob("gguf/*")) - before) == 3


def test_a_file_that_is_cut_off_is_named() -> None:
    lm = testing.tiny_lm(seed=4)
    path = llamacpp.cached_gguf(lm, "float32")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"llama\.cpp cannot load it .*; delete it"):
        exact(lm)
    path.unlink()


@pytest.mark.parametrize(
    ("lm", "words"),
    [
        (lambda: testing.tiny_lm(mask_rule="strict"), "the model's mask rule is strict"),
        (lambda: testing.tiny_lm().half(), "in float16: choose from float32, bfloat16, q8_0, q4_0"),
        (lambda: _mistral(6), "has sliding-window attention"),
    ],
)
def test_models_that_it_cannot_run_are_refused(lm: Callable[[], MultiStreamLM], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_backend("llamacpp", lm())


def _mistral(window: int) -> MultiStreamLM:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(vocab_size=80, hidden_size=32, intermediate_size=64,
                           num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                           head_dim=8, sliding_window=window)  # fmt: skip
    return MultiStreamLM(MistralForCausalLM(config), AUDIT).eval()
