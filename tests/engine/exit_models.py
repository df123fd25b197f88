"""Tiny models with exit heads, and native back ends that run them."""

from typing import Any

import torch
from drafts import random_exits

from stretto.engine import testing
from stretto.engine.backends.native import NativeBackend
from stretto.models import MultiStreamLM
from tests.models.test_family import lm_of

PRECISIONS = ("float32", "bfloat16", "int8")
ODD = {
    "hidden_size": 50, "intermediate_size": 37, "num_attention_heads": 5, "num_hidden_layers": 4,
    "num_key_value_heads": 5, "head_dim": 6, "attention_bias": True, "mlp_bias": True,
}  # fmt: skip


def talkative(kind: str, options: dict[str, Any]) -> MultiStreamLM:
    """One that says silence and end now and then."""
    lm = lm_of(kind, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.nn.init.normal_(lm.special_out, std=0.2)
    return lm


LMS: dict[str, MultiStreamLM] = {
    "tiny": testing.tiny_lm(),
    "strict": testing.tiny_lm(mask_rule="strict"),
    "odd": talkative("llama", ODD),
    "window": talkative("mistral", {"sliding_window": 5}),
}
EXITS = {name: random_exits(lm, {1: 37, 2: 0}, words=9) for name, lm in LMS.items()}
OPENED: dict[tuple[Any, ...], NativeBackend] = {}


def opened(which: str, precision: str, threads: int = 1, isa: str | None = None) -> NativeBackend:
    """A back end with exits; the same one each time."""
    key = (which, precision, threads, isa)
    if key not in OPENED:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            OPENED[key] = NativeBackend(LMS[which], precision, isa=isa)
        finally:
            torch.set_num_threads(before)
        OPENED[key].set_exits(EXITS[which], LMS[which])
    return OPENED[key]
