"""Whole runs of a small model: what is saved, resumed, refused."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from stretto.config import dump
from stretto.errors import CheckpointError, ConfigError, InputError
from stretto.models import MultiStreamLM
from stretto.runs import Run
from stretto.streams.build import Recipe, Source, build
from stretto.training.run import train
from stretto.training.trainer import VECTORS
from tests.streams.bpe_codec import bpe_codec
from tests.training.small import losses, prepare

VECTOR_FILE = "stretto.safetensors"


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_run_leaves_a_checkpoint_that_loads(tmp_path: Path, tune: str) -> None:
    config = prepare(tmp_path, tune=tune, steps=4)
    folder = train(config, tmp_path / "run", data=tmp_path / "data")
    lm = MultiStreamLM.from_pretrained(folder, dtype="float32", device="cpu")
    assert lm.streams.names == ("user", "answer")
    assert (lm.stream_embedding != 0).any()
    assert (folder / "adapter_model.safetensors").exists() == (tune == "lora")
    run = Run.open(tmp_path / "run")
    assert run.status == "finished"
    assert run.metrics()["eval_content"] > 0
    assert (tmp_path / "run" / "losses.png").stat().st_size > 1000


def test_lora_leaves_the_base_alone(tmp_path: Path) -> None:
    from stretto.streams.build import load_shards
    from stretto.training.run import build_model

    config = prepare(tmp_path)
    model = build_model(config, load_shards(tmp_path / "data"))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {n for n in trained if "lora_" not in n} == set(VECTORS)
    assert any("lora_" in name for name in trained)


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    config = prepare(tmp_path, steps=3)
    train(config, tmp_path / "plain", data=tmp_path / "data")
    config = replace(config, gradient_checkpointing=True)
    train(config, tmp_path / "lean", data=tmp_path / "data")
    assert losses(tmp_path / "lean") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)


def test_accumulated_passes_are_one_batch(tmp_path: Path) -> None:
    config = prepare(tmp_path, steps=3, packs_per_batch=4)
    train(config, tmp_path / "whole", data=tmp_path / "data")
    config = replace(config, packs_per_batch=1, accumulate=4)
    train(config, tmp_path / "parts", data=tmp_path / "data")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=2e-5)


def test_bfloat16_runs(tmp_path: Path) -> None:
    train(prepare(tmp_path, dtype="bfloat16", steps=2), tmp_path / "run", data=tmp_path / "data")


def test_a_killed_run_resumes_to_the_same_losses_and_weights(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump(dump(config)))
    whole = train(config, tmp_path / "whole", data=tmp_path / "data")
    broken = tmp_path / "broken"
    command = [sys.executable, "-m", "stretto", "train", str(recipe), "-o", str(broken)]
    command += ["--data", str(tmp_path / "data")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ))
        _kill_after(process, broken, step=5)
    # A checkpoint whose saving the kill cut short has no whole trainer_state.json; it is not taken.
    torn = broken / "checkpoints" / "checkpoint-9"
    torn.mkdir(exist_ok=True)
    (torn / "trainer_state.json").write_text('{"global_step": 9, "log_h')
    with pytest.raises(ConfigError, match="another silence_weight"):
        train(replace(config, silence_weight=0.5), broken, data=tmp_path / "data", resume=True)
    resumed = train(config, broken, data=tmp_path / "data", resume=True)
    assert losses(broken) == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)
    for name in ("adapter_model.safetensors", "stretto.safetensors"):
        first, second = load_file(whole / name), load_file(resumed / name)
        assert all(torch.allclose(first[key], second[key], atol=1e-4) for key in first)


def _kill_after(process: subprocess.Popen[bytes], output: Path, step: int) -> None:
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        if (output / "events.jsonl").exists():
            seen = [event.get("step", 0) for event in Run.open(output).events("log")]
            if max(seen, default=0) >= step:
                break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_run_stopped_before_its_first_checkpoint_resumes_from_the_start(tmp_path: Path) -> None:
    config = prepare(tmp_path, steps=2)
    with pytest.raises(InputError, match="not a run folder"):
        train(config, tmp_path / "run", data=tmp_path / "data", resume=True)
    Run.create(tmp_path / "run", config, kind="train")
    train(config, tmp_path / "run", data=tmp_path / "data", resume=True)
    train(config, tmp_path / "fresh", data=tmp_path / "data")
    assert losses(tmp_path / "run") == losses(tmp_path / "fresh")


def test_other_data_of_the_same_name_are_not_resumed_with(tmp_path: Path) -> None:
    config = prepare(tmp_path, steps=2)
    train(config, tmp_path / "run", data=tmp_path / "data")
    recipe = Recipe(sources=(Source(task="chain_sum", set="read", count=60),))
    build(recipe, tmp_path / "data", codec=bpe_codec(), seed=1)
    with pytest.raises(ConfigError, match="another data"):
        train(config, tmp_path / "run", data=tmp_path / "data", resume=True)


def test_a_finished_run_resumes_without_another_step(tmp_path: Path) -> None:
    config = prepare(tmp_path, steps=3, eval_every=3)
    first = load_file(train(config, tmp_path / "run", data=tmp_path / "data") / VECTOR_FILE)
    run = Run.open(tmp_path / "run")
    assert [e["step"] for e in run.events("log") if "eval_content" in e] == [3]
    # Trainer wants to save twice after the last step; that would put the checkpoint at risk.
    saved = tmp_path / "run" / "checkpoints" / "checkpoint-3" / "trained.pt"
    before = saved.stat().st_mtime_ns
    again = train(config, tmp_path / "run", data=tmp_path / "data", resume=True)
    assert saved.stat().st_mtime_ns == before
    second = load_file(again / VECTOR_FILE)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_held_out_losses_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    config = prepare(tmp_path, steps=1, eval_every=1, pack_cells=120, packs_per_batch=1)
    config = replace(config, optimiser=replace(config.optimiser, learning_rate=0.0))
    config = replace(config, optimiser=replace(config.optimiser, vector_learning_rate=0.0))
    for packs in (1, 4):  # the last batch of 4 is filled up
        config = replace(config, packs_per_batch=packs)
        train(config, tmp_path / str(packs), data=tmp_path / "data")
    one, four = losses(tmp_path / "1"), losses(tmp_path / "4")
    assert one[1, "eval_content"] == pytest.approx(four[1, "eval_content"], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pack_cells": 3}, "no sample has at most 3 cells"),
        ({"packs_per_batch": 99}, "16 packs, but a forward pass takes 99"),
        ({"holdout": 60}, "holdout is 60"),
    ],
)
def test_data_that_do_not_suffice_leave_no_run_folder(
    tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    config = prepare(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        train(config, tmp_path / "run", data=tmp_path / "data")
    assert not (tmp_path / "run" / "events.jsonl").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn"])
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    config = prepare(tmp_path, steps=2)
    train(config, tmp_path / "run", data=tmp_path / "data")
    (tmp_path / "run" / "checkpoints" / "checkpoint-2" / "trained.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"trained\.pt: unreadable") as caught:
        train(config, tmp_path / "run", data=tmp_path / "data", resume=True)
    assert "\n" not in str(caught.value)


def test_data_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = prepare(tmp_path)
    other = LlamaConfig(vocab_size=600, hidden_size=32, intermediate_size=64,
                        num_hidden_layers=1, num_attention_heads=4)  # fmt: skip
    LlamaForCausalLM(other).save_pretrained(tmp_path / "base")
    with pytest.raises(CheckpointError, match="build them again"):
        train(config, tmp_path / "run", data=tmp_path / "data")
