"""The stream table: rows are time steps, columns are streams, a cell holds one token or nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from stretto.errors import InputError
from stretto.streams.stream import StreamSet
from stretto.streams.tokens import ABSENT, SpecialIds, StreamCodec

IGNORE = -100
"""Label of a cell that is not trained on (the convention of torch's cross-entropy)."""

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Cells:
    """A table as parallel arrays, T cells in reading order (row by row, then stream by stream).

    Attributes:
        tokens: token ids (T).
        streams: index of each cell's stream in the table's set (T).
        rows: row of each cell, prompts first; also its rotary position (T).
        labels: the token that this cell's stream has next, or ``IGNORE`` (T).
    """

    tokens: IntArray
    streams: IntArray
    rows: IntArray
    labels: IntArray

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(eq=False)
class StreamTable:
    """What happened, or is to be learned, in one conversation.

    Attributes:
        streams: S streams, in column order.
        special: ids of silence and end.
        prompts: token ids known at the start, by stream name.
        rows: int32 (R, S); ``ABSENT`` where a stream has no token.
        meta: anything JSON can hold. ``untrained`` names output streams not to be trained on.
        codec: turns ids into text; not saved, equality ignores it.
    """

    streams: StreamSet
    special: SpecialIds
    prompts: dict[str, list[int]] = field(default_factory=dict)
    rows: IntArray = field(default_factory=lambda: np.empty((0, 0), np.int32))
    meta: dict[str, Any] = field(default_factory=dict)
    codec: StreamCodec | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        width = len(self.streams)
        rows = np.asarray(self.rows, dtype=np.int32)
        if rows.size == 0:
            rows = rows.reshape(0, width)
        if rows.ndim != 2 or rows.shape[1] != width:
            raise InputError(f"rows have shape {rows.shape}, expected (R, {width})")
        for name in self.prompts:
            self.streams.index(name)
        for i, stream in enumerate(self.streams):
            if stream.prompt_only and (rows[:, i] != ABSENT).any():
                raise InputError(f"stream {stream.name!r} is prompt_only but has live rows")
        self.rows = rows
        self.prompts = {name: list(map(int, ids)) for name, ids in self.prompts.items()}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, StreamTable)
            and self.streams == other.streams
            and self.special == other.special
            and {k: v for k, v in self.prompts.items() if v}
            == {k: v for k, v in other.prompts.items() if v}
            and np.array_equal(self.rows, other.rows)
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_prompt_rows(self) -> int:
        """Rows that prompts take before the first live row, one token each."""
        return sum(len(ids) for ids in self.prompts.values())

    def prompt_order(self) -> list[str]:
        """Names of the streams with a prompt, in reading order: inputs first, then outputs.

        The last prompt token of an output stream predicts that stream's first cell, so it should
        come after everything it may need.
        """
        order = (*self.streams.inputs, *self.streams.outputs)
        names = (self.streams[i].name for i in order)
        return [name for name in names if self.prompts.get(name)]

    def append_row(self, tokens: Mapping[str, int] | Sequence[int]) -> None:
        """Add one time step: a token per stream, or a mapping with absent streams left out."""
        row = np.full(len(self.streams), ABSENT, np.int32)
        if isinstance(tokens, Mapping):
            for name, token in tokens.items():
                row[self.streams.index(name)] = token
        else:
            row[:] = tokens
        self.rows = np.vstack([self.rows, row])

    def is_content(self) -> npt.NDArray[np.bool_]:
        """True where a cell holds a text token (R, S): not absent, silence or end."""
        special = (self.special.silence, self.special.end)
        return (self.rows != ABSENT) & ~np.isin(self.rows, special)

    def column(self, name: str) -> list[int]:
        """Content token ids of one stream's live rows, in order."""
        i = self.streams.index(name)
        return self.rows[self.is_content()[:, i], i].tolist()

    def messages(self, name: str) -> list[list[int]]:
        """Content ids of one stream, split where it said ``end``."""
        messages: list[list[int]] = [[]]
        column = self.rows[:, self.streams.index(name)]
        for token in column[(column != ABSENT) & (column != self.special.silence)].tolist():
            if token == self.special.end:
                messages.append([])
            else:
                messages[-1].append(token)
        return messages if messages[-1] else messages[:-1]

    def text(self, name: str, *, prompt: bool = False) -> str:
        """Text of one stream's live rows, with its prompt in front if asked for.

        Raises:
            InputError: no such stream, or the table has no codec.
        """
        if self.codec is None:
            raise InputError("this table has no codec: pass codec= when loading it to get text")
        ids = (self.prompts.get(name, []) if prompt else []) + self.column(name)
        return self.codec.decode(ids)

    def cells(self) -> Cells:
        """Flatten to the cells a model reads, with each cell's label.

        A label is the next token of the same output stream. Three kinds of cell have none: input
        streams; an ``end``, after which the stream rests until it is woken by a given silence;
        and the last cell of a stream.
        """
        tokens, streams, rows = [], [], []
        for name in self.prompt_order():
            ids = self.prompts[name]
            rows.append(np.arange(len(ids)) + sum(map(len, tokens)))
            tokens.append(np.asarray(ids))
            streams.append(np.full(len(ids), self.streams.index(name)))
        row, stream = np.nonzero(self.rows != ABSENT)
        tokens.append(self.rows[row, stream])
        streams.append(stream)
        rows.append(row + self.num_prompt_rows)
        flat = [np.concatenate(part).astype(np.int32) for part in (tokens, streams, rows)]
        return Cells(*flat, labels=self._labels(flat[0], flat[1]))

    def _labels(self, tokens: IntArray, streams: IntArray) -> IntArray:
        labels = np.full(len(tokens), IGNORE, np.int32)
        untrained = self.meta.get("untrained", ())
        num_prompt = self.num_prompt_rows
        for i in self.streams.outputs:
            if self.streams[i].name in untrained:
                continue
            where = np.flatnonzero(streams == i)
            # Prompt tokens are given, so only the last of them predicts something.
            where = where[max(0, int((where < num_prompt).sum()) - 1) :]
            labels[where[:-1]] = tokens[where[1:]]
            labels[where[tokens[where] == self.special.end]] = IGNORE
        return labels

    def to_jsonl(self) -> str:
        """One line of JSON (see :mod:`stretto.streams.jsonl`)."""
        from stretto.streams.jsonl import dump_line

        return dump_line(self)

    @classmethod
    def from_jsonl(cls, line: str, codec: StreamCodec | None = None) -> "StreamTable":
        """Inverse of :meth:`to_jsonl`."""
        from stretto.streams.jsonl import parse_line

        return parse_line(line, codec)

    def render(self, *, width: int | None = None, max_rows: int | None = None) -> str:
        """The table as text a person can read: lanes side by side, rows down."""
        from stretto.streams.render import render_text

        return render_text(self, width=width, max_rows=max_rows)

    def _repr_html_(self) -> str:
        from stretto.streams.render import render_html

        return render_html(self)


def text_table(
    streams: StreamSet, codec: StreamCodec, columns: Mapping[str, Iterable[str]]
) -> StreamTable:
    """A table of whole messages, each stream's from row 0 on, each closed by ``end``."""
    ids = {
        name: [t for text in texts for t in (*codec.encode(text), codec.special.end)]
        for name, texts in columns.items()
    }
    rows = np.full((max(map(len, ids.values()), default=0), len(streams)), ABSENT, np.int32)
    for name, column in ids.items():
        rows[: len(column), streams.index(name)] = column
    return StreamTable(streams, codec.special, rows=rows, codec=codec)
