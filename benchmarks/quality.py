"""What the precision of a back end costs: its next-token distributions against those of fp32.

Run as ``python -m benchmarks.quality``; with arguments, only those back ends. Two texts are read as
the engine reads, tick by tick with a cache: tables of streams through the shipped adapter, and
plain prose in one stream through the base model. The reference is one teacher-forced pass in
float32. Results go to ``build/bench/quality.json``; ``FULL=1`` reads more.
"""

import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.goal import save
from benchmarks.machine import facts, line
from benchmarks.step import BACKENDS, open_any
from stretto.engine.backends import Backend
from stretto.engine.backends.transformers import TransformersBackend
from stretto.engine.batch import PAD_SAMPLE, RowBatch
from stretto.evals.items import find_source, load_items
from stretto.models import MultiStreamLM, StreamBatch, load_codec
from stretto.streams import ABSENT, IGNORE, SINGLE, Cells, StreamCodec, StreamTable
from stretto.streams.examples import GENERATED, Example, demo_items

BASE = os.environ.get("BENCH_BASE", "smollm2-135m")
MODEL = os.environ.get("BENCH_MODEL", "stretto-smollm2-135m")
CELLS = 8000 if os.environ.get("FULL") == "1" else 2000
SEED = 0
BFLOAT16 = "transformers:bfloat16"
"""What most people run: named here, though a back end takes it from the model."""
NAMES = (BFLOAT16, *(name for name in BACKENDS if name != "transformers"),
         "llamacpp:q8_0", "llamacpp:q4_0")  # fmt: skip
TOGETHER = 8
"""Tables read side by side, as sessions are."""
_LENGTH = 256


@dataclass(frozen=True)
class Cost:
    """What one back end loses on one kind of cell.

    Attributes:
        backend: its name.
        text: ``prose``; ``words`` and ``silence`` are the cells of the tables of streams by what
            comes next in them.
        cells: how many were compared.
        kl: mean KL(fp32 || back end), nats.
        top1: share of cells with the same likeliest token.
        perplexity: of what really came next.
        reference: the same in float32.
    """

    backend: str
    text: str
    cells: int
    kl: float
    top1: float
    perplexity: float
    reference: float


@dataclass
class _Sums:
    cells: int = 0
    kl: float = 0.0
    top1: int = 0
    loss: float = 0.0
    reference: float = 0.0

    def add(self, expected: Tensor, found: Tensor, labels: Tensor) -> None:
        """Log-probabilities (Q, V) in fp32 and of the back end, and what came next (Q)."""
        self.cells += len(labels)
        self.kl += float((expected.exp() * (expected - found)).sum())
        self.top1 += int((expected.argmax(-1) == found.argmax(-1)).sum())
        self.loss -= float(found.gather(-1, labels[:, None]).sum())
        self.reference -= float(expected.gather(-1, labels[:, None]).sum())

    def cost(self, backend: str, text: str) -> Cost:
        n = self.cells
        return Cost(backend, text, n, self.kl / n, self.top1 / n,
                    float(np.exp(self.loss / n)), float(np.exp(self.reference / n)))  # fmt: skip


def measure(
    names: Sequence[str], *, num_cells: int = CELLS, texts: Sequence[str] = ("prose", "tables")
) -> list[Cost]:
    """The cost of each back end that can be had here; others are left out with a line.

    Args:
        names: back ends.
        num_cells: score at least that many cells of words, in each kind of text.
        texts: ``prose``, ``tables`` or both.
    """
    costs: list[Cost] = []
    if "prose" in texts:
        codec = load_codec(BASE)
        costs += _compare(BASE, names, prose(codec, num_cells), kinds=("prose", "silence"))
    if "tables" in texts:
        codec = load_codec(MODEL)
        costs += _compare(MODEL, names, stream_tables(codec, num_cells), ("words", "silence"))
    return costs


def stream_tables(codec: StreamCodec, num_cells: int) -> list[StreamTable]:
    """Tables as in training, of items the adapter never saw: from the dev pack, or generated."""
    from stretto.streams.alignment import align
    from stretto.streams.arrival import random_arrival

    rng, tables, words = random.Random(SEED), [], 0
    for example in _examples():
        table = align(
            example, codec, lag=rng.choice((0, 1, 2)), arrival=random_arrival(rng), rng=rng
        )
        if len(table.cells()) > 3 * _LENGTH:
            continue
        tables.append(table)
        words += int((table.cells().labels >= 0).sum() - _silences(table))
        if words >= num_cells:
            break
    return tables


def prose(codec: StreamCodec, num_cells: int) -> list[StreamTable]:
    """Plain text in one stream, in pieces."""
    texts = ["".join(item.chunks) for item in demo_items().values() if item.task == "pubmedqa"]
    texts += ["".join(example.chunks) for example in _examples(("pubmedqa",))]
    ids, tables = codec.encode("\n\n".join(texts)), []
    for start in range(0, num_cells + _LENGTH, _LENGTH):
        piece = ids[start : start + _LENGTH + 1]
        if len(piece) > 1:
            rows = np.array(piece[1:], np.int32)[:, None]
            tables.append(StreamTable(SINGLE, codec.special, {"text": piece[:1]}, rows))
    return tables


def _examples(tasks: tuple[str, ...] | None = None) -> Iterator[Example]:
    """Items of the dev pack, task after task in turn; without the pack, generated ones."""
    from stretto.evals.config import DATA_TASKS, EfficiencyConfig

    source = find_source(None)
    tasks = (tasks or DATA_TASKS) if source else GENERATED
    items, _ = load_items(EfficiencyConfig(tasks=tasks, source=str(source or ""), limit=100))
    for round_ in zip(*items.values(), strict=False):
        yield from round_


def _silences(table: StreamTable) -> int:
    return int((table.cells().labels == table.special.silence).sum())


@torch.inference_mode()
def _compare(
    model: str, names: Sequence[str], tables: Sequence[StreamTable], kinds: tuple[str, str]
) -> list[Cost]:
    """The costs on tables; ``kinds`` names cells followed by words and by silence."""
    lm = MultiStreamLM.from_pretrained(model, device="cpu", dtype="float32")
    opened = {name: backend for name in names if (backend := _open(name, lm, model)) is not None}
    sums = {(name, kind): _Sums() for name in opened for kind in kinds}
    for start in range(0, len(tables), TOGETHER):
        group = tables[start : start + TOGETHER]
        readings = [_Reading(lm, table) for table in group]
        expected = [reading.expected(lm) for reading in readings]
        for name, backend in opened.items():
            for b, cells, logits in _read(backend, readings):
                place = readings[b].place[cells]
                labels = torch.from_numpy(readings[b].cells.labels[cells].astype(np.int64))
                silent = labels == lm.special.silence
                found = logits.float().log_softmax(-1)
                for kind, chosen in zip(kinds, (~silent, silent), strict=True):
                    if chosen.any():
                        sums[name, kind].add(
                            expected[b][place[chosen.numpy()]], found[chosen], labels[chosen]
                        )
        done = min(start + TOGETHER, len(tables))
        print(f"  {model}: {done} of {len(tables)} tables", file=sys.stderr)
    return [total.cost(*key) for key, total in sums.items() if total.cells]


def _open(name: str, lm: MultiStreamLM, model: str) -> Backend | None:
    if name == BFLOAT16:
        return TransformersBackend(
            MultiStreamLM.from_pretrained(model, device="cpu", dtype="bfloat16")
        )
    return open_any(name, lm)


class _Reading:
    """A table cut into ticks.

    Attributes:
        cells: all of it (T).
        ticks: indices of each tick's cells, silence last.
        place: of each scored cell among the scored ones; -1 elsewhere (T).
    """

    def __init__(self, lm: MultiStreamLM, table: StreamTable) -> None:
        self.cells: Cells = table.cells()
        self.inventory = np.array([lm.streams.index(stream) for stream in table.streams])
        scored = self.cells.labels != IGNORE
        self.place = np.where(scored, np.cumsum(scored) - 1, -1)
        outputs = list(table.streams.outputs)
        said = np.flatnonzero((table.rows[:, outputs] != ABSENT).any(1))
        ends = np.array([table.num_prompt_rows - 1, *(said + table.num_prompt_rows)])
        tick = np.searchsorted(ends, self.cells.rows)
        self.ticks = []
        for number in range(len(ends)):
            where = np.flatnonzero(tick == number)
            silent = self.cells.tokens[where] == table.special.silence
            if len(where):
                self.ticks.append(where[np.argsort(silent, kind="stable")])

    def expected(self, lm: MultiStreamLM) -> Tensor:
        """Log-probabilities of the scored cells in one pass (Q, V + 2)."""
        cells = self.cells
        mapped = Cells(cells.tokens, self.inventory[cells.streams].astype(np.int32), cells.rows,
                       cells.labels)  # fmt: skip
        select = torch.from_numpy(np.flatnonzero(self.place >= 0))
        batch = StreamBatch.from_cells([mapped])
        return lm(batch, select=select).logits.float().log_softmax(-1)


def _read(
    backend: Backend, readings: Sequence[_Reading]
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """Read tables side by side: table, indices of scored cells, and their logits."""
    lines = [backend.open() for _ in readings]
    for number in range(max(len(reading.ticks) for reading in readings)):
        took = [b for b, reading in enumerate(readings) if number < len(reading.ticks)]
        parts = [readings[b].ticks[number] for b in took]
        batch = _batch([readings[b] for b in took], parts, [lines[b] for b in took])
        logits, first = backend.forward(batch), 0
        for b, part in zip(took, parts, strict=True):
            scored = part[readings[b].place[part] >= 0]
            if len(scored):
                yield b, scored, logits[first : first + len(scored)]
            first += len(scored)
    for number in lines:
        backend.release(number)


def _batch(
    readings: Sequence[_Reading], parts: Sequence[np.ndarray], lines: Sequence[int]
) -> RowBatch:
    shape = (len(parts), max(map(len, parts)))
    tokens, streams, rows = (np.zeros(shape, np.int64) for _ in range(3))
    samples = np.full(shape, PAD_SAMPLE, np.int64)
    asked = np.zeros(shape, bool)
    for b, (reading, part) in enumerate(zip(readings, parts, strict=True)):
        span = slice(0, len(part))
        tokens[b, span] = reading.cells.tokens[part]
        streams[b, span] = reading.inventory[reading.cells.streams[part]]
        rows[b, span] = reading.cells.rows[part]
        samples[b, span] = 0
        asked[b, span] = reading.place[part] >= 0
    select = np.flatnonzero(asked)
    return RowBatch(np.array(lines), tokens, streams, rows, samples, select, select * 0,
                    np.zeros(len(select)), [])  # fmt: skip


def table(costs: Sequence[Cost]) -> str:
    """The costs as text."""
    lines = [f"{'':24}{'text':10}{'cells':>7}{'KL':>10}{'top-1 %':>9}{'perplexity':>12}{'fp32':>9}"]
    for cost in sorted(costs, key=lambda c: (c.text, c.kl)):
        lines.append(f"{cost.backend:24}{cost.text:10}{cost.cells:7}{cost.kl:10.5f}"
                     f"{100 * cost.top1:9.1f}{cost.perplexity:12.3f}{cost.reference:9.3f}"
        )  # fmt: skip
    return "\n".join(lines)


def main(names: Sequence[str]) -> None:
    """Measure, print, write."""
    costs, told = measure(names), facts(SEED)
    source = "dev pack" if find_source(None) else "generated items"
    print(line(told))
    print(f"KL(fp32 || it), {BASE} on prose, {MODEL} on tables; {source}")
    print(table(costs))
    data = {"source": source, "costs": [asdict(cost) for cost in costs]}
    print(f"written to {save('quality', told | data)}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(NAMES))
