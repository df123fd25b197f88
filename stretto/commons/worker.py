"""Whoever works on a sweep: takes runs that nobody has, plays some at once, until none are left."""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from stretto.commons.ledger import Ledger
from stretto.commons.metrics import measure
from stretto.commons.model_config import open_models
from stretto.commons.play import play
from stretto.commons.sweep import Planned, is_done, load, run_folder
from stretto.commons.villager import Answer
from stretto.errors import LimitError, StrettoError
from stretto.protocols import ChatModel
from stretto.runs import Run


@dataclass(frozen=True)
class Limits:
    """What a sweep may take; None: anything.

    Attributes:
        dollars: of all runs together, earlier tries too.
        requests: likewise.
        tokens: likewise.
    """

    dollars: float | None = None
    requests: int | None = None
    tokens: int | None = None


def work(
    folder: Path, *, together: int = 8, limits: Limits | None = None, local: str = "",
    parent: int = 0,
) -> dict[str, str]:  # fmt: skip
    """Play what nobody else plays, until nothing is left to take.

    Args:
        folder: of the sweep.
        together: runs under way at once in this process.
        limits: of the whole sweep.
        local: opens models on this machine, as ``module:function``.
        parent: stop when this process is no longer the parent; 0: never.

    Returns:
        What went wrong, by run. A spent budget is told under the empty name.
    """
    return asyncio.run(_work(Path(folder), together, limits or Limits(), local, parent))


async def _work(
    folder: Path, together: int, limits: Limits, local: str, parent: int
) -> dict[str, str]:
    sweep, runs = load(folder)
    budget = Ledger(folder / "ledger.jsonl", limits.dollars, limits.requests, limits.tokens)
    wrong: dict[str, str] = {}
    waiting = _takeable(folder, runs)
    async with AsyncExitStack() as stack:
        models = await open_models(
            stack, sweep.models, cache=folder / "cache.jsonl", budget=budget, local=local
        )

        async def take_turns() -> None:
            for one, lock in waiting:
                try:
                    await play_planned(folder, one, models)
                except LimitError as error:
                    wrong[""] = str(error)
                except StrettoError as error:
                    wrong[one.id] = str(error)
                finally:
                    lock.release()
                if wrong.get("") or (parent and os.getppid() != parent):
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(together):
                group.create_task(take_turns())
    return wrong


def _takeable(folder: Path, runs: list[Planned]) -> Iterator[tuple[Planned, FileLock]]:
    """Runs that are neither done nor somebody's, each with its lock held.

    One pass: a run that another process holds is that one's, and is taken up by the next worker if
    its holder dies.
    """
    for one in runs:
        if is_done(folder, one.id):
            continue
        path = run_folder(folder, one.id)
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            continue
        if is_done(folder, one.id):
            lock.release()
            continue
        yield one, lock


async def play_planned(folder: Path, one: Planned, models: Mapping[str, ChatModel]) -> None:
    """Play a run into its folder, or on from where it stopped; ``metrics.json`` comes last.

    What a try took, and why it stopped, stands in the run's ``events.jsonl``.
    """
    path = run_folder(folder, one.id)
    run = Run(path) if (path / "events.jsonl").exists() else None
    run = run or Run.create(path, one.config, kind="commons")
    began, tally = time.monotonic(), _Tally()
    try:
        game = await play(one.config, models, path, on_answer=tally.add)
    except StrettoError as error:
        run.event("failed", error=str(error), **asdict(tally))
        raise
    run.event("played", seconds=time.monotonic() - began, **asdict(tally))
    run.event("finished")
    run.write_metrics({
        "id": one.id, "condition": one.condition, "seed": one.seed,
        "strict": asdict(measure(game)), "legacy": asdict(measure(game, "legacy")),
        "months": game.months, "collapsed": game.collapsed,
        "stock": game.stock.tolist(), "left": game.left.tolist(),
    })  # fmt: skip


@dataclass
class _Tally:
    """What this try of a run asked: answers by outcome, and what they took."""

    answers: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0

    def add(self, answer: Answer) -> None:
        self.answers += 1
        self.failed += answer.outcome != "ok"
        self.prompt_tokens += answer.usage.prompt_tokens
        self.completion_tokens += answer.usage.completion_tokens
        self.dollars += answer.usage.cost
