"""Next-row cross-entropy within each output stream, content and silence reported apart.

Tensor letters: N labelled cells, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stretto.streams import IGNORE, SpecialIds, StreamSet

_CHUNK = 1024
"""Cells whose float32 log-probabilities are held at once; bounds memory to chunk x V."""


@dataclass(frozen=True)
class StreamLoss:
    """Loss of one batch.

    Attributes:
        total: mean content loss + silence weight x mean silence loss; has the gradient.
        sums: summed loss by stream and kind (2, S), kinds content and silence; detached.
        counts: cells behind each sum (2, S).
    """

    total: Tensor
    sums: Tensor
    counts: Tensor


def stream_loss(
    logits: Tensor,
    labels: Tensor,
    streams: Tensor,
    special: SpecialIds,
    num_streams: int,
    silence_weight: float,
    cells: Tensor | None = None,
) -> StreamLoss:
    """Cross-entropy of labelled cells (ARCHITECTURE.md section 5).

    Args:
        logits: (N, V + 2).
        labels: target token of each cell (N).
        streams: stream of each cell (N).
        special: ids of silence and end; ``end`` counts as content.
        num_streams: S.
        silence_weight: of the mean silence loss beside the mean content loss.
        cells: content and silence cells that the two means are over (2); by default those given
            here. Where these are a part of a larger batch, the totals of its parts add up.
    """
    losses = torch.cat(
        [
            torch.nn.functional.cross_entropy(part.float(), target, reduction="none")
            for part, target in zip(logits.split(_CHUNK), labels.split(_CHUNK), strict=True)
        ]
    )
    silent = labels == special.silence
    content, silence = (count_cells(labels, special) if cells is None else cells).clamp(min=1)
    content_mean = losses[~silent].sum() / content
    silence_mean = losses[silent].sum() / silence
    sums, counts = loss_sums(losses, silent, streams, num_streams)
    return StreamLoss(content_mean + silence_weight * silence_mean, sums, counts)


def loss_sums(
    losses: Tensor, silent: Tensor, streams: Tensor, num_streams: int
) -> tuple[Tensor, Tensor]:
    """Losses of cells (N) added up by kind and stream, and the cells behind each sum (2, S)."""
    where = silent.long() * num_streams + streams
    sums = torch.zeros(2 * num_streams, device=losses.device).index_add_(0, where, losses.detach())
    counts = torch.bincount(where, minlength=2 * num_streams)
    return sums.view(2, num_streams), counts.view(2, num_streams)


def count_cells(labels: Tensor, special: SpecialIds) -> Tensor:
    """Content and silence cells among labels of any shape (2); those without a label in neither."""
    silence = (labels == special.silence).sum()
    return torch.stack([(labels != IGNORE).sum() - silence, silence])


def loss_report(sums: Tensor, counts: Tensor, streams: StreamSet) -> dict[str, float]:
    """Mean losses by name: ``content``, ``silence`` and each stream's own, where it has cells."""
    report: dict[str, float] = {}
    for k, kind in enumerate(("content", "silence")):
        if counts[k].sum() > 0:
            report[kind] = float(sums[k].sum() / counts[k].sum())
        for s, stream in enumerate(streams):
            if counts[k, s] > 0:
                report[f"{kind}.{stream.name}"] = float(sums[k, s] / counts[k, s])
    return report
