"""What a session says, as people follow it: lanes side by side, or plain lines."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from stretto.protocols import Row
from stretto.streams import SpecialIds, Stream, StreamSet
from stretto.streams.render import END, HIDDEN, SILENCE, printable

_COLOURS = {
    "input": ("cyan", "bright_blue"),
    "output": ("yellow", "magenta", "green", "bright_red"),
}
_GAP = " │ "
_MIN_LANE = 4
_RATE_WINDOW_S = 3.0


def clean(text: str) -> str:
    """``text`` without characters a terminal would obey; newlines stay, tabs become spaces."""
    text = text.replace("\t", "    ")
    kept = ("\n", "\u200d")
    return "".join(c if c.isprintable() or c in kept else HIDDEN for c in text)


class Lane:
    """One stream's text, a line of it at a time.

    Args:
        stream: whose it is.
        colour: a rich style.
        given: text known at the start, shown faintly.

    Attributes:
        num_content: content tokens so far.
        is_speaking: whether a message has begun and not ended.
    """

    def __init__(self, stream: Stream, colour: str, given: str = "") -> None:
        self.stream, self.colour = stream, colour
        self.num_content = 0
        self.is_speaking = False
        self._done: list[Text] = []
        self._current = Text()
        self._wrapped: list[Text] = []
        self._wrapped_width, self._num_wrapped = 0, 0
        if given:
            self._put(clean(given), "dim italic")

    def add(self, token: int, text: str, special: SpecialIds) -> None:
        """Take one cell and the text that it completes."""
        if text:
            self._part_from(SILENCE, text)
            self._put(clean(text), self.colour)
        if token == special.silence:
            if not self._current.plain.endswith(SILENCE):
                self._part_from("", SILENCE)
            self._put(SILENCE, "dim")
        elif token == special.end:
            self.is_speaking = False
            self._put(END + "\n", "dim")
        else:
            self.num_content += 1
            self.is_speaking = True

    def _part_from(self, before: str, text: str) -> None:
        """A space between what ends with ``before`` and the text, so that words wrap whole."""
        line = self._current.plain
        if line.endswith(before) and line and not (line[-1].isspace() or text[0].isspace()):
            self._put(" ", "")

    def _put(self, text: str, style: str) -> None:
        first, *rest = text.split("\n")
        _append(self._current, first, style)
        for line in rest:
            self._done.append(self._current)
            self._current = Text()
            _append(self._current, line, style)

    def lines(self, console: Console, width: int, height: int | None) -> list[Text]:
        """The last ``height`` lines of ``width`` columns, or all; each is padded."""
        if width != self._wrapped_width:
            self._wrapped, self._wrapped_width, self._num_wrapped = [], width, 0
        # Only the line that still grows is wrapped anew for every picture.
        for line in self._done[self._num_wrapped :]:
            self._wrapped += _wrap(line, console, width)
        self._num_wrapped = len(self._done)
        shown = [*self._wrapped, *(_wrap(self._current, console, width) if self._current else ())]
        return shown if height is None else shown[-height:]


def _append(line: Text, text: str, style: str) -> None:
    """As ``line.append``, but one span for all neighbours of one style: less to draw."""
    start = len(line)
    if line.spans and line.spans[-1].style == style and line.spans[-1].end == start:
        start = line.spans.pop().start
    line.append(text)
    line.stylize(style, start)


def _wrap(line: Text, console: Console, width: int) -> list[Text]:
    wrapped = line.wrap(console, width, justify="left", overflow="fold")
    for part in wrapped:
        part.truncate(width, overflow="crop", pad=True)
    return list(wrapped)


class Lanes:
    """All streams of a session side by side, a status line, and the line being typed.

    Args:
        streams: the session's.
        special: ids of silence and end.
        given: text known at the start, by stream.
        to_read: tokens that will arrive, if known.
        now: seconds since the session was opened.

    Attributes:
        title: a line above, if any.
        hint: what the status line ends with.
        typed: the line being typed; None where nobody can type.
        is_whole: show all text instead of what fits the screen.
        to_read: as given.
    """

    def __init__(
        self,
        streams: StreamSet,
        special: SpecialIds,
        *,
        given: Mapping[str, str] | None = None,
        to_read: int | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.title, self.hint = "", ""
        self.typed: str | None = None
        self.is_whole = False
        self.now = now or self._last_time
        self._special, self.to_read = special, to_read
        self._num_rows, self._time = 0, 0.0
        self._recent: deque[float] = deque()
        self._by_name = {lane.stream.name: lane for lane in _lanes(streams, given or {})}

    def __getitem__(self, name: str) -> Lane:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._by_name.values())

    def _last_time(self) -> float:
        return self._time

    def add(self, row: Row) -> None:
        """Take one row."""
        self._num_rows, self._time = row.index + 1, row.time
        self._recent.append(row.time)
        for name, token in row.tokens.items():
            self._by_name[name].add(token, row.text.get(name, ""), self._special)

    @property
    def num_read(self) -> int:
        """Content tokens of all inputs so far."""
        return sum(lane.num_content for lane in self if lane.stream.direction == "input")

    @property
    def num_said(self) -> int:
        """Content tokens of all outputs so far."""
        return sum(lane.num_content for lane in self if lane.stream.direction == "output")

    def status(self) -> str:
        """Row, rows a second over the last moments, what has been read and said, seconds."""
        now = max(self.now(), self._time)
        while self._recent and self._recent[0] < now - _RATE_WINDOW_S:
            self._recent.popleft()
        rate = len(self._recent) / min(_RATE_WINDOW_S, max(now, 0.1))
        read = f"{self.num_read}" if self.to_read is None else f"{self.num_read}/{self.to_read}"
        parts = [f"row {self._num_rows}", f"{rate:.0f} rows/s", f"read {read} tokens",
                 f"said {self.num_said}", f"{now:.1f} s"]  # fmt: skip
        return "  ".join([*parts, self.hint] if self.hint else parts)

    def done(self) -> str:
        """In words what has happened so far."""
        return (
            f"{self._num_rows} rows in {max(self.now(), self._time):.1f} s: "
            f"{self.num_read} tokens read, {self.num_said} said"
        )

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        lanes = list(self)
        width = max(_MIN_LANE, (options.max_width - len(_GAP) * (len(lanes) - 1)) // len(lanes))
        around = 3 + bool(self.title) + (self.typed is not None)
        height = None if self.is_whole else max(1, options.max_height - around)
        columns = [lane.lines(console, width, height) for lane in lanes]
        length = max(map(len, columns)) if height is None else height
        lines = [
            [_heading(lane, width) for lane in lanes],
            [Text("─" * width, lane.colour) for lane in lanes],
        ]
        blank = Text(" " * width)
        for i in range(length):
            lines.append([column[i] if i < len(column) else blank for column in columns])
        if self.title:
            yield _one_line(Text(self.title, "bold"))
        gap = Text.assemble((_GAP, "dim"))
        yield from (_one_line(gap.join(line)) for line in lines)
        status = Text(self.status(), "reverse" if height else "dim")
        status.truncate(options.max_width, overflow="crop", pad=True)
        yield _one_line(status)
        if self.typed is not None and height is not None:
            typed = printable(self.typed)
            while cell_len(typed) > max(1, options.max_width - 4):
                typed = typed[1:]
            yield _one_line(Text.assemble(("> ", "bold"), typed, ("█", "dim")))


def _lanes(streams: StreamSet, given: Mapping[str, str]) -> Iterator[Lane]:
    seen = {"input": 0, "output": 0}
    for stream in streams:
        colours = _COLOURS[stream.direction]
        colour = colours[seen[stream.direction] % len(colours)]
        seen[stream.direction] += 1
        if not stream.prompt_only or given.get(stream.name):
            yield Lane(stream, colour, given.get(stream.name, ""))


def _heading(lane: Lane, width: int) -> Text:
    arrow = "→" if lane.stream.direction == "input" else "←"
    heading = Text(f"{lane.stream.name} {arrow}", f"bold {lane.colour}")
    heading.truncate(width, overflow="crop", pad=True)
    return heading


def _one_line(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "crop"
    return line


class LineLog:
    """Each finished line of each stream as one line of text: for files, pipes and dumb terminals.

    Args:
        out: where to write.
        streams: the session's; their names are written in one width.
        end: id of ``end``.
    """

    def __init__(self, out: IO[str], streams: Sequence[Stream], end: int) -> None:
        self._out, self._end = out, end
        self._open = {stream.name: "" for stream in streams}
        self._width = max(map(len, self._open))
        self._last: tuple[float, int] = (0.0, 0)

    def add(self, row: Row) -> None:
        """Take one row."""
        self._last = (row.time, row.index)
        for name, token in row.tokens.items():
            *finished, self._open[name] = (self._open[name] + row.text.get(name, "")).split("\n")
            if token == self._end:
                finished, self._open[name] = [*finished, self._open[name]], ""
            for line in finished:
                self._write(name, line)

    def finish(self) -> None:
        """Write the lines that were begun."""
        for name, line in self._open.items():
            self._write(name, line)
            self._open[name] = ""

    def _write(self, name: str, line: str) -> None:
        if line.strip():
            seconds, row = self._last
            self._out.write(f"{seconds:7.2f} s  row {row:4}  {name:{self._width}}  {clean(line)}\n")
            self._out.flush()
