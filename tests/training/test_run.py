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
from stretto.errors import CheckpointError, ConfigError
from stretto.models import MultiStreamLM
from stretto.runs import Run
from stretto.training.run import train
from stretto.training.trainer import VECTORS
from tests.training.small import losses, prepare


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
    # A checkpoint whose saving the kill cut short has no trainer_state.json; it must not be taken.
    torn = broken / "checkpoints" / "checkpoint-9"
    torn.mkdir(exist_ok=True)
    (torn / "trainer_state.json").unlink(missing_ok=True)
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


def test_resuming_needs_a_run_and_a_checkpoint(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    Run.create(tmp_path / "empty", config, kind="train")
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        train(config, tmp_path / "empty", data=tmp_path / "data", resume=True)


def test_data_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = prepare(tmp_path)
    other = LlamaConfig(vocab_size=600, hidden_size=32, intermediate_size=64,
                        num_hidden_layers=1, num_attention_heads=4)  # fmt: skip
    LlamaForCausalLM(other).save_pretrained(tmp_path / "base")
    with pytest.raises(CheckpointError, match="build them again"):
        train(config, tmp_path / "run", data=tmp_path / "data")
