"""A decoder of the Llama family as an OpenVINO graph, written operator by operator.

Built from the weights, not traced: so queries of a group can be flattened into one product, the
softmax can run over two parts (old keys in place, new keys behind them) without joining their
values, and matrices can be of any stored type.

Letters: B sessions, T cells, C capacity of the cache, D hidden, H heads, G key heads, E size of a
head, N queries, L layers.
"""

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from torch import Tensor

from stretto.models.family import FamilyDecoder, Layer, Linear

Node = Any
"""An OpenVINO node or output; the package has no usable types for them."""


def build(decoder: FamilyDecoder, *, int8: bool = False) -> Any:
    """The graph of one forward pass.

    Inputs: ``embeds`` (B, T, D), ``cos`` and ``sin`` (B, T, E), ``mask`` (B, 1, H / G * T, C + T),
    ``select`` int64 (N), and ``keys.0``, ``values.0``, ... (B, G, C, E). Outputs: ``logits``
    (N, V + 2), ``keys`` and ``values`` of the cells read (L, B, G, T, E).

    Args:
        decoder: the weights.
        int8: store matrices as 8-bit integers with a scale for each output.
    """
    return _Builder(decoder, int8).model()


class _Builder:
    def __init__(self, decoder: FamilyDecoder, int8: bool) -> None:
        self._decoder, self._int8 = decoder, int8

    def model(self) -> Any:
        decoder, size = self._decoder, self._decoder.head_size
        embeds = _input("embeds", [-1, -1, decoder.hidden])
        cos, sin = (_input(name, [-1, -1, size]) for name in ("cos", "sin"))
        mask = _input("mask", [-1, 1, -1, -1])
        select = _input("select", [-1], np.int64)
        self._rotary = [ops.unsqueeze(x, _ints(2)) for x in (cos, sin)]
        self._mask = mask
        caches = [
            [_input(f"{kind}.{i}", [-1, decoder.kv_heads, -1, size]) for kind in ("keys", "values")]
            for i in range(decoder.num_layers)
        ]
        # How wide the two parts of the softmax are: the cache, and the cells of this pass.
        self._width = ops.gather(ops.shape_of(embeds), _ints(1), _scalar(0))
        self._parts = ops.concat([_ints(-1), self._width], 0)
        hidden, new = embeds, []
        for i in range(decoder.num_layers):
            layer = decoder.layer(i)
            hidden, keys, values = self._attention(hidden, layer, caches[i])
            hidden = self._mlp(hidden, layer)
            new.append((keys, values))
        flat = ops.reshape(hidden, _ints(-1, decoder.hidden), False)
        chosen = self._norm(ops.gather(flat, select, _scalar(0)), decoder.norm)
        results = [_result(self._linear(chosen, decoder.unembed), "logits")]
        for kind, name in enumerate(("keys", "values")):
            stacked = ops.concat([ops.unsqueeze(pair[kind], _ints(0)) for pair in new], 0)
            results.append(_result(stacked, name))
        inputs = [embeds, cos, sin, mask, select, *(x for pair in caches for x in pair)]
        # OpenVINO's stubs declare the constructor on its C++ class only.
        return ov.Model(results, inputs, "stretto")  # pyright: ignore[reportGeneralTypeIssues]

    def _attention(self, hidden: Node, layer: Layer, cache: list[Node]) -> tuple[Node, Node, Node]:
        heads, kv_heads, size = (
            self._decoder.heads, self._decoder.kv_heads, self._decoder.head_size,
        )  # fmt: skip
        qkv = self._linear(self._norm(hidden, layer.norm_attention), layer.qkv)
        sizes = ops.constant(np.array([heads * size, kv_heads * size, kv_heads * size]))
        parts = ops.variadic_split(qkv, _scalar(-1), sizes).outputs()
        query, key, value = (
            ops.reshape(part, _ints(0, 0, n, size), True)
            for part, n in zip(parts, (heads, kv_heads, kv_heads), strict=True)
        )
        if layer.norm_query is not None:
            query = self._norm(query, layer.norm_query)
        if layer.norm_key is not None:
            key = self._norm(key, layer.norm_key)
        query, key = self._rotate(query), self._rotate(key)
        query = ops.multiply(query, _floats(self._decoder.scale))
        # Heads of a group lie side by side, so their queries are rows of one product.
        query, key, value = (ops.transpose(x, _ints(0, 2, 1, 3)) for x in (query, key, value))
        query = ops.reshape(query, _ints(0, kv_heads, -1, size), True)
        old_keys, old_values = cache
        scores = ops.concat(
            [ops.matmul(query, old_keys, False, True), ops.matmul(query, key, False, True)], -1
        )
        weights = ops.softmax(ops.add(scores, self._mask), -1)
        old, new = ops.variadic_split(weights, _scalar(-1), self._parts).outputs()
        mixed = ops.add(
            ops.matmul(old, old_values, False, False), ops.matmul(new, value, False, False)
        )
        shape = ops.concat([_ints(0, heads), self._width, _ints(size)], 0)
        mixed = ops.reshape(mixed, shape, True)
        mixed = ops.transpose(mixed, _ints(0, 2, 1, 3))
        mixed = ops.reshape(mixed, _ints(0, 0, heads * size), True)
        return ops.add(hidden, self._linear(mixed, layer.out)), key, value

    def _mlp(self, hidden: Node, layer: Layer) -> Node:
        both = self._linear(self._norm(hidden, layer.norm_mlp), layer.gate_up)
        gate, up = ops.split(both, _scalar(-1), 2).outputs()
        return ops.add(hidden, self._linear(ops.multiply(ops.swish(gate), up), layer.down))

    def _rotate(self, x: Node) -> Node:
        cos, sin = self._rotary
        first, second = ops.split(x, _scalar(-1), 2).outputs()
        turned = ops.concat([ops.negative(second), first], -1)
        return ops.add(ops.multiply(x, cos), ops.multiply(turned, sin))

    def _norm(self, x: Node, weight: Tensor) -> Node:
        mean = ops.reduce_mean(ops.power(x, _floats(2.0)), _ints(-1), True)
        scale = ops.divide(_floats(1.0), ops.sqrt(ops.add(mean, _floats(self._decoder.eps))))
        return ops.multiply(_floats(weight.float().cpu().numpy()), ops.multiply(x, scale))

    def _linear(self, x: Node, linear: Linear) -> Node:
        weight = linear.weight.float().cpu().numpy()
        matrix = _quantised(weight) if self._int8 else ops.constant(weight)
        product = ops.matmul(x, matrix, False, True)
        if linear.bias is None:
            return product
        return ops.add(product, _floats(linear.bias.float().cpu().numpy()))


def _quantised(weight: np.ndarray) -> Node:
    """Rows of 8-bit integers times a scale each: the form OpenVINO keeps packed."""
    scale = np.maximum(np.abs(weight).max(1, keepdims=True), 1e-12) / 127
    whole = np.round(weight / scale).astype(np.int8)
    return ops.multiply(ops.convert(ops.constant(whole), "f32"), _floats(scale))


def _input(name: str, shape: list[int], dtype: Any = np.float32) -> Node:
    node = ops.parameter(shape, dtype, name=name)
    node.output(0).set_names({name})
    return node


def _result(node: Node, name: str) -> Node:
    result = ops.result(node)
    result.output(0).set_names({name})
    return result


def _ints(*values: int) -> Node:
    return ops.constant(np.array(values, np.int64))


def _scalar(value: int) -> Node:
    return ops.constant(np.array(value, np.int64))


def _floats(value: float | np.ndarray) -> Node:
    return ops.constant(np.asarray(value, np.float32))
