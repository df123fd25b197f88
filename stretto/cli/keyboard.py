"""Lines a person types while a model speaks: read without ever waiting for them."""

import asyncio
import codecs
import os
import re
import threading
from typing import Any, Protocol, Self

_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|O.|[^\[O])")
_UNFINISHED_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*|O)?$")
_CHUNK = 4096


class Listener(Protocol):
    """Who is told about lines."""

    def on_typed(self, text: str) -> None:
        """The line as far as it is typed."""
        ...

    def on_line(self, line: str) -> None:
        """A line was finished."""
        ...

    def on_end(self) -> None:
        """Nothing more will be typed."""
        ...


class LineEditor:
    """The line being typed, from the bytes a terminal in cbreak mode gives.

    Backspace, Ctrl-U (whole line) and Ctrl-W (word) take back; Ctrl-D in an empty line ends;
    arrow and function keys are ignored.

    Attributes:
        text: the line so far.
        is_ended: Ctrl-D was typed.
    """

    def __init__(self) -> None:
        self.text = ""
        self.is_ended = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def feed(self, data: bytes) -> list[str]:
        """Take what was typed; returns the lines that were finished, without newlines."""
        keys = _ESCAPE.sub("", self._held + self._decoder.decode(data))
        unfinished = _UNFINISHED_ESCAPE.search(keys)
        self._held = unfinished[0] if unfinished else ""
        lines = []
        for key in keys[: len(keys) - len(self._held)]:
            if key in "\r\n":
                lines.append(self.text)
                self.text = ""
            else:
                self._edit(key)
        return lines

    def _edit(self, key: str) -> None:
        if key in "\x7f\x08":
            self.text = self.text[:-1]
        elif key == "\x15":
            self.text = ""
        elif key == "\x17":
            self.text = re.sub(r"\S+\s*$", "", self.text)
        elif key == "\x04":
            self.is_ended = self.is_ended or not self.text
        elif key.isprintable() or key == "\u200d":
            self.text += key
        elif key == "\t":
            self.text += " "


class Keyboard:
    """A terminal in cbreak mode, read by the running event loop; ``with`` restores it always.

    Ctrl-C stays a signal.
    """

    def __init__(self, fd: int, listener: Listener) -> None:
        self._fd, self._listener = fd, listener
        self._editor = LineEditor()
        self._saved: list[Any] = []

    def __enter__(self) -> Self:
        import termios
        import tty

        self._saved = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd, termios.TCSADRAIN)
        asyncio.get_running_loop().add_reader(self._fd, self._read)
        return self

    def __exit__(self, *error: object) -> None:
        import termios

        asyncio.get_running_loop().remove_reader(self._fd)
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)

    def _read(self) -> None:
        data = os.read(self._fd, _CHUNK)
        for line in self._editor.feed(data):
            self._listener.on_line(line)
        self._listener.on_typed(self._editor.text)
        if not data or self._editor.is_ended:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._listener.on_end()


class PipedLines:
    """Lines of a file or pipe, read by a thread, told on the running event loop.

    A thread, since an event loop cannot watch a plain file.
    """

    def __init__(self, fd: int, listener: Listener) -> None:
        self._fd, self._listener = fd, listener

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """The thread ends with its input, or with the process."""

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        text = ""
        try:
            # os.read holds no lock, so a thread that still waits cannot block the exit.
            while data := os.read(self._fd, _CHUNK):
                *lines, text = (text + decoder.decode(data)).split("\n")
                for line in lines:
                    loop.call_soon_threadsafe(self._listener.on_line, line.rstrip("\r"))
            if text:
                loop.call_soon_threadsafe(self._listener.on_line, text)
            loop.call_soon_threadsafe(self._listener.on_end)
        except RuntimeError:
            return  # the event loop is closed: nobody listens any more
