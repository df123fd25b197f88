"""Tables as Parquet, one table a row: quick to load in part, and readable by data tools."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stretto.errors import ConfigError, InputError
from stretto.streams.jsonl import VERSION, dump_line, from_data
from stretto.streams.table import StreamTable
from stretto.streams.tokens import StreamCodec

_ROWS_PER_BATCH = 512
_JSON = ("streams", "special", "meta")
_TOKENS = ("prompts", "columns")


def write_parquet(path: str | Path, tables: Iterable[StreamTable]) -> int:
    """Write tables, a row each; returns how many.

    ``streams``, ``special`` and ``meta`` are JSON text; ``prompts`` and ``columns`` map a stream's
    name to its token ids, as in :mod:`stretto.streams.jsonl`; ``id`` and ``task`` repeat ``meta``.

    Raises:
        ConfigError: pyarrow is not installed.
        InputError: ``meta`` holds what JSON cannot.
    """
    pa, pq = _pyarrow()
    tokens = pa.map_(pa.string(), pa.list_(pa.int32()))
    fields = {"id": pa.string(), "task": pa.string(), "v": pa.int32()}
    fields |= dict.fromkeys(_JSON, pa.string()) | dict.fromkeys(_TOKENS, tokens)
    schema = pa.schema(list(fields.items()))
    count, batch = 0, []
    with pq.ParquetWriter(str(path), schema, compression="zstd") as writer:
        for table in tables:
            batch.append(_to_row(table))
            count += 1
            if len(batch) == _ROWS_PER_BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema))
    return count


def read_parquet(path: str | Path, codec: StreamCodec | None = None) -> Iterator[StreamTable]:
    """Tables of a file, one by one.

    Raises:
        ConfigError: pyarrow is not installed.
        InputError: the file cannot be read, or holds no tables.
    """
    pa, pq = _pyarrow()
    columns = ["v", *_JSON, *_TOKENS]
    number = 0
    try:
        with pq.ParquetFile(str(path)) as file:
            if missing := set(columns) - set(file.schema_arrow.names):
                raise InputError(f"{path}: holds no tables (no column {min(missing)})")
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield from_data(_from_row(row), codec)
    except InputError as error:
        place = "" if str(error).startswith(str(path)) else f"{path}, table {number}: "
        raise InputError(f"{place}{error}") from None
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as Parquet ({reason})") from None


def _to_row(table: StreamTable) -> dict[str, Any]:
    data = json.loads(dump_line(table))
    meta = data["meta"]
    return {
        "id": str(meta.get("id", "")),
        "task": str(meta.get("task", "")),
        "v": VERSION,
        **{key: json.dumps(data[key], ensure_ascii=False) for key in _JSON},
        **{key: list(data[key].items()) for key in _TOKENS},
    }


def _from_row(row: dict[str, Any]) -> dict[str, Any]:
    try:
        parsed = {key: json.loads(row[key]) for key in _JSON}
        tokens = {key: dict(row[key]) for key in _TOKENS}
    except (TypeError, ValueError) as error:
        raise InputError(f"not a table ({error})") from None
    return {"v": row["v"], **parsed, **tokens}


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "Parquet needs pyarrow: pip install 'stretto[train]', or use .jsonl"
        ) from None
    return pyarrow, pyarrow.parquet
