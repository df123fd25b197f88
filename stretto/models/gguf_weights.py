"""A Llama-family GGUF file -> a Hugging Face model folder.

Tensors are dequantised by the gguf package, one vectorised pass each; the reader in transformers
gives the same bits several times slower (compared in the slow tests). What this reader does not
know (biases, scaled rotary frequencies, other tokenisers) is refused, never dropped.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, TokenType
from gguf.quants import dequantize
from safetensors import SafetensorError
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from stretto.errors import CheckpointError

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
_HEAD = {"output.weight": "lm_head.weight"}  # absent where the head is the embedding
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(gguf_path: Path, folder: Path) -> None:
    """Write ``model.safetensors`` (float32), ``config.json`` and the tokeniser into ``folder``.

    Raises:
        CheckpointError: the file is not a readable GGUF of the Llama family with a SmolLM
            tokeniser, or the folder cannot be written.
    """
    try:
        reader = GGUFReader(gguf_path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        config = _config(fields, has_head=any(t.name in _HEAD for t in reader.tensors))
        weights = _weights(reader, config)
        tokenizer = _tokenizer(fields)
    except (ValueError, KeyError, IndexError, OSError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{gguf_path}: not a readable Llama GGUF file: {reason}") from None
    try:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:
        raise CheckpointError(f"{folder}: the weights cannot be written: {error}") from None
    _write_json(folder / "config.json", config)
    ends = ("bos_token_id", "eos_token_id", "pad_token_id")
    _write_json(folder / "generation_config.json", {key: config[key] for key in ends})
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(fields))
    if template := fields.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _config(fields: dict[str, Any], *, has_head: bool) -> dict[str, Any]:
    """The file's metadata as a ``LlamaConfig``."""
    architecture = fields["general.architecture"]
    if architecture != "llama":
        raise ValueError(f"architecture {architecture!r}, expected 'llama'")
    if (scaling := fields.get("llama.rope.scaling.type", "none")) != "none":
        raise ValueError(f"rotary scaling {scaling!r} is not supported")
    heads = fields["llama.attention.head_count"]
    width = fields["llama.embedding_length"]
    head_dim = fields.get("llama.attention.key_length", width // heads)
    if (rotated := fields.get("llama.rope.dimension_count", head_dim)) != head_dim:
        raise ValueError(f"{rotated} of {head_dim} dimensions of a head rotate, expected all")
    eos = fields["tokenizer.ggml.eos_token_id"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": fields.get("llama.rope.freq_base", 10000.0),
        },
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": not has_head,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": eos,
        "pad_token_id": fields.get("tokenizer.ggml.padding_token_id", eos),
        "dtype": "float32",
    }


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """What every tensor of the model, by its GGUF name, must look like."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    layer = {
        "attn_norm": (width,),
        "attn_q": (query, width),
        "attn_k": (key, width),
        "attn_v": (key, width),
        "attn_output": (width, query),
        "ffn_norm": (width,),
        "ffn_gate": (inner, width),
        "ffn_up": (inner, width),
        "ffn_down": (width, inner),
    }
    embedding = (config["vocab_size"], width)
    shapes: dict[str, tuple[int, ...]] = {
        f"blk.{i}.{part}.weight": shape
        for i in range(config["num_hidden_layers"])
        for part, shape in layer.items()
    }
    shapes |= {"token_embd.weight": embedding, "output_norm.weight": (width,)}
    return shapes if config["tie_word_embeddings"] else shapes | {"output.weight": embedding}


def _weights(reader: GGUFReader, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """All tensors as float32, by their Hugging Face names."""
    shapes = _shapes(config)
    if odd := sorted(shapes.keys() ^ {tensor.name for tensor in reader.tensors}):
        kind = "missing" if odd[0] in shapes else "unknown"
        raise ValueError(f"{kind} tensor {odd[0]!r} ({len(odd)} missing or unknown)")
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        if weight.shape != shapes[tensor.name]:
            raise ValueError(
                f"tensor {tensor.name!r} is {weight.shape}, expected {shapes[tensor.name]}"
            )
        part = tensor.name.split(".")[-2]
        if part in heads:
            weight = _unpermute(weight, heads[part])
        weights[_hf_name(tensor.name)] = np.ascontiguousarray(weight)
    return weights


def _hf_name(name: str) -> str:
    if known := (_TOP | _HEAD).get(name):
        return known
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{_LAYER[part]}.weight"


def _unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's order of rotary pairs: (x0, y0, x1, y1, ...) -> (x0, x1, ..., y0, y1, ...).

    Args:
        weight: (heads * head_dim, width).
        heads: number of heads in it.
    """
    out, width = weight.shape
    pairs = weight.reshape(heads, out // heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(out, width)


def _tokenizer(fields: dict[str, Any]) -> Tokenizer:
    kind = (fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"tokeniser {kind}, expected byte-level BPE of SmolLM")
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    # As in llama.cpp's "smollm" every digit (\p{N}) is split off first. The reader in transformers
    # leaves this out, and so reads the blank line before "12" as two tokens instead of one.
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    added = {TokenType.CONTROL: True, TokenType.USER_DEFINED: False}
    types = fields["tokenizer.ggml.token_type"]
    tokenizer.add_tokens(
        [
            AddedToken(token, special=added[kind], normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind in added
        ]
    )
    return tokenizer


def _tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    special = {
        name: tokens[fields[f"tokenizer.ggml.{key}_token_id"]]
        for key, name in names.items()
        if f"tokenizer.ggml.{key}_token_id" in fields
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **special,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
