"""The Llama family in plain torch with shapes that do not depend on what is read.

Everything that decides who sees whom comes in as tensors, so that a pass can be recorded once and
replayed: nothing here asks the device for a value. Between the products everything is in the
model's dtype, as in transformers; norms and softmax sum in float32.

Letters: B sessions, T cells, C cells looked at, D hidden, H heads, G key heads, E size of a head,
N queries.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from stretto.engine.backends.cuda_passes import Bucket
from stretto.engine.backends.cuda_pool import Pool
from stretto.models.family import FamilyDecoder, Layer, Linear
from stretto.models.masks import Keys, MaskRule, additive, dense_mask


@dataclass(frozen=True)
class _Plan:
    """What all layers of a pass share.

    Attributes:
        cos, sin: rotary turns (B, T, 1, E); the first half of ``sin`` is negated.
        mask: added to scores, a copy for each head of a group (B, 1, H / G * T, C).
        slots: where keys and values go (B * T).
        lines: which lines to gather (B); None to take the first B in place.
        width: C.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor
    slots: Tensor
    lines: Tensor | None
    width: int


class StaticDecoder:
    """Computes passes of a fixed shape over the lines of a pool.

    Args:
        decoder: the weights; the matrices are copied, joined where they read the same.
        dtype: what to compute in.
        rule: who sees whom within a row.
    """

    def __init__(self, decoder: FamilyDecoder, dtype: torch.dtype, rule: MaskRule) -> None:
        self._decoder, self._dtype = decoder, dtype
        self._rule: MaskRule = rule
        self._layers = [_as(decoder.layer(i), dtype) for i in range(decoder.num_layers)]
        self._norm_out = decoder.norm.to(dtype)
        self._unembed = _linear_as(decoder.unembed, dtype)

    @property
    def weight_bytes(self) -> int:
        """Bytes of matrices that every pass reads, whatever its cells."""
        linears = [x for y in self._layers for x in (y.qkv, y.out, y.gate_up, y.down)]
        return sum(x.weight.nbytes for x in (*linears, self._unembed))

    def __call__(self, pool: Pool, bucket: Bucket, packed: Tensor) -> Tensor:
        """Write the cells' keys and values into the pool; logits of the queries (N, V + 2).

        Args:
            pool: the lines.
            bucket: shapes of the pass.
            packed: its input, see ``Bucket.pack``.
        """
        parts = packed.split(bucket.parts)
        tokens, streams, rows, slots = (
            part.view(bucket.sessions, bucket.cells) for part in parts[:4]
        )
        lines, ends, select = parts[4:]
        plan = self._plan(pool, bucket, rows, slots, None if bucket.is_in_place else lines, ends)
        hidden = self._decoder.embed(tokens, streams).to(self._dtype)
        for layer, keys, values in zip(self._layers, pool.keys, pool.values, strict=True):
            hidden = hidden + self._attention(layer, plan, hidden, keys, values)
            hidden = hidden + self._mlp(layer, hidden)
        chosen = hidden.flatten(0, 1).index_select(0, select)
        return _product(self._norm(chosen, self._norm_out), self._unembed)

    def _plan(
        self,
        pool: Pool,
        bucket: Bucket,
        rows: Tensor,
        slots: Tensor,
        lines: Tensor | None,
        ends: Tensor,
    ) -> _Plan:
        decoder = self._decoder
        pool.rows.view(-1).index_copy_(0, slots.flatten(), rows.flatten())
        key_rows = _looked_at(pool.rows, bucket.sessions, bucket.width, lines)
        place = torch.arange(bucket.width, device=rows.device)
        sample = torch.zeros_like(ends)[:, None]  # all keys of a line are of one table
        keys = Keys(rows=key_rows, samples=sample, hidden=place >= ends[:, None])
        # Padding has the first slot of the last line, so its own key seems to be the first of the
        # line it stands in: it always has something to look at, and nobody looks back.
        own = slots % pool.capacity
        visible = dense_mask(self._rule, rows, sample, own, keys, decoder.window)
        cos, sin = (x.to(self._dtype).unsqueeze(2) for x in decoder.rotary(rows))
        first, second = sin.chunk(2, -1)
        return _Plan(
            cos,
            torch.cat([-first, second], -1),
            additive(visible, self._dtype).repeat(1, 1, decoder.heads // decoder.kv_heads, 1),
            slots.flatten(),
            lines,
            bucket.width,
        )

    def _attention(
        self, layer: Layer, plan: _Plan, hidden: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """What attention adds to hidden states (B, T, D); ``keys``, ``values`` (P + 1, C, G, E)."""
        d, (b, cells, _) = self._decoder, hidden.shape
        qkv = _product(self._norm(hidden, layer.norm_attention), layer.qkv)
        qkv = qkv.view(b, cells, -1, d.head_size)
        both, value = qkv.split([d.heads + d.kv_heads, d.kv_heads], 2)
        query, key = both.split([d.heads, d.kv_heads], 2)
        if layer.norm_query is None and layer.norm_key is None:
            query, key = _rotate(both, plan).split([d.heads, d.kv_heads], 2)
        else:
            query = _rotate(self._norm(query, layer.norm_query), plan)
            key = _rotate(self._norm(key, layer.norm_key), plan)
        for buffer, new in ((keys, key), (values, value)):
            buffer.flatten(0, 1).index_copy_(0, plan.slots, new.flatten(0, 1))
        # Heads of a group lie side by side: as rows of one head they share its keys, which the
        # kernels that take a mask would otherwise repeat.
        query = query.transpose(1, 2).reshape(b, d.kv_heads, -1, d.head_size)
        key, value = (
            _looked_at(x, b, plan.width, plan.lines).transpose(1, 2) for x in (keys, values)
        )
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=plan.mask, scale=d.scale
        )
        mixed = mixed.reshape(b, d.heads, cells, d.head_size).transpose(1, 2)
        return _product(mixed.flatten(2), layer.out)

    def _mlp(self, layer: Layer, hidden: Tensor) -> Tensor:
        gate, up = _product(self._norm(hidden, layer.norm_mlp), layer.gate_up).chunk(2, -1)
        return _product(F.silu(gate) * up, layer.down)

    def _norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        if weight is None:
            return x
        return F.rms_norm(x, weight.shape, weight, self._decoder.eps)


def _looked_at(buffer: Tensor, sessions: int, width: int, lines: Tensor | None) -> Tensor:
    """Of (P + 1, C, ...) what a pass looks at (B, width, ...): a view, or gathered lines."""
    seen = buffer[:, :width]
    return seen[:sessions] if lines is None else seen.index_select(0, lines)


def _rotate(x: Tensor, plan: _Plan) -> Tensor:
    turned = x.roll(x.shape[-1] // 2, -1)  # second half first; the sign is in the sine
    return torch.addcmul(x * plan.cos, turned, plan.sin)


def _product(x: Tensor, linear: Linear) -> Tensor:
    return F.linear(x, linear.weight, linear.bias)


def _linear_as(linear: Linear, dtype: torch.dtype) -> Linear:
    bias = None if linear.bias is None else linear.bias.to(dtype)
    return Linear(linear.weight.to(dtype), bias)


def _as(layer: Layer, dtype: torch.dtype) -> Layer:
    def cast(weight: Tensor | None) -> Tensor | None:
        return None if weight is None else weight.to(dtype)

    return replace(
        layer,
        norm_attention=layer.norm_attention.to(dtype),
        norm_query=cast(layer.norm_query),
        norm_key=cast(layer.norm_key),
        norm_mlp=layer.norm_mlp.to(dtype),
        qkv=_linear_as(layer.qkv, dtype),
        out=_linear_as(layer.out, dtype),
        gate_up=_linear_as(layer.gate_up, dtype),
        down=_linear_as(layer.down, dtype),
    )
