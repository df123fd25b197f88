"""Scripted villagers: oracles, baselines and neighbours.

A policy is a function of the :class:`stretto.commons.fleet.View` and the villager's own column; it
gives (B,) demands, for one village and for thousands. :func:`policy` makes one from a name, as
configs and commands write it: ``threshold``, ``constant:12``, ``random:3``.
"""

from collections.abc import Callable

import numpy as np

from stretto.commons.fleet import Policy, View
from stretto.commons.resource import Units, calm, grow
from stretto.commons.seeds import generator
from stretto.errors import InputError

PLANNED = 2000  # units; a plan is a square of them


def constant(units: int) -> Policy:
    """The same every month, or the whole stock where that is less."""
    return lambda view, _: np.minimum(units, view.stock)


def threshold(over: int = 0) -> Policy:
    """The sustainable share, and ``over`` more."""
    return lambda view, _: np.maximum(view.share + over, 0)


def fair_share(view: View, _: int) -> Units:
    """An equal part of the whole stock: fair, and the end of it."""
    return view.stock // view.rules.villagers


def greedy(view: View, _: int) -> Units:
    """The whole stock."""
    return view.stock.copy()


def half(view: View, _: int) -> Units:
    """Half of the stock, as if nobody else were there."""
    return view.stock // 2


def tit_for_tat(view: View, me: int) -> Units:
    """The share at first; then what the others wanted on average last month, rounded up."""
    if view.month == 1:
        return view.share.copy()
    others = view.demands.sum(axis=1) - view.demands[:, me]
    count = max(view.rules.villagers - 1, 1)
    return np.minimum(-(-others // count), view.stock)


def best_response(view: View, me: int) -> Units:
    """The best for oneself up to the horizon if the others go on as last month.

    In month 1 they are taken to keep to the threshold. Found by dynamic programming over the stock
    (rationing by its mean, no noise), so it knows the horizon, which villagers do not.
    """
    rules = view.rules
    if rules.capacity > PLANNED:
        raise InputError(f"best_response: plans for a capacity of at most {PLANNED} units")
    others_count = rules.villagers - 1
    others = (
        view.share * others_count
        if view.month == 1
        else view.demands.sum(axis=1) - view.demands[:, me]
    )
    answers = np.empty_like(view.stock)
    for total in np.unique(others):
        chosen = _plan(view, int(total))
        rows = others == total
        answers[rows] = chosen[view.stock[rows]]
    return answers


def _plan(view: View, others: int) -> Units:
    """The best demand now, by stock, if the others want ``others`` units in every month."""
    rules, size = view.rules, view.rules.capacity + 1
    stock = np.arange(size)[:, None]  # (K + 1, 1)
    demand = np.arange(size)[None, :]  # (1, K + 1)
    wanted = demand + others
    mine = np.where(wanted <= stock, demand, stock * demand / np.maximum(wanted, 1))
    left = np.maximum(stock - wanted, 0)
    following = grow(calm(rules), left)
    lives = left >= rules.collapse_below
    value, best = np.zeros(size), np.zeros(size, np.int64)
    for _ in range(rules.months - view.month + 1):
        gains = np.where(demand <= stock, mine + lives * value[following], -1.0)
        best, value = gains.argmax(axis=1), gains.max(axis=1)
    return best.astype(np.int64)


def random(seed: int = 0) -> Policy:
    """From nothing to twice the share, all equally likely; drawn by seed, month and villager."""

    def choose(view: View, me: int) -> Units:
        rng = generator(seed, "random policy", view.month, me)
        return rng.integers(0, 2 * view.share + 1)

    return choose


_PLAIN: dict[str, Policy] = {
    "fair_share": fair_share, "greedy": greedy, "half": half,
    "tit_for_tat": tit_for_tat, "best_response": best_response,
}  # fmt: skip
_WITH_NUMBER: dict[str, tuple[Callable[[int], Policy], int | None]] = {
    "threshold": (threshold, 0), "constant": (constant, None), "random": (random, 0),
}  # fmt: skip
NAMES = tuple(sorted([*_PLAIN, *_WITH_NUMBER]))


def policy(name: str, seed: int = 0) -> Policy:
    """The policy of that name, such as ``greedy``, ``constant:12`` or ``threshold:1``.

    Args:
        name: with its number, where it has one.
        seed: of the run: what ``random`` draws, where its name gives no number.

    Raises:
        InputError: there is none, or its number is missing, wrong or not wanted.
    """
    word, colon, number = name.partition(":")
    if word in _PLAIN and not colon:
        return _PLAIN[word]
    if word in _WITH_NUMBER:
        make, default = _WITH_NUMBER[word]
        try:
            value = int(number) if colon else seed if word == "random" else default
        except ValueError:
            value = None
        if value is not None:
            return make(value)
        raise InputError(f"policy {name!r}: {word} needs a whole number, as in {word}:12")
    raise InputError(f"policy {name!r}: there is none; there are {', '.join(NAMES)}")
