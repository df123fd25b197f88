"""The tensors of one step, built with numpy from the ticks of its sessions."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from stretto.engine.grammar import MessageMatcher
from stretto.engine.tick import Ints, Tick

PAD_SAMPLE = -1
"""Marks padding, as :data:`stretto.models.batch.PAD_SAMPLE`."""


@dataclass(frozen=True)
class RowBatch:
    """What one forward pass reads and is asked.

    Letters: B sessions, T cells of the widest, N queries.

    Attributes:
        lines: cache line of each session (B).
        tokens: token ids, each session's visible cells first (B, T).
        streams: stream of each cell in the model's inventory (B, T).
        positions: row of each cell, prompts counted (B, T).
        samples: 0, or ``PAD_SAMPLE`` for padding (B, T).
        select: flat index into B * T of each query (N).
        sampling_ids: number of each query's sampling parameters (N).
        uniforms: each query's random number from [0, 1), of its session's generator (N).
        matchers: grammar and progress of the queries that have one.
        histories: for each query what its stream has said, where a repetition penalty needs it.
    """

    lines: Ints
    tokens: Ints
    streams: Ints
    positions: Ints
    samples: Ints
    select: Ints
    sampling_ids: Ints
    uniforms: npt.NDArray[np.float64]
    histories: list[tuple[int, Ints]]
    matchers: list[tuple[int, MessageMatcher]] = field(default_factory=list)

    def asked(self, first: int, end: int) -> Self:
        """The same cells with only some of the queries."""
        return replace(
            self,
            select=self.select[first:end],
            sampling_ids=self.sampling_ids[first:end],
            uniforms=self.uniforms[first:end],
            histories=[(n - first, tokens) for n, tokens in self.histories if first <= n < end],
            matchers=[(n - first, matcher) for n, matcher in self.matchers if first <= n < end],
        )


def build(ticks: Sequence[Tick]) -> RowBatch:
    """Pad the cells of ticks to a rectangle and gather their queries. No tick may be empty."""
    shape = (len(ticks), max(map(len, ticks)))
    tokens, streams, positions = (np.zeros(shape, np.int64) for _ in range(3))
    samples = np.full(shape, PAD_SAMPLE, np.int64)
    select, sampling_ids, uniforms, histories, matchers = [], [], [], [], []
    asked = 0
    for b, tick in enumerate(ticks):
        span, session = slice(0, len(tick)), tick.session
        tokens[b, span] = tick.tokens
        streams[b, span] = session.setup.inventory[tick.streams]
        positions[b, span] = tick.positions
        samples[b, span] = 0
        select.append(tick.queries + b * shape[1])
        sampling_ids.append(session.sampling_ids[tick.outputs])
        uniforms.append(tick.uniforms)
        histories += [(asked + n, heard.tokens) for n, heard in tick.histories()]
        matchers += [(asked + n, matcher) for n, matcher in tick.matchers()]
        asked += len(tick.outputs)
    lines = np.array([tick.session.line for tick in ticks], np.int64)
    return RowBatch(
        lines,
        tokens,
        streams,
        positions,
        samples,
        select=np.concatenate(select),
        sampling_ids=np.concatenate(sampling_ids),
        uniforms=np.concatenate(uniforms),
        histories=histories,
        matchers=matchers,
    )
