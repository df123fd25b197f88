"""The live agent on scripted streams in a real sandbox; timing is not judged here."""

import asyncio
import random

import pytest

from stretto.agents.live import LiveAgent, LiveLimits
from stretto.agents.registry import Registry
from stretto.agents.sandbox import NoSandboxError, Policy, open_sandbox
from stretto.agents.scripted_streams import ScriptedStreams
from stretto.agents.tool import Tool

STUBBORN = "import signal\nx = signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass\n"


class World:
    def __init__(self, seconds=0.0):
        self.reads, self.writes = [], []

        async def search(what: str) -> str:
            self.reads.append(what)
            await asyncio.sleep(seconds)
            return f"found {what}"

        def send(what: str) -> str:
            self.writes.append(what)
            return f"sent {what}"

        self.registry = Registry([Tool(search, effect="read"), Tool(send, effect="write")])


def boxed(work, **policy):
    """Run ``work`` with the best sandbox here."""

    async def main():
        async with open_sandbox("auto", Policy(**policy)) as box:
            return await asyncio.wait_for(work(box), 60)

    try:
        return asyncio.run(main())
    except NoSandboxError as error:
        pytest.skip(f"no sandbox here: {error}")


def told(model):
    return "".join(text for stream, text in model.sessions[-1].heard if stream == "result")


def test_state_lasts_from_block_to_block_and_errors_are_told():
    parts = [
        {"say": "Let me see.", "code": "import math\nx = search('pi')\nprint(x, math.pi)\n"},
        {"code": "y = x.upper()\nsend(y)\n1 / 0\nsend('never')\n"},
        {"code": "y\n"},
        {"code": "def f(n):\n    return n + 1\n\nf(41)\n"},
        {"say": "Done."},
    ]

    async def work(box):
        world, model = World(0.02), ScriptedStreams(parts)
        result = await LiveAgent(model, world.registry, sandbox=box).run("go")
        assert result.outcome == "answered" and world.writes == ["FOUND PI"]
        assert told(model) == (
            "found pi 3.141592653589793\n'sent FOUND PI'\n"
            "ZeroDivisionError: division by zero (line 3)'FOUND PI'\n42\n"
        )

    boxed(work)


@pytest.mark.parametrize("code", ["while True: pass\n", STUBBORN, "search('x')\n"])
def test_cancel_ends_whatever_runs(code):
    async def work(box):
        world, model = World(600), ScriptedStreams([{"code": code + "send('x')\n"}], rate=200)
        agent = LiveAgent(model, world.registry, sandbox=box)
        task = asyncio.create_task(agent.run("go"))
        while not (agent._run and agent._run._coder and agent._run._coder.running):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        await agent.cancel()
        result = await task
        assert result.outcome == "cancelled" and world.writes == []
        assert result.events[-1].time < 10
        again = await LiveAgent(
            ScriptedStreams([{"code": "2 + 2\n"}, {"say": "Four."}]), world.registry, sandbox=box
        ).run("go")
        assert again.answer == "Four."

    boxed(work, wall=30, cpu=30)


def test_code_that_kills_its_session_begins_anew():
    parts = [{"code": "x = 1\n"}, {"code": "import os\nos._exit(3)\n"}, {"code": "print('here')\n"}]

    async def work(box):
        model = ScriptedStreams([*parts, {"say": "Back."}])
        result = await LiveAgent(model, World().registry, sandbox=box).run("go")
        assert result.answer == "Back." and told(model).endswith("here\n")

    boxed(work)


def test_the_limit_of_seconds_holds():
    async def work(box):
        model = ScriptedStreams([{"code": "while True: pass\n"}])
        agent = LiveAgent(model, Registry(), sandbox=box, limits=LiveLimits(seconds=1))
        result = await agent.run("go")
        assert (result.outcome, result.events[-1].data["reason"]) == ("limit", "seconds")
        assert result.events[-1].time < 5

    boxed(work, wall=30, cpu=30)


def abandonments(count, seed):
    """Runs that are cancelled at any moment: what was written was committed, and in order."""
    rng = random.Random(seed)

    async def work(box):
        for _ in range(count):
            world = World(rng.choice([0.0, 0.005, 0.02]))
            parts = [
                {"code": f"x = search('{n}')\nprint(x)\nsend('{n}')\n", "say": "well " * 3}
                for n in range(4)
            ]
            model = ScriptedStreams([*parts, {"say": "Done."}], rate=rng.choice([200, 1000, None]))
            agent = LiveAgent(model, world.registry, sandbox=box)
            events = []

            async def follow(agent=agent, events=events):
                async for event in agent.stream("go"):
                    events.append(event)

            task = asyncio.create_task(follow())
            await asyncio.sleep(rng.random() * 0.5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            written = list(world.writes)
            await asyncio.sleep(0.02)
            assert world.writes == written == [str(n) for n in range(len(written))]
            commits = sum(event.kind == "commit" for event in events)
            assert len(written) <= commits
            assert [event.seq for event in events] == list(range(len(events)))

    boxed(work)


def test_runs_that_are_left_write_nothing_more():
    abandonments(8, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_runs_that_are_left_write_nothing_more():
    abandonments(300, seed=2)
