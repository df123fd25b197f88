"""Any Hugging Face decoder with rotary positions, reading and writing stream tables.

Three things are added to the base model (Su et al. 2026, section 3, with the changes
ARCHITECTURE.md section 5 gives reasons for): one learned vector per stream, added to the token
embedding once; rotary positions that are row numbers; and two tokens of their own, silence and
end. With zero stream vectors and one stream the base model is given back bit for bit.

Tensor letters: B sequences, T cells, D hidden, V vocabulary, N selected cells, S streams.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stretto.errors import CheckpointError, InputError
from stretto.models.batch import PAD_SAMPLE, StreamBatch
from stretto.models.cache import StreamCache
from stretto.models.exits import Exits, shipped_exits
from stretto.models.masks import Keys, MaskRule, additive, block_mask, check_rule, dense_mask
from stretto.streams import SpecialIds, StreamSet

_LAYER_TYPES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class LMOutput:
    """What a forward pass gives back.

    Attributes:
        logits: (N, V + 2) for the N selected cells, in their order; the last two columns are
            silence and end.
        hidden: last hidden state, (B, T, D).
        exits: hidden states after the layers asked for, by layer number (B, T, D).
    """

    logits: Tensor
    hidden: Tensor
    exits: dict[int, Tensor]


class MultiStreamLM(nn.Module):
    """A decoder over tables.

    Attributes:
        base: the Hugging Face model.
        streams: inventory of streams the model knows; a table may use any subset.
        mask_rule: ``inclusive`` or ``strict``; part of the checkpoint.
        stream_embedding: (S, D), zero when new.
        special_in: embeddings of silence and end (2, D).
        special_out: their rows of the unembedding (2, D).
        shipped_as: name by which exits may ship for it; empty if it was not loaded for use.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        streams: StreamSet,
        *,
        mask_rule: str = "inclusive",
        base_name: str = "",
        sets: dict[str, StreamSet] | None = None,
    ) -> None:
        """Put streams on a base model.

        Raises:
            CheckpointError: the base is no decoder that can read rows: it has no language head,
                recurrent layers, or no rotary positions.
        """
        super().__init__()
        head = getattr(base, "get_output_embeddings", lambda: None)()
        if not hasattr(base, "get_decoder") or head is None:
            raise CheckpointError(f"{type(base).__name__} is not a decoder with a language head")
        _refuse_unfit(base)
        self.base: Any = base  # PEFT wraps it in place
        self.streams = streams
        self.sets = dict(sets or {})
        self.shipped_as = ""
        self._exits: Exits | None = None  # no module: a checkpoint does not hold it
        self.mask_rule: MaskRule = check_rule(mask_rule)
        self.base_name = base_name
        embedding = self.base.get_input_embeddings().weight.detach().float()
        unembedding = head.weight.detach().float()
        self.vocab_size = embedding.shape[0]
        self.special = SpecialIds.after(self.vocab_size)
        # The mean vector is the least surprising newcomer: its logit is the average logit.
        self.stream_embedding = nn.Parameter(torch.zeros(len(streams), embedding.shape[1]))
        self.special_in = nn.Parameter(embedding.mean(0).repeat(2, 1))
        self.special_out = nn.Parameter(unembedding.mean(0).repeat(2, 1))
        self.to(base.device)

    @property
    def exits(self) -> Exits | None:
        """Heads by which it can be left early to draft what it will say; None if it has none.

        Those that ship for it are read when they are first asked for.

        Raises:
            CheckpointError: they are unreadable, or its weights are no longer those they are for.
        """
        if self.shipped_as and self._exits is None:
            self._exits = shipped_exits(self, self.shipped_as)
        return self._exits

    @exits.setter
    def exits(self, exits: Exits | None) -> None:
        self.shipped_as, self._exits = "", exits

    @property
    def config(self) -> Any:
        """The base model's configuration (what Trainer and PEFT look for)."""
        return self.base.config

    @property
    def device(self) -> torch.device:
        """Where the stream vectors, and so the model, are."""
        return self.stream_embedding.device

    def new_cache(self, lines: int) -> StreamCache:
        """An empty cache for that many sessions."""
        return StreamCache(self.config, lines, self.device)

    def forward(
        self,
        batch: StreamBatch,
        *,
        select: Tensor | None = None,
        cache: StreamCache | None = None,
        lines: Tensor | None = None,
        exits: Sequence[int] = (),
    ) -> LMOutput:
        """Read cells; give logits for the selected ones.

        Args:
            batch: cells. With a cache: on the CPU, so that planning needs no device sync; the
                cells of one tick, sample 0, each sequence's visible ones first (see
                :mod:`stretto.models.cache`).
            select: flat indices into B * T of the cells whose logits are wanted; all by default.
            cache: where keys and values live on; None reads whole tables at once.
            lines: cache line of each sequence, int64 (B,) on the CPU.
            exits: layers (1 = after the first) whose hidden states are wanted.

        Raises:
            InputError: a token lies outside vocabulary and special ids, or lines are missing.
        """
        if cache is not None and lines is None:
            raise InputError("a cached forward pass needs lines=")
        mask = self._attention_mask(batch, cache, lines)
        batch = batch.to(self.device)
        output = self.base.get_decoder()(
            inputs_embeds=self.embed(batch),
            position_ids=batch.rows,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            output_hidden_states=bool(exits),
        )
        hidden = output.last_hidden_state
        flat = hidden.flatten(0, 1)
        logits = self.unembed(flat if select is None else flat[select])
        return LMOutput(logits, hidden, {layer: output.hidden_states[layer] for layer in exits})

    def embed(self, batch: StreamBatch) -> Tensor:
        """Token embedding plus stream vector (B, T, D)."""
        special = batch.tokens >= self.vocab_size
        embeds = self.base.get_input_embeddings()(batch.tokens.clamp(0, self.vocab_size - 1))
        which = (batch.tokens - self.vocab_size).clamp(0, 1)
        own = self.special_in[which].to(embeds.dtype)
        embeds = torch.where(special[..., None], own, embeds)
        return embeds + self.stream_embedding[batch.streams].to(embeds.dtype)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits (..., V + 2) of hidden states (..., D)."""
        own = nn.functional.linear(hidden, self.special_out.to(hidden.dtype))
        logits = torch.cat([self.base.get_output_embeddings()(hidden), own], -1)
        if scale := getattr(self.config, "logit_scale", None):
            logits = logits * scale
        if cap := getattr(self.config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits

    def _attention_mask(
        self, batch: StreamBatch, cache: StreamCache | None, lines: Tensor | None
    ) -> Any:
        """The mask in the form the base model's attention takes; by layer type if it mixes two."""
        silent = batch.tokens == self.special.silence
        if cache is None:
            index = torch.arange(batch.rows.shape[1], device=batch.rows.device)
            self_index = index.expand_as(batch.rows)
            hidden = silent | (batch.samples == PAD_SAMPLE)
            keys = Keys(batch.rows, batch.samples, hidden)
        else:
            assert lines is not None
            self_index, keys = self._cached_keys(batch, cache, lines, silent)

        def build(window: int | None) -> Any:
            kind = self.config._attn_implementation
            if kind == "flex_attention" and cache is None:
                return block_mask(self.mask_rule, keys.to(self.device), window)
            rows, samples, own = (
                x.to(self.device) for x in (batch.rows, batch.samples, self_index)
            )
            mask = dense_mask(self.mask_rule, rows, samples, own, keys.to(self.device), window)
            return additive(mask, self.base.dtype) if kind == "eager" else mask

        window = getattr(self.config, "sliding_window", None)
        types = set(getattr(self.config, "layer_types", None) or ())
        if types == _LAYER_TYPES:
            return {"full_attention": build(None), "sliding_attention": build(window)}
        return build(None if types == {"full_attention"} else window)

    def _cached_keys(
        self, batch: StreamBatch, cache: StreamCache, lines: Tensor, silent: Tensor
    ) -> tuple[Tensor, Keys]:
        visible = ~(silent | (batch.samples == PAD_SAMPLE))
        if (visible[:, 1:] > visible[:, :-1]).any():
            raise InputError("cells of a cached pass must be ordered with silence last")
        number = visible.sum(1)
        lengths = cache.lengths[lines] + number
        self_index, view = cache.begin(lines, batch.rows)
        keys = Keys(
            rows=cache.rows[lines, :view],
            # All keys of a line are of one table; padding is hidden anyway.
            samples=torch.zeros(len(lines), 1, dtype=torch.int64),
            hidden=torch.arange(view) >= lengths[:, None],
        )
        cache.commit(lines, number)
        return self_index, keys

    def trainable(self) -> dict[str, int]:
        """Number of trainable values, by part of the model."""
        count: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                part = name if "." not in name else "lora" if "lora_" in name else "base"
                count[part] = count.get(part, 0) + parameter.numel()
        return count

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Self:
        """Load a base model or a stretto checkpoint; see :func:`checkpoint.load`."""
        from stretto.models.checkpoint import load

        return load(cls, name_or_path, **options)

    def save_pretrained(self, path: str | Path) -> None:
        """Write a checkpoint folder; see :func:`checkpoint.save`."""
        from stretto.models.checkpoint import save

        save(self, Path(path))


def _refuse_unfit(base: PreTrainedModel) -> None:
    """Only attention over rotary positions lets the cells of a row be read side by side.

    Raises:
        CheckpointError: a layer keeps a state that runs from token to token, attends in a way that
            the masks do not cover, or no layer has rotary positions.
    """
    name = type(base).__name__
    others = set(getattr(base.config, "layer_types", None) or ()) - _LAYER_TYPES
    is_recurrent = getattr(base, "_is_stateful", False) or "linear_attention" in others
    if is_recurrent or others:
        kind = "recurrent" if is_recurrent else " and ".join(sorted(others))
        raise CheckpointError(
            f"{name} has {kind} layers, which cannot read the streams of a row side by side: take "
            "a decoder with full or sliding-window attention in every layer"
        )
    has_rotary = any("Rotary" in type(module).__name__ for module in base.modules())
    if not has_rotary or getattr(base.config, "alibi", False):
        raise CheckpointError(
            f"{name} has no module for rotary positions, so the streams of a row cannot share one: "
            "take a decoder that has it, such as Llama, Qwen or Gemma"
        )
