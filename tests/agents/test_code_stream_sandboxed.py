"""Code streams, feedback and selection in a real sandbox; timing is not judged here."""

import asyncio
import random

import pytest

from stretto.agents.feedback import (
    Test,
    assertions,
    doctests,
    exit_state,
    output_difference,
    trace,
    unit_tests,
)
from stretto.agents.sandbox import open_sandbox
from stretto.agents.selection import Sample, select
from stretto.agents.stream import CodeStream
from stretto.errors import SandboxError

TOOLS = {"search": "read", "send": "write"}


class World:
    def __init__(self, seconds=0.0):
        self.seconds, self.reads, self.writes, self.closed = seconds, [], [], False

    async def call(self, name, args, kwargs):
        assert not (self.closed and name == "send"), "a write after abandon"
        (self.writes if name == "send" else self.reads).append(args[0])
        await asyncio.sleep(self.seconds)
        return f"{name} {args[0]}"


def sandboxed(work):
    """Run ``work`` with a session of the best sandbox here."""

    async def main():
        async with open_sandbox() as box, box.session(tools=list(TOOLS)) as session:
            return await work(session)

    try:
        return asyncio.run(main())
    except SandboxError as error:
        if "sandbox" in type(error).__name__.lower():
            pytest.skip(f"no sandbox here: {error}")
        raise


def test_statements_run_early_and_writes_wait():
    async def work(session):
        world = World(0.01)
        block = CodeStream(session, TOOLS, world.call)
        text = (
            "def shout(x):\n    return x.upper()\n"
            "a = search('1')\nb = search('2')\nprint(shout(a), b)\nsend(b)\nc = [a, b]\n"
        )
        for char in text:
            assert block.push(char)
            await asyncio.sleep(0)
        await asyncio.sleep(1)
        kinds = [(e.kind, e.index) for e in block._log if e.kind != "statement"]
        assert ("held", 4) in kinds
        assert world.writes == []
        report = await block.commit()
        assert report.ok, report.failure
        assert report.results[3].stdout == "SEARCH 1 search 2\n"
        assert sorted(world.reads) == ["1", "2"]
        assert world.writes == ["search 2"]
        assert (await report.session.exec("c")).value == ["search 1", "search 2"]
        assert not (await session.exec("c")).ok  # the one given is as it was

    sandboxed(work)


def test_an_error_keeps_the_state_before():
    async def work(session):
        block = CodeStream(session, TOOLS, World().call)
        block.push("x = [1]\nx.append(2)\nx.clear() or 1 / 0\nsend('never')\n")
        report = await block.commit()
        assert (report.failure.type, report.failure.line) == ("ZeroDivisionError", 3)
        assert (await report.session.exec("x")).value == [1, 2]

    sandboxed(work)


def test_a_disguised_write_is_refused():
    async def work(session):
        world = World()
        block = CodeStream(session, TOOLS, world.call)
        block._tools["send"] = "write"
        block.effects._tools["send"] = "pure"  # as if the analysis were fooled
        block.push("x = 0\ntry:\n    x += 1; send('m')\nexcept BaseException:\n    pass\nx\n")
        await asyncio.sleep(1)
        assert world.writes == []
        report = await block.commit()
        assert world.writes == ["m"]
        assert report.results[-1].value == 1

    sandboxed(work)


def abandonments(count):
    rng = random.Random(count)
    lines = ["x = search('{i}')", "print(x)", "send('{i}')", "y = [i for i in range(9)]"]

    async def work(session):
        begun = 0
        for _ in range(count):
            world = World(rng.choice([0.0, 0.002, 0.01]))
            block = CodeStream(session, TOOLS, world.call)
            chosen = ["x = 0", *rng.choices(lines, k=5)]
            for i, line in enumerate(chosen):
                block.push(line.format(i=i) + "\n")
                await asyncio.sleep(rng.random() * 0.005)
            await asyncio.sleep(rng.random() * 0.2)
            await block.abandon()
            world.closed = True
            await asyncio.sleep(0.005)
            assert world.writes == []
            begun += len(world.reads)
        assert begun
        assert (await session.exec("'x' in globals()")).value is False

    sandboxed(work)


def test_abandoned_blocks_leave_nothing():
    abandonments(15)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_abandoned_blocks_leave_nothing():
    abandonments(500)


def test_feedback_and_selection():
    bad = "def f(x):\n    return x + 2\n"
    tests = [Test("a", "assert f(2) == 4"), Test("b", "assert f(5) == 10")]

    async def work(session):
        assert (await exit_state(bad, session)).good
        told = await exit_state("x = [1]\nx[3]\n", session)
        assert told.text == "line 2: IndexError: list index out of range"
        told = await assertions(bad + "assert f(5) == 10\n", session)
        assert told.text == "line 3: AssertionError: f(5) == 10: 7 and 10"
        told = await unit_tests(bad, tests, session)
        assert told.value == 0.5
        assert (await unit_tests("import sys\n" + bad + "sys.exit(0)", tests, session)).value == 0
        leaving = "import os\ndef f(x):\n    os._exit(0)\n"
        assert (await unit_tests(leaving, tests, session)).value == 0
        told = await doctests(
            'def g():\n    """\n    >>> g()\n    2\n    """\n    return 2', session
        )
        assert told.value == 1.0
        told = await output_difference("print('a')", "b", session)
        assert told.text == "output line 1 is 'a', not 'b'"
        told = await trace("def f(n):\n    m = n * 2\n    return m\nx = f(3)\n", session)
        assert {"line 2: m = 6", "line 4: x = 6"} <= set(told.value.splitlines())
        same = {(await unit_tests(bad, tests, session)).to_json() for _ in range(20)}
        assert len(same) == 1
        samples = [Sample(bad), Sample("def f(x):\n    return 2 * x")]
        assert (await select(samples, "tests", session=session, tests=tests)).best == 1
        chosen = await select(samples, "majority", session=session, inputs=["f(2)"])
        assert chosen.grades == (2.0, 2.0)

    sandboxed(work)
