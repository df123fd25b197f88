"""Driving a sweep to its end: processes here, or tasks on a Ray cluster.

The driver hands nothing out; it starts workers, looks at the folder for progress, and starts
another worker where one died. Killed itself, it leaves workers that stop after their present runs.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from stretto.commons.ledger import Ledger
from stretto.commons.sweep import Planned, is_done, load
from stretto.commons.worker import Limits, work
from stretto.errors import ConfigError

LOOK = 0.5  # seconds between looks at the folder


@dataclass(frozen=True)
class Progress:
    """How a sweep stands.

    Attributes:
        done: runs.
        runs: of the sweep.
        seconds: since the driver began.
        dollars: spent, earlier tries too.
        requests: likewise.
        left: seconds to go, estimated from this driver's runs; None before the first.
        wrong: what went wrong, by run; a spent budget under the empty name.
    """

    done: int
    runs: int
    seconds: float
    dollars: float
    requests: int
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
        self._folder, self._runs, self._tell = folder, runs, on_progress
        self._ledger = Ledger(
            folder / "ledger.jsonl", limits.dollars, limits.requests, limits.tokens
        )
        self._began, self._done = time.monotonic(), {r.id for r in runs if is_done(folder, r.id)}
        self._first = len(self._done)
        self.wrong: dict[str, str] = {}

    def look(self) -> Progress:
        self._done |= {
            r.id for r in self._runs if r.id not in self._done and is_done(self._folder, r.id)
        }
        self._ledger.catch_up()
        seconds, new = time.monotonic() - self._began, len(self._done) - self._first
        left = seconds / new * (len(self._runs) - len(self._done)) if new else None
        told = Progress(
            len(self._done), len(self._runs), seconds, self._ledger.spent_dollars,
            self._ledger.spent_requests, left, dict(self.wrong),
        )  # fmt: skip
        self._tell(told)
        return told

    @property
    def open(self) -> bool:
        """Whether there is anything left that may still be played."""
        if "" in self.wrong:
            return False
        return any(r.id not in self._done and r.id not in self.wrong for r in self._runs)


def _processes(folder: Path, workers: int, arguments: dict[str, Any], watch: _Watch) -> None:
    """Worker processes; one that died is replaced as long as runs are left."""
    context = get_context("spawn")
    running: list[Any] = []

    def start() -> None:
        receive, send = context.Pipe(duplex=False)
        process = context.Process(
            target=_child, args=(folder, arguments, os.getpid(), send), daemon=True
        )
        process.start()
        send.close()
        running.append((process, receive))

    try:
        watch.look()
        for _ in range(workers):
            if watch.open:
                start()
        while running:
            time.sleep(LOOK)
            watch.look()
            for process, receive in list(running):
                if process.is_alive():
                    continue
                running.remove((process, receive))
                try:
                    watch.wrong.update(receive.recv())
                except EOFError:  # it was killed
                    if watch.open:
                        start()
            if not running and watch.open:
                # Runs of a worker that died after the others had passed them by.
                watch.look()
                if watch.open:
                    start()
    finally:
        for process, _ in running:
            process.terminate()


def _child(folder: Path, arguments: dict[str, Any], parent: int, send: Any) -> None:
    send.send(work(folder, parent=parent, **arguments))


def _on_ray(
    folder: Path, workers: int, arguments: dict[str, Any], watch: _Watch, address: str
) -> None:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError("ray is not installed; pip install 'stretto[ray]'") from None
    ray.init(address=None if address == "local" else address, log_to_driver=False)
    try:
        task = ray.remote(max_retries=-1, num_cpus=1)(work)
        while True:
            waiting = [task.remote(Path(folder).resolve(), **arguments) for _ in range(workers)]
            while waiting:
                ready, waiting = ray.wait(waiting, timeout=LOOK)
                for one in ready:
                    watch.wrong.update(ray.get(one))
                watch.look()
            if not watch.open:
                return
    finally:
        ray.shutdown()
