"""A small random model, its data and a config, made in a folder."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stretto.streams.build import Recipe, Source, build
from stretto.training.config import TrainConfig
from tests.streams.bpe_codec import bpe_codec


def prepare(folder: Path, *, tied: bool = False, **changes: object) -> TrainConfig:
    """Write base model and shards (``folder/data``); settings for a run of a second or two.

    A tied base has one matrix for embedding and unembedding.
    """
    codec, base = bpe_codec(), folder / "base"
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=codec.special.silence, hidden_size=32, intermediate_size=64,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            tie_word_embeddings=tied,
        )
    ).save_pretrained(base)  # fmt: skip
    (base / "tokenizer.json").write_text(codec.tokenizer_json)
    recipe = Recipe(sources=(Source(task="chain_sum", set="read", count=60),))
    build(recipe, folder / "data", codec=codec)
    settings: dict[str, object] = {
        "data": "small", "base": str(base), "steps": 10, "save_every": 3, "log_every": 1,
        "eval_every": 10, "holdout": 6, "pack_cells": 320, "dtype": "float32",
    }  # fmt: skip
    return TrainConfig(**(settings | changes))  # type: ignore[arg-type]


def losses(output: Path) -> dict[tuple[int, str], float]:
    """The last value logged of each loss at each step."""
    from stretto.runs import Run

    return {
        (event["step"], kind): event[kind]
        for event in Run.open(output).events("log")
        for kind in ("loss", "content", "silence", "eval_content")
        if event.get(kind) is not None
    }
