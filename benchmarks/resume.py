"""A training run that is killed and goes on, against one that is not."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from stretto.errors import LimitError
from stretto.runs import Run

_STEPS, _SAVE, _KILL_AFTER = 12, 4, 6


def largest_loss_difference(base: str, *, seed: int) -> float:
    """Train twice on the same small data with a small random model; kill one run half-way.

    Args:
        base: whose tokeniser is used.
        seed: of everything.

    Returns:
        the largest difference of the losses logged at the same steps, final evaluation included.

    Raises:
        LimitError: a training run failed or came to its end before it could be killed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = _prepare(folder, base, seed)
        whole, broken = folder / "whole", folder / "broken"
        _wait(_start(recipe, whole, folder))
        _kill_at(_start(recipe, broken, folder), broken, _KILL_AFTER)
        _wait(_start(recipe, broken, folder, "--resume"))
        expected, found = _losses(whole), _losses(broken)
    if expected.keys() != found.keys():
        raise LimitError("the resumed run did not log the same steps; see stretto train --resume")
    return max(abs(expected[key] - found[key]) for key in expected)


def _prepare(folder: Path, base: str, seed: int) -> Path:
    """A small random model, its shards and a recipe."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from stretto.models import load_codec
    from stretto.models.store import resolve
    from stretto.streams.build import Recipe, Source, build

    source, model = resolve(base), folder / "base"
    codec = load_codec(base)
    torch.manual_seed(seed)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=codec.special.silence, hidden_size=64, intermediate_size=128,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        )
    ).save_pretrained(model)  # fmt: skip
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy2(source / file, model / file)
    data = Recipe(sources=(Source(task="chain_sum", set="read", count=120),))
    build(data, folder / "data", codec=codec, seed=seed)
    settings = {
        "data": "small", "base": str(model), "steps": _STEPS, "save_every": _SAVE, "log_every": 1,
        "eval_every": _STEPS, "holdout": 8, "pack_cells": 256, "dtype": "float32", "seed": seed,
    }  # fmt: skip
    recipe = folder / "small.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    return recipe


def _start(recipe: Path, output: Path, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "stretto", "train", str(recipe), "-o", str(output)]
    command += ["--data", str(folder / "data"), *more]
    log = (folder / "log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "LC_ALL": "C"})


def _wait(process: subprocess.Popen[bytes]) -> None:
    if process.wait(timeout=600):
        raise LimitError(f"a training run exited with {process.returncode}")


def _kill_at(process: subprocess.Popen[bytes], output: Path, step: int) -> None:
    while process.poll() is None:
        if (output / "events.jsonl").exists():
            steps = [event.get("step", 0) for event in Run.open(output).events("log")]
            if max(steps, default=0) >= step:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return
        time.sleep(0.005)
    raise LimitError(f"the training run ended with {process.returncode} before it was killed")


def _losses(output: Path) -> dict[tuple[int, str], float]:
    """The last value logged of each loss at each step."""
    kinds = ("loss", "content", "silence", "eval_content", "eval_silence")
    return {
        (event["step"], kind): event[kind]
        for event in Run.open(output).events("log")
        for kind in kinds
        if isinstance(event.get(kind), float)
    }
