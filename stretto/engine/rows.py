"""What sampling asks of many rows of logits at once, and how torch answers.

A back end whose threads are not torch's may bring its own answers (``backend.rows``).
"""

from typing import Protocol

import torch
from torch import Tensor


class Rows(Protocol):
    """Three questions about logits (M, V) in float32; N of their rows are meant by index."""

    def argmax(self, logits: Tensor) -> Tensor:
        """The likeliest token of each row, the lowest of equals: (M)."""
        ...

    def likeliest(
        self, logits: Tensor, rows: Tensor, size: int, temperature: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Values and ids of the likeliest tokens, and the sum of all weights.

        Args:
            logits: (M, V).
            rows: which of them (N).
            size: how many tokens (K).
            temperature: by which weights are meant (N).

        Returns:
            values and ids (N, K), likeliest first, ties by id; sums of :func:`weigh` (N).
        """
        ...

    def draw(self, logits: Tensor, rows: Tensor, temperature: Tensor, uniforms: Tensor) -> Tensor:
        """A token for each of ``rows`` by inverse CDF over all, in the order of ids: (N)."""
        ...


class TorchRows:
    """:class:`Rows` on any device."""

    def argmax(self, logits: Tensor) -> Tensor:
        """The likeliest token of each row."""
        return logits.argmax(-1)

    def likeliest(
        self, logits: Tensor, rows: Tensor, size: int, temperature: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Values and ids of the likeliest tokens, and the sum of all weights."""
        logits = _take(logits, rows)
        totals = weigh(logits, temperature).sum(-1)
        if size >= logits.shape[-1]:
            values, ids = logits.sort(dim=-1, descending=True, stable=True)
            return values, ids, totals
        ids = logits.topk(size, sorted=False).indices.sort(dim=-1).values
        values, order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
        return values, ids.gather(-1, order), totals

    def draw(self, logits: Tensor, rows: Tensor, temperature: Tensor, uniforms: Tensor) -> Tensor:
        """A token for each of ``rows`` by inverse CDF."""
        return place_of(weigh(_take(logits, rows), temperature), uniforms)


def weigh(logits: Tensor, temperature: Tensor) -> Tensor:
    """Unnormalised probabilities (N, V) in float64; the likeliest token has 1."""
    logits = logits.double()
    # The difference first: a tiny temperature makes it infinite, but never NaN.
    return ((logits - logits.amax(-1, keepdim=True)) / temperature[:, None]).exp()


def place_of(weights: Tensor, uniforms: Tensor) -> Tensor:
    """One place a query (N,) by inverse CDF over (N, K); one of weight 0 is never drawn."""
    cdf = weights.cumsum(-1)
    total = cdf[:, -1:]
    # u * total may round up to the total, behind which there is nothing.
    goal = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, total * 0))
    return torch.searchsorted(cdf, goal, right=True)[:, 0]


def _take(logits: Tensor, rows: Tensor) -> Tensor:
    return logits if len(rows) == len(logits) else logits[rows]
