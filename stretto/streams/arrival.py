"""How an input arrives: how many of its tokens each tick reads."""

import random
from dataclasses import dataclass
from typing import Literal, get_args

from stretto.errors import ConfigError

Kind = Literal["steady", "bursty", "instant", "prefilled"]

_MEAN_BURST = 6.0
_MEAN_PAUSE = 5.0
_MAX_BURST = 40


@dataclass(frozen=True)
class Arrival:
    """A pattern of arrival.

    Attributes:
        kind: ``steady``, ``bursty`` (random clumps and pauses), ``instant`` (all in the first
            tick) or ``prefilled`` (known before the first row, as the stream's prompt).
        rate: mean tokens a tick when steady.
    """

    kind: Kind
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"arrival {self.kind!r}: choose from {', '.join(get_args(Kind))}")
        if not 0.01 <= self.rate <= 1000:
            raise ConfigError(f"arrival rate {self.rate}: between 0.01 and 1000 tokens a tick")

    @property
    def name(self) -> str:
        """For statistics and ``meta``."""
        return f"steady {self.rate:g}" if self.kind == "steady" else self.kind


def steady(rate: float = 1.0) -> Arrival:
    """``rate`` tokens a tick, as evenly as whole tokens allow."""
    return Arrival("steady", rate)


BURSTY = Arrival("bursty")
INSTANT = Arrival("instant")
PREFILLED = Arrival("prefilled")


def random_arrival(rng: random.Random) -> Arrival:
    """Draw from the mixture that models are trained on.

    A decoder on two CPU cores makes about 30 ticks a second, so 5, 20 and 80 tokens a second are
    about 0.15, 0.7 and 3 tokens a tick.
    """
    draw = rng.random()
    if draw < 0.45:
        return steady(round(rng.uniform(0.6, 1.0), 2))
    if draw < 0.55:
        return steady(round(rng.uniform(0.15, 0.5), 2))
    if draw < 0.70:
        return steady(round(rng.uniform(2.0, 4.0), 2))
    if draw < 0.85:
        return BURSTY
    return INSTANT if draw < 0.95 else PREFILLED


def ticks(num_tokens: int, arrival: Arrival, rng: random.Random) -> list[int]:
    """Tokens read by each tick until all are read; 0 is a pause. The last is never 0.

    ``prefilled`` input is read before the first tick, so it takes none.
    """
    if arrival.kind == "prefilled" or num_tokens == 0:
        return []
    if arrival.kind == "instant":
        return [num_tokens]
    sizes: list[int] = []
    phase, left = rng.random(), num_tokens
    while left:
        for size in _clump(rng) if arrival.kind == "bursty" else _even(arrival.rate, phase, sizes):
            size = min(size, left)
            sizes.append(size)
            left -= size
            if not left:
                break
    return sizes


def _even(rate: float, phase: float, sizes: list[int]) -> list[int]:
    """The next tick of a steady arrival."""
    t = len(sizes)
    return [int((t + 1) * rate + phase) - int(t * rate + phase)]


def _clump(rng: random.Random) -> list[int]:
    """A burst in one tick, then a pause."""
    burst = min(_MAX_BURST, 1 + int(rng.expovariate(1 / _MEAN_BURST)))
    return [burst, *[0] * int(rng.expovariate(1 / _MEAN_PAUSE))]
