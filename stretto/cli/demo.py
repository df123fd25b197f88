"""``stretto demo``: one real item, answered while it is still being read."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from stretto.cli.output import console as remarks
from stretto.cli.output import emit
from stretto.errors import ConfigError, InputError, LimitError

if TYPE_CHECKING:
    from rich.table import Table

    from stretto.cli.lanes import Lanes
    from stretto.cli.play import View
    from stretto.engine import Engine, Session
    from stretto.evals.records import Record
    from stretto.streams import StreamSet
    from stretto.streams.examples import Example

MODEL = "stretto-smollm2-135m"
BASELINE = "stretto-smollm2-135m-single"
ITEM = "pubmedqa-1"
_SETS = ("read", "audit")
_LAGS = ("0", "1", "2", "3", "all")
_MAX_ANSWER_TOKENS = 160
_TEXT = "text"

Flag = Parameter(negative="")
ViewMaker = Callable[["Lanes", "StreamSet", int], "View"]


def demo(
    *,
    item: str | None = None,
    text: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    rate: float = 20.0,
    streams: str = "read",
    lag: str = "1",
    model: str = MODEL,
    baseline: str = BASELINE,
    no_baseline: Annotated[bool, Flag] = False,
    temperature: float = 0.0,
    seed: int | None = None,
    backend: str = "auto",
    list_items: Annotated[bool, Parameter(name="--list", negative="")] = False,
) -> None:
    """Play a real item: the model answers while it is still reading.

    The text arrives token by token; every stream has its lane. Type a line and press Enter to
    interrupt: what has not arrived yet is dropped, your line arrives at once. At the end the same
    item is given to the single-stream baseline, which answers when it has everything.

    Args:
        item: one of the items that travel with stretto (see --list).
        text: a file to be read instead, or - for standard input.
        rate: tokens per second at which the text arrives.
        streams: read (user, answer) or audit (also a voice that checks the answer).
        lag: how many pieces of text the answer keeps behind: 0, 1, 2, 3 or all.
        model: multi-stream model: name or folder.
        baseline: single-stream model to compare with: name or folder.
        no_baseline: leave the comparison out.
        temperature: 0 takes the likeliest token; above 0 tokens are drawn.
        seed: of the drawing.
        backend: what computes: auto, transformers, native (also native:int8), cpu (also
            cpu:int8), prepacked, llamacpp (also llamacpp:q8_0) or cuda.
        list_items: list the items and stop.
    """
    if list_items:
        _list_items()
        return
    settings = Settings(
        example=_choose(item, text),
        rate=rate,
        streams=streams,
        lag=lag,
        model=model,
        baseline=None if no_baseline else baseline,
        temperature=temperature,
        seed=seed,
        backend=backend,
    )
    perform(settings, Console(file=sys.stdout, markup=False, highlight=False))


@dataclass(frozen=True)
class Settings:
    """A performance.

    Attributes:
        example: what is asked; without gold answer it is not graded.
        rate: tokens per second at which the text arrives.
        streams: ``read`` or ``audit``.
        lag: dial in the answer's prompt.
        model: multi-stream model.
        baseline: single-stream model; None: no comparison.
        temperature: of all output streams.
        seed: of the session; None where nothing is drawn.
        backend: what runs the forward passes.
    """

    example: "Example"
    rate: float = 20.0
    streams: str = "read"
    lag: str = "1"
    model: str = MODEL
    baseline: str | None = BASELINE
    temperature: float = 0.0
    seed: int | None = None
    backend: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.rate < float("inf"):
            raise ConfigError(f"--rate {self.rate:g}: give tokens per second above 0")
        _known("--streams", self.streams, _SETS)
        _known("--lag", self.lag, _LAGS)
        if not self.temperature >= 0:
            raise ConfigError(f"--temperature {self.temperature:g}: give 0 or more")
        if self.seed is not None and self.temperature == 0:
            raise ConfigError("--seed: nothing is drawn at temperature 0; add --temperature 0.7")

    @property
    def text(self) -> str:
        """The user's whole text."""
        return "".join(self.example.chunks)


def perform(settings: Settings, console: Console, view: ViewMaker | None = None) -> None:
    """Play the item, then the baseline, then compare.

    Args:
        settings: what to play.
        console: where lanes or lines, and the summary, go.
        view: another view than the console's own.

    Raises:
        StrettoError: a model cannot be had, or the text is too long for it.
        KeyboardInterrupt: Ctrl-C was pressed; what was done has been said.
    """
    from stretto.cli.play import load_engine, open_view
    from stretto.models.store import resolve

    for name in filter(None, (settings.model, settings.baseline)):
        resolve(name)  # fetches what is missing, and complains, before anything is played
    view = view or (lambda lanes, streams, end: open_view(console, lanes, streams, end))
    engine = load_engine(settings.model, settings.backend)
    while_reading, is_interrupted = _play(engine, settings, console, view)
    if is_interrupted:
        console.print("Interrupted by you, so there is nothing to compare: the baseline "
                      "reads one whole text, then answers.")  # fmt: skip
        return
    records = [while_reading]
    if settings.baseline is not None:
        del engine
        engine = load_engine(settings.baseline, settings.backend)
        records.append(_play_baseline(engine, settings, while_reading, console, view))
    console.print()
    console.print(summary(records, settings))
    for line in conclusions(records):
        console.print(line)


def _play(
    engine: "Engine", settings: Settings, console: Console, view: ViewMaker
) -> "tuple[Record, bool]":
    """The item on the multi-stream model; also whether somebody interrupted."""
    from stretto.cli.lanes import Lanes
    from stretto.cli.play import can_type, follow, run, typing

    session = _open(engine, settings)
    lanes = Lanes(
        session.streams,
        engine.codec.special,
        given={"answer": f"lag {settings.lag}: "},
        to_read=_num_tokens(engine, settings.text),
        now=session.clock.now,
    )
    lanes.title = f"{settings.example.id}: the text arrives at {settings.rate:g} tokens/s"
    interruptions = Interruptions(session, lanes)
    source: AbstractContextManager[Any] = nullcontext()
    if can_type(console):
        lanes.typed, lanes.hint = "", "type to interrupt, Ctrl-C stops"
        source = typing(console, interruptions)
    shown = view(lanes, session.streams, engine.codec.special.end)
    run(follow(session, shown, source), lanes)
    return _record(session, settings, settings.streams, engine), interruptions.num > 0


class Interruptions:
    """Lets a typed line arrive at once, in place of what had not arrived yet."""

    def __init__(self, session: "Session", lanes: "Lanes") -> None:
        self._session, self._lanes = session, lanes
        self.num = 0

    def on_typed(self, text: str) -> None:
        """Show the line."""
        self._lanes.typed = text

    def on_line(self, line: str) -> None:
        """Interrupt, unless all is over."""
        if not line.strip() or self._session.finish_reason is not None:
            return
        # In the middle of the text a new line begins; what has been read cannot be taken back.
        start = "\n" if self._lanes["user"].is_speaking else ""
        self._session.interrupt("user", start + line)
        self._session.close("user")
        self.num += 1

    def on_end(self) -> None:
        """Ctrl-D: no more interruptions."""
        self._lanes.typed = None


def _play_baseline(
    engine: "Engine", settings: Settings, before: "Record", console: Console, view: ViewMaker
) -> "Record":
    """The same text on the single-stream model, from the moment at which all of it is there."""
    from stretto.cli.lanes import Lanes
    from stretto.cli.play import follow, run

    session = _open_baseline(engine, settings)
    lanes = Lanes(session.streams, engine.codec.special, now=session.clock.now)
    lanes.title = (f"the baseline, which begins when all has arrived: "
                   f"{before.input_end_s:.1f} s later (not waited for here)")  # fmt: skip
    shown = view(lanes, session.streams, engine.codec.special.end)
    run(follow(session, shown, nullcontext()), lanes)
    return _record(session, settings, "single", engine).placed(f"{settings.rate:g}")


def _open(engine: "Engine", settings: Settings) -> "Session":
    """A session to which the whole text is on its way."""
    from stretto.engine import Limits

    _refuse_too_long(engine, settings.text)
    session = engine.open(
        settings.streams,
        prompts={"answer": f"lag {settings.lag}:"},
        sampling=_sampling(settings),
        limits=Limits(max_rows=2**31 - 1, max_message_tokens=_MAX_ANSWER_TOKENS),
        seed=settings.seed or 0,
    )
    session.send("user", settings.text, rate=settings.rate)
    session.close("user")
    return session


def _open_baseline(engine: "Engine", settings: Settings) -> "Session":
    from stretto.engine import Limits
    from stretto.streams.alignment import single_prompt

    _refuse_too_long(engine, settings.text)
    session = engine.open(
        "single",
        prompts={"text": single_prompt(settings.text, engine.codec)},
        sampling=_sampling(settings),
        limits=Limits(max_rows=2**31 - 1, max_message_tokens=_MAX_ANSWER_TOKENS),
        seed=settings.seed or 0,
    )
    session.close()
    return session


def _sampling(settings: Settings) -> Any:
    from stretto.engine import SamplingParams

    return SamplingParams(temperature=settings.temperature)


def _refuse_too_long(engine: "Engine", text: str) -> None:
    num, most = _num_tokens(engine, text), engine.model.config.max_position_embeddings
    if num >= most:
        raise LimitError(f"the text has {num} tokens, the model {most} positions; shorten it")


def _num_tokens(engine: "Engine", text: str) -> int:
    return len(engine.codec.encode(text))


def _record(session: "Session", settings: Settings, system: str, engine: "Engine") -> "Record":
    """What the session gave, in the terms of ``stretto eval efficiency``."""
    from stretto.evals.records import ANY_RATE
    from stretto.evals.systems import SYSTEMS, Job, record

    rate = f"{settings.rate!r}" if SYSTEMS[system].live else ANY_RATE
    job = Job(SYSTEMS[system], settings.example, rate, settings.lag)
    made = record(session, job, engine.codec)
    longest = max(map(len, session.table.messages(SYSTEMS[system].output)), default=0)
    if longest >= _MAX_ANSWER_TOKENS:
        return replace(made, finish=f"cut after {_MAX_ANSWER_TOKENS} tokens")
    return made


def summary(records: "list[Record]", settings: Settings) -> "Table":
    """The figures side by side: the streams first, then the baseline if there is one."""
    from rich.table import Table

    names = [f"{settings.streams}, lag {settings.lag}", "single stream"][: len(records)]
    table = Table("", *names, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    lines: dict[str, Callable[[Record], str]] = {
        "first token, after the start": lambda r: _amount(
            r.ttft_start_s, None if r.first_row is None else r.first_row + 1
        ),
        "first token, after the end of the text": lambda r: _amount(r.ttft_s, r.ttft_rows),
        "last token, after the end of the text": lambda r: _amount(r.delay_s, r.delay_rows),
        "last token, after the start": lambda r: _amount(
            r.end_s, None if r.last_row is None else r.last_row + 1
        ),
        "answer tokens": lambda r: f"{r.output_tokens}",
        "answer tokens per second, from the start": lambda r: f"{r.tokens_per_s:.1f}",
        "answer": lambda r: r.predicted or "none",
    }
    for label, show in lines.items():
        table.add_row(label, *map(show, records))
    if settings.example.answer:
        verdicts = ["right" if r.correct else "wrong" for r in records]
        table.add_row(f"graded (it is {settings.example.answer})", *verdicts)
    return table


def _amount(seconds: float, rows: int | None) -> str:
    unit = "row " if rows == 1 else "rows"
    return f"{seconds:.2f} s" + ("" if rows is None else f", {rows:4} {unit}")


def conclusions(records: "list[Record]") -> list[str]:
    """What the figures say, gain or loss, in a sentence each."""
    first = records[0]
    lines = []
    if first.first_s is not None and first.first_s < first.input_end_s:
        lead = first.input_end_s - first.first_s
        lines.append(f"It began to answer {lead:.1f} s before the end of the text had arrived.")
    if len(records) == 2:
        gain = records[1].end_s - first.end_s
        side = "earlier" if gain >= 0 else "later"
        lines.append(f"Its answer was complete {abs(gain):.1f} s {side} than the baseline's.")
    cut = [record for record in records if record.finish != "end"]
    return lines + [f"{record.system}: stopped early ({record.finish})." for record in cut]


def _choose(item: str | None, text: str | None) -> "Example":
    from stretto.streams.examples import Example, demo_items

    if item is not None and text is not None:
        raise InputError("--item and --text: give one of them")
    if text is not None:
        source = _read(text)
        return Example(id=_TEXT, task=_TEXT, chunks=(source,), steps=("",), answer="", needs=(1,))
    items = demo_items()
    name = item or ITEM
    if name not in items:
        raise InputError(f"no item {name!r}; choose from {', '.join(items)}")
    return replace(items[name], id=name)


def _read(path: str) -> str:
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        text = data.decode().strip()
    except OSError as error:
        raise InputError(f"--text {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"--text {path}: is not UTF-8 text") from None
    if not text:
        raise InputError(f"--text {path}: is empty; give some text to answer")
    return text


def _list_items() -> None:
    from stretto.streams.examples import demo_items

    rows = [
        {"name": name, "answer": item.answer, "question": item.chunks[0].strip()}
        for name, item in demo_items().items()
    ]
    emit(rows, ["name", "answer", "question"])
    remarks.print("play one with: stretto demo --item NAME", highlight=False)


def _known(what: str, name: str, choices: tuple[str, ...]) -> None:
    if name not in choices:
        raise ConfigError(f"{what} {name!r}: choose from {', '.join(choices)}")
