"""Whole runs with layer dropout and exits: reported, resumed, from scratch, in two processes."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stretto.config import load
from stretto.errors import CheckpointError, ConfigError
from stretto.runs import Run
from stretto.training.config import LayerSkipSettings, TrainConfig, load_recipe, recipe_names
from stretto.training.layer_dropout import LayerDropout
from stretto.training.progress import ProgressCallback
from stretto.training.run import train
from tests.training.small import losses, prepare
from tests.training.test_processes import SETTINGS, assert_same, finish, start

BOTH = LayerSkipSettings(p_max=0.5, e_scale=1.0, curriculum="all", exit_tokens=0.5)


class StoppedError(Exception):
    """What stands for the end of a process."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End the run behind an optimiser step, before it can save anything."""
    plain = ProgressCallback.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == step:
            raise StoppedError
        plain(self, args, state, control, **more)

    monkeypatch.setattr(ProgressCallback, "on_step_end", on_step_end)


@pytest.mark.parametrize("changes", [{"tune": "lora"}, {"tune": "full", "init": "random"}])
def test_a_stopped_run_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    config = prepare(tmp_path, steps=7, accumulate=2, layerskip=BOTH, **changes)
    whole = train(config, tmp_path / "whole", data=tmp_path / "data")
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        stop_at(patch, 5)
        train(config, tmp_path / "broken", data=tmp_path / "data")
    with pytest.raises(ConfigError, match=r"another layerskip\.p_max"):
        other = replace(config, layerskip=replace(BOTH, p_max=0.4))
        train(other, tmp_path / "broken", data=tmp_path / "data", resume=True)
    state = tmp_path / "broken" / "checkpoints" / "checkpoint-3" / "layerskip.json"
    saved = state.read_text()
    state.write_text("{")
    with pytest.raises(CheckpointError, match=r"layerskip\.json: unreadable"):
        train(config, tmp_path / "broken", data=tmp_path / "data", resume=True)
    state.write_text(saved)
    resumed = train(config, tmp_path / "broken", data=tmp_path / "data", resume=True)
    assert [e["resumed_at"] for e in Run.open(tmp_path / "broken").events("start")] == [0, 3, 3]
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    for path in whole.glob("*.safetensors"):
        first, second = load_file(path), load_file(resumed / path.name)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_evaluation_reports_the_last_layer_as_before_and_each_exit(tmp_path: Path) -> None:
    still = prepare(tmp_path, steps=2, eval_every=1)
    optimiser = replace(still.optimiser, learning_rate=0.0, vector_learning_rate=0.0)
    still = replace(still, optimiser=optimiser)
    train(still, tmp_path / "plain", data=tmp_path / "data")
    train(replace(still, layerskip=BOTH), tmp_path / "skip", data=tmp_path / "data")
    plain, skip = (
        [e for e in Run.open(tmp_path / name).events("log") if "eval_content" in e]
        for name in ("plain", "skip")
    )
    for before, after in zip(plain, skip, strict=True):
        exits = after.keys() - before.keys()
        assert exits == {"eval_exit1_content"}
        for key in before.keys() - {"time", "t"}:
            assert after[key] == pytest.approx(before[key], abs=1e-5), key
    assert skip[0]["eval_exit1_content"] == skip[1]["eval_exit1_content"]
    assert skip[0]["eval_exit1_content"] != pytest.approx(skip[0]["eval_content"], abs=1e-4)


def test_a_step_is_an_optimiser_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ramp goes on with optimiser steps, not with forward passes or evaluations."""
    seen: list[tuple[int, int]] = []
    begin = LayerDropout._begin

    def noted(self: LayerDropout, decoder: Any, args: Any) -> None:
        begin(self, decoder, args)
        if decoder.training:
            seen.append((self.step, self.passes))

    monkeypatch.setattr(LayerDropout, "_begin", noted)
    config = prepare(tmp_path, steps=3, accumulate=2, eval_every=1, layerskip=BOTH)
    train(config, tmp_path / "run", data=tmp_path / "data")
    assert seen == [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6)]


def test_accumulated_passes_with_exits_are_one_batch(tmp_path: Path) -> None:
    settings = LayerSkipSettings(e_scale=1.0, curriculum="all")
    config = prepare(tmp_path, steps=3, packs_per_batch=4, layerskip=settings)
    train(config, tmp_path / "whole", data=tmp_path / "data")
    config = replace(config, packs_per_batch=1, accumulate=4)
    train(config, tmp_path / "parts", data=tmp_path / "data")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=2e-5)


def test_bfloat16_and_gradient_checkpointing_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = prepare(tmp_path, steps=2, tune="full", dtype="bfloat16", layerskip=BOTH)
    train(config, tmp_path / "plain", data=tmp_path / "data")
    assert re.search(r"held-out content \d.* exit1 \d", capsys.readouterr().err)
    train(replace(config, gradient_checkpointing=True), tmp_path / "lean", data=tmp_path / "data")
    assert losses(tmp_path / "lean") == pytest.approx(losses(tmp_path / "plain"), abs=2e-2)


def test_random_weights_are_not_the_base_s(tmp_path: Path) -> None:
    from stretto.streams.build import load_shards
    from stretto.training.run import build_model

    config = prepare(tmp_path, tune="full", tied=True)
    shards = load_shards(tmp_path / "data")
    model = build_model(config, shards)
    torch.manual_seed(5)
    fresh = build_model(replace(config, init="random"), shards)
    for (name, a), b in zip(model.base.named_parameters(), fresh.base.parameters(), strict=True):
        assert torch.equal(a, b) == ("norm" in name), name
    embedding = fresh.base.get_input_embeddings().weight
    assert embedding is fresh.base.get_output_embeddings().weight
    torch.testing.assert_close(fresh.special_in[0], embedding.mean(0))
    with pytest.raises(ConfigError, match="need tune: full"):
        replace(config, init="random", tune="lora")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p_max": 1.5}, r"layerskip\.p_max: between 0 and 1"),
        ({"e_scale": -0.1}, r"layerskip\.e_scale: between 0 and 1"),
        ({"exit_tokens": 0}, r"layerskip\.exit_tokens: above 0"),
        ({"rotation": 0}, r"layerskip\.rotation: must be at least 1"),
        ({"exits": [2, 2]}, r"layerskip\.exits: an exit is given twice"),
        ({"e_scal": 1}, r"layerskip\.e_scal: unknown key, did you mean e_scale"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(TrainConfig, {"data": "small", "layerskip": settings})


def test_an_exit_the_model_lacks_is_refused(tmp_path: Path) -> None:
    config = prepare(tmp_path, layerskip=replace(BOTH, exits=(2,)))
    with pytest.raises(ConfigError, match="2 is no exit of a model of 2 layers"):
        train(config, tmp_path / "run", data=tmp_path / "data")
    assert not (tmp_path / "run").exists()


def test_the_papers_recipes() -> None:
    """Tables 8 to 10 of the paper, as far as they carry over."""
    found = {}
    for name in recipe_names():
        if name.startswith("layerskip"):
            c = load_recipe(name)
            s = c.layerskip
            found[name] = (s.p_max, s.dropout_ramp, s.e_scale, s.curriculum, c.init)
    for name in ("continual", "scratch", "code", "task"):
        assert found[f"layerskip-{name}"] == found[f"layerskip-{name}-single"]
    assert found["layerskip-continual"] == (0.1, "constant", 0.1, "rotational", "pretrained")
    assert found["layerskip-scratch"] == (0.1, "exponential", 0.2, "rotational", "random")
    assert found["layerskip-code"] == (0.1, "constant", 1.0, "rotational", "pretrained")
    assert found["layerskip-task"] == (0.2, "constant", 1.0, "gradual", "pretrained")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_with_exits_train_like_one(tmp_path: Path) -> None:
    """Sharded, with the unembedding trained: exits use it outside of the model's forward."""
    settings = LayerSkipSettings(e_scale=1.0, curriculum="all")
    config = prepare(tmp_path, tied=True, tune="full", layerskip=settings, **SETTINGS)
    finish(start(tmp_path, config, "fsdp"), tmp_path)
    train(config, tmp_path / "one", data=tmp_path / "data")
    assert_same(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_leave_out_the_same(tmp_path: Path) -> None:
    """With one pack each, a layer is left out in both or in none: no process waits for another."""
    settings = LayerSkipSettings(p_max=0.8, e_scale=1.0, curriculum="all", exit_tokens=0.5)
    config = prepare(tmp_path, tied=True, tune="full", layerskip=settings, **SETTINGS)
    for kind, name in (("ddp", "one"), ("fsdp", "two")):
        finish(start(tmp_path, config, kind), tmp_path)
        if name == "one":
            (tmp_path / "two").rename(tmp_path / "one")
    assert_same(tmp_path)
