"""How many drafted rows are worth reading: measured cost of a pass against measured acceptance.

Reading more cells in a pass is never assumed to be free. With a the probability that a drafted row
comes true if those before it did, the d-th row is worth a^d rows and costs what the pass gets
longer by; rows are added while that beats what the step makes without them (Elhoushi et al. 2024
choose by a sweep; DEL, arXiv 2504.05598, at run time).
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf
from typing import NamedTuple

_CLIP = 0.3
"""A measurement moves the estimate as if it differed by this part at most: stalls are common."""
_STEP = 0.15
_DOUBLE = 2.0
_FEW = 5
_SLOPE = 0.02
_LOOK = 12
"""Rows beyond the best choice so far that are looked at: a pass's cost grows in stairs."""
_TRUST = 0.8
"""A step is never thought to cost less than this part of what ``slope`` says."""
_FORGET = 0.98
_FADE = 0.99
_ALLOWANCE = 0.01
_FIRST = 1.5
"""Steps that it begins with, for the first trials of an engine."""
_MOST_STEPS = 8.0
"""What a purse holds at most: so many steps."""
_MARGIN = 1.03
"""Drafts have to promise so much: what they promise is an estimate, and trying costs time."""
_REACH = 1
"""Rows of the first trial."""
_WEIGHT = 2.0
"""Rows that the belief before any trial counts for."""


class Costs:
    """Seconds of a step by the number of its cells.

    Args:
        slope: what a drafted cell is thought to cost before it was measured, as a part of a step
            without: little enough to be tried.

    Attributes:
        slope: as given.
    """

    def __init__(self, slope: float = _SLOPE) -> None:
        self.slope = slope
        self._cells: list[int] = []
        self._seconds: dict[int, float] = {}
        self._times: dict[int, int] = {}

    def measured(self, cells: int, seconds: float) -> None:
        """Take note of a step."""
        old = self._seconds.get(cells)
        if old is None:
            self._seconds[cells], self._times[cells] = min(seconds, self._most(cells)), 1
            insort(self._cells, cells)
            return
        # The first steps of a size are slow: what comes after them counts more.
        self._times[cells] += 1
        step, most = (0.5, 0.9) if self._times[cells] <= _FEW else (_STEP, _CLIP)
        off = max(-most, min(_CLIP, seconds / old - 1))
        self._seconds[cells] = old * (1 + step * off)

    def _most(self, cells: int) -> float:
        """What a step can take at most, by those over fewer cells: as long as several of them."""
        place = bisect_left(self._cells, cells)
        if not place:
            return inf
        fewer = self._cells[place - 1]
        return self._seconds[fewer] * max(_DOUBLE, cells / fewer)

    def of(self, cells: int) -> float | None:
        """What a step over so many cells takes; None before anything was measured."""
        known = self._cells
        if not known:
            return None
        right = bisect_left(known, cells)
        if right == len(known):
            least = min(self._seconds.values())
            return max(self._seconds[known[-1]], least) + self.slope * least * (cells - known[-1])
        after = self._seconds[known[right]]
        if known[right] == cells or not right:
            return after
        before = self._seconds[known[right - 1]]
        part = (cells - known[right - 1]) / (known[right] - known[right - 1])
        return before + part * (after - before)


class Belief:
    """How often a drafted row comes true, given that those before it did.

    Args:
        before: what to think before any trial: a rate, or what is known of all sessions together.
    """

    def __init__(self, before: "float | Belief") -> None:
        self._before, self._true, self._tested, self._trials = before, 0.0, 0.0, 0.0

    @property
    def rate(self) -> float:
        """The conditional acceptance rate, between 0 and 1."""
        before = self._before.rate if isinstance(self._before, Belief) else self._before
        return (self._true + before * _WEIGHT) / (self._tested + _WEIGHT)

    @property
    def reach(self) -> int:
        """Rows that may be drafted: few at first, more with every trial of any session.

        A long first trial may lose all that may be lost in many steps before anything is known.
        """
        if isinstance(self._before, Belief):
            return self._before.reach
        return _REACH + int(self._trials)

    def tested(self, true: int, drafted: int) -> None:
        """Rows came true; the next one, if there was one, did not."""
        self._trials += 1
        self._true = _FORGET * self._true + true
        self._tested = _FORGET * self._tested + min(true + 1, drafted)
        if isinstance(self._before, Belief):
            self._before.tested(true, drafted)

    def waited(self) -> None:
        """Nothing was tried: what is known grows old, so that it is tried again some time."""
        self._true *= _FADE
        self._tested *= _FADE
        self._trials *= _FADE


class Purse:
    """Bounds what drafts of one kind may lose: they live on what they gain, and a small allowance.

    So drafting that does not pay makes a session slower by ``_ALLOWANCE`` at most, whatever costs
    and acceptance were thought to be.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._is_new = self._is_untried = True

    @property
    def is_empty(self) -> bool:
        """Nothing may be tried now."""
        return self._seconds < 0

    def passed(self, plain: float) -> None:
        """A step was made that takes so long without drafts."""
        gift = _FIRST if self._is_new else _ALLOWANCE
        self._is_new = False
        # The first step reads a prompt and is long: what may be lost is meant in ordinary steps.
        most = _FIRST if self._is_untried else _MOST_STEPS
        self._seconds = min(self._seconds + gift * plain, most * plain)

    def tried(self, plain: float, seconds: float, rows: float) -> None:
        """A step with drafts took ``seconds``, and made ``rows`` times as many as without."""
        self._is_untried = False
        took = min(seconds, 3 * plain)  # a stall is nobody's fault
        self._seconds = min(self._seconds + rows * plain - took, _MOST_STEPS * plain)


class Offer(NamedTuple):
    """Rows that one session may read ahead.

    Attributes:
        rate: acceptance rate of one, given those before it.
        width: cells of one.
        rows: how many there can be.
    """

    rate: float
    width: int
    rows: int


@dataclass(frozen=True)
class Choice:
    """How a step would look.

    Attributes:
        rows: to be read ahead, for each offer.
        speed: rows a second that are expected of all sessions together.
    """

    rows: list[int]
    speed: float


def choose_rows(
    costs: Costs,
    cells: int,
    offers: Sequence[Offer],
    room: int,
    plain: float | None = None,
    trust: float = 1.0,
) -> Choice:
    """How many rows of each offer to read in a step.

    Args:
        costs: of a step with drafts of this kind.
        cells: that it has anyway.
        offers: of each session.
        room: cells that may be added.
        plain: seconds of the step without drafts, if ``costs`` does not know.
        trust: how much is thought of measured costs, from 1 to 0: as little as of unknown ones.
    """
    chosen, worth, total = [0] * len(offers), float(max(1, len(offers))), cells
    now = costs.of(cells) if plain is None else plain
    if now is None:
        return Choice(chosen, 0.0)
    start, late = now, 0
    best, gains = Choice([*chosen], worth / now), [offer.rate for offer in offers]
    waiting = [(-o.rate / o.width, i) for i, o in enumerate(offers) if o.rows]
    heapify(waiting)
    while waiting and late < _LOOK:
        _, i = heappop(waiting)
        rate, width, rows = offers[i]
        if total + width - cells > room:
            continue
        # Measured steps are noisy: a longer one may seem hardly longer.
        least = now + _TRUST * costs.slope * start
        now = least + trust * max(0.0, (costs.of(total + width) or least) - least)
        chosen[i] += 1
        worth, total, late = worth + gains[i], total + width, late + 1
        gains[i] *= rate
        if chosen[i] < rows:
            heappush(waiting, (-gains[i] / width, i))
        if worth / now > best.speed * (1 if any(best.rows) else _MARGIN):
            best, late = Choice([*chosen], worth / now), 0
    return best
