"""What sampling asks of many rows of logits at once, and how torch answers.

A back end whose threads are not torch's may bring its own answers (``backend.rows``).
"""

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

_BANNED = float("-inf")
NOTHING = -1
"""In place of a token, where none may be chosen."""
_ROUNDING = 1e-9  # shares nearer than this are equal: ties cut the same way in any order of sums


@dataclass(frozen=True)
class Chooser:
    """Sampling parameters as columns, one entry a query (N)."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor

    def of(self, rows: Tensor) -> Self:
        """Those of some queries."""
        columns = (self.temperature, self.top_k, self.top_p, self.min_p)
        return type(self)(*(column[rows] for column in columns))


class Rows(Protocol):
    """Three questions about logits (M, V) in float32; N of their rows are meant by index.

    NaN and -inf are never chosen; a row that has nothing else is answered with ``NOTHING``. +inf
    counts as the largest number.
    """

    def argmax(self, logits: Tensor) -> Tensor:
        """The likeliest token of each row, the lowest of equals: (M)."""
        ...

    def cut(
        self, logits: Tensor, rows: Tensor, chooser: Chooser, uniforms: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        """A token for each of ``rows`` by inverse CDF over what top-k, top-p and min-p leave.

        Args:
            logits: (M, V).
            rows: which of them (N).
            chooser: their parameters.
            uniforms: their random numbers (N).
            size: among how many of the likeliest tokens to look for the cut, at least.

        Returns:
            tokens (N); and whether the cut was found (N), without which a token means nothing.
        """
        ...

    def draw(self, logits: Tensor, rows: Tensor, temperature: Tensor, uniforms: Tensor) -> Tensor:
        """A token for each of ``rows`` by inverse CDF over all, in the order of ids: (N)."""
        ...


class TorchRows:
    """:class:`Rows` on any device."""

    def argmax(self, logits: Tensor) -> Tensor:
        """The likeliest token of each row."""
        highest, tokens = _cleaned(logits).max(-1)
        return torch.where(highest > _BANNED, tokens, NOTHING)

    def cut(
        self, logits: Tensor, rows: Tensor, chooser: Chooser, uniforms: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        """A token for each of ``rows`` from what the cuts leave, and whether they were found."""
        logits = _cleaned(_take(logits, rows))
        values, ids = _likeliest(logits, min(size, logits.shape[-1]))
        totals = weigh(logits, chooser.temperature).sum(-1)
        weights, found = keep(values, totals, chooser, logits.shape[-1])
        ids, order = ids.sort(dim=-1)
        place = place_of(weights.gather(-1, order), uniforms)
        tokens = ids.gather(-1, place.clamp(min=0)[:, None])[:, 0]
        return torch.where(place < 0, NOTHING, tokens), found

    def draw(self, logits: Tensor, rows: Tensor, temperature: Tensor, uniforms: Tensor) -> Tensor:
        """A token for each of ``rows`` by inverse CDF."""
        return place_of(weigh(_cleaned(_take(logits, rows)), temperature), uniforms)


def weigh(logits: Tensor, temperature: Tensor) -> Tensor:
    """Unnormalised probabilities (N, V) in float64 of logits without NaN; the likeliest has 1."""
    logits = logits.double()
    # A row of -inf only has weights of 0.
    highest = logits.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
    # The difference first: a tiny temperature makes it infinite, but never NaN.
    return ((logits - highest) / temperature[:, None]).exp()


def keep(
    values: Tensor, totals: Tensor, chooser: Chooser, num_tokens: int
) -> tuple[Tensor, Tensor]:
    """Temperature, top-k, top-p and min-p, looking for the cut among the likeliest tokens.

    Args:
        values: logits of the likeliest tokens, in order, ties by id (N, K).
        totals: sum of the weights of all tokens (N).
        chooser: the parameters.
        num_tokens: how many tokens there are (V); with K = V every cut is found.

    Returns:
        the tokens' unnormalised probabilities (N, K), 0 for what is not kept; and whether the cut
        was found (N), without which they mean nothing.
    """
    size = values.shape[-1]
    weights = weigh(values, chooser.temperature)
    place = torch.arange(size, device=values.device)
    top_k = torch.where(chooser.top_k > 0, chooser.top_k, num_tokens)
    in_top = (place < top_k[:, None]) & (values > _BANNED)
    weights = weights.masked_fill(~in_top, 0.0)
    total = torch.where(top_k <= size, weights.sum(-1), totals)
    # The token that crosses the share still counts.
    goal = torch.where(chooser.top_p < 1, chooser.top_p - _ROUNDING, 2.0) * total
    is_first = place == 0
    kept = in_top & (is_first | (weights.cumsum(-1) - weights < goal[:, None]))
    kept &= weights >= chooser.min_p[:, None] * (1 - _ROUNDING)
    last = values.gather(-1, (kept.sum(-1, keepdim=True) - 1).clamp(min=0))[:, 0]
    # Of tokens tied with the last candidate some may be missing: the cut has to lie above them.
    is_above = last > values[:, -1]
    # Top-p is a share of what top-k leaves: all of that has to be there.
    is_whole = (top_k <= size) | (top_k >= num_tokens) | (chooser.top_p >= 1)
    is_found = (is_above & is_whole) | (size == num_tokens)
    return weights.masked_fill(~kept, 0.0), is_found


def _likeliest(logits: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Values and ids (N, size), likeliest first, ties by id."""
    if size == logits.shape[-1]:
        values, ids = logits.sort(dim=-1, descending=True, stable=True)
        return values, ids
    ids = logits.topk(size, sorted=False).indices.sort(dim=-1).values
    values, order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(-1, order)


def place_of(weights: Tensor, uniforms: Tensor) -> Tensor:
    """One place a query (N,) by inverse CDF over (N, K); one of weight 0 is never drawn.

    ``NOTHING`` where all have weight 0.
    """
    cdf = weights.cumsum(-1)
    total = cdf[:, -1:]
    # u * total may round up to the total, behind which there is nothing.
    goal = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, total * 0))
    place = torch.searchsorted(cdf, goal, right=True)
    return torch.where(total > 0, place, NOTHING)[:, 0]


def _cleaned(logits: Tensor) -> Tensor:
    return logits.nan_to_num(nan=_BANNED, neginf=_BANNED)


def _take(logits: Tensor, rows: Tensor) -> Tensor:
    return logits if len(rows) == len(logits) else logits[rows]
