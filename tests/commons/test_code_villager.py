"""Villagers that decide by programs, in the real sandbox; the model that writes is scripted."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stretto.commons.chat_villager import ChatVillager
from stretto.commons.code_villager import CodeVillager
from stretto.commons.metrics import measure
from stretto.commons.play import play
from stretto.commons.resource import Rules
from stretto.commons.run_config import RunConfig, Seat
from stretto.commons.scenario import scenario
from tests.agents.sandboxes import NEEDS_IT, ON_LINUX
from tests.commons.crew import of, read, voter
from tests.commons.talking import Letters, Talker

pytestmark = ON_LINUX
SEATS = (Seat("code:m"), *[Seat("script:threshold")] * 4)

CAREFUL = """
def harvest(stock, month, history):
    assert len(history) == month - 1
    if not history:
        return stock // 10
    last = history[-1]
    assert last["month"] == month - 1 and last["stock"] == 100, history
    return last["mine"] + len(last["others"]) + sum(last["others"]) // 10
"""


def played(folder: Path, program: Any, **settings: Any) -> Any:
    folder.mkdir(exist_ok=True)
    model = voter(code=program)
    config = RunConfig(SEATS, **{"rules": Rules(months=2), "attempts": 1, **settings})
    game = asyncio.run(play(config, {"m": model}, folder, embedder=Letters()))
    return game, read(folder), model


def test_a_program_is_given_what_is_known_and_decides(tmp_path: Path) -> None:
    game, events, model = played(tmp_path / "a", CAREFUL)
    # 10, then 10 + 4 others + 40 // 10.
    assert game.demands[:, 0].tolist() == [10, 18]
    assert events[0]["seats"][0]["model"] == "code:talker"
    assert model.asked["code"] == 2
    assert not model.asked["units"]
    game, _, _ = played(tmp_path / "b", CAREFUL, sees_catches=False)
    assert game.demands[:, 0].tolist() == [10, 10]
    forgetful = "def harvest(stock, month, history):\n    return len(history)"
    game, _, _ = played(tmp_path / "c", forgetful, memory=False)
    assert game.demands[:, 0].tolist() == [0, 0]


def body(*lines: str) -> str:
    return "\n".join(["def harvest(stock, month, history):", *(f"    {line}" for line in lines)])


@pytest.mark.parametrize(
    ("program", "outcome", "why"),
    [
        (body("return 1 // 0"), "error", "ZeroDivisionError"),
        (body("return 10.5"), "invalid", "no whole number"),
        (body("return True"), "invalid", "no whole number"),
        (body("return None"), "invalid", "no whole number"),
        (body("return object()"), "invalid", "no whole number"),
        (body("return -1"), "invalid", "not 0 to 100"),
        (body("return 10 ** 30"), "invalid", "not 0 to 100"),
        (body("import socket", "socket.create_connection(('127.0.0.1', 9), 1)"), "error", ""),
        (body("return len(open('/etc/passwd').read())"), "error", ""),
    ],
)
def test_programs_that_fail_are_outcomes(
    program: str, outcome: str, why: str, tmp_path: Path
) -> None:
    game, events, model = played(tmp_path, program)
    answers = [e for e in of(events, "answer") if e["purpose"] == "harvest" and e["agent"] == "Ana"]
    assert [answer["outcome"] for answer in answers] == [outcome] * 2
    assert all(why in answer["why"] for answer in answers)
    assert not game.valid[:, 0].any()
    assert game.valid[:, 1:].all()
    assert measure(game).invalid == pytest.approx(2 / 10)
    # The author is told.
    again = [prompt for prompt in model.prompts if "It failed last month" in prompt]
    assert len(again) == 1
    assert why in again[0]


def test_a_program_that_does_not_end_runs_out_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stretto.commons.code_villager as module

    monkeypatch.setattr(module, "WALL", 1.0)
    _, events, _ = played(tmp_path, body("while True:", "    pass"), rules=Rules(months=1))
    answer = [e for e in of(events, "answer") if e["purpose"] == "harvest"][0]  # noqa: RUF015
    assert answer["outcome"] == "timeout"


def test_programs_that_cannot_be_are_not_run(tmp_path: Path) -> None:
    for number, program in enumerate(("def harvest(", "x = 1", "# " + "x" * 20_001)):
        _, events, _ = played(tmp_path / str(number), program, rules=Rules(months=1))
        told = {e["purpose"]: e["outcome"] for e in of(events, "answer") if e["agent"] == "Ana"}
        assert told["program"] == "invalid"
        assert told["harvest"] == "error"


def test_random_programs_give_the_same_bytes_and_go_on_after_a_kill(tmp_path: Path) -> None:
    drawing = "import random\n" + body("return random.randint(0, 12)")
    once, _, _ = played(tmp_path / "a", drawing, rules=Rules(months=3), profile="paper")
    whole = (tmp_path / "a" / "game.jsonl").read_bytes()
    played(tmp_path / "b", drawing, rules=Rules(months=3), profile="paper")
    assert (tmp_path / "b" / "game.jsonl").read_bytes() == whole
    assert len(set(once.demands[:, 0].tolist())) > 1
    lines = whole.splitlines(keepends=True)
    for cut in (len(lines) // 4, len(lines) // 2, len(lines) - 2):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "game.jsonl").write_bytes(b"".join(lines[:cut]))
        played(folder, drawing, rules=Rules(months=3), profile="paper")
        assert (folder / "game.jsonl").read_bytes() == whole


def test_the_program_can_be_written_once_and_kept(tmp_path: Path) -> None:
    model = Talker({"code": body("return 7")})
    inner = ChatVillager("Ana", model, embedder=Letters(), profile="lean")

    def sit(_: str) -> CodeVillager:
        return CodeVillager(inner, scenario("fishery"), revises="never")

    seats = (Seat("human"), *[Seat("script:threshold")] * 4)
    config = RunConfig(seats, rules=Rules(months=2))
    game = asyncio.run(play(config, human=sit))
    assert game.demands[:, 0].tolist() == [7, 7]
    assert model.asked["code"] == 1


@NEEDS_IT
def test_an_adversary_may_hold_a_program(tmp_path: Path) -> None:
    game, events, _ = played(
        tmp_path, CAREFUL, rules=Rules(months=1), adversaries={"greedy": {"seats": ["Ana"]}}
    )
    assert game.demands[0, 0] == 50
    assert events[0]["seats"][0]["model"] == "code:talker+greedy"
