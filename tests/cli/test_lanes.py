import io
import unicodedata
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from stretto.cli.lanes import Lanes, LineLog, clean
from stretto.streams import AGENT, AUDIT, READ, SpecialIds

SPECIAL = SpecialIds(silence=100, end=101)


@dataclass
class Said:
    """A row as a session gives it; content tokens are 1."""

    index: int
    text: dict[str, str] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()

    @property
    def tokens(self):
        names = dict.fromkeys(self.text, 1)
        return names | dict.fromkeys(self.silent, 100) | dict.fromkeys(self.ended, 101)

    @property
    def time(self):
        return self.index / 10


def picture(lanes, *, width=40, height=12):
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(lanes)
    return console.file.getvalue().splitlines()


def two_lanes(**options):
    lanes = Lanes(READ, SPECIAL, **options)
    lanes.add(Said(0, {"user": "How "}, silent=("answer",)))
    lanes.add(Said(1, {"user": "many?"}, silent=("answer",)))
    lanes.add(Said(2, {"answer": "Six"}, ended=("user",)))
    return lanes


def test_lanes_stand_side_by_side():
    lines = picture(two_lanes(to_read=2), width=63, height=6)
    assert lines[0].split() == ["user", "→", "│", "answer", "←"]
    assert lines[2] == f"{'How many?■':30} │ {'·· Six':30}"
    assert lines[-1].split() == [
        "row",
        "3",
        "15",
        "rows/s",
        "read",
        "2/2",
        "tokens",
        "said",
        "1",
        "0.2",
        "s",
    ]


def test_prompts_and_what_is_typed_are_shown():
    lanes = two_lanes(given={"answer": "lag 1: "})
    lanes.title, lanes.typed = "title", "wait, ten"
    lines = picture(lanes)
    assert lines[0] == "title"
    assert "lag 1: ·· Six" in lines[3]
    assert lines[-1].startswith("> wait, ten")


def test_words_do_not_break_where_silence_ends_or_begins():
    lanes = Lanes(READ, SPECIAL)
    for i, (text, silent) in enumerate([("", 1)] * 7 + [("Six", 0), ("teen", 0), ("", 1), ("", 1)]):
        lanes.add(Said(i, {"answer": text} if text else {}, silent=("answer",) * silent))
    shown = [line.rpartition("│ ")[2].strip() for line in picture(lanes, width=23, height=6)[2:5]]
    assert shown == ["·······", "Sixteen ··", ""]


def test_the_newest_text_is_at_the_bottom():
    lanes = Lanes(READ, SPECIAL)
    for i in range(30):
        lanes.add(Said(i, {"answer": f"line {i}\n"}))
    lanes.add(Said(30, {"answer": "last"}))
    lines = picture(lanes, height=10)
    assert len(lines) == 10
    assert [line.rpartition("│ ")[2].strip() for line in lines[2:9]] == [
        *(f"line {i}" for i in range(24, 30)), "last"
    ]  # fmt: skip
    lanes.is_whole = True
    assert sum("line" in line for line in picture(lanes, height=10)) == 30


def test_a_newer_width_wraps_anew():
    lanes = Lanes(READ, SPECIAL)
    lanes.add(Said(0, {"user": "one two three four\nfive"}))
    wide, narrow = picture(lanes, width=60), picture(lanes, width=27)
    assert wide[2].startswith("one two three four ")
    assert [line[:12].strip() for line in narrow[2:5]] == ["one two", "three four", "five"]
    assert picture(lanes, width=60) == wide


@given(
    texts=st.lists(st.text(max_size=30), max_size=8),
    width=st.integers(20, 120),
    height=st.integers(6, 40),
    streams=st.sampled_from([READ, AUDIT, AGENT]),
)
def test_every_picture_fits_the_screen(texts, width, height, streams):
    lanes = Lanes(streams, SPECIAL)
    lanes.typed = "".join(texts)
    names = [lane.stream.name for lane in lanes]
    for i, text in enumerate(texts):
        lanes.add(Said(i, {names[i % len(names)]: text}))
    out = picture(lanes, width=max(width, 7 * len(names)), height=height)
    assert len(out) == height
    assert max(map(cell_len, out)) <= max(width, 7 * len(names))


@given(st.text())
def test_nothing_a_terminal_would_obey_is_shown(text):
    allowed = ("\n", "\u200d")
    assert all(unicodedata.category(c)[0] != "C" for c in clean(text) if c not in allowed)
    assert clean(text).count("\n") == text.count("\n")


def test_escape_sequences_reach_neither_lanes_nor_lines():
    hostile = Said(0, {"user": "\x1b]0;title\x07\x1b[2J\x9b1mhi\r\n"})
    lanes, out = Lanes(READ, SPECIAL), io.StringIO()
    lanes.add(hostile)
    LineLog(out, READ, SPECIAL.end).add(hostile)
    for text in ("".join(picture(lanes, width=100)), out.getvalue()):
        assert "hi" in text
        assert not set(text) & set("\x1b\x07\x9b\r")


def test_what_happened_in_words():
    lanes = two_lanes()
    assert lanes.done() == "3 rows in 0.2 s: 2 tokens read, 1 said"
    assert not lanes["user"].is_speaking
    assert lanes["answer"].is_speaking


def test_lines_are_written_when_they_are_finished():
    out = io.StringIO()
    log = LineLog(out, READ, SPECIAL.end)
    log.add(Said(0, {"user": "Tell me"}, silent=("answer",)))
    assert out.getvalue() == ""
    log.add(Said(1, {"answer": "Yes\nA"}))
    log.add(Said(2, {"user": " more"}, ended=("answer",)))
    log.add(Said(3, ended=("user",)))
    log.add(Said(4, {"answer": "begun"}))
    log.finish()
    log.finish()
    lines = [line.split(maxsplit=5) for line in out.getvalue().splitlines()]
    assert [(line[3], line[4], line[5:]) for line in lines] == [
        ("1", "answer", ["Yes"]),
        ("2", "answer", ["A"]),
        ("3", "user", ["Tell me more"]),
        ("4", "answer", ["begun"]),
    ]
    assert [line[0] for line in lines] == ["0.10", "0.20", "0.30", "0.40"]


@pytest.mark.parametrize("rows", [1, 40])
def test_rows_a_second_are_those_of_the_last_moments(rows):
    lanes = Lanes(READ, SPECIAL)
    for i in range(rows):
        lanes.add(Said(i, silent=("answer",)))
    shown = int(lanes.status().split()[2])
    assert shown == (10 if rows == 1 else pytest.approx(10, abs=1))
