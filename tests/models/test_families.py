"""Model families on tiny random configurations: the base given back, and cached = uncached."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from stretto.engine.backends import open_backend
from stretto.engine.testing import max_difference, random_table, read_in_ticks
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


def base_of(family: str, attention: str | None = None) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **TINY, **FAMILIES[family])
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
    for table, logits in zip(tables, read_in_ticks(open_backend("auto", lm), tables), strict=True):
        assert max_difference(lm, table, logits) < 1e-3
