"""Passes over hand-made cells, for tests of back ends."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from stretto.engine.backends import Backend
from stretto.engine.batch import PAD_SAMPLE, RowBatch
from stretto.engine.params import SamplingParams
from stretto.models import MultiStreamLM

Ints = npt.NDArray[np.int64]
SAMPLINGS = (
    SamplingParams(),
    SamplingParams(silence_bias=1.0, banned=(4,), repetition_penalty=1.3),
    SamplingParams(temperature=0.8),
    SamplingParams(temperature=0.8, top_p=0.9, top_k=40, min_p=0.01, silence=False),
)
"""Ways of sampling of which each takes another path through the sampler."""


@dataclass
class Cells:
    """Cells of one session in a pass, visible ones first (T)."""

    tokens: Ints
    streams: Ints
    rows: Ints


def random_cells(lm: MultiStreamLM, rng: np.random.Generator, number: int, row: int) -> Cells:
    """Cells of a few rows from ``row`` on; a quarter of them silent, perhaps all."""
    tokens = rng.integers(0, lm.vocab_size, number)
    silent = rng.random(number) < (1.0 if rng.random() < 0.2 else 0.25)
    tokens[silent] = lm.special.silence
    rows = row + np.sort(rng.integers(0, 4, number))
    order = np.argsort(silent, kind="stable")
    rows[order[len(order) - silent.sum() :]] = row + 3
    return Cells(tokens[order], rng.integers(0, len(lm.streams), number), rows[order])


def read(backend: Backend, lines: list[int], parts: list[Cells]) -> list[torch.Tensor]:
    """Logits (T, V + 2) of every cell of each session, read in one pass."""
    shape = (len(parts), max(len(part.tokens) for part in parts))
    tokens, streams, rows = (np.zeros(shape, np.int64) for _ in range(3))
    samples = np.full(shape, PAD_SAMPLE, np.int64)
    for b, part in enumerate(parts):
        span = slice(0, len(part.tokens))
        tokens[b, span], streams[b, span], rows[b, span] = part.tokens, part.streams, part.rows
        samples[b, span] = 0
    select = np.flatnonzero(samples.reshape(-1) == 0)
    none = np.zeros(len(select), np.int64)
    batch = RowBatch(
        np.array(lines), tokens, streams, rows, samples, select, none, none.astype(float), []
    )
    return list(backend.forward(batch).clone().split([len(part.tokens) for part in parts]))


@dataclass
class Crowd:
    """Sessions of one back end, each with its own history."""

    lm: MultiStreamLM
    backend: Backend
    lines: list[int]
    kept: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, lm: MultiStreamLM, backend: Backend, sessions: int) -> "Crowd":
        """Sessions that have read nothing."""
        return cls(lm, backend, [backend.open() for _ in range(sessions)], [0] * sessions)

    def read(self, parts: list[Cells]) -> list[torch.Tensor]:
        """All read a part of theirs, together."""
        for b, part in enumerate(parts):
            self.kept[b] += int((part.tokens != self.lm.special.silence).sum())
        return read(self.backend, self.lines, parts)

    def close(self) -> None:
        """Give the lines back."""
        for line in self.lines:
            self.backend.release(line)
