"""What a person sees of a training run, and what is written to its events."""

import sys
import time
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from stretto.runs import Run
from stretto.training.distribution import values_held


class ProgressCallback(TrainerCallback):
    """A progress bar with tokens/s and time left on a terminal, plain lines elsewhere.

    Without a run (in all processes but the first) it is quiet. Leaving the context ends the bar.
    """

    def __init__(self, run: Run | None, steps: int) -> None:
        self._run = run
        self._console = Console(file=sys.stderr)
        self._bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=run is None or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=steps)
        self._last = time.monotonic()

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Show the bar, from where a resumed run goes on; write how the model is spread."""
        if self._run is not None and model is not None:
            held, values = values_held(model)
            self._run.event("spread", processes=args.world_size, values=values, held=held)
        self._bar.start()
        self._bar.update(self._task, completed=state.global_step)
        self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write the losses to the events and, in short, for a person."""
        if self._run is None or not logs:
            return
        logs = dict(logs)
        now = time.monotonic()
        if "cells" in logs:
            logs["cells_per_s"] = round(logs["cells"] / max(1e-9, now - self._last), 1)
            self._last = now
        self._run.event("log", step=state.global_step, **logs)
        if "content" in logs:
            line = (
                f"content {logs['content']:.3f}  silence {logs.get('silence', 0):.3f}  "
                f"{logs['cells_per_s']:.0f} tokens/s"
            )
            self._bar.update(self._task, description=line)
            if not self._console.is_terminal:
                self._console.print(f"step {state.global_step}  {line}", highlight=False)
        elif "eval_content" in logs:
            self._console.print(
                f"step {state.global_step}  held-out content {logs['eval_content']:.3f}  "
                f"silence {logs.get('eval_silence', 0):.3f}{_by_exit(logs)}",
                highlight=False,
                soft_wrap=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was, whatever has happened."""
        self._bar.stop()


def _by_exit(logs: dict[str, float]) -> str:
    """Held-out content loss of each exit, for the line of an evaluation."""
    exits = [(n.split("_")[1], loss) for n, loss in logs.items() if n.startswith("eval_exit")]
    return "".join(f"  {name} {loss:.3f}" for name, loss in exits)
