"""A finished (or unfinished) efficiency run as text, tables and pictures. Needs no model."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stretto.config import load
from stretto.errors import InputError
from stretto.evals import goals as goals_of
from stretto.evals import summary
from stretto.evals.config import EfficiencyConfig
from stretto.evals.latency import LatencyTable
from stretto.evals.records import INSTANT, Record
from stretto.evals.summary import Line
from stretto.evals.wall import WallCheck, check
from stretto.runs import Run, atomic_write

KIND = "efficiency"

_COLUMNS = {
    "task": "task",
    "system": "system",
    "rate": "tokens/s in",
    "accuracy": "accuracy % [95 %]",
    "answered": "answered %",
    "ttft_s": "TTFT s",
    "ttft_rows": "TTFT rows",
    "ttft_start_s": "first token from start s",
    "delay_s": "delay s [quartiles]",
    "delay_rows": "delay rows",
    "end_s": "total s",
    "tokens_per_s": "tokens/s out",
}
_FRONTIER_COLUMNS = {
    "task": "task",
    "lag": "lag",
    "accuracy": "accuracy % [95 %]",
    "delay_s": "delay s [quartiles]",
    "delay_rows": "delay rows",
    "ttft_rows": "TTFT rows",
    "wake_ticks": "wake-up, ticks late",
    "wake_on_time": "within 1 tick %",
}


@dataclass(frozen=True)
class Report:
    """Everything that is said about a run.

    Attributes:
        facts: machine, versions, command and the like.
        remarks: what the run noted about itself (missing data and such).
    """

    config: EfficiencyConfig
    lines: list[Line]
    frontier: list[Line]
    goals: list[goals_of.TaskGoal]
    wall: list[WallCheck]
    latency: LatencyTable | None
    facts: dict[str, Any]
    remarks: list[str]
    finished: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for ``efficiency.json``."""
        from stretto.config import dump

        return {
            "config": dump(self.config),
            "facts": self.facts,
            "remarks": self.remarks,
            "finished": self.finished,
            "lines": [line.to_dict() for line in self.lines],
            "frontier": [line.to_dict() for line in self.frontier],
            "goals": [goal.to_dict() for goal in self.goals],
            "verdict": goals_of.verdict(self.goals) if self.goals else "",
            "wall": [one.to_dict() for one in self.wall],
            "latency": self.latency.to_dict() if self.latency else None,
        }


def read_report(run: Run) -> Report:
    """Collect a report from a run's events.

    Raises:
        InputError: it is not an efficiency run, or no item has been answered yet.
    """
    if run.kind != KIND:
        raise InputError(f"{run.path}: a run of kind {run.kind!r}, not {KIND!r}")
    config = load(EfficiencyConfig, run.config())
    events = list(run.events())
    records = list({r.key: r for e in events if e["type"] == "item"
                    for r in [Record.from_dict(e)]}.values())  # fmt: skip
    if not records:
        raise InputError(f"{run.path}: no item has been answered yet; go on with --resume")
    records = [r for r in records if r.task in config.tasks]
    tables = [LatencyTable.from_dict(e) for e in events if e["type"] == "latency"]
    facts = {k: v for e in events if e["type"] == "start" for k, v in e["facts"].items()}
    remarks = dict.fromkeys(e["text"] for e in events if e["type"] == "remark")
    return Report(
        config=config,
        lines=summary.lines(records, config),
        frontier=summary.frontier(records, config) if "frontier" in config.systems else [],
        goals=goals_of.judge(records, config),
        wall=check([e for e in events if e["type"] == "wall"]),
        latency=tables[-1] if tables else None,
        facts=facts,
        remarks=list(remarks),
        finished=run.status == "finished",
    )


def render_report(run: Run, output: Path, *, plots: bool = True) -> list[Path]:
    """Write ``efficiency.md``, ``.csv``, ``.json`` and the pictures to a folder.

    Args:
        run: an efficiency run.
        output: folder, made where needed.
        plots: whether to draw; needs matplotlib.

    Returns:
        the files written.

    Raises:
        InputError: see :func:`read_report`.
    """
    report = read_report(run)
    pictures: list[Path] = []
    if plots:
        from stretto.evals.plots import draw

        pictures = draw(report, output)
    texts = {
        "efficiency.md": markdown(report, [path.name for path in pictures]),
        "efficiency.csv": _csv([line.to_dict() for line in (*report.lines, *report.frontier)]),
        "efficiency.json": json.dumps(_finite(report.to_dict()), indent=1) + "\n",
    }
    for name, text in texts.items():
        atomic_write(output / name, text)
    return [*(output / name for name in texts), *pictures]


def markdown(report: Report, pictures: Sequence[str] = ()) -> str:
    """The report as a page."""
    parts = ["# Efficiency: answering while reading", *_introduction(report)]
    if report.goals:
        parts += ["## Goals", goals_of.verdict(report.goals)]
        parts += ["\n".join(f"- {goal.sentence()}" for goal in report.goals)]
    if seen := instant_remark(report.lines):
        parts.append(seen)
    parts += ["## All figures", _EXPLAIN, _table(report.lines, _COLUMNS)]
    if report.frontier:
        rate = report.config.frontier_rate
        parts += [f"## Frontier: `read` at {rate} tokens/s, by lag", _EXPLAIN_FRONTIER]
        parts.append(_table(report.frontier, _FRONTIER_COLUMNS))
    parts += [f"![{name}]({name})" for name in pictures]
    parts += ["## Time", *_time_section(report)]
    return "\n\n".join(parts) + "\n"


_EXPLAIN = (
    "Medians over items; accuracy with its 95 % interval (Wilson). TTFT (first token) and delay "
    "(last token of the answer) count from the end of the input, the arrival of its last token; "
    "0 when they came before it. A row counts 1 if it is the next one after that in which the end "
    "was read. `base` and `single` start when the whole text is there, so the arrival rate moves "
    "them in time and does not change what they say; so does `prefilled`, the control: the "
    "multi-stream model with everything known before its first row (lag all)."
)
_EXPLAIN_FRONTIER = (
    "The dial is the prompt of the answer stream. Wake-up is the tick of the first word less the "
    "first tick in which the alignment of the training data allows it (negative: early), median."
)


def _introduction(report: Report) -> list[str]:
    config, facts = report.config, report.facts
    state = "" if report.finished else " **Not finished: figures are of what is there.**"
    items = _items(config.limit)
    if config.goal_limit is not None:
        items = f"{_items(config.goal_limit)} where goals compare, {items} elsewhere"
    known = ", ".join(f"{key} {value}" for key, value in facts.items() if key != "command")
    parts = [
        f"Models: `{config.model}` (read, audit, prefilled), `{config.baseline}` (single), "
        f"`{config.base}` (base, un-tuned). {items}, greedy, seed {config.seed}, at most "
        f"{config.max_message_tokens} answer tokens.{state}",
        f"Command: `{facts.get('command', 'unknown')}`. {known}.",
    ]
    return parts + ["\n".join(f"- {text}" for text in report.remarks)] * bool(report.remarks)


def _items(limit: int) -> str:
    return f"{limit} items a task" if limit else "all items"


def instant_remark(found: Sequence[Line]) -> str:
    """What is seen at instant arrival, where no gain is expected."""
    by = {(line.task, line.system): line for line in found if line.rate == INSTANT}
    seen = []
    for (task, system), read in by.items():
        single = by.get((task, "single"))
        if system == "read" and single is not None:
            ratio = read.delay_s / single.delay_s if single.delay_s else float("nan")
            seen.append(
                f"{task} {read.delay_s:.2f} s against {single.delay_s:.2f} s ({ratio:.2f} x)"
            )
    if not seen:
        return ""
    return (
        "At instant arrival nothing can be read ahead of time, so no gain is expected. Delay of "
        f"`read` against `single` there: {'; '.join(seen)}."
    )


def _time_section(report: Report) -> list[str]:
    parts = [
        "Sessions run in batches, each under a virtual clock: its time advances by what its own "
        "tick would take alone on this machine, looked up in the table below (medians of one "
        "forward pass at batch 1, all grid points visited in turn, plus the measured remainder of "
        "a step). All models here have the same shape, so one table serves all."
    ]
    if report.latency is not None:
        table = report.latency
        header = ["cells", *(f"{cached} cached, ms" for cached in table.cached)]
        body = [[str(c), *(f"{1000 * s:.1f}" for s in row)]
                for c, row in zip(table.cells, table.seconds, strict=True)]  # fmt: skip
        parts.append(_grid(header, body))
        parts.append(f"Remainder of a step: {1000 * table.overhead:.1f} ms. {table.machine}.")
    if report.wall:
        parts.append(
            "Check: the same items alone in real time. Delay after the end of the input by both "
            "clocks; ratio of wall to virtual seconds a row of it (median [quartiles]; 1 is a "
            "perfect match); and whether the answer was the same. It need not be: in bfloat16 a "
            "batch rounds otherwise than a session alone, and real arrivals fall into other rows."
        )
        header = ["system", "tokens/s in", "items", "virtual s", "wall s", "ratio", "same answer"]
        parts.append(_grid(header, [one.cells() for one in report.wall]))
    else:
        parts.append("No item was run in real time, so virtual seconds are unchecked here.")
    return parts


def cell(line: Line, column: str) -> str:
    """One figure as a person reads it."""
    value = getattr(line, column)
    if column == "accuracy":
        return f"{100 * value:.1f} [{100 * line.low:.0f}, {100 * line.high:.0f}] n={line.n}"
    if column == "delay_s":
        return f"{value:.2f} [{line.delay_s_q1:.2f}, {line.delay_s_q3:.2f}]"
    if value is None:
        return "-"
    if column in ("answered", "wake_on_time"):
        return f"{100 * value:.0f}"
    if isinstance(value, float):
        return f"{value:.0f}" if column.endswith("rows") else f"{value:.2f}"
    return str(value)


def columns(*, frontier: bool = False) -> Mapping[str, str]:
    """Column names and their headings."""
    return _FRONTIER_COLUMNS if frontier else _COLUMNS


def _table(found: Sequence[Line], wanted: Mapping[str, str]) -> str:
    return _grid(list(wanted.values()), [[cell(line, c) for c in wanted] for line in found])


def _grid(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(Line.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value
