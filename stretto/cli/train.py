"""``stretto train``: tune a model from a recipe."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stretto.cli.output import console
from stretto.errors import ConfigError


def train(
    recipe: str,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    data: Path | None = None,
    source: Path | None = None,
    resume: bool = False,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    dry_run: bool = False,
) -> None:
    """Tune a model; the result is a checkpoint that every other command takes.

    Args:
        recipe: name of a shipped recipe, or a YAML file.
        output: run folder (default: runs/train-RECIPE).
        data: folder written by `stretto data build`; by default the recipe's own data recipe is
            built first, into the run folder.
        source: folder with the raw data sets, for building.
        resume: go on from the last checkpoint in the run folder.
        set_: change a setting, as in `--set optimiser.learning_rate=1e-4`; may be repeated.
        dry_run: check the recipe and print all its settings as YAML, without training.
    """
    import yaml

    from stretto.config import dump
    from stretto.training.config import load_recipe
    from stretto.training.distribution import rank

    config = load_recipe(recipe, set_ or ())
    output = output or Path("runs") / f"train-{Path(recipe).stem}"
    if dry_run:
        print(yaml.safe_dump(dump(config), sort_keys=False), end="")
        return
    data = data or built(config.data, config.base, source, output / "data", config.seed)

    from stretto.training.run import train as run_training

    try:
        folder = run_training(config, output, data=data, resume=resume)
    except KeyboardInterrupt:
        if rank() == 0:
            print(f"stretto: interrupted; go on with {_resuming(sys.argv[1:])}", file=sys.stderr)
        sys.exit(130)
    if rank() == 0:
        console.print(f"checkpoint: {folder}", highlight=False)


def _resuming(arguments: list[str]) -> str:
    """The command that goes on with a run begun by these arguments."""
    more = [] if "--resume" in arguments else ["--resume"]
    return shlex.join(["stretto", *arguments, *more])


def built(data: str, base: str, source: Path | None, folder: Path, seed: int) -> Path:
    """The shards of a data recipe: an existing folder, or built now."""
    from stretto.training.distribution import processes

    for candidate in (Path(data), folder):
        if (candidate / "manifest.json").exists():
            return candidate
    if processes() > 1:
        raise ConfigError(
            f"data recipe {data!r} is not built: run `stretto data build` first, and give --data "
            "DIR to all processes"
        )
    if source is None:
        raise ConfigError(
            f"data recipe {data!r} is not built: give --source DIR with the raw data sets, or "
            "--data DIR with what `stretto data build` wrote"
        )
    from stretto.models.checkpoint import load_codec
    from stretto.streams.build import build

    build(data, folder, codec=load_codec(base), source=source, seed=seed)
    return folder
