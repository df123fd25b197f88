"""What the interpreter's own parser says of a text: a tree, not finished yet, or what is wrong."""

import ast
import re
import warnings
from dataclasses import dataclass

FILE = "<code>"
_INCOMPLETE_FLAG = 0x4000  # codeop's PyCF_ALLOW_INCOMPLETE_INPUT: tells unfinished from wrong
ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What ``parse`` may raise."""

_HINTS = (
    ("never closed", "close the bracket"),
    ("unmatched", "there is one closing bracket too many"),
    ("does not match opening", "close the brackets in the order in which they were opened"),
    ("triple-quoted", "close the string with its three quotes"),
    ("unterminated", 'end the string on its line, or use """ for several lines'),
    ("expected an indented block", "indent the body of the block, or write pass"),
    ("unexpected indent", "start statements in the first column"),
    ("unindent does not match", "use the same indentation for the whole block"),
    ("inconsistent use of tabs", "indent by spaces only"),
    ("call to 'print'", "write print(...)"),
    ("null byte", "leave out the zero byte"),
    ("expected ':'", "end the line with a colon"),
)


@dataclass(frozen=True)
class Malformed:
    """Code that no continuation can mend.

    Attributes:
        message: what the parser says.
        line, column: in the whole text, from 1.
        source_line: the line as it was written.
        hint: what to do, or "".
    """

    message: str
    line: int
    column: int
    source_line: str
    hint: str

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return f"line {self.line}, column {self.column}: {self.message}{hint}"


def parse(source: str, *, whole: bool = True) -> ast.Module:
    """The tree of a text.

    Args:
        whole: nothing follows; else an error that more text could mend is :func:`unfinished`.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: it cannot be parsed.
    """
    flags = ast.PyCF_ONLY_AST | (0 if whole else _INCOMPLETE_FLAG)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes and the like, which are told when it runs
        try:
            return compile(source, FILE, "exec", flags, dont_inherit=True)
        except (
            SystemError
        ):  # CPython gh-106905: another parse came in between; not this text's fault
            return compile(source, FILE, "exec", flags, dont_inherit=True)


def unfinished(error: BaseException) -> bool:
    """Whether more text could mend it."""
    return "incomplete input" in str(error)


def segment(node: ast.stmt, lines: list[str]) -> tuple[str, int]:
    """Text of a statement, decorators included, and its line from 0."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    last = node.end_lineno or node.lineno
    # Columns count bytes of UTF-8. A decorator's is that of its name, behind the sign.
    start = node.col_offset if first == node.lineno else 0
    taken = lines[first - 1 : last]
    taken[-1] = taken[-1].encode()[: node.end_col_offset].decode()
    taken[0] = taken[0].encode()[start:].decode()
    return "\n".join(taken), first - 1


def malformed(error: BaseException, text: str, first: int = 1) -> Malformed:
    """What the parser said of ``text``, whose first line is line ``first`` of the whole."""
    is_syntax = isinstance(error, SyntaxError)
    line = (error.lineno if is_syntax else None) or 1
    column = (error.offset if is_syntax else None) or 1
    message = (error.msg if is_syntax else str(error)) or "nested too deeply to be parsed"
    lines = text.split("\n")
    written = lines[line - 1] if line <= len(lines) else ""
    # Messages name lines of the text that was parsed.
    message = re.sub(r"\bline (\d+)", lambda m: f"line {int(m.group(1)) + first - 1}", message)
    hint = _hint(message, written)
    return Malformed(message, first + line - 1, max(1, column), written, hint)


def _hint(message: str, written: str) -> str:
    if written.lstrip().startswith("```"):
        return "leave out the fences: only code is read here"
    return next((hint for part, hint in _HINTS if part in message), "")
