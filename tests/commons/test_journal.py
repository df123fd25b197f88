"""The record of a game: nothing paid is lost, nothing stands twice, every text comes back."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stretto.commons.answers import ask_model, parse, together
from stretto.commons.journal import Journal
from stretto.commons.play import play
from stretto.commons.resource import Rules
from stretto.commons.run_config import RunConfig, Seat
from stretto.commons.villager import Answer, Question
from stretto.errors import InputError, LimitError
from stretto.protocols import Completion
from tests.commons.talking import Letters, Saying, Talker

CONFIG = RunConfig((Seat("m"),), rules=Rules(months=2), profile="paper", utterances=2)


class Poor(Talker):
    """Has money for so many answers; those that are late are answered all the same."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self.left = answers

    async def complete(self, messages: Any, **how: Any) -> Completion:
        self.left -= 1
        if self.left < 0:
            raise LimitError("budget: spent")
        await asyncio.sleep(0.001)
        return await super().complete(messages, **how)


def run(folder: Path, model: Talker) -> None:
    asyncio.run(play(CONFIG, {"m": model}, folder, embedder=Letters()))


@pytest.mark.parametrize("money", [0, 1, 3, 6, 8, 13, 21, 30])
def test_a_spent_budget_loses_no_answer(money: int, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    rich, poor, again = Talker(), Poor(money), Talker()
    run(whole, rich)
    with pytest.raises(LimitError):
        run(broken, poor)
    assert sum(poor.asked.values()) == money, "all that was paid for was answered"
    run(broken, again)
    assert (broken / "game.jsonl").read_bytes() == (whole / "game.jsonl").read_bytes()
    assert poor.asked + again.asked == rich.asked, "nothing was asked twice"
    assert [path.name for path in broken.iterdir()] == ["game.jsonl"]


def test_an_interrupted_phase_keeps_what_had_come(tmp_path: Path) -> None:
    class Slow(Talker):
        async def complete(self, messages: Any, **how: Any) -> Completion:
            if "You are Eva" in messages[0].content:
                await asyncio.sleep(60)
            return await super().complete(messages, **how)

    async def interrupted() -> None:
        task = asyncio.create_task(play(CONFIG, {"m": slow}, tmp_path, embedder=Letters()))
        while sum(slow.asked.values()) < 4:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    slow, again, whole = Slow(), Talker(), tmp_path / "whole"
    asyncio.run(interrupted())
    assert len((tmp_path / "game.waiting.jsonl").read_text().splitlines()) == 4
    run(tmp_path, again)
    whole.mkdir()
    run(whole, Talker())
    assert (tmp_path / "game.jsonl").read_bytes() == (whole / "game.jsonl").read_bytes()
    assert again.asked["units"] == 10 - 4


def test_answers_that_wait_outlive_more_than_one_kill(tmp_path: Path) -> None:
    """Killed again while the record is still read: what stood aside stands aside."""
    path, answer = tmp_path / "game.jsonl", Answer({"units": 3})
    one = Journal(path)
    one.write("start")
    one.answer("1/harvest/Ana", 0, "Ana", "harvest", answer)
    two = Journal(path)
    two.write("start")
    two.flush()
    three = Journal(path)
    assert three.recorded("1/harvest/Ana") == answer
    three.write("start")
    three.answer("1/harvest/Ana", 0, "Ana", "harvest", answer)
    three.flush()
    assert not (tmp_path / "game.waiting.jsonl").exists()
    assert Journal(path).recorded("1/harvest/Ana") == answer


def test_answers_of_a_record_that_was_removed_count_no_more(tmp_path: Path) -> None:
    path = tmp_path / "game.jsonl"
    one = Journal(path)
    one.write("start")
    one.answer("1/harvest/Ana", 0, "Ana", "harvest", Answer({"units": 3}))
    path.unlink()
    assert Journal(path).recorded("1/harvest/Ana") is None


def test_the_same_question_twice_is_refused() -> None:
    journal = Journal()
    assert journal.recorded("1/vote/Ana") is None
    with pytest.raises(InputError, match="question 1/vote/Ana: was asked before"):
        journal.recorded("1/vote/Ana")


@pytest.mark.parametrize(
    "text",
    ["\ud800 lone", "line\u2028end\r\n\x00", "{{ stock }} {% raw %}", "ä" * 300_000, '{"v":'],
)
def test_every_text_comes_back(text: str, tmp_path: Path) -> None:
    path = tmp_path / "game.jsonl"
    for _ in range(2):
        journal = Journal(path)
        journal.write("start")
        journal.answer("1/x/Ana", 0, "Ana", "x", Answer({"text": text}, text=text))
        journal.flush()
        journal.write("utterance", text=text)
    events = Journal(path)._recorded
    assert Counter(event["type"] for event in events) == Counter(start=1, answer=1, utterance=1)
    assert events[1]["text"] == events[1]["value"]["text"] == events[2]["text"] == text


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "game.jsonl")
    with pytest.raises(InputError, match="event seen: "):
        journal.write("seen", value=float("nan"))
    assert not (tmp_path / "game.jsonl").exists()


@pytest.mark.parametrize(
    "text",
    ['{"units": NaN}', '{"units": Infinity}', '{"units": 1e999}', '{"units": ' + "9" * 5000 + "}",
     '{"a":' * 100_000, '{"units": true}'],
)  # fmt: skip
def test_odd_json_is_an_invalid_answer(text: str) -> None:
    schema = {"type": "object", "required": ["units"], "properties": {"units": {"type": "integer"}}}
    answer = asyncio.run(ask_model(Saying(text), [], Question("x", "?", schema), seed=0))
    assert (answer.outcome, answer.value) == ("invalid", None)


def test_whole_numbers_are_ints_however_they_are_written() -> None:
    told = parse('{"a": 10.0, "b": [1e2, 2.5], "c": {"d": -3.0}}')
    assert json.dumps(told) == '{"a": 10, "b": [100, 2.5], "c": {"d": -3}}'


def test_together_waits_for_all_and_raises_the_first_error() -> None:
    done = []

    async def call(number: int) -> int:
        await asyncio.sleep(0.001 * number)
        done.append(number)
        if number < 2:
            raise LimitError(str(number))
        return number

    with pytest.raises(LimitError, match="0"):
        asyncio.run(together(*(call(n) for n in range(4))))
    assert sorted(done) == [0, 1, 2, 3]
    assert asyncio.run(together(call(3), call(2))) == [3, 2]
