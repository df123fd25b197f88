"""Follow a session: rows go to a view, what is typed goes to a listener."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any, Protocol, Self

from rich.console import Console
from rich.live import Live

from stretto.cli.keyboard import Keyboard, Listener, PipedLines
from stretto.cli.lanes import Lanes, LineLog
from stretto.cli.output import console as remarks
from stretto.protocols import Row, Session
from stretto.streams import StreamSet

_FRAME_S = 0.1
_KILLED = 128 + signal.SIGTERM


class View(Protocol):
    """What shows a session."""

    lanes: Lanes

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def add(self, row: Row) -> None:
        """Take one row."""
        ...

    def draw(self) -> None:
        """Show what has been added."""
        ...


class LiveView:
    """Lanes on the terminal's second screen; all of their text stays behind on the first."""

    def __init__(self, console: Console, lanes: Lanes) -> None:
        self.lanes = lanes
        self._console = console
        self._live = Live(lanes, console=console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()
        self.lanes.is_whole, self.lanes.hint = True, ""
        self._console.print(self.lanes)

    def add(self, row: Row) -> None:
        """Take one row."""
        self.lanes.add(row)

    def draw(self) -> None:
        """Show what has been added."""
        self._live.refresh()


class LineView:
    """A line of text for each line a stream has finished; no control codes."""

    def __init__(self, out: IO[str], lanes: Lanes, streams: StreamSet, end: int) -> None:
        self.lanes = lanes
        self._out, self._log = out, LineLog(out, streams, end)

    def __enter__(self) -> Self:
        if self.lanes.title:
            self._out.write(self.lanes.title + "\n")
        return self

    def __exit__(self, *error: object) -> None:
        self._log.finish()

    def add(self, row: Row) -> None:
        """Take one row."""
        self.lanes.add(row)
        self._log.add(row)

    def draw(self) -> None:
        """Lines are written as they are finished."""


def is_live(console: Console) -> bool:
    """Whether lanes can be drawn here; else lines are written."""
    return console.is_terminal and not console.is_dumb_terminal


def can_type(console: Console) -> bool:
    """Whether a person can type while lanes are drawn."""
    return is_live(console) and sys.stdin.isatty()


def open_view(console: Console, lanes: Lanes, streams: StreamSet, end: int) -> View:
    """The view that fits the terminal, or the absence of one."""
    if is_live(console):
        return LiveView(console, lanes)
    return LineView(console.file, lanes, streams, end)


def typing(console: Console, listener: Listener) -> AbstractContextManager[Any]:
    """Tells the listener what is typed, or what comes through a pipe."""
    source = Keyboard if can_type(console) else PipedLines
    return source(sys.stdin.fileno(), listener)


async def follow(session: Session, view: View, source: AbstractContextManager[Any]) -> None:
    """Show a session until it is over.

    The view and the terminal are put right again however this ends.
    """
    async with session:
        with view, source, _sigterm_cancels():
            drawing = asyncio.create_task(_draw(view))
            try:
                async for row in session:
                    view.add(row)
            finally:
                drawing.cancel()


async def _draw(view: View) -> None:
    while True:
        view.draw()
        await asyncio.sleep(_FRAME_S)


@contextmanager
def _sigterm_cancels() -> Iterator[None]:
    """Unwind on SIGTERM, so that the terminal is restored."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def run(play: Coroutine[Any, Any, None], lanes: Lanes) -> None:
    """Run :func:`follow` from outside any event loop; Ctrl-C says what was done and goes on up.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
        SystemExit: the process was asked to end.
    """
    try:
        asyncio.run(play)
    except KeyboardInterrupt:
        remarks.print(f"stopped after {lanes.done()}", highlight=False)
        raise
    except asyncio.CancelledError:
        remarks.print(f"stopped after {lanes.done()}", highlight=False)
        raise SystemExit(_KILLED) from None


def load_engine(name: str, backend: str = "auto", speculate: bool = False) -> Any:
    """An engine, warm, with a word on stderr about what takes so long.

    Raises:
        CheckpointError: the model cannot be loaded.
        ConfigError: the back end cannot run it, or is not installed.
    """
    import warnings

    spinner = remarks.status(f"loading {name}") if remarks.is_terminal else contextlib.nullcontext()
    with spinner, warnings.catch_warnings():
        from transformers.utils import logging

        from stretto.engine import Engine, Speculation

        # Their progress bar and their plans for the next version would cover the lanes.
        logging.disable_progress_bar()
        warnings.simplefilter("ignore", FutureWarning)
        speculation = Speculation() if speculate else None
        engine = Engine.load(name, backend=backend, speculation=speculation)
        _warm_up(engine)
    return engine


def _warm_up(engine: Any) -> None:
    """A few rows nobody sees: first passes of a shape are slow, and would be timed."""
    from stretto.engine import Limits

    output = engine.streams[engine.streams.outputs[0]].name
    session = engine.open(prompts={output: "A first try."}, limits=Limits(max_rows=4))
    session.close()
    engine.run([session])
