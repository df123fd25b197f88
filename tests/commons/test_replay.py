"""A recorded game is read back as it was played, and shown without harm."""

import asyncio
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from stretto.commons.game import Game
from stretto.commons.play import play
from stretto.commons.replay import clean, lines, read_events, read_journal, transcript
from stretto.commons.resource import Growth, Rules
from stretto.commons.run_config import Newcomer, RunConfig, Seat
from stretto.commons.switches import Switches
from stretto.errors import InputError
from tests.commons.talking import Letters, Talker

FIELDS = ("stock", "left", "demands", "received", "present", "valid", "utterances")


def same(one: Game, other: Game) -> None:
    assert (one.rules, one.names, one.collapsed) == (other.rules, other.names, other.collapsed)
    for name in (
        "stock",
        "left",
        "demands",
        "received",
        "present",
        "valid",
        "utterances",
        "limits",
    ):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)


def played(config: RunConfig, folder: Path, talker: Any = None) -> Game:
    return asyncio.run(play(config, {"m": talker or Talker()}, folder, embedder=Letters()))


POLICIES = st.sampled_from(["threshold", "greedy", "constant:12", "random:3", "half"])


@settings(max_examples=25)
@given(
    policies=st.lists(POLICIES, min_size=1, max_size=4), months=st.integers(1, 6),
    seed=st.integers(0, 99), noise=st.sampled_from([0.0, 0.5]), late=st.booleans(),
    talk=st.sampled_from(["meeting", "round", "none"]), lean=st.booleans(),
)  # fmt: skip
def test_scripted_games_are_read_back(
    policies: list[str], months: int, seed: int, noise: float, late: bool, talk: Any, lean: bool
) -> None:
    rules = Rules(len(policies), months=months, growth=Growth(noise=noise))
    comes = (Newcomer(2, Seat("script:greedy")),) if late and months > 1 else ()
    config = RunConfig(
        tuple(Seat(f"script:{one}") for one in policies), rules=rules, seed=seed, talk=talk,
        newcomers=comes, profile="lean" if lean else "paper",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        game = played(config, Path(folder))
        same(read_journal(folder), game)
        same(read_journal(Path(folder) / "game.jsonl"), game)


@pytest.mark.parametrize("profile", ["paper", "lean"])
@pytest.mark.parametrize("parsing", ["paper", "corrected"])
def test_models_games_are_read_back(tmp_path: Path, profile: Any, parsing: Any) -> None:
    told = iter([10, "many", 8, None, 10, 12] * 20)
    talker = Talker({"units": lambda _: next(told), "limit": 11})
    config = RunConfig(
        (Seat("m"),), rules=Rules(3, months=3), profile=profile, attempts=1,
        switches=Switches(parsing=parsing),
    )  # fmt: skip
    game = played(config, tmp_path, talker)
    same(read_journal(tmp_path), game)
    assert game.utterances.any()
    assert game.valid.all() == (parsing == "paper")
    assert (game.limits == 11).any() == (profile == "paper")


def test_a_game_under_way_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    config = RunConfig((Seat("script:threshold"),), rules=Rules(2, months=3))
    whole = played(config, tmp_path)
    path = tmp_path / "game.jsonl"
    text = path.read_text().splitlines(keepends=True)
    second = next(i for i, line in enumerate(text) if '"harvest", "month": 2' in line)
    cut = "".join(text[: second + 1]) + '{"v": 1, "ty'
    path.write_text(cut)
    game = read_journal(path)
    assert game.stock.tolist() == whole.stock[:2].tolist()
    assert path.read_text() == cut


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not the record of a game"), ("{\n", "line 1 is not JSON"),
        ('{"v": 9, "type": "start"}\n', "line 1 is not an event of version 1"),
        ('{"v": 1, "type": "end"}\n', "is not the record"),
    ],
)  # fmt: skip
def test_what_is_no_record(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "game.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        read_events(tmp_path)


def test_no_month_was_harvested(tmp_path: Path) -> None:
    played(RunConfig((Seat("script:threshold"),), rules=Rules(1, months=1)), tmp_path)
    path = tmp_path / "game.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match="no month"):
        read_journal(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_journal(tmp_path / "nothing")


def shown(events: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", width=120)
    for one in transcript(events):
        console.print(one)
    return file.getvalue()


def test_a_transcript_says_what_happened_and_invalid_answers_in_red(tmp_path: Path) -> None:
    told = iter([12, "many", 8] * 20)
    talker = Talker({"units": lambda _: next(told), "text": "Let us [bold]keep[/bold] to ten."})
    config = RunConfig((Seat("m"),), rules=Rules(3, months=1), profile="paper", attempts=1)
    played(config, tmp_path, talker)
    text = shown(read_events(tmp_path))
    assert "Let us [bold]keep[/bold] to ten." in text  # what is said is no markup
    assert "Month 1: stock 100, sustainable share 16" in text
    assert "wants 12, gets 12" in text
    assert "agreed: at most 10 each" in text
    assert "End by horizon after 1 months" in text
    (red,) = [line for line in text.splitlines() if "no valid demand" in line]
    assert "\x1b[31m" in red
    kinds = [line.kind for line in lines(read_events(tmp_path))]
    assert kinds.count("invalid") == 2
    assert kinds.count("catch") == 3


def test_what_models_say_does_not_steer_the_terminal() -> None:
    assert clean("a\x1b[2Jb\x07\ud800\u202ec\n") == "a\ufffd[2Jb\ufffd\ufffd\ufffdc\n"
    event = {"v": 1, "type": "utterance", "month": 1, "agent": "An\x1ba", "text": "x\x1b]0;y\x07"}
    assert "\x1b]0" not in shown([event])
    assert "An\ufffda" in shown([event])


def test_a_mechanisms_events_are_told_as_they_are() -> None:
    event = json.loads('{"v": 1, "type": "fine", "month": 2, "agent": "Ben", "units": 3}')
    (line,) = lines([event])
    assert line.text == "fine: agent Ben, units 3"
