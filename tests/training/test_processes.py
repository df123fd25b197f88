"""Two processes train like one: each with the whole model (DDP) or with half of it (FSDP).

The processes are real: torchrun starts them, they talk through gloo on the CPU.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml

from stretto.config import dump
from stretto.errors import ConfigError
from stretto.models import MultiStreamLM
from stretto.runs import Run
from stretto.training.config import TrainConfig
from stretto.training.distribution import check_launch, check_sharding
from stretto.training.run import train
from tests.training.small import losses, prepare

ACCELERATE = Path(__file__).parents[2] / "examples" / "accelerate"

SETTINGS: dict[str, object] = {
    # 17 packs, 4 a step: the run goes beyond the end of an epoch that does not come out even.
    "steps": 5, "packs_per_batch": 2, "accumulate": 2, "holdout": 2,
    "save_every": 2, "eval_every": 2,
}  # fmt: skip


pytestmark = pytest.mark.timeout(400)  # seconds of work, but Python starts thrice


@pytest.fixture(autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    """End what a failed test has left running."""
    yield
    left = psutil.Process().children(recursive=True)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=20)


def start(folder: Path, config: TrainConfig, kind: str, *more: str) -> subprocess.Popen[bytes]:
    """``stretto train`` in two processes, each of which takes half of the packs."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(dump(replace(config, packs_per_batch=1))))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "stretto", "train", str(recipe), "-o", str(folder / "two"), *more]
    command += ["--data", str(folder / "data")]
    with (folder / "log").open("ab") as log:
        env = os.environ | {"OMP_NUM_THREADS": "1"} | environment(kind)
        return subprocess.Popen(command, stdout=log, stderr=log, env=env)


def environment(kind: str) -> dict[str, str]:
    """What ``accelerate launch`` would set for a config file of ours."""
    settings = yaml.safe_load((ACCELERATE / f"{kind}-cpu.yaml").read_text())
    fsdp = {key.upper(): str(value) for key, value in settings.get("fsdp_config", {}).items()}
    sharded = settings["distributed_type"] == "FSDP"
    return fsdp | {"ACCELERATE_USE_FSDP": "true" if sharded else "false"}


def finish(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for both processes."""
    assert process.wait(300) == 0, (folder / "log").read_text()[-4000:]


def kill_after(process: subprocess.Popen[bytes], folder: Path, step: int) -> None:
    """Kill launcher and processes when the run has logged a step."""
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / "two" / "events.jsonl").exists() and (step, "content") in losses(
            folder / "two"
        ):
            break
        time.sleep(0.005)
    everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
    assert len(everything) == 3
    for one in everything:  # the launcher first: it would end what is left in good order
        one.kill()
    assert process.wait() == -signal.SIGKILL
    psutil.wait_procs(everything[1:], timeout=20)


def assert_same(folder: Path) -> None:
    """Both runs have the same curves and the same trained tensors at each checkpoint kept."""
    one, two = folder / "one", folder / "two"
    assert losses(two) == pytest.approx(losses(one), abs=2e-5)
    checkpoints = sorted(path.name for path in (one / "checkpoints").iterdir())
    assert checkpoints == ["checkpoint-4", "checkpoint-5"]
    for name in checkpoints:
        first = torch.load(one / "checkpoints" / name / "trained.pt", weights_only=True)
        second = torch.load(two / "checkpoints" / name / "trained.pt", weights_only=True)
        assert first.keys() == second.keys()
        for key in first:
            torch.testing.assert_close(second[key], first[key], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_like_one(tmp_path: Path, kind: str) -> None:
    config = prepare(tmp_path, **SETTINGS)
    finish(start(tmp_path, config, kind), tmp_path)
    train(config, tmp_path / "one", data=tmp_path / "data")
    run = Run.open(tmp_path / "two")
    assert run.status == "finished"
    assert len(list(run.events("created"))) == 1
    spread = next(run.events("spread"))
    assert spread["processes"] == 2
    share = spread["held"] / spread["values"]
    assert share == 1 if kind == "ddp" else 0.5 <= share < 0.6
    assert_same(tmp_path)
    MultiStreamLM.from_pretrained(tmp_path / "two" / "model", dtype="float32", device="cpu")


def test_a_killed_sharded_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    config = prepare(tmp_path, tied=True, tune="full", gradient_checkpointing=True, **SETTINGS)
    kill_after(start(tmp_path, config, "fsdp"), tmp_path, step=3)
    with pytest.raises(ConfigError, match="another packs_per_batch, processes, sharded"):
        train(config, tmp_path / "two", data=tmp_path / "data", resume=True)
    finish(start(tmp_path, config, "fsdp", "--resume"), tmp_path)
    assert [e["resumed_at"] for e in Run.open(tmp_path / "two").events("start")] == [0, 2]
    train(config, tmp_path / "one", data=tmp_path / "data")
    assert_same(tmp_path)
    one, two = (
        MultiStreamLM.from_pretrained(tmp_path / name / "model", dtype="float32", device="cpu")
        for name in ("one", "two")
    )
    for (name, first), second in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(second, first, atol=1e-6, rtol=0, msg=name)


def test_a_launch_that_started_one_process_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    check_launch()  # one process was asked for
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ConfigError, match="MULTI_CPU starts one process only"):
        check_launch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_launch()


def test_sharding_one_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = prepare(tmp_path, steps=1)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="this is a single process"):
        train(config, tmp_path / "run", data=tmp_path / "data")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fsdp_version": 1}, "set fsdp_version: 2"),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, "set fsdp_state_dict_type: FULL_STATE_DICT"),
        ({"cpu_ram_efficient_loading": True}, "set fsdp_cpu_ram_efficient_loading: false"),
        ({"activation_checkpointing": True}, "set fsdp_activation_checkpointing: false"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], message: str
) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # the plugin sets it for good
    plugin = FullyShardedDataParallelPlugin(
        **({"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT"} | settings)
    )
    with pytest.raises(ConfigError, match=message):
        check_sharding(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)))
