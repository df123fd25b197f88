"""HTML to the items of a page.

Scripts, styles and what is hidden (``hidden``, ``display: none``) are left out: nobody sees it, and
text that only a model reads is what an attacker would write. A table is shown as rows of text, its
links and inputs after it. Needs beautifulsoup4.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any, Literal
from urllib.parse import urljoin

from bs4 import BeautifulSoup
from bs4.builder import ParserRejectedMarkup
from bs4.element import NavigableString, PreformattedString, Tag

from stretto.agents.perception.elements import (
    Button,
    Form,
    Grid,
    Heading,
    Image,
    Input,
    Link,
    Option,
    Row,
    Text,
    Title,
)
from stretto.errors import InputError

Inner = Literal["all", "actions", "nothing"]

_DROPPED = {"script", "style", "template", "noscript", "head", "title", "svg", "iframe", "object"}
_INLINE = {
    "a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "dfn", "em", "font", "i", "kbd",
    "label", "mark", "q", "s", "samp", "small", "span", "strong", "sub", "sup", "time", "tt", "u",
    "var", "wbr",
}  # fmt: skip
_HEADING = re.compile(r"h([1-6])")
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_PRESSED = {"submit", "button", "reset", "image"}
_CELLS = ["td", "th"]
_LABEL = 200  # characters of a label; all of it is among the texts
_LAYOUT = ["table", "form", "h1", "h2", "h3", "h4", "h5", "h6"]


class Reader:
    """One walk through a page.

    Args:
        url: that targets are relative to.
    """

    def __init__(self, url: str) -> None:
        self._url, self._made = url, 0
        self._forms: dict[int, int] = {}  # id by the identity of the tag
        self._labels: dict[str, str] = {}
        self._words: list[str] = []
        self.hidden: dict[int, dict[str, str]] = {}  # fields of forms that nobody sees
        self.presses: dict[int, tuple[str, str, str]] = {}  # kind, name and value of buttons

    def read(self, html: str) -> Iterator[Any]:
        """Items in order.

        Raises:
            InputError: the parser refuses it, as that of older Pythons does with ``<![x``.
        """
        try:
            # Of one line without a tag the parser would warn that it may be the name of a file.
            soup = BeautifulSoup(html if "<" in html else f"{html}\n", "html.parser")
        except ParserRejectedMarkup as error:
            raise InputError(f"page: it is no HTML: {' '.join(str(error).split())}") from None
        for label in soup.find_all("label"):
            if target := _attribute(label, "for"):
                self._labels.setdefault(target, _text(label, {"label"})[:_LABEL])
        if soup.title is not None and _text(soup.title):
            yield Title(_text(soup.title))
        yield from self._walk(soup)
        yield from self._flush()

    def _walk(self, root: Tag) -> Iterator[Any]:
        """What is within, without recursion: a page may be nested as deeply as it likes."""
        stack: list[tuple[Iterator[Any], bool]] = [(iter(root.children), True)]
        while stack:
            children, plain = stack[-1]
            node = next(children, None)
            if node is None:
                stack.pop()
            elif node is _BREAK:
                yield from self._flush()
            elif isinstance(node, Tag):
                if _is_hidden(node):
                    self._keep(node)
                    continue
                found, inner = self._tag(node, plain)
                if found:
                    yield from self._flush()
                    yield from found
                if inner != "nothing":
                    edge = [] if node.name in _INLINE and not found else [_BREAK]
                    stack.append((iter([*edge, *node.children, *edge]), plain and inner == "all"))
            elif plain and _is_text(node):
                self._words.append(str(node))

    def _flush(self) -> Iterator[Text]:
        text = " ".join("".join(self._words).split())
        self._words.clear()
        if text:
            yield Text(text)

    def _tag(self, tag: Tag, plain: bool) -> tuple[list[Any], Inner]:
        """The items of a tag, and which of those within it follow.

        Without ``plain`` its text was shown already: only what can be acted on is left.
        """
        name = tag.name
        if name == "a" and tag.has_attr("href"):
            target = self._target(tag, "href")
            return [Link(self._id(), _text(tag, {"a"}), target)], "actions"
        if name == "button" or (name == "input" and _kind(tag) in _PRESSED):
            return [self._button(tag)], "nothing"
        if name in ("input", "textarea", "select"):
            return self._input(tag), "nothing"
        if name == "form" and self._form_of(tag) is None:  # a form within a form is none
            return [self._form(tag)], "all"
        if not plain:
            return [], "all"
        heading = _HEADING.fullmatch(name)
        if heading:
            return [Heading(int(heading[1]), _text(tag))], "actions"
        if name == "table" and tag.find(_LAYOUT) is None and tag.find(_CELLS) is not None:
            return self._table(tag), "actions"
        if name == "img":
            alt, source = _attribute(tag, "alt"), self._target(tag, "src")
            return [Image(alt, source)] if alt else [], "nothing"
        if name == "pre":
            return [Text(tag.get_text())], "actions"
        return [], "all"

    def _form(self, tag: Tag) -> Form:
        made = self._forms[id(tag)] = self._id()
        target = self._target(tag, "action")
        return Form(made, target, (_attribute(tag, "method") or "get").lower())

    def _button(self, tag: Tag) -> Button:
        made = self._id()
        kind = (_attribute(tag, "type") or "submit").lower()
        value = _attribute(tag, "value")
        self.presses[made] = kind, _attribute(tag, "name"), value
        text = _text(tag) or value or _attribute(tag, "aria-label") or kind
        return Button(made, text, self._form_of(tag))

    def _input(self, tag: Tag) -> list[Any]:
        name, made = _attribute(tag, "name"), self._id()
        kind = _kind(tag) if tag.name == "input" else tag.name
        value = _attribute(tag, "value") if tag.name == "input" else ""
        options = []
        if kind == "textarea":
            value = tag.get_text().removeprefix("\n")
        elif kind == "select":
            tags = tag.find_all("option")
            texts = [_text(option, {"option"}) for option in tags]
            options = [Option(made, _attribute(o, "value") if o.has_attr("value") else text, text)
                       for o, text in zip(tags, texts, strict=True)]  # fmt: skip
            chosen = [o for o, t in zip(options, tags, strict=True) if t.has_attr("selected")]
            value = (chosen or options or [Option(0, "", "")])[0].value
        label = self._labels.get(_attribute(tag, "id"), "") or self._around(tag)
        label = label or _attribute(tag, "aria-label") or _attribute(tag, "placeholder")
        shown = Input(made, kind, name, value, label, self._form_of(tag), tag.has_attr("checked"))
        return [shown, *options]

    def _table(self, tag: Tag) -> list[Any]:
        made = self._id()
        rows: dict[int, list[str]] = {}
        for cell in tag.find_all(_CELLS):
            row = cell.find_parent("tr") or tag
            if not _is_hidden(row):
                # Where nobody closed a cell, the next one is within it.
                rows.setdefault(id(row), []).append(_text(cell, {*_CELLS, "tr"}))
        grid = Grid(made, _text(tag.caption, {*_CELLS, "tr"}) if tag.caption else "")
        return [grid, *(Row(number, cells, made) for number, cells in enumerate(rows.values()))]

    def _around(self, tag: Tag) -> str:
        """Text of the label that a tag is in."""
        parent = tag.find_parent("label")
        if parent is None:
            return ""
        key = f"\0{id(parent)}"  # no attribute holds a zero
        if key not in self._labels:
            self._labels[key] = _text(parent, {"label"})[:_LABEL]
        return self._labels[key]

    def _keep(self, tag: Tag) -> None:
        """A hidden field is sent with its form, though it is not shown."""
        form = self._form_of(tag)
        if tag.name == "input" and form is not None and _attribute(tag, "name"):
            fields = self.hidden.setdefault(form, {})
            fields[_attribute(tag, "name")] = _attribute(tag, "value")

    def _form_of(self, tag: Tag) -> int | None:
        found = (self._forms.get(id(parent)) for parent in tag.find_parents("form"))
        return next((form for form in found if form is not None), None)

    def _target(self, tag: Tag, name: str) -> str:
        written = _attribute(tag, name)
        try:
            return urljoin(self._url, written)
        except ValueError:  # no address, such as http://[
            return written

    def _id(self) -> int:
        self._made += 1
        return self._made


_BREAK = object()  # a block begins or ends


def _is_hidden(tag: Tag) -> bool:
    return (
        tag.name in _DROPPED
        or tag.has_attr("hidden")
        or (tag.name == "input" and _kind(tag) == "hidden")
        or bool(_HIDDEN.search(_attribute(tag, "style")))
    )


def _is_text(node: Any) -> bool:
    """Not a comment, nor any of its kin."""
    return isinstance(node, NavigableString) and not isinstance(node, PreformattedString)


def _kind(tag: Tag) -> str:
    return (_attribute(tag, "type") or "text").lower()


def _attribute(tag: Tag, name: str) -> str:
    value = tag.get(name)
    return " ".join(value) if isinstance(value, list) else str(value or "")


def _text(tag: Tag, without: Collection[str] = ()) -> str:
    """What a person reads of it: not what is hidden within, nor tags of these names."""
    words: list[str] = []
    stack: list[Iterator[Any]] = [iter(tag.children)]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
        elif isinstance(node, Tag):
            if not _is_hidden(node) and node.name not in without:
                edge = [] if node.name in _INLINE else [" "]
                stack.append(iter([*edge, *node.children, *edge]))
        elif _is_text(node) or node == " ":
            words.append(str(node))
    return " ".join("".join(words).split())
