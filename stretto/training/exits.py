"""A run that trains exit heads, from recipe to shipped folder: texts, states, heads, figures.

The run folder keeps each step's result, so a run that was stopped goes on where it was, and other
heads can be trained on the same states:
``answers.jsonl`` or ``data/`` (texts), ``states/`` (hidden states), ``heads.pt`` (heads in the
making), ``exits/`` (the result), ``metrics.json`` (held-out figures).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from stretto.config import dump
from stretto.errors import CheckpointError, ConfigError, InputError
from stretto.models.checkpoint import auto_device, is_checkpoint, load, load_codec
from stretto.models.exits import Exits, plain_head
from stretto.models.wrapper import MultiStreamLM
from stretto.runs import Run, atomic_write, flatten
from stretto.streams import StreamCodec
from stretto.streams.shards import Sample, load_shards
from stretto.training.exit_config import ExitConfig
from stretto.training.exit_figures import figures
from stretto.training.exit_heads import full_unembedding, new_heads, shortlist, train_heads
from stretto.training.exit_states import States, collect, held_out, load_states
from stretto.training.exit_texts import Speak, Tell, answer, requests, samples

_OF_HEADS = ("inner", "shortlist", "passes", "batch", "learning_rate", "top_weight", "save_every")
_SIZES = (2048, 4096, 6144, 8192, 12288)


def train_exits(
    config: ExitConfig,
    output: Path,
    *,
    source: Path | None = None,
    data: Path | None = None,
    speak: Speak | None = None,
    resume: bool = False,
    command: str = "",
    tell: Tell = lambda done, total, what: None,
) -> Path:
    """Train exit heads for a model.

    Args:
        config: what to do.
        output: run folder; the heads go to ``exits/``.
        source: folder of the raw data sets that the requests are taken from.
        data: folder of built tables, where the config asks for tables.
        speak: the model, where it is to answer requests.
        resume: go on with the run in ``output``. What concerns the heads alone may differ: then
            they are trained anew on the same states.
        command: kept with the heads.
        tell: told how far each step has come.

    Returns:
        the folder of the heads.

    Raises:
        ConfigError: the run to be resumed had other settings, or something is not given.
        CheckpointError, InputError: model, data or run folder cannot be read.
    """
    run = _open_run(output, config, resume)
    with run:
        run.event("start", torch=torch.__version__, threads=torch.get_num_threads())
        device = auto_device("auto")
        lm = load(MultiStreamLM, config.base, dtype=config.dtype, device=device)
        _check(lm, config)
        codec = load_codec(config.base)
        found = _samples(config, output, codec, _stop_ids(lm), source, data, speak, tell)
        is_held_out = held_out(found, config.held_out, config.seed)
        collect(
            lm, found, output / "states", config.layers,
            max_cells=config.max_cells, pack_cells=config.pack_cells, seed=config.seed, tell=tell,
        )  # fmt: skip
        states = load_states(output / "states")
        states = replace(states, at={layer: states.at[layer] for layer in config.layers})
        kept = torch.from_numpy(is_held_out)[states.sample.long()]
        training, judged = states.where(~kept), states.where(kept)
        if not len(training) or not len(judged):
            raise InputError("no states to train on or to judge by; take more texts")
        read = np.concatenate([found[i].cells.tokens for i in np.flatnonzero(~is_held_out)])
        said = training.top.numpy()

        def ids(size: int) -> Tensor:
            return shortlist(size, codec, said, read, _stop_ids(lm))

        heads = new_heads(lm, training, ids(config.shortlist), config.inner, config.seed)
        unembedding = full_unembedding(lm)

        def log(step: int, steps: int, losses: dict[str, float]) -> None:
            run.event("log", step=step, **{f"divergence_{k}": v for k, v in losses.items()})
            worst = "  ".join(f"{k}: {v:.3f}" for k, v in losses.items())
            tell(step, steps, f"steps, divergence by exit {worst}")

        train_heads(
            heads, training, unembedding, config,
            checkpoint=output / "heads.pt", dtype=_dtype(config), log=log,
        )  # fmt: skip
        plain = {layer: plain_head(lm, layer) for layer in config.layers}
        groups = group_names(lm, found, judged)
        rows = figures({"head": heads, "plain": plain}, judged, unembedding, groups)
        coverage = {str(n): _coverage(ids(n), judged) for n in _SIZES}
        measured = {"states": len(training), "held_out_states": len(judged), "figures": rows}
        run.write_metrics(measured | {"coverage": coverage})
        made = {"command": command, "config": dump(config), "states": len(training)}
        exits = Exits.of(lm, heads, made | {"held_out": _short(rows)}, name=config.base)
        exits.save(output / "exits")
    return output / "exits"


def group_names(lm: MultiStreamLM, found: Sequence[Sample], states: States) -> list[str]:
    """Which group each state is of: the domain, or stream and kind where a model has streams."""
    if len(lm.streams) == 1:
        return [str(found[i].meta.get("task", "text")) for i in states.sample.tolist()]
    names, special = lm.streams.names, lm.special
    kinds = {special.silence: "silence", special.end: "end"}
    pairs = zip(states.stream.tolist(), states.top.tolist(), strict=True)
    return [f"{names[stream]}, {kinds.get(top, 'content')}" for stream, top in pairs]


def _samples(
    config: ExitConfig,
    output: Path,
    codec: StreamCodec,
    stop_ids: list[int],
    source: Path | None,
    data: Path | None,
    speak: Speak | None,
    tell: Tell,
) -> list[Sample]:
    if config.answers is not None:
        path = output / "answers.jsonl"
        if source is None:
            raise ConfigError("the requests come from raw data sets: give --source DIR")
        if speak is None or not stop_ids:
            raise ConfigError(f"{config.base} cannot be asked: it has no id that ends a text")
        asked = requests(source, config.answers.requests, config.seed)
        answer(asked, path, codec, speak, config.answers, config.seed, tell)
        return samples(path, codec, stop_ids[0])
    if data is None:
        raise ConfigError(f"tables {config.tables!r} are not built: give --data or --source DIR")
    shards = load_shards(data)
    if shards.special != codec.special:
        raise CheckpointError(f"{data}: built for another vocabulary than that of {config.base}")
    return shards.samples


def _open_run(output: Path, config: ExitConfig, resume: bool) -> Run:
    if not resume:
        return Run.create(output, config, kind="exits")
    run = Run.open(output)
    before, now = flatten(run.config()), flatten(dump(config))
    changed = [key for key in now if before.get(key) != now[key]]
    if fixed := [key for key in changed if key not in _OF_HEADS]:
        raise ConfigError(f"{output}: cannot resume with another {', '.join(fixed)}")
    if changed:  # the states serve any heads; these are trained from the start
        (output / "heads.pt").unlink(missing_ok=True)
        atomic_write(output / "config.yaml", yaml.safe_dump(dump(config), sort_keys=False))
    return run


def _check(lm: MultiStreamLM, config: ExitConfig) -> None:
    for layer in config.layers:
        plain_head(lm, layer)
    if config.tables is not None and not is_checkpoint(config.base):
        raise ConfigError(f"{config.base} has no streams to read tables with; give answers instead")


def _stop_ids(lm: MultiStreamLM) -> list[int]:
    ids: Any = lm.base.generation_config.eos_token_id
    ids = lm.config.eos_token_id if ids is None else ids
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def _dtype(config: ExitConfig) -> torch.dtype:
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32


def _coverage(ids: Tensor, states: States) -> float:
    return float(torch.isin(states.top.long(), ids).float().mean())


def _short(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is kept beside the heads."""
    names = ("layer", "group", "count", "agreement", "coverage", "rows_agreed")
    return [{k: row[k] for k in names if k in row} for row in rows if row["kind"] == "head"]
