"""What is shown of a page, of data and of a table: the constructors that shown source is made of.

Standard library only, so that a sandbox can run this text and then evaluate what it was shown.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Title:
    """Of a page."""

    text: str


@dataclass(frozen=True)
class Heading:
    """``level`` from 1 to 6."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph, or any other run of text."""

    text: str


@dataclass(frozen=True)
class Image:
    """A picture and the text that stands for it."""

    text: str
    source: str = ""


@dataclass(frozen=True)
class Link:
    """``id`` is what ``click`` takes, here and below."""

    id: int
    text: str
    target: str


@dataclass(frozen=True)
class Button:
    """``form`` is the id of the form it is in."""

    id: int
    text: str
    form: int | None = None


@dataclass(frozen=True)
class Form:
    """Its inputs follow; ``id`` is what ``submit`` takes."""

    id: int
    target: str = ""
    method: str = "get"


@dataclass(frozen=True)
class Input:
    """``kind`` as in HTML, or ``textarea`` or ``select``; ``id`` is what ``fill`` takes."""

    id: int
    kind: str
    name: str
    value: str = ""
    label: str = ""
    form: int | None = None
    checked: bool = False


@dataclass(frozen=True)
class Option:
    """A choice of the ``select`` with this id."""

    input: int
    value: str
    text: str


@dataclass(frozen=True)
class Grid:
    """A table of a page; its rows follow."""

    id: int
    caption: str = ""


@dataclass(frozen=True)
class Column:
    """Of a table: name, type, and how many values are missing."""

    name: str
    type: str
    missing: int = 0


@dataclass(frozen=True)
class Row:
    """Cells in the order of the columns; ``grid`` is the id of a page's table."""

    number: int
    cells: list[Any]
    grid: int | None = None


@dataclass(frozen=True)
class Cell:
    """One of a row that is too long to be shown in one piece."""

    row: int
    column: int
    value: Any
    grid: int | None = None


@dataclass(frozen=True)
class Field:
    """The type of what is found at a path; ``[]`` stands for any place, ``{}`` for any key."""

    path: str
    type: str


@dataclass(frozen=True)
class Value:
    """What is at a path, all of it."""

    path: str
    value: Any


@dataclass(frozen=True)
class Number:
    """A number of very many digits."""

    path: str
    digits: str


@dataclass(frozen=True)
class Slice:
    """Some of a list: from place ``first`` on."""

    path: str
    first: int
    values: list[Any]


@dataclass(frozen=True)
class Keys:
    """Some of an object."""

    path: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Rest:
    """The text with which a field of the item with this number goes on."""

    of: int
    field: str
    text: str


@dataclass(frozen=True)
class Page:
    """Items of a page from number ``start`` on; it has ``of``."""

    start: int
    of: int
    items: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Data(Page):
    """The same for JSON."""


@dataclass(frozen=True)
class Table(Page):
    """The same for a table."""
