"""What ``stretto commons`` shows of a sweep: how it stands, and what came of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stretto.cli.output import console, emit

if TYPE_CHECKING:
    from stretto.commons.driver import Progress

_COLUMNS = (
    "condition", "runs", "survived", "survival_time", "gain", "efficiency", "equality",
    "over_usage", "invalid",
)  # fmt: skip


class Bar:
    """A sweep's progress on the terminal; a line now and then elsewhere."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=None)
        self._said = (-1, 0.0)

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self, told: "Progress") -> None:
        """The present state."""
        text = describe(told)
        self._bar.update(
            self._task, completed=told.done, total=told.runs, description=text, refresh=True
        )
        if console.is_terminal:
            return
        done, when = self._said
        if told.done == told.runs != done or told.seconds - when > 10 or done < 0:
            self._said = told.done, told.seconds
            console.print(f"{told.done}/{told.runs} {text}", highlight=False)


def describe(told: "Progress") -> str:
    """Requests, cost, failures and time to go, in a line."""
    parts = [f"{told.requests} requests"]
    if told.dollars:
        parts.append(f"${told.dollars:.2f}")
    bad = {outcome: n for outcome, n in told.answers.items() if outcome != "ok"}
    parts += [f"{n} {outcome}" for outcome, n in sorted(bad.items())]
    if failed := sum(bool(run) for run in told.wrong):
        parts.append(f"{failed} runs failed")
    if told.left is not None and told.done < told.runs:
        minutes, seconds = divmod(round(told.left), 60)
        parts.append(f"{minutes}:{seconds:02d} to go")
    return ", ".join(parts)


def summarise(folder: Path, as_json: bool) -> None:
    """Means over the runs of each condition, strict."""
    from stretto.commons.sweep import results

    groups: dict[str, list[dict[str, Any]]] = {}
    for one, metrics in results(folder):
        told = ", ".join(f"{key}={value}" for key, value in one.condition.items())
        groups.setdefault(told, []).append(metrics["strict"])
    rows = [
        {"condition": told, "runs": len(found)}
        | {column: _mean([each[column] for each in found]) for column in _COLUMNS[2:]}
        for told, found in groups.items()
    ]
    emit(rows, _COLUMNS, "json" if as_json else "table")
    console.print(f"wrote {folder}", highlight=False)


def _mean(values: list[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None
