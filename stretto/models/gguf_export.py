"""A multi-stream model of the Llama family as a GGUF file, for llama.cpp.

llama.cpp refuses positions with gaps, and so a row in which all was silent, for every
architecture whose tokens have one position. Those with several (M-RoPE) may skip: so the file
names ``paddleocr``, a Llama with M-RoPE, or ``qwen3vl``, the same with norms on queries and keys,
and turns every pair of a head by the second of the four positions. The first is then free to be
what decides who sees whom. See :mod:`stretto.engine.backends.llamacpp`.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quant_shape_to_byte_shape, quantize
from torch import Tensor

from stretto.errors import CheckpointError, ConfigError
from stretto.models.family import FamilyDecoder, Linear, why_not
from stretto.models.store import cache_dir
from stretto.models.wrapper import MultiStreamLM

TYPES = {
    "float32": GGMLQuantizationType.F32,
    "bfloat16": GGMLQuantizationType.BF16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
}
"""What matrices can be stored in; ``q4_0`` keeps the unembedding in 8 bits, as llama.cpp does."""
_VERSION = 1
_BLOCK = 32


@dataclass(frozen=True)
class _Item:
    """One tensor of the file: its shape is known before its values are made."""

    name: str
    weight: Callable[[], Tensor]
    shape: tuple[int, ...]
    type: GGMLQuantizationType


def cached_gguf(lm: MultiStreamLM, precision: str, *, plain: bool = False) -> Path:
    """The model's file in the user's cache, written if it is not there.

    Its name is a hash of what it holds, so another model or a trained one gets a file of its own.
    Nothing is ever deleted there. Arguments are those of :func:`export_gguf`.

    Raises:
        ConfigError: the model cannot be exported.
        CheckpointError: the file cannot be written.
    """
    _refuse_unfit(lm)
    path = cache_dir() / "gguf" / f"{_hash(lm, plain)}-{precision}.gguf"
    if not path.exists():
        export_gguf(lm, path, precision, plain=plain)
    return path


def export_gguf(lm: MultiStreamLM, path: Path, precision: str, *, plain: bool = False) -> None:
    """Write a model, whole or not at all.

    Args:
        lm: a model of the family, its adapter merged.
        path: the file to make or replace.
        precision: a key of ``TYPES``, for matrices; the rest is float32.
        plain: the base model as other tools write it, without streams, silence and end; read by
            benchmarks.

    Raises:
        ConfigError: the model cannot be exported, or no such precision.
        CheckpointError: the file cannot be written.
    """
    _refuse_unfit(lm)
    if precision not in TYPES:
        raise ConfigError(f"GGUF in {precision}: choose from {', '.join(TYPES)}")
    made = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(lm, made, precision, plain)
        made.replace(path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror or error}); make room or set "
            "STRETTO_CACHE to another folder"
        ) from None
    finally:
        # A failed write leaves a part, and a folder that is a file cannot be looked into.
        with suppress(OSError):
            made.unlink(missing_ok=True)


def why_no_gguf(lm: MultiStreamLM) -> str | None:
    """What keeps a model from being a GGUF file, as the end of a sentence; None if nothing does."""
    if reason := why_not(lm):
        return reason
    decoder = FamilyDecoder(lm)
    layer, rope = decoder.layer(0), getattr(lm.config, "rope_parameters", None) or {}
    if decoder.window is not None:
        return "has sliding-window attention, which llama.cpp lacks with these positions"
    if (kind := rope.get("rope_type", "default")) != "default":
        return f"scales its rotary positions ({kind}), which is not exported"
    if abs(decoder.scale * decoder.head_size**0.5 - 1) > 1e-6:
        return "scales its queries by something else than the size of a head"
    if layer.gate_up.bias is not None or layer.down.bias is not None:
        return "has biases in its MLP, which llama.cpp does not read"
    if layer.norm_query is not None and layer.out.bias is not None:
        return "has norms on queries and a bias after attention, which llama.cpp does not read"
    return None


def _refuse_unfit(lm: MultiStreamLM) -> None:
    if reason := why_no_gguf(lm):
        raise ConfigError(f"{type(lm.base).__name__} {reason}; choose backend transformers")


def _write(lm: MultiStreamLM, path: Path, precision: str, plain: bool) -> None:
    writer = GGUFWriter(path, _architecture(lm, plain))
    items = list(_items(lm, precision, plain))
    _metadata(writer, lm, plain, items)
    for item in items:
        size = int(np.prod(quant_shape_to_byte_shape(item.shape, item.type)))
        if item.type in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            size = int(np.prod(item.shape)) * (4 if item.type == GGMLQuantizationType.F32 else 2)
        dtype = np.dtype(np.float32)
        writer.add_tensor_info(item.name, item.shape, dtype, size, raw_dtype=item.type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for item in items:
            array = item.weight().detach().float().contiguous().numpy()
            writer.write_tensor_data(quantize(array, item.type))
    finally:
        writer.close()


def _architecture(lm: MultiStreamLM, plain: bool) -> str:
    kind = lm.config.model_type
    if plain:
        return "llama" if kind == "mistral" else kind
    return "qwen3vl" if kind == "qwen3" else "paddleocr"


def _metadata(writer: GGUFWriter, lm: MultiStreamLM, plain: bool, items: list[_Item]) -> None:
    config, decoder = lm.config, FamilyDecoder(lm)
    rope = getattr(config, "rope_parameters", None) or {}
    writer.add_name(f"stretto {lm.base_name}".strip())
    writer.add_block_count(decoder.num_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(decoder.hidden)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(decoder.heads)
    writer.add_head_count_kv(decoder.kv_heads)
    writer.add_key_length(decoder.head_size)
    writer.add_value_length(decoder.head_size)
    writer.add_layer_norm_rms_eps(decoder.eps)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_rope_dimension_count(decoder.head_size)
    if not plain:
        writer.add_rope_dimension_sections([0, decoder.head_size // 2, 0, 0])
    # Token ids go in and come out: the file needs no tokeniser.
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(next(i.shape[0] for i in items if i.name == "token_embd.weight"))


def _items(lm: MultiStreamLM, precision: str, plain: bool) -> Iterator[_Item]:
    """All tensors, in the order of the file."""
    decoder, kind = FamilyDecoder(lm), TYPES[precision]
    edge = GGMLQuantizationType.Q8_0 if precision == "q4_0" else kind
    if plain:
        head, embedding = lm.base.get_output_embeddings(), lm.base.get_input_embeddings()
        yield _item("token_embd.weight", embedding.weight, edge)
        if head.weight.data_ptr() != embedding.weight.data_ptr():
            yield _item("output.weight", head.weight, edge)
    else:
        # Embeddings come from outside, so the one matrix over the vocabulary is the unembedding,
        # which llama.cpp takes from here where there is no output.weight.
        yield _item("token_embd.weight", decoder.unembed.weight, edge)
    yield _item("output_norm.weight", decoder.norm, kind)
    for i in range(decoder.num_layers):
        yield from _layer(decoder, i, kind, split_for=_architecture(lm, plain) if plain else "")


def _layer(
    decoder: FamilyDecoder, index: int, kind: GGMLQuantizationType, split_for: str
) -> Iterator[_Item]:
    layer = decoder.layer(index)

    def linear(name: str, of: Linear) -> Iterator[_Item]:
        yield _item(f"blk.{index}.{name}.weight", of.weight, kind)
        if of.bias is not None:
            yield _item(f"blk.{index}.{name}.bias", of.bias, kind)

    norms = {
        "attn_norm": layer.norm_attention,
        "attn_q_norm": layer.norm_query,
        "attn_k_norm": layer.norm_key,
        "ffn_norm": layer.norm_mlp,
    }
    for name, norm in norms.items():
        if norm is not None:
            yield _item(f"blk.{index}.{name}.weight", norm, kind)
    if split_for:
        for name, part in zip("qkv", _split(decoder, layer.qkv, split_for), strict=True):
            yield from linear(f"attn_{name}", part)
    else:
        yield from linear("attn_qkv", layer.qkv)
    yield from linear("attn_output", layer.out)
    gate, up = layer.gate_up.weight.chunk(2)
    yield from linear("ffn_gate", Linear(gate))
    yield from linear("ffn_up", Linear(up))
    yield from linear("ffn_down", layer.down)


def _split(decoder: FamilyDecoder, qkv: Linear, architecture: str) -> list[Linear]:
    """Queries, keys and values apart, in the order in which the architecture rotates pairs."""
    counts = [decoder.heads, decoder.kv_heads, decoder.kv_heads]
    sizes = [n * decoder.head_size for n in counts]
    biases: Any = [None] * 3 if qkv.bias is None else qkv.bias.split(sizes)
    parts = [Linear(w, b) for w, b in zip(qkv.weight.split(sizes), biases, strict=True)]
    if architecture != "llama":
        return parts
    return [*(_permuted(p, n) for p, n in zip(parts[:2], counts, strict=False)), parts[2]]


def _permuted(linear: Linear, heads: int) -> Linear:
    """As llama.cpp has it for Llama: (x0, x1, ..., y0, y1, ...) -> (x0, y0, x1, y1, ...)."""

    def pairs(x: Tensor) -> Tensor:
        return x.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)

    return Linear(pairs(linear.weight), None if linear.bias is None else pairs(linear.bias))


def _item(name: str, weight: Tensor, kind: GGMLQuantizationType) -> _Item:
    shape = tuple(weight.shape)
    if len(shape) == 1:
        kind = GGMLQuantizationType.F32
    elif shape[-1] % _BLOCK and kind in (TYPES["q8_0"], TYPES["q4_0"]):
        kind = GGMLQuantizationType.F16  # as llama.cpp does where blocks do not fit
    return _Item(name, lambda: weight, shape, kind)


def _hash(lm: MultiStreamLM, plain: bool) -> str:
    """Of what a file holds, whatever its precision."""
    digest = hashlib.blake2b(digest_size=12)
    decoder, config = FamilyDecoder(lm), lm.config
    facts = (
        _VERSION, _architecture(lm, plain), decoder.eps, decoder.heads, decoder.kv_heads,
        config.max_position_embeddings, getattr(config, "rope_parameters", None),
    )  # fmt: skip
    digest.update(repr(facts).encode())
    for item in _items(lm, "float32", plain):
        weight = item.weight().detach().contiguous()
        digest.update(f"{item.name} {item.shape} {weight.dtype}".encode())
        digest.update(weight.view(torch.uint8).numpy().data)
    return digest.hexdigest()
