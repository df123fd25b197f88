"""Examples to tables: who may speak when.

Wait-k: step i of an answer starts no earlier than the tick after the one in which chunk i+k of the
text has been read, and not before what the step needs has been read. A step that would wait for a
chunk that never comes waits for the user's ``end``, and so does the last step: that nothing more
will come is known only then. Every table could have been written by the engine, tick by tick.
"""

import random
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np

from stretto.errors import InputError
from stretto.streams.arrival import Arrival, ticks
from stretto.streams.causality import chunks_needed
from stretto.streams.examples.base import Example
from stretto.streams.planting import plant_error
from stretto.streams.sets import AUDIT, READ, SINGLE
from stretto.streams.stream import StreamSet
from stretto.streams.table import StreamTable
from stretto.streams.ticks import TickWriter
from stretto.streams.tokens import StreamCodec

Lag = int | Literal["all"]

CHAT_HEAD = "<|im_start|>user\n"
CHAT_TAIL = "<|im_end|>\n<|im_start|>assistant\n"


def align(
    example: Example, codec: StreamCodec, *, lag: Lag, arrival: Arrival, rng: random.Random
) -> StreamTable:
    """A ``READ`` table in which the answer is written while the text arrives.

    ``meta`` has id, task, set, lag, arrival, answer, ``chunk_rows`` (live row in which each chunk
    ends; -1 if known before row 0) and ``step_rows`` (row in which each step starts); in
    :func:`audit` also ``remark_rows``.

    Args:
        example: what is asked and how it is answered.
        codec: the tokeniser.
        lag: k of wait-k, or ``all``: answer when everything, ``end`` too, has been read.
        arrival: how the text arrives.
        rng: of the arrival.

    Raises:
        InputError: the example has no chunk or no step, or the lag is none.
    """
    script = _Script.of(example, example.steps, codec, lag)
    return script.play(READ, arrival, rng, {"set": "read"})


def audit(
    example: Example,
    codec: StreamCodec,
    *,
    lag: Lag,
    arrival: Arrival,
    rng: random.Random,
    error_rate: float = 0.0,
) -> StreamTable:
    """An ``AUDIT`` table: as :func:`align`, and the audit checks step after step as they come.

    In a share of ``error_rate`` a wrong result is planted in one step and the answer carries on
    as if it were right; then ``meta["untrained"]`` is ``["answer"]``, ``meta["planted"]`` the
    index of the step, and the audit is to say what is right. An example with no result that can be
    altered stays correct.

    Raises:
        InputError: as :func:`align`.
    """
    planted = plant_error(example.steps, rng) if rng.random() < error_rate else None
    steps = planted.steps if planted else example.steps
    remarks = [f"step {i}: ok\n" for i in range(1, len(steps) + 1)]
    meta: dict[str, Any] = {"set": "audit"}
    if planted:
        remarks[planted.index] = f"step {planted.index + 1}: wrong, {planted.correction}\n"
        meta |= {"untrained": ["answer"], "planted": planted.index}
    remarks[-1] += f"verdict: {'wrong' if planted else 'ok'}"
    script = _Script.of(example, steps, codec, lag, remarks)
    return script.play(AUDIT, arrival, rng, meta)


def single(example: Example, codec: StreamCodec) -> StreamTable:
    """The ``SINGLE`` table of the baseline: the text in the chat template, then the answer."""
    rows = [*codec.encode("".join(example.steps)), codec.special.end]
    return StreamTable(
        SINGLE,
        codec.special,
        prompts={"text": single_prompt("".join(example.chunks), codec)},
        rows=np.array(rows, np.int32)[:, None],
        meta={"id": example.id, "task": example.task, "set": "single", "answer": example.answer},
        codec=codec,
    )


def single_prompt(text: str, codec: StreamCodec) -> list[int]:
    """Token ids of a user's text in the chat template, up to where the assistant begins.

    The text is encoded plain, so markup spelled out in it stays text.
    """
    head, tail = (codec.encode(part, markup=True) for part in (CHAT_HEAD, CHAT_TAIL))
    return [*head, *codec.encode(text), *tail]


def step_gates(example: Example, lag: Lag) -> list[int]:
    """For each step the number of chunks that must have been read; one more means ``end`` too.

    Raises:
        InputError: the lag is neither ``all`` nor a whole number from 0 on.
    """
    if lag != "all" and (not isinstance(lag, int) or lag < 0):
        raise InputError(f"lag {lag!r}: give a number of chunks from 0 on, or 'all'")
    num_chunks, num_steps = len(example.chunks), len(example.steps)
    if not num_chunks or not num_steps:
        raise InputError(f"example {example.id!r} has {num_chunks} chunks and {num_steps} steps")
    if lag == "all":
        return [num_chunks + 1] * num_steps
    needs = example.needs or chunks_needed(example)
    waits = [min(i + lag + 1, num_chunks + 1) for i in range(num_steps)]
    gates = [max(wait, need) for wait, need in zip(waits, needs, strict=True)]
    return [*gates[:-1], num_chunks + 1]


@dataclass(frozen=True)
class _Script:
    """Everything that will be said, in token ids, and when it may be.

    Attributes:
        user: ids of the text, without ``end``.
        chunk_ends: user tokens read when each chunk has been read.
        steps: ids of each step.
        gates: user tokens (``end`` counts as one) to be read before each step.
        remarks: ids of the audit's remark on each step; empty without audit.
    """

    example: Example
    codec: StreamCodec
    lag: Lag
    user: list[int]
    chunk_ends: list[int]
    steps: list[list[int]]
    gates: list[int]
    remarks: list[list[int]]

    @classmethod
    def of(
        cls,
        example: Example,
        steps: Sequence[str],
        codec: StreamCodec,
        lag: Lag,
        remarks: Sequence[str] = (),
    ) -> "_Script":
        gates = step_gates(example, lag)
        user, chunk_ends = _encode_read(example.chunks, codec)
        answer = _encode_said(steps, codec)
        if not user or not any(answer):
            raise InputError(f"example {example.id!r} has an empty text or an empty answer")
        return cls(
            example=example,
            codec=codec,
            lag=lag,
            user=user,
            chunk_ends=chunk_ends,
            steps=answer,
            gates=[[0, *chunk_ends, len(user) + 1][gate] for gate in gates],
            remarks=_encode_said(remarks, codec) if remarks else [],
        )

    def play(
        self, streams: StreamSet, arrival: Arrival, rng: random.Random, meta: dict[str, Any]
    ) -> StreamTable:
        """Write the table, tick by tick."""
        prompts = {"answer": self.codec.encode(f"lag {self.lag}:")}
        tokens = [*self.user, self.codec.special.end]
        sizes = deque(ticks(len(tokens), arrival, rng))
        read = 0
        if arrival.kind == "prefilled":
            prompts["user"], read, sizes = self.user, len(self.user), deque([1])
        writer = TickWriter(streams, self.codec, prompts)
        steps, remarks = deque(zip(self.gates, self.steps, strict=True)), deque(self.remarks)
        to_say, said, step_ends = 0, 0, deque(np.cumsum([len(step) for step in self.steps]))
        while sizes or steps or said < to_say:
            while steps and steps[0][0] <= read:
                _, ids = steps.popleft()
                writer.queue("answer", ids, end=not steps)
                to_say += len(ids)
            size = sizes.popleft() if sizes else 0
            writer.tick({"user": tokens[read : read + size]})
            read, said = read + size, min(said + 1, to_say)
            while remarks and said >= step_ends[0]:
                step_ends.popleft()
                writer.queue("audit", remarks.popleft(), end=not remarks)
        writer.drain()
        return self._described(writer, arrival, meta)

    def _described(self, writer: TickWriter, arrival: Arrival, meta: dict[str, Any]) -> StreamTable:
        table = writer.table()
        user_rows = np.flatnonzero(table.is_content()[:, table.streams.index("user")])
        known = len(self.user) - len(user_rows)
        if self.remarks:
            meta["remark_rows"] = _starts(table, "audit", self.remarks)
        table.meta.update(
            id=self.example.id,
            task=self.example.task,
            lag=self.lag,
            arrival=arrival.name,
            answer=self.example.answer,
            chunk_rows=[int(user_rows[e - 1]) if e > known else -1 for e in self.chunk_ends],
            step_rows=_starts(table, "answer", self.steps),
            **meta,
        )
        return table


def _starts(table: StreamTable, name: str, parts: Sequence[Sequence[int]]) -> list[int]:
    """The row in which each part of a stream's text starts; an empty one starts with the next."""
    rows = np.flatnonzero(table.is_content()[:, table.streams.index(name)])
    starts = np.cumsum([0, *map(len, parts[:-1])])
    return rows[np.minimum(starts, len(rows) - 1)].tolist()


def _encode_read(chunks: Sequence[str], codec: StreamCodec) -> tuple[list[int], list[int]]:
    """Ids of the joined text, and how many must be read to have read each chunk."""
    ids, spans = codec.encode_spans("".join(chunks))
    starts = [start for start, _ in spans]
    return ids, [bisect_left(starts, end) for end in accumulate(map(len, chunks))]


def _encode_said(steps: Sequence[str], codec: StreamCodec) -> list[list[int]]:
    """Ids of the joined text, cut into steps; a token that touches two is part of the later."""
    ids, spans = codec.encode_spans("".join(steps))
    token_ends = [end for _, end in spans]
    lengths = list(accumulate(map(len, steps)))
    cuts = [0, *(bisect_right(token_ends, end) for end in lengths[:-1]), len(ids)]
    return [ids[a:b] for a, b in pairwise(cuts)]
