import asyncio
import os
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stretto.cli.keyboard import Keyboard, LineEditor, PipedLines


class Heard:
    def __init__(self):
        self.typed, self.lines = [], []
        self.ended = asyncio.Event()

    def on_typed(self, text):
        self.typed.append(text)

    def on_line(self, line):
        self.lines.append(line)

    def on_end(self):
        self.ended.set()


@pytest.mark.parametrize(
    ("typed", "lines", "left"),
    [
        (b"stop\r", ["stop"], ""),
        (b"a\nb\nc", ["a", "b"], "c"),
        (b"sot\x7f\x7ftop\r", ["stop"], ""),
        (b"one two  \x17three", [], "one three"),
        (b"gone\x15here", [], "here"),
        (b"a\x1b[Ab\x1b[1;5Cc\x1bOHd\x1b[3~", [], "abcd"),
        (b"a\x07\x00b\tc", [], "ab c"),
        ("grüße 你好\r".encode(), ["grüße 你好"], ""),
    ],
)
def test_editor(typed, lines, left):
    editor = LineEditor()
    assert editor.feed(typed) == lines
    assert editor.text == left
    assert not editor.is_ended


def test_ctrl_d_ends_only_in_an_empty_line():
    editor = LineEditor()
    editor.feed(b"a\x04")
    assert not editor.is_ended
    editor.feed(b"\x7f\x04")
    assert editor.is_ended


@given(st.lists(st.sampled_from(["a", "é", "你", "\x1b[A", "\x1b[1;5C", "\x7f", "\r", " "])))
def test_bytes_may_come_in_any_pieces(keys):
    data = "".join(keys).encode()
    whole, bytewise = LineEditor(), LineEditor()
    lines = whole.feed(data)
    assert [line for i in range(len(data)) for line in bytewise.feed(data[i : i + 1])] == lines
    assert bytewise.text == whole.text


def test_keyboard_reads_and_restores_the_terminal():
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)

    async def type_a_line():
        heard = Heard()
        with Keyboard(slave, heard):
            assert not termios.tcgetattr(slave)[3] & (termios.ECHO | termios.ICANON)
            assert termios.tcgetattr(slave)[3] & termios.ISIG
            os.write(master, b"wait\rno\x15\x04")
            await asyncio.wait_for(heard.ended.wait(), 10)
        return heard

    heard = asyncio.run(type_a_line())
    assert heard.lines == ["wait"]
    assert heard.typed[-1] == ""
    assert termios.tcgetattr(slave) == before


def test_keyboard_restores_the_terminal_after_an_error():
    _, slave = os.openpty()
    before = termios.tcgetattr(slave)

    async def fail():
        with Keyboard(slave, Heard()):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(fail())
    assert termios.tcgetattr(slave) == before


def test_lines_of_a_file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("first\r\n\nzweite für\nlast".encode())

    async def read(fd):
        heard = Heard()
        with PipedLines(fd, heard):
            await asyncio.wait_for(heard.ended.wait(), 10)
        return heard.lines

    with path.open("rb") as file:
        assert asyncio.run(read(file.fileno())) == ["first", "", "zweite für", "last"]
