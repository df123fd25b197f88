"""Writes docs/help.md: the help of every command, as ``stretto COMMAND --help`` prints it."""

import io
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App
from rich.console import Console

from stretto.cli import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "help.md"
WIDTH = 100


def commands(at: App, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names that lead to each command under ``at``, depth first, in the order of the help."""
    yield path
    for name in sorted(name for name in at if not name.startswith("-")):
        yield from commands(at[name], (*path, name))


def help_text(path: tuple[str, ...]) -> str:
    """What ``stretto *path --help`` prints on a terminal of ``WIDTH`` columns, without colours."""
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, color_system=None, force_terminal=False)
    app.help_print(list(path), console=console)
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def page() -> str:
    """The whole page as Markdown."""
    parts = ["# Commands\n\nMade by `make docs` from the commands' own help; a test compares.\n"]
    for path in commands(app):
        parts.append(f"## `{' '.join(('stretto', *path))}`\n\n```text\n{help_text(path)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
