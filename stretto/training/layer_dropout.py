"""Layer dropout of LayerSkip (Elhoushi et al. 2024, section 4.1.1): a whole layer, attention and
MLP, is left out for some elements of a batch, the deeper the oftener.

An element is one entry of the batch dimension. Packed training puts several tables into one
entry; they are left out or kept together, because a table cannot be taken out of its sequence
without a copy of what is left. Elements left out are taken from the batch before the layer and put
back behind it, so their work is saved. Nothing is rescaled, and evaluation leaves nothing out.

Tensor letters: B batch elements, K of them kept, T cells, D hidden, L layers.
"""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import Cache

from stretto.errors import ConfigError, InputError

Ramp = Literal["constant", "exponential"]


def drop_probability(layer: int, layers: int, p_max: float) -> float:
    """p_max * D(l), with D(l) = 2^(l / (L - 1)) - 1: 0 at the first layer, 1 at the last.

    Args:
        layer: 0 to L - 1.
        layers: L.
        p_max: of the last layer.
    """
    return p_max * (2 ** (layer / max(1, layers - 1)) - 1)


def ramp(kind: Ramp, step: int, steps: int) -> float:
    """S(t): what the probabilities of step t (0 to T - 1) are multiplied by.

    ``constant`` is 1, for a model that is trained already; ``exponential`` is
    2^(t / (T - 1)) - 1, for one trained from scratch.
    """
    return 1.0 if kind == "constant" else 2 ** (min(step, steps - 1) / max(1, steps - 1)) - 1


class LayerDropout:
    """Leaves out layers of a Hugging Face decoder while it is open (``with``) and training.

    Each layer has random numbers of its own, a function of seed, layer and number of the forward
    pass alone. So all processes of a run leave out the same elements, and as many, whatever else
    draws; and an activation that is computed again in a backward pass is the same. A layer that is
    left out for all still takes part: its trained parameters get zero gradients, so that neither
    the optimiser nor another process waits for them.

    Attributes:
        step: optimiser step t; whoever trains sets it.
        passes: forward passes begun, the whole random state.
        kept: of the last pass, indices of the elements that each layer kept, by layer.
    """

    def __init__(
        self, decoder: nn.Module, p_max: float, *, kind: Ramp = "constant", steps: int = 1,
        seed: int = 0,
    ) -> None:  # fmt: skip
        """Make it, touching nothing yet.

        Args:
            decoder: what ``get_decoder()`` of a model gives, in PEFT's wrapping or not.
            p_max: probability at the last layer, 0 to 1.
            kind: see :func:`ramp`.
            steps: T.
            seed: the same in all processes.

        Raises:
            ConfigError: the decoder's layers cannot be found, or p_max is no probability.
        """
        if not 0 <= p_max <= 1:
            raise ConfigError(f"p_max: between 0 and 1, got {p_max}")
        self.layers = decoder_layers(decoder)
        self.step = 0
        self.passes = 0
        self.kept: dict[int, Tensor] = {}
        self._decoder = decoder
        self._p_max = p_max
        self._kind: Ramp = kind
        self._steps = steps
        self._seed = seed
        self._gives_tuple = False  # as seen at the first layer, which is never left out
        self._undo: list[Callable[[], None]] = []

    def state_dict(self) -> dict[str, int]:
        """The random state."""
        return {"passes": self.passes}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with the random numbers where another run stopped."""
        self.passes = int(state["passes"])

    def __enter__(self) -> Self:
        """Put a forward of its own in front of each layer's."""
        if self._undo:
            raise InputError("this layer dropout is open already")
        self._undo.append(self._decoder.register_forward_pre_hook(self._begin).remove)
        for index, layer in enumerate(self.layers):
            self._undo.append(_replace_forward(layer, self._forward(index, layer)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the model as it was."""
        while self._undo:
            self._undo.pop()()
        self.kept = {}

    def _begin(self, decoder: nn.Module, _: Any) -> None:
        if decoder.training:
            self.kept = {}
            self.passes += 1

    def _draw(self, index: int, batch: int) -> Tensor:
        """Indices of the elements that a layer keeps in this pass (K)."""
        # Drawn once a pass: a layer whose activations are computed again finds its choice here.
        if index not in self.kept:
            chance = drop_probability(index, len(self.layers), self._p_max)
            chance *= ramp(self._kind, self.step, self._steps)
            draws = np.random.default_rng([self._seed, index, self.passes]).random(batch)
            self.kept[index] = torch.from_numpy(np.flatnonzero(draws >= chance))
        return self.kept[index]

    def _forward(self, index: int, layer: nn.Module) -> Callable[..., Any]:
        before = layer.__dict__.get("forward")

        def forward(*args: Any, **kwargs: Any) -> Any:
            # Looked up at each call: FSDP gives the layer another class after this is in place.
            inner = before or type(layer).forward.__get__(layer)
            if not layer.training:
                return inner(*args, **kwargs)
            hidden: Tensor = args[0] if args else kwargs["hidden_states"]
            kept = self._draw(index, len(hidden)).to(hidden.device)
            if len(kept) == len(hidden):
                output = inner(*args, **kwargs)
                self._gives_tuple = isinstance(output, tuple)
                return output
            if any(isinstance(value, Cache) for value in (*args, *kwargs.values())):
                raise InputError("layer dropout cannot fill a cache: pass use_cache=False")
            if len(kept) == 0:
                trained = [p for p in layer.parameters() if p.requires_grad]
                passed = _TakePart.apply(hidden, *trained)
                return (passed,) if self._gives_tuple else passed
            if hidden.shape[0] == hidden.shape[1]:
                raise InputError(
                    f"layer dropout cannot tell {hidden.shape[0]} batch elements from as many "
                    "cells; change packs_per_batch"
                )
            args, kwargs = take((args, kwargs), kept, len(hidden))
            output = inner(*args, **kwargs)
            if isinstance(output, tuple):
                return (_put_back(hidden, kept, output[0]), *output[1:])
            return _put_back(hidden, kept, output)

        return forward


def decoder_layers(decoder: nn.Module) -> nn.ModuleList:
    """The decoder's layers, in order.

    Raises:
        ConfigError: it has no ModuleList of as many modules as its config names layers.
    """
    config: Any = decoder.config
    number = config.num_hidden_layers
    lists = [m for m in decoder.children() if isinstance(m, nn.ModuleList) and len(m) == number]
    if len(lists) != 1:
        raise ConfigError(
            f"{type(decoder).__name__} has {len(lists)} lists of {number} layers; layer dropout "
            "and exits need a decoder with one"
        )
    return lists[0]


def take(value: Any, kept: Tensor, batch: int) -> Any:
    """The kept elements of whatever has the batch as its first dimension.

    Tensors with another first dimension (broadcast masks, positions all share, tables by
    position) stay whole, and so do those of one dimension: lengths and cache positions. Tuples,
    lists, dicts (masks by layer type) and FlexAttention's ``BlockMask`` are gone through.

    Args:
        value: arguments of a layer.
        kept: indices (K).
        batch: B, more than 1.
    """
    if isinstance(value, Tensor):
        return value[kept] if value.dim() > 1 and value.shape[0] == batch else value
    if isinstance(value, tuple | list):
        taken = [take(item, kept, batch) for item in value]
        return type(value)(*taken) if hasattr(value, "_fields") else type(value)(taken)
    if isinstance(value, Mapping):
        return {key: take(item, kept, batch) for key, item in value.items()}
    if hasattr(value, "kv_num_blocks"):  # a BlockMask; its module is slow to import
        return value if value.kv_num_blocks.shape[0] == 1 else _take_blocks(value, kept)
    return value


def _take_blocks(mask: Any, kept: Tensor) -> Any:
    whole = mask.mask_mod

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return whole(kept[b], h, q, k)

    taken = mask[kept]  # its blocks; the rule within a block counts elements anew
    taken.mask_mod = mask_mod
    return taken


def _put_back(hidden: Tensor, kept: Tensor, output: Tensor) -> Tensor:
    """Outputs of the kept elements among the inputs of the others (B, T, D)."""
    return hidden.index_copy(0, kept, output.to(hidden.dtype))


def _replace_forward(layer: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    """Put ``forward`` in a layer's place; what undoes it."""
    before = layer.__dict__.get("forward")
    layer.forward = forward

    def undo() -> None:
        if before is None:
            del layer.__dict__["forward"]
        else:
            layer.forward = before

    return undo


class _TakePart(torch.autograd.Function):
    """The hidden states as they are; the parameters of the layer left out get zero gradients."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters
        return hidden.view_as(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return gradients[0], *map(torch.zeros_like, ctx.parameters)
