"""How good exits are: agreement with the whole model, coverage, perplexity.

Letters: N states, D hidden, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stretto.models.exits import ExitHead
from stretto.training.exit_states import States

_CHUNK = 512


def figures(
    heads: Mapping[str, Mapping[int, ExitHead]],
    states: States,
    unembedding: Tensor,
    groups: Sequence[str],
    *,
    perplexity: bool = False,
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, Any]]:
    """One row for each kind of head, layer and group of states, and for all states.

    Args:
        heads: by kind (``head``, ``plain``) and layer.
        states: to judge on.
        unembedding: the model's own (V + 2, D).
        groups: which group each state is of (N).
        perplexity: also of what was said, by the head's state and the whole vocabulary.
        dtype: of the large products.

    Returns:
        rows with ``kind``, ``layer``, ``group``, ``count``, ``agreement`` (share of states at which
        the head's likeliest token is the model's; this is the acceptance of greedy drafts, given
        that all before was right), ``coverage`` (share at which the model's token can be named),
        ``rows_agreed`` (share of rows of tables in which all outputs agree; of all states only),
        ``calibration`` by confidence, and ``perplexity`` if asked for. ``kind`` ``model`` is the
        whole model's perplexity.
    """
    names = [*dict.fromkeys(groups), "all"]
    masks = [torch.tensor([group == name for group in groups]) for name in names[:-1]]
    masks.append(torch.ones(len(states), dtype=torch.bool))
    rows: list[dict[str, Any]] = []
    if perplexity:
        losses = _losses(states.final, states.said, unembedding, dtype)
        for name, mask in zip(names, masks, strict=True):
            row = {"kind": "model", "layer": None, "group": name, "count": int(mask.sum())}
            rows.append(row | {"perplexity": float(losses[mask].mean().exp())})
    for kind, by_layer in heads.items():
        for layer, head in by_layer.items():
            agreed, confidence = _agreed(head, states, unembedding, dtype)
            known = torch.isin(states.top.long(), head.ids)
            said = None
            if perplexity:
                normed = torch.cat([head.normed(x.to(dtype)) for x in states.at[layer].split(4096)])
                said = _losses(normed, states.said, unembedding, dtype)
            for name, mask in zip(names, masks, strict=True):
                row = {"kind": kind, "layer": layer, "group": name, "count": int(mask.sum())}
                row["agreement"] = float(agreed[mask].float().mean())
                row["coverage"] = float(known[mask].float().mean())
                if said is not None:
                    row["perplexity"] = float(said[mask].mean().exp())
                if name == "all":
                    row["rows_agreed"] = _rows_agreed(states, agreed)
                    row["calibration"] = _calibration(agreed, confidence)
                rows.append(row)
    return rows


def speed_up(
    acceptance: float, layer: int, draft_head: float, *, layers: int, head: float, verify: float
) -> tuple[float, int]:
    """Predicted speed-up of drafting, and the number of drafted rows at which it is best.

    Costs are in layers of one cell (notes on LayerSkip, section 5): a round drafts d tokens with
    ``layer`` layers and the draft head each, reads the last through ``layer`` layers, and checks
    them in one pass through the rest.

    Args:
        acceptance: share of drafted tokens that the model would have said, given those before.
        layer: where the model is left.
        draft_head: cost of the draft head.
        layers: of the model.
        head: cost of its own head.
        verify: cost of a pass over up to ten cells, where one cell costs 1.
    """
    best = (1.0, 0)
    for d in range(1, 10):
        said = sum(acceptance**k for k in range(d + 1))
        cost = d * (layer + draft_head) + layer + (layers - layer + head) * verify
        best = max(best, (said * (layers + head) / cost, d))
    return best


@torch.inference_mode()
def _agreed(
    head: ExitHead, states: States, unembedding: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Whether the likeliest token is the model's, and how likely the head finds it (N)."""
    few = unembedding[head.ids].to(dtype)
    found, sure = [], []
    for x in states.at[head.layer].split(_CHUNK):
        likely, place = (head.normed(x.to(dtype)) @ few.T).float().softmax(-1).max(-1)
        found.append(head.ids[place])
        sure.append(likely)
    return torch.cat(found) == states.top, torch.cat(sure)


@torch.inference_mode()
def _losses(normed: Tensor, said: Tensor, unembedding: Tensor, dtype: torch.dtype) -> Tensor:
    """Cross-entropy of what was said, over the whole vocabulary (N)."""
    matrix, found = unembedding.to(dtype), []
    for x, label in zip(normed.split(_CHUNK), said.long().split(_CHUNK), strict=True):
        logits = (x.to(dtype) @ matrix.T).float()
        found.append(torch.nn.functional.cross_entropy(logits, label, reduction="none"))
    return torch.cat(found)


def _rows_agreed(states: States, agreed: Tensor) -> float:
    """Share of rows in which every output agrees: what a drafted row needs."""
    row = states.sample.long() * 1_000_000 + states.row
    _, which = row.unique(return_inverse=True)
    failed = torch.zeros(int(which.max()) + 1).index_add_(0, which, (~agreed).float())
    return float((failed == 0).float().mean())


def _calibration(agreed: Tensor, confidence: Tensor) -> list[dict[str, Any]]:
    """In ten steps of confidence: how many states, and how many of them agree."""
    step = (confidence * 10).long().clamp(0, 9)
    found = []
    for i in range(10):
        mask = step == i
        share = float(agreed[mask].float().mean()) if mask.any() else None
        found.append({"from": i / 10, "count": int(mask.sum()), "agreement": share})
    return found
