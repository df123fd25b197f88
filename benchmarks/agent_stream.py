"""Goal 3 of agents: code that runs while it is written. ``python -m benchmarks.agent_stream``.

The synthetic suite are programs of the kinds below, at several rates of generation, each with calls
that take a drawn time; time is virtual, so the figures are the same on every machine. Nothing here
measures the sandbox: a fork and a cell cost no virtual time (``benchmarks.agents`` measures both).
"""

import asyncio
import random
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.goal import Goal, run
from benchmarks.unsafe_fake import UnsafeFakeSession
from benchmarks.virtual_time import run as run_virtual
from stretto.agents.stream import CodeStream

TOOLS = {"search": "read", "send": "write"}
RATES = (20, 40, 100)  # tokens a second, four characters each
SEED = 0


@dataclass(frozen=True)
class Program:
    """Code, and what is needed of its tools.

    Attributes:
        text: calls pass their own duration in seconds.
        path_s: the longest chain of calls of which each needs the one before, in seconds.
    """

    kind: str
    text: str
    path_s: float


def programs(seed: int = SEED, each: int = 10) -> Iterator[Program]:
    """``each`` of every kind: independent calls, chains, both, and a write at the end."""
    rng = random.Random(seed)
    for _ in range(each):
        times = [round(rng.uniform(0.1, 1.0), 2) for _ in range(rng.randint(2, 6))]
        yield Program("independent", _calls(times) + _tail(rng), max(times))
        yield Program("chain", _chain(times[:3]) + _tail(rng), sum(times[:3]))
        both = _chain(times[:2]) + _calls(times, "z") + _tail(rng)
        yield Program("both", both, max(sum(times[:2]), max(times)))
        write = _calls(times) + _tail(rng) + "send('done', 0.05)\n"
        yield Program("with a write", write, max(*times, 0.05))


def late(seed: int = SEED, each: int = 10) -> Iterator[Program]:
    """The case that cannot be won: a slow call in the last line."""
    rng = random.Random(seed)
    for _ in range(each):
        seconds = round(rng.uniform(0.1, 1.0), 2)
        yield Program("call in the last line", _tail(rng) + _calls([seconds]), seconds)


def _calls(times: list[float], name: str = "x") -> str:
    return "".join(f"{name}{i} = search('q{name}{i}', {t})\n" for i, t in enumerate(times))


def _chain(times: list[float]) -> str:
    lines = [f"y0 = search('first', {times[0]})\n"]
    lines += [f"y{i} = search(y{i - 1}, {t})\n" for i, t in enumerate(times[1:], start=1)]
    return "".join(lines)


def _tail(rng: random.Random) -> str:
    """What a program does with what it found: as much text again as a few calls."""
    lines = rng.randint(8, 16)
    return "".join(f"total_{i} = [n * {i} for n in range({i} + 1)]\n" for i in range(lines))


async def _tool(name: str, args: list, kwargs: dict) -> str:
    await asyncio.sleep(args[1])
    return f"{name} {args[0]}"


async def streaming(program: Program, rate: float) -> float:
    """Seconds from the first token to the end of everything."""
    block = CodeStream(UnsafeFakeSession(TOOLS), TOOLS, _tool, scouts=8)
    for start in range(0, len(program.text), 4):
        await asyncio.sleep(1 / rate)
        assert block.push(program.text[start : start + 4])
    report = await block.commit()
    assert report.ok, report.failure
    return asyncio.get_running_loop().time()


async def serial(program: Program, rate: float) -> float:
    """The same, running the block when it is written."""
    await asyncio.sleep(generation_s(program, rate))
    session = UnsafeFakeSession(TOOLS, _tool)
    assert (await session.exec(program.text)).ok
    return asyncio.get_running_loop().time()


def generation_s(program: Program, rate: float) -> float:
    return -(-len(program.text) // 4) / rate


def overlap() -> Iterator[Goal]:
    """Total time against the larger of generation and the calls' critical path."""
    ratios, gains = [], []
    for program in programs():
        for rate in RATES:
            bound = max(generation_s(program, rate), program.path_s)
            total = run_virtual(streaming(program, rate))
            ratios.append(total / bound)
            gains.append(1 - total / run_virtual(serial(program, rate)))
    worst, middle = max(ratios), statistics.median(ratios)
    what = f"total / max(generation, critical path), {len(ratios)} blocks"
    yield Goal("3", f"{what}, median", middle, "x", "<= 1.1", middle <= 1.1)
    yield Goal("3", f"{what}, largest", worst, "x", "<= 1.1", worst <= 1.1)
    gain = 100 * statistics.median(gains)
    yield Goal(
        "3", "less time than running the block when it is written", gain, "%", "> 0", gain > 0
    )
    lates = [
        run_virtual(streaming(p, rate)) / max(generation_s(p, rate), p.path_s)
        for p in late()
        for rate in RATES
    ]
    what = "a slow call in the last line, which nothing can hide, median (no goal)"
    yield Goal("3", what, statistics.median(lates), "x", "-", True)


if __name__ == "__main__":
    sys.exit(run("agent_stream", {"3": overlap}))
