"""Tools for ``stretto demo-agent``: all of them work on this machine, with no network."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stretto.agents.registry import Registry
from stretto.agents.tool import Tool
from stretto.errors import InputError

_UNITS = {
    "mile": ("length", 1609.344), "kilometre": ("length", 1000.0), "metre": ("length", 1.0),
    "foot": ("length", 0.3048), "inch": ("length", 0.0254),
    "pound": ("mass", 0.45359237), "kilogram": ("mass", 1.0), "gram": ("mass", 0.001),
    "hour": ("time", 3600.0), "minute": ("time", 60.0), "second": ("time", 1.0),
}  # fmt: skip
_NAMES = {"feet": "foot", "inches": "inch", "km": "kilometre", "kg": "kilogram", "m": "metre"}
# Rounded, of about 2024: enough to look something up in.
_CITIES = {
    "oslo": ("Norway", 717_000), "paris": ("France", 2_100_000), "nairobi": ("Kenya", 4_800_000),
    "kyoto": ("Japan", 1_440_000), "lima": ("Peru", 10_100_000), "rome": ("Italy", 2_750_000),
}  # fmt: skip


@dataclass
class House:
    """A simulated house: what its thermostats are set to, in degrees Celsius."""

    rooms: dict[str, float] = field(
        default_factory=lambda: {"kitchen": 18.0, "bedroom": 16.0, "bathroom": 20.0}
    )


def convert_units(value: float, unit: str, into: str) -> dict[str, Any]:
    """Convert a length, mass or time between units such as miles, pounds or hours.

    Args:
        value: the amount to convert.
        unit: the unit it is in.
        into: the unit wanted.
    """
    (kind, size), (other, wanted) = _unit(unit), _unit(into)
    if kind != other:
        raise InputError(f"{unit} is a {kind} and {into} a {other}: give units of one kind")
    return {"value": round(value * size / wanted, 2), "unit": into}


def _unit(name: str) -> tuple[str, float]:
    plain = name.strip().lower().replace("meter", "metre")
    plain = _NAMES.get(plain, plain.removesuffix("s"))
    if plain not in _UNITS:
        raise InputError(f"no unit {name!r}; choose from {', '.join(_UNITS)}")
    return _UNITS[plain]


def find_city(city: str) -> dict[str, Any]:
    """Look up the country and the population of a city: how many people live there.

    Args:
        city: name of the city.
    """
    if city.strip().lower() not in _CITIES:
        raise InputError(f"no city {city!r} in the table; it has {', '.join(_CITIES).title()}")
    country, people = _CITIES[city.strip().lower()]
    return {"city": city.strip().title(), "country": country, "population": people}


def add_numbers(a: float, b: float) -> dict[str, Any]:
    """Add two numbers, one plus the other: their sum.

    Args:
        a: the first number.
        b: the second number.
    """
    return {"sum": round(a + b, 10)}


def demo_registry(folder: Path) -> Registry:
    """The tools, with a house of their own; notes are written into ``folder``."""
    house = House()

    def set_thermostat(room: str, degrees: float) -> dict[str, Any]:
        """Set the thermostat of a room in the simulated house to a temperature.

        Args:
            room: the room, such as 'kitchen', 'bedroom' or 'bathroom'.
            degrees: the temperature in degrees Celsius.
        """
        if room not in house.rooms:
            raise InputError(f"no room {room!r}; the house has {', '.join(house.rooms)}")
        if not 5 <= degrees <= 30:
            raise InputError(f"{degrees:g} degrees: choose from 5 to 30")
        house.rooms[room] = degrees
        return {"room": room, "degrees": degrees}

    def write_note(title: str, text: str) -> dict[str, Any]:
        """Write a note into a file.

        Args:
            title: title of the note.
            text: what the note says.
        """
        path = folder / (re.sub(r"\W+", "-", title.lower()).strip("-")[:40] + ".txt")
        path.write_text(f"{title}\n\n{text}\n", encoding="utf-8")
        return {"file": path.name, "characters": len(text)}

    return Registry(
        [
            Tool(convert_units, effect="pure"),
            Tool(find_city, effect="read"),
            Tool(add_numbers, effect="pure"),
            Tool(set_thermostat, effect="write", kind="physical"),
            Tool(write_note, effect="write"),
        ]
    )
