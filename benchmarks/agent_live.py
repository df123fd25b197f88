"""Goal 3 of agents, measured: the live agent in the real sandbox, by the wall clock.

``python -m benchmarks.agent_live``. No model writes here: the rows are scripted, at a fixed rate,
and the tools wait for as long as they are told. What is measured is everything between: the
splitter, forks, cells, the broker, and results on their way back while rows go on.
"""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.agent_stream import Program, programs
from benchmarks.goal import Goal, run
from stretto.agents.live import LiveAgent
from stretto.agents.registry import Registry
from stretto.agents.sandbox import Policy, Sandbox, open_sandbox
from stretto.agents.scripted_streams import ScriptedStreams
from stretto.agents.tool import tool

RATE = 40.0  # rows a second, four characters of each stream in a row
EACH = 3  # blocks of every kind


@tool(effect="read")
async def search(what: str, seconds: float) -> str:
    """Take some time."""
    await asyncio.sleep(seconds)
    return f"search {what}"


@tool(effect="write")
async def send(what: str, seconds: float) -> str:
    """Take some time, with an effect."""
    await asyncio.sleep(seconds)
    return f"send {what}"


@dataclass(frozen=True)
class Measured:
    """One block.

    Attributes:
        total_s: from the request to the last result of the code, or the end of what was written.
        bound_s: the larger of generation and the calls' critical path.
        late_ms: the longest time between two rows, beyond what the rate asks for.
    """

    total_s: float
    bound_s: float
    late_ms: float


async def measure(program: Program, box: Sandbox) -> Measured:
    """Write a block at ``RATE``, with thoughts beside it, and wait for all that comes of it."""
    thoughts = "." * len(program.text)
    model = ScriptedStreams([{"code": program.text, "think": thoughts}], rate=RATE)
    agent = LiveAgent(model, Registry([search, send]), sandbox=box)
    result = await agent.run("go")
    failed = [event for event in result.events if event.data.get("ok") is False]
    assert not failed, failed
    at = {
        "start": [e.time for e in result.events if e.kind == "start"],
        # The scripted model has no more to say: what follows its first end is silence.
        "end": [e.time for e in result.events if e.stream == "code" and e.data.get("end")],
        "came": [e.time for e in result.events if e.kind == "output"],
        "rows": [e.time for e in result.events if e.stream == "think" and e.data["text"]],
    }
    total = max(at["end"][0], *at["came"]) - at["start"][0]
    late = max(b - a for a, b in pairwise(at["rows"])) - 1 / RATE
    generation = -(-len(program.text) // 4) / RATE
    return Measured(total, max(generation, program.path_s), 1e3 * late)


async def _all() -> list[Measured]:
    chosen = random.Random(1).sample(list(programs(seed=1, each=EACH)), 4 * EACH)
    async with open_sandbox("auto", Policy()) as box:
        await measure(chosen[0], box)  # warm
        return [await measure(program, box) for program in chosen]


def live() -> Iterator[Goal]:
    """Total time of scripted blocks in the real sandbox, against what bounds it."""
    started = time.perf_counter()
    found = asyncio.run(_all())
    ratios = [each.total_s / each.bound_s for each in found]
    what = f"scripted rows at {RATE:g}/s, real sandbox: total / max(generation, critical path)"
    middle, worst = statistics.median(ratios), max(ratios)
    yield Goal("3", f"{what}, {len(found)} blocks, median", middle, "x", "<= 1.1", middle <= 1.1)
    yield Goal("3", f"{what}, largest", worst, "x", "<= 1.1", worst <= 1.1)
    late = statistics.median(each.late_ms for each in found)
    yield Goal("3", "the same: a block's latest row, median", late, "ms", "", True)
    print(f"  {time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run("agent_live", {"3": live}))
