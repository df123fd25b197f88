"""``stretto exits``: train what a model can be left early by, without touching the model."""

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from stretto.cli.output import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stretto.training.exit_config import ExitConfig
    from stretto.training.exit_texts import Request, Speak

app = App(name="exits", help="Train exit heads: drafts of what a model will say, from few layers.")


@app.command
def train(
    recipe: str,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    source: Path | None = None,
    data: Path | None = None,
    resume: bool = False,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    dry_run: bool = False,
) -> None:
    """Train exit heads for a model; the model itself stays as it is, bit for bit.

    Args:
        recipe: name of a shipped recipe, or a YAML file.
        output: run folder (default: runs/exits-RECIPE); the heads go to its folder exits.
        source: folder with the raw data sets (the unpacked training pack).
        data: folder of tables written by `stretto data build`, for a model with streams; by
            default the recipe's own are built first, into the run folder.
        resume: go on with the run in the run folder.
        set_: change a setting, as in `--set inner=256`; may be repeated.
        dry_run: check the recipe and print all its settings as YAML, without training.
    """
    import yaml

    from stretto.cli.train import built
    from stretto.config import dump
    from stretto.training.exit_config import load_exit_recipe

    config = load_exit_recipe(recipe, set_ or ())
    if dry_run:
        print(yaml.safe_dump(dump(config), sort_keys=False), end="")
        return
    output = output or Path("runs") / Path(recipe).stem
    if config.tables is not None:
        data = data or built(config.tables, config.base, source, output / "data", config.seed)

    from stretto.training.exits import train_exits

    command = shlex.join(["stretto", *sys.argv[1:]])
    try:
        with _Progress() as progress:
            folder = train_exits(
                config, output, source=source, data=data, speak=_speak(config), resume=resume,
                command=command, tell=progress.tell,
            )  # fmt: skip
    except KeyboardInterrupt:
        more = "" if resume else " --resume"
        print(f"stretto: interrupted; go on with {command}{more}", file=sys.stderr)
        sys.exit(130)
    console.print(f"exits: {folder}", highlight=False)


def _speak(config: "ExitConfig") -> "Speak | None":
    """The model as our own engine runs it; loaded when it is first asked."""
    settings, engines = config.answers, []
    if settings is None:
        return None

    def speak(requests: "Sequence[Request]") -> list[list[int]]:
        from stretto.engine import Engine, Limits, SamplingParams

        if not engines:
            engines.append(Engine.load(config.base, backend=settings.backend))
        engine = engines[0]
        sessions = [
            engine.open(
                prompts={engine.streams.names[0]: request.prompt},
                sampling=SamplingParams(temperature=request.temperature),
                limits=Limits(max_rows=settings.max_tokens),
                seed=request.seed,
            )
            for request in requests
        ]
        engine.run(sessions)
        return [[int(token) for token in session.table.rows[:, 0]] for session in sessions]

    return speak


class _Progress:
    """A bar with the time left on a terminal, a line now and then elsewhere."""

    EVERY_S = 15.0

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), TextColumn("{task.description}"),
            console=console, speed_estimate_period=120, disable=not console.is_terminal,
        )  # fmt: skip
        self._tasks: dict[int, Any] = {}
        self._last = float("-inf")

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tell(self, done: int, total: int, what: str) -> None:
        """A step has come so far; steps are told apart by their totals."""
        if total not in self._tasks:
            self._tasks[total] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[total], completed=done, description=what)
        if not console.is_terminal and (
            done == total or time.monotonic() - self._last > self.EVERY_S
        ):
            self._last = time.monotonic()
            console.print(f"{done}/{total} {what}", highlight=False)
