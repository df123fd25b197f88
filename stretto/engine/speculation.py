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
from stretto.engine.lookup import Guess, Memory
from stretto.engine.pace import Belief, Choice, Costs, Offer, Purse, choose_rows
from stretto.engine.session import Session
from stretto.engine.stats import Drafted
from stretto.engine.tick import Ints, Tick
from stretto.errors import ConfigError

DRAFTERS = ("silence", "lookup", "exit")
_BEFORE = {"silence": 0.9, "lookup4": 0.7, "lookup3": 0.6, "lookup2": 0.4}
_EXIT_BEFORE = 0.5
_SURE = 0.9
"""Rows as likely as this are drafted whatever they cost."""
_REFRESH = 64
"""Steps after which one without exits is made, to know what that takes now."""
_PAUSE = 16
"""Steps until exits are considered again, once they were found not to pay: asking costs time."""
_MANY = 8
"""With so many sessions nobody is asked at all for as many steps, once no draft was worth it."""


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


class _Book:
    """What is known of one session."""

    def __init__(self, session: Session, common: dict[str, Belief]) -> None:
        self.memory, self._common = Memory(session), common
        self._beliefs: dict[str, Belief] = {}

    def belief(self, kind: str) -> Belief:
        if kind not in self._beliefs:
            before = _BEFORE.get(kind, _EXIT_BEFORE)
            common = self._common.setdefault(kind, Belief(before))
            self._beliefs[kind] = Belief(common)
        return self._beliefs[kind]


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
        self._books: WeakKeyDictionary[Session, _Book] = WeakKeyDictionary()
        self._pause = self._rest = self._since = 0
        self._purses = {False: Purse(), True: Purse()}  # of what is known, and of exits
        self._base = self._sessions = self._rows = 0
        self._common: dict[str, Belief] = {}
        self._plain = Costs()
        self._exits = {layer: Costs(part) for layer, part in exits.items()}
        self._parts = exits
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
        self._base, self._sessions, self._rows = sum(map(len, ticks)), len(ticks), 0
        self._since += 1
        if self._rest:
            self._rest -= 1
            return list(ticks)
        able = [i for i, tick in enumerate(ticks) if _can_follow(tick)]
        if not able:
            return list(ticks)
        guesses = self._guesses(ticks, able)
        layer, rows = self._choose(ticks, able, guesses, room)
        if not any(rows.values()) and len(able) >= _MANY and self._settings.adaptive:
            self._rest = _PAUSE
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
        self._books[session].belief(kind).tested(true, drafted)
        self._rows += true
        count = self.drafted.setdefault(kind, Drafted())
        count.rows += drafted
        count.true += true
        count.tested += min(true + 1, drafted)
        count.passes += 1
        return rows

    def measured(self, cells: int, seconds: float) -> None:
        """Take note of how long the step took that was extended last."""
        is_by_exit = self._layer is not None
        costs = self._plain if self._layer is None else self._exits[self._layer]
        costs.measured(cells, seconds)
        if cells == self._base and not is_by_exit:
            self._since = 0
        plain = self._plain.of(self._base)
        if plain is None:
            return
        for purse in self._purses.values():
            purse.passed(plain)
        if cells > self._base or is_by_exit:  # an exit takes time also if it drafts nothing
            made = 1 + self._rows / self._sessions
            self._purses[is_by_exit].tried(plain, seconds, made)

    def _guesses(self, ticks: Sequence[Tick], able: list[int]) -> dict[int, Guess]:
        """What is known without asking the model, by tick."""
        guesses, wanted = {}, self._settings.drafters
        for i in able:
            session = ticks[i].session
            with session.own_work():
                if session not in self._books:
                    self._books[session] = _Book(session, self._common)
                guess = self._books[session].memory.guess(ticks[i], self._settings.max_rows)
                if guess is not None and guess.kind.rstrip("0123456789") in wanted:
                    guesses[i] = guess
        return guesses

    def _choose(
        self, ticks: Sequence[Tick], able: list[int], guesses: dict[int, Guess], room: int
    ) -> tuple[int | None, dict[int, int]]:
        """Who drafts in this step (a layer, or None for what is known) and rows by tick."""
        most, cells = self._settings.max_rows, sum(map(len, ticks))
        width = {i: len(ticks[i].outputs) for i in able}
        if not self._settings.adaptive:
            wanted = {i: len(guess.rows) for i, guess in guesses.items()}
            layer = None if wanted or not self._exits else min(self._exits)
            rows = {}
            for i, number in (dict.fromkeys(able, most) if layer else wanted).items():
                rows[i] = min(number, max(0, room) // width[i])
                room -= rows[i] * width[i]
            return layer, rows
        found: dict[int | None, tuple[list[int], Choice]] = {}
        if self._purses[False].is_empty:
            guesses = {}
        offers = [self._offer(ticks[i], g.kind, len(g.rows)) for i, g in guesses.items()]
        found[None] = [*guesses], choose_rows(self._plain, cells, offers, room)
        plain, self._pause = self._plain.of(cells), self._pause - 1
        asks = plain and self._pause <= 0 and not self._purses[True].is_empty
        asks = asks and self._since < _REFRESH
        for layer, costs in self._exits.items() if asks else ():
            offers = [self._offer(ticks[i], f"exit{layer}", most) for i in able]
            found[layer] = able, choose_rows(costs, cells, offers, room, plain)
        best = max(found, key=lambda layer: found[layer][1].speed)
        if best is None and len(found) > 1:
            self._pause = _PAUSE
        for layer, (which, choice) in found.items():
            for i, number in zip(which, choice.rows, strict=True):
                if layer != best or not number:
                    kind = guesses[i].kind if layer is None else f"exit{layer}"
                    self._books[ticks[i].session].belief(kind).waited()
        which, choice = found[best]
        return (best if any(choice.rows) else None), dict(zip(which, choice.rows, strict=True))

    def _offer(self, tick: Tick, kind: str, rows: int) -> Offer:
        return Offer(self._books[tick.session].belief(kind).rate, len(tick.outputs), rows)

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
        least = self._least(ticks, layer) if self._settings.adaptive else 0.0
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

    def _least(self, ticks: Sequence[Tick], layer: int) -> float:
        """How likely a drafted row must be: as much as it costs, as a part of a step without."""
        cells, width = sum(map(len, ticks)), max(len(tick.outputs) for tick in ticks)
        plain, longer = self._plain.of(cells), self._plain.of(cells + width)
        checking = 0.0 if plain is None or longer is None else longer / plain - 1
        return min(_SURE, self._parts[layer] + max(0.0, checking))

    def _ahead(self, number: int, tick: Tick, kind: str, rows: list[Ints]) -> Tick:
        with tick.session.own_work():
            self._kinds[number] = kind
            return read_ahead(tick, draft_rows(tick.session, tick, rows))
        return tick


def _can_follow(tick: Tick) -> bool:
    session = tick.session
    return session.speculates and session.is_prefilled and len(tick.outputs) > 0
