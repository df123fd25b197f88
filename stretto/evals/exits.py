"""How well a model can be left early: agreement and perplexity by exit layer, on given texts."""

import csv
import io
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stretto.errors import ConfigError, InputError
from stretto.evals.config import EfficiencyConfig
from stretto.evals.items import choose_tasks, find_source, load_items
from stretto.models.checkpoint import load, load_codec
from stretto.models.exits import Exits, plain_head
from stretto.models.wrapper import MultiStreamLM
from stretto.runs import atomic_write
from stretto.streams import IGNORE, Cells, StreamCodec
from stretto.streams.alignment import align, single
from stretto.streams.arrival import random_arrival
from stretto.streams.sets import SINGLE
from stretto.streams.shards import Sample, load_shards
from stretto.training.exit_figures import figures
from stretto.training.exit_heads import full_unembedding
from stretto.training.exit_states import collect, load_states
from stretto.training.exits import group_names

COLUMNS: tuple[str, ...] = (
    "kind", "layer", "group", "count", "agreement", "coverage", "rows_agreed", "perplexity",
    "perplexity_ratio",
)  # fmt: skip
_TEXT_CELLS = 512

Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ExitEval:
    """What is measured.

    Attributes:
        model: name or folder.
        exits: folder of its exits; None takes those that ship for it.
        layers: exit layers of the plain exit, beside those of the heads.
        data: folder of built tables; None takes items of the development tasks.
        text: a plain text instead, for a model of one stream.
        source: the unpacked development pack.
        limit: items a task, or tables.
        max_cells: cells that are read at most.
    """

    model: str
    exits: Path | None = None
    layers: tuple[int, ...] = ()
    data: Path | None = None
    text: Path | None = None
    source: Path | None = None
    limit: int = 20
    max_cells: int = 40_000


def evaluate(config: ExitEval, tell: Tell = lambda done, total, what: None) -> list[dict[str, Any]]:
    """Rows with ``COLUMNS``, for each kind of exit, layer and group of cells.

    Kinds are ``head`` (trained), ``plain`` (the model's own norm and unembedding) and ``model``
    (all layers).

    Raises:
        ConfigError: the model has no exits and no layers are given.
        CheckpointError, InputError: model, exits or texts cannot be read.
    """
    lm = load(MultiStreamLM, config.model)
    exits = lm.exits if config.exits is None else Exits.load(config.exits, lm)
    layers = sorted({*config.layers, *(exits.layers if exits else ())})
    if not layers:
        raise ConfigError(f"{config.model} has no exits: give --exits DIR, or --layers")
    plain = {layer: plain_head(lm, layer) for layer in layers}
    samples = _samples(config, lm, load_codec(config.model))
    with tempfile.TemporaryDirectory() as folder:
        collect(
            lm, samples, Path(folder), layers, max_cells=config.max_cells,
            pack_cells=max(1024, *(len(sample.cells) for sample in samples)), tell=tell,
        )  # fmt: skip
        states = load_states(Path(folder))
    heads = {"head": exits.heads if exits else {}, "plain": plain}
    groups = group_names(lm, samples, states)
    rows = figures(heads, states, full_unembedding(lm), groups, perplexity=True)
    whole = {row["group"]: row["perplexity"] for row in rows if row["kind"] == "model"}
    for row in rows:
        row["perplexity_ratio"] = row["perplexity"] / whole[row["group"]]
    return rows


def write(rows: list[dict[str, Any]], folder: Path) -> list[Path]:
    """``exits.csv`` and ``exits.json`` (with the calibration) in a folder; their paths."""
    paths = [folder / "exits.csv", folder / "exits.json"]
    write_csv(rows, COLUMNS, paths[0])
    atomic_write(paths[1], json.dumps(rows, indent=1) + "\n")
    return paths


def write_csv(rows: list[dict[str, Any]], columns: Sequence[str], path: Path) -> Path:
    """Rows as a CSV file, of these columns only; its path."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    atomic_write(path, text.getvalue())
    return path


def _samples(config: ExitEval, lm: MultiStreamLM, codec: StreamCodec) -> list[Sample]:
    if config.text is not None:
        return _of_text(config.text, lm, codec)
    if config.data is not None:
        shards = load_shards(config.data)
        if shards.special != codec.special or shards.streams != lm.streams:
            raise InputError(f"{config.data}: built for other streams or another vocabulary")
        return shards.samples[: config.limit]
    source = find_source(config.source)
    tasks = choose_tasks(None, source)
    few = EfficiencyConfig(tasks=tasks, source=str(source or ""), limit=config.limit)
    items, _ = load_items(few)
    alone = len(lm.streams) == 1
    if not alone and not {"user", "answer"} <= set(lm.streams.names):
        raise InputError(f"{config.model} has no streams user and answer: give --data DIR")
    found = []
    for task, examples in items.items():
        for example in examples:
            rng = random.Random(example.id)
            arrival = random_arrival(rng)
            table = (
                single(example, codec)
                if alone
                else align(example, codec, lag=1, arrival=arrival, rng=rng)
            )
            found.append(_sample(table.cells(), table.streams.names, lm, table.meta, task))
    return found


def _sample(cells: Cells, names: Sequence[str], lm: MultiStreamLM, meta: Any, task: str) -> Sample:
    """Cells with the model's streams, by name; where there is only one, it is that."""
    alone = len(lm.streams) == 1
    index = np.array([0 if alone else lm.streams.index(name) for name in names], np.int32)
    moved = Cells(cells.tokens, index[cells.streams], cells.rows, cells.labels)
    return Sample(moved, "given", 0, {**meta, "task": task})


def _of_text(path: Path, lm: MultiStreamLM, codec: StreamCodec) -> list[Sample]:
    if len(lm.streams) != 1:
        raise InputError(f"a text has one stream, this model has {len(lm.streams)}: give --data")
    try:
        ids = codec.encode(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    found = []
    for start in range(0, len(ids) - 1, _TEXT_CELLS):
        tokens = np.array(ids[start : start + _TEXT_CELLS], np.int32)
        labels = np.append(tokens[1:], IGNORE).astype(np.int32)
        rows = np.arange(len(tokens), dtype=np.int32)
        cells = Cells(tokens, np.zeros_like(tokens), rows, labels)
        found.append(_sample(cells, SINGLE.names, lm, {}, path.name))
    if not found:
        raise InputError(f"{path}: too short")
    return found
