"""The Llama family in plain torch with matrices packed for oneDNN: needs nothing but torch.

What ``F.linear`` does on each call for bfloat16, laying the matrix out for the processor, is done
once here.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from stretto.engine.backends.family import FamilyBackend
from stretto.engine.batch import RowBatch
from stretto.models import MultiStreamLM
from stretto.models.family import FamilyDecoder, Layer, Linear

Product = Callable[[Tensor], Tensor]


class PrepackedBackend(FamilyBackend):
    """Cache lines in plain memory and packed matrices.

    Args:
        lm: a model of the Llama family, on the CPU.
        precision: ``float32`` or ``bfloat16``, of the matrices; None is the model's own dtype.

    Raises:
        ConfigError: a model of another family, on another device, or an unknown precision.
    """

    def __init__(self, lm: MultiStreamLM, precision: str | None = None) -> None:
        super().__init__(lm, "prepacked", precision)
        decoder, dtype = self._decoder, getattr(torch, self.precision)
        self._layers = [
            _PackedLayer(decoder, decoder.layer(i), dtype) for i in range(decoder.num_layers)
        ]
        self._unembed = _packed(decoder.unembed, dtype)

    @torch.inference_mode()
    def forward(self, batch: RowBatch) -> Tensor:
        """Read the cells; logits of the queries, float32 (N, V + 2)."""
        decoder = self._decoder
        tokens, streams, rows = map(
            torch.from_numpy, (batch.tokens, batch.streams, batch.positions)
        )
        rotary = tuple(x.unsqueeze(2) for x in decoder.rotary(rows))
        view = self._lines.view(batch)
        mask = torch.from_numpy(view.mask).tile(1, 1, decoder.heads // decoder.kv_heads, 1)
        hidden = decoder.embed(tokens, streams)
        new = []
        for i, layer in enumerate(self._layers):
            cache = torch.from_numpy(view.keys[i]), torch.from_numpy(view.values[i])
            hidden, keys, values = layer(hidden, (rotary[0], rotary[1]), mask, cache)
            new.append((keys, values))
        keys, values = (torch.stack(x).numpy() for x in zip(*new, strict=True))
        self._lines.append(batch, keys, values)
        chosen = hidden.flatten(0, 1)[torch.from_numpy(batch.select)]
        return self._unembed(_norm(chosen, decoder.norm.float(), decoder.eps)).float()


class _PackedLayer:
    """One layer; between the products everything is float32."""

    def __init__(self, decoder: FamilyDecoder, layer: Layer, dtype: torch.dtype) -> None:
        self._decoder = decoder
        self._qkv, self._out, self._gate_up, self._down = (
            _packed(linear, dtype) for linear in (layer.qkv, layer.out, layer.gate_up, layer.down)
        )
        self._norm_attention = layer.norm_attention.float()
        self._norm_mlp = layer.norm_mlp.float()
        self._norm_query = None if layer.norm_query is None else layer.norm_query.float()
        self._norm_key = None if layer.norm_key is None else layer.norm_key.float()

    def __call__(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor,
        cache: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states (B, T, D); the cells' keys and values (B, G, T, E)."""
        d, (b, width, _) = self._decoder, hidden.shape
        heads, size = d.heads, d.head_size
        qkv = self._qkv(_norm(hidden, self._norm_attention, d.eps)).float()
        query, key, value = qkv.view(b, width, -1, size).split([heads, d.kv_heads, d.kv_heads], 2)
        if self._norm_query is not None:
            query = _norm(query, self._norm_query, d.eps)
        if self._norm_key is not None:
            key = _norm(key, self._norm_key, d.eps)
        query, key = _rotate(query, rotary) * d.scale, _rotate(key, rotary)
        # Heads of a group lie side by side, so their queries are rows of one product.
        query = query.transpose(1, 2).reshape(b, d.kv_heads, -1, size)
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        old_keys, old_values = cache
        # One softmax over two parts, so that the cache is read where it lies.
        scores = torch.cat([query @ old_keys.mT, query @ key.mT], -1) + mask
        old, new = scores.softmax(-1).split([old_keys.shape[2], width], -1)
        mixed = (old @ old_values + new @ value).view(b, heads, width, size).transpose(1, 2)
        hidden = hidden + self._out(mixed.flatten(2)).float()
        gate, up = self._gate_up(_norm(hidden, self._norm_mlp, d.eps)).chunk(2, -1)
        return hidden + self._down(F.silu(gate) * up).float(), key, value


def _packed(linear: Linear, dtype: torch.dtype) -> Product:
    """A product with a matrix that lies as the processor likes it."""
    weight = linear.weight.to(dtype).contiguous()
    bias = None if linear.bias is None else linear.bias.to(dtype)
    # Float32 gains nothing: MKL takes matrices as they are.
    if dtype == torch.float32 or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return lambda x: F.linear(x.to(dtype), weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    linear_op = torch.ops.mkldnn._linear_pointwise

    def product(x: Tensor) -> Tensor:
        # Its own argument checks fail for no rows at all.
        if not x.numel():
            return x.new_zeros(*x.shape[:-1], weight_rows, dtype=dtype)
        return linear_op(x.to(dtype), packed, bias, "none", [], "")

    weight_rows = len(weight)
    return product


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * rotary[0] + torch.cat([-second, first], -1) * rotary[1]
