"""Two processes under accelerate give what one gives."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from stretto.config import dump
from stretto.models import MultiStreamLM
from stretto.runs import Run
from stretto.training.run import train
from tests.training.small import losses, prepare

CONFIG = Path(__file__).parents[2] / "examples" / "accelerate" / "ddp-cpu.yaml"


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    config = prepare(tmp_path, steps=3, packs_per_batch=1, eval_every=3)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump(dump(config)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
    command += ["--main_process_port", "0", "-m", "stretto", "train", str(recipe)]
    command += ["-o", str(tmp_path / "two"), "--data", str(tmp_path / "data")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    two = tmp_path / "two"
    assert Run.open(two).status == "finished"
    assert len(list(Run.open(two).events("created"))) == 1
    MultiStreamLM.from_pretrained(two / "model", dtype="float32", device="cpu")
    # One process that takes both packs of a step: the mean of two means is not the mean over all
    # cells, so the weights drift apart a little; the held-out loss must not.
    train(replace(config, packs_per_batch=2), tmp_path / "one", data=tmp_path / "data")
    assert losses(two)[3, "eval_content"] == pytest.approx(
        losses(tmp_path / "one")[3, "eval_content"], abs=5e-3
    )
