"""The efficiency run: every task, system and arrival rate, resumable, in batches.

A run folder keeps one ``item`` event an answer. Killing the process loses the answers that are in
the making and nothing else.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stretto.errors import ConfigError, LimitError
from stretto.evals.config import EfficiencyConfig
from stretto.evals.items import load_items
from stretto.evals.latency import (
    LatencyTable,
    busy_remark,
    load_table,
    machine_name,
    measure,
    overhead,
)
from stretto.evals.records import ANY_RATE, INSTANT, Record
from stretto.evals.report import KIND
from stretto.evals.systems import SYSTEMS, Job, System, conditions, open_session, record
from stretto.runs import Run
from stretto.streams.examples import Example

if TYPE_CHECKING:
    from stretto.engine import Engine, Session

Loader = Callable[[str, EfficiencyConfig], "Engine"]
Progress = Callable[[int, int, str], None]


def load_engine(name: str, config: EfficiencyConfig) -> "Engine":
    """The engine of one model, with room for a batch."""
    from stretto.engine import Engine

    return Engine.load(name, device=config.device, dtype=config.dtype, max_sessions=config.batch)


def run_efficiency(
    config: EfficiencyConfig,
    run: Run,
    *,
    command: str = "",
    progress: Progress = lambda done, total, what: None,
    load: Loader = load_engine,
    items: dict[str, list[Example]] | None = None,
) -> None:
    """Answer what the run has not answered yet; then check some items in real time.

    Args:
        config: what to measure.
        run: where events go; what it holds already is not done again.
        command: the command line, for the report.
        progress: told how many answers of how many are there, and what is being done.
        load: gives the engine for a model name; replaced in tests.
        items: items by task; loaded by default.

    Raises:
        CheckpointError, InputError: a model or the data cannot be read.
    """
    if items is None:
        items, remarks = load_items(config)
        for text in remarks:
            run.event("remark", text=text)
    run.event("start", facts=_facts(command))
    if config.latency and _saved_latency(run) is None:
        table = load_table(Path(config.latency))
        run.event("latency", **table.to_dict())
        run.event("remark", text=f"seconds are those of {table.machine}; no real-time check here")
    done = {Record.from_dict(e).key: Record.from_dict(e) for e in run.events("item")}
    jobs = [
        Job(system, item, rate, lag)
        for system, rate, lag in conditions(config)
        for task in config.tasks
        for item in _share(items[task], config, is_goal=config.is_goal(system.name, rate, lag))
    ]
    walls = [] if config.latency else _wall_jobs(jobs, config)
    checked = {tuple(e["key"]) for e in run.events("wall")}
    total, latency = len(jobs), _saved_latency(run)
    for role, name in config.models().items():
        mine = [job for job in jobs if job.system.role == role]
        missing = [job for job in mine if job.key not in done]
        unchecked = [job for job in walls if job.system.role == role
                     and job.key not in checked]  # fmt: skip
        if not missing and not unchecked:
            continue
        progress(len(done), total, f"loading {name}")
        engine = load(name, config)
        if latency is None:
            progress(len(done), total, "timing forward passes")
            if (busy := busy_remark()) is not None:
                run.event("remark", text=busy)
            latency = measure_latency(engine, mine[0], config)
            run.event("latency", **latency.to_dict())
        for session, job in answer(engine, missing, config, latency):
            found = record(session, job, engine.codec)
            done[found.key] = found
            run.event("item", **found.to_dict())
            progress(len(done), total, f"{job.system.name} {job.item.task} {job.rate}")
        for job in unchecked:
            progress(len(done), total, f"real time: {job.system.name}")
            run.event("wall", **_wall_event(engine, job, config, done[job.key]))


def answer(
    engine: "Engine", jobs: Iterable[Job], config: EfficiencyConfig, latency: Any
) -> Iterator[tuple["Session", Job]]:
    """Run jobs with ``config.batch`` sessions at a time; give each back when it is finished."""
    from stretto.engine import VirtualClock

    waiting = iter(jobs)
    active: list[tuple[Session, Job]] = []
    while True:
        while len(active) < config.batch and (job := next(waiting, None)) is not None:
            active.append((open_session(engine, job, config, VirtualClock(latency)), job))
        if not active:
            return
        stepped = engine.step()
        finished = [pair for pair in active if pair[0].finish_reason is not None]
        if not stepped and not finished:
            raise LimitError(f"item {active[0][1].item.id}: the session neither goes on nor ends")
        active = [pair for pair in active if pair[0].finish_reason is None]
        yield from finished


def measure_latency(engine: "Engine", job: Job, config: EfficiencyConfig) -> LatencyTable:
    """Forward passes over the grid, and what a whole step of a real session takes beyond them."""
    table = measure(engine.model)
    session = _alone(engine, replace(job, rate=INSTANT), config)
    return replace(table, overhead=overhead(table, _steps(session)))


def machine_latency(model: str, *, device: str = "auto", dtype: str = "auto") -> LatencyTable:
    """The table of a model on this machine, from a generated item; needs no data."""
    config = EfficiencyConfig(
        tasks=("chain_sum",), limit=1, model=model, device=device, dtype=dtype, batch=1
    )
    items, _ = load_items(config)
    job = Job(SYSTEMS["read"], items["chain_sum"][0], INSTANT, config.lag)
    return measure_latency(load_engine(model, config), job, config)


def _steps(session: "Session") -> Iterator[tuple[int, int, float]]:
    """(cells, cached, seconds) of a session's ticks that read no input."""
    table = session.table
    visible = (table.rows != -1) & (table.rows != table.special.silence)
    cached = table.num_prompt_rows + visible.sum(1).cumsum()
    inputs = list(table.streams.inputs)
    for before, row in zip(session.rows, session.rows[1:], strict=False):
        seconds = row.time - before.time
        if seconds > 0 and (table.rows[row.index, inputs] == -1).all():
            yield len(row.tokens), int(cached[row.index]), seconds


def _alone(engine: "Engine", job: Job, config: EfficiencyConfig) -> "Session":
    """One item by itself in real time."""
    from stretto.engine import WallClock

    session = open_session(engine, job, config, WallClock())
    engine.run([session])
    return session


def _wall_jobs(jobs: list[Job], config: EfficiencyConfig) -> list[Job]:
    """The first items of every system, taken from the tasks in turn.

    At the goal's rate and, for systems that read, at instant arrival too, where compute is all.
    """
    chosen: list[Job] = []
    groups: dict[tuple[System, str], list[Job]] = {}
    for job in jobs:
        if job.rate in (ANY_RATE, INSTANT, config.goal_rate) and job.lag in ("", "all", config.lag):
            groups.setdefault((job.system, job.rate), []).append(job)
    for group in groups.values():
        by_task = [[j for j in group if j.item.task == task] for task in config.tasks]
        turns = [tasks[i] for i in range(config.wall_items) for tasks in by_task if i < len(tasks)]
        chosen += turns[: config.wall_items]
    return chosen


def _wall_event(
    engine: "Engine", job: Job, config: EfficiencyConfig, virtual: Record
) -> dict[str, Any]:
    session = _alone(engine, job, config)
    wall = record(session, job, engine.codec)
    return {
        "key": list(job.key),
        "system": job.system.name,
        "rate": job.rate,
        "virtual_s": virtual.delay_s,
        "wall_s": wall.delay_s,
        "virtual_rows": virtual.delay_rows,
        "wall_rows": wall.delay_rows,
        "same": wall.text == virtual.text,
    }


def _share(items: list[Example], config: EfficiencyConfig, *, is_goal: bool) -> list[Example]:
    """The items of a condition: all that were loaded for the goals, perhaps fewer elsewhere."""
    return items if is_goal or not config.limit else items[: config.limit]


def _saved_latency(run: Run) -> LatencyTable | None:
    saved = [LatencyTable.from_dict(event) for event in run.events("latency")]
    return saved[-1] if saved else None


def _facts(command: str) -> dict[str, str]:
    import torch
    import transformers

    from stretto import __version__

    return {
        "stretto": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": machine_name(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": command,
    }


def open_run(config: EfficiencyConfig, folder: Path, *, resume: bool) -> Run:
    """A new run folder, or the one to go on with.

    Raises:
        InputError: the folder holds a run and ``resume`` is off, or the other way round.
        ConfigError: the run to resume was made with other settings.
    """
    from stretto.config import load

    if not resume:
        return Run.create(folder, config, kind=KIND)
    run = Run.open(folder)
    kept = load(EfficiencyConfig, run.config())
    if kept != config:
        names = [n for n in config.__dataclass_fields__ if getattr(kept, n) != getattr(config, n)]
        raise ConfigError(
            f"{folder}: was made with other {', '.join(names)}; give the same, or another --out"
        )
    return run
