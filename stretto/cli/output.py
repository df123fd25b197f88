"""What commands print: results to stdout, progress and remarks to stderr."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

Format = Literal["table", "json"]

console = Console(stderr=True)
"""For progress and remarks, so that stdout can be piped."""


def emit(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], fmt: Format = "table") -> None:
    """Print ``rows`` to stdout: the ``columns`` as a table, or as a JSON list of objects.

    Args:
        rows: one mapping per line; a key that is missing shows as an empty cell, or null.
        columns: the keys to print, in this order.
        fmt: ``table`` for people, ``json`` for programs.
    """
    if fmt == "json":
        chosen = [{column: row.get(column) for column in columns} for row in rows]
        sys.stdout.write(json.dumps(chosen, indent=2, ensure_ascii=False, default=str) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    # A pipe has no width: nothing is wrapped there, so that grep and awk see whole lines.
    out = Console(file=sys.stdout, markup=False, width=None if sys.stdout.isatty() else 1000)
    out.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
