"""The dates of a game: it begins on 1 January 2024, as in the reference."""

from calendar import monthrange
from datetime import date, timedelta

_FIRST = 2024


def first_day(month: int) -> date:
    """When month ``month`` (from 1) is harvested."""
    return date(_FIRST + (month - 1) // 12, (month - 1) % 12 + 1, 1)


def last_day(month: int) -> date:
    """When villagers reflect on it."""
    first = first_day(month)
    return first.replace(day=monthrange(first.year, first.month)[1])


def meeting_day(month: int) -> date:
    """When they meet: the day before the last."""
    return last_day(month) - timedelta(days=1)
