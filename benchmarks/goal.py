"""What every bench writes: a goal, a figure, and whether it is met."""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import facts, line, warn_if_busy
from stretto.errors import StrettoError
from stretto.runs import atomic_write

OUTPUT = Path("build/bench")


@dataclass(frozen=True)
class Goal:
    """One line of ``build/bench/AREA.json``; ``value`` is None where nothing could be measured."""

    goal: str
    what: str
    value: float | None
    unit: str
    target: str
    met: bool


Measure = Callable[[], Iterable[Goal]]


def missing(goal: str, what: str, why: object, target: str) -> Goal:
    """A goal that could not be measured here, which counts as one that is not met."""
    return Goal(goal, f"{what}: not measured ({why})", None, "", target, False)


def save(name: str, data: dict[str, Any] | list[dict[str, Any]]) -> Path:
    """Write ``build/bench/NAME.json``; returns where."""
    path = OUTPUT / f"{name}.json"
    atomic_write(path, json.dumps(data, indent=1) + "\n")
    return path


def run(area: str, measures: dict[str, Measure]) -> int:
    """Measure, print a table, write the file; 1 if a goal is not met.

    A figure that cannot be measured here (no model, no data) is not met, with the reason.
    """
    goals: list[Goal] = []
    for number, measure in measures.items():
        print(f"goal {number}: {(measure.__doc__ or '').splitlines()[0]}", file=sys.stderr)
        try:
            goals += measure()
        except StrettoError as error:
            goals.append(Goal(number, f"not measured: {error}", None, "", "", False))
    path = save(area, [asdict(goal) for goal in goals])
    _print(goals)
    print(f"wrote {path}", file=sys.stderr)
    return 0 if all(goal.met for goal in goals) else 1


def bench(
    area: str,
    measures: dict[str, Measure],
    wanted: list[str],
    seed: int,
    tables: dict[str, Any],
) -> int:
    """A bench's command: measure the wanted goals, all by default; 1 if one is missed.

    Args:
        area: of the files that are written.
        measures: by goal.
        wanted: goals that were asked for; an unknown one ends the process.
        seed: is told.
        tables: what lies behind the goals; measures add to it.
    """
    if unknown := [name for name in wanted if name not in measures]:
        sys.exit(f"no goal {unknown[0]!r}; choose from {', '.join(measures)}")
    warn_if_busy()
    told = facts(seed)  # before this bench is the load itself
    code = run(area, {name: measures[name] for name in wanted or measures})
    print(line(told))
    save(f"{area}-tables", told | tables)
    return code


def _print(goals: list[Goal]) -> None:
    table = Table("goal", "what", "value", "target", "", box=None, pad_edge=False)
    for goal in goals:
        value = "-" if goal.value is None else f"{goal.value:.4g} {goal.unit}"
        missed = "not measured" if goal.value is None else "MISSED"
        table.add_row(goal.goal, goal.what, value, goal.target, "met" if goal.met else missed)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
