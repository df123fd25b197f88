"""Whoever works on a sweep: takes runs that nobody has, plays some at once, until none are left."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stretto.commons.ledger import Ledger
from stretto.commons.metrics import measure
from stretto.commons.model_config import open_models
from stretto.commons.play import JOURNAL, play
from stretto.commons.sweep import Planned, is_done, load, run_folder
from stretto.commons.villager import Answer
from stretto.errors import LimitError, StrettoError
from stretto.protocols import ChatModel
from stretto.runs import Run

LOOK = 0.5  # seconds between looks at what others have under way
PATIENCE = 20
# What a plug-in may raise that was not meant to.
_DEFECTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NameError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip


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
    """Play what nobody else plays, until every run is done or has failed.

    What another holds is waited for, and taken up if its holder dies. After PATIENCE questions in
    a row without an answer from a model, all stops: its endpoint is down, and runs played on would
    be worth nothing.

    Args:
        folder: of the sweep.
        together: runs under way at once in this process.
        limits: of the whole sweep.
        local: opens models on this machine, as ``module:function``.
        parent: stop when this process is no longer the parent, or asks for it (SIGTERM); 0: never.

    Returns:
        What went wrong, by run. What stops all runs is told under the empty name.

    Raises:
        StrettoError: the folder holds no sweep, or a model cannot be opened.
    """
    worker = _Worker(Path(folder), limits or Limits(), local, parent)
    return asyncio.run(worker.work(together))


class _Worker:
    """One process's part in a sweep."""

    def __init__(self, folder: Path, limits: Limits, local: str, parent: int) -> None:
        self._folder, self._local, self._parent = folder, local, parent
        self._sweep, self._runs = load(folder)
        self._budget = Ledger(
            folder / "ledger.jsonl", limits.dollars, limits.requests, limits.tokens
        )
        self._since, self._mine = time.time(), set[str]()
        self._wrong: dict[str, str] = {}
        self._unanswered: Counter[str] = Counter()

    async def work(self, together: int) -> dict[str, str]:
        """See the function."""
        async with AsyncExitStack() as stack:
            cache = self._folder / "cache.jsonl"
            models = await open_models(
                stack, self._sweep.models, cache=cache, budget=self._budget, local=self._local
            )
            if self._parent:
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGTERM, self._budget.stop, "stopped")
            async with asyncio.TaskGroup() as group:
                for _ in range(together):
                    group.create_task(self._take_turns(models))
            # Questions of runs that stopped are still on their way: their answers are kept.
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*rest, return_exceptions=True)
        return self._wrong

    async def _take_turns(self, models: Mapping[str, ChatModel]) -> None:
        while (taken := await self._take()) is not None:
            one, lock = taken
            try:
                failed = await play_planned(self._folder, one, models, self._on_answer)
            except LimitError as error:
                self._budget.stop(str(error))
                self._wrong[""] = str(error)
            else:
                if failed:
                    self._wrong[one.id] = failed
            finally:
                lock.release()

    async def _take(self) -> tuple[Planned, FileLock] | None:
        """The next run, with its lock held; None: there is none for this worker any more."""
        while not self._must_stop():
            is_waiting = False
            for one in list(self._runs):
                if one.id in self._mine:
                    continue
                if is_done(self._folder, one.id):
                    self._runs.remove(one)
                    continue
                if (lock := self._lock(one)) is None:
                    is_waiting = True
                    continue
                if is_done(self._folder, one.id) or self._has_failed(one):
                    self._runs.remove(one)
                    lock.release()
                    continue
                self._mine.add(one.id)
                return one, lock
            if not is_waiting:
                return None
            await asyncio.sleep(LOOK)
        return None

    def _lock(self, one: Planned) -> FileLock | None:
        path = run_folder(self._folder, one.id)
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    def _has_failed(self, one: Planned) -> bool:
        """Whether another worker has tried it in vain, since this one began."""
        path = run_folder(self._folder, one.id)
        if not (path / "events.jsonl").exists():
            return False
        last = list(Run(path).events())[-1:]
        return any(e["type"] == "failed" and e["time"] > self._since for e in last)

    def _must_stop(self) -> bool:
        try:
            self._budget.check()
        except LimitError as error:
            self._wrong[""] = str(error)
            return True
        return bool(self._parent) and os.getppid() != self._parent

    def _on_answer(self, answer: Answer) -> None:
        if answer.outcome in ("error", "timeout"):
            self._unanswered[answer.model] += 1
        else:
            del self._unanswered[answer.model]
        if (times := self._unanswered[answer.model]) >= PATIENCE:
            self._budget.stop(f"{answer.model} gave no answer {times} times in a row; {answer.why}")
        self._budget.check()


async def play_planned(
    folder: Path,
    one: Planned,
    models: Mapping[str, ChatModel],
    on_answer: Callable[[Answer], None] = lambda _: None,
    **options: Any,
) -> str:
    """Play a run into its folder, or on from where it stopped; ``metrics.json`` comes last.

    What a try took, and why it stopped, stands in the run's ``events.jsonl``.

    Args:
        folder: of the sweep.
        one: the run.
        models: by the names that seats give.
        on_answer: told of every new answer; may stop the run by an error.
        options: further arguments of :func:`stretto.commons.play.play`.

    Returns:
        Why it failed, or an empty text.

    Raises:
        LimitError: it stopped, and can be played on.
    """
    path = run_folder(folder, one.id)
    run = Run(path) if (path / "events.jsonl").exists() else None
    run = run or Run.create(path, one.config, kind="commons")
    began, tally = time.monotonic(), _Tally()

    def told(answer: Answer) -> None:
        tally.add(answer)
        on_answer(answer)

    try:
        game = await play(one.config, models, path, on_answer=told, **options)
    except LimitError as error:
        run.event("stopped", why=str(error), **asdict(tally))
        raise
    except (StrettoError, *_DEFECTS) as error:  # one run must not take the others with it
        why = str(error) if isinstance(error, StrettoError) else f"{type(error).__name__}: {error}"
        run.event("failed", error=why, **asdict(tally))
        return why
    run.event("played", seconds=time.monotonic() - began, **asdict(tally))
    run.event("finished")
    run.write_metrics({
        "id": one.id, "condition": one.condition, "seed": one.seed,
        "strict": asdict(measure(game)), "legacy": asdict(measure(game, "legacy")),
        "months": game.months, "collapsed": game.collapsed,
        "stock": game.stock.tolist(), "left": game.left.tolist(), "answers": _outcomes(path),
    })  # fmt: skip
    return ""


def _outcomes(path: Path) -> dict[str, int]:
    """A run's answers by outcome, those of policies left out."""
    lines = (path / JOURNAL).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    answers = [event for event in map(json.loads, lines) if event["type"] == "answer"]
    return dict(Counter(e["outcome"] for e in answers if not e["model"].startswith("scripted:")))


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
