"""``stretto commons``: villages that share a resource."""

import json as json_module
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from stretto.cli.commons_view import Bar, summarise
from stretto.cli.output import console, emit
from stretto.errors import ConfigError, InputError

if TYPE_CHECKING:
    from stretto.commons.sweep import Planned, Sweep
    from stretto.commons.worker import Limits

app = App(name="commons", help="Societies of agents that share a resource.")

LOCAL = "stretto.evals.engine_chat:open_chat"
Source = Annotated[str, Parameter(help="A YAML file of a run or sweep, or an experiment's name.")]
Set = Annotated[
    list[str] | None,
    Parameter(name="--set", help="A setting, such as talk=none; may be given again.", negative=""),
]
Model = Annotated[
    list[str] | None,
    Parameter(
        help="Who plays the seats of models: as the endpoint names it, local:NAME on this machine, "
        "or script:POLICY; SEAT=MODEL for the seats of one name. May be given again.",
        negative="",
    ),
]
BaseUrl = Annotated[str, Parameter(help="Of the endpoint, up to and with /v1.")]
KeyEnv = Annotated[str, Parameter(help="Environment variable that holds the endpoint's key.")]
Prices = Annotated[
    tuple[float, float] | None,
    Parameter(help="Dollars per million tokens of prompts and of answers."),
]
BudgetText = Annotated[
    str,
    Parameter(help="What all may take: $5, 2000requests, 3e6tokens, or several with commas."),
]
Workers = Annotated[int, Parameter(help="Processes, or tasks on Ray.")]
Together = Annotated[int, Parameter(help="Runs under way at once in each.")]
Ray = Annotated[str | None, Parameter(help="Of a Ray cluster that sees the folder; or local.")]
Folder = Annotated[Path | None, Parameter(name=["--output", "-o"], help="Folder for the results.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


@app.command
def run(
    source: Source,
    /,
    *,
    set_: Set = None,
    model: Model = None,
    base_url: BaseUrl = "",
    key_env: KeyEnv = "OPENAI_API_KEY",
    prices: Prices = None,
    seed: int | None = None,
    budget: BudgetText = "",
    output: Folder = None,
    json: AsJson = False,
) -> int:
    """Play one run: the first condition of what is given, with one seed."""
    sweep = _first(_sweep(source, set_, model, base_url, key_env, prices), seed)
    return _play_one(sweep, _folder(output), _limits(budget), json)


@app.command
def sweep(
    source: Source,
    /,
    *,
    set_: Set = None,
    model: Model = None,
    base_url: BaseUrl = "",
    key_env: KeyEnv = "OPENAI_API_KEY",
    prices: Prices = None,
    seeds: Annotated[int | None, Parameter(help="Of each condition, from 0 on.")] = None,
    workers: Workers = 1,
    together: Together = 8,
    ray_address: Ray = None,
    budget: BudgetText = "",
    output: Folder = None,
    json: AsJson = False,
) -> int:
    """Play every condition with every seed; what is done already is not played again."""
    from stretto.commons.sweep import change, prepare

    chosen = _sweep(source, set_, model, base_url, key_env, prices)
    if seeds is not None:
        chosen = change(chosen, [f"seeds={seeds}"])
    folder = _folder(output)
    prepare(chosen, folder)
    return _drive(folder, workers, together, ray_address, _limits(budget), json)


@app.command
def resume(
    folder: Annotated[Path, Parameter(help="Of a run or sweep.")],
    /,
    *,
    workers: Workers = 1,
    together: Together = 8,
    ray_address: Ray = None,
    budget: BudgetText = "",
    json: AsJson = False,
) -> int:
    """Go on with what was broken off; answers that were paid for are not asked for again."""
    from stretto.commons.sweep import load

    sweep, planned = load(folder)
    if any(seat.model == "human" for one in planned for seat in one.config.everybody):
        return _play_one(sweep, folder, _limits(budget), json)
    return _drive(folder, workers, together, ray_address, _limits(budget), json)


@app.command
def play(
    source: Annotated[str, Parameter(help="As for run; by default a fishery.")] = "",
    /,
    *,
    name: Annotated[str, Parameter(help="Yours in the village.")] = "",
    set_: Set = None,
    model: Model = None,
    base_url: BaseUrl = "",
    key_env: KeyEnv = "OPENAI_API_KEY",
    seed: int | None = None,
    output: Folder = None,
    json: AsJson = False,
) -> int:
    """Take a seat yourself: the first one, or the one that is a human's.

    Without a source or a model the neighbours are scripted: each takes its sustainable share.
    """
    from stretto.commons.sweep import Sweep

    if source:
        chosen = _sweep(source, set_, model, base_url, key_env, None)
    else:
        seat = {"model": "neighbour" if model else "script:threshold"}
        chosen = Sweep({"seats": [seat], "talk": "meeting" if model else "none"}, seeds=(0,))
        chosen = _changed(chosen, set_, model, base_url, key_env, None)
    first = _first(chosen, seed)
    first.run["seats"] = _seated(first, name)
    return _play_one(first, _folder(output), _limits(""), json)


def _seated(sweep: "Sweep", name: str) -> list[dict[str, Any]]:
    """The seats, one of them a person's."""
    seats = sweep.run["seats"]
    if len(seats) == 1:
        seats = seats * sweep.run["rules"]["villagers"]
    if not any(seat["model"] == "human" for seat in seats):
        seats = [seats[0] | {"model": "human"}, *seats[1:]]
    return [seat | {"name": name} if name and seat["model"] == "human" else seat for seat in seats]


def _sweep(
    source: str, set_: Sequence[str] | None, model: Sequence[str] | None, base_url: str,
    key_env: str, prices: tuple[float, float] | None,
) -> "Sweep":  # fmt: skip
    from stretto.commons.sweep import read

    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        found = read(path)
    else:
        from stretto.commons.experiments import experiment

        found = experiment(source)
    return _changed(found, set_, model, base_url, key_env, prices)


def _changed(
    sweep: "Sweep", set_: Sequence[str] | None, model: Sequence[str] | None, base_url: str,
    key_env: str, prices: tuple[float, float] | None,
) -> "Sweep":  # fmt: skip
    """A sweep with settings and models as the command line gives them."""
    from stretto.commons.experiments import with_models
    from stretto.commons.model_config import ModelConfig
    from stretto.commons.sweep import change, plan

    if set_:
        sweep = change(sweep, set_)
    wanted = _models(plan(sweep))
    given: dict[str, ModelConfig | str] = {}
    for text in model or ():
        seat, _, who = text.rpartition("=")
        if not wanted or (seat and seat not in wanted):
            raise ConfigError(f"--model {text}: models play {', '.join(wanted) or 'no seats'}")
        is_none = who == "human" or who.startswith(("script:", "code:"))
        one = ModelConfig(who, base_url, key_env, prices=prices or (0.0, 0.0))
        given |= dict.fromkeys([seat] if seat else wanted, who if is_none else one)
    sweep = with_models(sweep, given)
    if missing := [name for name in _models(plan(sweep)) if name not in sweep.models]:
        raise ConfigError(f"there is no model {missing[0]!r}; say who it is with --model")
    return sweep


def _models(planned: "Sequence[Planned]") -> list[str]:
    """Names of the models that seats and frameworks give, in order."""
    names: dict[str, None] = {}
    for one in planned:
        for wanted in (*(seat.model for seat in one.config.everybody), one.config.framework):
            name = wanted.removeprefix("code:")
            if name and name != "human" and not name.startswith("script:"):
                names[name] = None
    return list(names)


def _first(sweep: "Sweep", seed: int | None) -> "Sweep":
    """A sweep of one run: the first of another."""
    from stretto.commons.sweep import Sweep, plan
    from stretto.config import dump

    one = plan(sweep)[0]
    chosen = one.seed if seed is None else seed
    return Sweep(dump(one.config) | {"seed": chosen}, seeds=(chosen,), models=sweep.models)


def _folder(output: Path | None) -> Path:
    if output is not None:
        return output
    name = f"commons-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = path.with_name(f"{name}-{number}")
    return path


def _limits(text: str) -> "Limits":
    """``$5,2000requests`` as limits.

    Raises:
        ConfigError: it cannot be read.
    """
    import re

    from stretto.commons.worker import Limits

    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"\$?([0-9.]+(?:e[0-9]+)?)\s*(dollars|requests|tokens)?", part)
        if match is None:
            raise ConfigError(f"--budget {part}: give $5, 2000requests or 3e6tokens")
        found[match[2] or "dollars"] = float(match[1])
    whole = {key: int(found[key]) for key in ("requests", "tokens") if key in found}
    return Limits(found.get("dollars"), **whole)


def _play_one(sweep: "Sweep", folder: Path, limits: "Limits", as_json: bool) -> int:
    """Play the one run of a sweep in this process, month by month before one's eyes."""
    import asyncio

    from stretto.commons.single import play_single
    from stretto.commons.sweep import prepare, results

    prepare(sweep, folder)
    console.print(f"{folder}: playing; Ctrl-C stops, and it can be resumed", highlight=False)
    try:
        asyncio.run(play_single(folder, limits, LOCAL, _say, _prompt))
    except KeyboardInterrupt:
        _tell_how_to_resume(folder)
        return 130
    ((_, metrics),) = results(folder)
    if as_json:
        sys.stdout.write(json_module.dumps({"folder": str(folder), **metrics}, indent=2) + "\n")
    else:
        summarise(folder, as_json=False)
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _prompt(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _drive(
    folder: Path, workers: int, together: int, ray_address: str | None, limits: "Limits",
    as_json: bool,
) -> int:  # fmt: skip
    """Play a sweep; 0 if all of it is done, 1 if not."""
    from stretto.commons.driver import drive

    bar = Bar()
    try:
        with bar:
            end = drive(
                folder, workers=workers, together=together, limits=limits, local=LOCAL,
                ray_address=ray_address, on_progress=bar.show,
            )  # fmt: skip
    except KeyboardInterrupt:
        _tell_how_to_resume(folder)
        return 130
    summarise(folder, as_json)
    for run, why in list(end.wrong.items())[:3]:
        console.print(f"{run + ': ' if run else ''}{why}", style="red", highlight=False)
    if end.done < end.runs:
        console.print(f"{end.runs - end.done} of {end.runs} runs are not done", highlight=False)
        _tell_how_to_resume(folder)
        return 1
    return 0


def _tell_how_to_resume(folder: Path) -> None:
    console.print(f"go on with: stretto commons resume {folder}", highlight=False)


@app.command
def report(
    folder: Annotated[Path, Parameter(help="Of a run or sweep.")],
    /,
    *,
    format: Annotated[  # noqa: A002 - the option's name
        list[str] | None, Parameter(help="html, pdf or latex; by default all.", negative="")
    ] = None,
    baseline: Annotated[str, Parameter(help="Condition that others are compared with.")] = "",
    open: Annotated[bool, Parameter(negative="", help="Show the page.")] = False,  # noqa: A002
    output: Folder = None,
) -> None:
    """Write tables, plots and comparisons: HTML, PDF and LaTeX."""
    from stretto.commons.report import write_report
    from stretto.commons.report.write import FORMATS

    runs = sorted(folder.glob("runs/*/game.jsonl"))
    source = runs[0].parent if len(runs) == 1 else folder
    formats = tuple(format or FORMATS)
    paths = write_report(source, output or folder / "report", formats, baseline=baseline)
    _name(paths)
    if open:
        _open(paths)


@app.command(name="import")
def import_(
    sources: Annotated[list[Path], Parameter(help="Folders of GovSim's logs, files of results.")],
    /,
    *,
    output: Folder = None,
) -> None:
    """Measure what others' code has logged, and write a report."""
    from stretto.commons.report import import_report

    for source in sources:
        if not source.exists():
            raise InputError(f"{source}: is not there")
    _name(import_report(sources, output or Path("runs") / f"import-{sources[0].stem}"))


@app.command
def leaderboard(
    folders: Annotated[list[Path], Parameter(help="Of runs and sweeps.")],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("leaderboard"),
) -> None:
    """Rank the models of finished runs."""
    from stretto.commons.leaderboard import leaderboard

    _name(leaderboard(*folders, out=output))


@app.command
def experiments(*, json: AsJson = False) -> None:
    """List the experiments that ship."""
    from stretto.commons.experiments import described, names

    rows = [{"name": name, "about": described(name).about} for name in names()]
    emit(rows, ("name", "about"), "json" if json else "table")


@app.command
def replay(
    folder: Annotated[Path, Parameter(help="Of a run, or of a sweep.")],
    /,
    *,
    run: Annotated[str, Parameter(help="Which run of a sweep; by default the first.")] = "",
) -> None:
    """Print what happened in a run, month by month."""
    from rich.console import Console

    from stretto.commons.replay import read_events, transcript

    out = Console(file=sys.stdout, markup=False, highlight=False)
    for line in transcript(read_events(_played(folder, run))):
        out.print(line)


def _name(paths: Sequence[Path]) -> None:
    for path in paths:
        _say(str(path))


def _open(paths: Sequence[Path]) -> None:
    """Show a page where a person has a browser."""
    import os
    import webbrowser

    can_show = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY")
    for path in paths:
        if path.suffix == ".html" and can_show and sys.stdout.isatty():
            webbrowser.open(path.resolve().as_uri())


def _played(folder: Path, run: str) -> Path:
    """The folder of a run.

    Raises:
        InputError: there is none.
    """
    if not run and (folder / "game.jsonl").is_file():
        return folder
    found = sorted(path.parent.name for path in folder.glob("runs/*/game.jsonl"))
    if not found:
        raise InputError(f"{folder}: holds no run that was begun")
    if run and run not in found:
        raise InputError(f"{folder}: has no run {run!r}; there are {', '.join(found[:3])}, ...")
    return folder / "runs" / (run or found[0])
