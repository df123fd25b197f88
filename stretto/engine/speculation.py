"""Speculative decoding for rows: drafted, read together, and kept as far as they come true.

Leviathan et al. 2023 and Elhoushi et al. 2024, for rows of several streams. A draft changes what a
pass reads, never what is sampled: tokens are those of plain decoding with the same random numbers
(where a back end's logits do not depend on what shares a pass, bit for bit).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from stretto.engine.ahead import AheadTick, draft_rows, read_ahead, settle
from stretto.engine.backends import Backend
from stretto.engine.lookup import Guess, Memory
from stretto.engine.pace import Belief, Costs, choose_rows
from stretto.engine.session import Session
from stretto.engine.stats import Drafted
from stretto.engine.tick import Tick
from stretto.errors import ConfigError

DRAFTERS = ("silence", "lookup", "exit")
_BEFORE = {"silence": 0.9, "lookup4": 0.7, "lookup3": 0.6, "lookup2": 0.4}


@dataclass(frozen=True)
class Speculation:
    """How an engine may run ahead.

    Attributes:
        drafters: who may draft: ``silence`` (a stream that is silent stays so), ``lookup`` (what
            followed the same few tokens before), ``exit`` (an exit of the model; needs a back end
            that offers it, and exits).
        max_rows: drafted rows a session and step, at most.
        adaptive: read as many of them as measured costs and acceptance are worth; else all.
    """

    drafters: tuple[str, ...] = DRAFTERS
    max_rows: int = 8
    adaptive: bool = True

    def __post_init__(self) -> None:
        wrong = [name for name in self.drafters if name not in DRAFTERS]
        if wrong:
            raise ConfigError(f"drafter {wrong[0]!r}: choose from {', '.join(DRAFTERS)}")
        if self.max_rows < 1:
            raise ConfigError(f"max_rows is {self.max_rows}; give 1 or more")


class _Book:
    """What is known of one session."""

    def __init__(self, session: Session) -> None:
        self.memory = Memory(session)
        self.beliefs: dict[str, Belief] = {}

    def belief(self, kind: str) -> Belief:
        if kind not in self.beliefs:
            self.beliefs[kind] = Belief(_BEFORE[kind])
        return self.beliefs[kind]


class Speculator:
    """Puts drafted rows behind ticks, and takes up what came true.

    Args:
        backend: reads; forgets what did not come true.
        settings: what may be done.

    Attributes:
        drafted: counts by kind of draft.
    """

    def __init__(self, backend: Backend, settings: Speculation) -> None:
        self._backend, self._settings = backend, settings
        self._books: WeakKeyDictionary[Session, _Book] = WeakKeyDictionary()
        self._costs = Costs()
        self._kinds: dict[int, str] = {}
        self.drafted: dict[str, Drafted] = {}

    def extend(self, ticks: Sequence[Tick], room: int) -> list[Tick]:
        """The ticks of a step, with drafted rows behind those that can have some.

        Args:
            ticks: none empty.
            room: visible cells that may be added to the cache.
        """
        guesses: dict[int, Guess] = {}
        for i, tick in enumerate(ticks):
            with tick.session.own_work():
                if guess := self._guess(tick):
                    guesses[i] = guess
        self._kinds = {}
        if not guesses:
            return list(ticks)
        numbers = self._numbers(ticks, guesses, room)
        extended = list(ticks)
        for i, guess in guesses.items():
            session = ticks[i].session
            with session.own_work():
                rows = draft_rows(session, ticks[i], list(guess.rows[: numbers[i]]))
                extended[i] = read_ahead(ticks[i], rows)
                self._kinds[i] = guess.kind
                if not rows:
                    self._books[session].belief(guess.kind).waited()
        return extended

    def settle(self, number: int, tick: AheadTick, tokens: Any) -> list[Any]:
        """Take up what came true of one extended tick, and forget the rest; rows to be delivered.

        Args:
            number: which of the step's ticks.
            tick: it.
            tokens: sampled for its queries.
        """
        session = tick.session
        rows, true = settle(tick, tokens)
        self._backend.crop(session.line, session.num_cached)
        kind = self._kinds[number]
        self._books[session].belief(kind).tested(true, len(tick.drafted))
        count = self.drafted.setdefault(kind, Drafted())
        count.rows += len(tick.drafted)
        count.true += true
        count.passes += 1
        count.tested += min(true + 1, len(tick.drafted))
        return rows

    def measured(self, cells: int, seconds: float) -> None:
        """Take note of how long a step took."""
        self._costs.measured(cells, seconds)

    def _guess(self, tick: Tick) -> Guess | None:
        session: Session = tick.session
        if not session.speculates or not session.is_prefilled or not len(tick.outputs):
            return None
        if session not in self._books:
            self._books[session] = _Book(session)
        guess = self._books[session].memory.guess(tick, self._settings.max_rows)
        if guess is None or guess.kind[:6] not in {name[:6] for name in self._settings.drafters}:
            return None
        return guess

    def _numbers(
        self, ticks: Sequence[Tick], guesses: dict[int, Guess], room: int
    ) -> dict[int, int]:
        """Rows to be read ahead, by tick."""
        widths = {i: len(ticks[i].outputs) for i in guesses}
        if not self._settings.adaptive:
            numbers = {}
            for i, guess in guesses.items():
                numbers[i] = min(len(guess.rows), max(0, room) // widths[i])
                room -= numbers[i] * widths[i]
            return numbers
        offers = [
            (self._books[ticks[i].session].belief(g.kind).rate, widths[i], len(g.rows))
            for i, g in guesses.items()
        ]
        cells = sum(map(len, ticks))
        return dict(zip(guesses, choose_rows(self._costs, cells, offers, room), strict=True))
