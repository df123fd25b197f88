"""A person's seat: what it sees, what it types, what is asked again, and going on later."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from stretto.commons.human import HumanVillager, Terminal
from stretto.commons.play import JOURNAL, play
from stretto.commons.resource import Rules
from stretto.commons.run_config import RunConfig, Seat
from stretto.errors import LimitError

SEATS = (Seat("human", "Me"), *[Seat("script:threshold")] * 4)


class Typing:
    """Lines typed beforehand."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.prompts = list(lines), []

    async def line(self, prompt: str) -> str | None:
        self.prompts.append(prompt)
        return self.lines.pop(0) if self.lines else None


def person(typed: Any, seen: list[str], config: RunConfig, folder: Path | None = None) -> Any:
    human = lambda name: HumanVillager(name, typed, seen.append)  # noqa: E731
    return asyncio.run(play(config, folder=folder, human=human))


def test_a_person_plays_and_sees_what_a_villager_sees() -> None:
    config = RunConfig(SEATS, rules=Rules(months=2), talk="none")
    seen: list[str] = []
    typed = Typing("ten", "-3", "101", "10.5", "", "12", "8")
    game = person(typed, seen, config)
    assert game.received[:, 0].tolist() == [12, 8]
    assert game.valid.all() and not typed.lines
    assert sum("give a whole number from 0 to 100" in text for text in seen) == 5
    assert sum("You are Me." in text for text in seen) == 1
    assert "There are 100 tons of fish in the lake" in seen[1] and "JSON" not in "".join(seen)
    assert any("You caught 12 tons" in text for text in seen)
    assert any("Ana caught 10 tons." in text for text in seen)


def test_a_person_talks(tmp_path: Path) -> None:
    config = RunConfig(SEATS, rules=Rules(months=1), talk="meeting", utterances=2, profile="paper")
    seen: list[str] = []
    typed = Typing("10", "Ten each!", "maybe", "n", "nobody", "ben")
    person(typed, seen, config, tmp_path)
    events = list(map(json.loads, (tmp_path / JOURNAL).read_text().splitlines()))
    said = [event for event in events if event["type"] == "utterance"]
    assert (said[0]["agent"], said[0]["text"]) == ("Me", "Ten each!")
    spoke = [e["agent"] for e in events if e["type"] == "answer" and "utterance" in e["id"]]
    assert spoke == ["Me", "Ben"]
    assert "That cannot be: give y or n." in seen
    assert any(text.startswith("That cannot be: give one of") for text in seen)


def test_who_leaves_goes_on_later(tmp_path: Path) -> None:
    config = RunConfig(SEATS, rules=Rules(months=3), talk="none")
    with pytest.raises(LimitError, match="play again"):
        person(Typing("10", "9"), [], config, tmp_path)
    seen: list[str] = []
    typed = Typing("8")
    game = person(typed, seen, config, tmp_path)
    assert game.received[:, 0].tolist() == [10, 9, 8]
    assert len(typed.prompts) == 1
    assert any("You caught 9 tons" in text for text in seen)  # what happened so far is shown again


def test_lines_come_in_any_pieces() -> None:
    read, write = os.pipe()
    shown: list[str] = []

    async def lines() -> list[str | None]:
        terminal = Terminal(read, shown.append)
        os.write(write, b"one\ntw")
        first = await terminal.line("? ")
        asyncio.get_running_loop().call_later(0.05, os.write, write, b"o\nthree")
        asyncio.get_running_loop().call_later(0.1, os.close, write)
        both = await asyncio.gather(terminal.line("a "), terminal.line("b "))
        return [first, *both, await terminal.line("c ")]

    assert asyncio.run(lines()) == ["one", "two", "three", None]
    assert shown == ["? ", "a ", "b ", "c "]
    os.close(read)
