"""One step's forward pass: from ticks, with drafted rows behind them, to tokens received."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from stretto.engine.ahead import AheadTick
from stretto.engine.backends import Backend
from stretto.engine.batch import RowBatch, build
from stretto.engine.sampling import Sampler
from stretto.engine.session import Session
from stretto.engine.speculation import Speculator
from stretto.engine.stats import Drafted
from stretto.engine.tick import Tick
from stretto.engine.writer import Row

if TYPE_CHECKING:
    from stretto.engine.backends.drafting import Drafting


class Passes:
    """Reads and samples.

    Args:
        backend: reads.
        sampler: chooses tokens.
        exit_layer: leave the model there; None reads all layers.
        speculator: drafts rows; None reads what is known.

    Attributes:
        steps: forward passes so far.
        cells: cells read in them, padding left out.
    """

    def __init__(
        self,
        backend: Backend,
        sampler: Sampler,
        exit_layer: int | None,
        speculator: Speculator | None,
    ) -> None:
        self._backend, self._sampler = backend, sampler
        self._exit_layer, self._speculator = exit_layer, speculator
        self.steps = self.cells = 0

    @property
    def is_ahead(self) -> bool:
        """Rows may be drafted."""
        return self._speculator is not None

    def drafted(self) -> dict[str, Drafted]:
        """How drafts have fared, by kind."""
        known = self._speculator.drafted if self._speculator else {}
        return {kind: replace(count) for kind, count in known.items()}

    def run(self, ticks: list[Tick], room: int) -> dict[Session, list[Row]]:
        """Read ticks, none empty, and hand out what was sampled.

        Args:
            ticks: of the step.
            room: visible cells that drafts may add to the cache.

        Returns:
            rows to be delivered, for sessions that went further than their tick.

        Raises:
            BaseException: whatever the back end raises; the sessions are over then.
        """
        if not ticks:
            return {}
        began = time.perf_counter()
        try:
            read, tokens = self._read(ticks, room)
        except BaseException as error:  # Ctrl-C too: rows are written, but perhaps half read
            for tick in ticks:
                tick.session.fail(error)
            raise
        cells = sum(map(len, read))
        self.steps += 1
        self.cells += cells
        rows = self._receive(read, tokens)
        if self._speculator:
            self._speculator.measured(cells, time.perf_counter() - began)
        return rows

    @torch.inference_mode()
    def _read(self, ticks: list[Tick], room: int) -> tuple[list[Tick], np.ndarray]:
        if self._speculator:
            ticks = self._speculator.extend(ticks, room)
        batch = build(ticks)
        return ticks, self._sample(self._logits(batch), batch, ticks)

    def _logits(self, batch: RowBatch) -> Tensor:
        if self._exit_layer is not None:
            return cast("Drafting", self._backend).early(batch, self._exit_layer)
        if self._speculator:
            return self._speculator.read(batch)
        return self._backend.forward(batch)

    def _sample(self, logits: Tensor, batch: RowBatch, ticks: list[Tick]) -> np.ndarray:
        """Tokens for all queries; if that fails, session by session, to see whose fault it is."""
        with suppress(Exception):
            return self._sampler.sample(logits, batch)
        tokens = np.zeros(len(logits), np.int64)
        for tick, asked in _spans(ticks):
            with tick.session.own_work():
                few = batch.asked(asked.start, asked.stop)
                tokens[asked] = self._sampler.sample(logits[asked], few)
        return tokens

    def _receive(self, ticks: list[Tick], tokens: np.ndarray) -> dict[Session, list[Row]]:
        further = {}
        for n, (tick, asked) in enumerate(_spans(ticks)):
            with tick.session.own_work():
                if self._speculator and isinstance(tick, AheadTick):
                    further[tick.session] = self._speculator.settle(n, tick, tokens[asked])
                else:
                    tick.session.receive(tick, tokens[asked])
        return further


def _spans(ticks: list[Tick]) -> Iterator[tuple[Tick, slice]]:
    """Each tick with the place of its queries among all."""
    start = 0
    for tick in ticks:
        end = start + len(tick.outputs)
        yield tick, slice(start, end)
        start = end
