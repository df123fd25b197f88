"""Every named experiment is planned and played with scripted seats."""

import asyncio
from pathlib import Path

import pytest

from stretto.commons.experiments import described, experiment, names
from stretto.commons.model_config import ModelConfig
from stretto.commons.play import play
from stretto.commons.plugins import names as plugins
from stretto.commons.resource import Rules
from stretto.commons.scenario import scenario
from stretto.commons.sweep import plan
from stretto.errors import ConfigError
from tests.commons.crew import voter
from tests.commons.talking import Letters

SCRIPTED = {"model": "script:threshold"}
PAIR = {"model_a": "script:threshold", "model_b": "script:half"}


def seats(name: str) -> dict[str, str]:
    return PAIR if name == "multi_model" else SCRIPTED


@pytest.mark.parametrize("name", names())
def test_each_plans_and_plays(name: str, tmp_path: Path) -> None:
    planned = plan(experiment(name, models=seats(name), seeds=(3,)))
    assert len(planned) >= 2
    assert described(name).about.endswith(".")
    for one in planned:
        game = asyncio.run(play(one.config))
        assert game.months >= 1
        assert (game.received <= game.demands).all()
    # The experiment's runs differ in more than their names.
    configs = {str(one.config) for one in planned}
    assert len(configs) == len(planned)


@pytest.mark.parametrize("name", names())
def test_each_plays_with_a_model(name: str, tmp_path: Path) -> None:
    models = {who: voter() for who in seats(name)}
    run = {"utterances": 2}
    for number, one in enumerate(plan(experiment(name, seeds=1, run=run))):
        folder = tmp_path / str(number)
        folder.mkdir()
        game = asyncio.run(play(one.config, models, folder, embedder=Letters()))
        assert game.valid[game.present].all()
        assert b'"outcome": "invalid"' not in (folder / "game.jsonl").read_bytes()


def test_every_mechanism_and_adversary_is_in_an_experiment() -> None:
    used = {"mechanisms": set(), "adversaries": set()}
    for name in names():
        for one in plan(experiment(name, seeds=1)):
            for kind, found in used.items():
                found |= set(getattr(one.config, kind))
    assert used == {kind: set(plugins(kind)) for kind in used}


def test_the_factorial_is_full_and_seeds_pair() -> None:
    planned = plan(experiment("factorial", models=SCRIPTED, seeds=2))
    assert len(planned) == 32
    assert {(one.config.talk, one.config.sees_catches, one.config.memory,
             one.config.told_threshold) for one in planned} == {
        (talk, sees, memory, told) for talk in ("meeting", "none") for sees in (True, False)
        for memory in (True, False) for told in ("no", "number")
    }  # fmt: skip


def test_the_two_ways_to_go_without_talk_differ() -> None:
    ours = {one.condition.get("talk"): one.config for one in
            plan(experiment("no_communication", seeds=1))}["none"]  # fmt: skip
    theirs = plan(experiment("no_communication_paper", seeds=1))[1].config
    assert (ours.talk, ours.memory, ours.sees_catches) == ("none", True, True)
    assert (theirs.talk, theirs.memory, theirs.sees_catches) == ("none", False, False)


def test_paraphrases_say_the_same_numbers_in_other_words() -> None:
    words = [one.config.scenario for one in plan(experiment("paraphrases", seeds=1))]
    texts = [scenario(name) for name in words]
    for one in texts:
        told = one.rules.format(names="Ben", capacity=100) + one.told_growth(Rules())
        for needed in ("Ben", "100 tons", "1,000 dollars", "90", "60"):
            assert needed in told
        assert (one.memories, one.tells_demand, one.unit) == (10, True, "ton")
    assert len({one.rules for one in texts}) == len({one.growth for one in texts}) == 3


def test_seats_are_given_to_models_by_name() -> None:
    real = ModelConfig("gpt")
    sweep = experiment("multi_model", models={"model_a": real, "model_b": "script:greedy"})
    assert sweep.models == {"model_a": real}
    mixed = next(one.config for one in plan(sweep) if one.condition["condition"] == "mixed")
    assert [seat.model for seat in mixed.everybody] == [
        "model_a", "script:greedy", "model_a", "script:greedy", "model_a",
    ]  # fmt: skip
    newcomer = plan(experiment("greedy_newcomer", models={"model": "script:half"}, seeds=1))
    assert all(one.config.everybody[-1].model == "script:half" for one in newcomer)
    assert newcomer[1].config.everybody[-1].goal != newcomer[1].config.everybody[0].goal
    with pytest.raises(ConfigError, match="no seat is gpt; its seats are model_a, model_b"):
        experiment("multi_model", models={"gpt": real})
    run = {"scenario": "pasture"}
    assert plan(experiment("fines", seeds=1, run=run))[0].config.scenario == "pasture"


def test_none_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is none; there are adversaries"):
        experiment("taxes")
    own = tmp_path / "mine.yaml"
    own.write_text("about: Mine.\nsweep: {run: {seats: [{model: x, goal: x}]}, seeds: 3}\n")
    planned = plan(experiment(str(own), models={"x": "script:half"}))
    assert len(planned) == 3
    assert (planned[0].config.seats[0].model, planned[0].config.seats[0].goal) == (
        "script:half", "x",
    )  # fmt: skip
