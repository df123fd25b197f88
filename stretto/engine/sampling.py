"""Logits to tokens, for all queries of all sessions at once.

Pure functions over (N, V) tensors; N queries, V tokens. A query's token depends on its own logits,
parameters and uniform number only, so what shares the batch does not matter.

Sorting a vocabulary costs far more than all the rest, so top-p looks at the likeliest
``CANDIDATES`` tokens and at the sum over the whole row. Only where the cut does not fall among
them, the row is sorted after all. The distribution is the same either way.
"""

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from stretto.engine.batch import RowBatch
from stretto.engine.params import SamplingParams
from stretto.engine.rows import Rows, TorchRows, place_of, weigh
from stretto.engine.transfer import put
from stretto.errors import ConfigError
from stretto.streams import SpecialIds

CANDIDATES = 128
"""Tokens among which the end of a nucleus is looked for at first."""
MANY = 4096
"""Among so many it is looked for then; after that the row is sorted."""

_BANNED = float("-inf")
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


def penalise(logits: Tensor, histories: list[tuple[int, np.ndarray]], penalty: Tensor) -> None:
    """Repetition penalty (N,) on the tokens that each query's stream has had, in place."""
    if not histories:
        return
    lengths = [len(history) for _, history in histories]
    heard = np.concatenate([history for _, history in histories])
    rows = put(np.repeat([n for n, _ in histories], lengths), logits.device)
    tokens = put(heard, logits.device)
    had, factor = logits[rows, tokens], penalty[rows].to(logits.dtype)
    # A token heard twice is written twice with the same value.
    logits[rows, tokens] = torch.where(had > 0, had / factor, had * factor)


def keep(
    values: Tensor, ids: Tensor, totals: Tensor, chooser: Chooser, num_tokens: int
) -> tuple[Tensor, Tensor]:
    """Temperature, top-k, top-p and min-p, looking for the cut among the likeliest tokens.

    Args:
        values: logits of the likeliest tokens, in order (N, K).
        ids: these tokens, ties by id (N, K).
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
    is_found = (last > values[:, -1]) | (size == num_tokens)
    return weights.masked_fill(~kept, 0.0), is_found


def draw_kept(ids: Tensor, weights: Tensor, uniforms: Tensor) -> Tensor:
    """One of the ids (N, K) by inverse CDF in their order, whatever order they come in: (N,)."""
    ids, order = ids.sort(dim=-1)
    place = place_of(weights.gather(-1, order), uniforms)
    return ids.gather(-1, place[:, None])[:, 0]


KEPT = 64
"""Sets of parameters that are kept ready, though no live session may use them."""


class Sampler:
    """Chooses tokens; keeps every set of parameters in use as a row of tensors.

    Safe to register with while another thread samples.

    Args:
        num_logits: tokens of the model, silence and end included (V).
        special: ids of silence and end.
        device: where logits are.
        rows: looks through them; by default torch does.
    """

    def __init__(
        self,
        num_logits: int,
        special: SpecialIds,
        device: torch.device,
        rows: Rows | None = None,
    ) -> None:
        self._rows = rows or TorchRows()
        self._num_logits, self._special, self._device = num_logits, special, device
        self._lock = threading.Lock()
        self._ids: dict[SamplingParams, int] = {}
        self._params: list[SamplingParams] = []
        self._biases: list[_Bias | None] = []
        self._stops: list[np.ndarray] = []
        self._banks: _Banks | None = None

    def register(self, params: SamplingParams, used: Collection[int] = ()) -> int:
        """The number of these parameters, for :class:`RowBatch`.

        Args:
            params: the parameters.
            used: numbers that live sessions use; another may be given to these parameters instead
                of those it stood for, once there are ``KEPT``.

        Raises:
            ConfigError: a token id is not the model's, or nothing may be sampled.
        """
        number = self._ids.pop(params, None)
        if number is None:
            bias, stops = self._bias(params), self._stop_mask(params)
            with self._lock:
                number = self._place(used)
                self._params[number:] = [params, *self._params[number + 1 :]]
                self._biases[number:] = [bias, *self._biases[number + 1 :]]
                self._stops[number:] = [stops, *self._stops[number + 1 :]]
                self._banks = None
        self._ids[params] = number  # the last used is last
        return number

    def _place(self, used: Collection[int]) -> int:
        """Where new parameters go: behind all, or where the least recently used stood."""
        if len(self._params) < KEPT:
            return len(self._params)
        oldest = next((params for params, i in self._ids.items() if i not in used), None)
        return len(self._params) if oldest is None else self._ids.pop(oldest)

    def sample(self, logits: Tensor, batch: RowBatch) -> np.ndarray:
        """A token for each query: (N, V) logits, which it may write to, to int64 (N,).

        Waits for the device once; again only for rows whose cut was not found at first.
        """
        with self._lock:
            bank = self._bank()
        which = batch.sampling_ids
        logits = self._adjust(logits.float(), batch, bank)
        tokens = self._rows.argmax(logits)
        cut, free = np.flatnonzero(bank.cuts[which]), np.flatnonzero(bank.draws[which])
        if not len(cut) and not len(free):
            return self._stopped(tokens.cpu().numpy(), which, bank)
        chooser = Chooser(*bank.columns[self._put(which)].unbind(-1)[:4])
        uniforms = self._put(batch.uniforms)
        if len(free):
            rows = self._put(free)
            tokens[rows] = self._rows.draw(logits, rows, chooser.temperature[rows], uniforms[rows])
        if not len(cut):
            return self._stopped(tokens.cpu().numpy(), which, bank)
        rows = self._put(cut)
        tokens[rows], found = self._cut(logits, rows, chooser, uniforms, CANDIDATES)
        is_found = torch.ones_like(tokens)
        is_found[rows] = found.to(tokens.dtype)
        chosen, has_cut = torch.stack([tokens, is_found]).cpu().numpy()
        for size in (MANY, self._num_logits):
            wide = np.flatnonzero(has_cut == 0)
            if len(wide):
                pair = self._cut(logits, self._put(wide), chooser, uniforms, size)
                chosen[wide], has_cut[wide] = torch.stack([x.long() for x in pair]).cpu().numpy()
        return self._stopped(chosen, which, bank)

    def _cut(
        self, logits: Tensor, rows: Tensor, chooser: Chooser, uniforms: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        """Tokens of these rows, looked for among the likeliest; and whether the cut was there."""
        few = chooser.of(rows)
        size = min(size, self._num_logits)
        values, ids, totals = self._rows.likeliest(logits, rows, size, few.temperature)
        weights, found = keep(values, ids, totals, few, self._num_logits)
        return draw_kept(ids, weights, uniforms[rows]), found

    def _adjust(self, logits: Tensor, batch: RowBatch, bank: "_Banks") -> Tensor:
        """Penalties, biases and grammars, written into the logits."""
        which = batch.sampling_ids
        # First what may fail: nothing is written then, and others can be sampled again.
        masks = [matcher.mask() for _, matcher in batch.matchers]
        penalise(logits, batch.histories, bank.columns[self._put(which), 4])
        biases = [(n, *bank.biases[i]) for n, i in enumerate(which.tolist()) if bank.biases[i]]
        if biases:
            rows = np.repeat([n for n, _, _ in biases], [len(ids) for _, ids, _ in biases])
            ids, values = (np.concatenate([bias[k] for bias in biases]) for k in (1, 2))
            where = self._put(rows), self._put(ids)
            logits[where] += self._put(values)
        if masks:
            rows = self._put(np.array([n for n, _ in batch.matchers], np.int64))
            allowed = logits[rows].masked_fill(~self._put(np.stack(masks)), _BANNED)
            # Grammar and parameters may leave nothing: then the message is over.
            is_stuck = (allowed == _BANNED).all(-1)
            end = allowed[:, self._special.end]
            allowed[:, self._special.end] = torch.where(is_stuck, 0.0, end)
            logits[rows] = allowed
        return logits

    def _stopped(self, tokens: np.ndarray, which: np.ndarray, bank: "_Banks") -> np.ndarray:
        return np.where(bank.stops[which, tokens], self._special.end, tokens)

    def _put(self, array: np.ndarray) -> Tensor:
        return put(array, self._device)

    def _bank(self) -> "_Banks":
        if self._banks is None:
            columns = [
                [p.temperature or 1.0, p.top_k, p.top_p, p.min_p, p.repetition_penalty]
                for p in self._params
            ]
            has_cut = np.array([p.top_k > 0 or p.top_p < 1 or p.min_p > 0 for p in self._params])
            is_warm = np.array([p.temperature > 0 for p in self._params])
            self._banks = _Banks(
                columns=torch.tensor(columns, dtype=torch.float64, device=self._device),
                stops=np.stack(self._stops),
                biases=list(self._biases),
                cuts=is_warm & has_cut,
                draws=is_warm & ~has_cut,
            )
        return self._banks

    def _bias(self, params: SamplingParams) -> "_Bias | None":
        bias = np.zeros(self._num_logits, np.float32)
        if params.allowed is not None:
            bias[:] = _BANNED
            bias[self._checked("allowed", params.allowed)] = 0.0
        if params.banned:
            bias[self._checked("banned", params.banned)] = _BANNED
        bias[self._special.silence] += params.silence_bias
        if not params.silence:
            bias[self._special.silence] = _BANNED
        if (bias == _BANNED).all():
            raise ConfigError("sampling: allowed, banned and silence leave no token to sample")
        ids = np.flatnonzero(bias)
        return (ids, bias[ids]) if len(ids) else None

    def _stop_mask(self, params: SamplingParams) -> np.ndarray:
        stops = np.zeros(self._num_logits, bool)
        stops[self._checked("stop_ids", params.stop_ids)] = True
        return stops

    def _checked(self, name: str, ids: tuple[int, ...]) -> list[int]:
        wrong = [i for i in ids if not 0 <= i < self._num_logits]
        if wrong:
            raise ConfigError(f"sampling: {name} has {wrong[0]}, which is no token of this model")
        return list(ids)


_Bias = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _Banks:
    """All parameters in use (P); what steers the host lies there, so that no device is asked."""

    columns: Tensor  # (P, 5)
    stops: np.ndarray  # (P, V)
    biases: list[_Bias | None]  # ids and what is added to their logits; None if nothing is
    cuts: np.ndarray  # (P,) whether top-k, top-p or min-p cut
    draws: np.ndarray  # (P,) whether it draws from all tokens
