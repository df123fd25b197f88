"""A stream of code to its top-level statements, as the text arrives.

A statement is told as soon as nothing that follows can belong to it: a simple one at the end of
its line, ``def`` and its like at the next token in the first column, ``if``, ``for``, ``while`` and
``try`` once that token is seen not to be one of their clauses. What comes out is what ``ast.parse``
finds in the whole text, in whatever pieces it came.

The scanner finds logical lines: strings (f-strings within f-strings from Python 3.12 on), brackets,
comments and joined lines; the interpreter's own parser judges everything else.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stretto.agents.syntax import ERRORS, Malformed, malformed, parse, segment, unfinished

_NESTED_FORMATS = sys.version_info >= (3, 12)  # PEP 701

_INDENT = re.compile(r"[ \t\f]*")
_WORD = re.compile(r"\w*")
_ASYNC = re.compile(r"async[ \t\f]+(\w*)")
_SPECIAL = re.compile(r"[\n#'\"\\()\[\]{}]")
_SPECIAL_IN_FIELD = re.compile(r"[\n#'\"\\()\[\]{}:]")
_PREFIX = re.compile(r"(?i)(?<!\w)[rbuft]{1,2}$")
_IN_STRING = {mark: re.compile(rf"[\\\n{{}}{mark}]") for mark in "'\""}
_CLOSING = {")": "(", "]": "[", "}": "{"}

_ALL = frozenset({"elif", "else", "except", "finally"})
_NONE = frozenset[str]()
_CLAUSES = {
    "if": frozenset({"elif", "else"}),
    "for": frozenset({"else"}),
    "while": frozenset({"else"}),
    "try": frozenset({"except", "else", "finally"}),
    "with": _NONE,
    "def": _NONE,
    "class": _NONE,
    "match": _NONE,
    "@": _NONE,
    "": _ALL,  # begun in a way that tells too little, as by a joined line
}
_LAST_CLAUSE = {("if", "else"), ("for", "else"), ("while", "else"), ("try", "finally")}


@dataclass(frozen=True)
class Statement:
    """One complete top-level statement.

    Attributes:
        index: place among the statements, from 0.
        source: its text, decorators included, without comments around it; lines end in LF.
        line: where it begins in the whole text, from 1.
        kind: name of its node, such as ``Assign`` or ``FunctionDef``.
    """

    index: int
    source: str
    line: int
    kind: str


@dataclass
class _Quote:
    """An open string; a replacement field of a formatted one is a bracket on top of it.

    A field within a format spec stands on a string of its own, ``nested``, which it ends.
    """

    mark: str
    formatted: bool
    nested: bool = False
    in_spec: bool = False


class Splitter:
    """Complete statements of code that comes in pieces.

    After an error nothing more is taken; :attr:`error` says what it was.

    Args:
        check_lines: an open statement is checked for errors at each of so many lines; a longer
            one whenever it has grown by a tenth, so that the cost stays in proportion.
    """

    def __init__(self, *, check_lines: int = 100) -> None:
        self.error: Malformed | None = None
        self._check_lines = check_lines
        self._index = 0
        self._text = ""  # from the beginning of the open statement
        self._line = 1  # of its first character
        self._at = 0  # scanned so far
        self._swallow = False  # the last piece ended in a carriage return
        self._stack: list[str | _Quote] = []
        self._reset()

    def push(self, text: str) -> list[Statement]:
        """Take a piece of any length; the statements that it completes."""
        if self.error or not text:
            return []
        if self._swallow and text[0] == "\n":
            text = text[1:]
        self._swallow = text.endswith("\r")
        self._text += text.replace("\r\n", "\n").replace("\r", "\n")
        return list(self._scan(final=False))

    def finish(self) -> list[Statement]:
        """The text is over: what was still open, or an error."""
        if self.error:
            return []
        if not self._text.endswith("\n"):
            self._text += "\n"
        found = list(self._scan(final=True))
        if not self.error and self._text.strip():
            found += self._emit(len(self._text), final=True)
        return found

    @property
    def pending(self) -> str:
        """Text that belongs to no complete statement yet; after an error, from the wrong one on."""
        return self._text

    def _reset(self) -> None:
        """Nothing is open."""
        self._opener: str | None = None  # first word of an open compound statement
        self._clauses = _NONE  # the words by which it may go on in the first column
        self._fresh = True  # at the beginning of a logical line
        self._first_column = True
        self._line_start = self._code_end = 0
        self._lines = 0
        self._next_check = 0

    def _drop(self, end: int) -> None:
        """Forget the text before ``end``."""
        self._line += self._text.count("\n", 0, end)
        self._text = self._text[end:]
        self._at = 0
        self._reset()

    def _scan(self, final: bool) -> Iterator[Statement]:
        while not self.error and self._at < len(self._text):
            if self._fresh:
                found = self._begin_line(final)
            elif self._stack and isinstance(self._stack[-1], _Quote):
                found = self._in_string(self._stack[-1])
            else:
                found = self._in_code(final)
            if found is None:
                return
            yield from found

    def _begin_line(self, final: bool) -> list[Statement] | None:
        """Skip blank and comment lines, end the open statement where it ends; None: too short."""
        start, text = self._at, self._text
        at = _INDENT.match(text, start).end()  # type: ignore[union-attr] - it matches ""
        if at == len(text):
            return None
        if text[at] in "#\n":
            end = text.find("\n", at)
            if end < 0:
                return None
            self._at = end + 1
            if self._opener is None:
                self._drop(self._at)
            return []
        self._first_column = not text[start:at].rpartition("\f")[2]
        if self._first_column and self._opener is not None:
            word = _WORD.match(text, at).group()  # type: ignore[union-attr]
            cut = at + len(word) == len(text) and not final
            if cut and any(clause.startswith(word) for clause in self._clauses):
                return None
            # Decorators are not over before their definition is.
            if word not in self._clauses and self._opener != "@":
                return self._emit(start)
            if (self._opener, word) in _LAST_CLAUSE:
                self._clauses = _NONE
        elif self._opener is None and self._first_column:
            self._drop(at)
            at = 0
        self._at = self._line_start = at
        self._code_end = -1
        self._fresh = False
        return []

    def _in_code(self, final: bool) -> list[Statement] | None:
        """On to the next character that matters, outside strings."""
        text = self._text
        field = _in_field(self._stack)
        match = (_SPECIAL_IN_FIELD if field else _SPECIAL).search(text, self._at)
        if match is None:
            self._at = len(text)
            return []
        at, char = match.start(), match.group()
        self._at = at + 1
        if char == "\n":
            return self._end_physical_line(at)
        if char == "#":
            end = text.find("\n", at)
            if not self._stack and self._code_end < 0:
                self._code_end = at
            self._at = end if end >= 0 else at
            return [] if end >= 0 else None
        if char == "\\":
            if at + 1 == len(text):
                self._at = at
                return None
            # A joined line goes on; any other backslash is an error that the parser tells.
            if text[at + 1] == "\n":
                self._at = at + 2
                self._lines += 1
        elif char in "'\"":
            return self._open_string(at, char, final)
        elif char == ":":
            quote = self._stack[-2]
            assert isinstance(quote, _Quote)
            self._stack.pop()
            quote.in_spec = True
        elif char in _CLOSING:
            return self._close(at, char)
        else:
            self._stack.append(char)
        return []

    def _open_string(self, at: int, char: str, final: bool) -> list[Statement] | None:
        run = self._text[at : at + 3]
        if run in (char, char * 2) and len(run) == len(self._text) - at and not final:
            self._at = at
            return None  # one quote, an empty string or three quotes: not to be known yet
        mark = char * 3 if run == char * 3 else char
        self._at = at + len(mark)
        prefix = _PREFIX.search(self._text, max(0, at - 3), at)
        formatted = bool(prefix and set(prefix.group().lower()) & set("ft")) and _NESTED_FORMATS
        self._stack.append(_Quote(mark, formatted))
        return []

    def _in_string(self, quote: _Quote) -> list[Statement] | None:
        text, mark = self._text, quote.mark
        match = _IN_STRING[mark[0]].search(text, self._at)
        if match is None:
            self._at = len(text)
            return []
        at, char = match.start(), match.group()
        self._at = at + 1
        if char == "\\":
            if at + 1 == len(text):
                self._at = at
                return None
            self._lines += text[at + 1] == "\n"
            self._at = at + 2
        elif char == "\n":
            self._lines += 1
            if len(mark) == 1:
                return self._fail_at(at + 1)
        elif char == mark[0]:
            end = text[at : at + len(mark)]
            if end == mark:
                self._stack.pop()
                self._at = at + len(mark)
            elif at + len(end) == len(text) and end == char * len(end):
                self._at = at
                return None
        elif char == "}" and quote.in_spec:
            quote.in_spec = False  # the field is over; its bracket went when the spec began
            if quote.nested:
                self._stack.pop()
        elif char == "{" and quote.formatted:
            if at + 1 == len(text) and not quote.in_spec:
                self._at = at
                return None
            if not quote.in_spec and text[at + 1] == "{":
                self._at = at + 2
            else:
                self._stack += [_Quote(mark, True, nested=True), "{"] if quote.in_spec else "{"
        return []

    def _close(self, at: int, char: str) -> list[Statement]:
        if not self._stack or self._stack[-1] != _CLOSING[char]:
            # As far as the bracket, so that the parser stumbles over nothing else.
            return self._fail_at(at + 1)
        self._stack.pop()
        if self._stack and isinstance(top := self._stack[-1], _Quote) and top.nested:
            self._stack.pop()
        return []

    def _end_physical_line(self, at: int) -> list[Statement]:
        self._lines += 1
        if self._stack:
            self._check(at + 1)
            return []
        return self._end_line(at)

    def _end_line(self, at: int) -> list[Statement]:
        """A logical line is over, its newline at ``at``."""
        text, end = self._text, at + 1
        code = text[self._line_start : at if self._code_end < 0 else self._code_end]
        opens = code.rstrip(" \t\f\\\n").endswith(":")
        self._fresh = True
        if self._first_column and self._opener in (None, "@"):
            word = _first_word(code)
            if word not in _CLAUSES and not opens:
                return self._emit(end)
            self._opener = word if word in _CLAUSES else ""
            self._clauses = _CLAUSES[self._opener]
            if word == "match" and not opens:
                return self._emit(end)  # a name like any other
        elif self._opener is None:
            return self._emit(end)  # indented, which the parser refuses
        if self._first_column and not opens and not self._clauses and self._opener != "@":
            return self._emit(end)
        self._check(end)
        return []

    def _emit(self, end: int, final: bool = False) -> list[Statement]:
        """The statements before ``end``, which are complete, or an error."""
        source = self._text[:end]
        try:
            body = parse(source, whole=final).body
        except ERRORS as error:
            more = not final and unfinished(error)
            if more and self._fresh and self._opener is None:
                # A line that a joined line begins is not known for a compound statement's.
                self._opener, self._clauses = "", _ALL
                return []
            return self._emit(end, final=True) if more else self._fail(error)
        lines = source.split("\n")
        found = []
        for node in body:
            text, line = segment(node, lines)
            kind = type(node).__name__
            found.append(Statement(self._index, text, self._line + line, kind))
            self._index += 1
        self._drop(end)
        return found

    def _check(self, end: int) -> None:
        """Ask the parser whether the open statement can still become one."""
        if self._lines > self._check_lines and self._lines < self._next_check:
            return
        self._next_check = self._lines + self._lines // 10 + 1
        try:
            parse(self._text[:end], whole=False)
        except ERRORS as error:
            # An open bracket is what the parser blames first when it knows no better.
            if not unfinished(error) and "never closed" not in str(error):
                self._fail(error)

    def _fail_at(self, end: int) -> list[Statement]:
        """The scanner met what cannot be; let the parser say it."""
        try:
            parse(self._text[:end])
        except ERRORS as error:
            return self._fail(error)
        return self._fail(SyntaxError("invalid syntax"))

    def _fail(self, error: BaseException) -> list[Statement]:
        self.error = malformed(error, self._text, self._line)
        return []


def split(text: str) -> list[Statement]:
    """The statements of a whole text.

    Raises:
        SyntaxError: it has an error; the message says where.
    """
    splitter = Splitter()
    found = splitter.push(text) + splitter.finish()
    if splitter.error:
        raise SyntaxError(str(splitter.error))
    return found


def _in_field(stack: list[Any]) -> bool:
    """Whether a colon would begin a format spec here."""
    return (
        len(stack) > 1
        and stack[-1] == "{"
        and isinstance(stack[-2], _Quote)
        and stack[-2].formatted
    )


def _first_word(code: str) -> str:
    if code.startswith("@"):
        return "@"
    match = _ASYNC.match(code) or _WORD.match(code)
    assert match is not None
    return match.group(match.lastindex or 0)
