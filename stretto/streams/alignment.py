"""Examples to tables: who may speak when.

Wait-k: step i of an answer starts no earlier than the tick after the one in which chunk i+k of the
text has been read, and not before what the step needs has been read. A step that would wait for a
chunk that never comes waits for the user's ``end``, and so does the last step: that nothing more
will come is known only then. Every table could have been written by the engine, tick by tick.
"""

import random
import re
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stretto.errors import InputError
from stretto.streams.arrival import Arrival, ticks
from stretto.streams.causality import chunks_needed
from stretto.streams.examples.base import Example
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
        user, chunk_ends = _encode_parts(example.chunks, codec)
        answer, step_ends = _encode_parts(steps, codec)
        starts = [0, *step_ends[:-1]]
        audit, remark_ends = _encode_parts(remarks, codec)
        remark_starts = [0, *remark_ends[:-1]] if remarks else []
        return cls(
            example=example,
            codec=codec,
            lag=lag,
            user=user,
            chunk_ends=chunk_ends,
            steps=[answer[a:b] for a, b in zip(starts, step_ends, strict=True)],
            gates=[[*chunk_ends, len(user) + 1][gate - 1] for gate in gates],
            remarks=[audit[a:b] for a, b in zip(remark_starts, remark_ends, strict=True)],
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

    def _described(
        self, writer: TickWriter, arrival: Arrival, meta: dict[str, Any]
    ) -> StreamTable:
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
    """The row in which each part of a stream's text starts."""
    rows = np.flatnonzero(table.is_content()[:, table.streams.index(name)])
    return rows[np.cumsum([0, *map(len, parts[:-1])])].tolist()


def _encode_parts(parts: Sequence[str], codec: StreamCodec) -> tuple[list[int], list[int]]:
    """Ids of the joined text, and how many of them hold each part and all before it."""
    ids, ends = codec.encode_ends("".join(parts))
    counts, length = [], 0
    for part in parts:
        length += len(part)
        counts.append(min(bisect_left(ends, length) + 1, len(ids)) if length else 0)
    return ids, counts


@dataclass(frozen=True)
class Planted:
    """An answer with one wrong step.

    Attributes:
        steps: all steps.
        index: the wrong one.
        correction: what should stand there.
    """

    steps: tuple[str, ...]
    index: int
    correction: str


_EQUATION = re.compile(
    r"(?P<term>[-+*/x×().,$%\d\s]*)(?P<equals>\s*=\s*\$?)(?P<number>-?\d+(?:\.\d+)?)(?![\d,]*\d)"
)
_LAST_NUMBER = re.compile(r"(?P<label>^|total )(?P<number>-?\d+)$")
_VERDICT = re.compile(r"\b(yes|no)$")
_OPPOSITE = {"yes": "no", "no": "yes"}


def plant_error(steps: Sequence[str], rng: random.Random) -> Planted | None:
    """Alter one result: a number behind ``=``, a total, a yes or no. None if there is none.

    The last step, the answer, is left as it is.
    """
    places = [(i, edit) for i, step in enumerate(steps[:-1]) if (edit := _edit(step, rng))]
    if not places:
        return None
    index, (wrong, correction) = rng.choice(places)
    return Planted((*steps[:index], wrong, *steps[index + 1 :]), index, correction)


def _edit(step: str, rng: random.Random) -> tuple[str, str] | None:
    """The step with a wrong result, and the right one."""
    line = step.rstrip("\n")
    if match := _EQUATION.search(line):
        term = match["term"].strip(" .,")
        correction = f"{term}{match['equals']}{match['number']}" if term else match["number"]
    elif match := _LAST_NUMBER.search(line):
        correction = match[0]
    elif match := _VERDICT.search(line):
        return _replaced(step, match.span(), _OPPOSITE[match[0]]), line
    else:
        return None
    return _replaced(step, match.span("number"), _other_number(match["number"], rng)), correction


def _replaced(text: str, span: tuple[int, int], new: str) -> str:
    return text[: span[0]] + new + text[span[1] :]


def _other_number(number: str, rng: random.Random) -> str:
    """Near the right one, so that only checking tells: off by a bit, or one digit changed."""
    if "." in number or rng.random() < 0.5:
        i = rng.choice([i for i, char in enumerate(number) if char.isdigit()])
        lowest = 1 if i == 0 and len(number) > 1 else 0
        digits = [d for d in range(lowest, 10) if str(d) != number[i]]
        return number[:i] + str(rng.choice(digits)) + number[i + 1 :]
    offset = rng.choice([-10, -3, -2, -1, 1, 2, 3, 10])
    changed = int(number) + offset
    return str(changed if changed >= 0 or number.startswith("-") else int(number) - offset)
