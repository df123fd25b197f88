"""Driving a sweep to its end: processes here, or tasks on a Ray cluster.

The driver hands nothing out; it starts workers, looks at the folder for progress, and starts
another worker where one died. Killed itself, it leaves workers that stop after their present runs.
Interrupted, it lets workers keep the answers that are on their way, and nothing more is asked.
"""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from stretto.commons.ledger import Ledger
from stretto.commons.sweep import Planned, is_done, load, run_folder
from stretto.commons.worker import Limits, work
from stretto.errors import ConfigError, StrettoError

LOOK = 0.5  # seconds between looks at the folder
MOST_DEATHS = 20


@dataclass(frozen=True)
class Progress:
    """How a sweep stands.

    Attributes:
        done: runs.
        runs: of the sweep.
        seconds: since the driver began.
        dollars: spent, earlier tries too.
        requests: likewise.
        answers: of the runs that are done, by outcome; those of policies left out.
        left: seconds to go, estimated from this driver's runs; None before the first.
        wrong: what went wrong, by run; what stopped all of them under the empty name.
    """

    done: int
    runs: int
    seconds: float
    dollars: float
    requests: int
    answers: dict[str, int]
    left: float | None
    wrong: dict[str, str] = field(default_factory=dict)


def drive(
    folder: Path,
    *,
    workers: int = 1,
    together: int = 8,
    limits: Limits | None = None,
    local: str = "",
    ray_address: str | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Play all runs of a sweep that are not done.

    Args:
        folder: of the sweep.
        workers: processes, or Ray tasks.
        together: runs under way at once in each.
        limits: of the whole sweep.
        local: opens models on this machine, as ``module:function``.
        ray_address: of a cluster that sees the folder; ``local`` starts one here; None: processes.
        on_progress: told now and then, and at the end.

    Raises:
        ConfigError: fewer than one worker, or Ray is not installed.
        KeyboardInterrupt: it was interrupted; drive again to go on.
    """
    if workers < 1 or together < 1:
        raise ConfigError(f"workers and together: must be at least 1, not {workers}, {together}")
    runs = load(folder)[1]
    watch = _Watch(folder, runs, limits or Limits(), on_progress)
    arguments = {"together": together, "limits": limits, "local": local}
    if ray_address is None:
        _processes(folder, workers, arguments, watch)
    else:
        _on_ray(folder, workers, arguments, watch, ray_address)
    return watch.look()


class _Watch:
    """What has come of a sweep, and what went wrong in this driver's time."""

    def __init__(
        self, folder: Path, runs: list[Planned], limits: Limits,
        on_progress: Callable[[Progress], None],
    ) -> None:  # fmt: skip
        self._folder, self._tell, self._num = folder, on_progress, len(runs)
        self._ledger = Ledger(
            folder / "ledger.jsonl", limits.dollars, limits.requests, limits.tokens
        )
        self._open, self._answers = {one.id for one in runs}, Counter[str]()
        self.wrong: dict[str, str] = {}
        self._note()
        self._began, self._first = time.monotonic(), self._num - len(self._open)
        self._deaths, self._at_death = 0, len(self._open)

    def look(self) -> Progress:
        self._note()
        self._ledger.catch_up()
        seconds, done = time.monotonic() - self._began, self._num - len(self._open)
        left = seconds / (done - self._first) * len(self._open) if done > self._first else None
        told = Progress(
            done, self._num, seconds, self._ledger.spent_dollars, self._ledger.spent_requests,
            dict(self._answers), left, dict(self.wrong),
        )  # fmt: skip
        self._tell(told)
        return told

    @property
    def num_open(self) -> int:
        """How many runs may still be played."""
        return 0 if "" in self.wrong else len(self._open - self.wrong.keys())

    def note_death(self) -> None:
        """A worker was killed: by somebody, or by what it plays."""
        self._deaths = self._deaths + 1 if self._at_death == len(self._open) else 1
        self._at_death = len(self._open)
        if self._deaths >= MOST_DEATHS:
            self.wrong[""] = f"{self._deaths} workers were killed and no run was finished; why?"

    def _note(self) -> None:
        for run in [run for run in self._open if is_done(self._folder, run)]:
            self._open.remove(run)
            metrics = json.loads((run_folder(self._folder, run) / "metrics.json").read_text())
            self._answers.update(metrics.get("answers", {}))


def _processes(folder: Path, workers: int, arguments: dict[str, Any], watch: _Watch) -> None:
    """Worker processes; one that was killed is replaced as long as runs are left."""
    context = get_context("spawn")
    running: dict[Connection, Any] = {}

    def start() -> None:
        receive, send = context.Pipe(duplex=False)
        process = context.Process(
            target=_child, args=(folder, arguments, os.getpid(), send), daemon=True
        )
        process.start()
        send.close()
        running[receive] = process

    def look() -> None:
        for receive in wait(list(running), LOOK):
            assert isinstance(receive, Connection)
            process = running.pop(receive)
            try:
                watch.wrong.update(receive.recv())
            except EOFError:
                process.join()
                if process.exitcode >= 0:
                    watch.wrong[""] = "a worker crashed; its traceback stands above"
                watch.note_death()
                if watch.num_open:
                    start()
        watch.look()

    try:
        watch.look()
        for _ in range(min(workers, watch.num_open)):
            start()
        while running:
            look()
            if not running and watch.num_open:  # another driver's worker died over a run
                start()
    except KeyboardInterrupt:
        watch.wrong[""] = "interrupted"
        for process in running.values():
            process.terminate()
        while running:
            look()
        raise
    finally:
        for process in running.values():
            process.kill()


def _child(folder: Path, arguments: dict[str, Any], parent: int, send: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver is interrupted too, and says so
    told = _work(folder, parent=parent, **arguments)
    with suppress(BrokenPipeError):  # the driver was killed: nobody listens
        send.send(told)


def _work(folder: Path, **arguments: Any) -> dict[str, str]:
    """Work; what hinders all runs is told like a spent budget."""
    try:
        return work(folder, **arguments)
    except StrettoError as error:
        return {"": str(error)}


def _on_ray(
    folder: Path, workers: int, arguments: dict[str, Any], watch: _Watch, address: str
) -> None:
    """Tasks that Ray starts again where one was killed."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError("ray is not installed; pip install 'stretto[ray]'") from None
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, **own)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"ray at {address}: {str(error).splitlines()[0]}") from None
    try:
        # Tasks wait for endpoints most of the time, so none needs a core of its own.
        task = ray.remote(max_retries=-1, num_cpus=0)(_work)
        watch.look()
        while watch.num_open:
            count = min(workers, watch.num_open)
            waiting = [task.remote(folder.resolve(), **arguments) for _ in range(count)]
            while waiting:
                ready, waiting = ray.wait(waiting, timeout=LOOK)
                for one in ready:
                    watch.wrong.update(ray.get(one))
                watch.look()
    finally:
        ray.shutdown()
