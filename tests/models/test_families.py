"""Model families on tiny random configurations: the base given back, and cached = uncached."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from stretto.engine.backends import open_backend
from stretto.engine.testing import max_difference, random_table, read_in_ticks
from stretto.errors import CheckpointError
from stretto.models import MultiStreamLM, StreamBatch
from stretto.streams import AUDIT, SINGLE, StreamTable

TINY: dict[str, Any] = {
    "vocab_size": 80, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.1,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 6},
    "gemma": {},
    "gemma2": {"sliding_window": 6, "query_pre_attn_scalar": 8},
    "smollm3": {},
}
RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 4},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 4, "n_groups": 1},
    "jamba": {
        "mamba_d_state": 4, "mamba_dt_rank": 4, "num_experts": 2, "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "rwkv": {"attention_hidden_size": 32},
    "recurrent_gemma": {"lru_width": 32},
    "qwen3_next": {
        "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
        "linear_value_head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1,
        "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    },
}  # fmt: skip
OTHER_LAYERS: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "llama4_text": {"num_local_experts": 2, "intermediate_size_mlp": 64},
}
WITHOUT_ROTARY: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"n_head": 4, "n_layer": 2},
    "falcon": {"alibi": True, "head_dim": None},
}
ALL = {**FAMILIES, **RECURRENT, **OTHER_LAYERS, **WITHOUT_ROTARY}


def base_of(family: str, attention: str | None = None) -> Any:
    torch.manual_seed(0)
    options = {key: value for key, value in {**TINY, **ALL[family]}.items() if value is not None}
    config = AutoConfig.for_model(family, **options)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.eval()


@pytest.mark.parametrize("attention", [None, "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_stream_gives_the_base_back(family: str, attention: str | None) -> None:
    base = base_of(family, attention)
    lm = MultiStreamLM(base, SINGLE).eval()
    ids = torch.randint(3, 80, (1, 24), generator=torch.Generator().manual_seed(1))
    table = StreamTable(SINGLE, lm.special, {"text": ids[0].tolist()})
    with torch.inference_mode():
        own = lm(StreamBatch.from_cells([table.cells()])).logits[:, :80]
        assert (own - base(ids).logits[0]).abs().max() < 1e-5


@pytest.mark.parametrize("rule", ["inclusive", "strict"])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_rows_equal_one_forward(family: str, rule: str) -> None:
    lm = MultiStreamLM(base_of(family), AUDIT, mask_rule=rule).eval()
    torch.nn.init.normal_(lm.stream_embedding)
    tables = [random_table(lm, n, seed=n) for n in (4, 14)]
    for table, logits in zip(
        tables, read_in_ticks(open_backend("transformers", lm), tables), strict=True
    ):
        assert max_difference(lm, table, logits) < 1e-3


def refusal(family: str) -> str:
    """The one line with which a family is refused; it names the model's class."""
    base = base_of(family)
    with pytest.raises(CheckpointError) as caught:
        MultiStreamLM(base, SINGLE)
    message = str(caught.value)
    assert message.startswith(f"{type(base).__name__} has ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("family", RECURRENT)
def test_recurrent_decoders_are_refused(family: str) -> None:
    assert " has recurrent layers, which cannot read the streams of a row" in refusal(family)


@pytest.mark.parametrize(("family", "kind"), [("lfm2", "conv"), ("llama4_text", "chunked_att")])
def test_other_layers_are_refused(family: str, kind: str) -> None:
    assert f" has {kind}" in refusal(family)


@pytest.mark.parametrize("family", WITHOUT_ROTARY)
def test_decoders_without_rotary_positions_are_refused(family: str) -> None:
    assert "has no module for rotary positions" in refusal(family)
