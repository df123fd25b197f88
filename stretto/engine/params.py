"""What a caller may ask of a session: how tokens are chosen, and when to stop."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from stretto.engine.grammar import Grammar, MessageMatcher
from stretto.errors import ConfigError
from stretto.streams import StreamSet


@dataclass(frozen=True)
class SamplingParams:
    """How an output stream's next token is chosen from its logits.

    Applied in this order: repetition penalty, banned tokens, silence bias, grammar, temperature,
    top-k, top-p, min-p; then one token is drawn with one uniform number. Up to the grammar numbers
    are float32, from the temperature on float64; tokens equally likely rank by their ids.

    Attributes:
        temperature: 0 takes the likeliest token; 1 leaves the distribution as it is.
        top_p: keep the likeliest tokens that together have this share (1: all).
        top_k: keep the k likeliest tokens (0: all).
        min_p: keep tokens at least this share as likely as the likeliest (0: all).
        repetition_penalty: above 1, tokens this stream has had already lose (Keskar et al. 2019:
            positive logits are divided by it, negative ones multiplied); silence and end never do.
        allowed: only these token ids may be sampled (silence and end too must be named).
        banned: these token ids may not be sampled.
        stop_ids: sampling one of these counts as ``end``.
        silence: False forbids silence.
        silence_bias: added to the logit of silence.
        grammar: what each message has to look like; ``end`` only where it is complete. Only
            ``max_message_tokens`` and a message that no token may continue end it elsewhere.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    allowed: tuple[int, ...] | None = None
    banned: tuple[int, ...] | None = None
    stop_ids: tuple[int, ...] = ()
    silence: bool = True
    silence_bias: float = 0.0
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        _check(self.temperature >= 0, "temperature", self.temperature, "0 or more")
        _check(0 < self.top_p <= 1, "top_p", self.top_p, "above 0, at most 1")
        _check(self.top_k >= 0, "top_k", self.top_k, "0 (all) or more")
        _check(0 <= self.min_p <= 1, "min_p", self.min_p, "from 0 to 1")
        _check(self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "> 0")
        _check(self.allowed is None or len(self.allowed) > 0, "allowed", self.allowed, "not empty")
        for name in ("allowed", "banned", "stop_ids"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(int(token) for token in value))
        if isinstance(self.grammar, Mapping):  # from table.meta
            object.__setattr__(self, "grammar", _from_dict(Grammar, dict(self.grammar)))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for ``table.meta``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`.

        Raises:
            ConfigError: an unknown field.
        """
        return _from_dict(cls, data)


@dataclass(frozen=True)
class Limits:
    """When a session stops even if it has not come to its end.

    Attributes:
        max_rows: live rows. A session also stops so when the base model's positions are used up.
        quiet_rows: rows in a row without any content after all inputs were closed and read.
        deadline_s: seconds since the session was opened, by its own clock.
        max_message_tokens: content tokens of one output message; then it is ended. A stream that
            is woken after its ``end`` begins a new message, which may have as many again.
        max_pending_tokens: tokens that may wait on all inputs together, arrived or not; what
            would pass it is refused when it is sent. None: any number.
    """

    max_rows: int = 1024
    quiet_rows: int = 32
    deadline_s: float | None = None
    max_message_tokens: int | None = None
    max_pending_tokens: int | None = None

    def __post_init__(self) -> None:
        _check(self.max_rows >= 1, "max_rows", self.max_rows, "1 or more")
        _check(self.quiet_rows >= 1, "quiet_rows", self.quiet_rows, "1 or more")
        deadline, tokens = self.deadline_s, self.max_message_tokens
        _check(deadline is None or deadline > 0, "deadline_s", deadline, "above 0")
        _check(tokens is None or tokens >= 1, "max_message_tokens", tokens, "1 or more")
        pending = self.max_pending_tokens
        _check(pending is None or pending >= 1, "max_pending_tokens", pending, "1 or more")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for ``table.meta``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`.

        Raises:
            ConfigError: an unknown field.
        """
        return _from_dict(cls, data)


@dataclass(frozen=True)
class Setup:
    """Everything a session is opened with, checked.

    Attributes:
        streams: S streams, a subset of the model's.
        inventory: index of each stream in the model's inventory (S).
        prompts: token ids by stream name, none empty.
        sampling: by output stream name.
        limits: when to stop.
        max_positions: positions the base model has.
        seed: of the session's own generator.
        matchers: at the beginning of a message, by output stream with a grammar.
    """

    streams: StreamSet
    inventory: np.ndarray
    prompts: dict[str, list[int]]
    sampling: dict[str, SamplingParams]
    limits: Limits
    max_positions: int
    seed: int
    matchers: dict[str, MessageMatcher] = field(default_factory=dict)


def _from_dict(cls: type, data: dict[str, Any]) -> Any:
    try:
        return cls(**data)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__}: {error}") from None


def _check(ok: bool, name: str, value: object, wanted: str) -> None:
    if not ok:
        raise ConfigError(f"{name} is {value!r}; give {wanted}")
