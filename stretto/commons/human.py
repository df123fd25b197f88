"""A person in a village: sees what a villager sees, and types what a villager decides."""

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any, Protocol

from stretto.commons.villager import Answer, Ask, News, Question, Situation
from stretto.errors import LimitError

_HIDDEN = ("reasoning", "note")  # what a person need not write down
_ASKED = {
    "units": "How many {unit}",
    "message": "What you say to the others (Enter: nothing)",
    "text": "What you say (Enter: nothing)",
    "done": "Is the talk over after this (y/n)",
    "next": "Who speaks next ({choices})",
}


class Typed(Protocol):
    """Where a person's lines come from."""

    async def line(self, prompt: str) -> str | None:
        """The next line, without its end; None: there are no more."""
        ...


class HumanVillager:
    """One seat, played by a person.

    Args:
        name: in the village.
        typed: where lines come from.
        show: tells the person something.
    """

    model, scripted = "human", False

    def __init__(self, name: str, typed: Typed, show: Callable[[str], None]) -> None:
        self.name, self._typed, self._show = name, typed, show
        self._knows_rules = ""

    async def answer(self, question: Question, situation: Situation) -> Answer:
        """Ask the person, field by field, until the answer will do.

        Raises:
            LimitError: the person has left; play again to go on.
        """
        from jsonschema import Draft202012Validator

        if situation.rules_text != self._knows_rules:
            self._knows_rules = situation.rules_text
            self._show(situation.rules_text)
        self._show(question.text.partition("Answer as JSON")[0].strip())
        judge = Draft202012Validator(question.schema)
        while True:
            value = {
                key: "" if key in _HIDDEN else await self._field(key, schema)
                for key, schema in question.schema["properties"].items()
            }
            wrong = next(iter(judge.iter_errors(value)), None)
            why = wrong.message if wrong is not None else question.check(value)
            if not why:
                return Answer(value, text=json.dumps(value, ensure_ascii=False), model=self.model)
            self._show(f"That cannot be: {why}.")

    def see(self, news: News) -> None:
        """Show it; the stock stands in the question itself."""
        if news.kind == "stock" or news.who == self.name:
            return
        self._show(f"{news.who}: {news.text}" if news.kind == "said" else news.text)

    async def digest(self, ask: Ask, situation: Situation) -> None:
        """A person remembers unasked."""

    async def reflect(self, ask: Ask, situation: Situation) -> None:
        """A person thinks unasked."""

    async def _field(self, key: str, schema: dict[str, Any]) -> Any:
        choices = ", ".join(map(str, schema.get("enum", ())))
        prompt = _ASKED.get(key, key).format(choices=choices, unit="do you take")
        while True:
            line = await self._typed.line(f"{prompt}: ")
            if line is None:
                raise LimitError("you left the village; play again to go on")
            try:
                return _read(line.strip(), schema)
            except ValueError as error:
                self._show(f"That cannot be: {error}.")


def _read(text: str, schema: dict[str, Any]) -> Any:
    """A typed line as the schema wants it.

    Raises:
        ValueError: it cannot be read.
    """
    kinds = schema.get("type", "string")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if "enum" in schema:
        found = [one for one in schema["enum"] if str(one).lower() == text.lower()]
        if not found:
            raise ValueError(f"give one of {', '.join(map(str, schema['enum']))}")
        return found[0]
    if "null" in kinds and not text:
        return None
    if "boolean" in kinds:
        if text.lower() not in ("y", "yes", "n", "no"):
            raise ValueError("give y or n")
        return text.lower().startswith("y")
    if "integer" in kinds:
        least, most = schema.get("minimum"), schema.get("maximum")
        bounds = f" from {least} to {most}" if least is not None and most is not None else ""
        if not text.isdecimal():
            raise ValueError(f"give a whole number{bounds}")
        if (least is not None and int(text) < least) or (most is not None and int(text) > most):
            raise ValueError(f"give a whole number{bounds}")
        return int(text)
    if "number" in kinds:
        try:
            return float(text)
        except ValueError:
            raise ValueError("give a number") from None
    if "object" in kinds or "array" in kinds:
        return json.loads(text)
    return text


class Terminal:
    """Lines from standard input, while everything else goes on.

    Args:
        handle: of standard input.
        show: writes a prompt, without a line's end.
    """

    def __init__(self, handle: int, show: Callable[[str], None]) -> None:
        self._handle, self._show = handle, show
        self._buffer, self._ended = b"", False
        self._lock = asyncio.Lock()

    async def line(self, prompt: str) -> str | None:
        """The next line; questions that come together are asked one after the other."""
        async with self._lock:
            self._show(prompt)
            while b"\n" not in self._buffer and not self._ended:
                await self._ready()
                piece = os.read(self._handle, 4096)
                self._buffer, self._ended = self._buffer + piece, not piece
            if not self._buffer:
                return None
            line, _, self._buffer = self._buffer.partition(b"\n")
            return line.decode(errors="replace")

    async def _ready(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        try:
            loop.add_reader(self._handle, ready.set)
        except (NotImplementedError, PermissionError):  # Windows, or a file: read it at once
            return
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._handle)
