"""A web page: what a person sees of it, in order, and what can be done with it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from stretto.agents.perception.elements import (
    Button,
    Cell,
    Form,
    Grid,
    Input,
    Link,
    Option,
    Row,
    Title,
)
from stretto.agents.perception.source import Live, fits
from stretto.errors import ConfigError, InputError

Action = Callable[..., Any]

_MAX_HTML = 5_000_000


class LivePage(Live):
    """A page that was read.

    Args:
        html: its text.
        url: where it is from; targets of links are relative to it.
        actions: what is done when something is clicked or sent, all of it synchronous:
            ``open(url)`` for links, ``submit(url, method, fields)`` for forms, ``press(text)`` for
            buttons outside of forms, ``fill(name, value)`` besides what is kept here. What they
            give back, such as the next :class:`LivePage`, is the result.

    Raises:
        ConfigError: beautifulsoup4 is not installed.
        InputError: the page is too large.
    """

    kind = "Page"

    def __init__(
        self, html: str, url: str = "", actions: Mapping[str, Action] | None = None
    ) -> None:
        self.url = url
        self._actions = dict(actions or {})
        if len(html) > _MAX_HTML:
            raise InputError(f"page: it has more than {_MAX_HTML} characters; give a part of it")
        try:
            from stretto.agents.perception.html import Reader
        except ImportError:
            raise ConfigError(
                "pages need beautifulsoup4; run: pip install 'stretto[agents]'"
            ) from None
        reader = Reader(url)
        self._items = list(reader.read(html))
        self._by_id = {item.id: item for item in self._items if hasattr(item, "id")}
        self._sent, self._presses = reader.hidden, reader.presses

    def __stretto_summary__(self) -> str:
        title = next((item.text for item in self._items if isinstance(item, Title)), "")
        return f"{title[:60]!r}, {len(self._items)} items"

    def items(self, room: int) -> Iterator[Any]:
        """In the order of the page; rows that are too long come cell by cell."""
        for item in self._items:
            if isinstance(item, Row) and not fits(item.cells, room - 60):
                for column, value in enumerate(item.cells):
                    yield Cell(item.number, column, value, item.grid)
            else:
                yield item

    def find(self, text: str) -> list[dict[str, Any]]:
        """Items with this text in them, capitals or not, each with its type."""
        wanted = " ".join(text.lower().split())
        return [_plain(item) for item in self._items
                if wanted in " ".join(map(str, asdict(item).values())).lower()]  # fmt: skip

    def get(self, element: int) -> dict[str, Any]:
        """The item with this id.

        Raises:
            InputError: there is none.
        """
        return _plain(self._item(element))

    def rows(self, element: int) -> list[list[str]]:
        """The rows of the table with this id.

        Raises:
            InputError: it is no table.
        """
        self._item(element, Grid)
        return [
            item.cells for item in self._items if isinstance(item, Row) and item.grid == element
        ]

    def click(self, element: int) -> Any:
        """Follow a link or press a button.

        Raises:
            InputError: there is nothing to click there, or nothing happens on this page.
        """
        item = self._item(element, Link, Button)
        if isinstance(item, Link):
            return self._act("open")(item.target)
        kind, name, value = self._presses[element]
        if item.form is not None and kind in ("submit", "image"):
            return self._submit(item.form, {name: value} if name else {})
        return self._act("press")(item.text)

    def fill(self, element: int, value: str | bool) -> str:
        """Write into an input, choose an option by its value or text, or tick a box.

        Raises:
            InputError: there is no input, or it cannot hold this.
        """
        item = self._item(element, Input)
        if item.kind in ("checkbox", "radio"):
            if not isinstance(value, bool):
                raise InputError(
                    f"page: input {element} is a {item.kind}; fill it with True or False"
                )
            for other in list(self._by_id.values()):
                same = isinstance(other, Input) and (other.name, other.form, other.kind) == (
                    item.name, item.form, "radio")  # fmt: skip
                if same and value and item.kind == "radio":
                    self._put(replace(other, checked=False))
            self._put(replace(self._by_id[element], checked=value))
        elif item.kind == "select":
            options = [o for o in self._items if isinstance(o, Option) and o.input == element]
            chosen = [o.value for o in options if str(value) in (o.value, o.text)]
            if not chosen:
                known = ", ".join(repr(o.value) for o in options[:20])
                raise InputError(
                    f"page: input {element} has no option {value!r}; choose from {known}"
                )
            self._put(replace(item, value=chosen[0]))
        else:
            self._put(replace(item, value=str(value)))
        if "fill" in self._actions:
            self._actions["fill"](item.name, value)
        return f"{item.name or item.kind} = {value!r}"

    def submit(self, element: int) -> Any:
        """Send a form as it is filled in.

        Raises:
            InputError: there is no such form, or this page cannot send one.
        """
        self._item(element, Form)
        return self._submit(element, {})

    def _submit(self, element: int, extra: Mapping[str, str]) -> Any:
        form = self._item(element, Form)
        sent = dict(self._sent.get(element, {}))
        for item in self._by_id.values():
            if isinstance(item, Input) and item.form == element and item.name:
                ticked = item.kind not in ("checkbox", "radio")
                if ticked or item.checked:
                    sent[item.name] = item.value if ticked else item.value or "on"
        return self._act("submit")(form.target, form.method, {**sent, **extra})

    def _act(self, name: str) -> Action:
        if name not in self._actions:
            known = ", ".join(self._actions) or "nothing"
            raise InputError(f"page: it cannot {name} anything; it can do {known}")
        return self._actions[name]

    def _item(self, element: int, *kinds: type) -> Any:
        item = self._by_id.get(element)
        if item is None or (kinds and not isinstance(item, kinds)):
            what = " or ".join(kind.__name__.lower() for kind in kinds) or "item"
            found = f"it is a {type(item).__name__.lower()}" if item else "there is nothing"
            raise InputError(f"page: no {what} with id {element!r}: {found}")
        return item

    def _put(self, item: Input) -> None:
        place = next(n for n, each in enumerate(self._items) if getattr(each, "id", 0) == item.id)
        self._items[place] = self._by_id[item.id] = item


def _plain(item: Any) -> dict[str, Any]:
    return {"type": type(item).__name__, **asdict(item)}
