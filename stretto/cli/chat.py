"""``stretto chat``: a conversation in which nobody waits for a turn."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from stretto.cli.output import console as remarks
from stretto.errors import ConfigError, InputError

if TYPE_CHECKING:
    from stretto.cli.lanes import Lanes
    from stretto.engine import Engine, Session

_SETS = ("read", "audit", "agent")
_PROMPTS = {"read": {"answer": "lag 1:"}, "audit": {"answer": "lag 1:"}, "agent": {}}
_SYSTEM = """today: 2019-03-01
tools: FindRestaurants(cuisine, city), ReserveRestaurant(restaurant_name, city, time)"""
"""Of the kind the agent streams were trained with."""
_MAX_MESSAGE_TOKENS = 256


def chat(
    *,
    model: str = "stretto-smollm2-135m",
    streams: str = "read",
    system: str | None = None,
    temperature: float = 0.0,
    seed: int | None = None,
    save: Path | None = None,
    backend: str = "auto",
    speculate: bool = False,
) -> None:
    """Talk to the model; you are the user stream.

    A line is sent when you press Enter, also while the model is speaking; it is read at once.
    /quit or Ctrl-D ends. With the agent streams, /result TEXT answers what the model calls.
    Lines may also come through a pipe.

    Args:
        model: multi-stream model: name or folder.
        streams: read, audit, or agent (think, say, code).
        system: system prompt, for agent (default: a day and tools to find restaurants).
        temperature: 0 takes the likeliest token; above 0 tokens are drawn.
        seed: of the drawing.
        save: file to which the conversation is added as a table, a line of JSON.
        backend: what computes: auto, transformers, native (also native:int8), cpu (also
            cpu:int8), prepacked, llamacpp (also llamacpp:q8_0) or cuda.
        speculate: draft rows and check several in one pass: faster, the same words.
    """
    prompts = _check(streams, system, temperature, seed, save)
    perform(
        Console(file=sys.stdout, markup=False, highlight=False),
        model=model,
        streams=streams,
        prompts=prompts,
        temperature=temperature,
        seed=seed or 0,
        save=save,
        backend=backend,
        speculate=speculate,
    )


def _check(
    streams: str, system: str | None, temperature: float, seed: int | None, save: Path | None
) -> dict[str, str]:
    """The prompts of the session, if everything asked for can be honoured."""
    if streams not in _SETS:
        raise ConfigError(f"--streams {streams!r}: choose from {', '.join(_SETS)}")
    if system is not None and streams != "agent":
        raise ConfigError(f"--system: the {streams} streams have none; add --streams agent")
    if not temperature >= 0:
        raise ConfigError(f"--temperature {temperature:g}: give 0 or more")
    if seed is not None and temperature == 0:
        raise ConfigError("--seed: nothing is drawn at temperature 0; add --temperature 0.7")
    if save is not None:
        try:
            save.open("a").close()
        except OSError as error:
            raise InputError(f"--save {save}: cannot be written ({error.strerror})") from None
    prompts = dict(_PROMPTS[streams])
    if streams == "agent":
        prompts["system"] = _SYSTEM if system is None else system
    return prompts


def perform(
    console: Console,
    *,
    model: str,
    streams: str,
    prompts: dict[str, str],
    temperature: float,
    seed: int,
    save: Path | None,
    backend: str = "auto",
    speculate: bool = False,
) -> None:
    """Load the model, talk, save.

    Raises:
        StrettoError: the model cannot be had, or lacks these streams.
        KeyboardInterrupt: Ctrl-C was pressed; the conversation has been saved.
    """
    from stretto.cli.lanes import Lanes
    from stretto.cli.play import can_type, follow, load_engine, open_view, run, typing

    engine = load_engine(model, backend, speculate)
    session = _open(engine, streams, prompts, temperature, seed)
    given = {name: text.rstrip() + " " for name, text in prompts.items()}
    lanes = Lanes(session.streams, engine.codec.special, given=given, now=session.clock.now)
    if can_type(console):
        lanes.typed, lanes.hint = "", "Enter sends, /quit ends"
    view = open_view(console, lanes, session.streams, engine.codec.special.end)
    try:
        run(follow(session, view, typing(console, Sender(session, lanes))), lanes)
    finally:
        if save is not None:
            _save(session, model, save)
    if session.finish_reason == "max_rows":
        remarks.print("The table is full: the model has no more positions.", highlight=False)


def _open(
    engine: "Engine", streams: str, prompts: dict[str, str], temperature: float, seed: int
) -> "Session":
    from stretto.engine import Limits, SamplingParams

    return engine.open(
        streams,
        prompts=prompts,
        sampling=SamplingParams(temperature=temperature),
        limits=Limits(max_rows=2**31 - 1, max_message_tokens=_MAX_MESSAGE_TOKENS),
        seed=seed,
    )


class Sender:
    """Sends each typed line as a message of its own; ``/STREAM text`` to another input stream."""

    def __init__(self, session: "Session", lanes: "Lanes") -> None:
        self._session, self._lanes = session, lanes
        self._others = [
            session.streams[i].name
            for i in session.streams.inputs
            if not session.streams[i].prompt_only and session.streams[i].name != "user"
        ]

    def on_typed(self, text: str) -> None:
        """Show the line, where a person types it."""
        if self._lanes.typed is not None:
            self._lanes.typed = text

    def on_line(self, line: str) -> None:
        """Send it, or do what it commands."""
        if self._session.finish_reason is not None or not line.strip():
            return
        if line.strip() == "/quit":
            self._session.cancel("quit")
            return
        stream, text = "user", line
        for name in self._others:
            if line.startswith(f"/{name} "):
                stream, text = name, line.removeprefix(f"/{name} ")
        self._session.send(stream, text, end=True)

    def on_end(self) -> None:
        """Ctrl-D ends at once; the end of a pipe lets the model finish."""
        if self._lanes.typed is not None:
            self._session.cancel("quit")
        elif self._session.finish_reason is None:
            # The session may be over in between: then nothing is left to close.
            with suppress(InputError):
                self._session.close()


def _save(session: "Session", model: str, path: Path) -> None:
    """Add the conversation to the file."""
    table = session.table
    meta: dict[str, Any] = {"model": model, "set": "chat"}
    table.meta.update(meta)
    with path.open("a", encoding="utf-8") as file:
        file.write(table.to_jsonl() + "\n")
    remarks.print(f"saved to {path}; look at it with: stretto data show {path}", highlight=False)
