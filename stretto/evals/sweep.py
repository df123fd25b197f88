"""Speed-up of drafts by an exit over exit layer and draft length, measured and by the cost model.

The cost model is that of Elhoushi et al. 2024. With a the probability that a drafted row comes true
if those before it did, a round of d drafts makes (1 - a^(d+1)) / (1 - a) rows. It costs d drafts by
the first layers and the exit head, these layers once more over a row, and all others over d + 1.
"""

import csv
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stretto.engine import Engine, Speculation
from stretto.engine.backends import Backend
from stretto.engine.exits import exit_shares
from stretto.engine.stats import Drafted
from stretto.errors import ConfigError
from stretto.evals.drafting import TASKS, Shared, drafted_since, generate, load_prompts, silent_pass
from stretto.evals.items import find_source
from stretto.models import MultiStreamLM
from stretto.models.exits import Exits, plain_head
from stretto.runs import atomic_write

COLUMNS: tuple[str, ...] = (
    "task", "layer", "rows", "speedup", "low", "high", "predicted", "acceptance", "per_draft",
    "rows_per_pass", "ms", "plain_ms", "generations", "mismatches",
)  # fmt: skip
ALL = "all"
"""The task's name in lines over all of them."""

Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class SweepConfig:
    """What is measured.

    Attributes:
        model: name or folder.
        exits: folder of its exits; None takes those that ship for it.
        layers: exit layers; none takes those of the heads. One without a head is left by the
            model's own norm and unembedding.
        lengths: rows that are drafted at a time.
        backend: that offers exits.
        source: the unpacked development pack.
        limit: prompts a task.
        max_rows: of an answer.
    """

    model: str = "smollm2-135m"
    exits: Path | None = None
    layers: tuple[int, ...] = ()
    lengths: tuple[int, ...] = (1, 2, 3, 4, 6)
    backend: str = "native:int8"
    source: Path | None = None
    limit: int = 3
    max_rows: int = 64

    def __post_init__(self) -> None:
        least = {"lengths": min(self.lengths, default=0), "limit": self.limit}
        for name, number in {**least, "max_rows": self.max_rows - 1}.items():
            if number < 1:
                raise ConfigError(f"{name}: give {2 if name == 'max_rows' else 1} or more")


def sweep(config: SweepConfig, tell: Tell = lambda done, total, what: None) -> list[dict[str, Any]]:
    """Lines with ``COLUMNS``: each layer and length, for each task and for all.

    Every length is timed between plain decodings of the same prompt; ``speedup`` is the median over
    prompts, ``low`` and ``high`` its quartiles.

    Raises:
        CheckpointError, ConfigError, InputError: model, exits, back end or prompts cannot be had.
    """
    prompts = load_prompts(find_source(config.source), config.limit)
    shared = Shared(config.model, config.backend, config.exits)
    exits = with_layers(shared, config.layers)
    layers = tuple(config.layers) or tuple(exits.layers)
    every = Speculation(drafters=("exit",), exit_layers=layers)
    shares = exit_shares(shared.backend, shared.lm, exits, None, every)
    costs = measured_costs(shared.lm, shared.backend, sorted({1, *(d + 1 for d in config.lengths)}))
    plain = shared.engine()
    found: dict[tuple[str, int, int], _Cell] = {}
    done, total = 0, sum(map(len, prompts.values())) * len(layers)
    for layer in layers:
        engines = {
            d: shared.engine(
                Speculation(("exit",), max_rows=d, exit_layers=(layer,), adaptive=False), exits
            )
            for d in config.lengths
        }
        for task, texts in prompts.items():
            for text in texts:
                _time(config, text, plain, engines, task, layer, found)
                done += 1
                tell(done, total, f"exit after layer {layer}, {task}")
    trunk = _trunk_share(shared.lm)
    lines = []
    for task in (*TASKS, ALL):
        for layer in layers:
            for d in config.lengths:
                cell = _Cell.sum_of(c for (t, *at), c in found.items()
                                    if at == [layer, d] and task in (t, ALL))  # fmt: skip
                before = trunk * layer / shared.lm.config.num_hidden_layers
                a = cell.drafted.true / max(1, cell.drafted.tested)
                guess = predicted(a, d, shares[layer], before, costs[d + 1] / costs[1])
                lines.append({"task": task, "layer": layer, "rows": d, "predicted": guess}
                             | cell.figures())  # fmt: skip
    return lines


def predicted(a: float, d: int, draft: float, before: float, more: float) -> float:
    """Speed-up by the cost model.

    Args:
        a: conditional acceptance rate.
        d: rows that are drafted.
        draft: cost of one draft, as a part of a plain step.
        before: cost of the layers before the exit, likewise.
        more: a pass over d + 1 rows, over one over a row.
    """
    rows = float(d + 1) if a >= 1 else (1 - a ** (d + 1)) / (1 - a)
    return rows / (d * draft + before + (1 - before) * more)


def with_layers(shared: Shared, layers: tuple[int, ...]) -> Exits:
    """The model's exits, and plain ones where these layers have none.

    Raises:
        ConfigError: the model has no exits, and no layers are given.
        CheckpointError: the model has no such layer.
    """
    heads = dict(shared.exits.heads) if shared.exits else {}
    if not heads and not layers:
        raise ConfigError("this model has no exits: give --exits DIR, or --layers")
    for layer in layers:
        if layer not in heads:
            heads[layer] = plain_head(shared.lm, layer)
    return Exits.of(shared.lm, heads, {})


def measured_costs(
    lm: MultiStreamLM, backend: Backend, numbers: list[int], row: int = 256, rounds: int = 24
) -> dict[int, float]:
    """Milliseconds of a pass by the number of its cells, in turns; medians."""
    line = backend.open()
    times: dict[int, list[float]] = {number: [] for number in numbers}
    try:
        for turn in range(rounds + 2):
            for number, took in times.items():
                batch = silent_pass(lm, line, number, row)
                start = time.perf_counter()
                backend.forward(batch)
                if turn >= 2:  # the first ones pay for memory that is new
                    took.append(1e3 * (time.perf_counter() - start))
    finally:
        backend.release(line)
    return {number: statistics.median(took) for number, took in times.items()}


def write(lines: list[dict[str, Any]], table: Path, picture: Path | None) -> list[Path]:
    """The CSV file, and the heat map if wanted; their paths."""
    text = io.StringIO()
    rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    rows.writeheader()
    rows.writerows(lines)
    atomic_write(table, text.getvalue())
    if picture is None:
        return [table]
    from stretto.evals.heatmap import draw_sweep

    picture.parent.mkdir(parents=True, exist_ok=True)
    return [table, draw_sweep(lines, picture)]


class _Cell:
    """What was measured for a task, a layer and a length."""

    def __init__(self) -> None:
        self.ms: list[float] = []
        self.plain: list[float] = []
        self.rows = self.passes = self.number = self.mismatches = 0
        self.drafted = Drafted()

    @classmethod
    def sum_of(cls, cells: Any) -> "_Cell":
        total = cls()
        for cell in cells:
            total.ms += cell.ms
            total.plain += cell.plain
            for name in ("rows", "passes", "number", "mismatches"):
                setattr(total, name, getattr(total, name) + getattr(cell, name))
            for name, count in vars(cell.drafted).items():
                setattr(total.drafted, name, getattr(total.drafted, name) + count)
        return total

    def figures(self) -> dict[str, Any]:
        ratios = [p / m for p, m in zip(self.plain, self.ms, strict=True)]
        low, middle, high = _quartiles(ratios)
        return {
            "speedup": middle, "low": low, "high": high,
            "acceptance": self.drafted.true / max(1, self.drafted.tested),
            "per_draft": self.drafted.true / max(1, self.drafted.rows),
            "rows_per_pass": self.rows / max(1, self.passes),
            "ms": _quartiles(self.ms)[1], "plain_ms": _quartiles(self.plain)[1],
            "generations": self.number, "mismatches": self.mismatches,
        }  # fmt: skip


def _time(
    config: SweepConfig, text: str, plain: Engine, engines: dict[int, Engine], task: str,
    layer: int, found: dict[tuple[str, int, int], _Cell],
) -> None:  # fmt: skip
    """One prompt, by all lengths, each between two plain decodings."""
    before = generate(plain, text, max_rows=config.max_rows)
    for d, engine in engines.items():
        counts = engine.stats().drafted
        said = generate(engine, text, max_rows=config.max_rows)
        after = generate(plain, text, max_rows=config.max_rows)
        cell = found.setdefault((task, layer, d), _Cell())
        cell.number += 1
        cell.mismatches += said.rows != after.rows
        if said.passes:  # more than one row was said
            cell.ms.append(said.ms)
            cell.plain.append((before.ms + after.ms) / 2)
            cell.rows += len(said.rows)
            cell.passes += said.passes + 1
        more = drafted_since(engine, counts)
        for name, count in vars(more).items():
            setattr(cell.drafted, name, getattr(cell.drafted, name) + count)
        before = after


def _trunk_share(lm: MultiStreamLM) -> float:
    """Weights of the layers over those that a step reads."""
    layers = lm.config.num_hidden_layers
    each = sum(p.numel() for p in lm.base.get_decoder().layers[0].parameters())
    return layers * each / (layers * each + (lm.vocab_size + 2) * lm.stream_embedding.shape[1])


def _quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return [*values, *values, *values] or [float("nan")] * 3
    return statistics.quantiles(values, n=4, method="inclusive")
