"""What an agent does, as people follow it: lanes side by side, or a line for each event."""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import IO, Any, NamedTuple, Protocol, Self

from rich.console import Console
from rich.live import Live

from stretto.agents.dialects import MARK
from stretto.agents.events import AgentEvent
from stretto.cli.lanes import Lanes, clean
from stretto.cli.play import is_live
from stretto.streams import SpecialIds, Stream, StreamSet

_STREAMS = StreamSet(
    [
        Stream("user", "input", trusted=True),
        Stream("think", "output", visible=False),
        Stream("say", "output"),
        Stream("code", "output"),
        Stream("result", "input"),
    ]
)
_SPECIAL = SpecialIds(silence=1, end=2)
_SHOWN = 300  # characters of a value
_WIDTH = max(len(stream.name) for stream in _STREAMS)


class Shown(NamedTuple):
    """Text for a lane."""

    lane: str
    text: str


def shown(event: AgentEvent) -> Iterator[Shown]:
    """What an event looks like; most bookkeeping looks like nothing."""
    data = event.data
    match event.kind:
        case "start":
            yield Shown("user", data["task"])
        case "interrupt":
            yield Shown("user", data["text"])
        case "text":
            yield Shown(event.stream, data["text"].rstrip("\n"))
        case "statement":
            yield Shown("code", data["source"])
        case "held":
            yield Shown("code", "# this waits until the answer is whole")
        case "abandon":
            yield Shown("code", "# the rest was abandoned")
        case "call":
            came = _short(data["value"]) if data["ok"] else data["error"]
            unused = " (not needed)" if data.get("unused") else ""
            called = call_text(data["tool"], data["arguments"])
            yield Shown("result", f"{called} -> {came}{unused}")
        case "output":
            yield from (Shown("result", text) for text in _output(data))
        case "feedback" if data["source"] == "dialect":
            yield Shown("result", data["text"].removeprefix(MARK.strip()).strip())
        case "end":
            yield Shown("say", f"[{_ending(data)}] {data['answer']}")
        case _:
            return


def call_text(tool: str, arguments: Mapping[str, Any]) -> str:
    """A call in one line, shortened."""
    return f"{tool}({', '.join(f'{key}={_short(value)}' for key, value in arguments.items())})"


def _output(data: dict[str, Any]) -> Iterator[str]:
    for name in ("stdout", "stderr"):
        if text := (data.get(name) or "").rstrip("\n"):
            yield text
    if data.get("value_repr") not in (None, "None"):
        yield data["value_repr"]
    if not data["ok"]:
        error = data["error"]
        yield f"line {error['line']}: {error['type']}: {error['message']}"


def _ending(data: dict[str, Any]) -> str:
    return data["outcome"] + (f": {data['reason']}" if data["reason"] else "")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


class AgentLanes(Lanes):
    """Lanes that are filled by events.

    Args:
        hint: what the status line ends with.
    """

    def __init__(self, hint: str = "") -> None:
        super().__init__(_STREAMS, _SPECIAL)
        self.hint = hint
        self._turns = self._calls = 0
        self._seconds = 0.0

    def take(self, event: AgentEvent) -> None:
        """Show an event."""
        self._seconds = event.time
        self._turns += event.kind == "prompt"
        self._calls += event.kind == "call"
        if event.kind == "start":
            by = "answers written beforehand" if event.data["scripted"] else event.data["model"]
            self.title = f"{by}, actions as {event.data['dialect']}"
        for lane, text in shown(event):
            self[lane].add(0, text + "\n", _SPECIAL)

    def status(self) -> str:
        """Turns, calls and seconds so far."""
        told = f"turn {self._turns}  {self._calls} calls  {self._seconds:.1f} s"
        return f"{told}  {self.hint}" if self.hint else told


class View(Protocol):
    """What shows events."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def take(self, event: AgentEvent) -> None:
        """Show an event."""
        ...


class LiveView(AbstractContextManager["LiveView"]):
    """Lanes on the terminal's second screen; all of their text stays behind on the first."""

    def __init__(self, console: Console, lanes: AgentLanes) -> None:
        self.lanes = lanes
        self._console = console
        self._live = Live(lanes, console=console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()
        self.lanes.is_whole, self.lanes.hint, self.lanes.typed = True, "", None
        self._console.print(self.lanes)

    def take(self, event: AgentEvent) -> None:
        """Show an event."""
        self.lanes.take(event)
        self.draw()

    def draw(self) -> None:
        """Show what has changed."""
        self._live.refresh()


class LineView(AbstractContextManager["LineView"]):
    """A line of text for each line of each lane; no control codes."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def __exit__(self, *error: object) -> None:
        """All is written already."""

    def take(self, event: AgentEvent) -> None:
        """Write an event's lines."""
        if event.kind == "start" and event.data["scripted"]:
            self._out.write("no model takes part: the answers were written beforehand\n")
        for lane, text in shown(event):
            for line in text.split("\n"):
                self._out.write(f"{event.time:7.2f} s  {lane:{_WIDTH}}  {clean(line)}\n")
        self._out.flush()


class JsonView(AbstractContextManager["JsonView"]):
    """Each event as a line of JSON."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def __exit__(self, *error: object) -> None:
        """All is written already."""

    def take(self, event: AgentEvent) -> None:
        """Write an event."""
        self._out.write(json.dumps(event.to_json(), ensure_ascii=False) + "\n")
        self._out.flush()


def open_view(console: Console, *, json: bool = False, lines: bool = False) -> View:
    """The view that is asked for, or fits the terminal.

    Args:
        console: where.
        json: events as JSON.
        lines: never lanes, as where questions are asked meanwhile.
    """
    if json:
        return JsonView(console.file)
    if is_live(console) and not lines:
        return LiveView(console, AgentLanes())
    return LineView(console.file)
