"""Who gets what when more is wanted than there is.

Both laws are those of the reference environment: ``stochastic`` hands out unit by unit, each to
one drawn with equal chances among those who still want; ``proportional`` gives each the rounded
down share of what they want, and the rest at random, weighted by what they still want.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stretto.commons.resource import Units
from stretto.errors import InputError

# Sums over 100,000 villagers, and products with a stock, stay far within 64 bits.
MOST = 10**9


def allocate(
    demands: Units, stock: Units, rng: np.random.Generator, law: str = "stochastic"
) -> Units:
    """Units each villager receives.

    Args:
        demands: (B villages, N villagers), none negative.
        stock: (B,) units.
        rng: drawn from only for villages that want more than there is, in their order.
        law: ``stochastic`` or ``proportional``.

    Returns:
        (B, N): the demands where the stock suffices; otherwise the whole stock is handed out.

    Raises:
        InputError: a negative or fractional demand, or a law that does not exist.
    """
    demands, stock = whole(demands), np.asarray(stock, np.int64)
    if demands.size and demands.min() < 0:
        raise InputError(f"demands: must not be negative, one is {demands.min()}")
    if law not in ("stochastic", "proportional"):
        raise InputError(f"allocation: no law {law!r}; there are stochastic and proportional")
    short = demands.sum(axis=1) > stock
    if not short.any():
        return demands.copy()
    got = demands.copy()
    some = _stochastic if law == "stochastic" else _proportional
    got[short] = some(demands[short], stock[short], rng)
    return got


def whole(demands: object) -> Units:
    """Demands as an array of whole units, at most :data:`MOST` each: beyond, nothing changes.

    Raises:
        InputError: one is not a whole number.
    """
    array = np.asarray(demands)
    shape = array.shape
    if array.dtype.kind == "O":  # as ints beyond 64 bits are
        array = np.array([min(one, MOST) if isinstance(one, int) else 0.5 for one in array.flat])
        array = array.reshape(shape)
    if array.dtype.kind not in "iu" and not _is_whole(array):
        raise InputError("demands: must be whole units")
    return np.minimum(array, MOST).astype(np.int64, copy=False)


def _is_whole(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" and bool((array == np.floor(array)).all())


def _stochastic(demands: Units, stock: Units, rng: np.random.Generator) -> Units:
    """Unit by unit, drawn in few rounds.

    Draw a villager for every unit that is left, among those who want more; what exceeds a
    villager's demand goes into the next round. Units that were drawn for the satisfied are drawn
    anew among the others, which is what drawing one by one among those who still want does.
    """
    got = np.zeros_like(demands)
    left = stock.copy()
    while left.any():
        wanting = got < demands
        chances = wanting / np.maximum(wanting.sum(axis=1, keepdims=True), 1)
        drawn = rng.multinomial(left, chances)
        new = np.minimum(got + drawn, demands)
        left -= (new - got).sum(axis=1)
        got = new
    return got


def _proportional(demands: Units, stock: Units, rng: np.random.Generator) -> Units:
    got = np.zeros_like(demands)
    for i, (wants, there) in enumerate(zip(demands, stock, strict=True)):
        got[i] = wants * there // wants.sum()
        for _ in range(int(there - got[i].sum())):
            unmet = wants - got[i]
            got[i, rng.choice(len(wants), p=unmet / unmet.sum())] += 1
    return got


def one_by_one(demands: Units, stock: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    """The stochastic law as the reference draws it, for (N,) demands: slow, and the twin in tests.

    With ``numpy.random.RandomState`` it makes the reference's very draws.
    """
    unmet = np.asarray(demands, np.int64).copy()
    got = np.zeros_like(unmet)
    while stock > 0 and (wanting := np.flatnonzero(unmet)).size:
        chosen = rng.choice(wanting)
        got[chosen] += 1
        unmet[chosen] -= 1
        stock -= 1
    return got
