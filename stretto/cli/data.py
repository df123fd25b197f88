"""``stretto data``: build stream tables from data sets, look at them, convert files."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from stretto.cli.output import Format, console, emit
from stretto.errors import ConfigError, InputError

app = App(name="data", help="Build stream tables from data sets, and look at them.")

Output = Annotated[Path, Parameter(name=["--output", "-o"])]
Model = Annotated[str, Parameter(help="Model whose tokeniser is used.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]

_MODEL = "smollm2-135m"


@app.command
def build(
    recipe: str,
    /,
    *,
    output: Output,
    model: Model = _MODEL,
    source: Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    json: AsJson = False,
) -> None:
    """Build training shards from a recipe and print what is in them.

    Args:
        recipe: name of a shipped recipe (mixture, mixture-single), or a YAML file.
        output: folder for shards and manifest.
        source: folder with the raw data files that the recipe names.
        seed: of the choice of examples, lags, arrivals and planted errors.
        limit: the most tables a source, for a quick look.
    """
    from stretto.streams.build import build as run_build

    codec = _codec(model)
    manifest = run_build(
        recipe, output, codec=codec, source=source, seed=seed, limit=limit, report=_report
    )
    _print_statistics(manifest, "json" if json else "table")
    _report(f"{manifest['num_samples']} samples, {manifest['num_cells']} cells in {output}")


@app.command
def show(
    path: Path,
    /,
    *,
    index: int = 0,
    task: str | None = None,
    width: int | None = None,
    rows: int | None = None,
    model: Model = _MODEL,
) -> None:
    """Draw one table: lanes side by side, time downwards.

    Args:
        path: folder of shards, or a .jsonl or .parquet file of tables.
        index: which one, from 0; with --task, among the tables of that task.
        task: only tables of this task.
        width: columns to use (default: the terminal's).
        rows: the most live rows to draw.
    """
    table = _find(path, index, task, model)
    facts = {k: v for k, v in table.meta.items() if isinstance(v, str | int | float)}
    _report("  ".join(f"{key}: {value}" for key, value in facts.items()))
    sys.stdout.write(table.render(width=width, max_rows=rows) + "\n")


@app.command
def convert(
    kind: str,
    file: Path | None = None,
    /,
    *,
    output: Output,
    set_: Annotated[Literal["read", "audit", "single"], Parameter(name="--set")] = "read",
    lag: str = "1",
    arrival: str | None = None,
    error_rate: float = 0.0,
    seed: int = 0,
    limit: int | None = None,
    model: Model = _MODEL,
) -> None:
    """Convert a file to tables, or tables back to chat messages.

    Args:
        kind: gsm8k, proofwriter, pubmedqa, t0, a generated task, chat, sgd; or messages, which
            turns tables made from chat into chat again.
        file: what to read; none for a generated task.
        output: .jsonl or .parquet file to write.
        set_: stream set of a task's tables.
        lag: chunks the answer stays behind: 0, 1, 2, ... or all.
        arrival: steady:RATE (tokens a tick), bursty, instant or prefilled (default: drawn for
            each table from the training mixture).
        error_rate: share of audit tables with a planted error.
        seed: of arrivals and planted errors.
        limit: the most tables.
    """
    from stretto.streams import convert as converters

    if kind == "messages":
        if file is None:
            raise ConfigError("messages: give a file of tables")
        tables = converters.read_tables(file, _codec(model))
        count = converters.write_messages(output, tables)
        _report(f"{count} conversations in {output}")
        return
    count = converters.write_tables(
        output,
        converters.convert(
            kind,
            file,
            _codec(model),
            set_name=set_,
            lag=_lag(lag),
            arrival=_arrival(arrival),
            error_rate=error_rate,
            seed=seed,
            limit=limit,
        ),
    )
    _report(f"{count} tables in {output}")


def _codec(model: str) -> Any:
    from stretto.models.checkpoint import load_codec

    return load_codec(model)


def _report(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _lag(text: str) -> Any:
    if text == "all":
        return text
    if not text.isdigit():
        raise ConfigError(f"lag {text!r}: give a number of chunks from 0 on, or all")
    return int(text)


def _arrival(text: str | None) -> Any:
    from stretto.streams.arrival import Arrival

    if text is None:
        return None
    kind, colon, rate = text.partition(":")
    if colon and kind != "steady":
        raise ConfigError(f"arrival {text!r}: only steady takes a rate")
    try:
        return Arrival(kind, float(rate) if colon else 1.0)  # type: ignore[arg-type]
    except ValueError:
        raise ConfigError(f"arrival {text!r}: the rate is a number, as in steady:0.7") from None


def _find(path: Path, index: int, task: str | None, model: str) -> Any:
    from stretto.streams.convert import read_tables
    from stretto.streams.shards import load_shards

    codec = _codec(model)
    if path.is_dir():
        shards = load_shards(path)
        wanted = [
            i for i, sample in enumerate(shards.samples) if task in (None, sample.meta.get("task"))
        ]
        if 0 <= index < len(wanted):
            return shards.table(wanted[index], codec)
        count = len(wanted)
    else:
        count = 0
        for table in read_tables(path, codec):
            if task in (None, table.meta.get("task")):
                if count == index:
                    return table
                count += 1
    of_task = f" of task {task!r}" if task else ""
    raise InputError(f"{path}: no table {index}{of_task}; it has {count}, counted from 0")


def _print_statistics(manifest: dict[str, Any], fmt: Format) -> None:
    columns = [
        "task", "set", "tables", "rows", "cells", "content_tokens", "trained_cells",
        "silent_share", "planted_errors",
    ]  # fmt: skip
    statistics = manifest["statistics"]
    if fmt == "json":
        import json

        sys.stdout.write(json.dumps(statistics, indent=2) + "\n")
        return
    total = {"task": "total", "set": "", **statistics["total"]}
    emit([*statistics["parts"], total], columns)
    lags = [{"stream": name, **lag} for name, lag in statistics["lag_rows"].items()]
    if lags:
        emit(lags, ["stream", "median", "p90", "count"])
    for name in ("lag", "arrival"):
        counts = statistics[name]
        if counts:
            sys.stdout.write(f"{name}: " + ", ".join(f"{k} {n}" for k, n in counts.items()) + "\n")
    if manifest["dropped"]:
        sys.stdout.write(f"dropped (longer than max_cells): {manifest['dropped']}\n")
