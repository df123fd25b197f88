"""Tables of a report as pages of a PDF. Imported late: needs matplotlib."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib.pyplot as plt

from stretto.commons.report.grids import Grid

WIDTH, HEIGHT = 11.69, 8.27  # A4 across, inches
LINES = 34  # of a table on one page
SMALL = 6.5  # points
_CHARACTER = 0.62 * SMALL / 72  # inches, of a monospaced letter


def sheets(title: str, made: str, remarks: Sequence[str], grids: Sequence[Grid]) -> Iterator[Any]:
    """One figure a page: what to know first, then the tables."""
    wrapped = [line for remark in remarks for line in textwrap.wrap(f"- {remark}", 120)]
    figure = _page(f"Commons: {title}")
    figure.text(0.05, 0.88, "\n".join([made, "", *wrapped[:48]]), va="top", fontsize=9)
    yield figure
    for grid in grids:
        for start in range(0, max(1, len(grid.body)), LINES):
            more = f" (from line {start + 1})" if start else ""
            yield _sheet(grid, grid.body[start : start + LINES], f"{grid.title}{more}")


def _sheet(grid: Grid, body: Sequence[Sequence[str]], title: str) -> Any:
    """Columns as wide as their longest cell; the letters shrink until the page holds them."""
    headers = [textwrap.wrap(cell, 14) or [""] for cell in grid.header]
    # A name may be long; what a page cannot hold ends in dots.
    cells = [[cell if len(cell) <= 60 else cell[:57] + "..." for cell in line] for line in body]
    widths = [
        max(len(cell) for cell in [*head, *(line[i] for line in cells)]) + 2
        for i, head in enumerate(headers)
    ]
    size = min(SMALL + 1.5, SMALL * 0.94 * WIDTH / (sum(widths) * _CHARACTER))
    tall = max(map(len, headers))
    head = "\n".join(
        "".join(_place(column, row, tall).rjust(width)
                for column, width in zip(headers, widths, strict=True))
        for row in range(tall)
    )  # fmt: skip
    lines = ["".join((cell.ljust if i == 0 else cell.rjust)(width)
                     for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
             for line in cells]  # fmt: skip
    text = "\n".join([head, "-" * sum(widths), *lines])
    figure = _page(title)
    note = "\n".join(textwrap.wrap(grid.note, 170))
    figure.text(0.03, 0.91, note, va="top", fontsize=7.5, color="#555555")
    figure.text(0.03, 0.84, text, va="top", fontsize=size, family="monospace", parse_math=False)
    return figure


def _place(column: Sequence[str], row: int, tall: int) -> str:
    """Header words stand at the bottom of their column."""
    place = row - (tall - len(column))
    return column[place] if place >= 0 else ""


def _page(title: str) -> Any:
    figure = plt.figure(figsize=(WIDTH, HEIGHT))
    figure.text(0.03, 0.94, title, fontsize=13, weight="bold", parse_math=False)
    return figure
