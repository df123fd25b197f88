"""Speculative decoding for rows: drafted, read together, and kept as far as they come true.

Leviathan et al. 2023 and Elhoushi et al. 2024, for rows of several streams. A draft changes what a
pass reads, never what is sampled: tokens are those of plain decoding with the same random numbers
(where a back end's logits do not depend on what shares a pass, bit for bit).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from stretto.engine.ahead import AheadTick, draft_rows, read_ahead, settle
from stretto.engine.backends import Backend
from stretto.engine.backends.drafting import Draft, Drafting
from stretto.engine.batch import RowBatch, build
from stretto.engine.control import Able, Controller
from stretto.engine.lookup import Guess, Memory
from stretto.engine.session import Session
from stretto.engine.stats import Drafted
from stretto.engine.tick import Ints, Tick
from stretto.errors import ConfigError

DRAFTERS = ("silence", "lookup", "exit")


@dataclass(frozen=True)
class Speculation:
    """How an engine may run ahead.

    Attributes:
        drafters: who may draft. ``silence``: a stream that is silent stays so; ``lookup``: what
            followed the same few tokens before; ``exit``: an exit of the model, where the others
            know nothing (left out if the model has no exits, or the back end offers none).
        max_rows: drafted rows a session and step, at most.
        exit_layers: which exits may draft; all there are by default.
        adaptive: draft as much, by whom, as measured costs and acceptance are worth; else always
            ``max_rows``, by the first exit.
    """

    drafters: tuple[str, ...] = DRAFTERS
    max_rows: int = 8
    exit_layers: tuple[int, ...] | None = None
    adaptive: bool = True

    def __post_init__(self) -> None:
        wrong = [name for name in self.drafters if name not in DRAFTERS]
        if wrong:
            raise ConfigError(f"drafter {wrong[0]!r}: choose from {', '.join(DRAFTERS)}")
        if self.max_rows < 1:
            raise ConfigError(f"max_rows is {self.max_rows}; give 1 or more")


class Speculator:
    """Puts drafted rows behind ticks, and takes up what came true.

    Args:
        backend: reads; forgets what did not come true.
        settings: what may be done.
        exits: by layer, the part of a full pass that a row drafted there costs; empty if the back
            end has no exits.

    Attributes:
        drafted: counts by kind of draft.
    """

    def __init__(self, backend: Backend, settings: Speculation, exits: dict[int, float]) -> None:
        self._backend, self._settings = backend, settings
        self._memories: WeakKeyDictionary[Session, Memory] = WeakKeyDictionary()
        self._layers = sorted(exits)
        self._control = Controller(settings.max_rows, exits)
        self._kinds: dict[int, str] = {}
        self._draft: Draft | None = None
        self._layer: int | None = None  # that drafted, also if its draft could not be used
        self.drafted: dict[str, Drafted] = {}

    def extend(self, ticks: Sequence[Tick], room: int) -> list[Tick]:
        """The ticks of a step, with drafted rows behind those that can have some.

        Args:
            ticks: none empty.
            room: visible cells that may be added to the cache.
        """
        self._kinds, self._draft, self._layer = {}, None, None
        may_draft = self._control.begin(sum(map(len, ticks)), len(ticks))
        able = [i for i, tick in enumerate(ticks) if may_draft and _can_follow(tick)]
        if not able:
            return list(ticks)
        guesses = self._guesses(ticks, able)
        if not self._settings.adaptive:
            layer, rows = self._always(ticks, able, guesses, room)
        else:
            layer, rows = self._choose(ticks, able, guesses, room)
        if layer is None:
            return self._with_guesses(ticks, guesses, rows)
        return self._with_exit(ticks, layer, rows)

    def read(self, batch: RowBatch) -> Tensor:
        """The forward pass over what :meth:`extend` made."""
        if self._draft is None:
            return self._backend.forward(batch)
        return cast("Drafting", self._backend).finish(batch, self._draft)

    def settle(self, number: int, tick: AheadTick, tokens: Any) -> list[Any]:
        """Take up what came true of an extended tick, and forget the rest; rows to be delivered.

        Args:
            number: which of the step's ticks.
            tick: it.
            tokens: sampled for its queries.
        """
        session, drafted, kind = tick.session, len(tick.drafted), self._kinds[number]
        rows, true = settle(tick, tokens)
        self._backend.crop(session.line, session.num_cached)
        self._control.tested(session, kind, true, drafted)
        count = self.drafted.setdefault(kind, Drafted())
        count.rows += drafted
        count.true += true
        count.tested += min(true + 1, drafted)
        count.passes += 1
        return rows

    def measured(self, cells: int, seconds: float) -> None:
        """Take note of how long the step took that was extended last."""
        self._control.measured(cells, seconds, self._layer)

    def _guesses(self, ticks: Sequence[Tick], able: list[int]) -> dict[int, Guess]:
        """What is known without asking the model, by tick."""
        guesses, wanted = {}, self._settings.drafters
        if self._settings.adaptive and not self._control.may_guess:
            return guesses
        for i in able:
            session = ticks[i].session
            with session.own_work():
                if session not in self._memories:
                    self._memories[session] = Memory(session)
                guess = self._memories[session].guess(ticks[i], self._settings.max_rows)
                if guess is not None and guess.kind.rstrip("0123456789") in wanted:
                    guesses[i] = guess
        return guesses

    def _always(
        self, ticks: Sequence[Tick], able: list[int], guesses: dict[int, Guess], room: int
    ) -> tuple[int | None, dict[int, int]]:
        """Who drafts (a layer, or None for what is known) and rows by tick: as many as can be."""
        wanted = {i: len(guess.rows) for i, guess in guesses.items()}
        layer = None if wanted or not self._layers else self._layers[0]
        rows = {}
        for i in able if layer else wanted:
            width = len(ticks[i].outputs)
            rows[i] = min(wanted.get(i, self._settings.max_rows), max(0, room) // width)
            room -= rows[i] * width
        return layer, rows

    def _choose(
        self, ticks: Sequence[Tick], able: list[int], guesses: dict[int, Guess], room: int
    ) -> tuple[int | None, dict[int, int]]:
        """The same, as far as it is worth it."""
        offered = []
        for i in able:
            guess, tick = guesses.get(i), ticks[i]
            kind, rows = (None, 0) if guess is None else (guess.kind, len(guess.rows))
            offered.append(Able(tick.session, len(tick.outputs), kind, rows))
        layer, chosen = self._control.choose(offered, room)
        return layer, dict(zip(able, chosen, strict=True))

    def _with_guesses(
        self, ticks: Sequence[Tick], guesses: dict[int, Guess], rows: dict[int, int]
    ) -> list[Tick]:
        extended = list(ticks)
        for i, guess in guesses.items():
            extended[i] = self._ahead(i, ticks[i], guess.kind, list(guess.rows[: rows.get(i, 0)]))
        return extended

    def _with_exit(self, ticks: Sequence[Tick], layer: int, rows: dict[int, int]) -> list[Tick]:
        backend, self._layer = cast("Drafting", self._backend), layer
        numbers = np.array([rows.get(i, 0) for i in range(len(ticks))], np.int64)
        width = max(len(tick.outputs) for tick in ticks)
        least = self._control.least(width, layer) if self._settings.adaptive else 0.0
        draft = backend.draft(build(ticks), layer, numbers, least)
        extended = [
            self._ahead(i, tick, f"exit{layer}", list(draft.tokens[i]))
            for i, tick in enumerate(ticks)
        ]
        drafted = [len(e) - len(t) for e, t in zip(extended, ticks, strict=True)]
        if drafted == [tokens.size for tokens in draft.tokens]:
            self._draft = draft
        else:  # a grammar forbids some of it: read what is left from the beginning
            for tick in ticks:
                self._backend.crop(tick.session.line, tick.session.num_cached)
        return extended

    def _ahead(self, number: int, tick: Tick, kind: str, rows: list[Ints]) -> Tick:
        with tick.session.own_work():
            self._kinds[number] = kind
            return read_ahead(tick, draft_rows(tick.session, tick, rows))
        return tick


def _can_follow(tick: Tick) -> bool:
    session = tick.session
    return session.speculates and session.is_prefilled and len(tick.outputs) > 0
