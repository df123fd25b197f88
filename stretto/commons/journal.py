"""The record of one game, line by line; the same game gives the same bytes.

``game.jsonl`` holds what happened and nothing that differs from run to run: no clock, no latency,
no cost. A run that was broken off is played again from the start, answered from the record, and
goes on where the record ends; a record that does not fit what happens is refused.

Answers of a phase are written together, in the village's order. Until then each stands, as it came,
in ``game.waiting.jsonl``: a phase that breaks off loses none of them.
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
        self._aside = path.with_suffix(".waiting.jsonl") if path is not None else None
        self._answers = {e["id"]: e for e in self._recorded if e["type"] == "answer"}
        # Ids of what stands aside and not in the record.
        self._unwritten = self._take_aside()
        self._asked: set[str] = set()
        self._waiting: list[tuple[tuple[int, str, str], dict[str, Any]]] = []

    def _take_aside(self) -> set[str]:
        if self._aside is None or not self._aside.exists():
            return set()
        # Without a record they are of a game that somebody removed.
        events = _read(self._aside) if self._recorded else []
        found = {event["id"]: event for event in events if event["id"] not in self._answers}
        self._answers |= found
        if not found:
            self._aside.unlink()
        return set(found)

    def write(self, type: str, **data: Any) -> None:  # noqa: A002 - the name it has in the file
        """The next event.

        Raises:
            InputError: the record says that something else happened here, or a number is NaN or
                infinite, which JSON does not have.
        """
        line = _line({"type": type, **data})
        event = json.loads(line)
        place = len(self.events)
        if place < len(self._recorded):
            if self._recorded[place] != event:
                raise InputError(
                    f"{self.path}: line {place + 1} does not fit: this game has another config, "
                    f"model or code (it says {self._recorded[place]['type']}, now {type})"
                )
        elif self.path is not None:
            _append(self.path, line)
        self.events.append(event)

    def recorded(self, id: str) -> Answer | None:  # noqa: A002 - the name it has in the file
        """The answer that an earlier try of this game got; to be called once before each question.

        Raises:
            InputError: the same was asked before in this game: the record could not tell the
                answers apart.
        """
        if id in self._asked:
            raise InputError(
                f"question {id}: was asked before; give each purpose of a month a name"
            )
        self._asked.add(id)
        event = self._answers.get(id)
        if event is None:
            return None
        return Answer(
            event["value"], event["outcome"], event["text"], event["attempts"], event["why"],
            model=event["model"], scripted=event["scripted"],
        )  # fmt: skip

    def answer(self, id: str, place: int, agent: str, purpose: str, answer: Answer) -> None:  # noqa: A002
        """Keep an answer until :meth:`flush`: answers of one phase come in any order."""
        event = {
            "id": id, "agent": agent, "purpose": purpose, "outcome": answer.outcome,
            "value": answer.value, "text": answer.text, "attempts": answer.attempts,
            "why": answer.why, "model": answer.model, "scripted": answer.scripted,
        }  # fmt: skip
        self._waiting.append(((place, agent, purpose), event))
        if self._aside is not None and id not in self._answers:
            self._unwritten.add(id)
            _append(self._aside, _line({"type": "answer", **event}))

    def flush(self) -> None:
        """Write the answers that wait, by villager and purpose."""
        waiting, self._waiting = sorted(self._waiting, key=lambda pair: pair[0]), []
        for _, event in waiting:
            self.write("answer", **event)
        if self._aside is not None and self._unwritten:
            self._unwritten -= {event["id"] for _, event in waiting}
            if not self._unwritten:
                self._aside.unlink()


def _line(event: dict[str, Any]) -> str:
    try:
        return json.dumps({"v": VERSION, **event}, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise InputError(f"event {event['type']}: {error}") from None


def _append(path: Path, line: str) -> None:
    with path.open("ab") as file:
        file.write((line + "\n").encode("utf-8", "surrogatepass"))


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
