"""Exit heads: what a model would say, guessed from the hidden state after a few of its layers.

A head reads the state after ``layer`` layers and gives logits of a shortlist of tokens; a draft by
it is checked by the whole model, so a head changes how fast a model is, never what it says. The
model's own weights stay as they are.

A folder holds ``exits.safetensors`` and ``exits.json`` (format, base, fingerprint of its
unembedding, layers, how the heads were made).

Letters: D hidden, V vocabulary, K tokens of the shortlist, M inner size of the adapter.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stretto.errors import CheckpointError
from stretto.models.manifest import read_json, write_manifest
from stretto.models.store import exits_for

if TYPE_CHECKING:
    from stretto.models.wrapper import MultiStreamLM

FORMAT = 1
CARD = "exits.json"
_TENSORS = "exits.safetensors"
_ADAPTER = ("norm_in", "gate_up", "down")


class ExitHead(nn.Module):
    """Logits of a shortlist from the hidden state after some layers.

    Attributes:
        layer: how many layers a state has been through, at least 1.
        ids: the tokens it can name, sorted (K), int64.
        norm_in: of the adapter's input (D); None without an adapter.
        gate_up: the adapter's gate above its up projection (2 M, D); None without an adapter.
        down: back to the state (D, M); None without an adapter.
        norm: before the unembedding (D).
        eps: of the norms.
    """

    ids: Tensor

    def __init__(self, layer: int, ids: Tensor, hidden: int, inner: int, eps: float) -> None:
        """A head that adds nothing to the state yet: its ``down`` is zero, its norms are one.

        Args:
            layer: as above.
            ids: as above.
            hidden: D.
            inner: M; 0 for a head without an adapter, as in the paper.
            eps: of the norms.
        """
        super().__init__()
        self.layer, self.eps = layer, eps
        self.register_buffer("ids", ids.to(torch.int64))
        self.norm = nn.Parameter(torch.ones(hidden))
        for name in _ADAPTER:
            self.register_parameter(name, None)
        if inner:
            bound = hidden**-0.5
            self.norm_in = nn.Parameter(torch.ones(hidden))
            self.gate_up = nn.Parameter(torch.empty(2 * inner, hidden).uniform_(-bound, bound))
            self.down = nn.Parameter(torch.zeros(hidden, inner))

    @property
    def inner(self) -> int:
        """M, 0 where there is no adapter."""
        return 0 if self.down is None else self.down.shape[1]

    def hidden(self, x: Tensor) -> Tensor:
        """The state (..., D) as the adapter would have it after all layers (..., D)."""
        if self.down is None:
            return x
        assert self.norm_in is not None
        assert self.gate_up is not None
        read = (_rms(x, self.eps) * self.norm_in.to(x.dtype)) @ self.gate_up.to(x.dtype).T
        gate, up = read.chunk(2, -1)
        return x + (nn.functional.silu(gate) * up) @ self.down.to(x.dtype).T

    def normed(self, x: Tensor) -> Tensor:
        """What is unembedded (..., D), from states (..., D)."""
        return _rms(self.hidden(x), self.eps) * self.norm.to(x.dtype)

    def logits(self, x: Tensor, unembedding: Tensor) -> Tensor:
        """Logits of the shortlist (..., K).

        Args:
            x: states after ``layer`` layers (..., D).
            unembedding: the model's own, silence and end last (V + 2, D).
        """
        return self.normed(x) @ unembedding[self.ids].to(x.dtype).T


def plain_head(lm: "MultiStreamLM", layer: int, ids: Tensor | None = None) -> ExitHead:
    """The paper's exit: the model's own final norm and unembedding, and nothing else.

    Args:
        lm: a model of the Llama family.
        layer: where to leave it.
        ids: the tokens it can name; all by default.

    Raises:
        CheckpointError: the model has no such layer to leave it after.
    """
    _check_layer(lm, layer)
    every = torch.arange(lm.vocab_size + 2) if ids is None else ids
    hidden = lm.stream_embedding.shape[1]
    head = ExitHead(layer, every, hidden, 0, float(lm.config.rms_norm_eps))
    head.norm.data.copy_(lm.base.get_decoder().norm.weight.detach())
    return head


@dataclass
class Exits:
    """The exit heads of one model.

    Attributes:
        heads: by layer.
        base: name of the model they were made for.
        fingerprint: of its unembedding.
        made: how they were made, and what was measured: anything JSON can hold.
    """

    heads: dict[int, ExitHead]
    base: str
    fingerprint: str
    made: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        lm: "MultiStreamLM",
        heads: dict[int, ExitHead],
        made: dict[str, Any],
        name: str | None = None,
    ) -> Self:
        """Heads trained on a model; ``name`` is the model's, by default its base's."""
        base = lm.base_name if name is None else name
        return cls(dict(sorted(heads.items())), base, fingerprint(lm), made)

    @property
    def layers(self) -> list[int]:
        """Where the model can be left, in order."""
        return sorted(self.heads)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the folder; files that are there are replaced.

        Args:
            folder: made if need be.
            dtype: of the stored numbers.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CARD).unlink(missing_ok=True)  # last to come: a folder that has it is whole
        tensors: dict[str, Tensor] = {}
        for layer, head in self.heads.items():
            for name, value in head.named_parameters():
                tensors[f"{layer}.{name}"] = value.detach().to("cpu", dtype).contiguous()
            tensors[f"{layer}.ids"] = head.ids.to("cpu", torch.int32)
        save_file(tensors, folder / _TENSORS, metadata={"format": "pt"})
        eps = {str(layer): head.eps for layer, head in self.heads.items()}
        card = {"format": FORMAT, "base": self.base, "unembedding": self.fingerprint}
        card |= {"layers": self.layers, "eps": eps, "made": self.made}
        (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        write_manifest(folder, {"licence": "Apache-2.0"})

    @classmethod
    def load(cls, folder: str | Path, lm: "MultiStreamLM") -> Self:
        """Read a folder that :meth:`save` wrote, in float32.

        Raises:
            CheckpointError: it is unreadable, of a newer format, has wrong shapes or token ids, or
                belongs to another model.
        """
        folder = Path(folder)
        card = _read_card(folder)
        if card["unembedding"] != fingerprint(lm):
            raise CheckpointError(
                f"{folder}: exits of {card['base']}, whose unembedding is not that of this model "
                f"({lm.base_name or type(lm.base).__name__}); take its own, or train some with "
                "`stretto exits train`"
            )
        try:
            tensors = load_file(folder / _TENSORS)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder / _TENSORS}: unreadable ({error})") from None
        heads = {layer: _head(folder, lm, layer, card, tensors) for layer in card["layers"]}
        made = card.get("made", {})
        return cls(dict(sorted(heads.items())), card["base"], card["unembedding"], made)


def shipped_exits(lm: "MultiStreamLM", name: str) -> Exits | None:
    """The exits that ship for a model, by the model's registered name; None if there are none.

    Raises:
        CheckpointError: as :meth:`Exits.load`.
    """
    folder = exits_for(name)
    return None if folder is None else Exits.load(folder, lm)


def fingerprint(lm: "MultiStreamLM") -> str:
    """What tells models apart whatever their precision: signs of a part of the unembedding.

    Rounding to bfloat16 keeps the sign of a number. The stream vectors count too: they tell a
    checkpoint from its base, whose unembedding it may share.
    """
    head = lm.base.get_output_embeddings().weight.detach()
    rows = torch.linspace(0, len(head) - 1, min(len(head), 512)).long()
    digest = hashlib.sha256(f"{tuple(head.shape)}".encode())
    parts = [head[rows.to(head.device)], lm.stream_embedding.detach()]
    for part in (part for part in parts if part.any()):  # vectors of a base are zero
        digest.update((part > 0).to("cpu", torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _head(
    folder: Path, lm: "MultiStreamLM", layer: int, card: dict[str, Any], tensors: dict[str, Tensor]
) -> ExitHead:
    _check_layer(lm, layer, f"{folder}: ")
    width = lm.stream_embedding.shape[1]
    found = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{layer}.")}
    lacking = {"ids", "norm"} - found.keys()
    if lacking or 0 < len(found.keys() & set(_ADAPTER)) < len(_ADAPTER):
        raise CheckpointError(f"{folder / _TENSORS}: exit {layer} lacks tensors; install it anew")
    ids, inner = found.pop("ids").to(torch.int64), 0
    if "down" in found:
        inner = found["down"].shape[-1]
    size = lm.vocab_size + 2
    if ids.dim() != 1 or len(ids) == 0 or (ids.diff() <= 0).any() or ids[0] < 0 or ids[-1] >= size:
        raise CheckpointError(
            f"{folder / _TENSORS}: the shortlist of exit {layer} is not a rising list of ids from "
            f"0 to {size - 1}"
        )
    head = ExitHead(layer, ids, width, inner, float(card["eps"][str(layer)]))
    for name, parameter in head.named_parameters():
        if found[name].shape != parameter.shape:
            raise CheckpointError(
                f"{folder / _TENSORS}: {name} of exit {layer} has shape "
                f"{tuple(found[name].shape)}, expected {tuple(parameter.shape)}"
            )
        parameter.data.copy_(found[name])
    return head.to(lm.device).eval().requires_grad_(False)


def _read_card(folder: Path) -> dict[str, Any]:
    card = read_json(folder / CARD)
    if card.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / CARD}: format {card.get('format')}, this stretto reads {FORMAT}; upgrade it"
        )
    layers, eps = card.get("layers"), card.get("eps")
    named = {"base", "unembedding"} <= card.keys()
    whole = named and isinstance(layers, list) and isinstance(eps, dict) and len(layers) > 0
    if not whole or {str(layer) for layer in layers or ()} != set(eps or ()):
        raise CheckpointError(f"{folder / CARD}: incomplete; install it anew")
    return card


def _check_layer(lm: "MultiStreamLM", layer: Any, where: str = "") -> None:
    layers = lm.config.num_hidden_layers
    if not isinstance(layer, int) or not 1 <= layer < layers:
        raise CheckpointError(
            f"{where}exit after layer {layer}: give 1 to {layers - 1}, for the model has {layers}"
        )


def _rms(x: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square, reckoned in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
