"""Half an hour of everything that callers do, well or badly; nothing may leak, hang or differ.

Run as ``python -m benchmarks.soak --minutes 30``. Clients come at random, with random streams,
prompts, sampling and grammars. They read, interrupt, cancel, fork, send nonsense, are killed in
the middle, never read, or go without a word. At the end:

* memory is flat: its median in the second quarter and in the last differ by less than 2 %;
* nothing stays behind: now and then all clients leave and the cache is emptied, and what is still
  allocated then grows by less than 512 bytes a session;
* no session is stuck: each was over by its deadline and a margin;
* every surviving table is replayable, which gives the very same table.

Exit code 1 says that something failed, and the lines above it what. Ctrl-C ends the run early and
reports what there is.
"""

import argparse
import asyncio
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks import memory
from benchmarks.clients import KINDS, Desk
from benchmarks.goal import save
from benchmarks.machine import facts, line
from stretto.engine import Engine, Session
from stretto.engine.replay import replay_many
from stretto.errors import InputError
from stretto.models import MultiStreamLM, load_codec
from stretto.streams import StreamCodec, StreamTable

FLAT = 0.02
MARGIN_S = 5.0
"""Seconds behind its deadline at which a session counts as stuck: longer than any step."""
RESTS = 12
"""How often all clients leave."""
WARM_UP = 8000
"""Texts that are encoded first: the tokeniser's cache fills up to 10 000 words, some 4 MB."""
PAUSE_S = 3.0
"""Seconds between two looks at the sessions above which this process did not run, or hardly."""
ALONE, TOGETHER = 20, 8
"""Tables that are replayed one by one, and then at once."""
EXACT = ("transformers", "float32", "native")
"""Back ends whose tables are the same alone and among others, by parts of their names."""


@dataclass
class Report:
    """What a soak saw.

    Attributes:
        minutes: it really took.
        sessions: opened, by what their client did.
        finished: sessions by finish reason.
        rows: made by all of them.
        paused: seconds in which the clients' event loop stood still, in long pauses.
        rss: bytes of the process over time, while clients are there.
        growth: share by which the last quarter's median exceeds the second's; None if too short.
        cached: bytes of the cells that were cached at the same times.
        rests: how many sessions there had been, and bytes still allocated, when all were gone.
        left: bytes that each session left behind (see ``memory.slope``); None if too short.
        stuck: what was not over in time.
        crashed: what clients did not expect.
        tables, replayed, equal: that survived; of these played again; and of these the same.
        problems: a line each; empty is good.
    """

    minutes: float = 0.0
    sessions: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    paused: float = 0.0
    rss: list[int] = field(default_factory=list)
    growth: float | None = None
    cached: list[int] = field(default_factory=list)
    rests: list[tuple[int, int]] = field(default_factory=list)
    left: float | None = None
    stuck: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    tables: int = 0
    replayed: int = 0
    equal: int = 0
    problems: list[str] = field(default_factory=list)


class Soak:
    """Lets clients loose on one engine.

    Args:
        engine: of a model that knows several stream sets.
        seconds: how long clients come.
        replay: an engine of the same model to replay tables on; None replays none.
        is_exact: whether a table that differs in its replay is a failure.
        seed: of all that clients do.
        clients: how many there are at once, at most.
        deadline_s: of every session; some have a shorter one.
        replay_s: seconds to replay for.
        margin_s: see ``MARGIN_S``.
        flat: share by which memory may grow; more than ``FLAT`` for runs of seconds only, in which
            allocators still warm up.
        noise: bytes that may stay behind in all, likewise.
        tell: told the progress, a line at a time.
    """

    def __init__(
        self,
        engine: Engine,
        seconds: float,
        *,
        replay: Engine | None = None,
        is_exact: bool = True,
        seed: int = 0,
        clients: int = 12,
        deadline_s: float = 20.0,
        replay_s: float = 60.0,
        margin_s: float = MARGIN_S,
        flat: float = FLAT,
        noise: int = memory.NOISE,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.report = Report()
        self._engine, self._replay_engine, self._is_exact = engine, replay, is_exact
        self._seconds, self._clients, self._replay_s = seconds, clients, replay_s
        self._margin, self._tell, self._seed = margin_s, tell, seed
        self._flat, self._noise = flat, noise
        self._rng, self._deck = random.Random(seed), list[str]()
        self._deadline_s = min(deadline_s, max(1.0, seconds / 4))
        self._live: dict[Session, tuple[str, float]] = {}  # kind, and when it was opened
        self._stop = asyncio.Event()
        self._began = self._looked = time.monotonic()

    def run(self) -> Report:
        """Everything, to the end."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tables.jsonl"
            with path.open("w", encoding="utf-8") as file, ThreadPoolExecutor(4) as pool:
                asyncio.run(self._soak(file, pool))
            self._judge_memory()
            self._replay(path)
        if self.report.stuck:
            self.report.problems.append(f"{len(self.report.stuck)} stuck: {self.report.stuck[0]}")
        if self.report.crashed:
            first = self.report.crashed[0]
            self.report.problems.append(f"{len(self.report.crashed)} clients crashed: {first}")
        if not self.report.tables:
            self.report.problems.append("no table survived, so nothing was shown")
        return self.report

    # While it runs.

    async def _soak(self, file: IO[str], pool: ThreadPoolExecutor) -> None:
        self._listen()
        desk = Desk(self._engine, self._rng, self._open, self._deadline_s, pool)
        for _ in range(WARM_UP):
            self._engine.codec.encode(desk.text(40))
        self._began = self._looked = time.monotonic()
        tasks: set[asyncio.Task[None]] = set()
        last_look = last_rest = 0.0
        while (past := time.monotonic() - self._began) < self._seconds and not self._stop.is_set():
            if len(tasks) < self._clients:
                tasks.add(asyncio.create_task(self._client(desk)))
            pause = self._rng.expovariate(1 / 0.03)
            if self._rng.random() < 0.01:
                pause += self._seconds / 100  # now and then all are gone
            await asyncio.sleep(min(pause, 2.0))
            tasks = {task for task in tasks if not task.done()}
            self._look(file)
            if past - last_look > min(5.0, self._seconds / 60):
                last_look = past
                self.report.rss.append(memory.rss())
                self.report.cached.append(self._engine.stats().cached_bytes)
                self._progress(past)
            if past - last_rest > self._seconds / RESTS:
                await self._rest(file, tasks, pool)
                last_rest = time.monotonic() - self._began
        self.report.minutes = (time.monotonic() - self._began) / 60
        self._tell("no more clients; waiting for those who are here")
        await self._rest(file, tasks, pool)
        for task in tasks:
            task.cancel()
        late = (await asyncio.wait(tasks, timeout=self._margin))[1] if tasks else set()
        self.report.stuck += [f"{kind}: never over" for kind, _ in self._live.values()]
        self.report.stuck += ["a client that does not return" for _ in late]

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # signals go there
        with suppress(NotImplementedError):  # no signals on this system: Ctrl-C is not caught
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._stop.set)

    def _open(self, kind: str, session: Session) -> None:
        """A client has opened a session."""
        self.report.sessions[kind] += 1
        self._live[session] = kind, time.monotonic() - self.report.paused

    async def _client(self, desk: Desk) -> None:
        if not self._deck:  # every kind comes equally often, in random order
            self._deck = self._rng.sample(list(KINDS), len(KINDS))
        kind = self._deck.pop()
        task = asyncio.create_task(KINDS[kind](desk, kind))
        if kind == "killed":
            await asyncio.sleep(self._rng.uniform(0, 1.0))
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        except Exception as error:  # what clients meet is what this is about
            self.report.crashed.append(f"{kind}: {error!r}")

    def _look(self, file: IO[str]) -> None:
        """Put away who is over, and find who should be.

        Time in which nothing ran here at all (a computer that sleeps, a virtual one that is
        halted) counts for nobody.
        """
        now = time.monotonic()
        if now - self._looked > PAUSE_S:
            self.report.paused += now - self._looked
        self._looked, now = now, now - self.report.paused
        for session, (kind, opened) in list(self._live.items()):
            # Not by the session's own clock, which may be what stands still.
            limit = session.limits.deadline_s or self._deadline_s
            late = now - opened - limit
            if session.finish_reason is not None:
                self._put_away(session, file)
            elif late > self._margin:
                where = f"{kind}: row {len(session.rows)}, deadline {limit:.1f} s"
                self.report.stuck.append(f"{where}, now {late:.1f} s late")
                del self._live[session]

    def _put_away(self, session: Session, file: IO[str]) -> None:
        del self._live[session]
        self.report.finished[str(session.finish_reason)] += 1
        self.report.rows += len(session.rows)
        if session.finish_reason == "error":
            self.report.crashed.append(f"engine: {session.error!r}")
        elif session.rows:
            self.report.tables += 1
            file.write(session.table.to_jsonl().rstrip("\n") + "\n")

    async def _rest(
        self, file: IO[str], tasks: set[asyncio.Task[None]], pool: ThreadPoolExecutor
    ) -> None:
        """Nobody comes; who is here may stay until its deadline. Then see what was left behind."""
        loop = asyncio.get_running_loop()
        end = time.monotonic() + self._deadline_s + self._margin + 1
        while (self._live or not all(t.done() for t in tasks)) and time.monotonic() < end:
            # Sessions that nobody reads or serves move only when somebody steps.
            await loop.run_in_executor(pool, self._engine.step)
            self._look(file)
            await asyncio.sleep(0.01)
        if not self._live and all(task.done() for task in tasks):
            tasks.clear()
            self._engine.forget_prefixes()
            self.report.rests.append((self.report.sessions.total(), memory.held()))

    def _progress(self, past: float) -> None:
        report, left = self.report, max(0.0, self._seconds - past)
        self._tell(
            f"{past / 60:.1f} of {self._seconds / 60:.1f} min, {left / 60:.1f} left: "
            f"{report.sessions.total()} sessions ({len(self._live)} live), {report.rows} rows, "
            f"RSS {report.rss[-1] / 2**20:.0f} MiB ({report.cached[-1] / 2**20:.0f} cached), "
            f"{len(report.stuck)} stuck, "
            f"{len(report.crashed)} crashed"
        )

    # Afterwards.

    def _judge_memory(self) -> None:
        rss, rests = self.report.rss, self.report.rests
        self.report.left = left = memory.slope(rests)
        if left is not None and memory.is_leak(rests, left, self._noise):
            self.report.problems.append(
                f"each of {self.report.sessions.total()} sessions left {left:.0f} bytes behind"
            )
        if len(rss) < 8:
            self.report.problems.append("too short to say anything about memory")
            return
        quarter = len(rss) // 4
        early = statistics.median(rss[quarter : 2 * quarter])
        late = statistics.median(rss[-quarter:])
        self.report.growth = late / early - 1
        if self.report.growth > self._flat:
            self.report.problems.append(
                f"memory grew by {100 * self.report.growth:.1f} %, from {early / 2**20:.0f} to "
                f"{late / 2**20:.0f} MiB"
            )

    def _replay(self, path: Path) -> None:
        """Tables in random order, as many as there is time for."""
        engine, report = self._replay_engine, self.report
        if engine is None:
            return
        lines = path.read_text(encoding="utf-8").splitlines()
        random.Random(self._seed).shuffle(lines)
        end, differing = time.monotonic() + self._replay_s, []
        while report.replayed < len(lines) and time.monotonic() < end:
            number = TOGETHER if report.replayed >= ALONE else 1
            some = lines[report.replayed : report.replayed + number]
            tables = [StreamTable.from_jsonl(saved, engine.codec) for saved in some]
            for table, made in zip(tables, replay_many(engine, tables), strict=True):
                report.replayed += 1
                report.equal += made == table
                if isinstance(made, InputError):
                    differing.append(str(made))
        self._tell(f"replayed {report.replayed} of {report.tables} tables, {report.equal} equal")
        if differing and self._is_exact:
            report.problems.append(f"{len(differing)} replays differ: {differing[0]}")


def load(model: str) -> tuple[MultiStreamLM, StreamCodec]:
    """A checkpoint, or ``tiny``: a random model of several kilobytes."""
    if model == "tiny":
        from stretto.engine.testing import tiny_codec, tiny_lm

        return tiny_lm(), tiny_codec()
    return MultiStreamLM.from_pretrained(model, device="cpu", dtype="float32"), load_codec(model)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--backend", default="auto", help="name; auto: the fast one")
    parser.add_argument("--model", default="stretto-smollm2-135m", help="checkpoint, or tiny")
    parser.add_argument("--clients", type=int, default=12, help="at once, at most")
    parser.add_argument("--replay-minutes", type=float, help="default: a third of --minutes")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    from benchmarks.step import open_fast

    lm, codec = load(chosen.model)
    name, backend = open_fast(lm, None if chosen.backend == "auto" else chosen.backend)
    engines = [Engine(lm, codec, backend=backend, max_sessions=8) for _ in range(2)]
    replay_minutes = chosen.minutes / 3 if chosen.replay_minutes is None else chosen.replay_minutes
    is_exact = any(part in name for part in EXACT)
    soak = Soak(
        engines[0], 60 * chosen.minutes, replay=engines[1], is_exact=is_exact, seed=chosen.seed,
        clients=chosen.clients, replay_s=60 * replay_minutes,
        tell=lambda text: print(text, file=sys.stderr, flush=True),
    )  # fmt: skip
    report, told = soak.run(), facts(chosen.seed) | {"backend": name, "model": chosen.model}
    print(line(told))
    print(f"{name}, {chosen.model}: {report.minutes:.1f} minutes, {report.sessions.total()} "
          f"sessions, {report.rows} rows")  # fmt: skip
    for title, counts in (("clients", report.sessions), ("finished", report.finished)):
        print(f"{title}: " + ", ".join(f"{key} {n}" for key, n in counts.most_common()))
    grew = "-" if report.growth is None else f"{100 * report.growth:+.2f} %"
    left = "-" if report.left is None else f"{report.left:+.0f} bytes"
    cached = max(report.cached, default=0) / 2**20
    print(f"memory, last quarter over second: {grew} (cached at most {cached:.0f} MiB); left by "
          f"each session: {left}; stuck: {len(report.stuck)}; replayed "
          f"{report.replayed} of {report.tables} tables, {report.equal} equal"
          + (f"; stood still for {report.paused:.0f} s" if report.paused else "")
          + ("" if is_exact else " (need not be on this back end)"))  # fmt: skip
    for problem in report.problems:
        print(f"FAILED: {problem}")
    data = vars(report) | {name: dict(getattr(report, name)) for name in ("sessions", "finished")}
    print(f"written to {save('soak', told | data)}", file=sys.stderr)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
