"""Whole runs: requests a month, the same bytes, going on after a kill, answers that are none."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stretto.commons.answers import ask_model, parse
from stretto.commons.metrics import measure
from stretto.commons.play import play
from stretto.commons.resource import Rules
from stretto.commons.run_config import Newcomer, RunConfig, Seat
from stretto.commons.switches import Switches
from stretto.commons.villager import Question
from stretto.errors import ConfigError, InputError, LimitError, StrettoError
from stretto.protocols import Completion, Message
from tests.commons.talking import Letters, Saying, Talker

SHORT = Rules(months=3)
ONE = (Seat("m"),)


def run(config: RunConfig, folder: Path | None = None, **models: Any) -> Any:
    return asyncio.run(play(config, models, folder, embedder=Letters()))


@pytest.mark.parametrize(
    ("profile", "talk", "insights", "requests"),
    [("paper", "meeting", 1, 51), ("paper", "meeting", 3, 61), ("paper", "none", 1, 5),
     ("lean", "meeting", 1, 5), ("lean", "none", 1, 5)],
)  # fmt: skip
def test_requests_a_month_are_those_of_the_reference(
    profile: Any, talk: Any, insights: int, requests: int
) -> None:
    model = Talker({"insights": [f"Keep {n}." for n in range(insights)]})
    # Without talk the reference's villagers remember nothing, so there is nothing to reflect on.
    switches = Switches.all("paper") if talk == "none" else Switches()
    config = RunConfig(
        ONE, rules=SHORT, profile=profile, talk=talk, switches=switches,
        sees_catches=talk != "none",
    )  # fmt: skip
    game = run(config, m=model)
    assert game.received.tolist() == [[10] * 5] * 3
    assert sum(model.asked.values()) == 3 * requests


def test_the_same_run_gives_the_same_bytes_whatever_the_timing(tmp_path: Path) -> None:
    logs = set()
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        config = RunConfig(ONE, rules=Rules(months=2), profile="paper", utterances=3)
        run(config, folder, m=Talker(jitter=0.002 if number else 0.0))
        logs.add((folder / "game.jsonl").read_bytes())
    assert len(logs) == 1


def test_a_run_that_was_killed_anywhere_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    config = RunConfig(ONE, rules=Rules(months=2), profile="paper", utterances=3)
    (tmp_path / "whole").mkdir()
    first = Talker()
    run(config, tmp_path / "whole", m=first)
    whole = (tmp_path / "whole" / "game.jsonl").read_bytes()
    for cut in np.random.default_rng(0).integers(0, len(whole), 25).tolist():
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "game.jsonl").write_bytes(whole[:cut])
        again = Talker()
        run(config, folder, m=again)
        assert (folder / "game.jsonl").read_bytes() == whole
        kept = whole[:cut].count(b'"type": "answer"') - (not whole[:cut].endswith(b"\n"))
        assert sum(again.asked.values()) <= sum(first.asked.values()) - kept


def test_another_game_in_the_folder_is_refused(tmp_path: Path) -> None:
    run(RunConfig(ONE, rules=SHORT), tmp_path, m=Talker())
    with pytest.raises(InputError, match="line 1 does not fit"):
        run(RunConfig(ONE, rules=SHORT, seed=1), tmp_path, m=Talker())


QUESTION = Question(
    "harvest", "How many?",
    {"type": "object", "required": ["units"],
     "properties": {"units": {"type": "integer", "minimum": 0, "maximum": 100}}},
)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ('{"units": 101}', "invalid"),
        ('{"units": -3}', "invalid"),
        ('{"units": 10.5}', "invalid"),
        ('{"units": "ten"}', "invalid"),
        ("I take 10.", "invalid"),
        ('{"units": 10', "invalid"),
        ("", "empty"),
        ("  \n", "empty"),
        (Completion("No.", finish_reason="refusal"), "refused"),
        (Completion("", finish_reason="content_filter"), "refused"),
        (StrettoError("endpoint: gone"), "error"),
        (TimeoutError(), "timeout"),
    ],
)
def test_what_cannot_be_used_is_an_outcome_and_never_a_number(said: Any, outcome: str) -> None:
    asked = [Message("user", "How many?")]
    model = Saying(said)
    answer = asyncio.run(ask_model(model, asked, QUESTION, seed=0, attempts=3))
    assert (answer.outcome, answer.value) == (outcome, None)
    assert answer.why
    assert answer.attempts == (1 if outcome == "error" else 3) == len(model.messages)
    better = Saying(said, 'Well: {"units": 7}')
    if outcome != "error":
        answer = asyncio.run(ask_model(better, asked, QUESTION, seed=0, attempts=3))
        assert (answer.value, answer.attempts) == ({"units": 7}, 2)

    class Village(Talker):
        async def complete(self, messages: Any, **_: Any) -> Completion:
            if "How many" in messages[-1].content or "cannot be used" in messages[-1].content:
                return await model.complete(messages)
            return await super().complete(messages)

    game = run(RunConfig(ONE, rules=Rules(months=1), talk="none"), m=Village())
    assert not game.valid.any()
    assert measure(game).invalid == 1.0
    assert measure(game, "legacy").over_usage == 0.0


def test_whole_numbers_written_with_a_point_count() -> None:
    answer = asyncio.run(ask_model(Saying('{"units": 10.0}'), [], QUESTION, seed=0))
    assert answer.outcome == "ok"


def test_a_spent_budget_stops_the_run() -> None:
    with pytest.raises(LimitError):
        run(RunConfig(ONE, rules=SHORT), m=Saying(LimitError("budget: spent")))


def test_the_first_object_of_a_text() -> None:
    assert parse('Sure {not json} ```json\n{"a": {"b": 1}}\n```') == {"a": {"b": 1}}
    with pytest.raises(ValueError, match="no JSON"):
        parse("nothing")


def test_paper_parsing_counts_rubbish_as_restraint() -> None:
    config = RunConfig(ONE, rules=SHORT, talk="none", switches=Switches(parsing="paper"))
    game = run(config, m=Saying("rubbish"))
    assert game.valid.all()
    assert game.received.sum() == 0


def speakers(switches: Switches) -> list[str]:
    first, second = Talker(name="first"), Talker(name="second")
    seats = (Seat("a"), *[Seat("b")] * 4)
    config = RunConfig(
        seats, rules=Rules(months=1), profile="paper", utterances=4, switches=switches
    )
    run(config, a=first, b=second)
    return ["first"] * first.asked["text"] + ["second"] * second.asked["text"]


def test_everybody_speaks_with_its_own_model() -> None:
    assert speakers(Switches(speakers="paper")) == ["first"] * 4
    assert speakers(Switches()) == ["first"] * 2 + ["second"] * 2


@pytest.mark.parametrize(("way", "told"), [("paper", 12), ("corrected", 10)])
def test_the_share_a_newcomers_village_is_told(way: Any, told: int) -> None:
    model = Talker()
    config = RunConfig(
        ONE, rules=Rules(villagers=4, months=3), told_threshold="number", talk="none",
        newcomers=(Newcomer(3, Seat("m", goal="Take what you can.")),),
        switches=Switches(newcomer=way),
    )  # fmt: skip
    game = run(config, m=model)
    assert game.present.sum(axis=1).tolist() == [4, 4, 5]
    last = [prompt for prompt in model.prompts if "month 3" in prompt]
    assert all(f"takes more than {told} tons" in prompt for prompt in last)
    assert sum("Take what you can." in prompt for prompt in model.prompts) == 1


def test_scripted_villages_need_no_model_and_say_so(tmp_path: Path) -> None:
    seats = (*[Seat("script:threshold")] * 4, Seat("script:greedy"))
    game = run(RunConfig(seats), tmp_path)
    assert game.months == 1
    assert game.collapsed
    start, *_, end = map(json.loads, (tmp_path / "game.jsonl").read_text().splitlines())
    assert all(seat["scripted"] for seat in start["seats"])
    assert end["reason"] == "collapse"
    assert len(start["prompts"]["harvest"]) == 64


def test_seats_that_cannot_be_filled() -> None:
    with pytest.raises(ConfigError, match="no model 'm'"):
        run(RunConfig(ONE))
    with pytest.raises(ConfigError, match="2 for 5"):
        RunConfig((Seat("m"), Seat("m")))
    with pytest.raises(ConfigError, match="commons play"):
        run(RunConfig((Seat("human"),)))
    with pytest.raises(ConfigError, match="there is no 'taxes'"):
        run(RunConfig((Seat("script:greedy"),), mechanisms={"taxes": {}}))


def test_random_neighbours_go_by_the_runs_seed() -> None:
    seats = (Seat("script:random"),)
    games = [run(RunConfig(seats, rules=SHORT, talk="none", seed=seed)) for seed in (1, 1, 2)]
    assert (games[0].demands == games[1].demands).all()
    assert games[0].demands.tolist() != games[2].demands.tolist()
    fixed = [run(RunConfig((Seat("script:random:7"),), rules=SHORT, talk="none", seed=seed))
             for seed in (1, 2)]  # fmt: skip
    assert fixed[0].demands[0].tolist() == fixed[1].demands[0].tolist()
