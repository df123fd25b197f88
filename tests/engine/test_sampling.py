"""Vectorised sampling against the naive one, exact distributions, and every refusal."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stretto.engine import testing
from stretto.engine.backends.native.library import ISAS, features, why_not
from stretto.engine.batch import RowBatch
from stretto.engine.params import Limits, SamplingParams
from stretto.engine.reference import choose, distribution
from stretto.engine.rows import NOTHING, Chooser, Rows, TorchRows, keep, weigh
from stretto.engine.sampling import CANDIDATES, Sampler
from stretto.errors import ConfigError
from stretto.streams import SpecialIds

V = 22
SPECIAL = SpecialIds.after(V - 2)


def native_rows(isa: str, threads: int) -> Rows:
    from stretto.engine.backends.native import NativeBackend

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    # Keeps its decoder, whose threads look.
    rows = (backend := NativeBackend(testing.tiny_lm(), "float32", isa=isa)).rows
    rows.backend = backend  # type: ignore[attr-defined]
    torch.set_num_threads(before)
    return rows


# Neither the processor nor the number of threads shows in a token.
NATIVE = {
    f"native {isa}": native_rows(isa, threads)
    for isa, threads in (("avx512", 1), ("avx2", 3))
    if why_not(isa) is None and features().issuperset(ISAS[isa])
}
ROWS: dict[str, Rows] = {"torch": TorchRows(), **NATIVE}
each_rows = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)


def batch(ids: list[int], uniforms: list[float], histories: list | None = None) -> RowBatch:
    none = np.empty(0, np.int64)
    return RowBatch(none, none, none, none, none, none, np.array(ids, np.int64),
                    np.array(uniforms), histories or [])  # fmt: skip


def sample(
    params: list[SamplingParams], logits: torch.Tensor, uniforms: list[float],
    heard: list[list[int]] | None = None, rows: Rows | None = None,
) -> list[int]:  # fmt: skip
    sampler = Sampler(V, SPECIAL, torch.device("cpu"), rows)
    ids = [sampler.register(p) for p in params]
    histories = [(n, h) for n, h in enumerate(heard or []) if h]
    return sampler.sample(logits, batch(ids, uniforms, histories)).tolist()


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 4, 100]),
    min_p=st.sampled_from([0.0, 0.1, 0.6]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    allowed=st.none() | st.just((1, 3, 5, 7, V - 1, V - 2)),
    banned=st.none() | st.just((3, 9)),
    stop_ids=st.sampled_from([(), (2, 5)]),
    silence=st.booleans(),
    silence_bias=st.sampled_from([-1.0, 0.0, 2.0]),
)


def chooser(p: SamplingParams) -> Chooser:
    columns = (p.temperature or 1.0, p.top_k, p.top_p, p.min_p)
    return Chooser(*(torch.tensor([x], dtype=torch.float64) for x in columns))


def kept_probs(logits: torch.Tensor, p: SamplingParams, size: int) -> torch.Tensor | None:
    """Probabilities (V,), None if the cut is not among the likeliest ``size`` tokens."""
    values, ids = logits[None].sort(dim=-1, descending=True, stable=True)
    size, cut = min(size, len(logits)), chooser(p)
    values, ids = values[:, :size], ids[:, :size]
    weights, found = keep(values, weigh(logits[None], cut.temperature).sum(-1), cut, len(logits))
    if not found[0]:
        return None
    return torch.zeros(len(logits)).double().scatter(0, ids[0], weights[0] / weights[0].sum())


WIDE = 300


@settings(max_examples=80)
@given(
    st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.3, 1.0, 3.0]),
        top_p=st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]),
        top_k=st.sampled_from([0, 1, 5, 63, 64, 65, 1000]),
        min_p=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    ),
    st.integers(0, 10**6),
    st.sampled_from([0, 1, 4]),
    st.sampled_from([0.0, 0.5, 0.97]),
    st.sampled_from([64, WIDE]),
)
def test_the_distribution_is_that_of_the_naive_sampler(
    params: SamplingParams, seed: int, digits: int, banned: float, size: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=WIDE) * 3).round(digits).astype(np.float32)  # 0 and 1: many ties
    away = np.flatnonzero(rng.random(WIDE) < banned)[: WIDE - 1]
    masked = torch.tensor(logits)
    masked[away] = -torch.inf
    got = kept_probs(masked, params, size)
    if got is None:
        assert size < WIDE
        return
    may = set(range(WIDE)) - set(away.tolist())
    want = distribution(logits, params, set(), WIDE - 2, may)
    expected = np.zeros(WIDE)
    expected[list(want)] = list(want.values())
    assert ((got.numpy() > 0) == (expected > 1e-300)).all()
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-300)


def test_a_cut_is_found_where_it_can_be_and_only_there() -> None:
    logits = torch.linspace(0, -30, WIDE)
    assert kept_probs(logits, SamplingParams(temperature=1.0, top_p=0.9), 64) is not None
    assert kept_probs(logits, SamplingParams(temperature=1.0, top_p=0.9999), 64) is None
    assert kept_probs(logits, SamplingParams(temperature=1.0, top_k=63), 64) is not None
    assert kept_probs(logits, SamplingParams(temperature=1.0, top_k=65), 64) is None
    tied = torch.zeros(WIDE)  # all tokens tie with the last candidate, the kept ones too
    assert kept_probs(tied, SamplingParams(temperature=1.0, top_k=3), 64) is None


@each_rows
def test_wide_and_narrow_rows_of_one_batch_choose_as_the_naive_sampler(rows: Rows) -> None:
    size, rng = 4 * CANDIDATES, np.random.default_rng(0)
    special = SpecialIds.after(size - 2)
    sampler = Sampler(size, special, torch.device("cpu"), rows)
    params = [
        SamplingParams(), SamplingParams(temperature=1.0),
        SamplingParams(temperature=1.0, top_p=0.9), SamplingParams(temperature=0.7, top_k=5),
        SamplingParams(temperature=9.0, top_p=0.99), SamplingParams(temperature=1.0, min_p=0.1),
    ]  # fmt: skip
    ids = np.array([sampler.register(p) for p in params] * 4)
    logits = torch.tensor(rng.normal(size=(len(ids), size)) * 4).float()
    before, uniforms = logits.clone(), rng.random(len(ids)).tolist()
    together = sampler.sample(logits, batch(ids.tolist(), uniforms)).tolist()
    assert torch.equal(logits, before)
    for n, i in enumerate(ids):
        alone = sampler.sample(logits[n : n + 1], batch([i], uniforms[n : n + 1])).tolist()
        want = choose(logits[n].numpy(), params[i], uniforms[n], set(), special.silence)
        assert [together[n]] == alone == [want]


@each_rows
@settings(max_examples=150)
@given(params=st.lists(PARAMS, min_size=1, max_size=5), seed=st.integers(0, 10**6))
def test_equals_the_naive_sampler(rows: Rows, params: list[SamplingParams], seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(params), V)) * 2
    uniforms = rng.random(len(params)).tolist()
    heard = [rng.integers(0, V - 2, 4).tolist() if p.repetition_penalty != 1 else []
             for p in params]  # fmt: skip
    got = sample(params, torch.tensor(logits, dtype=torch.float32), uniforms, heard, rows)
    for n, p in enumerate(params):
        row = logits[n].astype(np.float32).astype(np.float64)
        want = choose(row, p, uniforms[n], set(heard[n]), SPECIAL.silence)
        assert got[n] == (SPECIAL.end if want in p.stop_ids else want)


@each_rows
def test_draws_follow_the_distribution(rows: Rows) -> None:
    probs = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])
    n = 20000
    logits = torch.tensor(np.log(probs)).float().repeat(n, 1)
    uniforms = torch.tensor(np.random.default_rng(0).random(n))
    drawn = rows.draw(logits, torch.arange(n), torch.ones(n).double(), uniforms)
    counts = np.bincount(drawn.numpy(), minlength=5)
    chi_square = ((counts - n * probs) ** 2 / (n * probs)).sum()
    assert chi_square < 18.47  # 0.1 % of 4 degrees of freedom


@each_rows
def test_inverse_cdf_picks_the_exact_interval(rows: Rows) -> None:
    logits = torch.tensor([0.25, 0.0, 0.5, 0.25, 0.0]).log().repeat(5, 1)
    uniforms = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 1 - 2**-53], dtype=torch.float64)
    drawn = rows.draw(logits, torch.arange(5), torch.ones(5).double(), uniforms)
    assert drawn.tolist() == [0, 0, 2, 2, 3]


@settings(max_examples=300)
@given(
    seed=st.integers(0, 10**6), size=st.sampled_from([1, 5, 63, 64, 65, 130, 700, 9000]),
    spread=st.sampled_from([0.0, 1e-6, 1.0, 3.0, 30.0, 1e30]), digits=st.sampled_from([0, 1, 9]),
    temperature=st.sampled_from([1e-300, 1e-3, 0.8, 1.0, 5.0, 1e4]),
    odd=st.sampled_from([0.0, 0.2, 0.97]),
)  # fmt: skip
@pytest.mark.skipif(not NATIVE, reason="native is not compiled")
def test_native_rows_find_what_torch_finds(
    seed: int, size: int, spread: float, digits: int, temperature: float, odd: float
) -> None:
    rng = np.random.default_rng(seed)
    # Rounded, so that there are ties; some tokens are forbidden, some are no numbers.
    logits = torch.tensor(np.round(rng.normal(size=(6, size)) * spread, digits)).float()
    for value in (-torch.inf, torch.nan):
        logits[torch.tensor(rng.random(logits.shape) < odd)] = value
    rows, heat = torch.tensor([4, 0, 2]), torch.full((3,), temperature, dtype=torch.float64)
    uniforms = torch.tensor(rng.random(3))
    columns = (heat, rng.choice([0, 1, 7, 100, 200, size - 1, size + 9], 3),
               rng.choice([1e-12, 0.3, 0.95, 1 - 1e-12, 1.0], 3),
               rng.choice([0.0, 1e-5, 0.05, 1.0], 3))  # fmt: skip
    cut = Chooser(*(torch.as_tensor(x, dtype=torch.float64) for x in columns))
    torch_rows = ROWS["torch"]
    for native in NATIVE.values():
        slow, fast = (x.cut(logits, rows, cut, uniforms, size)[0] for x in (torch_rows, native))
        assert slow.tolist() == fast.tolist()
        slow, fast = (x.draw(logits, rows, heat, uniforms) for x in (torch_rows, native))
        assert slow.tolist() == fast.tolist()
        assert torch_rows.argmax(logits).tolist() == native.argmax(logits).tolist()


@each_rows
@pytest.mark.parametrize("size", [1, 64, 70, 300])
def test_what_is_no_number_is_never_chosen(rows: Rows, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    nan, no = torch.nan, -torch.inf
    logits = torch.randn(4, size, generator=generator) * 3
    logits[0] = nan
    logits[1] = no
    logits[2, torch.rand(size, generator=generator) < 0.5] = nan
    logits[2, size - 1] = 1.0
    logits[3, :-1] = nan
    banned = torch.where(logits.isnan(), no, logits)
    every, heat, uniforms = torch.arange(4), torch.ones(4).double(), torch.full((4,), 0.6).double()
    assert rows.draw(logits, every, heat, uniforms).tolist()[:2] == [NOTHING, NOTHING]
    for column in ([0, 0.9, 0], [3, 1, 0], [0, 1, 0.1], [3, 0.5, 0.2]):
        others = (torch.full((4,), x, dtype=torch.float64) for x in column)
        cut = Chooser(heat, *others)
        answers = [
            [rows.argmax(x), rows.draw(x, every, heat, uniforms),
             rows.cut(x, every, cut, uniforms, size)[0]]
            for x in (logits, banned)
        ]  # fmt: skip
        for with_nan, without in zip(*answers, strict=True):
            assert with_nan.tolist() == without.tolist()
            assert with_nan.tolist()[:2] == [NOTHING, NOTHING]
            assert with_nan[3] == size - 1
            assert not logits[2, with_nan[2]].isnan()


@each_rows
def test_infinite_logits_share_what_there_is(rows: Rows) -> None:
    logits = torch.full((2, 70), torch.finfo(torch.float32).min)
    logits[:, [5, 66]] = torch.inf
    logits[:, 20] = torch.finfo(torch.float32).max
    every, heat = torch.arange(2), torch.full((2,), 0.7).double()
    uniforms = torch.tensor([0.1, 0.9]).double()
    half = torch.tensor([0.5, 1.0]).double()
    top_p = Chooser(heat, torch.zeros(2).double(), half, torch.full((2,), 0.5).double())
    assert rows.draw(logits, every, heat, uniforms).tolist() == [5, 66]
    assert rows.cut(logits, every, top_p, uniforms, 70)[0].tolist() == [5, 66]
    assert rows.cut(logits, every, top_p, uniforms.flip(0), 70)[0].tolist() == [20, 5]
    assert rows.argmax(logits).tolist() == [5, 5]


@each_rows
@pytest.mark.parametrize("nothing", [torch.nan, -torch.inf])
def test_a_message_ends_where_no_token_can_be_chosen(rows: Rows, nothing: float) -> None:
    params = [
        SamplingParams(), SamplingParams(temperature=1.0),
        SamplingParams(temperature=1.0, top_p=0.9), SamplingParams(temperature=1.0, top_k=2),
        SamplingParams(temperature=1.0, min_p=0.1, banned=(0, SPECIAL.end)),
    ]  # fmt: skip
    logits = torch.full((len(params), V), nothing)
    uniforms = [0.5] * len(params)
    assert sample(params, logits.clone(), uniforms, rows=rows) == [SPECIAL.end] * len(params)
    # Also where no row is greedy, and where the one number left is not allowed.
    assert sample(params[1:], logits[1:].clone(), uniforms[1:], rows=rows) == [SPECIAL.end] * 4
    logits[:, 0] = 1.0
    assert sample(params, logits.clone(), uniforms, rows=rows) == [0, 0, 0, 0, SPECIAL.end]
    for row, p in zip(logits, params, strict=True):
        want = choose(row.numpy(), p, 0.5, set(), SPECIAL.silence)
        assert want == (SPECIAL.end if p.banned else 0)


def test_filters_keep_what_they_say() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.06, 0.04]).log()

    def kept(top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> list[int]:
        params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p)
        probs = kept_probs(logits, params, len(logits))
        assert probs is not None
        return probs.nonzero()[:, 0].tolist()

    assert kept(top_k=2) == [0, 1]
    assert kept(top_p=0.69) == [0, 1]
    assert kept(top_p=0.71) == [0, 1, 2]
    assert kept(top_p=1e-6) == [0]
    assert kept(min_p=0.45) == [0, 1, 2]
    assert kept(top_k=4, top_p=0.95, min_p=0.2) == [0, 1, 2]


def test_a_query_does_not_depend_on_its_neighbours() -> None:
    logits = torch.randn(3, V, generator=torch.Generator().manual_seed(0))
    warm, cold = SamplingParams(temperature=1.0, top_p=0.8), SamplingParams()
    together = sample([warm, cold, warm], logits, [0.3, 0.9, 0.7])
    alone = [
        sample([p], logits[n : n + 1], [u])[0]
        for n, (p, u) in enumerate([(warm, 0.3), (cold, 0.9), (warm, 0.7)])
    ]
    assert together == alone


@pytest.mark.parametrize(
    "field",
    [
        {"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1}, {"min_p": 2},
        {"repetition_penalty": 0}, {"allowed": ()},
    ],
)  # fmt: skip
def test_bad_parameters_are_refused(field: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(field))):
        SamplingParams(**field)


def test_impossible_token_sets_are_refused() -> None:
    sampler = Sampler(V, SPECIAL, torch.device("cpu"))
    with pytest.raises(ConfigError, match="no token to sample"):
        sampler.register(SamplingParams(allowed=(3,), banned=(3,)))
    with pytest.raises(ConfigError, match="banned has 99"):
        sampler.register(SamplingParams(banned=(99,)))


@pytest.mark.parametrize(
    "field",
    [{"max_rows": 0}, {"quiet_rows": 0}, {"deadline_s": 0}, {"max_message_tokens": 0}],
)
def test_bad_limits_are_refused(field: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(field))):
        Limits(**field)


def test_plain_data_round_trip() -> None:
    params = SamplingParams(temperature=0.7, stop_ids=(1, 2), allowed=(1, 5))
    assert SamplingParams.from_dict(params.to_dict()) == params
    with pytest.raises(ConfigError, match="SamplingParams"):
        SamplingParams.from_dict({"heat": 1})
    assert Limits.from_dict(Limits(max_rows=3).to_dict()) == Limits(max_rows=3)
