"""Who sees whom. The one rule of ARCHITECTURE.md section 5, in the forms attention kernels take.

``visible(q, k) = (k is q) or (row(k) <= row(q) and k is not silence)``, same sample only, is called
``inclusive``: it matches the factorisation that Su et al. 2026 state. ``strict`` has ``<`` for
``<=``: peers in a row do not see each other; it is what the paper's released code does. A stream
has one token a row, so its own earlier tokens are in earlier rows and visible under both.
Nothing of size T x T is ever stored with data: the mask follows from (sample, row, silence).
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from stretto.errors import ConfigError

MaskRule = Literal["inclusive", "strict"]


@dataclass(frozen=True)
class Keys:
    """What attention may look at: K keys of each of B sequences.

    Attributes:
        rows: int64 (B, K).
        samples: int64 (B, K).
        hidden: True for silence, padding and unused cache slots, bool (B, K).
    """

    rows: Tensor
    samples: Tensor
    hidden: Tensor

    def to(self, device: torch.device) -> "Keys":
        """The same keys on another device."""
        return Keys(self.rows.to(device), self.samples.to(device), self.hidden.to(device))


def check_rule(rule: str) -> MaskRule:
    """Return ``rule`` if it is one.

    Raises:
        ConfigError: it is not.
    """
    if rule not in get_args(MaskRule):
        raise ConfigError(f"mask rule {rule!r}: choose from {', '.join(get_args(MaskRule))}")
    return rule  # type: ignore[return-value]


def dense_mask(
    rule: MaskRule,
    rows: Tensor,
    samples: Tensor,
    self_index: Tensor,
    keys: Keys,
    window: int | None = None,
) -> Tensor:
    """Boolean mask (B, 1, T, K), True where query t may see key k.

    Args:
        rule: ``inclusive`` or ``strict``.
        rows: row of each query (B, T).
        samples: sample of each query (B, T).
        self_index: where each query's own key lies among the K keys (B, T).
        keys: the keys.
        window: sliding-window size of the base model, in rows; None for full attention.
    """
    distance = rows[:, :, None] - keys.rows[:, None, :]
    visible = distance >= 0 if rule == "inclusive" else distance > 0
    if window is not None:
        visible &= distance < window
    visible &= ~keys.hidden[:, None, :] & (samples[:, :, None] == keys.samples[:, None, :])
    visible.scatter_(2, self_index[:, :, None], True)
    return visible[:, None]


def block_mask(rule: MaskRule, keys: Keys, window: int | None = None) -> Any:
    """The same rule as a FlexAttention ``BlockMask`` over T uncached cells (queries = keys).

    Used on CUDA, where it lets attention skip whole blocks of other samples.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    rows, samples, hidden = keys.rows, keys.samples, keys.hidden

    def visible(b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        distance = rows[b, q] - rows[b, k]
        seen = distance >= 0 if rule == "inclusive" else distance > 0
        if window is not None:
            seen = seen & (distance < window)
        return (q == k) | (seen & ~hidden[b, k] & (samples[b, q] == samples[b, k]))

    batch, length = rows.shape
    return create_block_mask(visible, batch, None, length, length, device=str(rows.device))


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as one to be added to attention logits, for eager attention."""
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill_(~mask, torch.finfo(dtype).min)
