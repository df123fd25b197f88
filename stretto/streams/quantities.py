"""Numbers in a text, and what its words and signs stand for: "half", "20%", "a week", "3/4"."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache

ALWAYS_KNOWN = frozenset({0.0, 1.0, 2.0})
"""Numbers that need no source."""

CONVERSIONS = (1000.0, 100.0, 60.0, 24.0, 12.0, 10.0, 7.0)
"""Factors between units: a computed result may be told again in another unit."""

_UNITS = {
    "%": (100,), "percent": (100,), "percentage": (100,), "cent": (100,), "cents": (100,),
    "dollar": (100,), "dollars": (100,), "$": (100,), "second": (60,), "seconds": (60,),
    "minute": (60,), "minutes": (60,),  "hour": (60, 24), "hours": (60, 24),
    "day": (7, 24, 30), "days": (7, 24, 30), "daily": (7, 30), "week": (7, 4, 52),
    "weeks": (7, 4, 52), "weekly": (4, 52), "weekday": (5,), "weekdays": (5,),
    "weekend": (2,), "month": (12, 30, 4), "months": (12, 30, 4), "monthly": (12,),
    "year": (12, 52, 365), "years": (12, 52, 365), "yearly": (12,), "annual": (12,),
    "annually": (12,), "decade": (10,), "decades": (10,), "century": (100,), "foot": (12,),
    "feet": (12, 3), "inch": (12,), "inches": (12,), "yard": (3,), "yards": (3,),
    "pound": (16,), "pounds": (16,), "ounce": (16,), "ounces": (16,), "gallon": (4,),
    "gallons": (4,), "km": (1000,), "kilometers": (1000,), "meters": (100, 1000), "kg": (1000,),
    "kilograms": (1000,), "liter": (1000,), "liters": (1000,), "quarters": (25,),
    "dime": (10,), "dimes": (10,), "nickel": (5,), "nickels": (5,), "spider": (8,),
    "spiders": (8,), "ton": (2000,), "tons": (2000,), "kilowatt": (1000,), "watt": (1000,),
    "kwh": (1000,), "pint": (8, 2), "quart": (4,), "square": (4,), "am": (12,), "pm": (12,),
    "noon": (12,), "midnight": (12,),
}  # fmt: skip
"""What everybody knows of a unit; it counts only where the unit's word has been read."""

_SPELLED = {
    word: float(value)
    for value, words in {
        1: "one single once", 2: "two twice double doubles doubled both pair couple",
        3: "three thrice triple triples tripled", 4: "four quadruple", 5: "five", 6: "six",
        7: "seven", 8: "eight", 9: "nine", 10: "ten", 11: "eleven", 12: "twelve dozen dozens",
        13: "thirteen", 14: "fourteen", 15: "fifteen", 16: "sixteen", 17: "seventeen",
        18: "eighteen", 19: "nineteen", 20: "twenty", 30: "thirty", 40: "forty", 50: "fifty",
        60: "sixty", 70: "seventy", 80: "eighty", 90: "ninety", 100: "hundred", 1000: "thousand",
        1_000_000: "million",
    }.items()
    for word in words.split()
}  # fmt: skip

_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4,
    "fourths": 4, "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "seventh": 7, "sevenths": 7,
    "eighth": 8, "eighths": 8, "ninth": 9, "tenth": 10, "tenths": 10, "twentieth": 20,
}  # fmt: skip

_TOKEN = re.compile(
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)|(?P<word>[A-Za-z]+)|(?P<sign>[%$])"
)
_TENS_UNITS = re.compile(r"\b([a-z]+ty)-([a-z]+)\b")
_FRACTION = re.compile(r"(\d+)\s*/\s*(\d+)")
_PERCENT = re.compile(r"(\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)\s*(?:%|percent)")
_CENTS = re.compile(r"(\d+)\s*(?:cents|\u00a2)")
_THOUSANDS = re.compile(r"(\d+(?:\.\d+)?)\s*(k\b|thousand|million)", re.IGNORECASE)


@dataclass(frozen=True)
class Number:
    """A number as it stands in a text.

    Attributes:
        text: as written.
        value: its value.
        start: index of its first character.
        end: index after its last.
    """

    text: str
    value: float
    start: int
    end: int


@cache
def numbers(text: str) -> tuple[Number, ...]:
    """Numbers in digits or spelled out, in order; "half" and "third" are 2 and 3 here."""
    found = []
    for match in _TOKEN.finditer(text):
        if match["digits"]:
            value = float(match[0].replace(",", ""))
        elif match["word"] and match[0].lower() in _SPELLED:
            value = _SPELLED[match[0].lower()]
        elif match["word"] and match[0].lower() in _PARTS:
            value = float(_PARTS[match[0].lower()])
        else:
            continue
        found.append(Number(match[0], value, match.start(), match.end()))
    return tuple(found)


@cache
def quantities(text: str) -> frozenset[float]:
    """Every value a reader of the text has: its numbers, and what words and signs stand for."""
    values = {number.value for number in numbers(text)}
    lower = text.lower()
    for match in _TENS_UNITS.finditer(lower):
        if match[1] in _SPELLED and match[2] in _SPELLED:
            values.add(_SPELLED[match[1]] + _SPELLED[match[2]])
    for match in _TOKEN.finditer(lower):
        values |= {float(value) for value in _UNITS.get(match[0], ())}
    for match in _THOUSANDS.finditer(text):
        values.add(float(match[1]) * (1e6 if match[2].lower() == "million" else 1e3))
    values |= {float(match[1]) / 100 for match in _CENTS.finditer(lower)}
    for share in _shares(lower):
        values |= {share, 1 - share, 1 + share}
    for match in _PERCENT.finditer(lower):
        percent = float(match[1].replace(",", ""))
        values |= {100 - percent, 100 + percent}
    return frozenset(values)


def same(value: float, known: Collection[float]) -> bool:
    """Whether a value is among known ones, as far as two decimals show."""
    if value in known:
        return True
    return any(abs(value - other) <= 0.006 * min(1.0, abs(other)) for other in known)


def _shares(lower: str) -> Iterable[float]:
    """Parts of a whole: per cent, fractions in digits, fractions in words."""
    yield from (float(m[1].replace(",", "")) / 100 for m in _PERCENT.finditer(lower))
    yield from (int(m[1]) / int(m[2]) for m in _FRACTION.finditer(lower) if int(m[2]))
    words = re.findall(r"[a-z]+", lower)
    for before, word in zip(["", *words], [*words, ""], strict=True):
        if word in _PARTS:
            count = _SPELLED.get(before, 1.0)
            yield count / _PARTS[word] if count < _PARTS[word] else 1 / _PARTS[word]
        elif word == "percent" and before in _SPELLED:
            yield _SPELLED[before] / 100
