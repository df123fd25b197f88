"""Tables of a report as pages of a PDF. Imported late: needs matplotlib."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib.pyplot as plt

from stretto.commons.report.grids import Grid

WIDTH, HEIGHT = 11.69, 8.27  # A4 across, inches
LARGE = 8.0  # points, of a table's letters
_ADVANCE = 0.602  # of a monospaced letter, in sizes of it


def sheets(title: str, made: str, remarks: Sequence[str], grids: Sequence[Grid]) -> Iterator[Any]:
    """One figure a page: what to know first, then the tables."""
    wrapped = [line for remark in remarks for line in textwrap.wrap(f"- {remark}", 120)]
    figure = _page(f"Commons: {title}")
    figure.text(
        0.05, 0.88, "\n".join([made, "", *wrapped[:48]]), va="top", fontsize=9, parse_math=False
    )
    yield figure
    for grid in grids:
        yield from _sheets(grid)


def _sheets(grid: Grid) -> Iterator[Any]:
    """Columns as wide as their longest cell; letters so small that the page holds a line."""
    headers = [textwrap.wrap(cell, 14) or [""] for cell in grid.header]
    # A name may be long; what a page cannot hold ends in dots.
    cells = [
        [cell if len(cell) <= 60 else cell[:57] + "..." for cell in line] for line in grid.body
    ]
    widths = [
        max(len(cell) for cell in [*head, *(line[i] for line in cells)]) + 2
        for i, head in enumerate(headers)
    ]
    size = min(LARGE, 0.92 * WIDTH * 72 / (sum(widths) * _ADVANCE))
    tall = max(map(len, headers))
    head = [
        "".join(_set(_place(column, row, tall), widths[i], i) for i, column in enumerate(headers))
        for row in range(tall)
    ]
    body = ["".join(_set(cell, widths[i], i) for i, cell in enumerate(line)) for line in cells]
    most = int(0.78 * HEIGHT * 72 / (1.25 * size)) - tall - 1
    note = "\n".join(textwrap.wrap(grid.note, 170))
    for start in range(0, max(1, len(body)), most):
        figure = _page(grid.title + (f" (from line {start + 1})" if start else ""))
        figure.text(0.03, 0.91, note, va="top", fontsize=7.5, color="#555555", parse_math=False)
        text = "\n".join([*head, "-" * sum(widths), *body[start : start + most]])
        figure.text(0.03, 0.84, text, va="top", fontsize=size, family="monospace", parse_math=False)
        yield figure


def _set(cell: str, width: int, place: int) -> str:
    return cell.ljust(width) if place == 0 else cell.rjust(width)


def _place(column: Sequence[str], row: int, tall: int) -> str:
    """Header words stand at the bottom of their column."""
    place = row - (tall - len(column))
    return column[place] if place >= 0 else ""


def _page(title: str) -> Any:
    figure = plt.figure(figsize=(WIDTH, HEIGHT))
    figure.text(0.03, 0.94, title, fontsize=13, weight="bold", parse_math=False)
    return figure
