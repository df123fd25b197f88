"""The visibility rule: a truth table by hand, a naive twin, and the FlexAttention form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stretto.errors import ConfigError
from stretto.models.masks import Keys, MaskRule, additive, block_mask, check_rule, dense_mask

RULES = st.sampled_from(["inclusive", "strict"])


def dense(rule: MaskRule, keys: Keys, window: int | None = None) -> Tensor:
    index = torch.arange(keys.rows.shape[1]).expand_as(keys.rows)
    return dense_mask(rule, keys.rows, keys.samples, index, keys, window)[:, 0]


def random_keys(seed: int, batch: int, length: int) -> Keys:
    g = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, 6, (batch, length), generator=g)
    samples = torch.randint(-1, 2, (batch, length), generator=g)
    return Keys(rows, samples, (torch.rand(batch, length, generator=g) < 0.3) | (samples == -1))


def test_truth_table_of_three_streams_and_four_rows() -> None:
    rows = torch.arange(4).repeat_interleave(3)
    silent = torch.zeros(12, dtype=torch.bool)
    silent[4] = True  # row 1, second stream
    keys = Keys(rows[None], torch.zeros(1, 12, dtype=torch.int64), silent[None])
    for rule, last_seen in (("inclusive", 0), ("strict", 1)):
        mask = dense(check_rule(rule), keys)[0]
        for q in range(12):
            for k in range(12):
                want = q == k or (q // 3 - k // 3 >= last_seen and k != 4)
                assert bool(mask[q, k]) == want, (rule, q, k)


@settings(max_examples=25)
@given(RULES, st.integers(0, 10**6), st.none() | st.integers(1, 4))
def test_equals_the_rule_spelled_out(rule: MaskRule, seed: int, window: int | None) -> None:
    keys = random_keys(seed, 2, 9)
    mask = dense(rule, keys, window)
    for b in range(2):
        for q in range(9):
            for k in range(9):
                far = int(keys.rows[b, q] - keys.rows[b, k])
                seen = far >= 0 if rule == "inclusive" else far > 0
                seen &= window is None or far < window
                seen &= not keys.hidden[b, k] and bool(keys.samples[b, q] == keys.samples[b, k])
                assert bool(mask[b, q, k]) == (seen or q == k)


@settings(max_examples=8)
@given(RULES, st.integers(0, 10**6), st.none() | st.integers(1, 4))
def test_block_mask_equals_dense_mask(rule: MaskRule, seed: int, window: int | None) -> None:
    from torch.nn.attention.flex_attention import create_mask

    keys = random_keys(seed, 1, 40)
    block = block_mask(rule, keys, window)
    full = create_mask(block.mask_mod, 1, 1, 40, 40, device="cpu")[:, 0]
    assert torch.equal(full.bool(), dense(rule, keys, window))


def test_additive_form() -> None:
    mask = torch.tensor([[True, False]])
    assert additive(mask, torch.float32).tolist() == [[0.0, torch.finfo(torch.float32).min]]


def test_unknown_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose from inclusive, strict"):
        check_rule("causal")
