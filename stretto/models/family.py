"""Weights of the Llama family, taken out of a model for back ends that compute it themselves.

The family: RMS norms before attention and MLP, grouped-query attention with rotary positions, a
SwiGLU MLP; biases and norms on queries and keys where a model has them. Llama, Mistral, Qwen 2 and
3, and SmolLM 1 and 2 are of it.

Letters: D hidden, H query heads, G key heads, E size of a head, M inner size of the MLP.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stretto.errors import ConfigError
from stretto.models.wrapper import MultiStreamLM

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Linear:
    """A matrix (out, in), and a bias (out) if there is one."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Layer:
    """One layer; what reads the same input is one matrix.

    Attributes:
        norm_attention: (D).
        qkv: D to H * E, G * E and G * E, in this order.
        norm_query: (E), or None.
        norm_key: (E), or None.
        out: H * E to D.
        norm_mlp: (D).
        gate_up: D to M and M.
        down: M to D.
    """

    norm_attention: Tensor
    qkv: Linear
    norm_query: Tensor | None
    norm_key: Tensor | None
    out: Linear
    norm_mlp: Tensor
    gate_up: Linear
    down: Linear


class FamilyDecoder:
    """A model of the family, as numbers and matrices.

    Attributes:
        num_layers, heads, kv_heads, head_size, hidden: sizes.
        eps: of the norms.
        scale: of queries.
        window: rows a layer looks back, or None for all.
        norm: of the last hidden state (D).
        unembed: D to V + 2, silence and end last.

    Raises:
        ConfigError: the model is not of the family.
    """

    def __init__(self, lm: MultiStreamLM) -> None:
        if reason := why_not(lm):
            raise ConfigError(f"{type(lm.base).__name__} {reason}; choose backend transformers")
        config, self._lm = lm.config, lm
        decoder = lm.base.get_decoder()
        self._layers = decoder.layers
        attention = self._layers[0].self_attn
        self.num_layers: int = config.num_hidden_layers
        self.hidden: int = config.hidden_size
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads or self.heads
        self.head_size: int = attention.head_dim
        self.eps = float(config.rms_norm_eps)
        self.scale = float(attention.scaling)
        full = set(getattr(config, "layer_types", None) or ()) == {"full_attention"}
        self.window: int | None = None if full else getattr(config, "sliding_window", None)
        self.norm: Tensor = decoder.norm.weight.detach()
        head = lm.base.get_output_embeddings()
        own = lm.special_out.detach().to(head.weight.dtype)
        self.unembed = Linear(torch.cat([head.weight.detach(), own]))
        self._rotary = decoder.rotary_emb

    def layer(self, index: int) -> Layer:
        """The weights of one layer; made when asked for, so that there is no second model."""
        module = self._layers[index]
        attention, mlp = module.self_attn, module.mlp
        return Layer(
            norm_attention=module.input_layernorm.weight.detach(),
            qkv=_joined(attention.q_proj, attention.k_proj, attention.v_proj),
            norm_query=_norm(attention, "q_norm"),
            norm_key=_norm(attention, "k_norm"),
            out=_joined(attention.o_proj),
            norm_mlp=module.post_attention_layernorm.weight.detach(),
            gate_up=_joined(mlp.gate_proj, mlp.up_proj),
            down=_joined(mlp.down_proj),
        )

    def embed(self, tokens: Tensor, streams: Tensor) -> Tensor:
        """Token embedding plus stream vector, float32 (B, T, D), of ids (B, T)."""
        from stretto.models.batch import StreamBatch

        return self._lm.embed(StreamBatch(tokens, streams, tokens, tokens)).float()

    def rotary(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, float32 (B, T, E) each, of rows (B, T)."""
        one = torch.ones((), dtype=torch.float32, device=rows.device)
        return self._rotary(one, rows)


def why_not(lm: MultiStreamLM) -> str | None:
    """What keeps a model out of the family, as the end of a sentence; None if nothing does."""
    config = lm.config
    if config.model_type not in MODEL_TYPES:
        return f"is no Llama-like decoder (those are {', '.join(MODEL_TYPES)})"
    if config.hidden_act != "silu":
        return f"has activation {config.hidden_act}, not silu"
    if len(set(getattr(config, "layer_types", None) or ())) > 1:
        return "mixes full and sliding-window attention"
    if getattr(config, "logit_scale", None) or getattr(config, "final_logit_softcapping", None):
        return "scales or caps its logits"
    if any("lora_" in name for name, _ in lm.named_parameters()):
        return "has an adapter that is not merged into its weights"
    return None


def has_dynamic_rope(lm: MultiStreamLM) -> bool:
    """Whether rotary frequencies follow the longest position read, which only the host can do."""
    kind = str((getattr(lm.config, "rope_parameters", None) or {}).get("rope_type"))
    return "dynamic" in kind or kind == "longrope"


def _norm(attention: Any, name: str) -> Tensor | None:
    module = getattr(attention, name, None)
    return None if module is None else module.weight.detach()


def _joined(*modules: Any) -> Linear:
    """Matrices that read the same input, one below the other."""
    weight = torch.cat([module.weight.detach() for module in modules])
    biases = [module.bias for module in modules]
    if all(bias is None for bias in biases):
        return Linear(weight)
    parts = [
        weight.new_zeros(len(module.weight)) if bias is None else bias.detach()
        for module, bias in zip(modules, biases, strict=True)
    ]
    return Linear(weight, torch.cat(parts))
