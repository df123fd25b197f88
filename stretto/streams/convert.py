"""Files of other formats to tables, and tables back to chat messages."""

import json
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from stretto.errors import ConfigError, InputError
from stretto.streams import chat, sgd
from stretto.streams.alignment import Lag, align, audit, single
from stretto.streams.arrival import Arrival, random_arrival, ticks
from stretto.streams.examples import GENERATED, load_examples, task_names
from stretto.streams.jsonl import read_jsonl, write_jsonl
from stretto.streams.table import StreamTable
from stretto.streams.tokens import StreamCodec

TableSet = Literal["read", "audit", "single"]


def kinds() -> list[str]:
    """What :func:`convert` reads: tasks, ``chat`` and ``sgd``."""
    return [*task_names(), "chat", "sgd"]


def convert(
    kind: str,
    path: str | Path | None,
    codec: StreamCodec,
    *,
    set_name: TableSet = "read",
    lag: Lag = 1,
    arrival: Arrival | None = None,
    error_rate: float = 0.0,
    seed: int = 0,
    limit: int | None = None,
) -> Iterator[StreamTable]:
    """Tables of a file.

    Args:
        kind: see :func:`kinds`. ``chat`` files have a conversation a line: a list of messages, or
            an object with ``messages`` and perhaps ``tools``.
        path: the file; None for a generated task.
        codec: the tokeniser.
        set_name, lag, error_rate: of tasks, see :mod:`stretto.streams.alignment`.
        arrival: of tasks and ``sgd``; None draws from the training mixture for each table.
        seed: of arrivals and planted errors.
        limit: the most tables.

    Raises:
        ConfigError: unknown kind, or a file given or missing where it must not be.
        InputError: the file is missing or malformed.
    """
    if kind not in kinds():
        raise ConfigError(f"no kind {kind!r}; choose from {', '.join(kinds())}")
    if (path is None) != (kind in GENERATED):
        raise ConfigError(f"{kind}: {'give its file' if path is None else 'it is generated'}")
    if error_rate and set_name != "audit":
        raise ConfigError("error rate: only tables of the set audit have planted errors")
    if kind == "chat":
        return islice(_conversations(Path(str(path)), codec), limit)
    if kind == "sgd":
        return sgd.tables(str(path), codec, seed=seed, limit=limit, arrival=_sizes(arrival))
    return _aligned(kind, path, codec, set_name, lag, arrival, error_rate, seed, limit)


def write_tables(path: Path, tables: Iterable[StreamTable]) -> int:
    """Write JSONL or Parquet, by the suffix; returns how many tables.

    Raises:
        ConfigError: another suffix.
    """
    if path.suffix == ".jsonl":
        return write_jsonl(path, tables)
    if path.suffix == ".parquet":
        from stretto.streams.parquet import write_parquet

        return write_parquet(path, tables)
    raise ConfigError(f"{path}: tables are written as .jsonl or .parquet")


def read_tables(path: Path, codec: StreamCodec | None = None) -> Iterator[StreamTable]:
    """Tables of a JSONL or Parquet file, by the suffix.

    Raises:
        ConfigError: another suffix.
        InputError: the file is missing or malformed.
    """
    if path.suffix == ".jsonl":
        return read_jsonl(path, codec)
    if path.suffix == ".parquet":
        from stretto.streams.parquet import read_parquet

        return read_parquet(path, codec)
    raise ConfigError(f"{path}: tables are read from .jsonl, .parquet, or a folder of shards")


def write_messages(path: Path, tables: Iterable[StreamTable]) -> int:
    """Write the chat conversations that ``tables`` were made of, a line each; returns how many.

    Raises:
        InputError: a table was not made from chat messages.
    """
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for table in tables:
            line: dict[str, Any] = {"messages": chat.to_messages(table)}
            if (tools := chat.to_tools(table)) is not None:
                line["tools"] = tools
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


def _aligned(
    task: str,
    path: str | Path | None,
    codec: StreamCodec,
    set_name: TableSet,
    lag: Lag,
    arrival: Arrival | None,
    error_rate: float,
    seed: int,
    limit: int | None,
) -> Iterator[StreamTable]:
    for example in load_examples(task, path, limit=limit):
        rng = random.Random(f"{seed} {example.id}")
        comes = arrival or random_arrival(rng)
        if set_name == "single":
            yield single(example, codec)
        elif set_name == "audit":
            yield audit(example, codec, lag=lag, arrival=comes, rng=rng, error_rate=error_rate)
        else:
            yield align(example, codec, lag=lag, arrival=comes, rng=rng)


def _sizes(arrival: Arrival | None) -> sgd.Sizes:
    def sizes(num_tokens: int, rng: random.Random) -> list[int]:
        comes = arrival or random_arrival(rng)
        # A turn in the middle of a dialogue cannot be known before it begins.
        return ticks(num_tokens, comes, rng) or [num_tokens]

    return sizes


def _conversations(path: Path, codec: StreamCodec) -> Iterator[StreamTable]:
    for number, data in _json_lines(path):
        if isinstance(data, list):
            data = {"messages": data}
        if not isinstance(data, dict) or not isinstance(data.get("messages"), list):
            raise InputError(f"{path}, line {number}: no list of messages")
        try:
            table = chat.from_messages(data["messages"], codec, tools=data.get("tools"))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        table.meta |= {"id": str(data.get("id", number)), "task": "chat", "set": "agent"}
        yield table


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, json.loads(line)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON lines ({error})") from None
