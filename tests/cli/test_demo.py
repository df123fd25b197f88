import asyncio
import io
import os
import re
import signal
import sys
import termios
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import pytest
from rich.console import Console

from stretto import cli
from stretto.cli.demo import Interruptions, Settings, conclusions, perform
from stretto.cli.keyboard import Keyboard
from stretto.cli.lanes import Lanes
from stretto.cli.play import LineView, LiveView, follow, open_view, run
from stretto.evals.records import Record
from stretto.streams import READ, SpecialIds
from stretto.streams.examples import Example

SPECIAL = SpecialIds(silence=256, end=257)
EXAMPLE = Example("one", "t", ("How many? ", "Two and two."), ("Answer: 4",), "4", needs=(2,))


@dataclass
class ScriptedRow:
    index: int
    tokens: dict[str, int]
    text: dict[str, str]
    time: float


@dataclass
class ScriptedSession:
    """Gives its rows one by one, and notes what it is told; ``at`` runs something before a row."""

    rows: list[ScriptedRow]
    at: dict = field(default_factory=dict)
    streams = READ
    finish_reason = None

    def __post_init__(self):
        self.heard = []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        self.cancel()

    async def __aiter__(self):
        for row in self.rows:
            if row.index in self.at:
                self.at[row.index]()
                await asyncio.sleep(0.02)
            yield row
            await asyncio.sleep(0)
        self.finish_reason = "end"

    def interrupt(self, stream, text):
        self.heard.append(("interrupt", stream, text))

    def close(self, stream=None):
        self.heard.append(("close", stream))

    def cancel(self, reason="cancelled"):
        self.finish_reason = self.finish_reason or reason


def script():
    rows = []
    for i, text in enumerate(["", "", "Four", " it is", "\nAnswer: 4"]):
        tokens = {"user": 1, "answer": 1 if text else SPECIAL.silence}
        texts = {"user": f"w{i} "} | ({"answer": text} if text else {})
        rows.append(ScriptedRow(i, tokens, texts, i / 10))
    rows.append(ScriptedRow(5, {"user": SPECIAL.end, "answer": SPECIAL.end}, {}, 0.5))
    return rows


def terminal(width=80, height=20):
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height,
        _environ={"TERM": "xterm"}, highlight=False, markup=False,
    )  # fmt: skip


def pipe():
    return Console(file=io.StringIO(), force_terminal=False, width=100)


def play(session, view, source=None):
    run(follow(session, view, source or nullcontext()), view.lanes)
    return view


def test_lanes_are_drawn_on_the_second_screen_and_stay_on_the_first():
    console = terminal()
    play(ScriptedSession(script()), LiveView(console, Lanes(READ, SPECIAL)))
    second, _, first = console.file.getvalue().rpartition("\x1b[?1049l")
    assert "\x1b[?1049h" in second
    first = re.sub(r"\x1b\[[\d;?]*[a-z]", "", first, flags=re.IGNORECASE)
    assert "·· Four it is" in first
    assert "Answer: 4■" in first
    assert "row 6" in first


def test_a_pipe_gets_plain_lines():
    console = pipe()
    view = open_view(console, Lanes(READ, SPECIAL), READ, SPECIAL.end)
    assert isinstance(view, LineView)
    play(ScriptedSession(script()), view)
    lines = [line.split(maxsplit=5)[2:] for line in console.file.getvalue().splitlines()]
    assert lines == [
        ["row", "4", "answer", "Four it is"],
        ["row", "5", "user", "w0 w1 w2 w3 w4 "],
        ["row", "5", "answer", "Answer: 4"],
    ]


def test_a_dumb_terminal_gets_plain_lines():
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(open_view(console, Lanes(READ, SPECIAL), READ, SPECIAL.end), LineView)


@pytest.mark.parametrize(
    ("number", "raised", "code"),
    [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)],
)
def test_a_signal_restores_the_terminal_and_says_what_was_done(number, raised, code, capsys):
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    console, lanes = terminal(), Lanes(READ, SPECIAL)
    session = ScriptedSession(script(), at={3: lambda: os.kill(os.getpid(), number)})
    listener = Interruptions(session, lanes)

    async def with_keyboard():
        await follow(session, LiveView(console, lanes), Keyboard(slave, listener))

    with pytest.raises(raised) as caught:
        run(with_keyboard(), lanes)
    assert getattr(caught.value, "code", None) == code
    assert termios.tcgetattr(slave) == before
    assert "\x1b[?1049l" in console.file.getvalue()
    assert "\x1b[?25h" in console.file.getvalue()
    assert "3 rows" in capsys.readouterr().err
    os.close(master)


def test_a_typed_line_interrupts():
    master, slave = os.openpty()
    lanes = Lanes(READ, SPECIAL)
    lanes.typed = ""
    session = ScriptedSession(script(), at={2: lambda: os.write(master, b" \rno, ten\rnot se")})
    listener = Interruptions(session, lanes)

    async def with_keyboard():
        await follow(session, LiveView(terminal(), lanes), Keyboard(slave, listener))

    run(with_keyboard(), lanes)
    assert session.heard == [("interrupt", "user", "\nno, ten"), ("close", "user")]
    assert listener.num == 1
    assert lanes.typed == "not se"


def test_after_the_end_a_typed_line_does_nothing():
    session = ScriptedSession([])
    session.cancel("end")
    listener = Interruptions(session, Lanes(READ, SPECIAL))
    listener.on_line("late")
    assert (session.heard, listener.num) == ([], 0)


def exit_code(*arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return caught.value.code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--item", "nope"], "no item 'nope'; choose from gsm8k-1"),
        (["--item", "gsm8k-1", "--text", "x"], "give one of them"),
        (["--text", "/no/such/file"], "--text /no/such/file: cannot be read"),
        (["--text", "-"], "--text -: is empty"),
        (["--rate", "0"], "--rate 0: give tokens per second above 0"),
        (["--rate", "-3"], "--rate -3"),
        (["--rate", "nan"], "--rate nan"),
        (["--streams", "minds"], "--streams 'minds': choose from read, audit"),
        (["--lag", "7"], "--lag '7': choose from 0, 1, 2, 3, all"),
        (["--temperature", "-1"], "--temperature -1"),
        (["--seed", "3"], "--seed: nothing is drawn"),
        (["--model", "no-such"], "no model 'no-such'"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b" \n")))
    assert exit_code("demo", *arguments) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1


def test_text_that_is_not_utf8_is_refused(tmp_path, capsys):
    path = tmp_path / "latin1"
    path.write_bytes("grün".encode("latin1"))
    assert exit_code("demo", "--text", str(path)) == 2
    assert "is not UTF-8" in capsys.readouterr().err


def test_list(capsys):
    assert exit_code("demo", "--list") == 0
    out = capsys.readouterr().out
    assert "gsm8k-1" in out
    assert "pubmedqa-1" in out


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A multi-stream model and a baseline: tiny, random, saved like real ones."""
    from stretto.engine.testing import tiny_codec, tiny_lm
    from stretto.streams import AUDIT, SINGLE

    folders = {}
    for name, streams in (("model", AUDIT), ("baseline", SINGLE)):
        folders[name] = tmp_path_factory.mktemp(name) / "it"
        tiny_lm(streams).save_pretrained(folders[name])
        (folders[name] / "tokenizer.json").write_text(tiny_codec().tokenizer_json)
    return {name: str(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def played(models):
    console = pipe()
    perform(Settings(EXAMPLE, rate=200.0, streams="audit", **models), console)
    return console.file.getvalue()


def test_a_real_engine_plays_an_item_and_compares(played):
    assert "\x1b" not in played
    assert re.search(r"s +row +\d+ +user +How many\? Two and two\.", played)
    assert re.search(r"audit, lag 1 +single stream", played)
    for label in ("first token, after the start", "last token, after the end of the text"):
        assert re.search(label + r"( +\d+\.\d\d s, +\d+ rows?){2}", played)
    assert re.search(r"graded \(it is 4\)( +wrong){2}", played)
    assert "Its answer was complete" in played


def test_the_baseline_is_placed_after_the_text(played):
    # 22 byte tokens at 200 tokens/s: the last arrives after 21 / 200 s
    seconds = re.search(r"first token, after the start +\S+ s, +\d+ rows? +(\S+) s, +1 row", played)
    assert float(seconds[1]) >= 0.1
    assert "0.1 s later" in played


def test_a_model_without_the_streams_is_refused(models):
    settings = Settings(EXAMPLE, model=models["baseline"], baseline=None)
    with pytest.raises(Exception, match="this model has no stream 'user'"):
        perform(settings, pipe())


def test_a_text_longer_than_the_model_is_refused(models):
    long = replace(EXAMPLE, chunks=("x" * 3000,))
    with pytest.raises(Exception, match="the text has 3000 tokens, the model 2048 positions"):
        perform(Settings(long, model=models["model"], baseline=None), pipe())


def record(**fields):
    known = Record(
        system="read", task="t", item="i", rate="20", lag="1", correct=True, answered=True,
        predicted="4", text="", finish="end", input_tokens=9, output_tokens=5, input_end_row=9,
        first_row=3, last_row=12, input_end_s=4.0, first_s=1.0, last_s=5.0, total_s=5.0, rows=13,
    )  # fmt: skip
    return replace(known, **fields)


def test_conclusions_tell_gain_and_loss():
    assert conclusions([record(), record(last_s=7.5)]) == [
        "It began to answer 3.0 s before the end of the text had arrived.",
        "Its answer was complete 2.5 s earlier than the baseline's.",
    ]
    cut = record(system="single", last_s=4.0, finish="cut after 160 tokens")
    assert conclusions([record(first_s=4.5, finish="max_rows"), cut]) == [
        "Its answer was complete 1.0 s later than the baseline's.",
        "read: stopped early (max_rows).",
        "single: stopped early (cut after 160 tokens).",
    ]
