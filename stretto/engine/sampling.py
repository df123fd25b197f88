"""Logits to tokens, for all queries of all sessions at once.

Pure functions over (N, V) tensors; N queries, V tokens. A query's token depends on its own logits,
parameters and uniform number only, so what shares the batch does not matter.

Sorting a vocabulary costs far more than all the rest, so top-p looks at the likeliest
``CANDIDATES`` tokens and at the sum over the whole row. Only where the cut does not fall among
them, the row is sorted after all. The distribution is the same either way.
"""

import threading
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from stretto.engine.batch import RowBatch
from stretto.engine.params import SamplingParams
from stretto.errors import ConfigError
from stretto.streams import SpecialIds

CANDIDATES = 128
"""Tokens among which the end of a nucleus is looked for before a row is sorted."""

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


def penalise(logits: Tensor, histories: list[tuple[int, list[int]]], penalty: Tensor) -> None:
    """Repetition penalty (N,) on the tokens that each query's stream has had, in place."""
    if not histories:
        return
    lengths = [len(history) for _, history in histories]
    heard = np.concatenate([np.asarray(history, np.int64) for _, history in histories])
    rows = torch.from_numpy(np.repeat([n for n, _ in histories], lengths)).to(logits.device)
    tokens = torch.from_numpy(heard).to(logits.device)
    had, factor = logits[rows, tokens], penalty[rows].to(logits.dtype)
    # A token heard twice is written twice with the same value.
    logits[rows, tokens] = torch.where(had > 0, had / factor, had * factor)


def weigh(logits: Tensor, temperature: Tensor) -> Tensor:
    """Unnormalised probabilities (N, V) in float64; the likeliest token has 1."""
    scaled = logits.double() / temperature[:, None]
    return (scaled - scaled.amax(-1, keepdim=True)).exp()


def keep(logits: Tensor, chooser: Chooser, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Temperature, top-k, top-p and min-p, looking for the cut among the likeliest tokens.

    Args:
        logits: (N, V) in float32.
        chooser: the parameters.
        size: how many tokens to look at (K); with K = V every cut is found.

    Returns:
        token ids (N, K) and their unnormalised probabilities (N, K), 0 for what is not kept; and
        whether the cut was found (N), without which the other two mean nothing.
    """
    size = min(size, logits.shape[-1])
    values, ids = _likeliest(logits, size)
    weights = weigh(values, chooser.temperature)
    place = torch.arange(size, device=logits.device)
    top_k = torch.where(chooser.top_k > 0, chooser.top_k, logits.shape[-1])
    in_top = (place < top_k[:, None]) & (values > _BANNED)
    weights = weights.masked_fill(~in_top, 0.0)
    total = weights.sum(-1)
    if size < logits.shape[-1]:
        total = torch.where(top_k <= size, total, weigh(logits, chooser.temperature).sum(-1))
    # The token that crosses the share still counts.
    goal = torch.where(chooser.top_p < 1, chooser.top_p - _ROUNDING, 2.0) * total
    is_first = place == 0
    kept = in_top & (is_first | (weights.cumsum(-1) - weights < goal[:, None]))
    kept &= weights >= chooser.min_p[:, None] * (1 - _ROUNDING)
    last = values.gather(-1, (kept.sum(-1, keepdim=True) - 1).clamp(min=0))[:, 0]
    # Of tokens tied with the last candidate some may be missing: the cut has to lie above them.
    is_found = (last > values[:, -1]) | (size == logits.shape[-1])
    return ids, weights.masked_fill(~kept, 0.0), is_found


def _likeliest(logits: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Values and ids (N, size), likeliest first, ties by id."""
    if size == logits.shape[-1]:
        values, ids = logits.sort(dim=-1, descending=True, stable=True)
        return values, ids
    ids = logits.topk(size, sorted=False).indices.sort(dim=-1).values
    values, order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(-1, order)


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """One place a query (N,) by inverse CDF over (N, K); one of weight 0 is never drawn."""
    cdf = weights.cumsum(-1)
    total = cdf[:, -1:]
    # u * total may round up to the total, behind which there is nothing.
    goal = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, total * 0))
    return torch.searchsorted(cdf, goal, right=True)[:, 0]


def draw_kept(ids: Tensor, weights: Tensor, uniforms: Tensor) -> Tensor:
    """As :func:`draw` in the order of ids (N, K), whatever order they come in: token ids (N,)."""
    ids, order = ids.sort(dim=-1)
    place = draw(weights.gather(-1, order), uniforms)
    return ids.gather(-1, place[:, None])[:, 0]


class Sampler:
    """Chooses tokens; keeps every set of parameters in use as a row of tensors.

    Safe to register with while another thread samples.

    Args:
        num_logits: tokens of the model, silence and end included (V).
        special: ids of silence and end.
        device: where logits are.
    """

    def __init__(self, num_logits: int, special: SpecialIds, device: torch.device) -> None:
        self._num_logits, self._special, self._device = num_logits, special, device
        self._lock = threading.Lock()
        self._ids: dict[SamplingParams, int] = {}
        self._params: list[SamplingParams] = []
        self._masks: list[Tensor] = []
        self._stops: list[np.ndarray] = []
        self._banks: _Banks | None = None

    def register(self, params: SamplingParams) -> int:
        """The number of these parameters, for :class:`RowBatch`.

        Raises:
            ConfigError: a token id is not the model's, or nothing may be sampled.
        """
        if params not in self._ids:
            mask, stops = self._bias(params), self._stop_mask(params)
            with self._lock:
                self._ids[params] = len(self._ids)
                self._params.append(params)
                self._masks.append(mask)
                self._stops.append(stops)
                self._banks = None
        return self._ids[params]

    def sample(self, logits: Tensor, batch: RowBatch) -> np.ndarray:
        """A token for each query: (N, V) logits to int64 (N,).

        Waits for the device once; a second time only for rows that had to be sorted.
        """
        with self._lock:
            bank = self._bank()
        which = batch.sampling_ids
        logits = self._adjust(logits.float(), batch, bank)
        tokens = logits.argmax(-1)
        cut, free = np.flatnonzero(bank.cuts[which]), np.flatnonzero(bank.draws[which])
        if not len(cut) and not len(free):
            return self._stopped(tokens.cpu().numpy(), which, bank)
        chooser = Chooser(*bank.columns[self._put(which)].unbind(-1)[:4])
        uniforms = self._put(batch.uniforms)
        if len(free):
            rows = self._put(free)
            weights = weigh(_take(logits, rows), chooser.temperature[rows])
            tokens[rows] = draw(weights, uniforms[rows])
        if not len(cut):
            return self._stopped(tokens.cpu().numpy(), which, bank)
        rows = self._put(cut)
        ids, weights, found = keep(_take(logits, rows), chooser.of(rows), CANDIDATES)
        tokens[rows] = draw_kept(ids, weights, uniforms[rows])
        is_found = torch.ones_like(tokens)
        is_found[rows] = found.to(tokens.dtype)
        chosen, has_cut = torch.stack([tokens, is_found]).cpu().numpy()
        wide = np.flatnonzero(has_cut == 0)
        if len(wide):
            rows = self._put(wide)
            ids, weights, _ = keep(_take(logits, rows), chooser.of(rows), self._num_logits)
            chosen[wide] = draw_kept(ids, weights, uniforms[rows]).cpu().numpy()
        return self._stopped(chosen, which, bank)

    def _adjust(self, logits: Tensor, batch: RowBatch, bank: "_Banks") -> Tensor:
        """Penalties, biases and grammars; logits that nobody changes stay where they are."""
        which = batch.sampling_ids
        biased = np.flatnonzero(bank.biases[which])
        if not len(biased) and not batch.histories and not batch.matchers:
            return logits
        logits = logits.clone()
        penalise(logits, batch.histories, bank.columns[self._put(which), 4])
        if len(biased):
            rows = self._put(biased)
            logits[rows] += bank.masks[self._put(which[biased])]
        if batch.matchers:
            rows = self._put(np.array([n for n, _ in batch.matchers], np.int64))
            may = self._put(np.stack([matcher.mask() for _, matcher in batch.matchers]))
            allowed = logits[rows].masked_fill(~may, _BANNED)
            # Grammar and parameters may leave nothing: then the message is over.
            is_stuck = (allowed == _BANNED).all(-1)
            end = allowed[:, self._special.end]
            allowed[:, self._special.end] = torch.where(is_stuck, 0.0, end)
            logits[rows] = allowed
        return logits

    def _stopped(self, tokens: np.ndarray, which: np.ndarray, bank: "_Banks") -> np.ndarray:
        return np.where(bank.stops[which, tokens], self._special.end, tokens)

    def _put(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _bank(self) -> "_Banks":
        if self._banks is None:
            columns = [
                [p.temperature or 1.0, p.top_k, p.top_p, p.min_p, p.repetition_penalty]
                for p in self._params
            ]
            has_cut = np.array([p.top_k > 0 or p.top_p < 1 or p.min_p > 0 for p in self._params])
            is_warm = np.array([p.temperature > 0 for p in self._params])
            self._banks = _Banks(
                masks=torch.stack(self._masks).to(self._device),
                columns=torch.tensor(columns, dtype=torch.float64, device=self._device),
                stops=np.stack(self._stops),
                biases=np.array([bool(mask.any()) for mask in self._masks]),
                cuts=is_warm & has_cut,
                draws=is_warm & ~has_cut,
            )
        return self._banks

    def _bias(self, params: SamplingParams) -> Tensor:
        bias = torch.zeros(self._num_logits)
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
        return bias

    def _stop_mask(self, params: SamplingParams) -> np.ndarray:
        stops = np.zeros(self._num_logits, bool)
        stops[self._checked("stop_ids", params.stop_ids)] = True
        return stops

    def _checked(self, name: str, ids: tuple[int, ...]) -> list[int]:
        wrong = [i for i in ids if not 0 <= i < self._num_logits]
        if wrong:
            raise ConfigError(f"sampling: {name} has {wrong[0]}, which is no token of this model")
        return list(ids)


@dataclass(frozen=True)
class _Banks:
    """All parameters in use (P); what steers the host lies there, so that no device is asked."""

    masks: Tensor  # (P, V) added to logits
    columns: Tensor  # (P, 5)
    stops: np.ndarray  # (P, V)
    biases: np.ndarray  # (P,) whether a mask is anything but zeros
    cuts: np.ndarray  # (P,) whether top-k, top-p or min-p cut
    draws: np.ndarray  # (P,) whether it draws from all tokens


def _take(logits: Tensor, rows: Tensor) -> Tensor:
    return logits if len(rows) == len(logits) else logits[rows]
