"""``stretto eval``: measure a model."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from stretto.cli.output import console
from stretto.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stretto.evals.config import EfficiencyConfig
    from stretto.evals.exits import ExitEval
    from stretto.evals.report import Report
    from stretto.evals.summary import Line
    from stretto.runs import Run

app = App(name="eval", help="Measure a model: accuracy, delay, time to first token.")

Many = Parameter(consume_multiple=True, negative=())
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


@app.command
def efficiency(
    *,
    tasks: Annotated[list[str] | None, Many] = None,
    systems: Annotated[list[str] | None, Many] = None,
    rates: Annotated[list[str] | None, Many] = None,
    lags: Annotated[list[str] | None, Many] = None,
    lag: str = "1",
    limit: int = 50,
    goal_limit: int | None = None,
    source: Path | None = None,
    model: str = "stretto-smollm2-135m",
    baseline: str = "stretto-smollm2-135m-single",
    base: str = "smollm2-135m",
    batch: int = 32,
    wall_items: int = 3,
    latency: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    out: Path | None = None,
    resume: bool = False,
    json: AsJson = False,
) -> None:
    """Answering while reading against answering afterwards: accuracy, delay, first token.

    Writes a run folder with one event an item; Ctrl-C or a kill loses only the answers in the
    making, and --resume goes on.

    Args:
        tasks: proofwriter, pubmedqa, gsm8k, leg_counting, chain_sum, needle_haystack
            (default: all that there are data for).
        systems: base, single, read, audit, prefilled, frontier (default: all).
        rates: tokens per second at which the text arrives, or instant (default: instant 5 20 80).
        lags: dial positions of the frontier: 0, 1, 2, 3, all (default: all five).
        lag: dial position of read and audit.
        limit: items per task; 0 for the full lists.
        goal_limit: the same for single and for read at 20 tokens/s, which the goals compare
            (default: --limit).
        source: unpacked development pack (default: ../shared/data/dev.tar.xz, if it is there).
        model: multi-stream model: name or folder.
        baseline: single-stream tuned model.
        base: un-tuned model.
        batch: sessions that share a forward pass.
        wall_items: items per system that are also run alone in real time.
        latency: file written by `stretto eval latency`: seconds of another machine.
        device: auto, cpu, cuda.
        dtype: auto, float32, bfloat16.
        seed: kept in the report; answers are greedy and items are fixed.
        out: run folder (default: runs/efficiency-TIME).
        resume: go on with the run in --out.
        json: print the report as JSON.
    """
    from stretto.evals.config import LAGS, RATES, SYSTEM_NAMES, EfficiencyConfig
    from stretto.evals.items import choose_tasks, find_source

    if resume and out is None:
        raise InputError("--resume needs --out DIR: the run to go on with")
    folder = find_source(source)
    config = EfficiencyConfig(
        tasks=choose_tasks(tasks, folder),
        systems=tuple(systems or SYSTEM_NAMES),
        rates=tuple(rates or RATES),
        lags=tuple(lags or LAGS),
        lag=lag,
        limit=limit,
        goal_limit=goal_limit,
        source=str(folder or ""),
        model=model,
        baseline=baseline,
        base=base,
        batch=batch,
        wall_items=wall_items,
        latency=str(latency or ""),
        device=device,
        dtype=dtype,
        seed=seed,
    )
    run = _execute(config, out, resume)
    _finish(run, run.path, json)


@app.command
def latency(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    model: str = "stretto-smollm2-135m",
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Time forward passes on this machine, for `stretto eval efficiency --latency` elsewhere.

    Args:
        output: JSON file to write.
        model: multi-stream model: name or folder.
        device: auto, cpu, cuda.
        dtype: auto, float32, bfloat16.
    """
    import json as json_module

    from stretto.evals.efficiency import machine_latency
    from stretto.evals.latency import busy_remark
    from stretto.runs import atomic_write

    if (busy := busy_remark()) is not None:
        console.print(busy)
    table = machine_latency(model, device=device, dtype=dtype)
    atomic_write(output, json_module.dumps(table.to_dict(), indent=1) + "\n")
    one, two = 1000 * table(1, 256), 1000 * table(2, 256)
    console.print(f"one cell {one:.1f} ms, two cells {two:.1f} ms; wrote {output}")


@app.command(name="exits")
def exits_(
    model: str = "smollm2-135m",
    /,
    *,
    exits: Path | None = None,
    layers: Annotated[list[int] | None, Many] = None,
    data: Path | None = None,
    text: Path | None = None,
    source: Path | None = None,
    limit: int = 20,
    max_cells: int = 40_000,
    answers: int = 0,
    out: Path | None = None,
    json: AsJson = False,
) -> None:
    """How well a model can be left early: agreement, perplexity and accuracy by exit layer.

    Every exit is measured by its trained head, and by the model's own norm and unembedding. Texts
    are read, not written: items of the development tasks with their gold answers, unless others
    are given.

    Args:
        model: name or folder.
        exits: folder of exit heads (default: those that ship for the model).
        layers: further layers to leave it after, without a trained head.
        data: tables written by `stretto data build`.
        text: a plain text, for a model of one stream.
        source: unpacked development pack (default: ../shared/data/dev.tar.xz, if it is there).
        limit: items per task, or tables.
        max_cells: cells that are read at most.
        answers: items of each development task that every exit answers by itself, for its accuracy
            (nothing is read then).
        out: folder for exits.csv and exits.json, or answers.csv.
        json: print JSON.
    """
    from stretto.cli.output import emit
    from stretto.evals.exits import COLUMNS, ExitEval, evaluate, write

    config = ExitEval(
        model=model, exits=exits, layers=tuple(layers or ()), data=data, text=text,
        source=source, limit=limit, max_cells=max_cells,
    )  # fmt: skip
    if answers:
        _answers(config, answers, out, json)
        return
    rows = evaluate(config, _Lines().tell)
    emit(rows, COLUMNS, "json" if json else "table")
    if out is not None:
        console.print("wrote " + ", ".join(map(str, write(rows, out))), highlight=False)


def _answers(config: "ExitEval", items: int, out: Path | None, json: bool) -> None:
    from stretto.cli.output import emit
    from stretto.evals import exit_answers
    from stretto.evals.exits import write_csv

    found = exit_answers.answers(config, items, _Lines().tell)
    emit(found, exit_answers.COLUMNS, "json" if json else "table")
    if out is not None:
        path = write_csv(found, exit_answers.COLUMNS, out / "answers.csv")
        console.print(f"wrote {path}", highlight=False)


@app.command
def report(
    run: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    json: AsJson = False,
) -> None:
    """Render a run again from its events; needs no model.

    Args:
        run: run folder of `stretto eval efficiency`.
        output: where the pages and pictures go (default: the run folder).
        json: print the report as JSON.
    """
    from stretto.runs import Run

    _finish(Run.open(run), output or run, json)


class _Lines:
    """Progress for a log file: a line now and then."""

    EVERY_S = 30.0

    def __init__(self) -> None:
        self._last = float("-inf")

    def tell(self, done: int, total: int, what: str) -> None:
        import time

        if time.monotonic() - self._last >= self.EVERY_S:
            self._last = time.monotonic()
            console.print(f"{done}/{total} {what}", highlight=False)


def _execute(config: "EfficiencyConfig", out: Path | None, resume: bool) -> "Run":
    """Run or go on, with a progress bar on stderr."""
    import time

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from stretto.evals.efficiency import open_run, run_efficiency

    out = out or Path("runs") / time.strftime("efficiency-%Y%m%d-%H%M%S")
    run = open_run(config, out, resume=resume)
    bar = Progress(
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), TextColumn("{task.description}"),
        console=console, speed_estimate_period=600, disable=not console.is_terminal,
    )  # fmt: skip
    command = " ".join(["stretto", *sys.argv[1:]])
    lines = _Lines()
    try:
        with run, bar:
            task = bar.add_task("starting", total=None)

            def tell(done: int, total: int, what: str) -> None:
                bar.update(task, completed=done, total=total, description=what)
                if not console.is_terminal:
                    lines.tell(done, total, what)

            run_efficiency(config, run, command=command, progress=tell)
    except KeyboardInterrupt:
        console.print(f"stopped; go on with the same options and --out {out} --resume")
        raise
    return run


def _finish(run: "Run", output: Path, json: bool) -> None:
    """Write the report's files and print it."""
    import json as json_module

    from stretto.evals.report import read_report, render_report

    files = render_report(run, output)
    text = (output / "efficiency.json").read_text(encoding="utf-8")
    if output == run.path:
        run.write_metrics({"verdict": json_module.loads(text)["verdict"]})
    if json:
        sys.stdout.write(text)
        return
    _print(read_report(run))
    console.print("wrote " + ", ".join(str(path) for path in files), highlight=False)


def _print(found: "Report") -> None:
    """The tables and the goals, for people."""
    from rich.console import Console

    from stretto.evals.goals import verdict
    from stretto.evals.report import columns, instant_remark

    out = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False)
    out.print(_table(found.lines, columns()))
    if found.frontier:
        out.print(_table(found.frontier, columns(frontier=True)))
    if found.goals:
        out.print(verdict(found.goals), markup=False)
        for goal in found.goals:
            out.print(goal.sentence(), markup=False)
    if remark := instant_remark(found.lines):
        out.print(remark, markup=False)


def _table(lines: "list[Line]", columns: "Mapping[str, str]") -> Any:
    from rich.table import Table
    from rich.text import Text

    from stretto.evals.report import cell

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns.values():
        table.add_column(Text(heading))
    for line in lines:
        table.add_row(*(Text(cell(line, column)) for column in columns))
    return table
