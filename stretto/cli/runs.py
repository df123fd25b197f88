"""``stretto runs``: list, show, compare and export run folders."""

import csv
import io
import json as json_module
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from stretto.cli.output import Format, console, emit
from stretto.errors import InputError
from stretto.runs import Run, atomic_write, diff, flatten, list_runs

app = App(name="runs", help="List, show, compare and export run folders.")

Parent = Annotated[Path, Parameter(help="Folder that holds the runs.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
Name = Annotated[str, Parameter(help="A run: its name under --parent, or its folder.")]

_DEFAULT_PARENT = Path("runs")


@app.command(name="list")
def list_(*, parent: Parent = _DEFAULT_PARENT, json: AsJson = False) -> None:
    """List runs, oldest first."""
    rows = [_summary(run) for run in list_runs(parent)]
    if not rows and not json:
        console.print(f"no runs in {parent}")
        return
    emit(rows, ["name", "kind", "status", "created", "last_event"], _format(json))


@app.command
def show(run: Name, /, *, parent: Parent = _DEFAULT_PARENT, json: AsJson = False) -> None:
    """Show a run's state, config and metrics."""
    found = _find(run, parent)
    facts = _summary(found) | {"config": found.config(), "metrics": found.metrics()}
    rows = [{"key": key, "value": value} for key, value in flatten(facts).items()]
    emit(rows, ["key", "value"], _format(json))


@app.command
def compare(a: Name, b: Name, /, *, parent: Parent = _DEFAULT_PARENT, json: AsJson = False) -> None:
    """Show where the configs and metrics of two runs differ."""
    left, right = _find(a, parent), _find(b, parent)
    rows = [{"key": key, "a": x, "b": y} for key, (x, y) in diff(left, right).items()]
    emit(rows, ["key", "a", "b"], _format(json))


@app.command
def export(
    run: Name,
    /,
    *,
    kind: Annotated[str | None, Parameter(name="--type", help="Only events of this type.")] = None,
    format: Literal["csv", "json"] = "csv",  # noqa: A002 - the option's name
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="File to write; else standard output.")
    ] = None,
    parent: Parent = _DEFAULT_PARENT,
) -> None:
    """Write a run's events as one table: to a file, or to standard output."""
    rows = [flatten(event) for event in _find(run, parent).events(kind)]
    text = _csv(rows) if format == "csv" else json_module.dumps(rows, indent=2) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        atomic_write(output, text)
        console.print(f"wrote {len(rows)} events to {output}")


def _find(name: str, parent: Path) -> Run:
    for path in (parent / name, Path(name)):
        if (path / "events.jsonl").is_file():
            return Run.open(path)
    raise InputError(
        f"no run {name!r}, neither in {parent} nor as a folder; see 'stretto runs list'"
    )


def _summary(run: Run) -> dict[str, Any]:
    first: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for event in run.events():
        first = first or event
        last = event
    created, latest = (_clock(event.get("time")) for event in (first, last))
    return {
        "name": run.name,
        "kind": first.get("kind", ""),
        "status": run.status,
        "created": created,
        "last_event": f"{latest} {last.get('type', '')}",
    }


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


def _format(json: bool) -> Format:
    return "json" if json else "table"


def _csv(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
