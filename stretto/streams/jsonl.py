"""Tables as JSON lines, one table a line.

``{"v": 1, "streams": [...], "special": {"silence": 5, "end": 6}, "prompts": {"user": [1]},
"columns": {"answer": [-1, 5, 2]}, "meta": {}}``: a column holds a token a row and -1 where there is
none; a stream without any live token has no column.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stretto.errors import InputError
from stretto.streams.stream import StreamSet
from stretto.streams.table import StreamTable
from stretto.streams.tokens import ABSENT, SpecialIds, StreamCodec

VERSION = 1
_KEYS = {"v", "streams", "special", "prompts", "columns", "meta"}
_MAX_TOKEN = 2**31 - 1


def dump_line(table: StreamTable) -> str:
    """One line of JSON without its newline.

    Raises:
        InputError: ``meta`` holds what JSON cannot.
    """
    try:
        text = json.dumps(to_data(table), ensure_ascii=False, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"table.meta cannot be written as JSON: {error}") from None
    return text


def parse_line(line: str, codec: StreamCodec | None = None) -> StreamTable:
    """Inverse of :func:`dump_line`.

    Raises:
        InputError: not such a line, another version, or made with another vocabulary.
    """
    try:
        data = json.loads(line)
    except ValueError as error:
        raise InputError(f"not JSON ({error})") from None
    return from_data(data, codec)


def write_jsonl(path: str | Path, tables: Iterable[StreamTable]) -> int:
    """Write tables, a line each; returns how many."""
    count = 0
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for table in tables:
            file.write(dump_line(table) + "\n")
            count += 1
    return count


def read_jsonl(path: str | Path, codec: StreamCodec | None = None) -> Iterator[StreamTable]:
    """Tables of a file, one by one.

    Raises:
        InputError: the file cannot be read, or a line is malformed (its number is named).
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield parse_line(line, codec)
                except InputError as error:
                    raise InputError(f"{path}, line {number}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None


def to_data(table: StreamTable) -> dict[str, Any]:
    """A table as plain data."""
    present = (table.rows != ABSENT).any(axis=0)
    # A table of rows without any cell still has to keep its length.
    keep = present if present.any() or not len(table) else ~present
    columns = {s.name: table.rows[:, i].tolist() for i, s in enumerate(table.streams) if keep[i]}
    return {
        "v": VERSION,
        "streams": table.streams.to_list(),
        "special": {"silence": table.special.silence, "end": table.special.end},
        "prompts": {name: ids for name, ids in table.prompts.items() if ids},
        "columns": columns,
        "meta": table.meta,
    }


def from_data(data: Any, codec: StreamCodec | None = None) -> StreamTable:
    """Inverse of :func:`to_data`.

    Raises:
        InputError: as :func:`parse_line`.
    """
    if not isinstance(data, dict):
        raise InputError(f"a table is an object, not a {type(data).__name__}")
    if data.get("v") != VERSION:
        raise InputError(f"table version {data.get('v')!r}; this release reads {VERSION}")
    if data.keys() != _KEYS:
        odd = ", ".join(sorted(data.keys() ^ _KEYS))
        raise InputError(f"a table has the keys {', '.join(sorted(_KEYS))}; check {odd}")
    try:
        streams, special = StreamSet.from_list(data["streams"]), SpecialIds(**data["special"])
    except (TypeError, AttributeError) as error:
        raise InputError(f"streams or special ids: {error}") from None
    if codec is not None and codec.special != special:
        raise InputError(
            f"made with silence = {special.silence}, but {codec.name} has {codec.special.silence}:"
            " give the model it was made with"
        )
    if not isinstance(data["meta"], dict):
        raise InputError("meta is not an object")
    prompts = _token_lists(data["prompts"], "prompts", 0)
    columns = _token_lists(data["columns"], "columns", ABSENT)
    rows = _grid(streams, columns)
    return StreamTable(streams, special, prompts, rows, data["meta"], codec)


def _grid(streams: StreamSet, columns: dict[str, list[int]]) -> np.ndarray:
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise InputError(f"columns differ in length: {sorted(lengths)}")
    rows = np.full((max(lengths, default=0), len(streams)), ABSENT, np.int32)
    for name, column in columns.items():
        rows[:, streams.index(name)] = column
    return rows


def _token_lists(data: Any, where: str, lowest: int) -> dict[str, list[int]]:
    if not isinstance(data, dict):
        raise InputError(f"{where} is not an object")
    for name, ids in data.items():
        if not isinstance(ids, list):
            raise InputError(f"{where}, {name!r}: not a list of token ids")
        for token in ids:
            if type(token) is not int or not lowest <= token <= _MAX_TOKEN:
                raise InputError(f"{where}, {name!r}: {token!r} is not a token id")
    return data
