import asyncio
import random

import pytest

pytest.importorskip("benchmarks.unsafe_fake")  # not in an installed package
from benchmarks.unsafe_fake import UnsafeFakeSession
from benchmarks.virtual_time import run
from stretto.agents.effects import Effects
from stretto.agents.stream import CodeStream, NotCommittedError
from stretto.errors import InputError

TOOLS = {"search": "read", "send": "write", "calc": "pure", "fire": "irreversible"}


class World:
    """What the tools do: reads are counted, writes are side effects."""

    def __init__(self, seconds=1.0):
        self.seconds = seconds
        self.reads, self.writes = [], []
        self.closed = False

    async def call(self, name, args, kwargs):
        if TOOLS[name] in ("write", "irreversible"):
            assert not self.closed, "a write after abandon"
            self.writes.append((name, *args))
        else:
            self.reads.append((name, *args))
        await asyncio.sleep(self.seconds)
        if args == ["bad"]:
            raise LookupError("nothing found")
        return f"{name} {args[0]}" if args else name


def stream(world, session=None, **more):
    session = session or UnsafeFakeSession(TOOLS)
    return CodeStream(session, TOOLS, world.call, **more), session


async def write_out(block, text, pause=0.0, size=5):
    for start in range(0, len(text), size):
        if not block.push(text[start : start + size]):
            return text[: start + size]
        await asyncio.sleep(pause)
    return text


def results(block):
    return [e for e in block._log if e.kind == "result"]


def test_statements_run_while_text_arrives():
    async def main():
        world = World(1.0)
        block, _ = stream(world)
        await write_out(block, "x = search('a')\nprint(x)\n" + "y = 1\n" * 30, pause=0.1)
        assert world.reads == [("search", "a")]
        assert [e.index for e in results(block)] == list(range(32))
        first = next(e for e in results(block) if e.index == 1)
        assert first.data["stdout"] == "search a\n"
        assert 1.0 < first.time < 2.0
        report = await block.commit()
        assert report.ok
        assert len(report.results) == 32

    run(main())


def test_writes_wait_for_commit_and_what_is_behind_them_too():
    async def main():
        world = World(0.1)
        block, session = stream(world)
        await write_out(block, "a = 1\nsend('x')\nb = search('y')\nfire(b)\n", pause=1.0)
        assert world.writes == world.reads == []
        assert [e.index for e in block._log if e.kind == "held"] == [1]
        report = await block.commit()
        assert report.ok
        assert world.writes == [("send", "x"), ("fire", "search y")]
        assert report.session.names["b"] == "search y"
        assert "a" not in session.names
        assert session.living[0] == 2  # the given one and the one with what they left

    run(main())


def test_independent_reads_overlap_and_each_is_made_once():
    async def main():
        world = World(1.0)
        block, _ = stream(world)
        block.push(
            "a = search('1')\nb = search('2')\nc = search('3')\nd = search(c)\nprint(a, b, d)\n"
        )
        loop = asyncio.get_running_loop()
        start = loop.time()
        report = await block.commit()
        assert loop.time() - start == pytest.approx(2.0)
        assert sorted(world.reads) == [
            ("search", "1"), ("search", "2"), ("search", "3"), ("search", "search 3"),
        ]  # fmt: skip
        assert report.results[-1].stdout == "search 1 search 2 search search 3\n"

    run(main())


def test_the_same_question_twice_is_asked_twice():
    async def main():
        world = World(1.0)
        block, _ = stream(world)
        block.push("a = search('1')\nb = search('1')\n")
        await block.commit()
        assert world.reads == [("search", "1")] * 2

    run(main())


def test_nothing_asks_with_values_that_are_still_to_change():
    async def main():
        world = World(1.0)
        block, _ = stream(world)
        block.push("a = 'old'\n")
        await asyncio.sleep(0.5)
        block.push("a = search('1')\nb = search(a)\n")
        await block.commit()
        assert world.reads == [("search", "1"), ("search", "search 1")]

    run(main())


def test_nothing_reads_ahead_past_a_write():
    async def main():
        world = World(1.0)
        order = []

        async def call(name, args, kwargs):
            order.append(name)
            return await world.call(name, args, kwargs)

        block = CodeStream(UnsafeFakeSession(TOOLS), TOOLS, call)
        block.push("a = search('1')\nsend(1)\nb = search('2')\n")
        await block.commit()
        assert order == ["search", "send", "search"]

    run(main())


def test_an_error_interrupts_and_keeps_the_state_before():
    async def main():
        world = World(0.1)
        block, _ = stream(world)
        text = "x = [1]\n\nx.append(2); y = 1 / 0\nsend('never')\n" + "z = 1\n" * 50
        taken = await write_out(block, text, pause=0.05)
        assert len(taken) < 60
        report = await block.commit()
        assert not report.ok
        assert (report.failure.type, report.failure.line, report.failure.index) == (
            "ZeroDivisionError", 3, 2,
        )  # fmt: skip
        assert world.writes == []
        assert report.session.names["x"] == [1, 2]
        assert report.rest[0].source == "y = 1 / 0"

    run(main())


def test_a_tool_that_fails_is_an_error_at_its_line():
    async def main():
        block, _ = stream(World(0.1))
        block.push("a = 1\nb = search('bad')\n")
        report = await block.commit()
        assert (report.failure.type, report.failure.line) == ("LookupError", 2)

    run(main())


def test_malformed_text_interrupts_and_what_waits_is_not_run():
    async def main():
        world = World(0.1)
        block, _ = stream(world)
        assert block.push("a = search('1')\nsend('x')\n")
        assert not block.push("b = = 2\n")
        report = await block.commit()
        assert (report.failure.type, report.failure.line) == ("SyntaxError", 3)
        assert world.writes == []
        assert report.session.names["a"] == "search 1"
        assert [s.source for s in report.rest] == ["send('x')"]

    run(main())


def test_a_write_that_the_analysis_missed_is_refused_and_waits():
    async def main():
        world = World(0.1)
        effects = Effects(TOOLS)
        effects.take = lambda source: Effects({}, {"send", "x"}).take(source)  # takes all for pure
        effects.copy = lambda: effects
        block, _ = stream(world, effects=effects)
        block.push("x = []\ntry:\n    x.append(1); send('m')\nexcept Exception:\n    pass\nx\n")
        await asyncio.sleep(5)
        assert world.writes == []
        assert [e.index for e in block._log if e.kind == "held"] == [1]
        report = await block.commit()
        assert world.writes == [("send", "m")]
        assert report.results[-1].value_repr == "[1]"  # the refused attempt left nothing

    run(main())


def test_abandon_leaves_no_side_effect():
    """A thousand blocks, abandoned at random moments before and during commit."""
    rng = random.Random(0)
    lines = [
        "x = search('{i}')", "print(x)", "send('{i}')", "y{i} = calc('{i}')", "fire('{i}')",
        "for k in range(2):\n    z = search(k)", "x = [search(q) for q in 'ab']", "w{i} = 1",
        "try:\n    send('t{i}')\nexcept Exception:\n    pass", "def f(v):\n    return v + 1",
    ]  # fmt: skip

    async def main(committing):
        world = World(rng.choice([0.0, 0.1, 1.0]))
        text = "x = 0\n" + "".join(
            line.format(i=i) + "\n" for i, line in enumerate(rng.choices(lines, k=8))
        )
        block, session = stream(world)

        async def live():
            await write_out(block, text, pause=rng.choice([0.0, 0.05, 0.3]), size=rng.randint(1, 9))
            if committing:
                await block.commit()

        task = asyncio.ensure_future(live())
        await asyncio.sleep(rng.random() * rng.choice([0.1, 1, 5]))
        for _ in range(rng.randint(0, 20)):
            await asyncio.sleep(0)
        task.cancel()
        await block.abandon()
        await asyncio.gather(task, return_exceptions=True)
        count, world.closed = len(world.writes), True
        await asyncio.sleep(30)
        assert len(world.writes) == count
        return world, session

    begun = 0
    for turn in range(1000):
        world, session = run(main(committing=turn % 4 == 3))
        if turn % 4 != 3:
            assert world.writes == []
            assert session.living[0] == 1
        begun += len(world.reads) + len(world.writes)
    assert begun > 1000  # they were in the middle of something


def test_events_come_in_order_and_end():
    async def main():
        block, _ = stream(World(0.1))
        told = []

        async def listen():
            told.extend([event async for event in block.events()])

        listener = asyncio.ensure_future(listen())
        await write_out(block, "x = search('a')\nsend(x)\n")
        await asyncio.sleep(1)
        await block.commit()
        await asyncio.wait_for(listener, 1)
        assert [(e.kind, e.index) for e in told if e.index != 1 or e.kind == "held"] == [
            ("statement", 0), ("start", 0), ("result", 0), ("held", 1), ("commit", None),
        ]  # fmt: skip
        assert [e.kind for e in told if e.index == 1] == ["statement", "held", "start", "result"]
        assert [e.time for e in told] == sorted(e.time for e in told)

    run(main())


@pytest.mark.parametrize("text", ["x = = 1\n", "x = 1 / 0\n", "x = 1\n", ""])
def test_events_end_however_the_block_does(text):
    async def main():
        block, _ = stream(World(0.1))

        async def listen():
            return [event.kind async for event in block.events()]

        listener = asyncio.ensure_future(listen())
        block.push(text)
        await asyncio.sleep(1)
        await block.commit()
        await asyncio.wait_for(listener, 1)

    run(main())


def test_abandoned_while_it_is_committed():
    async def main():
        world = World(1.0)
        block, session = stream(world)
        block.push("send(1)\nsend(2)\nsend(3)\n")
        task = asyncio.ensure_future(block.commit())
        await asyncio.sleep(1.5)
        await block.abandon()
        with pytest.raises(NotCommittedError):
            await task
        await asyncio.sleep(10)
        assert world.writes == [("send", 1), ("send", 2)]
        assert session.living[0] == 1

    run(main())


def test_a_copy_in_the_making_is_ended_too():
    async def main():
        world = World(0.1)
        block, session = stream(world)
        session.fork_s = 1.0
        block.push("x = 1\n")
        await asyncio.sleep(0.5)
        await block.abandon()
        await asyncio.sleep(10)
        assert session.living[0] == 1

    run(main())


def test_a_cancelled_commit_goes_no_further():
    async def main():
        world = World(1.0)
        block, session = stream(world)
        block.push("send(1)\nsend(2)\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(block.commit(), 0.5)
        await asyncio.sleep(10)
        assert world.writes == [("send", 1)]
        assert session.living[0] == 1

    run(main())


def test_leaving_without_commit_abandons():
    async def main():
        world = World(0.1)
        session = UnsafeFakeSession(TOOLS)
        async with CodeStream(session, TOOLS, world.call) as block:
            block.push("send(1)\n")
            await asyncio.sleep(1)
        assert world.writes == []
        assert session.living[0] == 1
        with pytest.raises(InputError, match="over"):
            block.push("x")
        with pytest.raises(InputError, match="over"):
            await block.commit()

    run(main())


def test_blocks_follow_each_other_and_know_what_came_before():
    async def main():
        world = World(0.1)
        block, _session = stream(world)
        block.push("def f(v):\n    return v + 1\nn = 1\n")
        first = await block.commit()
        again, _ = stream(world, first.session, effects=block.effects)
        again.push("print(f(n))\n")
        await asyncio.sleep(1)
        assert results(again)[0].data["stdout"] == "2\n"
        await again.commit()

    run(main())


def test_the_synthetic_suite_keeps_its_goal():
    from benchmarks.agent_stream import generation_s, programs, streaming

    for program in programs(each=2):
        for rate in (20, 100):
            bound = max(generation_s(program, rate), program.path_s)
            assert run(streaming(program, rate)) <= 1.1 * bound, program
