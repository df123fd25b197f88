"""``stretto sweep``: measure a grid of settings."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from stretto.cli.output import console, emit

app = App(name="sweep", help="Measure a grid of settings, as table and picture.")

Many = Parameter(consume_multiple=True, negative=())


@app.command
def exits(
    model: str = "smollm2-135m",
    /,
    *,
    exits: Path | None = None,
    layers: Annotated[list[int] | None, Many] = None,
    lengths: Annotated[list[int] | None, Many] = None,
    backend: str = "native:int8",
    source: Path | None = None,
    limit: int = 3,
    max_rows: int = 64,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("exits-sweep.csv"),
    picture: Path | None = None,
    json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
) -> None:
    """Speed-up of drafts by an exit, over exit layer and draft length; greedy, nothing adapts.

    Prints what the cost model of the LayerSkip paper says beside what was measured. What is said
    is compared with plain decoding.

    Args:
        model: name or folder.
        exits: folder of exit heads (default: those that ship for the model).
        layers: where to leave it (default: wherever there is a head); without a head, the model's
            own norm and unembedding draft.
        lengths: rows that are drafted at a time (default: 1 2 3 4 6).
        backend: native, native:int8, native:bfloat16 or native:float32.
        source: unpacked development pack (default: ../shared/data/dev.tar.xz, if it is there;
            else a few prompts of our own).
        limit: prompts for each of chat, summary and code.
        max_rows: rows of an answer, at most.
        output: CSV file.
        picture: heat map, a PNG file (default: as the CSV file).
        json: print JSON.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from stretto.evals.sweep import ALL, COLUMNS, SweepConfig, sweep, write

    config = SweepConfig(
        model=model, exits=exits, layers=tuple(dict.fromkeys(layers or ())), backend=backend,
        source=source, limit=limit, max_rows=max_rows,
        **({"lengths": tuple(dict.fromkeys(lengths))} if lengths else {}),
    )  # fmt: skip
    import stretto.evals.heatmap  # noqa: F401 - if a package is missing, say so first

    bar = Progress(
        BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task("loading", total=None)

        def tell(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)
            if not console.is_terminal:
                console.print(f"{done}/{total} {what}", highlight=False)

        lines = sweep(config, tell)
    shown = lines if json else [line for line in lines if line["task"] == ALL]
    emit(shown, COLUMNS, "json" if json else "table")
    paths = write(lines, output, picture or output.with_suffix(".png"))
    console.print("wrote " + ", ".join(map(str, paths)), highlight=False)
