"""A conformance kit: what every village must do, whatever its rules.

Give :func:`check_village` a function that opens yours; it plays random games and raises
``AssertionError`` with what is wrong. :class:`stretto.commons.village.Village` passes, so does
anything with its methods.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from stretto.errors import InputError


def check_village(make: Callable[[int], Any], *, games: int = 20, seed: int = 0) -> None:
    """Play random games.

    Args:
        make: seed -> a new village.
        games: how many.
        seed: of the demands.
    """
    rng = np.random.default_rng(seed)
    for number in range(games):
        one, two = make(number), make(number)
        assert not one.ended, "a new game has not ended"
        for month in range(1, one.rules.months + 1):
            assert one.month == month, f"month {month} is called {one.month}"
            assert 0 <= one.stock <= one.rules.capacity, f"stock {one.stock} is out of bounds"
            most = int(rng.integers(0, one.rules.capacity + 1))
            demands: dict[str, int | None] = {
                name: int(rng.integers(0, most + 1)) for name in one.names
            }
            demands[one.names[0]] = None if rng.random() < 0.1 else demands[one.names[0]]
            first, second = one.harvest(demands), two.harvest(demands)
            assert first == second, "the same seed and demands gave another harvest"
            _check_harvest(one, first, demands)
            _refuses(lambda: one.harvest(demands), "a second harvest in one month")  # noqa: B023
            assert one.ended == (first.collapsed or month == one.rules.months)
            if one.ended:
                _refuses(one.next_month, "a month after the end")
                break
            one.next_month()
            two.next_month()
            assert one.stock == two.stock, "the same seed gave another growth"
        game = one.game()
        assert game.months == len(one.harvests)
        assert (game.stock - game.received.sum(axis=1) == game.left).all(), "units were lost"


def _check_harvest(village: Any, told: Any, demands: dict[str, int | None]) -> None:
    taken = sum(told.received.values())
    assert told.left == told.stock - taken, "units were lost"
    for name, wanted in demands.items():
        assert 0 <= told.received[name] <= (wanted or 0), f"{name} got more than was wanted"
    if not village.rules.caps:
        wanted = sum(value or 0 for value in demands.values())
        assert taken == min(wanted, told.stock), "what is there must be handed out"
    assert told.collapsed == (told.left < village.rules.collapse_below)


def _refuses(call: Callable[[], Any], what: str) -> None:
    try:
        call()
    except InputError:
        return
    raise AssertionError(f"{what} must raise InputError")
