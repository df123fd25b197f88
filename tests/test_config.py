from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from stretto.config import dump, load
from stretto.errors import ConfigError
from stretto.streams import build
from stretto.training import config as training
from stretto.training import exit_config as exits


@dataclass(frozen=True)
class Optimiser:
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    schedule: Literal["constant", "cosine"] = "cosine"


@dataclass(frozen=True)
class Exit:
    layer: int


@dataclass(frozen=True)
class Train:
    steps: Annotated[int, Field(ge=1)]
    optimiser: Optimiser = field(default_factory=Optimiser)
    sets: tuple[str, ...] = ("read",)
    exits: tuple[Exit, ...] = ()
    weights: dict[str, Exit] = field(default_factory=dict)
    resume: Path | None = None
    draft: Exit | None = None


def test_a_file_becomes_a_nested_frozen_dataclass(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("steps: 3\noptimiser:\n  learning_rate: 1e-3\nexits: [{layer: 4}]\n")
    config = load(Train, path)
    assert config == Train(steps=3, optimiser=Optimiser(learning_rate=1e-3), exits=(Exit(4),))


def test_overrides_win_and_texts_are_read_as_yaml():
    raw = {"steps": 3, "optimiser": {"learning_rate": 1.0}}
    texts = ["optimiser.learning_rate=2e-4", "sets=[audit, agent]", "draft.layer=7"]
    config = load(Train, raw, texts)
    assert config.optimiser.learning_rate == 2e-4
    assert config.sets == ("audit", "agent")
    assert config.draft == Exit(7)
    assert load(Train, raw, {"steps": 9}).steps == 9
    assert raw == {"steps": 3, "optimiser": {"learning_rate": 1.0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "steps: 1\noptimiser: {learning_rat: 1}",
            "train.yaml: optimiser.learning_rat: unknown key, did you mean learning_rate?",
        ),
        ("stepps: 1", "train.yaml: stepps: unknown key, did you mean steps?"),
        ("steps: 1\nzzz: 1", "train.yaml: zzz: unknown key, choose from steps, optimiser"),
        ("steps: 1\nexits: [{layer: 1}, {depth: 2}]", "train.yaml: exits.1.depth: unknown key"),
        ("steps: 1\nweights: {a: {depth: 2}}", "train.yaml: weights.a.depth: unknown key"),
        ("steps: 1\ndraft: {depth: 2}", "train.yaml: draft.depth: unknown key"),
        ("steps: many", "train.yaml: steps: input should be a valid integer"),
        ("steps: 0", "train.yaml: steps: input should be greater than or equal to 1, not 0"),
        ("steps: 1\noptimiser: {schedule: wave}", "train.yaml: optimiser.schedule: input should"),
        ("sets: [read]", "train.yaml: steps: field required"),
        ("steps: 1\nsteps: 2", "train.yaml: line 2: steps is given twice"),
        ("- steps", "train.yaml: holds a list"),
        ("steps: [", "train.yaml: not valid YAML"),
    ],
)
def test_mistakes_name_their_place_on_one_line(tmp_path, text, message):
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(Train, path)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_malformed_override_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Train, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        load(Train, {"steps": 1}, ["steps"])
    with pytest.raises(ConfigError, match="steps is a value"):
        load(Train, {"steps": 1}, ["steps.more=1"])
    with pytest.raises(ConfigError, match="Train: stepz: unknown key"):
        load(Train, {"steps": 1}, ["stepz=1"])


@dataclass(frozen=True)
class Span:
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ConfigError(f"last: {self.last} is below first: {self.first}")


def test_a_dataclass_can_refuse_a_combination():
    with pytest.raises(ConfigError, match="Span: last: 1 is below first: 2"):
        load(Span, {"first": 2, "last": 1})


configs = st.builds(
    Train,
    steps=st.integers(1, 10**9),
    optimiser=st.builds(
        Optimiser,
        learning_rate=st.floats(1e-12, 1e12),
        schedule=st.sampled_from(["constant", "cosine"]),
    ),
    sets=st.lists(st.text()).map(tuple),
    exits=st.lists(st.builds(Exit, st.integers())).map(tuple),
    weights=st.dictionaries(st.text(), st.builds(Exit, st.integers())),
    draft=st.none() | st.builds(Exit, st.integers()),
)


@given(configs)
def test_dump_and_load_round_trip(config):
    assert load(Train, dump(config)) == config


@pytest.mark.parametrize(
    ("load_one", "words"),
    [
        (build.load_recipe, "no data recipe 'nope'; choose from .*mixture"),
        (training.load_recipe, "no training recipe 'nope'; choose from .*layerskip"),
        (exits.load_exit_recipe, "no exit recipe 'nope'; choose from exits-"),
    ],
)
def test_recipes_are_named_or_files(
    load_one: Callable[[str], object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words + ".* or give a .yaml file"):
        load_one("nope")
    path = tmp_path / "own.yaml"
    path.write_text("colour: red\n")
    with pytest.raises(ConfigError, match=r"colour"):
        load_one(str(path))
