"""Two processes under accelerate give what one gives: copies (DDP) or shards (FSDP) of the model."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from stretto.config import dump
from stretto.models import MultiStreamLM
from stretto.runs import Run
from stretto.training.config import TrainConfig
from stretto.training.run import train
from tests.training.small import losses, prepare

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "examples" / "accelerate"
DDP = (CONFIGS / "ddp-cpu.yaml", ["-m", "stretto"])


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    config = prepare(tmp_path, steps=3, packs_per_batch=1, eval_every=3)
    done = _launch(*DDP, tmp_path, config)
    assert done.returncode == 0, done.stderr[-2000:]
    _check(tmp_path, config)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_shards_train_and_resume_like_one_process(tmp_path: Path, tune: str) -> None:
    config = prepare(tmp_path, tune=tune, steps=4, save_every=2, packs_per_batch=1, eval_every=4)
    fsdp = _fsdp_on_cpu(tmp_path), [str(ROOT / "tests" / "training" / "fsdp_on_cpu.py")]
    done = _launch(*fsdp, tmp_path, config)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "DecoderLayer" in done.stdout
    _check(tmp_path, config)
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "checkpoint-4")
    done = _launch(*fsdp, tmp_path, config, "--resume")
    assert done.returncode == 0, done.stderr[-2000:]
    assert [e["resumed_at"] for e in Run.open(tmp_path / "two").events("start")] == [0, 2]
    _check(tmp_path, config)


def test_fsdp_that_accelerate_would_leave_out_is_refused(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    done = _launch(_fsdp_on_cpu(tmp_path), ["-m", "stretto"], tmp_path, config)
    assert done.returncode != 0
    assert "stretto: accelerate config: distributed_type FSDP needs GPUs" in done.stderr


def _fsdp_on_cpu(folder: Path) -> Path:
    """The shipped file for GPUs, with nothing changed but the device."""
    settings = yaml.safe_load((CONFIGS / "fsdp.yaml").read_text())
    path = folder / "fsdp-cpu.yaml"
    path.write_text(yaml.safe_dump(settings | {"use_cpu": True, "num_processes": 2}))
    return path


def _launch(
    accelerate: Path, program: list[str], folder: Path, config: TrainConfig, *more: str
) -> subprocess.CompletedProcess[str]:
    recipe = folder / "small.yaml"
    recipe.write_text(yaml.safe_dump(dump(config)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(accelerate)]
    command += ["--main_process_port", "0", *program, "train", str(recipe), *more]
    command += ["-o", str(folder / "two"), "--data", str(folder / "data")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def _check(folder: Path, config: TrainConfig) -> None:
    """The same losses and weights as one process that takes the packs one after the other."""
    two, one = Run.open(folder / "two"), folder / "one"
    assert two.status == "finished"
    assert len(list(two.events("created"))) == 1
    if not one.exists():
        train(replace(config, accumulate=2), one, data=folder / "data")
    assert losses(two.path) == pytest.approx(losses(one), abs=1e-5)
    name = "adapter_model.safetensors" if config.tune == "lora" else "model.safetensors"
    for file in (name, "stretto.safetensors"):
        first, second = load_file(one / "model" / file), load_file(two.path / "model" / file)
        assert first.keys() == second.keys()
        assert all(torch.allclose(first[k], second[k], atol=1e-4) for k in first)
    MultiStreamLM.from_pretrained(two.path / "model", dtype="float32", device="cpu")
