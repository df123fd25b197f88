"""A table as a person reads it: lanes side by side, time downwards.

``·`` is silence, ``■`` end, ``⏎`` a newline; blank means no token at all. Neighbouring rows share a
line as long as every lane has room, and each line begins with the number of its first row.
"""

import html
import shutil
from collections.abc import Iterator

from stretto.errors import InputError
from stretto.streams.stream import Stream
from stretto.streams.table import StreamTable
from stretto.streams.tokens import ABSENT

SILENCE, END, NEWLINE, TAB, HIDDEN = "·", "■", "⏎", "⇥", "�"
_MIN_LANE = 8
_HTML_ROWS = 400
_COLOURS = {"input": ("#1f5fa8", "#2f7f8f"), "output": ("#9a4a00", "#7a3e8f", "#2f7a3a", "#8f2f4f")}


def printable(text: str) -> str:
    """``text`` in one line, without control characters a terminal would obey."""
    text = text.replace("\n", NEWLINE).replace("\t", TAB)
    return "".join(c if c.isprintable() or c == "\u200d" else HIDDEN for c in text)


def render_text(table: StreamTable, width: int | None = None, max_rows: int | None = None) -> str:
    """The table as monospaced text.

    Args:
        table: with a codec it shows text, without one token ids.
        width: columns of the terminal; None asks it.
        max_rows: live rows to show; None shows all.

    Raises:
        InputError: the width has no room for so many lanes.
    """
    width = width or shutil.get_terminal_size((100, 24)).columns
    lanes = _lanes(table)
    gutter = max(4, len(str(len(table))))
    lane = (width - gutter) // max(1, len(lanes)) - 3
    if lane < _MIN_LANE:
        needed = gutter + len(lanes) * (_MIN_LANE + 3)
        raise InputError(f"width {width} is too small for {len(lanes)} streams; use {needed}")
    lines = [_prompt_line(table, name, width) for name in table.prompt_order()]
    arrows = {"input": "→", "output": "←"}
    titles = [f"{s.name} {arrows[s.direction]}" for _, s in lanes]
    lines.append(_line("row", titles, gutter, lane))
    lines.append(_line("", ["─" * lane] * len(lanes), gutter, lane))
    shown = len(table) if max_rows is None else min(max_rows, len(table))
    cells = [list(_texts(table, i, shown)) for i, _ in lanes]
    for first, texts in _groups(cells, shown, lane):
        lines.append(_line(str(first), texts, gutter, lane))
    if shown < len(table):
        lines.append(f"{'':>{gutter}} … {len(table) - shown} more rows")
    return "\n".join(line.rstrip() for line in lines)


def render_html(table: StreamTable, max_rows: int = _HTML_ROWS) -> str:
    """The table as a small HTML table, a row a row, everything escaped."""
    lanes, shown = _lanes(table), min(max_rows, len(table))
    seen = {"input": 0, "output": 0}
    styles = []
    for _, stream in lanes:
        colours = _COLOURS[stream.direction]
        styles.append(f"color:{colours[seen[stream.direction] % len(colours)]};white-space:pre")
        seen[stream.direction] += 1
    parts = ['<table style="font-family:monospace;text-align:left;border-collapse:collapse">']
    for name in table.prompt_order():
        text = html.escape(printable(_ids_text(table, table.prompts[name])))
        title = html.escape(name)
        parts.append(f'<tr><th>{title}</th><td colspan="{len(lanes)}"><i>{text}</i></td></tr>')
    heads = "".join(f"<th>{html.escape(stream.name)}</th>" for _, stream in lanes)
    parts.append(f"<tr><th></th>{heads}</tr>")
    cells = [list(_texts(table, i, shown)) for i, _ in lanes]
    for row in range(shown):
        columns = zip(styles, cells, strict=True)
        tds = "".join(f'<td style="{style}">{html.escape(c[row])}</td>' for style, c in columns)
        parts.append(f"<tr><td>{row}</td>{tds}</tr>")
    if shown < len(table):
        more = f"… {len(table) - shown} more rows"
        parts.append(f'<tr><td colspan="{len(lanes) + 1}">{more}</td></tr>')
    return "".join([*parts, "</table>"])


def _lanes(table: StreamTable) -> list[tuple[int, Stream]]:
    return [(i, stream) for i, stream in enumerate(table.streams) if not stream.prompt_only]


def _texts(table: StreamTable, i: int, num_rows: int) -> Iterator[str]:
    """What each cell of a lane shows; a character cut into tokens shows where it is complete."""
    decoder = table.codec.decoder() if table.codec else None
    for token in table.rows[:num_rows, i].tolist():
        if token == ABSENT:
            yield ""
        elif token == table.special.silence:
            yield SILENCE
        elif token == table.special.end:
            held = decoder.flush() if decoder else ""
            decoder = table.codec.decoder() if table.codec else None
            yield printable(held) + END
        else:
            yield printable(decoder.push(token)) if decoder else f"{token} "


def _groups(cells: list[list[str]], num_rows: int, lane: int) -> Iterator[tuple[int, list[str]]]:
    """Neighbouring rows joined while every lane has room: number of the first row, lane texts."""
    from rich.cells import cell_len

    first, line = 0, [""] * len(cells)
    for row in range(num_rows):
        joined = [text + column[row] for text, column in zip(line, cells, strict=True)]
        if row > first and max(map(cell_len, joined)) > lane:
            yield first, line
            first, joined = row, [column[row] for column in cells]
        line = joined
    if num_rows:
        yield first, line


def _line(label: str, texts: list[str], gutter: int, lane: int) -> str:
    from rich.cells import set_cell_size

    return f"{label:>{gutter}}" + "".join(f" │ {set_cell_size(text, lane)}" for text in texts)


def _prompt_line(table: StreamTable, name: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    line = f"{name} prompt: {printable(_ids_text(table, table.prompts[name]))}"
    return line if cell_len(line) <= width else set_cell_size(line, width - 1) + "…"


def _ids_text(table: StreamTable, ids: list[int]) -> str:
    return table.codec.decode(ids) if table.codec else " ".join(map(str, ids))
