"""Trains exit heads on collected states, and judges them.

A head learns to say what the model itself would say, over the tokens of its shortlist: the
divergence from the model's own distribution, and the cross-entropy to its likeliest token. The
heads of all layers are trained side by side, for they share the teacher. The model is not touched.

Letters: B states of a step, D hidden, V vocabulary, K tokens of the shortlist.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stretto.models.exits import ExitHead
from stretto.models.wrapper import MultiStreamLM
from stretto.streams.tokens import StreamCodec
from stretto.training.exit_config import ExitConfig
from stretto.training.exit_states import States

_WARMUP = 50
_FINAL = 0.05
_FEW = 8192

Log = Callable[[int, int, dict[str, float]], None]


def shortlist(
    size: int, codec: StreamCodec, said: np.ndarray, read: np.ndarray, stop_ids: Sequence[int]
) -> Tensor:
    """The tokens that a head can name, sorted (K).

    Always among them: silence, end, the ids that end a text, tokens of markup, and every single
    ASCII character (digits, punctuation, white space). The others are the most frequent.

    Args:
        size: K, at least the number of those.
        codec: the tokeniser.
        said: tokens that the model said.
        read: tokens of its texts, which count a quarter.
        stop_ids: ids that end a text.
    """
    special = codec.special
    count = np.bincount(said, minlength=special.end + 1).astype(np.float64)
    count += 0.25 * np.bincount(read, minlength=special.end + 1)
    always = {special.silence, special.end, *stop_ids}
    for character in map(chr, [9, 10, *range(32, 127)]):
        for text in (character, f" {character}"):
            ids = codec.encode(text)
            always |= set(ids) if len(ids) == 1 else set()
    always |= {i for i in range(64) if codec.decode([i]).startswith("<")}
    count[sorted(always)] = np.inf
    ranked = np.argsort(-count, kind="stable")[: max(size, len(always))]
    return torch.from_numpy(np.sort(ranked))


def new_heads(
    lm: MultiStreamLM, states: States, ids: Tensor, inner: int, seed: int
) -> dict[int, ExitHead]:
    """Untrained heads for the layers of some states.

    A few dimensions of a state are many times larger than the others, so norms begin as what makes
    all of them alike: the adapter reads numbers of size one, and what is unembedded is as large in
    every dimension as the model's own last state.
    """
    hidden, eps = lm.stream_embedding.shape[1], float(lm.config.rms_norm_eps)
    wanted = _size(states.final[:_FEW].float())
    heads = {}
    with torch.random.fork_rng(devices=[]):
        for layer, x in states.at.items():
            torch.manual_seed(seed + layer)  # a head does not depend on what others there are
            head = ExitHead(layer, ids, hidden, inner, eps)
            few = x[:_FEW].float()
            size = _size(few / _size(few.T)[:, None])
            head.norm.data.copy_(wanted / size)
            if head.norm_in is not None:
                head.norm_in.data.copy_(1 / size)
            heads[layer] = head
    return heads


def _size(x: Tensor) -> Tensor:
    """Root mean square of each column."""
    return x.square().mean(0).sqrt().clamp(min=1e-6)


def full_unembedding(lm: MultiStreamLM) -> Tensor:
    """The model's own, silence and end last (V + 2, D), float32."""
    head = lm.base.get_output_embeddings().weight.detach().float()
    return torch.cat([head, lm.special_out.detach().float()])


def train_heads(
    heads: dict[int, ExitHead],
    states: States,
    unembedding: Tensor,
    config: ExitConfig,
    *,
    checkpoint: Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    log: Log = lambda step, steps, losses: None,
) -> None:
    """Train heads in place; from ``checkpoint`` on, if there is one from a run that was stopped.

    Args:
        heads: of one shortlist, by layer.
        states: to train on.
        unembedding: from :func:`full_unembedding`.
        config: passes, batch, learning rate and so on.
        checkpoint: file kept up to date meanwhile.
        dtype: of the large products.
        log: told the mean losses now and then.
    """
    ids = next(iter(heads.values())).ids
    few = unembedding[ids].to(dtype)
    every = [p for head in heads.values() for p in head.parameters()]
    matrices: dict[str, Any] = {"params": [p for p in every if p.dim() > 1], "weight_decay": 0.01}
    vectors: dict[str, Any] = {"params": [p for p in every if p.dim() == 1], "weight_decay": 0.0}
    groups = [group for group in (matrices, vectors) if group["params"]]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    per_pass = max(1, len(states) // config.batch)
    steps, step = per_pass * config.passes, 0
    if checkpoint is not None and checkpoint.exists():
        step = _restore(checkpoint, heads, optimiser)
    # Only the top token's place in the shortlist; -1 where it cannot be named.
    place = torch.searchsorted(ids, states.top.long()).clamp(max=len(ids) - 1)
    place = torch.where(ids[place] == states.top, place, -1)
    sums: dict[str, float] = {}
    while step < steps:
        order = _order(len(states), step // per_pass, config.seed)
        start = (step % per_pass) * config.batch
        chosen = order[start : start + config.batch]
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, steps)
        losses = _step(heads, states, chosen, place[chosen], few, config.top_weight, dtype)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value
        if step % 20 == 0 or step == steps:
            log(step, steps, {name: value / ((step - 1) % 20 + 1) for name, value in sums.items()})
            sums = {}
        if checkpoint is not None and (step % config.save_every == 0 or step == steps):
            _keep(checkpoint, step, heads, optimiser)


def _step(
    heads: dict[int, ExitHead],
    states: States,
    chosen: Tensor,
    place: Tensor,
    few: Tensor,
    top_weight: float,
    dtype: torch.dtype,
) -> dict[str, float]:
    """Gradients of one batch; the losses by layer."""
    with torch.no_grad():
        teacher = (states.final[chosen].to(dtype) @ few.T).float().log_softmax(-1)
        share = teacher.exp()
    losses = {}
    for layer, head in heads.items():
        logits = (head.normed(states.at[layer][chosen].to(dtype)) @ few.T).float()
        guess = logits.log_softmax(-1)
        divergence = (share * (teacher - guess)).sum(-1).mean()
        top = torch.nn.functional.nll_loss(guess, place, ignore_index=-1)
        loss = divergence + top_weight * top
        loss.backward()
        losses[str(layer)] = float(divergence.detach())
    return losses


def _schedule(step: int, steps: int) -> float:
    warm = min(_WARMUP, max(1, steps // 10))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return _FINAL + (1 - _FINAL) * 0.5 * (1 + math.cos(math.pi * done))


def _order(size: int, turn: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng((seed, turn)).permutation(size))


def _keep(path: Path, step: int, heads: dict[int, ExitHead], optimiser: Any) -> None:
    state = {"step": step, "optimiser": optimiser.state_dict()}
    state["heads"] = {layer: head.state_dict() for layer, head in heads.items()}
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.replace(path)


def _restore(path: Path, heads: dict[int, ExitHead], optimiser: Any) -> int:
    state = torch.load(path, weights_only=True)
    for layer, head in heads.items():
        head.load_state_dict(state["heads"][layer])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
