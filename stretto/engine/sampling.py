"""Logits to tokens, for all queries of all sessions at once.

Pure functions over (N, V) tensors; N queries, V tokens. A query's token depends on its own logits,
parameters and uniform number only, so what shares the batch does not matter.
"""

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from stretto.engine.batch import RowBatch
from stretto.engine.params import SamplingParams
from stretto.errors import ConfigError
from stretto.streams import SpecialIds

_BANNED = float("-inf")


@dataclass(frozen=True)
class Chooser:
    """Sampling parameters as columns, one entry a query (N).

    ``cuts_top`` and ``cuts_min`` say whether any query uses top-k or top-p, or min-p: known on the
    host, so that nothing has to be asked of the device.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    cuts_top: bool = True
    cuts_min: bool = True


def penalise(logits: Tensor, histories: list[tuple[int, list[int]]], penalty: Tensor) -> Tensor:
    """Repetition penalty (N,) on the tokens that each query's stream has had."""
    if not histories:
        return logits
    rows = [n for n, history in histories for _ in history]
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    seen[rows, [token for _, history in histories for token in history]] = True
    factor = penalty[:, None]
    changed = torch.where(logits > 0, logits / factor, logits * factor)
    return torch.where(seen.to(logits.device), changed, logits)


def filter_logits(logits: Tensor, chooser: Chooser) -> Tensor:
    """Temperature, then top-k, top-p and min-p; what may not be chosen becomes -inf."""
    logits = logits / chooser.temperature[:, None]
    if chooser.cuts_top:
        logits = _keep_top(logits, chooser)
    if chooser.cuts_min:
        probs = logits.softmax(-1)
        low = probs < chooser.min_p[:, None] * probs.amax(-1, keepdim=True)
        logits = logits.masked_fill(low, _BANNED)
    return logits


def _keep_top(logits: Tensor, chooser: Chooser) -> Tensor:
    """Top-k, then top-p of what is left: the token that crosses the share still counts."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    place = torch.arange(logits.shape[-1], device=logits.device)
    k = torch.where(chooser.top_k > 0, chooser.top_k, logits.shape[-1])
    ordered = ordered.masked_fill(place >= k[:, None], _BANNED)
    probs = ordered.softmax(-1)
    before = probs.cumsum(-1) - probs
    ordered = ordered.masked_fill((before >= chooser.top_p[:, None]) & (place > 0), _BANNED)
    return torch.empty_like(logits).scatter_(-1, order, ordered)


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """One token a query by inverse CDF; a token of probability 0 is never drawn."""
    cdf = logits.double().softmax(-1).cumsum(-1)
    total = cdf[:, -1:]
    # u * total may round up to the total, behind which there is nothing.
    goal = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, total * 0))
    return torch.searchsorted(cdf, goal, right=True)[:, 0]


class Sampler:
    """Chooses tokens; keeps every set of parameters in use as a row of tensors.

    Args:
        num_logits: tokens of the model, silence and end included (V).
        special: ids of silence and end.
        device: where logits are.
    """

    def __init__(self, num_logits: int, special: SpecialIds, device: torch.device) -> None:
        self._num_logits, self._special, self._device = num_logits, special, device
        self._ids: dict[SamplingParams, int] = {}
        self._params: list[SamplingParams] = []
        self._masks: list[Tensor] = []
        self._stops: list[Tensor] = []
        self._banks: tuple[Tensor, Tensor, Tensor] | None = None
        self._lock = threading.Lock()

    def register(self, params: SamplingParams) -> int:
        """The number of these parameters, for :class:`RowBatch`.

        Raises:
            ConfigError: a token id is not the model's, or nothing may be sampled.
        """
        with self._lock:
            if params not in self._ids:
                mask, stops = self._bias(params), self._stop_mask(params)
                self._ids[params] = len(self._ids)
                self._params.append(params)
                self._masks.append(mask)
                self._stops.append(stops)
                self._banks = None
            return self._ids[params]

    def sample(self, logits: Tensor, batch: RowBatch) -> Tensor:
        """A token for each query: (N, V) logits to int64 (N,), still on the device."""
        with self._lock:  # a session may be opened while others are stepped
            bias, stops, columns = self._bank()
        which = torch.from_numpy(batch.sampling_ids).to(self._device)
        temperature, top_k, top_p, min_p, penalty = columns[which].unbind(-1)
        used = [self._params[i] for i in set(batch.sampling_ids.tolist())]
        logits = penalise(logits.float(), batch.histories, penalty) + bias[which]
        tokens = logits.argmax(-1)
        if any(params.temperature > 0 for params in used):
            greedy = temperature == 0
            cuts_top = any(params.top_k > 0 or params.top_p < 1 for params in used)
            cuts_min = any(params.min_p > 0 for params in used)
            warm = torch.where(greedy, 1.0, temperature)
            chooser = Chooser(warm, top_k.long(), top_p, min_p, cuts_top, cuts_min)
            uniforms = torch.from_numpy(batch.uniforms).to(self._device)
            drawn = draw(filter_logits(logits, chooser), uniforms)
            tokens = torch.where(greedy, tokens, drawn)
        return torch.where(stops[which, tokens], self._special.end, tokens)

    def _bank(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._banks is None:
            columns = [
                [p.temperature, p.top_k, p.top_p, p.min_p, p.repetition_penalty]
                for p in self._params
            ]
            self._banks = (
                torch.stack(self._masks).to(self._device),
                torch.stack(self._stops).to(self._device),
                torch.tensor(columns, dtype=torch.float32, device=self._device),
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

    def _stop_mask(self, params: SamplingParams) -> Tensor:
        stops = torch.zeros(self._num_logits, dtype=torch.bool)
        stops[self._checked("stop_ids", params.stop_ids)] = True
        return stops

    def _checked(self, name: str, ids: tuple[int, ...]) -> list[int]:
        wrong = [i for i in ids if not 0 <= i < self._num_logits]
        if wrong:
            raise ConfigError(f"sampling: {name} has {wrong[0]}, which is no token of this model")
        return list(ids)
