"""A conformance kit: what every back end of the engine must do, checked on tiny random models.

``check_backend(open_backend)`` raises AssertionError at the first difference from the reference.
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from stretto.engine import reference
from stretto.engine.backends import Backend
from stretto.engine.batch import PAD_SAMPLE, RowBatch
from stretto.engine.clock import VirtualClock
from stretto.engine.engine import Engine
from stretto.engine.params import Limits, SamplingParams
from stretto.engine.reference import Script
from stretto.engine.tick import Tick
from stretto.models import MultiStreamLM, StreamBatch
from stretto.streams import ABSENT, AUDIT, SpecialIds, StreamCodec, StreamSet, StreamTable
from stretto.streams.ticks import validate

NUM_BYTES = 256
TOLERANCE = 1e-3


def tiny_codec() -> StreamCodec:
    """Every text is its UTF-8 bytes, one token each."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return StreamCodec(tokenizer.to_str(), SpecialIds.after(NUM_BYTES), name="bytes")


def tiny_lm(
    streams: StreamSet = AUDIT, *, mask_rule: str = "inclusive", seed: int = 0
) -> MultiStreamLM:
    """A random Llama of three layers over bytes, in fp32, whose streams differ.

    Args:
        streams: its inventory.
        mask_rule: ``inclusive`` or ``strict``.
        seed: of its weights.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=NUM_BYTES, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = MultiStreamLM(LlamaForCausalLM(config), streams, mask_rule=mask_rule)
        with torch.no_grad():
            lm.stream_embedding.normal_(std=0.5)
            lm.special_in.normal_(std=0.5)
            lm.special_out.normal_(std=0.5)  # both are said every few rows
    return lm.eval()


def random_table(lm: MultiStreamLM, num_rows: int, seed: int) -> StreamTable:
    """A table of random cells over all the model's streams: ragged, with silence and prompts."""
    rng = np.random.default_rng(seed)
    streams, special = lm.streams, lm.special
    rows = rng.integers(0, special.silence, (num_rows, len(streams))).astype(np.int32)
    kind = rng.random(rows.shape)
    rows[kind < 0.3] = special.silence
    rows[(kind > 0.3) & (kind < 0.36)] = special.end
    inputs = list(streams.inputs)
    rows[:, inputs] = np.where(rows[:, inputs] == special.silence, ABSENT, rows[:, inputs])
    rows[rng.random(rows.shape) < 0.25] = ABSENT
    prompts = {
        stream.name: rng.integers(0, special.silence, rng.integers(0, 5)).tolist()
        for stream in streams
    }
    rows[:, [s.prompt_only for s in streams]] = ABSENT
    return StreamTable(streams, special, prompts, rows)


def read_in_ticks(
    backend: Backend, tables: Sequence[StreamTable], *, num_rows: int = 1
) -> list[np.ndarray]:
    """Logits (T, V + 2) of every cell of the tables, read a few rows a forward pass, together."""
    cells = [table.cells() for table in tables]
    lines = [backend.open() for _ in tables]
    logits: list[np.ndarray] = [np.zeros(0)] * len(tables)
    longest = max(int(c.rows.max(initial=-1)) for c in cells) + 1
    for first in range(0, longest, num_rows):
        parts = []
        for b, c in enumerate(cells):
            where = np.flatnonzero((c.rows >= first) & (c.rows < first + num_rows))
            silent = c.tokens[where] == tables[b].special.silence
            parts.append(where[np.argsort(silent, kind="stable")])
        took = [b for b, part in enumerate(parts) if len(part)]
        if not took:
            continue
        out = backend.forward(_batch([cells[b] for b in took], [parts[b] for b in took],
                                     [lines[b] for b in took])).float().cpu().numpy()  # fmt: skip
        start = 0
        for b in took:
            if not logits[b].size:
                logits[b] = np.zeros((len(cells[b]), out.shape[1]))
            logits[b][parts[b]] = out[start : start + len(parts[b])]
            start += len(parts[b])
    for line in lines:
        backend.release(line)
    return logits


def _batch(cells: Sequence, parts: Sequence[np.ndarray], lines: Sequence[int]) -> RowBatch:
    shape = (len(parts), max(map(len, parts)))
    arrays = {name: np.zeros(shape, np.int64) for name in ("tokens", "streams", "rows")}
    samples = np.full(shape, PAD_SAMPLE, np.int64)
    for b, (c, part) in enumerate(zip(cells, parts, strict=True)):
        for name, array in arrays.items():
            array[b, : len(part)] = getattr(c, name)[part]
        samples[b, : len(part)] = 0
    select = np.flatnonzero(samples.reshape(-1) == 0)
    none = np.zeros(len(select), np.int64)
    return RowBatch(np.array(lines), arrays["tokens"], arrays["streams"], arrays["rows"], samples,
                    select, none, none.astype(np.float64), [])  # fmt: skip


def max_difference(lm: MultiStreamLM, table: StreamTable, logits: np.ndarray) -> float:
    """Largest difference from one teacher-forced pass over the whole table."""
    with torch.inference_mode():
        full = lm(StreamBatch.from_cells([table.cells()])).logits.float().cpu().numpy()
    return float(np.abs(full - logits).max(initial=0.0))


def scripts(lm: MultiStreamLM) -> list[Script]:
    """Sessions that between them use everything a back end has to support."""
    words = [(0.05 * i, "user", 65 + i) for i in range(10)]
    burst = [(0.2, "user", 70 + i) for i in range(18)]
    late = [(2.5, "user", 80), (2.5, "user", lm.special.end)]
    # A random model says `end` hardly ever; many stop ids make it say so after a few tokens.
    stops = tuple(range(0, NUM_BYTES, 6))
    greedy = SamplingParams(stop_ids=stops)
    warm = SamplingParams(temperature=0.9, top_p=0.95, stop_ids=stops, silence_bias=2.0)
    limits = Limits(max_rows=36, quiet_rows=4, max_message_tokens=9)
    made = []
    prompted, bare = {"user": [5, 6], "answer": [4]}, {}
    mixed = [*words[:5], *burst[:5], *late]
    for arrivals, openings in (
        (words, ((greedy, prompted), (warm, bare))),
        (mixed, ((greedy, bare), (warm, prompted))),
        (burst + late, ((warm, {"answer": [1, 2, 3]}),)),
    ):
        for params, prompts in openings:
            sampling = {lm.streams[i].name: params for i in lm.streams.outputs}
            made.append(
                Script(lm.streams, prompts, arrivals, sampling=sampling, limits=limits,
                       seed=len(made))
            )  # fmt: skip
    return made


MOST_AHEAD = 8
"""Rows that an engine under test may read ahead."""


class _Actor:
    """Plays one script on a session of its own."""

    def __init__(self, engine: Engine, script: Script) -> None:
        self.session = engine.open(
            script.streams,
            prompts=script.prompts,
            sampling=script.sampling,
            limits=script.limits,
            seed=script.seed,
            clock=VirtualClock(script.latency),
        )
        self.session.feed(script.arrivals, closed=script.closed)
        self.events = deque(script.events)
        self.ticks = 0
        self._receive = self.session.receive
        self.session.receive = self._count
        self.happen()

    def _count(self, part: Tick, tokens: np.ndarray) -> None:
        self._receive(part, tokens)
        self.ticks += not self.session.is_reading  # a part of a tick is none

    def is_waited_for(self) -> bool:
        """Whether something still happens to it."""
        return bool(self.events) and self.session.finish_reason is None

    def happen(self) -> None:
        """Do what is due after this many ticks."""
        while self.is_waited_for() and self.events[0].tick <= self.ticks:
            event, session = self.events.popleft(), self.session
            if event.kind == "send":
                session.send(event.stream, event.tokens, rate=event.rate, end=event.end)
            elif event.kind == "interrupt":
                session.interrupt(event.stream, event.tokens, end=event.end)
            elif event.kind == "close":
                session.close(event.stream or None)
            else:
                session.cancel()
        # Rows that are read ahead must not run past what is to happen.
        soon = self.events[0].tick <= self.ticks + MOST_AHEAD if self.events else False
        self.session.speculates = not soon

    def hurry(self) -> None:
        """Nobody can move: let the next event happen, if it takes part at all."""
        if self.session.line is not None and self.is_waited_for():
            self.ticks = max(self.ticks, self.events[0].tick)
            self.happen()
        elif self.session.line is not None:
            self.session.finish("quiet")


def play(engine: Engine, played: Sequence[Script]) -> list[StreamTable]:
    """Run scripts together in the engine."""
    actors = [_Actor(engine, script) for script in played]
    by_session = {actor.session: actor for actor in actors}
    while any(actor.is_waited_for() for actor in actors):
        took_part = [by_session[session] for session, _ in engine.step()]
        for actor in took_part:
            actor.happen()
        if not took_part:
            for actor in actors:
                actor.hurry()
    engine.run(by_session)
    return [actor.session.table for actor in actors]


def check_backend(
    open_backend: Callable[[MultiStreamLM], Backend],
    rules: Sequence[str] = ("inclusive", "strict"),
) -> None:
    """Check a back end: logits, tables, and lines that start empty.

    Args:
        open_backend: makes the back end for a model.
        rules: the mask rules that it knows.

    Raises:
        AssertionError: at the first difference, saying where.
    """
    for rule in rules:
        lm = tiny_lm(mask_rule=rule)
        backend = open_backend(lm)
        tables = [random_table(lm, rows, seed) for seed, rows in enumerate((2, 9, 20))]
        for again in range(2):
            for i, logits in enumerate(read_in_ticks(backend, tables)):
                worst = max_difference(lm, tables[i], logits)
                assert worst < TOLERANCE, (
                    f"{rule}, table {i}, pass {again}: logits differ by {worst:.2g}"
                )
        played = scripts(lm)
        engine = Engine(lm, tiny_codec(), backend=open_backend(lm), max_sessions=4)
        for i, (script, table) in enumerate(zip(played, play(engine, played), strict=True)):
            expected = reference.run(lm, script)
            assert table == expected, f"{rule}, script {i}: table differs from the reference"
            reasons = table.meta["finish_reason"], expected.meta["finish_reason"]
            assert reasons[0] == reasons[1], f"{rule}, script {i}: finished {reasons}"
            validate(table)
