"""The native back end: exact, the same in any company, and no less precise than it says."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cells import Cells, Crowd, random_cells, read
from hypothesis import given, settings
from hypothesis import strategies as st

from stretto.engine import testing
from stretto.engine.backends import open_backend
from stretto.engine.backends.native import NativeBackend, library
from stretto.errors import ConfigError
from stretto.models import MultiStreamLM
from tests.models.test_family import MEMBERS, lm_of

pytestmark = pytest.mark.skipif(
    library.why_not() is not None, reason=f"backend native {library.why_not()}"
)
ISAS = [isa for isa, needs in library.ISAS.items() if library.features().issuperset(needs)]
PRECISIONS = ("float32", "bfloat16", "int8")
# No size is a multiple of 64, nor (but for the last) of 16.
ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "odd with biases": ("llama", {
        "hidden_size": 50, "intermediate_size": 37, "num_attention_heads": 5,
        "num_key_value_heads": 5, "head_dim": 6, "attention_bias": True, "mlp_bias": True,
    }),
    "odd qwen3": ("qwen3", {
        "hidden_size": 136, "intermediate_size": 203, "num_attention_heads": 6,
        "num_key_value_heads": 3, "head_dim": 20,
    }),
    "odd mistral": ("mistral", {
        "hidden_size": 70, "intermediate_size": 90, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 72, "sliding_window": 3,
    }),
    "more panels than a tile": ("qwen2", {
        "hidden_size": 272, "intermediate_size": 400, "num_attention_heads": 7,
        "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 1001,
    }),
}  # fmt: skip
LMS = {
    "tiny": testing.tiny_lm(),
    "strict": testing.tiny_lm(mask_rule="strict"),
    **{name: lm_of(*ODD[name]) for name in ("odd with biases", "odd mistral")},
}
Opener = Callable[..., NativeBackend]


def opened(lm: MultiStreamLM, precision: str, threads: int, isa: str | None = None) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return NativeBackend(lm, precision, isa=isa)
    finally:
        torch.set_num_threads(before)


def everything_read(backend: NativeBackend, lm: MultiStreamLM, rows: int = 20) -> np.ndarray:
    tables = [testing.random_table(lm, n, seed=n) for n in (3, rows)]
    return np.concatenate(testing.read_in_ticks(backend, tables))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("member", [*MEMBERS, *ODD])
def test_it_equals_transformers(member: str, isa: str) -> None:
    lm = lm_of(*{**MEMBERS, **ODD}[member])
    tables = [testing.random_table(lm, n, seed=n) for n in (4, 14)]
    for num_rows in (1, 5):
        read_back = testing.read_in_ticks(
            NativeBackend(lm, "float32", isa=isa), tables, num_rows=num_rows
        )
        for table, logits in zip(tables, read_back, strict=True):
            assert testing.max_difference(lm, table, logits) < 1e-3


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("rule", ["inclusive", "strict"])
def test_lines_of_several_spans_equal_transformers(rule: str, window: int | None) -> None:
    lm = lm_of("mistral", {"sliding_window": window})
    lm.mask_rule = rule
    table = testing.random_table(lm, 300, seed=3)
    assert len(table.cells()) > 2 * 256
    for num_rows in (1, 64):
        (logits,) = testing.read_in_ticks(NativeBackend(lm, "float32"), [table], num_rows=num_rows)
        assert testing.max_difference(lm, table, logits) < 1e-3


# Both builds add the same products in the same order, and whole numbers have but one sum. What may
# differ is the last bit of a float, where a compiler joins a product and a sum into one step or
# does not. That may round a number the other way: in the cache, or (one in 127) of an input.
@pytest.mark.skipif(len(ISAS) < 2, reason="the processor has no AVX-512")
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-3), ("int8", 1e-2)]
)
@pytest.mark.parametrize("which", LMS)
def test_both_builds_agree(which: str, precision: str, tolerance: float) -> None:
    lm = LMS[which]
    one, other = (everything_read(opened(lm, precision, 1, isa), lm) for isa in ISAS)
    assert np.abs(one - other).max() < tolerance


@settings(max_examples=25)
@given(
    which=st.sampled_from(sorted(LMS)),
    precision=st.sampled_from(PRECISIONS),
    isa=st.sampled_from(ISAS),
    widths=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=40), min_size=1, max_size=3),
    seed=st.integers(0, 10**6),
    threads=st.sampled_from([1, 2, 3, 5]),
)
def test_who_shares_a_pass_does_not_show_in_one_bit(
    which: str, precision: str, isa: str, widths: list[list[int]], seed: int, threads: int
) -> None:
    lm, rng, sessions = LMS[which], np.random.default_rng(seed), min(map(len, widths))
    crowd = Crowd.of(lm, opened(lm, precision, threads, isa), sessions)
    hermit = opened(lm, precision, 1, isa)
    lines = [hermit.open() for _ in range(sessions)]
    for step, numbers in enumerate(widths):
        parts = [random_cells(lm, rng, n, row=4 * step) for n in numbers[:sessions]]
        forks = [crowd.backend.fork(crowd.lines[0], crowd.kept[0])]
        together = crowd.read(parts)
        for b, part in enumerate(parts):
            assert torch.equal(together[b], read(hermit, [lines[b]], [part])[0])
        # Also right after company, which leaves its numbers in the same buffers.
        assert torch.equal(together[0], read(crowd.backend, forks, parts[:1])[0])
        crowd.backend.release(forks[0])
    crowd.close()
    assert crowd.backend.cache_bytes == 0


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("which", LMS)
def test_how_rows_are_cut_into_passes_does_not_show_in_one_bit(
    which: str, precision: str, isa: str
) -> None:
    lm = LMS[which]
    tables = [testing.random_table(lm, n, seed=n) for n in (1, 30, 7)]
    by_row, by_five, at_once = (
        testing.read_in_ticks(opened(lm, precision, 2, isa), tables, num_rows=n)
        for n in (1, 5, 100)
    )
    for one, five, whole in zip(by_row, by_five, at_once, strict=True):
        assert np.array_equal(one, five)
        assert np.array_equal(one, whole)


def test_a_session_may_be_silent_from_its_first_cell_on() -> None:
    lm, silence = LMS["tiny"], np.full(3, LMS["tiny"].special.silence)
    silent = Cells(silence, np.arange(3), np.zeros(3, np.int64))
    loud = random_cells(lm, np.random.default_rng(5), 9, row=0)
    for precision in PRECISIONS:
        backend = NativeBackend(lm, precision)
        lines = [backend.open(), backend.open()]
        (alone,) = read(backend, [backend.open()], [silent])
        assert torch.equal(read(backend, lines, [silent, loud])[0], alone)
        assert torch.equal(read(backend, lines[:1], [silent])[0], alone)
        assert bool(alone.isfinite().all())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 1e-4), ("int8", 2e-3)])
def test_rounding_costs_little(precision: str, bound: float, isa: str) -> None:
    lm = LMS["tiny"]
    exact, rounded = (
        torch.from_numpy(everything_read(opened(lm, p, 1, isa), lm, 40)).log_softmax(-1)
        for p in ("float32", precision)
    )
    divergence = (exact.exp() * (exact - rounded)).sum(-1)
    assert divergence.mean() < bound
    assert divergence.mean() > bound / 1000, "nothing was rounded"


def outlier_lm() -> MultiStreamLM:
    """A model whose layer adds nothing, with a few large inputs of the last matrix."""
    lm = lm_of("llama", {"num_hidden_layers": 1, "hidden_size": 128, "vocab_size": 300})
    layer = lm.base.get_decoder().layers[0]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        lm.base.get_decoder().norm.weight[[3, 70, 71]] = 300.0
    return lm


def in_8_bits(x: np.ndarray, *, half: bool) -> np.ndarray:
    """Rows of groups (N, G, 64) as 8 bits would hold them; ``half``: scales in half precision."""
    scale = np.abs(x).max(-1, keepdims=True) / 127
    if half:
        near = scale.astype(np.float16)
        scale = np.where(near < scale, np.nextafter(near, np.float16(np.inf)), near).astype(float)
    return np.round(x / scale) * scale


@pytest.mark.parametrize("isa", ISAS)
def test_large_inputs_are_spread_before_they_are_rounded(isa: str) -> None:
    lm = outlier_lm()
    cells = random_cells(lm, np.random.default_rng(0), 40, row=0)
    exact, rounded = (
        read(backend, [backend.open()], [cells])[0].double().numpy()
        for backend in (NativeBackend(lm, p, isa=isa) for p in ("float32", "int8"))
    )
    hidden = lm.base.get_decoder().norm(
        lm.base.get_input_embeddings()(torch.from_numpy(np.minimum(cells.tokens, 299)))
        + lm.stream_embedding[torch.from_numpy(cells.streams)]
    )
    heard = cells.tokens < lm.vocab_size
    x = hidden.detach().double().numpy()[heard].reshape(-1, 2, 64)
    weights = lm.base.get_output_embeddings().weight.detach().double().numpy().reshape(-1, 2, 64)
    turn = np.ones((1, 1))
    for _ in range(6):
        turn = np.block([[turn, turn], [turn, -turn]])
    turn /= 8

    def product(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return (
            in_8_bits(x, half=False).reshape(-1, 128)
            @ in_8_bits(weights, half=True).reshape(-1, 128).T
        )

    exact, rounded = exact[heard, :300], rounded[heard, :300]
    plain, spread = product(x, weights), product(x @ turn, weights @ turn)
    # What it does is what is written here: numbers that lie between two may go either way.
    assert np.abs(rounded - spread).mean() < 0.02 * np.abs(spread - exact).mean()
    assert np.abs(x.reshape(-1, 128) @ weights.reshape(-1, 128).T - exact).max() < 1e-2
    assert np.abs(rounded - exact).mean() < np.abs(plain - exact).mean() / 2


def test_small_weights_keep_their_digits() -> None:
    # Half precision has hardly any digits for their scale: it may cost digits, but cut off nothing.
    lm = outlier_lm()
    with torch.no_grad():
        lm.base.get_output_embeddings().weight.mul_(4e-5)
    cells = random_cells(lm, np.random.default_rng(0), 40, row=0)
    exact, rounded = (
        read(backend, [backend.open()], [cells])[0][:, :300]
        for backend in (NativeBackend(lm, p) for p in ("float32", "int8"))
    )
    assert (rounded - exact).abs().mean() < 0.02 * exact.abs().mean()


def no_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    library.load_library.cache_clear()
    monkeypatch.setattr(library, "features", lambda: frozenset({"sse2", "fma", "avx512f"}))


def not_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    library.load_library.cache_clear()
    monkeypatch.setattr(library, "FOLDER", tmp_path)


def refuse(lm: MultiStreamLM, words: str, precision: str | None = None) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        NativeBackend(lm, precision)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lacks", ["avx2", "compiled"])
def test_without_a_library_it_says_why_and_auto_does_without(
    lacks: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    if lacks == "avx2":
        no_avx2(monkeypatch)
        words = "backend native needs a processor with AVX2, FMA and F16C"
    else:
        not_compiled(monkeypatch, tmp_path)
        words = "backend native was not compiled when stretto was installed"
    refuse(LMS["tiny"], words)
    with pytest.raises(ConfigError, match=re.escape(words.partition("native ")[2])):
        open_backend("native:int8", LMS["tiny"])
    assert type(open_backend("auto", LMS["tiny"])).__name__ == "TransformersBackend"


def test_the_build_fits_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = frozenset({"avx2", "fma", "f16c"})
    for has, isa in (
        (plain, "avx2"),
        (plain | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}, "avx2"),
        (plain | set(library.ISAS["avx512"]), "avx512"),
    ):
        monkeypatch.setattr(library, "features", lambda has=has: has)
        assert library._best() == isa


def test_models_that_it_cannot_run_are_refused_in_one_line() -> None:
    half = lm_of("llama", {}).half()
    refuse(half, "backend native in float16: choose from float32, bfloat16, int8")
    refuse(LMS["tiny"], "backend native in int4: choose from", "int4")
    refuse(lm_of("llama", {}).to("meta"), "the model is on meta; load it with device cpu")
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    refuse(lm_of("llama", {"rope_parameters": dynamic}), "rotary frequencies follow the length")
    long = {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 2.0,
    }  # fmt: skip
    refuse(lm_of("llama", {"rope_parameters": long}), "rotary frequencies follow the length")
    refuse(lm_of("llama", {"head_dim": 1026}), "heads of 1026 numbers, at most 1024 fit")
    refuse(lm_of("gemma", {}), "is no Llama-like decoder")


def test_a_model_in_half_precision_may_be_rounded_to_8_bits() -> None:
    lm = lm_of("llama", {})
    expected = everything_read(NativeBackend(lm, "int8"), lm)
    logits = everything_read(NativeBackend(lm.half(), "int8"), lm)
    assert np.abs(logits - expected).max() < 0.3


def test_a_stream_that_the_model_lacks_leaves_the_lines_alone() -> None:
    backend = NativeBackend(LMS["tiny"])
    cells = Cells(np.array([5, 6]), np.array([0, 99]), np.array([0, 0]))
    with pytest.raises(IndexError):
        read(backend, [backend.open()], [cells])
    assert backend.cache_bytes == 0
