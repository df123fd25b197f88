"""The record of one game, line by line; the same game gives the same bytes.

``game.jsonl`` holds what happened and nothing that differs from run to run: no clock, no latency,
no cost. A run that was broken off is played again from the start, answered from the record, and
goes on where the record ends; a record that does not fit what happens is refused.
"""

import json
from pathlib import Path
from typing import Any

from stretto.commons.villager import Answer
from stretto.errors import InputError

VERSION = 1


class Journal:
    """Events in the order of the game.

    Args:
        path: the file, read if it exists; None keeps events in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.events: list[dict[str, Any]] = []
        self._recorded = _read(path) if path is not None and path.exists() else []
        self._answers = {e["id"]: e for e in self._recorded if e["type"] == "answer"}
        self._waiting: list[tuple[tuple[int, str], dict[str, Any]]] = []

    def write(self, type: str, **data: Any) -> None:  # noqa: A002 - the name it has in the file
        """The next event.

        Raises:
            InputError: the record says that something else happened here.
        """
        event = json.loads(json.dumps({"v": VERSION, "type": type, **data}, ensure_ascii=False))
        place = len(self.events)
        if place < len(self._recorded):
            if self._recorded[place] != event:
                raise InputError(
                    f"{self.path}: line {place + 1} does not fit: this game has another config, "
                    f"model or code (it says {self._recorded[place]['type']}, now {type})"
                )
        elif self.path is not None:
            line = json.dumps(event, ensure_ascii=False) + "\n"
            with self.path.open("ab") as file:
                file.write(line.encode("utf-8", "surrogatepass"))
        self.events.append(event)

    def recorded(self, id: str) -> Answer | None:  # noqa: A002 - the name it has in the file
        """The answer that an earlier try of this game got."""
        event = self._answers.get(id)
        if event is None:
            return None
        return Answer(
            event["value"], event["outcome"], event["text"], event["attempts"], event["why"],
            model=event["model"], scripted=event["scripted"],
        )  # fmt: skip

    def answer(self, id: str, place: int, agent: str, purpose: str, answer: Answer) -> None:  # noqa: A002
        """Keep an answer until :meth:`flush`: answers of one phase come in any order."""
        self._waiting.append((
            (place, purpose),
            {
                "id": id, "agent": agent, "purpose": purpose, "outcome": answer.outcome,
                "value": answer.value, "text": answer.text, "attempts": answer.attempts,
                "why": answer.why, "model": answer.model, "scripted": answer.scripted,
            },
        ))  # fmt: skip

    def flush(self) -> None:
        """Write the answers that wait, by villager and purpose."""
        waiting, self._waiting = sorted(self._waiting, key=lambda pair: pair[0]), []
        for _, event in waiting:
            self.write("answer", **event)


def _read(path: Path) -> list[dict[str, Any]]:
    """The whole lines; a line that a kill left unfinished is cut off."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    events = []
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            event = json.loads(line.decode("utf-8", "surrogatepass"))
        except ValueError:
            raise InputError(f"{path}: line {number} is not JSON; remove the file") from None
        if event.get("v") != VERSION:
            raise InputError(f"{path}: line {number} is of version {event.get('v')}, not {VERSION}")
        events.append(event)
    return events
