"""What a table costs as it grows, and the bytes that a step has to read."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.load import cache_bytes, step_until
from stretto.engine import Engine, Limits, SamplingParams, VirtualClock
from stretto.engine.backends import Backend, open_backend
from stretto.models import MultiStreamLM, load_codec
from stretto.models.family import FamilyDecoder
from stretto.streams import READ, Stream, StreamSet

ROWS = (512, 2048, 4096, 8000)
CHUNK = 256
_WIDTHS = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class Point:
    """Cost of a row at a length.

    Attributes:
        rows: of the table, where measuring began.
        ms: median of a row through the engine.
        cache_bytes: of cached cells.
    """

    rows: int
    ms: float
    cache_bytes: int


def weight_bytes(lm: MultiStreamLM, backend: Backend, name: str) -> int:
    """Bytes of all matrices as the back end stores them, which every step reads."""
    told = getattr(backend, "weight_bytes", None)
    if told is not None:
        return int(told)
    decoder, numbers = FamilyDecoder(lm), 0
    for index in range(decoder.num_layers):
        layer = decoder.layer(index)
        matrices = (layer.qkv, layer.out, layer.gate_up, layer.down)
        numbers += sum(linear.weight.numel() for linear in matrices)
    numbers += decoder.unembed.weight.numel()
    own = str(lm.base.dtype).removeprefix("torch.")
    return numbers * _WIDTHS[name.partition(":")[2] or own]


def cell_bytes(lm: MultiStreamLM, backend: Backend) -> int:
    """Bytes of one cached cell."""
    told = getattr(backend, "cell_bytes", None)
    if told is not None:
        return int(told)
    decoder = FamilyDecoder(lm)
    return 2 * decoder.num_layers * decoder.kv_heads * decoder.head_size * 4


def silent_bytes(base: str, name: str, rows: int = 64) -> int | None:
    """Bytes that nine silent streams beside a talking one add to the cache; None if not told."""
    voices = StreamSet([Stream(f"voice_{i}", "output") for i in range(10)])
    lm = MultiStreamLM.from_pretrained(base, streams=voices, device="cpu")
    engine = Engine(lm, load_codec(base), backend=open_backend(name, lm))
    special = lm.special
    talk = SamplingParams(silence=False, banned=(special.end,))
    hush = SamplingParams(allowed=(special.silence,))
    held = []
    for number in (1, 10):
        streams = StreamSet(list(voices)[:number])
        session = engine.open(
            streams,
            sampling={s.name: hush for s in streams if s.name != "voice_0"} | {"voice_0": talk},
            limits=Limits(max_rows=rows + 2),
        )
        step_until(engine, [session], rows)
        told = cache_bytes(engine)
        if told is None:
            return None
        held.append(told)
        session.cancel()
        engine.step()  # its line is taken back
    return held[1] - held[0]


def rows_cost(engine: Engine, lengths: Sequence[int] = ROWS, steps: int = 12) -> list[Point]:
    """One session whose user says thousands of words: what a row costs at each length."""
    rng, special = np.random.default_rng(0), engine.codec.special
    session = engine.open(
        READ,
        sampling=SamplingParams(silence=False, banned=(special.end,)),
        limits=Limits(max_rows=10**6),
        clock=VirtualClock(lambda cells, cached: 1.0),
    )
    per_cell, points = cell_bytes(engine.model, engine._backend), []
    for length in lengths:
        while len(session.rows) < length:
            words = min(CHUNK, length - len(session.rows))
            session.send("user", rng.integers(0, special.silence, words).tolist())
            # An engine may read a backlog in parts.
            step_until(engine, [session], len(session.rows) + words)
        took = []
        for _ in range(steps + 1):
            start = time.perf_counter()
            engine.step()
            took.append(time.perf_counter() - start)
        cells = int((session.table.rows >= 0).sum())
        told = cache_bytes(engine)
        held = told if told is not None else cells * per_cell
        points.append(Point(length, 1e3 * statistics.median(took[1:]), held))
    session.cancel()
    engine.step()
    return points


def table(points: Sequence[Point], bandwidth: float, lm: MultiStreamLM) -> str:
    """The points as text, beside what reading the cache and plain attention over it take."""
    lines = [
        "one session, one voice: ms a row by rows of the table",
        f"{'rows':>6}{'ms':>8}{'cache MB':>10}{'to read it, ms':>16}{'attention, torch':>18}",
    ]
    for point in points:
        read = 1e3 * point.cache_bytes / bandwidth
        lines.append(f"{point.rows:6}{point.ms:8.1f}{point.cache_bytes / 1e6:10.1f}{read:16.1f}"
                     f"{attention_ms(lm, point.rows):18.1f}")  # fmt: skip
    return "\n".join(lines)


@torch.inference_mode()
def attention_ms(lm: MultiStreamLM, cells: int, rounds: int = 5) -> float:
    """Milliseconds of attention alone, in plain torch and float32, for one query in all layers."""
    decoder = FamilyDecoder(lm)
    group = decoder.heads // decoder.kv_heads
    shape = (decoder.num_layers, decoder.kv_heads, cells, decoder.head_size)
    keys, values = torch.randn(shape), torch.randn(shape)
    query = torch.randn(decoder.kv_heads, group, decoder.head_size)
    took = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for layer in range(decoder.num_layers):
            weights = (query @ keys[layer].mT).softmax(-1)
            weights @ values[layer]
        took.append(time.perf_counter() - start)
    return 1e3 * statistics.median(took[1:])
