"""The early-exit loss of LayerSkip (Elhoushi et al. 2024, section 4.1.2).

Every exit is a model of its own: its hidden state through the final norm and unembedding of the
model, scored by the stream loss. The loss of a step is the weighted mean over the exits that the
curriculum has on. Exit E is behind E layers; the paper's layer l, counted from 0, is E - 1.

Tensor letters: N labelled cells, D hidden, V vocabulary, L layers, S streams.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stretto.errors import ConfigError
from stretto.models.wrapper import MultiStreamLM
from stretto.training.config import LayerSkipSettings
from stretto.training.layer_dropout import decoder_layers
from stretto.training.stream_loss import StreamLoss, count_cells, loss_sums

_CHUNK = 1024
"""Cells whose logits are held at once; bounds memory to chunk x V whatever the number of exits."""

_SUBSET = 1 << 31
"""Tells the random numbers of subsets from those of layer dropout, which count from 0."""


def exit_scale(exit_layer: int, layers: int, e_scale: float) -> float:
    """e(l) of l = E - 1: what an exit weighs before normalising; 0 after the first layer."""
    layer = exit_layer - 1
    if layer < layers - 1:
        return e_scale * layer * (layer + 1) / 2
    return layer + e_scale * (layer - 1) * layer / 2


def enabled_exits(settings: LayerSkipSettings, layers: int, step: int, steps: int) -> list[int]:
    """Exits that the curriculum has on at step t of T, ascending; the last layer is always on.

    ``rotational``: every R-th of the exits, the next ones a step later. ``gradual``: from the
    deepest to the first, one more every T / 2L steps. ``all``: all at every step.
    """
    early = sorted(settings.exits) or list(range(1, layers))
    if settings.curriculum == "rotational":
        rotation = settings.rotation or len(early) or 1
        early = [e for i, e in enumerate(early) if (i - step) % rotation == 0]
    elif settings.curriculum == "gradual":
        early = [e for e in early if step * 2 * layers >= (layers - e) * steps]
    return [*early, layers]


def exit_weights(
    settings: LayerSkipSettings, layers: int, step: int, steps: int
) -> dict[int, float]:
    """w(t, l) by exit: positive, summing to 1, over the exits that are on at step t of T.

    With L = 1 or e_scale = 0 the last layer has it all, which is ordinary training.
    """
    on = enabled_exits(settings, layers, step, steps)
    scales = {e: exit_scale(e, layers, settings.e_scale) for e in on}
    total = sum(scales.values())
    if total == 0:
        return {layers: 1.0}
    return {e: scale / total for e, scale in scales.items() if scale > 0}


def check_exits(settings: LayerSkipSettings, layers: int) -> None:
    """Refuse exits that the model does not have.

    Raises:
        ConfigError: an exit lies at or beyond the last layer.
    """
    for name in ("exits", "report"):
        for layer in getattr(settings, name):
            if not 1 <= layer < layers:
                raise ConfigError(
                    f"layerskip.{name}: {layer} is no exit of a model of {layers} layers; choose "
                    f"from 1 to {layers - 1}"
                )


class ExitLoss:
    """Scores exits of a model; logits of no more than a chunk of cells exist at a time.

    Attributes:
        passes: forward passes scored in training: the random state of ``exit_tokens``.
    """

    def __init__(
        self, lm: MultiStreamLM, settings: LayerSkipSettings, silence_weight: float, *,
        steps: int, seed: int = 0,
    ) -> None:  # fmt: skip
        """Make it.

        Args:
            lm: the model; its base may be wrapped by PEFT.
            settings: weights, curriculum and share of cells scored.
            silence_weight: of the mean silence loss, as for :func:`stream_loss`.
            steps: T.
            seed: of the cells scored.

        Raises:
            ConfigError: the model's layers or final norm cannot be found, or an exit is none.
        """
        decoder = lm.base.get_decoder()
        self.layers = len(decoder_layers(decoder))
        check_exits(settings, self.layers)
        self.norm = final_norm(decoder)
        self.passes = 0
        self._lm = lm
        self._settings = settings
        self._silence_weight = silence_weight
        self._steps = steps
        self._seed = seed

    def state_dict(self) -> dict[str, int]:
        """The random state."""
        return {"passes": self.passes}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with the random numbers where another run stopped."""
        self.passes = int(state["passes"])

    def weights(self, step: int) -> dict[int, float]:
        """Weight of each exit that is on at a step."""
        return exit_weights(self._settings, self.layers, step, self._steps)

    @property
    def reported(self) -> list[int]:
        """Exits that an evaluation reports: those asked for, those trained, or every quarter."""
        quarters = {self.layers * k // 4 for k in (1, 2, 3)} - {0}
        return sorted(self._settings.report or self._settings.exits or quarters)

    def weighted(
        self,
        states: Mapping[int, Tensor],
        labels: Tensor,
        streams: Tensor,
        step: int,
        cells: Tensor | None = None,
    ) -> StreamLoss:
        """The loss of one micro-batch in training; sums and counts are the last layer's.

        Args:
            states: hidden states of the labelled cells by exit (N, D), before the final norm;
                those of the last layer, L, behind it (as transformers gives them).
            labels: target token of each cell (N).
            streams: stream of each cell (N).
            step: t.
            cells: content and silence cells that the means are over; see :func:`stream_loss`.
        """
        self.passes += 1
        if cells is None:
            cells = count_cells(labels, self._lm.special)
        some, scale = self._subset(len(labels))
        total, last = torch.zeros((), device=labels.device), None
        for exit_layer, weight in self.weights(step).items():
            if exit_layer == self.layers:
                last = self.score(states[exit_layer], labels, streams, cells, normed=True)
                total = total + weight * last.total
            else:
                part = some.to(labels.device)
                early = self.score(states[exit_layer][part], labels[part], streams[part], cells)
                total = total + weight * scale * early.total
        assert last is not None
        return StreamLoss(total, last.sums, last.counts)

    def score(
        self,
        hidden: Tensor,
        labels: Tensor,
        streams: Tensor,
        cells: Tensor | None = None,
        *,
        normed: bool = False,
    ) -> StreamLoss:
        """The stream loss of one exit, from hidden states of the labelled cells (N, D)."""
        special = self._lm.special
        hidden = hidden if normed else self.norm(hidden)
        silent = labels == special.silence
        content, silence = (count_cells(labels, special) if cells is None else cells).clamp(min=1)
        share = torch.where(silent, self._silence_weight / silence, 1 / content)
        total, losses = chunked_loss(self._lm, hidden, labels, share)
        sums, counts = loss_sums(losses, silent, streams, len(self._lm.streams))
        return StreamLoss(total, sums, counts)

    def _subset(self, number: int) -> tuple[Tensor, float]:
        """Cells that early exits are scored on, ascending, and what makes up for the others."""
        size = min(number, max(1, round(self._settings.exit_tokens * number)))
        if size == number:
            return torch.arange(number), 1.0
        rng = np.random.default_rng([self._seed, _SUBSET, self.passes])
        chosen = np.sort(rng.choice(number, size, replace=False))
        return torch.from_numpy(chosen), number / size


def final_norm(decoder: nn.Module) -> nn.Module:
    """The norm between the last layer and the unembedding.

    Raises:
        ConfigError: the decoder has no single child that is one.
    """
    norms = [module for module in decoder.children() if "norm" in type(module).__name__.lower()]
    if len(norms) != 1:
        raise ConfigError(
            f"{type(decoder).__name__} has {len(norms)} norms beside its layers; exits need a "
            "decoder with one, behind the last layer"
        )
    return norms[0]


def chunked_loss(
    lm: MultiStreamLM, hidden: Tensor, labels: Tensor, share: Tensor, chunk: int = _CHUNK
) -> tuple[Tensor, Tensor]:
    """Weighted sum of cross-entropies, and each of them, without N x V logits.

    The gradients of hidden states and of what is trained of the unembedding are made chunk by
    chunk in the forward pass; the backward pass only scales them.

    Args:
        lm: the model; its ``unembed`` makes the logits.
        hidden: behind the final norm (N, D).
        labels: targets (N).
        share: what each cross-entropy is multiplied by in the sum (N).
        chunk: cells at a time.

    Returns:
        the sum, with a gradient, and the cross-entropies (N), float32 and without.
    """
    head = lm.base.get_output_embeddings()
    trained = [p for p in (*head.parameters(), lm.special_out) if p.requires_grad]
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or bool(trained))
    return _ChunkedLoss.apply(lm, chunk, wanted, labels, share, hidden, *trained)  # type: ignore


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        lm: MultiStreamLM,
        chunk: int,
        wanted: bool,
        labels: Tensor,
        share: Tensor,
        hidden: Tensor,
        *trained: Tensor,
    ) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), device=hidden.device)
        losses, gradients = [], []
        sums = [torch.zeros_like(p) for p in trained] if wanted else []
        pieces = (x.split(chunk) for x in (hidden.detach(), labels, share))
        for part, target, factor in zip(*pieces, strict=True):
            with torch.set_grad_enabled(wanted):
                part.requires_grad_(wanted)
                logits = lm.unembed(part).float()
                loss = nn.functional.cross_entropy(logits, target, reduction="none")
                weighted = (loss * factor).sum()
            if wanted:
                gradient, *others = torch.autograd.grad(weighted, [part, *trained])
                gradients.append(gradient)
                for running, other in zip(sums, others, strict=True):
                    running += other
            losses.append(loss.detach())
            total += weighted.detach()
        if wanted:
            whole = torch.cat(gradients) if gradients else torch.zeros_like(hidden)
            ctx.save_for_backward(whole, *sums)
        each = torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)
        ctx.mark_non_differentiable(each)
        return total, each

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        scale, _ = gradients
        return *(None,) * 5, *(saved * scale for saved in ctx.saved_tensors)


def gather(
    hidden: Tensor, exits: Mapping[int, Tensor], select: Tensor, layers: int
) -> dict[int, Tensor]:
    """Hidden states of the selected cells (N, D) by exit, the last layer's among them.

    Args:
        hidden: behind layers and final norm (B, T, D).
        exits: behind the layers of their numbers (B, T, D).
        select: flat indices into B * T (N).
        layers: L.
    """
    return {e: x.flatten(0, 1)[select] for e, x in (*exits.items(), (layers, hidden))}


def exit_report(totals: Mapping[int, tuple[Tensor, ...]]) -> dict[str, float]:
    """Mean content loss of each exit by name, ``exit8_content``, where there are cells.

    Args:
        totals: sums and counts as in :class:`StreamLoss`, by exit.
    """
    return {
        f"exit{e}_content": float(sums[0].sum() / counts[0].sum())
        for e, (sums, counts) in totals.items()
        if counts[0].sum() > 0
    }
