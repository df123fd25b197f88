"""All villagers at once: rows, what was said, the record; by a scripted multi-stream model."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stretto.commons.play import play
from stretto.commons.resource import Rules
from stretto.commons.run_config import Newcomer, RunConfig, Seat
from stretto.errors import ConfigError, LimitError
from stretto.streams.sets import READ, townhall
from tests.commons.crew import of, read, voter
from tests.commons.talking import Letters


@dataclass
class Line:
    index: int
    text: dict[str, str]
    time: float = 0.0

    @property
    def tokens(self) -> dict[str, int]:
        return dict.fromkeys(self.text, 1)


@dataclass
class Speeches:
    """A scripted multi-stream model: each stream says its words, one a row."""

    says: dict[str, str]
    knows: int = 5
    scripted: bool = True
    name: str = "speeches"
    prompts: list[str] = field(default_factory=list)
    opened: list[tuple[str, int]] = field(default_factory=list)
    cancelled: int = 0

    @property
    def streams(self) -> Any:
        return townhall(self.knows)

    def open(self, streams: str, *, prompts: Any = None, seed: int = 0) -> Any:
        self.prompts.append(prompts["moderator"])
        self.opened.append((streams, seed))
        return Hearing(self)


class Hearing:
    def __init__(self, model: Speeches) -> None:
        self.model, self.closed = model, False

    async def __aenter__(self) -> "Hearing":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def close(self, stream: str | None = None) -> None:
        self.closed = stream == "moderator"

    def cancel(self, reason: str = "") -> None:
        self.model.cancelled += 1

    async def __aiter__(self) -> AsyncIterator[Line]:
        assert self.closed
        words = {name: text.split(" ") for name, text in self.model.says.items()}
        for i in range(max(map(len, words.values()))):
            yield Line(i, {name: f"{w[i]} " for name, w in words.items() if i < len(w)})


SAYS = {"villager_1": "let us all take ten", "villager_3": "yes", "moderator": "hm"}


def played(folder: Path, hall: Any, profile: Any = "lean", **settings: Any) -> Any:
    folder.mkdir(exist_ok=True)
    settings = {"rules": Rules(months=2), **settings}
    config = RunConfig((Seat("m"),), talk="townhall", profile=profile, **settings)
    model = voter()
    game = asyncio.run(play(config, {"m": model}, folder, embedder=Letters(), hall=hall))
    return game, read(folder), model


@pytest.mark.parametrize("profile", ["lean", "paper"])
def test_all_speak_at_once(profile: str, tmp_path: Path) -> None:
    hall = Speeches(SAYS)
    game, events, model = played(tmp_path, hall, profile)
    assert game.utterances.tolist() == [2, 2]
    said = [(e["agent"], e["text"]) for e in of(events, "utterance")]
    assert said == [("Ana", "let us all take ten"), ("Cleo", "yes")] * 2
    told = of(events, "townhall")[0]
    assert (told["rows"], told["in_turns"]) == (5, 6)
    assert told["tokens"] == {"Ana": 5, "Ben": 0, "Cleo": 1, "Dan": 0, "Eva": 0}
    assert "Ana caught 10 tons." in hall.prompts[0]
    assert hall.opened[0][0] == "townhall:5"
    assert hall.opened[0][1] != hall.opened[1][1]
    assert not model.asked["message"]
    assert not model.asked["text"]
    # The limit is taken from what was said, and the lean villagers remember it.
    assert game.limits.tolist() == [10.0, 10.0]
    last = [prompt for prompt in model.prompts if "start of month 2" in prompt]
    assert all("let us all take ten" in prompt for prompt in last) == (profile == "lean")
    seat = events[0]["seats"][-1]
    assert (seat["name"], seat["model"], seat["scripted"]) == ("Town hall", "speeches", True)


def test_a_broken_run_goes_on_without_opening_the_hall_again(tmp_path: Path) -> None:
    played(tmp_path / "a", Speeches(SAYS))
    lines = (tmp_path / "a" / "game.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "game.jsonl").write_bytes(b"".join(lines[:-2]))
    hall = Speeches(SAYS)
    played(tmp_path / "b", hall)
    assert (tmp_path / "b" / "game.jsonl").read_bytes() == b"".join(lines)
    assert not hall.opened


def test_a_meeting_ends_after_so_many_rows(tmp_path: Path) -> None:
    hall = Speeches(SAYS)
    _, events, _ = played(tmp_path, hall, rows=3)
    assert of(events, "townhall")[0]["rows"] == 3
    assert of(events, "utterance")[0]["text"] == "let us all"
    assert hall.cancelled == 2


def test_a_newcomer_gets_a_stream(tmp_path: Path) -> None:
    hall = Speeches(SAYS)
    newcomers = (Newcomer(2, Seat("m")),)
    played(tmp_path, hall, rules=Rules(villagers=4, months=2), newcomers=newcomers)
    assert [streams for streams, _ in hall.opened] == ["townhall:4", "townhall:5"]


def test_a_hall_that_fails_is_an_outcome(tmp_path: Path) -> None:
    class Full(Speeches):
        def open(self, streams: str, *, prompts: Any = None, seed: int = 0) -> Any:
            raise LimitError("the cache is full")

    game, events, _ = played(tmp_path, Full(SAYS))
    assert game.utterances.tolist() == [0, 0]
    told = [e for e in of(events, "answer") if e["purpose"] == "townhall"]
    assert told[0]["outcome"] == "error"
    assert "cache is full" in told[0]["why"]


def test_a_model_without_the_streams_is_refused(tmp_path: Path) -> None:
    class Reader(Speeches):
        @property
        def streams(self) -> Any:
            return READ

    with pytest.raises(
        ConfigError, match=r"knows no stream moderator, villager_1.*none is shipped"
    ):
        played(tmp_path / "a", Reader(SAYS))
    with pytest.raises(ConfigError, match="no stream villager_5;"):
        played(tmp_path / "b", Speeches(SAYS, knows=4))
    with pytest.raises(ConfigError, match="needs a multi-stream model"):
        played(tmp_path / "c", None)


def test_the_engine_can_hold_one(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from stretto.engine import Engine
    from stretto.engine.testing import tiny_codec, tiny_lm

    engine = Engine(tiny_lm(townhall(5)), tiny_codec())
    _, events, _ = played(tmp_path, engine, rules=Rules(months=1), rows=6)
    told = of(events, "townhall")[0]
    assert 1 <= told["rows"] <= 6
    assert told["in_turns"] <= 5 * told["rows"]
