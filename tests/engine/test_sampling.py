"""Vectorised sampling against the naive one, exact distributions, and every refusal."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stretto.engine.batch import RowBatch
from stretto.engine.params import Limits, SamplingParams
from stretto.engine.reference import choose
from stretto.engine.sampling import Chooser, Sampler, draw, filter_logits
from stretto.errors import ConfigError
from stretto.streams import SpecialIds

V = 22
SPECIAL = SpecialIds.after(V - 2)


def batch(ids: list[int], uniforms: list[float], histories: list | None = None) -> RowBatch:
    none = np.empty(0, np.int64)
    return RowBatch(none, none, none, none, none, none, np.array(ids, np.int64),
                    np.array(uniforms), histories or [])  # fmt: skip


def sample(
    params: list[SamplingParams], logits: torch.Tensor, uniforms: list[float],
    heard: list[list[int]] | None = None,
) -> list[int]:  # fmt: skip
    sampler = Sampler(V, SPECIAL, torch.device("cpu"))
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


@settings(max_examples=150)
@given(st.lists(PARAMS, min_size=1, max_size=5), st.integers(0, 10**6))
def test_equals_the_naive_sampler(params: list[SamplingParams], seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(params), V)) * 2
    uniforms = rng.random(len(params)).tolist()
    heard = [rng.integers(0, V - 2, 4).tolist() if p.repetition_penalty != 1 else []
             for p in params]  # fmt: skip
    got = sample(params, torch.tensor(logits, dtype=torch.float32), uniforms, heard)
    for n, p in enumerate(params):
        row = logits[n].astype(np.float32).astype(np.float64)
        want = choose(row, p, uniforms[n], set(heard[n]), SPECIAL.silence)
        assert got[n] == (SPECIAL.end if want in p.stop_ids else want)


def test_draws_follow_the_distribution() -> None:
    probs = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])
    n = 20000
    logits = torch.tensor(np.log(probs)).float().repeat(n, 1)
    uniforms = torch.tensor(np.random.default_rng(0).random(n))
    counts = np.bincount(draw(logits, uniforms).numpy(), minlength=5)
    chi_square = ((counts - n * probs) ** 2 / (n * probs)).sum()
    assert chi_square < 18.47  # 0.1 % of 4 degrees of freedom


def test_inverse_cdf_picks_the_exact_interval() -> None:
    logits = torch.tensor([0.25, 0.0, 0.5, 0.25, 0.0]).log().repeat(5, 1)
    uniforms = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits, uniforms).tolist() == [0, 0, 2, 2, 3]


def test_filters_keep_what_they_say() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.06, 0.04]]).log()

    def kept(top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> list[int]:
        one = [torch.tensor([x]) for x in (1.0, top_k, top_p, min_p)]
        chooser = Chooser(one[0], one[1], one[2], one[3])
        return torch.isfinite(filter_logits(logits, chooser))[0].nonzero()[:, 0].tolist()

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
