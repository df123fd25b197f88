"""Back ends with their own arithmetic equal transformers on every member of the Llama family."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from stretto.engine.backends import open_backend
from stretto.engine.backends.cuda import CudaBackend
from stretto.engine.testing import max_difference, random_table, read_in_ticks
from stretto.errors import ConfigError
from stretto.models import MultiStreamLM
from stretto.streams import AUDIT

TINY: dict[str, Any] = {
    "vocab_size": 80, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.1,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
MEMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama of one group": ("llama", {"num_key_value_heads": 1}),
    "llama without groups": ("llama", {"num_key_value_heads": 4}),
    "llama 3 positions": ("llama", {"rope_parameters": LLAMA3}),
    "llama of slow positions": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ),
    "wider heads": ("llama", {"head_dim": 16}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "mistral": ("mistral", {"sliding_window": 6}),
    "mistral of late": ("mistral", {"sliding_window": None}),
    "llama with biases in attention": ("llama", {"attention_bias": True, "rms_norm_eps": 1e-2}),
}
OTHERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "gemma": ("gemma", {}, "is no Llama-like decoder"),
    "smollm3": ("smollm3", {}, "is no Llama-like decoder"),
    "gelu": ("llama", {"hidden_act": "gelu"}, "has activation gelu"),
    "mixed windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
        "mixes full and sliding-window attention",
    ),
}


def lm_of(kind: str, options: dict[str, Any]) -> MultiStreamLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **{**TINY, **options})
        lm = MultiStreamLM(AutoModelForCausalLM.from_config(config), AUDIT).eval()
        for name, parameter in lm.named_parameters():
            # New biases are 0 and new norms 1, which a back end could forget unseen.
            if "bias" in name or "norm" in name or name == "stream_embedding":
                torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.5)
    return lm


@pytest.mark.parametrize("backend", ["cpu:float32", "prepacked:float32", "cuda"])
@pytest.mark.parametrize("member", MEMBERS)
def test_cached_rows_equal_one_forward(
    member: str, backend: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend.startswith("cpu"):
        pytest.importorskip("openvino")
    monkeypatch.setenv("STRETTO_CACHE", str(tmp_path))
    lm = lm_of(*MEMBERS[member])
    tables = [random_table(lm, n, seed=n) for n in (4, 14)]
    # Without a GPU the back end for it has no name, but it runs.
    opened = CudaBackend(lm, capture=False) if backend == "cuda" else open_backend(backend, lm)
    for table, logits in zip(tables, read_in_ticks(opened, tables), strict=True):
        assert max_difference(lm, table, logits) < 1e-3


NOT_IN_LLAMACPP = {
    "llama with biases": "has biases in its MLP",
    "llama 3 positions": "scales its rotary positions",
    "mistral": "has sliding-window attention",
}


@pytest.mark.parametrize("member", MEMBERS)
def test_llamacpp_equals_one_forward_or_refuses(
    member: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llama_cpp")
    monkeypatch.setenv("STRETTO_CACHE", str(tmp_path))
    lm = lm_of(*MEMBERS[member])
    if member in NOT_IN_LLAMACPP:
        with pytest.raises(ConfigError, match=f"{NOT_IN_LLAMACPP[member]}.*; choose backend"):
            open_backend("llamacpp", lm)
        return
    tables = [random_table(lm, n, seed=n) for n in (4, 14)]
    read = read_in_ticks(open_backend("llamacpp", lm), tables)
    for table, logits in zip(tables, read, strict=True):
        assert max_difference(lm, table, logits) < 1e-3


@pytest.mark.parametrize("member", OTHERS)
def test_others_are_refused_in_one_line(member: str) -> None:
    kind, options, words = OTHERS[member]
    with pytest.raises(ConfigError, match=f"{words}.*; choose backend transformers$") as caught:
        open_backend("prepacked", lm_of(kind, options))
    assert "\n" not in str(caught.value)
