"""Who drafts in a step, and how many rows: by what steps were measured to take and to make.

Nothing here can change what is said, only how soon.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from stretto.engine.pace import Belief, Choice, Costs, Offer, Purse, choose_rows

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
_DOUBT = 0.98
"""With each step in which drafts did not seem to pay, that much less is thought of their cost."""


class Able(NamedTuple):
    """A session that rows may be drafted for.

    Attributes:
        session: it; anything a weak reference can be made to.
        width: cells of a row.
        kind: of what is known of its next rows; None if nothing is.
        rows: that are known.
    """

    session: Any
    width: int
    kind: str | None
    rows: int


class Controller:
    """Decides step by step, and learns from what came of it.

    Args:
        most: drafted rows a session and step.
        parts: by layer, the part of a full step that a row drafted by this exit takes.
    """

    def __init__(self, most: int, parts: Mapping[int, float]) -> None:
        self._most, self._parts = most, parts
        self._beliefs: WeakKeyDictionary[Any, dict[str, Belief]] = WeakKeyDictionary()
        self._common: dict[str, Belief] = {}
        self.plain = Costs()
        self.exits = {layer: Costs(part) for layer, part in parts.items()}
        self.purses = {False: Purse(), True: Purse()}  # of what is known, and of exits
        self._pause = self._rest = self._since = self._declined = 0
        self._cells = self._sessions = self._true = 0

    @property
    def may_guess(self) -> bool:
        """What is known may be drafted."""
        return not self.purses[False].is_empty

    def begin(self, cells: int, sessions: int) -> bool:
        """A step begins; whether drafts may be thought of.

        Args:
            cells: without drafts.
            sessions: that take part.
        """
        self._cells, self._sessions, self._true = cells, sessions, 0
        self._since += 1
        self._rest = max(0, self._rest - 1)
        return not self._rest

    def choose(self, able: Sequence[Able], room: int) -> tuple[int | None, list[int]]:
        """Who drafts: an exit's layer, or None for what is known; and how many rows for each.

        Args:
            able: who may have some, at least one.
            room: cells that may be added.
        """
        known = [i for i, one in enumerate(able) if one.kind is not None and self.may_guess]
        offers = [self._offer(able[i], able[i].kind, able[i].rows) for i in known]
        trust = _DOUBT**self._declined
        found: dict[int | None, tuple[Sequence[int], Choice]] = {
            None: (known, choose_rows(self.plain, self._cells, offers, room, trust=trust))
        }
        for layer in self._layers():
            offers = [self._offer(one, f"exit{layer}", self._most) for one in able]
            choice = choose_rows(
                self.exits[layer], self._cells, offers, room, self.plain.of(self._cells)
            )
            found[layer] = range(len(able)), choice
        best = max(found, key=lambda layer: found[layer][1].speed)
        if best is None and len(found) > 1:
            self._pause = _PAUSE
        self._wait(able, found, best)
        rows = [0] * len(able)
        which, choice = found[best]
        for i, number in zip(which, choice.rows, strict=True):
            rows[i] = number
        if known and best is None:
            self._declined = 0 if any(rows) else self._declined + 1
        if not any(rows):
            self._rest = _PAUSE + 1 if len(able) >= _MANY else 0
            return None, rows
        return best, rows

    def least(self, width: int, layer: int) -> float:
        """How likely a row drafted by an exit must be: as much as it costs, in plain steps."""
        plain, longer = self.plain.of(self._cells), self.plain.of(self._cells + width)
        checking = 0.0 if plain is None or longer is None else longer / plain - 1
        return min(_SURE, self._parts[layer] + max(0.0, checking))

    def tested(self, session: Any, kind: str, true: int, drafted: int) -> None:
        """So many of a session's drafted rows came true."""
        self._belief(session, kind).tested(true, drafted)
        self._true += true

    def measured(self, cells: int, seconds: float, layer: int | None) -> None:
        """The step is over.

        Args:
            cells: that were read.
            seconds: that it took.
            layer: of the exit that drafted; None if none did.
        """
        is_by_exit = layer is not None
        costs = self.plain if layer is None else self.exits[layer]
        costs.measured(cells, seconds)
        if cells == self._cells and not is_by_exit:
            self._since = 0
        plain = self.plain.of(self._cells)
        if plain is None:
            return
        for purse in self.purses.values():
            purse.passed(plain)
        if cells > self._cells or is_by_exit:  # an exit takes time also if it drafts nothing
            made = 1 + self._true / self._sessions
            self.purses[is_by_exit].tried(plain, seconds, made)

    def _layers(self) -> list[int]:
        """Which exits to consider now."""
        self._pause -= 1
        asks = self.plain.of(self._cells) is not None and self._pause <= 0
        asks = asks and self._since < _REFRESH and not self.purses[True].is_empty
        return list(self.exits) if asks else []

    def _offer(self, one: Able, kind: Any, rows: int) -> Offer:
        belief = self._belief(one.session, kind)
        return Offer(belief.rate, one.width, min(rows, belief.reach))

    def _belief(self, session: Any, kind: str) -> Belief:
        own = self._beliefs.setdefault(session, {})
        if kind not in own:
            before = _BEFORE.get(kind, _EXIT_BEFORE)
            own[kind] = Belief(self._common.setdefault(kind, Belief(before)))
        return own[kind]

    def _wait(
        self,
        able: Sequence[Able],
        found: Mapping[int | None, tuple[Sequence[int], Choice]],
        best: int | None,
    ) -> None:
        """What was offered and not taken grows old."""
        kinds = set()
        for layer, (which, choice) in found.items():
            for i, number in zip(which, choice.rows, strict=True):
                if layer != best or not number:
                    kind = f"exit{layer}" if layer is not None else able[i].kind or ""
                    self._belief(able[i].session, kind).waited()
                    kinds.add(kind)
        for kind in kinds:
            self._common[kind].waited()
