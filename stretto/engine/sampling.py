"""Logits to tokens, for all queries of all sessions at once.

Pure functions over (N, V) tensors; N queries, V tokens. A query's token depends on its own logits,
parameters and uniform number only, so what shares the batch does not matter.

The sampler writes penalties, biases and grammars into the logits; the token then comes from
:class:`stretto.engine.rows.Rows`, by one of three ways: the likeliest (temperature 0), a draw from
all, or a draw from what top-k, top-p and min-p leave. For the last, :class:`TorchRows` sorts the
likeliest ``CANDIDATES`` tokens; where the cut may lie further on, ``MANY``, and only then the whole
row. The native back end's rows find every cut at once, without a sort. The token is the same in
all of them. Where a row has no token to choose, for all its logits are NaN or -inf, it is ``end``.
"""

import threading
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stretto.engine.batch import RowBatch
from stretto.engine.params import SamplingParams
from stretto.engine.rows import NOTHING, Chooser, Rows, TorchRows
from stretto.engine.transfer import put
from stretto.errors import ConfigError
from stretto.streams import SpecialIds

CANDIDATES = 128
"""Tokens among which the end of a nucleus is looked for at first."""
MANY = 4096
"""Among so many it is looked for then; after that the row is sorted."""

_BANNED = float("-inf")


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
        cut, free = np.flatnonzero(bank.cuts[which]), np.flatnonzero(bank.draws[which])
        if len(cut) + len(free) < len(which):
            tokens = self._rows.argmax(logits)
        else:  # every row is drawn from
            tokens = torch.empty(len(which), dtype=torch.int64, device=self._device)
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
        tokens[rows], found = self._rows.cut(
            logits, rows, chooser.of(rows), uniforms[rows], CANDIDATES
        )
        is_found = torch.ones_like(tokens)
        is_found[rows] = found.to(tokens.dtype)
        chosen, has_cut = torch.stack([tokens, is_found]).cpu().numpy()
        for size in (MANY, self._num_logits):
            wide = np.flatnonzero(has_cut == 0)
            if len(wide):
                rows = self._put(wide)
                pair = self._rows.cut(logits, rows, chooser.of(rows), uniforms[rows], size)
                chosen[wide], has_cut[wide] = torch.stack([x.long() for x in pair]).cpu().numpy()
        return self._stopped(chosen, which, bank)

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
        is_over = (tokens == NOTHING) | bank.stops[which, tokens]
        return np.where(is_over, self._special.end, tokens)

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
