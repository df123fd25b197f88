"""``make bench-agents``: the figures behind the goals of agents.

Sections are functions in ``MEASURES``; ``python -m benchmarks.agents sandbox`` runs one of them.
``FULL=1`` adds what a model gains by its own attempts, a quarter of an hour.
"""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from benchmarks.agent_live import live
from benchmarks.agent_stream import overlap
from benchmarks.bfcl import bfcl
from benchmarks.goal import Goal, Measure, missing, run
from benchmarks.improve import improved
from benchmarks.ipython import NoIPythonError, kernels
from benchmarks.m3tooleval import m3tooleval
from stretto.agents.sandbox import Policy, open_sandbox
from stretto.agents.sandbox.base import Session

WARM_UP = 5


def _quantiles(seconds: list[float]) -> tuple[float, float]:
    """(p50, p95) in milliseconds."""
    ordered = sorted(seconds)
    return statistics.median(ordered) * 1e3, ordered[int(0.95 * (len(ordered) - 1))] * 1e3


def _goals(what: str, seconds: list[float], p50: float, p95: float) -> list[Goal]:
    found = _quantiles(seconds)
    return [
        Goal(
            "4.2",
            f"{what}, {name} of {len(seconds)}",
            value,
            "ms",
            f"<= {target:g}",
            value <= target,
        )
        for name, value, target in (("p50", found[0], p50), ("p95", found[1], p95))
    ]


async def _times(count: int, action: Callable[[], Awaitable[float]]) -> list[float]:
    return [await action() for _ in range(count + WARM_UP)][WARM_UP:]


async def _cell(session: Session) -> float:
    started = time.perf_counter()
    result = await session.exec("x = 1 + 1\nx")
    assert result.value == 2
    return time.perf_counter() - started


async def _fork(session: Session) -> float:
    started = time.perf_counter()
    copy = await session.fork()
    seconds = time.perf_counter() - started
    await copy.close()
    return seconds


async def _kill(session: Session) -> float:
    """From the request to the end of a cell that ignores interrupts."""
    copy = await session.fork()
    cell = asyncio.create_task(copy.exec(_STUBBORN))
    await asyncio.sleep(0.05)
    started = time.perf_counter()
    await copy.cancel("kill")
    await cell
    seconds = time.perf_counter() - started
    await copy.close()
    return seconds


_STUBBORN = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"


async def _cold(backend: str) -> float:
    """From nothing to a first result, without a pool."""
    started = time.perf_counter()
    opened = open_sandbox(backend, Policy(), warm=0)  # type: ignore[arg-type]
    async with opened as box, box.session() as session:
        assert (await session.exec("1 + 1")).value == 2
        return time.perf_counter() - started


async def _pooled(backend: str) -> float:
    """From asking for a session of a full pool to its first result."""
    async with open_sandbox(backend, Policy()) as box:  # type: ignore[arg-type]
        await box.warm()  # type: ignore[attr-defined]
        started = time.perf_counter()
        async with box.session() as session:
            assert (await session.exec("1 + 1")).value == 2
            return time.perf_counter() - started


def sandbox() -> Iterable[Goal]:
    """Latency of the sandboxes: warm cell, fork, cold start, kill."""
    goals = []

    async def warm(backend: str) -> None:
        async with open_sandbox(backend, Policy(wall=60, cpu=60)) as box:  # type: ignore[arg-type]
            await box.warm()  # type: ignore[attr-defined]
            async with box.session() as session:
                await asyncio.sleep(0.5)  # the pool fills again
                for what, action, count, p50, p95 in (
                    ("cell in a warm session", _cell, 300, 1, 5),
                    ("fork of a session", _fork, 100, 5, 15),
                    ("kill of a cell", _kill, 30, 100, 200),
                ):
                    seconds = await _times(count, lambda action=action: action(session))
                    goals.extend(_goals(f"{backend}: {what}", seconds, p50, p95))

    cold: dict[str, list[float]] = {"bubblewrap": [], "landlock": []}
    for backend in cold:
        asyncio.run(warm(backend))
    for _ in range(20 + WARM_UP):  # in turns, so that both have the same machine
        for backend, seconds in cold.items():
            seconds.append(asyncio.run(_cold(backend)))
    goals += _goals("bubblewrap: cold start to result", cold["bubblewrap"][WARM_UP:], 50, 120)
    goals += _goals("landlock: cold start to result", cold["landlock"][WARM_UP:], 35, 80)
    return goals + _against_ipython()


def _against_ipython() -> list[Goal]:
    """First results, from asking for a session: an IPython kernel's time over bubblewrap's."""
    what: dict[Any, str] = {_cold: "started when asked for", _pooled: "waiting in the pool"}
    head, target = "first result: IPython kernel over bubblewrap", ">= 10"
    ours: dict[Callable[[str], Coroutine[Any, Any, float]], list[float]] = {_cold: [], _pooled: []}
    theirs = []
    try:
        with kernels() as first_result:
            for _ in range(10 + 1):  # in turns, so that all have the same machine
                theirs.append(first_result())
                for each, seconds in ours.items():
                    seconds.append(asyncio.run(each("bubblewrap")))
    except NoIPythonError as error:
        return [missing("4.2", f"{head}, {how}", error, target) for how in what.values()]
    goals = []
    for each, seconds in ours.items():
        ratio = statistics.median(theirs[1:]) / statistics.median(seconds[1:])
        goals.append(Goal("4.2", f"{head}, {what[each]}", ratio, "x", target, ratio >= 10))
    kernel = f"IPython kernel: first result, p50 of {len(theirs) - 1}"
    goals.append(Goal("4.2", kernel, _quantiles(theirs[1:])[0], "ms", "", True))
    pooled = f"bubblewrap: first result from the pool, p50 of {len(ours[_pooled]) - 1}"
    goals.append(Goal("4.2", pooled, _quantiles(ours[_pooled][1:])[0], "ms", "", True))
    return goals


MEASURES: dict[str, Measure] = {
    "sandbox": sandbox,
    "streaming": overlap,
    "live": live,
    "bfcl": bfcl,
    "m3tooleval": m3tooleval,
}
if os.environ.get("FULL") == "1":
    MEASURES["improve"] = improved  # a quarter of an hour by itself


def main() -> int:
    """Measure all sections, or those named on the command line."""
    wanted = sys.argv[1:] or list(MEASURES)
    return run("agents", {name: MEASURES[name] for name in wanted})


if __name__ == "__main__":
    sys.exit(main())
